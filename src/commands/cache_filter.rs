//! `--filter` of `du` and `prune`: which items of the build cache are meant.

use std::time::Duration;

use rbuild_cache::{ItemCondition, UsageKind};

use super::filter::truth;
use crate::bounds;
use crate::failure::Failure;

/// The conditions of a command; all of them must hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheFilter {
    /// About the item.
    pub(crate) conditions: Vec<ItemCondition>,
    /// It has not been used for this time.
    pub(crate) unused_for: Option<Duration>,
}

impl CacheFilter {
    /// Parses the values of `--filter`: `key`, `key=value`, `key!=value` and `key~=part`.
    pub(crate) fn parse(filters: &[String]) -> Result<CacheFilter, Failure> {
        let mut parsed = CacheFilter::default();
        for filter in filters {
            let (key, operator, value) = split(filter);
            if matches!(key, "until" | "unused-for") && operator == Operator::Is {
                let unused_for = Some(bounds::duration(value)?);
                parsed.unused_for = parsed.unused_for.max(unused_for);
                continue;
            }
            let condition = match (key, operator) {
                ("id", Operator::Is | Operator::Not) => ItemCondition::Id(value.to_owned()),
                ("type", Operator::Is | Operator::Not) => ItemCondition::Kind(kind(value)?),
                ("description", Operator::Is | Operator::Not) => {
                    ItemCondition::Description(value.to_owned())
                }
                ("description", Operator::Part) => ItemCondition::DescriptionPart(plain(value)?),
                ("inuse" | "reclaimable" | "mutable" | "immutable" | "shared" | "private", _)
                    if operator != Operator::Part =>
                {
                    flag(key, operator == Operator::There || truth(filter, value)?)
                }
                _ => return Err(unknown(filter)),
            };
            parsed.conditions.push(match operator {
                Operator::Not => not(condition),
                _ => condition,
            });
        }
        Ok(parsed)
    }
}

/// How a key and a value are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    /// There is no value.
    There,
    Is,
    Not,
    Part,
}

fn split(filter: &str) -> (&str, Operator, &str) {
    let Some((key, value)) = filter.split_once('=') else {
        return (filter, Operator::There, "");
    };
    if let Some(key) = key.strip_suffix('!') {
        (key, Operator::Not, value)
    } else if let Some(key) = key.strip_suffix('~') {
        (key, Operator::Part, value)
    } else {
        (key, Operator::Is, value.strip_prefix('=').unwrap_or(value))
    }
}

/// A condition that a word names, or its contrary.
fn flag(key: &str, wanted: bool) -> ItemCondition {
    let (condition, holds) = match key {
        "inuse" => (ItemCondition::InUse, wanted),
        "reclaimable" => (ItemCondition::InUse, !wanted),
        "mutable" => (ItemCondition::Mutable, wanted),
        "immutable" => (ItemCondition::Mutable, !wanted),
        "private" => (ItemCondition::Shared, !wanted),
        _ => (ItemCondition::Shared, wanted),
    };
    if holds { condition } else { not(condition) }
}

fn not(condition: ItemCondition) -> ItemCondition {
    ItemCondition::Not(Box::new(condition))
}

/// A kind by BuildKit's name for it or by ours.
fn kind(name: &str) -> Result<UsageKind, Failure> {
    match name {
        "regular" | "layer" => Ok(UsageKind::Layer),
        "exec.cachemount" | "cache mount" => Ok(UsageKind::CacheMount),
        "blob" => Ok(UsageKind::Blob),
        _ => Err(Failure::new(format!("unknown type {name:?}"))
            .hint("known types: regular (layers), exec.cachemount, blob")),
    }
}

/// A text to look for; an expression would be taken literally, so it is refused.
fn plain(text: &str) -> Result<String, Failure> {
    if text.contains(['*', '+', '?', '^', '$', '|', '(', '[', '\\']) {
        return Err(
            Failure::new(format!("regular expressions are not supported: {text:?}"))
                .hint("`description~=TEXT` finds what has TEXT in it"),
        );
    }
    Ok(text.to_owned())
}

fn unknown(filter: &str) -> Failure {
    Failure::new(format!("invalid filter {filter:?}")).hint(
        "known filters: id=, type=, description=, description~=, until=DURATION, inuse, reclaimable, \
         mutable, immutable, shared, private; `!=` for the contrary",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(filters: &[&str]) -> Vec<ItemCondition> {
        let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
        CacheFilter::parse(&filters).unwrap().conditions
    }

    #[test]
    fn conditions_have_several_forms() {
        assert_eq!(
            conditions(&["id==ab"]),
            [ItemCondition::Id("ab".to_owned())]
        );
        let mounts = ItemCondition::Kind(UsageKind::CacheMount);
        assert_eq!(
            conditions(&["type=exec.cachemount", "type!=exec.cachemount"]),
            [mounts.clone(), not(mounts)]
        );
        assert_eq!(
            conditions(&["shared", "private", "inuse=false", "inuse!=true"]),
            [
                ItemCondition::Shared,
                not(ItemCondition::Shared),
                not(ItemCondition::InUse),
                not(ItemCondition::InUse),
            ]
        );
        let parsed = CacheFilter::parse(&["until=1h".to_owned(), "unused-for=24h".to_owned()]);
        assert_eq!(
            parsed.unwrap(),
            CacheFilter {
                conditions: Vec::new(),
                unused_for: Some(Duration::from_hours(24))
            }
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for filter in [
            "parents=x",
            "type=other",
            "shared~=x",
            "shared=perhaps",
            "description~=a.*b",
            "until!=1h",
        ] {
            let result = CacheFilter::parse(&[filter.to_owned()]);
            assert!(result.is_err(), "{filter}: {result:?}");
        }
    }
}
