//! Cache keys: a digest over readable parts, so that a miss can be told in words.
//!
//! A step's key is the SHA-256 of its parts, each name and value preceded by its length as a
//! 64-bit little-endian number. There is no other encoding: what is in the parts is in the key, and
//! what is not in the parts cannot change it.

use rbuild_cache::{BuildRecord, Digest};
use sha2::{Digest as _, Sha256};

use crate::event::MissReason;

/// Values longer than this are replaced by their digest in the stored parts (the key uses the
/// whole value), so that a record stays small.
const STORED_VALUE_LIMIT: usize = 256;

/// Ordered, named parts of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    entries: Vec<(String, String)>,
}

impl Parts {
    /// No parts yet.
    pub(crate) fn new() -> Parts {
        Parts::default()
    }

    /// Adds a part.
    pub(crate) fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.entries.push((name.into(), value.into()));
    }

    /// The key.
    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = Sha256::new();
        for text in self.entries.iter().flat_map(|(name, value)| [name, value]) {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        Digest::from_bytes(hasher.finalize().into())
    }

    /// The parts as they are stored beside a result.
    pub(crate) fn to_stored(&self) -> Vec<(String, String)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.clone(), shorten(value)))
            .collect()
    }
}

fn shorten(value: &str) -> String {
    if value.len() <= STORED_VALUE_LIMIT {
        return value.to_owned();
    }
    let mut end = STORED_VALUE_LIMIT / 2;
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}… {}", &value[..end], Digest::of(value.as_bytes()))
}

/// Says why a step with these parts was not found, given the newest record of the same step.
pub(crate) fn miss_reason(
    parts: &Parts,
    previous: Option<&BuildRecord>,
    forced: bool,
) -> MissReason {
    let ordinary = |text: &str| MissReason {
        text: text.to_owned(),
        ordinary: true,
    };
    match previous {
        _ if forced => ordinary("--no-cache"),
        None => ordinary("first build of this step"),
        Some(previous) => MissReason {
            text: difference(&parts.to_stored(), &previous.parts),
            ordinary: false,
        },
    }
}

/// Names the first things that differ, the most telling ones first.
fn difference(new: &[(String, String)], old: &[(String, String)]) -> String {
    let mut found = Vec::new();
    let mut parent_changed = false;
    for (name, value) in new {
        let olds: Vec<&str> = old
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, v)| v.as_str())
            .collect();
        if olds.contains(&value.as_str()) {
            continue;
        }
        if name == PARENT {
            parent_changed = true;
        } else if let Some(source) = name.strip_prefix(CONTENT) {
            found.push(format!("{source} changed"));
        } else if olds.len() == 1 {
            found.push(format!("{name} {} → {}", quote(olds[0]), quote(value)));
        } else {
            found.push(format!("{name} {} is new", quote(value)));
        }
    }
    for (name, value) in old {
        let gone = !new.iter().any(|(known, _)| known == name);
        if gone {
            found.push(format!("{name} {} is gone", quote(value)));
        }
    }
    if found.is_empty() {
        return if parent_changed {
            "an earlier step gave another result".to_owned()
        } else {
            "its stored result is gone".to_owned()
        };
    }
    let more = found.len().saturating_sub(3);
    found.truncate(3);
    let mut text = found.join(", ");
    if more > 0 {
        text.push_str(&format!(" (+{more} more)"));
    }
    text
}

/// Name of the part that stands for the root file system a step starts from.
pub(crate) const PARENT: &str = "parent";

/// Prefix of the parts that stand for the content of a copied or mounted source.
pub(crate) const CONTENT: &str = "content ";

fn quote(value: &str) -> String {
    const LIMIT: usize = 40;
    if value.chars().count() > LIMIT {
        format!("\"{}…\"", value.chars().take(LIMIT).collect::<String>())
    } else {
        format!("{value:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(entries: &[(&str, &str)]) -> Parts {
        let mut parts = Parts::new();
        for (name, value) in entries {
            parts.push(*name, *value);
        }
        parts
    }

    fn record(entries: &[(&str, &str)]) -> BuildRecord {
        BuildRecord {
            key: parts(entries).digest(),
            step: "s".into(),
            name: "n".into(),
            layers: Vec::new(),
            parts: parts(entries).to_stored(),
            detail: serde_json::Value::Null,
            created_unix: 0,
            elapsed_ms: 0,
        }
    }

    #[test]
    fn lengths_keep_neighbouring_parts_apart() {
        assert_ne!(
            parts(&[("a", "bc")]).digest(),
            parts(&[("ab", "c")]).digest()
        );
        assert_ne!(parts(&[("a", "")]).digest(), parts(&[]).digest());
    }

    #[test]
    fn a_changed_variable_is_named_with_both_values() {
        let reason = miss_reason(
            &parts(&[("env V", "2"), (PARENT, "x")]),
            Some(&record(&[("env V", "1"), (PARENT, "x")])),
            false,
        );
        assert_eq!(reason.text, r#"env V "1" → "2""#);
    }

    #[test]
    fn an_own_change_is_told_before_the_parents() {
        let reason = miss_reason(
            &parts(&[("content src/", "2"), (PARENT, "y")]),
            Some(&record(&[("content src/", "1"), (PARENT, "x")])),
            false,
        );
        assert_eq!(reason.text, "src/ changed");
        let reason = miss_reason(
            &parts(&[(PARENT, "y")]),
            Some(&record(&[(PARENT, "x")])),
            false,
        );
        assert_eq!(reason.text, "an earlier step gave another result");
    }
}
