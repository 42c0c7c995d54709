//! States of a layer's hash after every megabyte or so of its tar, from which the hash of a new version
//! of the layer goes on: what comes before the first change need not be read again.
//!
//! They are a memo: without them, or with damaged ones, a layer is hashed from its beginning.

use std::cmp::Ordering;
use std::os::fd::OwnedFd;

use crate::digest::{DiffId, Digest, Hasher};
use crate::parts::Parts;
use crate::store::Store;
use crate::view::split;

/// Bytes of a tar from one checkpoint to the next.
pub(crate) const STEP: u64 = 1 << 20;

/// First bytes of the memo.
const MAGIC: &[u8; 16] = b"rbuild states 1\n";

/// Where a tar can be gone on with: between two entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Path of the entry that comes next.
    pub(crate) path: Vec<u8>,
    /// Bytes of the tar before it.
    pub(crate) bytes: u64,
    /// Entries before it.
    pub(crate) entries: u64,
    /// Bytes of file content before it.
    pub(crate) content: u64,
    /// State of the hash over the tar.
    pub(crate) tar: Vec<u8>,
    /// State of the hash over the headers.
    pub(crate) headers: Vec<u8>,
}

impl Checkpoint {
    /// The two hashes as they were, tar and headers.
    pub(crate) fn hashers(&self) -> Option<(Hasher, Hasher)> {
        Some((
            Hasher::from_state(&self.tar)?,
            Hasher::from_state(&self.headers)?,
        ))
    }
}

impl Checkpoint {
    /// Whether a tar of the tree with these roots can be gone on with here.
    pub(crate) fn is_in(&self, roots: &[&OwnedFd]) -> bool {
        let (parent, name) = split(&self.path);
        let found =
            Parts::open(roots, parent).map(|parent| parent.find(name).map(|it| it.is_some()));
        self.hashers().is_some() && matches!(found, Ok(Ok(true)))
    }
}

impl Store {
    /// Keeps the checkpoints of a layer, in the order of its tar.
    pub(crate) fn keep_checkpoints(&self, layer: &DiffId, checkpoints: &[Checkpoint]) {
        self.keep_memo(&memo(layer), &encode(checkpoints));
    }

    /// The checkpoints of a layer; none if they were not kept.
    pub(crate) fn checkpoints(&self, layer: &DiffId) -> Vec<Checkpoint> {
        let bytes = std::fs::read(self.memo_path(&memo(layer))).ok();
        bytes.and_then(|bytes| decode(&bytes)).unwrap_or_default()
    }
}

fn memo(layer: &DiffId) -> String {
    format!("hash states of {layer}")
}

/// Compares two paths by which comes first in a tar: a directory before what is in it, and all of that
/// before the name that follows.
pub(crate) fn in_tar_order(a: &[u8], b: &[u8]) -> Ordering {
    let parts = |path| <[u8]>::split(path, |byte| *byte == b'/');
    parts(a).cmp(parts(b))
}

fn encode(checkpoints: &[Checkpoint]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for checkpoint in checkpoints {
        for number in [checkpoint.bytes, checkpoint.entries, checkpoint.content] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for text in [&checkpoint.path, &checkpoint.tar, &checkpoint.headers] {
            // Paths and states are short.
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text);
        }
    }
    // A state that was damaged would give a wrong digest, and nothing else would tell.
    let check = Digest::of(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<Checkpoint>> {
    let (bytes, check) = bytes.split_last_chunk::<32>()?;
    if Digest::of(bytes).as_bytes() != check {
        return None;
    }
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut checkpoints = Vec::new();
    while !rest.is_empty() {
        let mut number = || {
            let (number, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            Some(u64::from_le_bytes(*number))
        };
        let (bytes, entries, content) = (number()?, number()?, number()?);
        let mut text = || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (text, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = after;
            Some(text.to_vec())
        };
        checkpoints.push(Checkpoint {
            path: text()?,
            bytes,
            entries,
            content,
            tar: text()?,
            headers: text()?,
        });
    }
    Some(checkpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_checkpoints_are_none() {
        let state = |text: &[u8]| {
            let mut hasher = Hasher::new();
            hasher.update(text);
            hasher.state()
        };
        let one = Checkpoint {
            path: b"a/b".to_vec(),
            bytes: 1 << 40,
            entries: 7,
            content: 9,
            tar: state(b"tar"),
            headers: state(b"headers"),
        };
        let two = Checkpoint {
            path: b"c".to_vec(),
            ..one.clone()
        };
        let mut bytes = encode(&[one.clone(), two.clone()]);
        assert_eq!(decode(&bytes).unwrap(), [one.clone(), two]);
        let (tar, headers) = one.hashers().unwrap();
        assert_eq!(tar.finish(), Digest::of(b"tar"));
        assert_eq!(headers.finish(), Digest::of(b"headers"));
        for place in [0, 20, bytes.len() / 2, bytes.len() - 1] {
            bytes[place] ^= 1;
            assert!(decode(&bytes).is_none(), "byte {place}");
            bytes[place] ^= 1;
        }
        assert!(decode(&bytes[..bytes.len() - 40]).is_none());
        assert!(decode(b"").is_none());
    }

    #[test]
    fn the_order_is_that_of_the_tar() {
        let in_order = ["a", "a/b", "a/b/c", "a/c", "a-b", "a.b", "b"];
        let mut sorted = in_order.map(str::as_bytes);
        sorted.sort_unstable();
        assert_ne!(sorted, in_order.map(str::as_bytes));
        sorted.sort_by(|a, b| in_tar_order(a, b));
        assert_eq!(sorted, in_order.map(str::as_bytes));
    }
}
