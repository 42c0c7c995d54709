//! Unpacking archives into a step's upper directory or a plain directory.

use std::io::Read;
use std::path::Path;

use crate::error::StoreError;
use crate::limits::Limits;
use crate::view::RootView;

/// Options of [`extract`].
pub struct ExtractOptions<'a> {
    /// The root file system below the upper directory; none when unpacking into a plain directory.
    pub view: Option<&'a RootView>,
    /// The directory that is written to: a step's upper directory, or the plain directory.
    pub upper: &'a Path,
    /// Destination directory inside the root; created if missing. Symlinks are followed in the
    /// root.
    pub into: &'a Path,
    /// Owner for every entry instead of the archive's.
    pub chown: Option<(u32, u32)>,
    /// Limits on what the archive may hold.
    pub limits: Limits,
}

/// What [`extract`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extracted {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of file data.
    pub bytes: u64,
}

/// Unpacks a plain tar as `ADD` does.
///
/// Names with `..` are clamped into the destination, existing files are replaced, directories are
/// merged. Nothing outside the destination's root is touched, whatever the archive says.
pub fn extract(
    archive: &mut dyn Read,
    options: &ExtractOptions<'_>,
) -> Result<Extracted, StoreError> {
    let _ = (archive, options);
    Err(StoreError::Document {
        what: "extract".into(),
        reason: "not available yet".into(),
    })
}
