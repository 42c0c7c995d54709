//! Walking a merged tree.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Follow, RootView, ViewEntry};
use crate::error::ViewError;

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

impl RootView {
    /// The names in a directory at a canonical path, sorted, deleted ones among them; none if no
    /// directory is there.
    pub fn names_in(&self, path: &Path) -> Result<Vec<Vec<u8>>, ViewError> {
        let path = path.as_os_str().as_bytes();
        match self.directory(path.strip_prefix(b"/").unwrap_or(path))? {
            Some(directory) => self.names(&directory),
            None => Ok(Vec::new()),
        }
    }

    /// Walks the tree below `from` depth first, names in byte order.
    ///
    /// The callback gets the path relative to `from`; `from` itself is visited first, with an empty
    /// path. Symlinks are not followed, except on the way to `from` and in it.
    pub fn walk<E: From<ViewError>>(
        &self,
        from: &Path,
        visit: &mut dyn FnMut(&Path, &ViewEntry) -> Result<WalkAction, E>,
    ) -> Result<(), E> {
        let start = self
            .lookup(from, Follow::Last)?
            .ok_or_else(|| ViewError::NotFound {
                path: from.to_path_buf(),
            })?;
        // Entries still to visit, next one last, with how deep below `from` they are.
        let mut todo = vec![(start, 0_usize)];
        let mut relative: Vec<Vec<u8>> = Vec::new();
        while let Some((entry, depth)) = todo.pop() {
            if depth > 0 {
                relative.truncate(depth - 1);
                relative.push(entry.name().as_bytes().to_vec());
            }
            let path: PathBuf = relative
                .iter()
                .map(|name| OsStr::from_bytes(name))
                .collect();
            match visit(&path, &entry)? {
                WalkAction::Stop => return Ok(()),
                WalkAction::SkipChildren => continue,
                WalkAction::Continue => {}
            }
            if entry.is_directory()
                && let Some(directory) = self.directory(entry.key())?
            {
                let children = self.children(&directory)?;
                todo.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
            }
        }
        Ok(())
    }
}
