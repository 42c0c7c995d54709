//! Entries without data: links, devices, pipes.

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Apply, Purpose, clean, is_linkable, paths, times};
use crate::error::StoreError;
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
            EntryKind::CharDevice => FileType::CharacterDevice,
            EntryKind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        if kind == FileType::CharacterDevice && entry.device == (0, 0) {
            let reason = "a device 0:0 would be taken for a deletion";
            return Err(entry_error(&entry.path, reason.to_owned()));
        }
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let mut refused = false;
        let ((), path) = self.make(parent, name, |directory, name| {
            match rustix::fs::mknodat(directory, name, kind, mode, device) {
                Err(Errno::PERM) if kind != FileType::Fifo => {
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

    /// Owner, mode, attributes and times of what cannot be opened.
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
        let owned = rustix::fs::chownat(
            &directory,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        self.owner_result(owned, path)?;
        if entry.kind != EntryKind::Symlink {
            // Just made by us and no symlink, so nothing can be followed.
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(&directory, name, mode, AtFlags::empty())
                .map_err(StoreError::inside("set the mode of", path))?;
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
