//! Which stacks stay, and whether they are what they say.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{LAYERS, ROOT};
use crate::digest::{DiffId, Digest};
use crate::error::StoreError;
use crate::fsck::hash_headers;
use crate::layout::Layout;
use crate::recover::list;
use crate::remove::remove_tree;
use crate::store::now_unix;

/// A stack that nothing has used for longer goes with the next pruning: it is soon made again.
const UNUSED: Duration = Duration::from_hours(24);

/// A stack in the store.
pub(crate) struct Stack {
    /// Its name.
    pub(crate) id: Digest,
    /// Its directory.
    pub(crate) path: PathBuf,
    /// What the headers of a tar of it hash to.
    headers: String,
    layers: Vec<DiffId>,
}

/// Writes the list of a stack whose directory is complete.
pub(super) fn write_list(stack: &Path, layers: &[DiffId]) -> Result<(), StoreError> {
    let mut text = format!("{}\n", hash_headers(&stack.join(ROOT))?);
    for layer in layers {
        text.push_str(&layer.hex());
        text.push('\n');
    }
    let path = stack.join(LAYERS);
    std::fs::write(&path, text).map_err(StoreError::io("write", &path))
}

/// All stacks; those whose list cannot be read have no layers.
pub(crate) fn stacks(layout: &Layout) -> Result<Vec<Stack>, StoreError> {
    let mut stacks = Vec::new();
    for path in list(&layout.stacks())? {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(id) = name.and_then(|name| Digest::from_hex(name).ok()) else {
            continue;
        };
        let text = std::fs::read_to_string(path.join(LAYERS)).unwrap_or_default();
        let mut lines = text.lines();
        let headers = lines.next().unwrap_or_default().to_owned();
        let layers = lines
            .filter_map(|line| Digest::from_hex(line).ok().map(DiffId::from_digest))
            .collect();
        stacks.push(Stack {
            id,
            path,
            headers,
            layers,
        });
    }
    Ok(stacks)
}

/// Removes all stacks.
pub(crate) fn remove_all(layout: &Layout) -> Result<(), StoreError> {
    for path in list(&layout.stacks())? {
        remove_tree(&path)?;
    }
    Ok(())
}

impl Stack {
    /// Whether it is to go when pruning removes `gone`: its links would keep the content of layers,
    /// or it is of no use any more.
    pub(crate) fn is_stale(&self, layout: &Layout, gone: &BTreeSet<Digest>, all: bool) -> bool {
        let lost = |layer: &DiffId| gone.contains(layer.digest()) || !layout.tree(layer).exists();
        all || self.layers.is_empty() || self.layers.iter().any(lost) || self.age() > UNUSED
    }

    fn age(&self) -> Duration {
        let used = self.path.join(LAYERS).metadata();
        let age = used.map_or(i64::MAX, |found| now_unix().saturating_sub(found.mtime()));
        Duration::from_secs(u64::try_from(age).unwrap_or(0))
    }

    /// Whether it has the files that it had when it was made. Their content is that of the layers.
    pub(crate) fn is_sound(&self) -> bool {
        hash_headers(&self.path.join(ROOT)).is_ok_and(|found| found.to_string() == self.headers)
    }
}
