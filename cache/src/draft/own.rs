//! What is in the upper directory of a layer that lies over an older version of itself.

use std::os::fd::OwnedFd;

use crate::checkpoints::in_tar_order;
use crate::entry::{FileKind, Metadata};
use crate::error::StoreError;
use crate::parts::Parts;
use crate::tree::Layer;
use crate::view::join;

/// The tree that is new.
pub(super) struct Own {
    /// Entries in it.
    pub(super) entries: u64,
    /// Bytes of its files.
    pub(super) content: u64,
    /// Some of its files have other names, too: in the older version.
    pub(super) shares: bool,
    /// Path of the first entry in the order of the tar that is not the same in the older version.
    first_change: Option<Vec<u8>>,
}

impl Own {
    /// Looks at the tree, beside the older version of the layer.
    pub(super) fn look(root: &OwnedFd, old: &Layer) -> Result<Own, StoreError> {
        let mut own = Own {
            entries: 0,
            content: 0,
            shares: false,
            first_change: None,
        };
        let old = old.roots()?;
        // Directories wait on a list, the next one last, so that changes are met in order.
        let mut waiting = vec![Vec::new()];
        while let Some(path) = waiting.pop() {
            let listing = |action| StoreError::inside::<std::io::Error>(action, &path);
            let here = Parts::open(&[root], &path).map_err(listing("open the directory"))?;
            let names = here.names().map_err(listing("list the directory"))?;
            let before = Parts::open(&old, &path).ok();
            let mut inside = Vec::new();
            for name in names {
                let child = join(&path, &name.text);
                let looking = |error| StoreError::inside("look at", &child)(error);
                let Some((_, found)) = here.find(&name.text).map_err(looking)? else {
                    continue;
                };
                let was = match &before {
                    Some(before) => before.find(&name.text).map_err(looking)?,
                    None => None,
                };
                if was.is_none_or(|(_, was)| !is_same(&found, &was)) {
                    own.change(&child);
                }
                own.count(&found);
                if found.kind == FileKind::Directory {
                    inside.push(child);
                }
            }
            inside.reverse();
            waiting.append(&mut inside);
        }
        Ok(own)
    }

    fn count(&mut self, found: &Metadata) {
        self.entries += u64::from(found.kind != FileKind::Socket);
        if found.kind == FileKind::File {
            self.content += found.size;
            self.shares |= found.nlink > 1;
        }
    }

    fn change(&mut self, path: &[u8]) {
        let first = self.first_change.as_deref();
        if first.is_none_or(|first| in_tar_order(path, first).is_lt()) {
            self.first_change = Some(path.to_vec());
        }
    }

    /// Whether all entries that come before this path in the tar are those of the older version.
    pub(super) fn is_unchanged_before(&self, path: &[u8]) -> bool {
        let first = self.first_change.as_deref();
        first.is_none_or(|first| in_tar_order(path, first).is_le())
    }
}

/// Whether an entry gives the same in a tar as the older one: a directory that says the same, or a file
/// that is the same.
fn is_same(new: &Metadata, old: &Metadata) -> bool {
    let says = |entry: &Metadata| (entry.mode, entry.uid, entry.gid, entry.mtime.seconds);
    match new.kind {
        FileKind::Directory => old.kind == FileKind::Directory && says(new) == says(old),
        FileKind::File => new.inode == old.inode,
        _ => false,
    }
}
