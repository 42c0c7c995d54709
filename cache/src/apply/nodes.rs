//! Entries without data: links, devices, pipes.

use rustix::fs::{AtFlags, XattrFlags};
use rustix::io::Errno;

use super::{Apply, Purpose, clean, is_linkable, paths, times};
use crate::entry::FileKind;
use crate::error::StoreError;
use crate::owners;
use crate::sys;
use crate::tar_read::{ArchiveEntry, EntryKind, entry_error};
use crate::view::{Follow, absolute, join, split};

impl Apply<'_> {
    pub(super) fn symlink(
        &mut self,
        entry: &ArchiveEntry,
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), StoreError> {
        if entry.link.is_empty() || entry.link.contains(&0) {
            return Err(entry_error(
                &entry.path,
                "its target is not a path".to_owned(),
            ));
        }
        let ((), path) = self.make(parent, name, |directory, name| {
            rustix::fs::symlinkat(entry.link.as_slice(), directory, name)
        })?;
        self.node_metadata(entry, parent, name, &path)
    }

    pub(super) fn node(
        &mut self,
        entry: &ArchiveEntry,
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), StoreError> {
        let kind = match entry.kind {
            EntryKind::CharDevice => FileKind::CharDevice,
            EntryKind::BlockDevice => FileKind::BlockDevice,
            _ => FileKind::Fifo,
        };
        if kind == FileKind::CharDevice && entry.device == (0, 0) {
            let reason = "a device 0:0 would be taken for a deletion";
            return Err(entry_error(&entry.path, reason.to_owned()));
        }
        let (uid, gid) = self.chown.unwrap_or((entry.uid, entry.gid));
        let mut refused = false;
        let ((), path) = self.make(parent, name, |directory, name| {
            let rights = (uid, gid, entry.mode);
            let made = owners::make_node(directory, name, kind, entry.device, rights);
            match made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)) {
                Err(Errno::PERM) if kind != FileKind::Fifo => {
                    refused = true;
                    Ok(())
                }
                result => result,
            }
        })?;
        if refused {
            // In a user namespace no device can be made, and none could be opened.
            self.outcome.skipped_devices += 1;
            return Ok(());
        }
        self.node_metadata(entry, parent, name, &path)
    }

    /// Owner of a link, attributes and times of what cannot be opened.
    fn node_metadata(
        &mut self,
        entry: &ArchiveEntry,
        parent: &[u8],
        name: &[u8],
        path: &[u8],
    ) -> Result<(), StoreError> {
        let (uid, gid) = self.chown.unwrap_or((entry.uid, entry.gid));
        let directory = &self.parent(parent)?.fd;
        let directory = rustix::io::fcntl_dupfd_cloexec(directory, 0)
            .map_err(StoreError::inside("open the directory of", path))?;
        if entry.kind == EntryKind::Symlink {
            owners::set_owner_at(&directory, name, uid, gid)
                .map_err(StoreError::inside("set the owner of", path))?;
        }
        let by_name = sys::proc_path(&directory, name);
        for (attribute, value) in &entry.xattrs {
            if !self.takes_attribute(attribute) {
                continue;
            }
            let attribute = attribute.as_slice();
            if let Err(error) =
                rustix::fs::lsetxattr(by_name.as_slice(), attribute, value, XattrFlags::empty())
            {
                self.attribute_error(error, path)?;
            }
        }
        rustix::fs::utimensat(
            &directory,
            name,
            &times(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(StoreError::inside("set the times of", path))
    }

    pub(super) fn hard_link(
        &mut self,
        entry: &ArchiveEntry,
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), StoreError> {
        let wrong = |reason: &str| entry_error(&entry.path, reason.to_owned());
        let names = match &self.purpose {
            Purpose::Layer => paths::strict(&entry.link)?,
            Purpose::Archive { .. } => clean(&entry.link)?,
        };
        let target = names.join(&b'/');
        let target = match &self.purpose {
            Purpose::Archive { into } => join(into, &target),
            Purpose::Layer => target,
        };
        let found = self.merged.lookup(absolute(&target), Follow::None)?;
        let found = found.ok_or_else(|| {
            wrong(&format!(
                "its target `{}` is not there",
                crate::error::escaped(&target)
            ))
        })?;
        if !is_linkable(found.metadata.kind) {
            return Err(wrong("its target is a directory or socket"));
        }
        let target = found.key().to_vec();
        let here = join(&self.parent(parent)?.canonical, name);
        if here == target {
            // A link to itself: it is there already.
            return Ok(());
        }
        self.copy_up(&found)?;
        let (from_directory, from_name) = split(&target);
        let from = sys::open_beneath(&self.root, from_directory, sys::DIRECTORY)
            .map_err(StoreError::inside("open the directory", from_directory))?;
        self.make(parent, name, |directory, name| {
            // Without AT_SYMLINK_FOLLOW a symlink itself gets the second name.
            rustix::fs::linkat(&from, from_name, directory, name, AtFlags::empty())
        })?;
        Ok(())
    }
}
