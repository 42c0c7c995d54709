//! A directory tree of this machine that others may change while it is read: one system call an
//! entry, by the descriptor of its directory.
//!
//! Nothing is followed: a path with a symlink in it is not there. An entry that vanishes between two
//! calls counts as never there; one that changed its kind is an error.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::entry::{FileKind, Metadata};
use crate::error::ViewError;
use crate::sys;
use crate::view::absolute;

/// Bytes of directory entries that are read at once.
const LISTING: usize = 64 << 10;

/// A tree that may change while it is read.
#[derive(Debug)]
pub struct LiveTree {
    root: OwnedFd,
}

/// One open directory of it.
#[derive(Debug)]
pub struct LiveDirectory {
    fd: OwnedFd,
    /// Path below the root, without leading slash.
    path: Vec<u8>,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveName {
    /// Its bytes.
    pub name: Vec<u8>,
    /// Whether it is a directory, where the file system tells without being asked for more.
    pub is_directory: Option<bool>,
}

impl LiveTree {
    /// Opens the directory at `path`, which may be or lead through a symlink.
    pub fn open(path: &Path) -> Result<LiveTree, ViewError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(ViewError::io("open the directory", path))?;
        Ok(LiveTree { root })
    }

    /// Opens a directory below the root; none if it is not there, or no directory.
    ///
    /// # Errors
    ///
    /// The kernel's, such as missing permission.
    pub fn directory(&self, path: &[u8]) -> Result<Option<LiveDirectory>, ViewError> {
        LiveDirectory::below(&self.root, path)
    }
}

impl LiveDirectory {
    pub(crate) fn below(root: &OwnedFd, path: &[u8]) -> Result<Option<LiveDirectory>, ViewError> {
        match sys::open_beneath(root, path, sys::LIST) {
            Ok(fd) => Ok(Some(LiveDirectory {
                fd,
                path: path.to_vec(),
            })),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                _ => Err(ViewError::inside("open the directory", path)(error)),
            },
        }
    }

    /// Path of this directory, or of a name in it, inside the root.
    pub fn path(&self, name: &[u8]) -> PathBuf {
        absolute(&self.join(name))
    }

    fn join(&self, name: &[u8]) -> Vec<u8> {
        match name {
            [] => self.path.clone(),
            name => crate::view::join(&self.path, name),
        }
    }

    /// The names in it, in no order.
    pub fn names(&self) -> Result<Vec<LiveName>, ViewError> {
        let failed = |error: Errno| ViewError::inside("list the directory", &self.path)(error);
        let mut buffer = Vec::with_capacity(LISTING);
        let mut entries = RawDir::new(&self.fd, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let is_directory = match entry.file_type() {
                FileType::Unknown => None,
                kind => Some(kind == FileType::Directory),
            };
            names.push(LiveName {
                name: name.to_vec(),
                is_directory,
            });
        }
        Ok(names)
    }

    /// What `lstat` says of a name; of the empty one, of the directory itself.
    pub fn metadata(&self, name: &[u8]) -> Result<Option<Metadata>, ViewError> {
        // What is recorded in a stranger's files means nothing here.
        sys::foreign_lstat(&self.fd, name).map_err(ViewError::inside("look at", &self.join(name)))
    }

    /// The target of a symlink.
    pub fn link_target(&self, name: &[u8]) -> Result<OsString, ViewError> {
        sys::readlink(&self.fd, name)
            .map(OsString::from_vec)
            .map_err(ViewError::inside("read the link", &self.join(name)))
    }

    /// Opens a regular file; anything else is an error.
    pub fn open(&self, name: &[u8]) -> Result<File, ViewError> {
        let file = sys::open_beneath(&self.fd, name, sys::READ)
            .map_err(ViewError::inside("open", &self.join(name)))?;
        let now = sys::fstat(&file).map_err(ViewError::inside("look at", &self.join(name)))?;
        if now.kind == FileKind::File {
            Ok(File::from(file))
        } else {
            Err(ViewError::NotAFile {
                path: self.path(name),
            })
        }
    }
}

impl AsFd for LiveDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What is known about an open file.
pub fn metadata_of(file: &File) -> std::io::Result<Metadata> {
    sys::fstat(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_without_following_anything() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/file"), "text").unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        let tree = LiveTree::open(root).unwrap();
        assert!(tree.directory(b"link").unwrap().is_none());
        assert!(tree.directory(b"none").unwrap().is_none());
        let a = tree.directory(b"a").unwrap().unwrap();
        let mut names = a.names().unwrap();
        names.sort_by(|x, y| x.name.cmp(&y.name));
        let names: Vec<_> = names.iter().map(|name| name.name.as_slice()).collect();
        assert_eq!(names, [&b"b"[..], b"file"]);
        assert_eq!(a.metadata(b"file").unwrap().unwrap().size, 4);
        assert!(a.metadata(b"gone").unwrap().is_none());
        assert!(a.open(b"b").is_err());
        let file = a.open(b"file").unwrap();
        assert_eq!(metadata_of(&file).unwrap().kind, FileKind::File);
        let top = tree.directory(b"").unwrap().unwrap();
        assert_eq!(top.link_target(b"link").unwrap(), "a");
        assert_eq!(top.path(b"link"), Path::new("/link"));
    }
}
