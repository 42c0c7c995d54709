//! Checking the whole store.

use crate::error::StoreError;
use crate::store::Store;

/// What [`Store::fsck`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FsckReport {
    /// How many blobs were checked.
    pub blobs: u64,
    /// How many layers were checked.
    pub layers: u64,
    /// What is wrong, in words.
    pub problems: Vec<String>,
    /// How many of the problems were repaired.
    pub repaired: u64,
}

impl Store {
    /// Checks every blob, seal, record and name; with `repair`, removes what is damaged.
    pub fn fsck(&self, repair: bool) -> Result<FsckReport, StoreError> {
        let _ = repair;
        Err(StoreError::Document {
            what: "fsck".into(),
            reason: "not available yet".into(),
        })
    }
}
