//! The merged tree of a chain of layers, looked at without mounting anything.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::ViewError;
use crate::tree::Layer;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device (never 0:0, which is a whiteout).
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A file time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// Metadata of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky (0o7777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes; of a symlink the length of its target.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Device number (major, minor) of a device.
    pub rdev: (u32, u32),
    /// Number of hard links within its layer.
    pub nlink: u64,
    /// Device and inode number: the same for hard links to one file.
    pub inode: (u64, u64),
}

/// Whether a look-up follows a symbolic link that is the last component.
///
/// Links in the middle of a path are always followed, inside the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// A symlink is returned as such.
    None,
    /// A symlink is followed, as often as need be.
    Last,
}

/// An entry of the merged tree.
#[derive(Debug, Clone)]
pub struct ViewEntry {
    /// Absolute path inside the root, free of symlinks in its parents.
    pub path: PathBuf,
    /// What `lstat` says.
    pub metadata: Metadata,
    /// Target of a symlink.
    pub link_target: Option<OsString>,
    /// Index of the layer it comes from, bottom first; the upper directory counts as the last.
    pub source: usize,
}

impl ViewEntry {
    /// Returns the last component; empty for the root.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

/// What [`RootView::resolve`] found.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Absolute path inside the root of the part that exists, free of symlinks.
    pub path: PathBuf,
    /// Components below it that do not exist.
    pub missing: Vec<OsString>,
    /// The entry, if nothing is missing.
    pub entry: Option<ViewEntry>,
}

/// How a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkAction {
    /// With the children, then the next sibling.
    Continue,
    /// With the next sibling.
    SkipChildren,
    /// Not at all.
    Stop,
}

/// The merged tree of a chain of layers.
pub struct RootView {}

fn pending(path: &Path) -> ViewError {
    ViewError::NotFound {
        path: path.to_path_buf(),
    }
}

impl RootView {
    /// Merges layers, bottom first.
    pub fn new(layers: &[Layer]) -> RootView {
        let _ = layers;
        RootView {}
    }

    /// Puts a directory in overlay form on top.
    pub fn with_upper(self, upper: &Path) -> RootView {
        let _ = upper;
        self
    }

    /// Looks at a single plain directory.
    pub fn of_directory(path: &Path) -> RootView {
        let _ = path;
        RootView {}
    }

    /// Looks a path up; `..` and absolute link targets stay inside the root.
    pub fn lookup(
        &self,
        path: impl AsRef<Path>,
        follow: Follow,
    ) -> Result<Option<ViewEntry>, ViewError> {
        let _ = follow;
        Err(pending(path.as_ref()))
    }

    /// Resolves as much of a path as exists, following all symlinks.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<Resolved, ViewError> {
        Err(pending(path.as_ref()))
    }

    /// Lists a directory: merged, sorted by the bytes of the names.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<ViewEntry>, ViewError> {
        Err(pending(path.as_ref()))
    }

    /// Opens a regular file for reading.
    pub fn open(&self, entry: &ViewEntry) -> Result<File, ViewError> {
        Err(pending(&entry.path))
    }

    /// Reads a small regular file, following symlinks in the root; none if nothing is there.
    pub fn read_small(
        &self,
        path: impl AsRef<Path>,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, ViewError> {
        let _ = limit;
        Err(pending(path.as_ref()))
    }

    /// Returns the extended attributes of an entry, sorted by name; overlay's own are left out.
    pub fn xattrs(&self, entry: &ViewEntry) -> Result<Vec<(OsString, Vec<u8>)>, ViewError> {
        Err(pending(&entry.path))
    }

    /// Walks the tree below `from` depth first, names in byte order.
    ///
    /// The callback gets the path relative to `from`; `from` itself is visited first with an empty
    /// path. Symlinks are not followed, except in `from`.
    pub fn walk<E: From<ViewError>>(
        &self,
        from: &Path,
        visit: &mut dyn FnMut(&Path, &ViewEntry) -> Result<WalkAction, E>,
    ) -> Result<(), E> {
        let _ = visit;
        Err(pending(from).into())
    }
}
