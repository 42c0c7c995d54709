//! How large a store may become: settings, and the options of `rbuild prune`.

use std::time::Duration;

use rbuild_cache::{Bounds, DiskSpace};
use rbuild_parser::{parse_duration, parse_size};

use crate::env::Environment;
use crate::failure::Failure;

/// The bounds that builds keep.
///
/// `space` is that of the store's file system, for shares of it.
pub(crate) fn bounds(environment: &Environment, space: DiskSpace) -> Result<Bounds, Failure> {
    let bytes = |name: &str, value: &Option<String>, usual: &str| {
        let text = value.as_deref().unwrap_or(usual);
        let bytes =
            size(text, space).map_err(|failure| failure.within(format!("{name}={text}")))?;
        // No bound, in other tools' settings too.
        Ok::<_, Failure>((bytes > 0).then_some(bytes))
    };
    let unused_for = environment.keep_duration.as_deref().unwrap_or("1440h");
    let unused_for = match unused_for {
        "0" => Duration::ZERO,
        text => duration(text).map_err(|failure| failure.within("RBUILD_KEEP_DURATION"))?,
    };
    Ok(Bounds {
        max_used: bytes("RBUILD_MAX_USED_SPACE", &environment.max_used_space, "60%")?,
        min_free: bytes("RBUILD_MIN_FREE_SPACE", &environment.min_free_space, "5%")?,
        reserved: bytes("RBUILD_RESERVED_SPACE", &environment.reserved_space, "10%")?,
        unused_for: (!unused_for.is_zero()).then_some(unused_for),
    })
}

/// A size such as `10GB`, or a share of the disk such as `20%`. `GB` means the same as `GiB` here, as
/// in Docker.
pub(crate) fn size(text: &str, space: DiskSpace) -> Result<u64, Failure> {
    let Some(share) = text.strip_suffix('%') else {
        return parse_size(text).map_err(Failure::new);
    };
    let share: u64 = share
        .trim()
        .parse()
        .ok()
        .filter(|share| *share <= 100)
        .ok_or_else(|| Failure::new(format!("invalid size: '{text}'")))?;
    Ok(space.total / 100 * share)
}

/// A duration such as `24h` or `90m`; negative ones are none.
pub(crate) fn duration(text: &str) -> Result<Duration, Failure> {
    let nanoseconds = parse_duration(text).map_err(Failure::new)?;
    Ok(Duration::from_nanos(nanoseconds.max(0).unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: DiskSpace = DiskSpace {
        free: 10,
        total: 1000,
    };

    #[test]
    fn sizes_are_bytes_or_shares_of_the_disk() {
        assert_eq!(size("20%", SPACE).unwrap(), 200);
        assert_eq!(size("1kB", SPACE).unwrap(), 1024);
        for wrong in ["101%", "x%", "-1%", "many"] {
            assert!(size(wrong, SPACE).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bounds_come_from_the_environment() {
        let mut environment = Environment::default();
        let usual = bounds(&environment, SPACE).unwrap();
        let sixty_days = Duration::from_hours(60 * 24);
        assert_eq!((usual.max_used, usual.min_free), (Some(600), Some(50)));
        assert_eq!(
            (usual.reserved, usual.unused_for),
            (Some(100), Some(sixty_days))
        );
        environment.max_used_space = Some("0".to_owned());
        environment.min_free_space = Some("7B".to_owned());
        environment.keep_duration = Some("0".to_owned());
        let set = bounds(&environment, SPACE).unwrap();
        assert_eq!(
            (set.max_used, set.min_free, set.unused_for),
            (None, Some(7), None)
        );
        environment.max_used_space = Some("much".to_owned());
        let failure = bounds(&environment, SPACE).unwrap_err();
        assert_eq!(
            failure.message.as_deref(),
            Some("RBUILD_MAX_USED_SPACE=much")
        );
    }
}
