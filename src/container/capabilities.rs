//! `--cap-add` and `--cap-drop`.

use rbuild_runtime::CapabilitySet;

use crate::failure::Failure;

/// The set that is left of Docker's default after adding and dropping.
///
/// `ALL` is taken first, so that `--cap-drop ALL --cap-add X` leaves X, and `--cap-add ALL
/// --cap-drop X` all but X, whatever the order.
pub(crate) fn combine(add: &[String], drop: &[String]) -> Result<CapabilitySet, Failure> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("all");
    let mut set = if drop.iter().any(is_all) {
        0
    } else {
        CapabilitySet::DOCKER_DEFAULT.0
    };
    if add.iter().any(is_all) {
        set = CapabilitySet::ALL.0;
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        set |= bit(name)?;
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        set &= !bit(name)?;
    }
    Ok(CapabilitySet(set))
}

fn bit(name: &str) -> Result<u64, Failure> {
    match CapabilitySet::number_of(name) {
        Some(number) => Ok(1 << number),
        None => Err(Failure::new(format!("invalid capability: {name:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> u64 {
        let owned = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        combine(&owned(add), &owned(drop)).unwrap().0
    }

    #[test]
    fn sets_combine_as_in_docker() {
        let default = CapabilitySet::DOCKER_DEFAULT.0;
        assert_eq!(set(&[], &[]), default);
        assert_eq!(set(&["net_admin"], &[]), default | 1 << 12);
        assert_eq!(set(&[], &["CAP_CHOWN"]), default & !1);
        assert_eq!(set(&["CHOWN"], &["all"]), 1);
        assert_eq!(set(&["ALL"], &["BPF"]), CapabilitySet::ALL.0 & !(1 << 39));
        assert!(combine(&["NOPE".into()], &[]).is_err());
    }
}
