//! Writing into the upper directory of a draft, by descriptor only.
//!
//! Every path given here is canonical in the view: absolute, without symlinks, `.` or `..`. It is
//! still opened with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, so a mistake above is an error and
//! never a file outside.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::{
    FileKind, Follow, Metadata, Resolved, RootView, Timestamp, ViewError, copy_content, owners,
};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, futimens,
    lsetxattr, mkdirat, mknodat, openat2, symlinkat, unlinkat, utimensat,
};

use crate::cancel::Cancel;
use crate::tree::relative;

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum UpperError {
    /// A parent is not a directory.
    #[error("`{}` is not a directory", path.display())]
    NotDirectory {
        /// The path inside the root.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The path inside the root.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tree below could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// How directories that do not exist yet are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewDirectory {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since 1970; now if none.
    pub epoch: Option<i64>,
}

/// Metadata of a file to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewFile {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time; now if none.
    pub mtime: Option<Timestamp>,
    /// Extended attributes.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

/// The upper directory and the merged view through it.
pub(crate) struct Upper {
    root: OwnedFd,
    view: RootView,
    /// Times to set on directories when everything in them is done.
    directory_times: BTreeMap<PathBuf, Timestamp>,
}

const CONFINED: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

impl Upper {
    /// Opens the upper directory.
    pub(crate) fn open(path: &Path, view: RootView) -> Result<Upper, UpperError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| failed("open", path, error))?;
        Ok(Upper {
            root,
            view,
            directory_times: BTreeMap::new(),
        })
    }

    /// The merged tree, what was written so far included.
    pub(crate) fn view(&self) -> &RootView {
        &self.view
    }

    /// Makes the missing components of a resolved path; returns the whole path.
    pub(crate) fn make_path(
        &mut self,
        resolved: &Resolved,
        new: &NewDirectory,
    ) -> Result<PathBuf, UpperError> {
        let mut path = resolved.path.clone();
        self.copy_up(&path)?;
        for name in &resolved.missing {
            path.push(name);
            self.make_directory(&path, new)?;
        }
        Ok(path)
    }

    /// Makes one new directory below one that is in the upper directory already.
    pub(crate) fn make_directory(
        &mut self,
        path: &Path,
        new: &NewDirectory,
    ) -> Result<(), UpperError> {
        let (parent, name) = self.parent(path)?;
        mkdirat(&parent, name, Mode::from_raw_mode(0o700))
            .map_err(|error| failed("make the directory", path, error))?;
        // The view may remember this directory as one of the lower layers only.
        self.view.forget_directory(path);
        let directory = self.directory(path)?;
        set_owner_and_mode(&directory, path, new.uid, new.gid, new.mode)?;
        if let Some(epoch) = new.epoch {
            self.set_directory_time(
                path,
                Timestamp {
                    seconds: epoch,
                    nanoseconds: 0,
                },
            );
        }
        Ok(())
    }

    /// Gives a directory that is in the upper directory another owner, mode and attributes.
    pub(crate) fn change_directory(
        &mut self,
        path: &Path,
        new: &NewFile,
    ) -> Result<(), UpperError> {
        let directory = self.directory(path)?;
        set_metadata(directory.as_fd(), path, new)?;
        if let Some(mtime) = new.mtime {
            self.set_directory_time(path, mtime);
        }
        Ok(())
    }

    /// Sets a directory's time when all is done.
    pub(crate) fn set_directory_time(&mut self, path: &Path, time: Timestamp) {
        self.directory_times.insert(path.to_path_buf(), time);
    }

    /// Whether a directory gets a time when all is done, and not that of when it was made.
    pub(crate) fn has_directory_time(&self, path: &Path) -> bool {
        self.directory_times.contains_key(path)
    }

    /// Makes sure that an existing directory and its parents are in the upper directory, with the
    /// metadata they have below.
    pub(crate) fn copy_up(&mut self, path: &Path) -> Result<(), UpperError> {
        let mut current = PathBuf::from("/");
        for component in relative(path).components() {
            current.push(component);
            match self.directory(&current) {
                Ok(_) => continue,
                Err(UpperError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let entry = self.view.lookup(&current, Follow::None)?;
            let Some(entry) = entry.filter(|e| e.metadata.kind == FileKind::Directory) else {
                return Err(UpperError::NotDirectory { path: current });
            };
            let xattrs = self.view.xattrs(&entry)?;
            let Metadata {
                mode,
                uid,
                gid,
                mtime,
                ..
            } = entry.metadata;
            self.make_directory(
                &current,
                &NewDirectory {
                    mode,
                    uid,
                    gid,
                    epoch: None,
                },
            )?;
            let directory = self.directory(&current)?;
            set_xattrs(directory.as_fd(), &current, &xattrs)?;
            self.set_directory_time(&current, mtime);
        }
        Ok(())
    }

    /// Removes what is at `path` in the upper directory, if anything, unless it is a directory.
    fn clear(&self, path: &Path) -> Result<(), UpperError> {
        let (parent, name) = self.parent(path)?;
        match unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("replace", path, error)),
        }
    }

    /// Writes a regular file, replacing a non-directory.
    pub(crate) fn write_file(
        &mut self,
        path: &Path,
        content: &mut dyn Read,
        new: &NewFile,
    ) -> Result<(), UpperError> {
        let mut file = self.create(path, new)?;
        io::copy(content, &mut file).map_err(|source| write_failed(path, source))?;
        finish_file(&file, path, new)
    }

    /// Writes a regular file with the content of an open file, letting the kernel copy.
    pub(crate) fn copy_file(
        &mut self,
        path: &Path,
        source: &File,
        new: &NewFile,
        cancel: &Cancel,
    ) -> Result<(), UpperError> {
        self.clear(path)?;
        let (parent, name) = self.parent(path)?;
        Place::new(&parent, name, path).copy(source, new, cancel)
    }

    fn create(&self, path: &Path, new: &NewFile) -> Result<File, UpperError> {
        self.clear(path)?;
        let (parent, name) = self.parent(path)?;
        Place::new(&parent, name, path).create(new)
    }

    /// Makes a symlink, replacing a non-directory.
    pub(crate) fn symlink(
        &mut self,
        path: &Path,
        target: &OsStr,
        new: &NewFile,
    ) -> Result<(), UpperError> {
        self.clear(path)?;
        let (parent, name) = self.parent(path)?;
        Place::new(&parent, name, path).symlink(target, new)
    }

    /// Makes a fifo or device node, replacing a non-directory.
    pub(crate) fn node(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        new: &NewFile,
    ) -> Result<(), UpperError> {
        self.clear(path)?;
        let (parent, name) = self.parent(path)?;
        Place::new(&parent, name, path).node(metadata, new)
    }

    /// Marks a path as deleted, in overlay's form; the time of its directory stays.
    pub(crate) fn whiteout(&mut self, path: &Path) -> Result<(), UpperError> {
        let (parent, name) = self.parent(path)?;
        let before = rustix::fs::fstat(&parent).map_err(|error| failed("look at", path, error))?;
        let kind = FileType::CharacterDevice;
        mknodat(&parent, name, kind, Mode::empty(), 0)
            .map_err(|error| failed("mark as deleted", path, error))?;
        let time = Timestamp {
            seconds: before.st_mtime,
            nanoseconds: before.st_mtime_nsec as u32,
        };
        futimens(&parent, &times(time)).map_err(|error| failed("set the time of", path, error))
    }

    /// Makes a hard link to a file written before, replacing a non-directory.
    pub(crate) fn hard_link(&mut self, path: &Path, first: &Path) -> Result<(), UpperError> {
        self.clear(path)?;
        let (old_parent, old_name) = self.parent(first)?;
        let (parent, name) = self.parent(path)?;
        rustix::fs::linkat(&old_parent, old_name, &parent, name, AtFlags::empty())
            .map_err(|error| failed("create the hard link", path, error))
    }

    /// Sets the remembered directory times, deepest first.
    pub(crate) fn finish(&mut self) -> Result<(), UpperError> {
        let remembered = std::mem::take(&mut self.directory_times);
        for (path, time) in remembered.iter().rev() {
            let directory = self.directory(path)?;
            futimens(&directory, &times(*time))
                .map_err(|error| failed("set the time of", path, error))?;
        }
        Ok(())
    }

    /// Opens a directory that is in the upper directory.
    pub(super) fn directory(&self, path: &Path) -> Result<OwnedFd, UpperError> {
        let inside = relative(path);
        let inside = if inside.as_os_str().is_empty() {
            Path::new(".")
        } else {
            inside
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(&self.root, inside, flags, Mode::empty(), CONFINED)
            .map_err(|error| failed("open the directory", path, error))
    }

    fn parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), UpperError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(UpperError::NotDirectory {
                path: path.to_path_buf(),
            });
        };
        Ok((self.directory(parent)?, name))
    }
}

/// A name that nothing has yet, in an open directory of the upper.
pub(super) struct Place<'a> {
    directory: &'a OwnedFd,
    name: &'a OsStr,
    /// For messages.
    path: &'a Path,
}

impl<'a> Place<'a> {
    pub(super) fn new(directory: &'a OwnedFd, name: &'a OsStr, path: &'a Path) -> Place<'a> {
        Place {
            directory,
            name,
            path,
        }
    }

    fn create(&self, new: &NewFile) -> Result<File, UpperError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = owners::mode_to_make(new.mode);
        openat2(self.directory, self.name, flags, mode, CONFINED)
            .map(File::from)
            .map_err(|error| failed("create", self.path, error))
    }

    /// Writes a regular file with the content of an open file, letting the kernel copy.
    pub(super) fn copy(
        &self,
        source: &File,
        new: &NewFile,
        cancel: &Cancel,
    ) -> Result<(), UpperError> {
        let file = self.create(new)?;
        copy_content(source, &file, &|| cancel.is_cancelled())
            .map_err(|source| write_failed(self.path, source))?;
        finish_file(&file, self.path, new)
    }

    /// The same for a file of `size` bytes that fits into the buffer, which costs two calls less.
    pub(super) fn copy_small(
        &self,
        mut source: &File,
        size: u64,
        buffer: &mut [u8],
        new: &NewFile,
    ) -> Result<(), UpperError> {
        let failed = |source| write_failed(self.path, source);
        let count = source.read(buffer).map_err(failed)?;
        let mut file = self.create(new)?;
        file.write_all(&buffer[..count]).map_err(failed)?;
        if count as u64 != size {
            // It has changed since it was looked at, or its file system gives less than was asked for.
            io::copy(&mut source, &mut file).map_err(failed)?;
        }
        finish_file(&file, self.path, new)
    }

    /// Makes a symlink.
    pub(super) fn symlink(&self, target: &OsStr, new: &NewFile) -> Result<(), UpperError> {
        symlinkat(target, self.directory, self.name)
            .map_err(|error| failed("create the link", self.path, error))?;
        finish_by_name(self.directory, self.name, self.path, new)
    }

    /// Makes a fifo or device node.
    pub(super) fn node(&self, metadata: &Metadata, new: &NewFile) -> Result<(), UpperError> {
        let rights = (new.uid, new.gid, new.mode);
        let name = self.name.as_bytes();
        owners::make_node(self.directory, name, metadata.kind, metadata.rdev, rights)
            .map_err(|error| io_failed("create the node", self.path, error))?;
        finish_by_name(self.directory, self.name, self.path, new)
    }
}

fn raw(fd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd()
}

pub(super) fn times(time: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Owner first: changing it takes setuid bits away.
pub(super) fn set_owner_and_mode(
    file: impl AsFd,
    path: &Path,
    uid: u32,
    gid: u32,
    mode: u32,
) -> Result<(), UpperError> {
    owners::set(file, uid, gid, mode)
        .map_err(|error| io_failed("set owner and mode of", path, error))
}

pub(super) fn set_xattrs(
    file: BorrowedFd<'_>,
    path: &Path,
    xattrs: &[(OsString, Vec<u8>)],
) -> Result<(), UpperError> {
    for (name, value) in xattrs {
        owners::set_attribute(file, name.as_bytes(), value)
            .map_err(|error| failed("set an extended attribute of", path, error))?;
    }
    Ok(())
}

/// Owner, mode and attributes, in the order in which they do not undo each other: another owner takes
/// file capabilities away, and where owners are recorded a mode may take the right to set attributes.
pub(super) fn set_metadata(
    file: BorrowedFd<'_>,
    path: &Path,
    new: &NewFile,
) -> Result<(), UpperError> {
    if owners::are_recorded() {
        set_xattrs(file, path, &new.xattrs)?;
        return set_owner_and_mode(file, path, new.uid, new.gid, new.mode);
    }
    set_owner_and_mode(file, path, new.uid, new.gid, new.mode)?;
    set_xattrs(file, path, &new.xattrs)
}

fn io_failed(action: &'static str, path: &Path, source: io::Error) -> UpperError {
    UpperError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

pub(super) fn failed(action: &'static str, path: &Path, error: rustix::io::Errno) -> UpperError {
    UpperError::Io {
        action,
        path: path.to_path_buf(),
        source: error.into(),
    }
}

fn write_failed(path: &Path, source: io::Error) -> UpperError {
    UpperError::Io {
        action: "write",
        path: path.to_path_buf(),
        source,
    }
}

fn finish_file(file: &File, path: &Path, new: &NewFile) -> Result<(), UpperError> {
    set_metadata(file.as_fd(), path, new)?;
    if let Some(mtime) = new.mtime {
        futimens(file, &times(mtime)).map_err(|error| failed("set the time of", path, error))?;
    }
    Ok(())
}

fn finish_by_name(
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
    new: &NewFile,
) -> Result<(), UpperError> {
    owners::set_owner_at(parent, name.as_bytes(), new.uid, new.gid)
        .map_err(|error| io_failed("set the owner of", path, error))?;
    for (attribute, value) in &new.xattrs {
        // Only links and nodes come here; most file systems refuse user attributes on them.
        let link = format!("/proc/self/fd/{}/{}", raw(parent), name.to_string_lossy());
        let _ignored = lsetxattr(link, attribute.as_os_str(), value, XattrFlags::empty());
    }
    if let Some(mtime) = new.mtime {
        utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed("set the time of", path, error))?;
    }
    Ok(())
}
