//! Content and attributes of what a view shows.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::{Follow, RootView, ViewEntry, split};
use crate::entry::FileKind;
use crate::error::ViewError;
use crate::owners;
use crate::sys;

impl RootView {
    /// Opens a regular file for reading; anything else is an error, and nothing is followed.
    pub fn open(&self, entry: &ViewEntry) -> Result<File, ViewError> {
        let source = self
            .sources
            .get(entry.source)
            .ok_or_else(|| ViewError::NotFound {
                path: entry.path.clone(),
            })?;
        if entry.metadata.kind != FileKind::File {
            return Err(ViewError::NotAFile {
                path: entry.path.clone(),
            });
        }
        let file = source.open(entry.key(), sys::READ)?;
        let now = sys::fstat(&file).map_err(ViewError::io("look at", &entry.path))?;
        if now.kind != FileKind::File {
            return Err(ViewError::NotAFile {
                path: entry.path.clone(),
            });
        }
        Ok(File::from(file))
    }

    /// Reads a small regular file, following symlinks in the root; none if nothing is there.
    ///
    /// Anything but a regular file of at most `limit` bytes is an error: `/etc/passwd` may be a
    /// fifo, a device or a terabyte of zeros.
    pub fn read_small(
        &self,
        path: impl AsRef<Path>,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, ViewError> {
        let Some(entry) = self.lookup(path, Follow::Last)? else {
            return Ok(None);
        };
        let file = self.open(&entry)?;
        let too_large = |size| ViewError::TooLarge {
            path: entry.path.clone(),
            size,
            limit,
        };
        if entry.metadata.size > limit {
            return Err(too_large(entry.metadata.size));
        }
        let mut bytes = Vec::with_capacity(entry.metadata.size as usize);
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(ViewError::io("read", &entry.path))?;
        if bytes.len() as u64 > limit {
            return Err(too_large(bytes.len() as u64));
        }
        Ok(Some(bytes))
    }

    /// Returns the extended attributes of an entry, sorted by name; overlay's own are left out.
    pub fn xattrs(&self, entry: &ViewEntry) -> Result<Vec<(OsString, Vec<u8>)>, ViewError> {
        let (directory, name) = split(entry.key());
        let name = if name.is_empty() { b"." } else { name };
        let Some(source) = self.sources.get(entry.source) else {
            return Ok(Vec::new());
        };
        let directory = source.open(directory, sys::DIRECTORY)?;
        let mut attributes = Vec::new();
        for attribute in sys::xattr_names(&directory, name)
            .map_err(ViewError::io("list the attributes of", &entry.path))?
        {
            if is_overlay_attribute(&attribute) || owners::is_record(&attribute) {
                continue;
            }
            let Ok(text) = std::str::from_utf8(&attribute) else {
                continue;
            };
            let value = sys::xattr(&directory, name, text)
                .map_err(ViewError::io("read the attributes of", &entry.path))?;
            if let Some(value) = value {
                attributes.push((OsString::from_vec(attribute), value));
            }
        }
        let capability = crate::tree_tar::CAPABILITY;
        let known = attributes.iter().any(|(name, _)| name == capability);
        if !known
            && let Some(value) = owners::capability(&sys::proc_path(&directory, name))
                .map_err(ViewError::io("read the attributes of", &entry.path))?
        {
            attributes.push((OsString::from(capability), value));
        }
        Ok(attributes)
    }

    /// Returns the file capabilities of an entry as the kernel stores them.
    pub(crate) fn capability(&self, entry: &ViewEntry) -> Result<Option<Vec<u8>>, ViewError> {
        let (directory, name) = split(entry.key());
        let Some(source) = self.sources.get(entry.source) else {
            return Ok(None);
        };
        let directory = source.open(directory, sys::DIRECTORY)?;
        sys::xattr(&directory, name, "security.capability")
            .map_err(ViewError::io("read the capabilities of", &entry.path))
    }
}

/// Tells whether an extended attribute is overlay's own bookkeeping.
pub(crate) fn is_overlay_attribute(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}
