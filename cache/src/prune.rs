//! Removing what nobody needs, and telling what takes space.

use crate::digest::{DiffId, Digest};
use crate::error::StoreError;
use crate::records::ImageRecord;
use crate::store::Store;

/// What [`Store::prune`] may remove.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneOptions {
    /// Also remove build records and cache mounts that are still useful, not only garbage.
    pub all: bool,
    /// Keep what was used within this time.
    pub unused_for: Option<std::time::Duration>,
    /// Stop removing build cache when it is at most this large, in bytes.
    pub keep_bytes: Option<u64>,
    /// Also remove images without a name.
    pub dangling_images: bool,
    /// Only tell what would be removed.
    pub dry_run: bool,
}

/// What [`Store::prune`] removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneReport {
    /// Removed blobs.
    pub blobs: Vec<Digest>,
    /// Removed layers.
    pub layers: Vec<DiffId>,
    /// Removed images.
    pub images: Vec<ImageRecord>,
    /// Number of removed build records.
    pub records: u64,
    /// Number of removed cache mounts.
    pub cache_mounts: u64,
    /// Bytes that were set free.
    pub reclaimed: u64,
}

/// How much the store holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Every item.
    pub items: Vec<UsageItem>,
}

/// What kind of thing a [`UsageItem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageKind {
    /// A blob.
    Blob,
    /// An unpacked layer.
    Layer,
    /// A cache mount.
    CacheMount,
}

/// One line of `builder du`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageItem {
    /// What it is.
    pub kind: UsageKind,
    /// Its digest in hex, or the hashed ID of a cache mount.
    pub id: String,
    /// Bytes on disk.
    pub size: u64,
    /// Last use, seconds since 1970.
    pub last_used_unix: i64,
    /// Whether no image and no living process needs it.
    pub reclaimable: bool,
    /// Whether an image and the build cache both use it.
    pub shared: bool,
    /// What it is for: the step or image that needs it.
    pub description: String,
}

impl Store {
    /// Removes what nobody needs.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport, StoreError> {
        let _ = options;
        Err(pending("prune"))
    }

    /// Tells what takes how much space.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        Err(pending("usage"))
    }
}

fn pending(what: &str) -> StoreError {
    StoreError::Document {
        what: what.to_owned(),
        reason: "not available yet".to_owned(),
    }
}
