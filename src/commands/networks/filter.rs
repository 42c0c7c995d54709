//! `--filter` of networks. Conditions of one kind are alternatives, except labels; all kinds must hold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rbuild_runtime::networks::Networks;

use super::Known;
use crate::commands::filter::{moment, truth};
use crate::failure::Failure;
use crate::time::parse_created;

/// The conditions.
#[derive(Debug, Default)]
pub(super) struct Filters {
    by_kind: BTreeMap<String, Vec<String>>,
    dangling: Option<bool>,
    until: Option<Timestamp>,
}

impl Filters {
    /// Those of `network ls`.
    pub(super) fn of_list(filters: &[String]) -> Result<Filters, Failure> {
        let known = ["id", "name", "label", "driver", "scope", "type", "dangling"];
        Filters::parse(filters, &known)
    }

    /// Those of `network prune`.
    pub(super) fn of_prune(filters: &[String]) -> Result<Filters, Failure> {
        Filters::parse(filters, &["label", "label!", "until"])
    }

    fn parse(filters: &[String], known: &[&str]) -> Result<Filters, Failure> {
        let mut parsed = Filters::default();
        for filter in filters {
            let Some((key, value)) = filter.split_once('=') else {
                return Err(Failure::new(format!(
                    "invalid filter {filter:?}: it must have the form key=value"
                )));
            };
            match key {
                key if !known.contains(&key) => {
                    return Err(Failure::new(format!("invalid filter {key:?}"))
                        .hint(format!("known filters: {}", known.join(", "))));
                }
                "dangling" => parsed.dangling = Some(truth(filter, value)?),
                "until" => parsed.until = Some(moment(value)?),
                "type" if !matches!(value, "custom" | "builtin") => {
                    return Err(Failure::new(format!("invalid filter: 'type'='{value}'"))
                        .hint("known types: custom, builtin"));
                }
                key => {
                    let values = parsed.by_kind.entry(key.to_owned()).or_default();
                    values.push(value.to_owned());
                }
            }
        }
        Ok(parsed)
    }

    /// Whether a network meets them.
    pub(super) fn accept(&self, networks: &Networks, network: &Known) -> bool {
        let made = network.made();
        let has_label = |value: &str| {
            let label = |name: &str| made.and_then(|network| network.labels.get(name));
            match value.split_once('=') {
                Some((name, value)) => label(name).is_some_and(|known| known == value),
                None => label(value).is_some(),
            }
        };
        let met = self.by_kind.iter().all(|(kind, values)| {
            let mut values = values.iter().map(String::as_str);
            match kind.as_str() {
                "id" => values.any(|value| network.id().starts_with(value)),
                "name" => values.any(|value| network.name().contains(value)),
                "driver" => values.any(|value| network.driver() == value),
                "scope" => values.any(|value| value == "local"),
                "type" => values.any(|value| (value == "custom") == made.is_some()),
                "label!" => !values.any(has_label),
                _ => values.all(has_label),
            }
        });
        let old = self.until.is_none_or(|until| {
            let created = made.and_then(|network| parse_created(Some(&network.created)));
            created.is_some_and(|created| created < until)
        });
        let dangling = || made.is_some_and(|network| networks.users(network).is_empty());
        met && old && self.dangling.is_none_or(|wanted| wanted == dangling())
    }
}
