//! Cache keys: a digest over readable parts, so that a miss can be told in words.
//!
//! A step's key is the SHA-256 of its parts, each name and value preceded by its length as a
//! 64-bit little-endian number. There is no other encoding: what is in the parts is in the key, and
//! what is not in the parts cannot change it.

pub(crate) mod listing;
mod miss;

use rbuild_cache::Digest;
use sha2::{Digest as _, Sha256};

pub use listing::FileChanges;
pub use miss::Change;
pub(crate) use miss::Miss;

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
        for (name, value) in &self.entries {
            part(&mut hasher, name, value);
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

/// Adds a part to a key.
pub(crate) fn part(hasher: &mut Sha256, name: &str, value: &str) {
    for text in [name, value] {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
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

/// Name of the part that stands for the root file system a step starts from.
pub(crate) const PARENT: &str = "parent";

/// Prefix of the parts that stand for the content of a copied or mounted source.
pub(crate) const CONTENT: &str = "content ";

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

    #[test]
    fn lengths_keep_neighbouring_parts_apart() {
        assert_ne!(
            parts(&[("a", "bc")]).digest(),
            parts(&[("ab", "c")]).digest()
        );
        assert_ne!(parts(&[("a", "")]).digest(), parts(&[]).digest());
    }
}
