//! `--filter key=value` of image lists.

use jiff::Timestamp;
use rbuild_builder::image::image_config;
use rbuild_cache::{ImageEntry, Store};
use rbuild_parser::{ImageReference, glob_match, parse_duration};

use super::lookup;
use crate::failure::Failure;
use crate::time::parse_created;

/// The conditions of a list. Conditions of one kind are alternatives, except labels; all kinds must
/// hold.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    dangling: Option<bool>,
    labels: Vec<String>,
    /// Labels that an image must not have.
    not_labels: Vec<String>,
    references: Vec<String>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
}

impl Filters {
    /// Parses the values of `--filter`.
    pub(crate) fn parse(store: &Store, filters: &[String]) -> Result<Filters, Failure> {
        let mut parsed = Filters::default();
        for filter in filters {
            let Some((key, value)) = filter.split_once('=') else {
                return Err(Failure::new(format!(
                    "invalid filter {filter:?}: it must have the form key=value"
                )));
            };
            match key.trim().to_ascii_lowercase().as_str() {
                "dangling" => parsed.dangling = Some(truth(filter, value)?),
                "label" => parsed.labels.push(value.to_owned()),
                "label!" => parsed.not_labels.push(value.to_owned()),
                "reference" => parsed.references.push(value.to_owned()),
                "before" => parsed.limit_before(created(store, value)?),
                "since" => parsed.since = parsed.since.max(created(store, value)?),
                "until" => parsed.limit_before(Some(moment(value)?)),
                other => {
                    return Err(Failure::new(format!("invalid filter {other:?}")).hint(
                        "known filters: dangling, label, label!, reference, before, since, until",
                    ));
                }
            }
        }
        Ok(parsed)
    }

    /// Adds a pattern for names.
    pub(crate) fn reference(&mut self, pattern: &str) {
        self.references.push(pattern.to_owned());
    }

    /// Whether nothing but names was asked for: images without a name do not match then.
    pub(crate) fn by_name(&self) -> bool {
        !self.references.is_empty()
    }

    fn limit_before(&mut self, moment: Option<Timestamp>) {
        self.before = match (self.before, moment) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// Says whether the image meets the conditions that are not about its names.
    pub(crate) fn accepts(&self, store: &Store, entry: &ImageEntry) -> Result<bool, Failure> {
        if self
            .dangling
            .is_some_and(|dangling| dangling != entry.names.is_empty())
        {
            return Ok(false);
        }
        let created = parse_created(entry.record.created.as_deref());
        if self
            .before
            .is_some_and(|limit| created.is_none_or(|created| created >= limit))
            || self
                .since
                .is_some_and(|limit| created.is_none_or(|created| created <= limit))
        {
            return Ok(false);
        }
        if self.labels.is_empty() && self.not_labels.is_empty() {
            return Ok(true);
        }
        let labels = image_config(store, &entry.record)?.config.labels;
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        };
        Ok(self.labels.iter().all(has) && !self.not_labels.iter().any(has))
    }

    /// Says whether a canonical name meets the conditions about names.
    pub(crate) fn accepts_name(&self, name: &str) -> bool {
        self.references.is_empty()
            || self
                .references
                .iter()
                .any(|pattern| name_matches(pattern, name))
    }
}

/// Compares a pattern with the short form of a name, with its tag and without.
fn name_matches(pattern: &str, name: &str) -> bool {
    let (repository, tag) = lookup::familiar_parts(name);
    // A full name is compared in its short form too: `docker.io/library/alpine` finds `alpine`.
    let short = ImageReference::parse(pattern).map(|reference| reference.familiar());
    let full = format!("{repository}:{tag}");
    let matches = |pattern: &str| path_match(pattern, &full) || path_match(pattern, &repository);
    matches(pattern) || short.is_ok_and(|short| matches(&short))
}

/// Go's `path.Match`: a wildcard does not reach over a slash.
fn path_match(pattern: &str, name: &str) -> bool {
    let (patterns, names): (Vec<&str>, Vec<&str>) =
        (pattern.split('/').collect(), name.split('/').collect());
    patterns.len() == names.len()
        && patterns
            .iter()
            .zip(names)
            .all(|(pattern, name)| glob_match(pattern, name).unwrap_or(false))
}

pub(super) fn truth(filter: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "1" | "true" | "t" | "True" | "TRUE" => Ok(true),
        "0" | "false" | "f" | "False" | "FALSE" => Ok(false),
        _ => Err(Failure::new(format!(
            "invalid filter {filter:?}: it must be true or false"
        ))),
    }
}

fn created(store: &Store, image: &str) -> Result<Option<Timestamp>, Failure> {
    let found = lookup::require(store, image)?;
    Ok(parse_created(found.entry.record.created.as_deref()))
}

/// A point in time: seconds since 1970, RFC 3339, or a duration back from now.
pub(super) fn moment(value: &str) -> Result<Timestamp, Failure> {
    let invalid = || Failure::new(format!("invalid time {value:?}"));
    if let Ok(seconds) = value.parse::<i64>() {
        return Timestamp::from_second(seconds).map_err(|_| invalid());
    }
    if let Ok(nanoseconds) = parse_duration(value) {
        let back = jiff::SignedDuration::from_nanos(nanoseconds);
        return Timestamp::now().checked_sub(back).map_err(|_| invalid());
    }
    value
        .parse::<Timestamp>()
        .or_else(|_| format!("{value}Z").parse())
        .or_else(|_| format!("{value}T00:00:00Z").parse())
        .map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_with_and_without_tag() {
        let alpine = "docker.io/library/alpine:3.20";
        for pattern in [
            "alpine",
            "alpine:3.20",
            "al*",
            "alpine:3*",
            "docker.io/library/alpine",
        ] {
            assert!(name_matches(pattern, alpine), "{pattern}");
        }
        for pattern in ["alpin", "alpine:latest", "*/alpine"] {
            assert!(!name_matches(pattern, alpine), "{pattern}");
        }
        assert!(name_matches("*/app", "docker.io/me/app:1"));
        assert!(!name_matches("*", "docker.io/me/app:1"));
    }

    #[test]
    fn moments_have_several_forms() {
        assert_eq!(moment("0").unwrap(), Timestamp::UNIX_EPOCH);
        for text in ["2020-01-02", "2020-01-02T00:00:00", "2020-01-02T00:00:00Z"] {
            assert_eq!(moment(text).unwrap().to_string(), "2020-01-02T00:00:00Z");
        }
        assert!(moment("24h").unwrap() < Timestamp::now());
        assert!(moment("yesterday").is_err());
    }
}
