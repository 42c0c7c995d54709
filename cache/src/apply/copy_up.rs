//! Bringing what only lower layers have into the tree, as overlay does before it changes something.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Apply, open_directory, times};
use crate::entry::FileKind;
use crate::error::StoreError;
use crate::owners;
use crate::sys;
use crate::view::{Follow, ViewEntry, absolute, join, split};

impl Apply<'_> {
    /// Opens a directory of the merged tree in the tree itself, making it with its parents.
    pub(super) fn copy_up_directory(&mut self, path: &[u8]) -> Result<OwnedFd, StoreError> {
        let mut here = sys::open_beneath(&self.root, b"", sys::LIST)
            .map_err(StoreError::inside("open", b""))?;
        let mut canonical = Vec::new();
        for name in path
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
        {
            canonical = join(&canonical, name);
            let next = match open_directory(&here, name) {
                Err(Errno::NOENT) => self.make_copy(&here, name, &canonical)?,
                result => result.map_err(StoreError::inside("open the directory", &canonical))?,
            };
            here = next;
        }
        Ok(here)
    }

    /// Makes a directory with the metadata that it has below.
    fn make_copy(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<OwnedFd, StoreError> {
        let failed = |action| StoreError::inside::<Errno>(action, path);
        let below = match self.below {
            Some(below) => below.lookup(absolute(path), Follow::None)?,
            None => None,
        };
        let below = below.filter(ViewEntry::is_directory);
        // The parent did not change: it only got a name for what it had already.
        let before = sys::fstat(parent).map_err(StoreError::inside("look at", path))?;
        rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(failed("create the directory"))?;
        rustix::fs::futimens(parent, &times(before.mtime))
            .map_err(failed("set the times above"))?;
        let made = open_directory(parent, name).map_err(failed("open the directory"))?;
        match below {
            Some(below) => {
                self.same_metadata(&made, &below)?;
                let time = below.metadata.mtime;
                rustix::fs::futimens(&made, &times(time)).map_err(failed("set the times of"))?;
            }
            None => self.implied_directory(&made, path)?,
        }
        Ok(made)
    }

    /// Gives a file the owner, mode and attributes of another one.
    fn same_metadata(&mut self, made: &OwnedFd, below: &ViewEntry) -> Result<(), StoreError> {
        let path = below.key();
        let old = &below.metadata;
        if owners::are_recorded() {
            // The mode that follows may take the right to set attributes away.
            self.same_attributes(made, below)?;
        }
        owners::set(made, old.uid, old.gid, old.mode)
            .map_err(StoreError::inside("set owner and mode of", path))?;
        if !owners::are_recorded() {
            self.same_attributes(made, below)?;
        }
        Ok(())
    }

    fn same_attributes(&mut self, made: &OwnedFd, below: &ViewEntry) -> Result<(), StoreError> {
        for (name, value) in self.merged.xattrs(below)? {
            let name = std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str());
            self.outcome.attributes = true;
            if let Err(error) = owners::set_attribute(made, name, &value) {
                self.attribute_error(error, below.key())?;
            }
        }
        Ok(())
    }

    /// Copies a file or symlink of a lower layer into the tree; nothing to do if it is there.
    pub(super) fn copy_up(&mut self, entry: &ViewEntry) -> Result<(), StoreError> {
        let path = entry.key();
        let (directory, name) = split(path);
        let parent = self.copy_up_directory(directory)?;
        if sys::lstat(&parent, name)
            .map_err(StoreError::inside("look at", path))?
            .is_some()
        {
            return Ok(());
        }
        let before = sys::fstat(&parent).map_err(StoreError::inside("look at", directory))?;
        let failed = |action| StoreError::inside::<Errno>(action, path);
        match (entry.metadata.kind, &entry.link_target) {
            (FileKind::File, _) => {
                let old = self.merged.open(entry)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let made = rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(failed("create"))?;
                let new = std::fs::File::from(made);
                crate::holes::copy_content(&old, &new, &|| false)
                    .map_err(StoreError::inside("copy", path))?;
                let made = OwnedFd::from(new);
                self.same_metadata(&made, entry)?;
                rustix::fs::futimens(&made, &times(entry.metadata.mtime))
                    .map_err(failed("set the times of"))?;
            }
            (FileKind::Symlink, Some(target)) => {
                rustix::fs::symlinkat(target, &parent, name).map_err(failed("create"))?;
                let old = &entry.metadata;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                owners::set_owner_at(&parent, name, old.uid, old.gid)
                    .map_err(StoreError::inside("set the owner of", path))?;
                rustix::fs::utimensat(&parent, name, &times(old.mtime), flags)
                    .map_err(failed("set the times of"))?;
            }
            _ => {
                let reason = "it is a hard link to a device or pipe of a lower layer".to_owned();
                return Err(crate::tar_read::entry_error(path, reason));
            }
        }
        rustix::fs::futimens(&parent, &times(before.mtime))
            .map_err(StoreError::inside("set the times of", directory))
    }
}
