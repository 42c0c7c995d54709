//! `--filter` of volumes. Conditions of one kind are alternatives, except labels; all kinds must hold.

use rbuild_cache::Volume;

use super::Users;
use crate::failure::Failure;

/// The conditions.
#[derive(Debug, Default)]
pub(super) struct Filters {
    names: Vec<String>,
    drivers: Vec<String>,
    labels: Vec<String>,
    not_labels: Vec<String>,
    dangling: Option<bool>,
    /// Also those that were given a name are to be removed.
    pub(super) all: bool,
}

impl Filters {
    /// Those of `volume ls`.
    pub(super) fn of_list(filters: &[String]) -> Result<Filters, Failure> {
        parse(filters, &["name", "label", "driver", "dangling"])
    }

    /// Those of `volume prune`.
    pub(super) fn of_prune(filters: &[String]) -> Result<Filters, Failure> {
        parse(filters, &["label", "label!", "all"])
    }

    /// Whether a volume meets them.
    pub(super) fn accept(&self, volume: &Volume, used: &Users) -> bool {
        let record = &volume.record;
        let has_label = |value: &String| match value.split_once('=') {
            Some((name, value)) => record.labels.get(name).is_some_and(|known| known == value),
            None => record.labels.contains_key(value),
        };
        let any = |values: &[String], meets: &dyn Fn(&String) -> bool| {
            values.is_empty() || values.iter().any(meets)
        };
        any(&self.names, &|name| record.name.contains(name.as_str()))
            && any(&self.drivers, &|driver| driver == "local")
            && self.labels.iter().all(has_label)
            && !self.not_labels.iter().any(has_label)
            && self
                .dangling
                .is_none_or(|dangling| used.of(&record.name).is_empty() == dangling)
    }
}

fn parse(filters: &[String], known: &[&str]) -> Result<Filters, Failure> {
    let mut parsed = Filters::default();
    for filter in filters {
        let Some((key, value)) = filter.split_once('=') else {
            return Err(Failure::new(format!(
                "invalid filter {filter:?}: it must have the form key=value"
            )));
        };
        // `label!=x` is a key of its own.
        let key = key.trim();
        if !known.contains(&key) {
            return Err(Failure::new(format!("invalid filter {key:?}"))
                .hint(format!("known filters: {}", known.join(", "))));
        }
        let truth = || match value {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(Failure::new(format!(
                "invalid value in the filter {filter:?}: it is true or false"
            ))),
        };
        match key {
            "name" => parsed.names.push(value.to_owned()),
            "driver" => parsed.drivers.push(value.to_owned()),
            "label" => parsed.labels.push(value.to_owned()),
            "label!" => parsed.not_labels.push(value.to_owned()),
            "dangling" => parsed.dangling = Some(truth()?),
            _ => parsed.all = truth()?,
        }
    }
    Ok(parsed)
}
