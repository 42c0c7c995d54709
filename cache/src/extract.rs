//! Unpacking archives into a step's upper directory or a plain directory.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::apply::{Apply, Purpose};
use crate::error::StoreError;
use crate::limits::Limits;
use crate::tar_read::TarReader;
use crate::view::{RootView, join};

/// Options of [`extract`].
pub struct ExtractOptions<'a> {
    /// The root file system below the upper directory, without it; none when unpacking into a
    /// plain directory.
    pub view: Option<&'a RootView>,
    /// The directory that is written to: a step's upper directory, or the plain directory.
    pub upper: &'a Path,
    /// Destination directory inside the root; created (0755) if missing. Symlinks are followed in
    /// the root.
    pub into: &'a Path,
    /// Owner for every entry, and for a created destination, instead of the archive's.
    pub chown: Option<(u32, u32)>,
    /// Limits on what the archive may hold.
    pub limits: Limits,
}

/// What [`extract`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extracted {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of file data, holes counted.
    pub bytes: u64,
    /// Extended attributes that were left out: overlay's own, security labels, and what the file
    /// system does not take.
    pub dropped_attributes: u64,
    /// Device nodes that were left out for want of privilege.
    pub skipped_devices: u64,
}

/// Unpacks a plain tar as `ADD` does.
///
/// Names with `..` are clamped into the destination, existing files are replaced, directories are
/// merged and get the archive's metadata; the destination itself keeps its own. Files of the layers
/// below are never touched. Nothing outside the root is, whatever the archive says.
///
/// The archive has to be plain: see [`detect_and_decompress`](crate::detect_and_decompress).
pub fn extract(
    archive: &mut dyn Read,
    options: &ExtractOptions<'_>,
) -> Result<Extracted, StoreError> {
    unpack(archive, options, false)
}

/// As [`extract`], but a directory is never replaced by something else, and nothing else by a directory:
/// what `cp` does.
pub fn extract_keeping_kinds(
    archive: &mut dyn Read,
    options: &ExtractOptions<'_>,
) -> Result<Extracted, StoreError> {
    unpack(archive, options, true)
}

fn unpack(
    archive: &mut dyn Read,
    options: &ExtractOptions<'_>,
    keep_kinds: bool,
) -> Result<Extracted, StoreError> {
    let merged = match options.view {
        Some(view) => view.stacked(options.upper),
        None => RootView::new(&[]).with_upper(options.upper),
    };
    let destination = merged.resolve(options.into)?;
    if destination
        .entry
        .as_ref()
        .is_some_and(|entry| !entry.is_directory())
    {
        return Err(crate::ViewError::NotADirectory {
            path: destination.path,
        }
        .into());
    }
    let path = destination.path.as_os_str().as_bytes();
    let mut into = path.strip_prefix(b"/").unwrap_or(path).to_vec();
    for name in &destination.missing {
        into = join(&into, name.as_bytes());
    }
    let purpose = Purpose::Archive { into: into.clone() };
    let mut apply = Apply::new(
        options.upper,
        options.view,
        purpose,
        options.chown,
        &options.limits,
    )?;
    apply.keep_kinds = keep_kinds;
    apply.make_directories(&into)?;
    let mut reader = TarReader::new(archive, options.limits.clone());
    while let Some(entry) = reader.next()? {
        apply.entry(&entry, &mut reader)?;
    }
    let (entries, bytes) = (reader.entries(), reader.unpacked());
    let outcome = apply.finish()?;
    Ok(Extracted {
        entries,
        bytes,
        dropped_attributes: outcome.dropped_attributes,
        skipped_devices: outcome.skipped_devices,
    })
}
