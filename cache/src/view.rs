//! The merged tree of a chain of layers, looked at without mounting anything.
//!
//! This is the overlay file system's rule set in user space: an upper entry hides a lower one, a
//! character device 0:0 hides what is below it, directories merge downwards until one is opaque,
//! is a whiteout, or is no directory.
//!
//! A path is resolved to its *canonical* form first: absolute inside the root, no symlink in any
//! parent. For each canonical directory the view knows which layers take part in it, so a name is
//! one `fstatat` a layer, on a path that cannot contain a symlink: sealed trees never change. The
//! directory on top may still be changed by somebody, so it is only reached through `openat2` with
//! symlinks refused.
//!
//! Path texts are byte strings relative to the root, without leading slash; `""` is the root.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::entry::{FileKind, Metadata, Timestamp};
use crate::error::ViewError;
use crate::sys;
use crate::tree::Layer;

mod content;
mod resolve;
mod source;
mod walk;

pub(crate) use content::is_overlay_attribute;
use source::{Place, Source};

pub use walk::WalkAction;

/// Symbolic links followed in one look-up, as in the kernel.
const MAX_LINKS: u32 = 40;

/// Views of more layers than this ask each layer once what is at its top: most layers have a few names
/// there, and to look for `/etc/hosts` in a thousand of them is a thousand system calls.
const FEW_LAYERS: usize = 4;

/// Directories whose merge is remembered; a bound on memory, not on correctness.
const REMEMBERED_DIRECTORIES: usize = 8192;

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
    /// Index of the tree it comes from, bottom first; the upper directory counts as the last.
    pub source: usize,
}

impl ViewEntry {
    /// Returns the last component; empty for the root.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Tells whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.metadata.kind == FileKind::Directory
    }

    /// Path below the root as the view's internals use it.
    pub(crate) fn key(&self) -> &[u8] {
        let path = self.path.as_os_str().as_bytes();
        path.strip_prefix(b"/").unwrap_or(path)
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

/// The merged tree of a chain of layers.
pub struct RootView {
    /// Bottom first.
    sources: Vec<Source>,
    directories: Mutex<HashMap<Vec<u8>, Arc<Directory>>>,
}

/// Which sources take part in a merged directory.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Canonical path, without leading slash.
    path: Vec<u8>,
    /// Indices into `RootView::sources`, topmost first.
    sources: Vec<usize>,
}

impl Directory {
    /// Path of a child.
    pub(crate) fn child(&self, name: &[u8]) -> Vec<u8> {
        join(&self.path, name)
    }
}

/// Joins a canonical directory and a name.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// Absolute form of a path without leading slash.
pub(crate) fn absolute(path: &[u8]) -> PathBuf {
    let mut text = Vec::with_capacity(path.len() + 1);
    text.push(b'/');
    text.extend_from_slice(path);
    PathBuf::from(OsString::from_vec(text))
}

/// Splits a path into its directory and its last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

impl RootView {
    /// Merges layers, bottom first.
    pub fn new(layers: &[Layer]) -> RootView {
        let mut sources: Vec<Source> = layers
            .iter()
            .rev()
            .flat_map(Layer::trees)
            .map(|layer| Source {
                place: Place::Layer(layer.clone()),
                overlay: true,
                one_of_many: layers.len() > FEW_LAYERS,
            })
            .collect();
        sources.reverse();
        RootView {
            sources,
            directories: Mutex::default(),
        }
    }

    /// Puts a directory in overlay form on top.
    pub fn with_upper(mut self, upper: &Path) -> RootView {
        self.sources.push(Source::live(upper, true));
        self.directories = Mutex::default();
        self
    }

    /// Looks at a single plain directory.
    pub fn of_directory(path: &Path) -> RootView {
        RootView {
            sources: vec![Source::live(path, false)],
            directories: Mutex::default(),
        }
    }

    /// The same view with a directory in overlay form on top.
    pub(crate) fn stacked(&self, upper: &Path) -> RootView {
        let mut sources: Vec<Source> = self.sources.iter().map(Source::again).collect();
        sources.push(Source::live(upper, true));
        RootView {
            sources,
            directories: Mutex::default(),
        }
    }

    /// Forgets which layers merge where; needed after directories of the upper were made or
    /// removed.
    pub(crate) fn forget_directories(&self) {
        self.directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Forgets where one directory comes from: call it after making that directory in the upper.
    pub fn forget_directory(&self, path: &Path) {
        let path = path.as_os_str().as_bytes();
        let path = path.strip_prefix(b"/").unwrap_or(path);
        self.directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(path);
    }

    /// The root as an entry.
    ///
    /// Its metadata is that of the topmost layer that says anything about `/`: most do not, their
    /// tar has no entry for it.
    pub(crate) fn root_entry(&self) -> Result<ViewEntry, ViewError> {
        let top = self.sources.iter().rposition(|source| match &source.place {
            Place::Layer(layer) => layer.has_root_entry(),
            Place::Live(_) => true,
        });
        let found = match top.or(if self.sources.is_empty() {
            None
        } else {
            Some(0)
        }) {
            Some(source) => self.sources[source]
                .lstat(b"")?
                .map(|metadata| (source, metadata)),
            None => None,
        };
        let (source, metadata) = found.unwrap_or((0, EMPTY_ROOT));
        Ok(ViewEntry {
            path: PathBuf::from("/"),
            metadata,
            link_target: None,
            source,
        })
    }

    /// The merged directory at a canonical path; none if there is no directory.
    pub(crate) fn directory(&self, path: &[u8]) -> Result<Option<Arc<Directory>>, ViewError> {
        if let Some(known) = self.remembered(path) {
            return Ok(Some(known));
        }
        if path.is_empty() {
            let mut sources = Vec::with_capacity(self.sources.len());
            let mut seen = HashSet::new();
            for index in (0..self.sources.len()).rev() {
                // What a layer says at its topmost place hides what it says further down.
                if let Place::Layer(layer) = &self.sources[index].place
                    && (layer.is_empty() || !seen.insert(layer.diff_id()))
                {
                    continue;
                }
                sources.push(index);
                if self.sources[index].is_opaque(b"")? {
                    break;
                }
            }
            return Ok(Some(self.remember(Directory {
                path: Vec::new(),
                sources,
            })));
        }
        let (parent, name) = split(path);
        let Some(parent) = self.directory(parent)? else {
            return Ok(None);
        };
        self.child_directory(&parent, name)
    }

    /// The merged directory `name` in `parent`; none if it is not there or no directory.
    pub(crate) fn child_directory(
        &self,
        parent: &Directory,
        name: &[u8],
    ) -> Result<Option<Arc<Directory>>, ViewError> {
        let path = parent.child(name);
        if let Some(known) = self.remembered(&path) {
            return Ok(Some(known));
        }
        let mut sources = Vec::new();
        for &index in &parent.sources {
            let source = &self.sources[index];
            match source.lstat(&path)? {
                None => {}
                Some(metadata) if metadata.kind == FileKind::Directory => {
                    sources.push(index);
                    if source.is_opaque(&path)? {
                        break;
                    }
                }
                Some(_) => break,
            }
        }
        if sources.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.remember(Directory { path, sources })))
    }

    fn remembered(&self, path: &[u8]) -> Option<Arc<Directory>> {
        self.directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
            .cloned()
    }

    fn remember(&self, directory: Directory) -> Arc<Directory> {
        let directory = Arc::new(directory);
        let mut known = self
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_DIRECTORIES {
            known.clear();
        }
        known.insert(directory.path.clone(), Arc::clone(&directory));
        directory
    }

    /// Looks at one name of a merged directory, following nothing.
    pub(crate) fn child(
        &self,
        directory: &Directory,
        name: &[u8],
    ) -> Result<Option<ViewEntry>, ViewError> {
        let path = directory.child(name);
        for &index in &directory.sources {
            let source = &self.sources[index];
            let Some(metadata) = source.lstat(&path)? else {
                continue;
            };
            if source.overlay && metadata.is_whiteout() {
                return Ok(None);
            }
            let link_target = match metadata.kind {
                FileKind::Symlink => Some(OsString::from_vec(source.readlink(&path)?)),
                _ => None,
            };
            let path = absolute(&path);
            return Ok(Some(ViewEntry {
                path,
                metadata,
                link_target,
                source: index,
            }));
        }
        Ok(None)
    }

    /// The names in a merged directory, sorted, whiteouts applied.
    pub(crate) fn names(&self, directory: &Directory) -> Result<Vec<Vec<u8>>, ViewError> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for &index in &directory.sources {
            let fd = self.sources[index].open(&directory.path, sys::LIST)?;
            let mut here = sys::names(&fd)
                .map_err(ViewError::inside("list the directory", &directory.path))?;
            names.append(&mut here);
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Lists a directory: merged, sorted by the bytes of the names.
    ///
    /// The path may lead through symlinks.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<ViewEntry>, ViewError> {
        let path = path.as_ref();
        let entry = self
            .lookup(path, Follow::Last)?
            .ok_or_else(|| ViewError::NotFound {
                path: path.to_path_buf(),
            })?;
        let directory = self
            .directory(entry.key())?
            .ok_or_else(|| ViewError::NotADirectory {
                path: path.to_path_buf(),
            })?;
        self.children(&directory)
    }

    /// The entries of a merged directory, sorted by name.
    pub(crate) fn children(&self, directory: &Directory) -> Result<Vec<ViewEntry>, ViewError> {
        let mut entries = Vec::new();
        for name in self.names(directory)? {
            if let Some(entry) = self.child(directory, &name)? {
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

/// What `/` is when there is no layer at all.
const EMPTY_ROOT: Metadata = Metadata {
    kind: FileKind::Directory,
    mode: 0o755,
    uid: 0,
    gid: 0,
    size: 0,
    mtime: Timestamp {
        seconds: 0,
        nanoseconds: 0,
    },
    ctime: Timestamp {
        seconds: 0,
        nanoseconds: 0,
    },
    rdev: (0, 0),
    nlink: 1,
    inode: (0, 0),
};
