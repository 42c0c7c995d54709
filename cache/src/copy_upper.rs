//! A copy of a directory in overlay form with all its marks: whiteouts, opaque directories, what was copied
//! up from where, recorded owners.
//!
//! For a layer of a container that lives on: what it wrote has to stay its own. Everything is done by the
//! descriptors of two directories, so that nothing which happens in the tree meanwhile leads elsewhere.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::draft::Draft;
use crate::error::StoreError;
use crate::sys;
use crate::view::join;

/// How deep directories may lie in each other: two descriptors are open for each.
const MAX_DEPTH: usize = 400;

impl Draft {
    /// Fills the upper directory, which is empty, with a copy of another one.
    ///
    /// # Errors
    ///
    /// Something cannot be read or written, or vanished meanwhile.
    pub fn copy_from(&self, upper: &Path) -> Result<(), StoreError> {
        let open = |path: &Path| {
            rustix::fs::openat(CWD, path, sys::LIST, Mode::empty())
                .map_err(StoreError::io("open the directory", path))
        };
        let (from, into) = (open(upper)?, open(self.upper())?);
        let mut copy = Copy {
            top: rustix::io::fcntl_dupfd_cloexec(&into, 0)
                .map_err(StoreError::io("open the directory", self.upper()))?,
            links: HashMap::new(),
        };
        copy.directory(&from, &into, b"", 0)
    }
}

struct Copy {
    /// Root of the copy.
    top: OwnedFd,
    /// First names of files with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Copy {
    fn directory(
        &mut self,
        from: &OwnedFd,
        into: &OwnedFd,
        path: &[u8],
        depth: usize,
    ) -> Result<(), StoreError> {
        if depth > MAX_DEPTH {
            return Err(StoreError::inside("copy", path)(Errno::NAMETOOLONG));
        }
        let names = sys::sorted_names(from).map_err(StoreError::inside("list", path))?;
        for name in names {
            let child = join(path, &name);
            let found = rustix::fs::statat(from, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(StoreError::inside("look at", &child))?;
            self.entry(from, into, &name, &child, &found, depth)?;
        }
        let found = rustix::fs::fstat(from).map_err(StoreError::inside("look at", path))?;
        attributes((from, into), b".", path)?;
        owner(into, b"", &found, AtFlags::EMPTY_PATH, path)?;
        rustix::fs::fchmod(into, Mode::from_raw_mode(found.st_mode & 0o7777))
            .map_err(StoreError::inside("set the mode of", path))?;
        rustix::fs::futimens(into, &times(&found))
            .map_err(StoreError::inside("set the times of", path))
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        into: &OwnedFd,
        name: &[u8],
        path: &[u8],
        found: &Stat,
        depth: usize,
    ) -> Result<(), StoreError> {
        let kind = FileType::from_raw_mode(found.st_mode);
        let key = (found.st_dev, found.st_ino);
        let linked = kind != FileType::Directory && found.st_nlink > 1;
        if linked && let Some(first) = self.links.get(&key) {
            return rustix::fs::linkat(&self.top, first.as_slice(), into, name, AtFlags::empty())
                .map_err(StoreError::inside("link", path));
        }
        match kind {
            FileType::Directory => {
                let open = |parent: &OwnedFd| {
                    rustix::fs::openat(parent, name, sys::LIST, Mode::empty())
                        .map_err(StoreError::inside("open the directory", path))
                };
                let below = open(from)?;
                rustix::fs::mkdirat(into, name, Mode::RWXU)
                    .map_err(StoreError::inside("create the directory", path))?;
                return self.directory(&below, &open(into)?, path, depth + 1);
            }
            FileType::RegularFile => content(from, into, name, path)?,
            FileType::Symlink => {
                let target =
                    sys::readlink(from, name).map_err(StoreError::inside("read the link", path))?;
                rustix::fs::symlinkat(target.as_slice(), into, name)
                    .map_err(StoreError::inside("create", path))?;
            }
            FileType::Socket => return Ok(()),
            kind => rustix::fs::mknodat(into, name, kind, Mode::empty(), found.st_rdev)
                .map_err(StoreError::inside("create", path))?,
        }
        attributes((from, into), name, path)?;
        owner(into, name, found, AtFlags::SYMLINK_NOFOLLOW, path)?;
        if kind != FileType::Symlink {
            let mode = Mode::from_raw_mode(found.st_mode & 0o7777);
            rustix::fs::chmodat(into, name, mode, AtFlags::empty())
                .map_err(StoreError::inside("set the mode of", path))?;
        }
        rustix::fs::utimensat(into, name, &times(found), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(StoreError::inside("set the times of", path))?;
        if linked {
            self.links.insert(key, path.to_vec());
        }
        Ok(())
    }
}

fn content(from: &OwnedFd, into: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), StoreError> {
    let old = rustix::fs::openat(from, name, sys::READ, Mode::empty())
        .map_err(StoreError::inside("open", path))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let new = rustix::fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(StoreError::inside("create", path))?;
    let (old, new) = (File::from(old), File::from(new));
    if rustix::fs::ioctl_ficlone(&new, &old).is_err() {
        crate::holes::copy_content(&old, &new, &|| false)
            .map_err(StoreError::inside("copy", path))?;
    }
    Ok(())
}

/// Copies all attributes; what a security module keeps to itself stays behind.
fn attributes(
    (from, into): (&OwnedFd, &OwnedFd),
    name: &[u8],
    path: &[u8],
) -> Result<(), StoreError> {
    let (old, new) = (sys::proc_path(from, name), sys::proc_path(into, name));
    let names =
        sys::xattr_names(from, name).map_err(StoreError::inside("list the attributes of", path))?;
    for attribute in names {
        let Ok(text) = std::str::from_utf8(&attribute) else {
            continue;
        };
        let value = sys::path_xattr(&old, text)
            .map_err(StoreError::inside("read the attributes of", path))?;
        let Some(value) = value else { continue };
        match rustix::fs::lsetxattr(new.as_slice(), text, &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(StoreError::inside("set an attribute of", path)(error)),
        }
    }
    Ok(())
}

/// Sets the owner, where it is another one than what was made has already.
fn owner(
    directory: &OwnedFd,
    name: &[u8],
    found: &Stat,
    flags: AtFlags,
    path: &[u8],
) -> Result<(), StoreError> {
    let made =
        rustix::fs::statat(directory, name, flags).map_err(StoreError::inside("look at", path))?;
    if (made.st_uid, made.st_gid) == (found.st_uid, found.st_gid) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), flags)
        .map_err(StoreError::inside("set the owner of", path))
}

fn times(found: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: found.st_mtime,
        tv_nsec: found.st_mtime_nsec as _,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
