//! Limits on what an archive may make us do.

use crate::error::StoreError;

/// Limits for unpacking; 0 switches a limit off.
///
/// A limit error names the limit, the value seen and the value allowed, and nothing of the archive
/// is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one archive, duplicates counted.
    pub entries: u64,
    /// Unpacked bytes of one archive, holes counted.
    pub unpacked_bytes: u64,
    /// Unpacked bytes per compressed byte, once [`ratio_from`](Limits::ratio_from) are unpacked.
    pub ratio: u64,
    /// Unpacked bytes from which on [`ratio`](Limits::ratio) counts.
    pub ratio_from: u64,
    /// Bytes of a path.
    pub path: u64,
    /// Bytes of one path component.
    pub name: u64,
    /// Bytes of the extended (PAX or GNU) headers of one entry.
    pub header_bytes: u64,
    /// Bytes of one PAX value.
    pub pax_value: u64,
    /// Bytes of the extended attributes of one file, names counted.
    pub xattr_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries: 1_000_000,
            unpacked_bytes: 64 << 30,
            ratio: 200,
            ratio_from: 100_000_000,
            path: 4096,
            name: 255,
            header_bytes: 1 << 20,
            pax_value: 64 << 10,
            xattr_bytes: 64 << 10,
        }
    }
}

/// Refuses `seen` when it is over `allowed`; `what` is only built for the message.
pub(crate) fn check(
    limit: &'static str,
    seen: u64,
    allowed: u64,
    what: impl FnOnce() -> String,
) -> Result<(), StoreError> {
    if allowed != 0 && seen > allowed {
        return Err(StoreError::Limit {
            what: what(),
            limit,
            seen,
            allowed,
        });
    }
    Ok(())
}
