//! One of the trees that a view merges.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::OFlags;

use super::split;
use crate::entry::Metadata;
use crate::error::ViewError;
use crate::open_root::{OpenRoot, RootFd};
use crate::sys;
use crate::tree::Layer;

/// One directory tree that takes part in the view.
pub(super) struct Source {
    pub(super) place: Place,
    /// Whiteouts and opaque marks mean something here.
    pub(super) overlay: bool,
    /// One of many: it knows the names at its top.
    pub(super) one_of_many: bool,
}

pub(super) enum Place {
    /// The layer's own tree.
    Layer(Layer),
    /// A tree that others may change while we look at it.
    Live(OpenRoot),
}

impl Source {
    /// Descriptor of the tree's root.
    fn root(&self) -> Result<RootFd<'_>, ViewError> {
        match &self.place {
            Place::Layer(layer) => layer.root_fd(),
            Place::Live(root) => root
                .fd()
                .map_err(ViewError::io("open the directory", root.path())),
        }
    }

    pub(super) fn lstat(&self, path: &[u8]) -> Result<Option<Metadata>, ViewError> {
        if let Place::Layer(layer) = &self.place
            && self.one_of_many
            && layer.lacks(path)?
        {
            return Ok(None);
        }
        let root = self.root()?;
        let found = match &self.place {
            Place::Layer(_) => sys::lstat(&*root, path),
            Place::Live(_) => lstat_live(&root, path),
        };
        found.map_err(ViewError::inside("look at", path))
    }

    /// Opens something that is no symlink; `path` has no symlinks in it.
    pub(super) fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, ViewError> {
        sys::open_beneath(&*self.root()?, path, flags).map_err(ViewError::inside("open", path))
    }

    pub(super) fn readlink(&self, path: &[u8]) -> Result<Vec<u8>, ViewError> {
        let (directory, name) = split(path);
        let directory = self.open(directory, sys::DIRECTORY)?;
        sys::readlink(&directory, name).map_err(ViewError::inside("read the link", path))
    }

    pub(super) fn is_opaque(&self, path: &[u8]) -> Result<bool, ViewError> {
        let may_be = match &self.place {
            Place::Layer(layer) => layer.may_be_opaque(),
            Place::Live(_) => self.overlay,
        };
        if !may_be {
            return Ok(false);
        }
        let directory = self.open(path, sys::DIRECTORY)?;
        sys::is_opaque(&directory, b".").map_err(ViewError::inside("read the attributes of", path))
    }

    /// The same tree once more.
    pub(super) fn again(&self) -> Source {
        match &self.place {
            Place::Layer(layer) => Source {
                place: Place::Layer(layer.clone()),
                overlay: self.overlay,
                one_of_many: self.one_of_many,
            },
            Place::Live(root) => Source::live(root.path(), self.overlay),
        }
    }

    pub(super) fn live(path: &Path, overlay: bool) -> Source {
        // The given path itself may be or contain a symlink: it comes from the caller.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Source {
            place: Place::Live(OpenRoot::new(path.to_path_buf(), flags)),
            overlay,
            one_of_many: false,
        }
    }
}

/// Stats below a tree that may change: a directory that became a symlink counts as gone.
fn lstat_live(root: &OwnedFd, path: &[u8]) -> std::io::Result<Option<Metadata>> {
    let (directory, name) = split(path);
    if directory.is_empty() {
        return sys::lstat(root, name);
    }
    match sys::open_beneath(root, directory, sys::DIRECTORY) {
        Ok(directory) => sys::lstat(&directory, name),
        Err(error) => match rustix::io::Errno::from_io_error(&error) {
            Some(
                rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP,
            ) => Ok(None),
            _ => Err(error),
        },
    }
}
