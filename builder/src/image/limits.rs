//! How large foreign documents may be (`registry client` and `unpacking` limits of the fault model).

use super::error::ImageError;

/// Bytes of a manifest, an index or a config.
pub(crate) const DOCUMENT_BYTES: u64 = 16 << 20;

/// Layers of an image.
pub(crate) const LAYERS: u64 = 5000;

/// Entries of an index.
pub(crate) const INDEX_ENTRIES: u64 = 10_000;

/// How deep an index may lie in an index.
pub(crate) const INDEX_DEPTH: usize = 2;

/// Files in an image archive.
pub(crate) const ARCHIVE_ENTRIES: u64 = 100_000;

/// Refuses `seen` when it is over `allowed`.
pub(crate) fn check(
    what: &str,
    limit: &'static str,
    seen: u64,
    allowed: u64,
) -> Result<(), ImageError> {
    if seen > allowed {
        return Err(ImageError::Limit {
            what: what.to_owned(),
            limit,
            seen,
            allowed,
        });
    }
    Ok(())
}
