//! Stacks: the lowest layers of a deep image as one directory.
//!
//! The kernel stacks no more than 500 directories, fewer before Linux 6.8, and looks through all of
//! them for a name that is in none. So a deep image is not mounted layer by layer: its lowest
//! layers are laid on each other once, with files that are hard links to those of the layers.
//!
//! ```text
//! stacks/<hex>/         named by the diff IDs of its layers; published by rename
//!     layers            digest of the headers, then the diff IDs, bottom first; its time is the last use
//!     root/             the lower directory
//! ```
//!
//! A stack is never flushed: after another boot all of them are removed and made again when they are
//! needed. Pruning removes a stack with any of its layers, since its links would keep their content.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, linkat, mkdirat};
use rustix::io::Errno;

use crate::digest::{DiffId, Digest};
use crate::entry::{FileKind, Metadata, Timestamp};
use crate::error::StoreError;
use crate::lease::Lease;
use crate::lock::{Hold, StoreLock};
use crate::owners;
use crate::plain;
use crate::remove::remove_at;
use crate::store::Store;
use crate::sys;
use crate::tree::{Layer, note_use};
use crate::view::{is_overlay_attribute, join};

pub(crate) mod keep;

/// So many layers are still mounted one by one.
const MOST: usize = 192;

/// A stack has a multiple of this many layers, so that few are made while a deep image is built.
const STEP: usize = 128;

/// So many layers at the top stay out of a stack.
const LEFT_OUT: usize = 64;

/// How many of `layers` go into a stack.
fn stacked(layers: usize) -> usize {
    if layers <= MOST {
        return 0;
    }
    (layers - LEFT_OUT) / STEP * STEP
}

impl Store {
    /// Makes a list of lower directories (topmost first) as short as the kernel wants it: where the
    /// lowest are many layers of this store, a stack takes their place, protected by `lease`.
    ///
    /// The caller protects the layers.
    ///
    /// # Errors
    ///
    /// A layer is gone or cannot be read, or the stack cannot be written.
    pub fn shorten(&self, lease: &Lease, lowers: &[PathBuf]) -> Result<Vec<PathBuf>, StoreError> {
        let trees = self.layout().trees();
        let layer_at = |path: &PathBuf| {
            let name = path.strip_prefix(&trees).ok()?.to_str()?;
            Digest::from_hex(name).ok().map(DiffId::from_digest)
        };
        let layers: Vec<DiffId> = lowers.iter().rev().map_while(layer_at).collect();
        let count = stacked(layers.len());
        if count == 0 {
            return Ok(lowers.to_vec());
        }
        let mut short = lowers[..lowers.len() - count].to_vec();
        short.push(self.stack(lease, &layers[..count])?);
        Ok(short)
    }

    /// The directory that shows these layers (bottom first), made if it is not there.
    fn stack(&self, lease: &Lease, layers: &[DiffId]) -> Result<PathBuf, StoreError> {
        let id = name_of(layers);
        // Before looking: what is there then stays there.
        lease.protect(&id)?;
        let place = self.layout().stack(&id);
        let list = place.join(LAYERS);
        let root = place.join(ROOT);
        if list.exists() {
            note_use(&list);
            return Ok(root);
        }
        let _lock = StoreLock::wait(
            &self.layout().named_lock(&format!("stack:{id}")),
            Hold::Exclusive,
        )?;
        if list.exists() {
            return Ok(root);
        }
        let scratch = self.scratch()?;
        let new = scratch.path().join("stack");
        make_directory(&new)?;
        make_directory(&new.join(ROOT))?;
        self.lay(layers, &new.join(ROOT))?;
        keep::write_list(&new, layers)?;
        std::fs::rename(&new, &place).map_err(StoreError::io("publish the stack", &place))?;
        Ok(root)
    }

    /// Lays the layers on each other in an empty directory.
    fn lay(&self, layers: &[DiffId], root: &Path) -> Result<(), StoreError> {
        let target = open(root)?;
        let mut times = BTreeMap::new();
        for (number, diff_id) in layers.iter().enumerate() {
            self.check_stop()
                .map_err(StoreError::stream("stack the layers"))?;
            let layer = self
                .layer(diff_id)?
                .ok_or(StoreError::MissingLayer { diff_id: *diff_id })?;
            if layer.entries() == 0 && number > 0 {
                continue;
            }
            Lay {
                layer: &layer,
                from: open(layer.path())?,
                root,
                target: &target,
                times: &mut times,
            }
            .all(number == 0)?;
        }
        // Deepest first, although no time is changed by setting one further down.
        for (path, time) in times.iter().rev() {
            let Ok(directory) = sys::open_beneath(&target, path, sys::LIST) else {
                // Removed by a later layer.
                continue;
            };
            rustix::fs::futimens(&directory, &plain::times(*time))
                .map_err(StoreError::inside("set the times of", path))?;
        }
        Ok(())
    }
}

/// Name of the list in a stack.
const LAYERS: &str = "layers";

/// Name of the directory in a stack.
const ROOT: &str = "root";

/// What a stack of these layers is called.
fn name_of(layers: &[DiffId]) -> Digest {
    let mut text = String::with_capacity(72 * layers.len());
    for layer in layers {
        text.push_str(&layer.hex());
        text.push('\n');
    }
    Digest::of(text.as_bytes())
}

fn make_directory(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .mode(0o755)
        .create(path)
        .map_err(StoreError::io("create the directory", path))
}

fn open(path: &Path) -> Result<OwnedFd, StoreError> {
    rustix::fs::openat(CWD, path, sys::LIST, Mode::empty())
        .map_err(StoreError::io("open the directory", path))
}

/// Lays one layer on what is there.
struct Lay<'a> {
    layer: &'a Layer,
    from: OwnedFd,
    /// Path of `target`.
    root: &'a Path,
    target: &'a OwnedFd,
    /// Times of the directories, set when nothing is changed in them any more.
    times: &'a mut BTreeMap<Vec<u8>, Timestamp>,
}

impl Lay<'_> {
    fn all(&mut self, lowest: bool) -> Result<(), StoreError> {
        let from = sys::open_beneath(&self.from, b"", sys::LIST)
            .map_err(StoreError::inside("open the directory", b""))?;
        if self.hides(&from)? {
            let names =
                sys::names(self.target).map_err(StoreError::inside("list the directory", b""))?;
            for name in names {
                remove_at(self.target, &name).map_err(StoreError::inside("remove", &name))?;
            }
        }
        if lowest || self.layer.has_root_entry() {
            let target = sys::open_beneath(self.target, b"", sys::LIST)
                .map_err(StoreError::inside("open the directory", b""))?;
            self.dress(&from, &target, b"")?;
        }
        // By path and not by recursion: a tree may be deeper than files can be open.
        let mut open = vec![Vec::new()];
        while let Some(path) = open.pop() {
            self.directory(&path, &mut open)?;
        }
        Ok(())
    }

    /// Whether what lies below a directory of the layer is hidden.
    fn hides(&self, directory: &OwnedFd) -> Result<bool, StoreError> {
        if !self.layer.may_be_opaque() {
            return Ok(false);
        }
        sys::is_opaque(directory, b".").map_err(StoreError::stream("read attributes"))
    }

    fn directory(&mut self, path: &[u8], open: &mut Vec<Vec<u8>>) -> Result<(), StoreError> {
        let failed = |action| StoreError::inside::<std::io::Error>(action, path);
        let from =
            sys::open_beneath(&self.from, path, sys::LIST).map_err(failed("open the directory"))?;
        let target = sys::open_beneath(self.target, path, sys::LIST)
            .map_err(failed("open the directory"))?;
        for name in sys::names(&from).map_err(failed("list the directory"))? {
            let child = join(path, &name);
            let failed = |action| StoreError::inside::<std::io::Error>(action, &child);
            let found = sys::lstat(&from, &name)
                .map_err(failed("look at"))?
                .ok_or_else(|| StoreError::inside("look at", &child)(Errno::NOENT))?;
            if found.is_whiteout() {
                remove_at(&target, &name).map_err(failed("remove"))?;
            } else if found.kind == FileKind::Directory {
                self.sub_directory(&from, &target, &name, &child)?;
                open.push(child);
            } else {
                self.link(&from, &target, &name, &child, &found)?;
            }
        }
        Ok(())
    }

    fn sub_directory(
        &mut self,
        from: &OwnedFd,
        target: &OwnedFd,
        name: &[u8],
        child: &[u8],
    ) -> Result<(), StoreError> {
        let failed = |action| StoreError::inside::<std::io::Error>(action, child);
        let here = rustix::fs::openat(from, name, sys::LIST, Mode::empty())
            .map_err(StoreError::inside("open the directory", child))?;
        let there = sys::lstat(target, name).map_err(failed("look at"))?;
        let stays = there.is_some_and(|there| there.kind == FileKind::Directory);
        if there.is_some() && (!stays || self.hides(&here)?) {
            remove_at(target, name).map_err(failed("replace"))?;
        }
        match mkdirat(target, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(StoreError::inside("create the directory", child)(error)),
        }
        let made = rustix::fs::openat(target, name, sys::LIST, Mode::empty())
            .map_err(StoreError::inside("open the directory", child))?;
        self.dress(&here, &made, child)
    }

    /// Gives a directory owner, mode and attributes of the layer's; its time comes at the end.
    fn dress(&mut self, from: &OwnedFd, to: &OwnedFd, path: &[u8]) -> Result<(), StoreError> {
        let failed = |action| StoreError::inside::<std::io::Error>(action, path);
        let wanted = sys::xattr_names(from, b".").map_err(failed("list the attributes of"))?;
        for name in sys::xattr_names(to, b".").map_err(failed("list the attributes of"))? {
            // Records of links in it hold as long as the links are there.
            if !name.starts_with(owners::LINK_RECORD.as_bytes()) && !wanted.contains(&name) {
                rustix::fs::fremovexattr(to, name.as_slice())
                    .map_err(StoreError::inside("remove an attribute of", path))?;
            }
        }
        for name in wanted.iter().filter(|name| !is_overlay_attribute(name)) {
            let text = std::str::from_utf8(name)
                .map_err(|_| StoreError::inside("read the attributes of", path)(Errno::ILSEQ))?;
            let value = sys::xattr(from, b".", text).map_err(failed("read the attributes of"))?;
            if let Some(value) = value {
                owners::set_attribute(to, name, &value)
                    .map_err(StoreError::inside("set an attribute of", path))?;
            }
        }
        // Where owners are recorded, the record was among the attributes.
        let found = rustix::fs::fstat(from).map_err(StoreError::inside("look at", path))?;
        if !owners::are_recorded() {
            owners::set_owner(to, found.st_uid, found.st_gid)
                .map_err(failed("set the owner of"))?;
        }
        rustix::fs::fchmod(to, Mode::from_raw_mode(found.st_mode & 0o7777))
            .map_err(StoreError::inside("set the mode of", path))?;
        let found = sys::fstat(from).map_err(failed("look at"))?;
        self.times.insert(path.to_vec(), found.mtime);
        Ok(())
    }

    /// Puts a file of the layer, whatever kind it has, in the place of what is there.
    fn link(
        &self,
        from: &OwnedFd,
        target: &OwnedFd,
        name: &[u8],
        child: &[u8],
        found: &Metadata,
    ) -> Result<(), StoreError> {
        let link = || linkat(from, name, target, name, AtFlags::empty());
        let mut linked = link();
        if linked == Err(Errno::EXIST) {
            remove_at(target, name).map_err(StoreError::inside("replace", child))?;
            linked = link();
        }
        match linked {
            // The file has as many names as its file system allows, or the system allows no links
            // to files of others.
            Err(Errno::MLINK | Errno::PERM) => {
                plain::copy_entry(self.layer, child, &self.root.join(sys::os(child)))?;
            }
            linked => linked.map_err(StoreError::inside("link", child))?,
        }
        if found.kind == FileKind::Symlink {
            owners::copy_link_record(from, target, name)
                .map_err(StoreError::inside("set the owner of", child))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_changes_seldom_while_layers_are_added() {
        let mut sizes = Vec::new();
        for layers in 0..=1100 {
            let count = stacked(layers);
            let mounted = layers - count + usize::from(count > 0);
            assert!(mounted <= MOST + 1, "{layers}: {mounted}");
            sizes.push(count);
        }
        sizes.dedup();
        assert_eq!(sizes, [0, 128, 256, 384, 512, 640, 768, 896, 1024]);
    }
}
