//! Telling what takes space.

use super::survey::{Item, Survey};
use crate::error::StoreError;
use crate::store::Store;

/// How much the store holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Every item, largest first.
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
    /// Bytes on disk; of a layer the bytes of its files.
    pub size: u64,
    /// Last use, seconds since 1970.
    pub last_used_unix: i64,
    /// Whether no image, no pin and no living process needs it.
    pub reclaimable: bool,
    /// Whether an image and the build cache both use it.
    pub shared: bool,
    /// What it is for: the step or image that needs it; empty if nothing does.
    pub description: String,
}

impl Survey {
    /// What is told of an item.
    pub(super) fn describe(&self, item: &Item) -> UsageItem {
        let needed = self.needed.get(&item.digest);
        let cached = self.cached.get(&item.digest);
        UsageItem {
            kind: item.kind,
            id: item.digest.hex(),
            size: item.size,
            last_used_unix: item.last_used.seconds,
            reclaimable: needed.is_none(),
            shared: needed.is_some() && cached.is_some(),
            description: needed.or(cached).cloned().unwrap_or_default(),
        }
    }
}

impl Store {
    /// Tells what takes how much space.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let survey = self.survey(&[])?;
        let mut items: Vec<UsageItem> = survey
            .items
            .iter()
            .map(|item| survey.describe(item))
            .collect();
        items.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
        Ok(Usage { items })
    }
}
