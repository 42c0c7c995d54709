//! Files that several layers have: links to one another, which take space once.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::path::Path;

use rustix::fs::{CWD, Mode};

use super::UsageKind;
use super::survey::{Item, Sharing, Survey};
use crate::entry::FileKind;
use crate::sys;
use crate::view::join;

impl Survey {
    /// Counts files that several layers have once: for the layer that stays longest.
    ///
    /// Only looks at files where some layer is known to have files of others.
    pub(super) fn share_out(&mut self) {
        if !self.items.iter().any(|item| item.sharing == Sharing::Yes) {
            return;
        }
        let needed = &self.needed;
        let mut layers: Vec<&mut Item> = self
            .items
            .iter_mut()
            .filter(|item| item.kind == UsageKind::Layer && item.sharing != Sharing::No)
            .collect();
        layers.sort_by_key(|item| {
            let is_needed = needed.contains_key(&item.digest);
            (!is_needed, Reverse(item.last_used), item.digest)
        });
        let mut counted = HashSet::new();
        for item in layers {
            // One that somebody is just removing keeps the size that it had.
            if let Ok(size) = own_content(&item.path, &mut counted) {
                item.size = size;
            }
        }
    }
}

/// Bytes of the files in a tree that are not counted yet.
fn own_content(tree: &Path, counted: &mut HashSet<(u64, u64)>) -> std::io::Result<u64> {
    let root = rustix::fs::openat(CWD, tree, sys::DIRECTORY, Mode::empty())?;
    let mut size = 0;
    let mut open = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let directory = sys::open_beneath(&root, &path, sys::LIST)?;
        for name in sys::names(&directory)? {
            let Some(found) = sys::foreign_lstat(&directory, &name)? else {
                continue;
            };
            match found.kind {
                FileKind::Directory => open.push(join(&path, &name)),
                FileKind::File if found.nlink == 1 || counted.insert(found.inode) => {
                    size += found.size;
                }
                _ => {}
            }
        }
    }
    Ok(size)
}
