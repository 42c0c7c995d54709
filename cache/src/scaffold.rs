//! Mount targets that the image does not have.

use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::view::RootView;

/// What a mount target has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// An empty regular file.
    File,
    /// An empty directory.
    Directory,
}

/// A mount target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaffoldTarget {
    /// Path in the root file system, symlinks allowed.
    pub path: PathBuf,
    /// What has to be there.
    pub kind: TargetKind,
}

/// Fills `into` with the mount targets that are missing in `view`.
///
/// `into` becomes one more overlay lower directory on top of the layers, so that nothing appears in
/// the upper directory. Parents carry the image's metadata. Returns the resolved targets.
pub fn scaffold(
    view: &RootView,
    targets: &[ScaffoldTarget],
    into: &Path,
) -> Result<Vec<PathBuf>, StoreError> {
    let _ = (view, targets, into);
    Err(StoreError::Document {
        what: "scaffold".into(),
        reason: "not available yet".into(),
    })
}
