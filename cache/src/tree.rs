//! Unpacked layers.

use std::path::Path;
use std::sync::Arc;

use crate::digest::DiffId;

/// An unpacked, sealed layer; cheap to clone.
#[derive(Clone)]
pub struct Layer(Arc<LayerInner>);

struct LayerInner {
    diff_id: DiffId,
    path: std::path::PathBuf,
    size: u64,
    entries: u64,
}

impl Layer {
    /// Returns the digest of its tar.
    pub fn diff_id(&self) -> &DiffId {
        &self.0.diff_id
    }

    /// Returns the directory that serves as an overlay lower directory.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Returns the size of its tar in bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Returns the number of tar entries.
    pub fn entries(&self) -> u64 {
        self.0.entries
    }
}
