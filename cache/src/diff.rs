//! From a step's upper directory to the tree of its layer.
//!
//! Overlay leaves more in the upper directory than the step changed: copied-up parents, files that
//! were opened for writing or got the owner that they had, marks for deletions of things that the
//! step itself made. [`normalise`] takes all that away and writes every deletion as a whiteout of
//! its own, so that what remains is exactly the layer: its canonical tar can then be written, now
//! or later, without looking at the parents.
//!
//! What counts as a change is what BuildKit counts. A directory has changed if its type, mode or
//! owner has. Anything else that is in the upper directory is a change, with one exception: what the
//! kernel copied up and nobody changed afterwards, as `chown -R` to the owner that everything has
//! already leaves it by the thousand, and as a new hard link leaves its first name (case L10). Such
//! a file carries overlay's origin mark and has the type, mode, owner, device number, capability,
//! size, time down to the nanosecond and content of the one below. A file that a step wrote anew
//! with all that the same is in the layer (case K52).

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Component;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, Timespec, Timestamps, UTIME_OMIT};

use crate::draft::CommitOptions;
use crate::entry::{FileKind, Metadata};
use crate::error::StoreError;
use crate::marks::{self, make_whiteout};
use crate::sys;
use crate::tree_tar::{CAPABILITY, portable_capability};
use crate::view::{Directory, RootView, ViewEntry, join};

/// Directories kept open at the same time on the way down.
const OPEN_DIRECTORIES: usize = 64;

/// Bytes compared at once.
const CHUNK: usize = 128 << 10;

struct Diff<'a> {
    root: &'a OwnedFd,
    below: &'a RootView,
    /// Canonical paths of mount targets that the runtime made.
    stubs: Vec<Vec<u8>>,
    /// New directories need no look.
    written_here: bool,
    /// Owner of what is new and has no record.
    owner: Option<(u32, u32)>,
    /// Two buffers for comparing files.
    buffers: (Vec<u8>, Vec<u8>),
}

/// Turns the upper directory at `root` into the tree of a layer over `below`.
pub(crate) fn normalise(
    root: &OwnedFd,
    below: &RootView,
    options: &CommitOptions,
) -> Result<(), StoreError> {
    let stubs = options
        .stubs
        .iter()
        .map(|path| {
            let names: Vec<&[u8]> = path
                .components()
                .filter_map(|part| match part {
                    Component::Normal(name) => Some(std::os::unix::ffi::OsStrExt::as_bytes(name)),
                    _ => None,
                })
                .collect();
            names.join(&b'/')
        })
        .collect();
    let mut diff = Diff {
        root,
        below,
        stubs,
        written_here: options.written_here,
        owner: options.owner.filter(|owner| *owner != (0, 0)),
        buffers: (Vec::new(), Vec::new()),
    };
    let list = sys::open_beneath(root, b"", sys::LIST).map_err(StoreError::inside("open", b""))?;
    let parents = below.directory(b"")?;
    diff.directory(list, b"", parents.as_ref(), false, 0)?;
    Ok(())
}

impl Diff<'_> {
    /// Cleans one directory up; tells whether anything is left in it.
    ///
    /// `hidden`: the directory is new, so what `below` has here was deleted by the step.
    fn directory(
        &mut self,
        list: OwnedFd,
        path: &[u8],
        below: Option<&Arc<Directory>>,
        hidden: bool,
        depth: usize,
    ) -> Result<bool, StoreError> {
        let here = |action| StoreError::inside::<std::io::Error>(action, path);
        let before = sys::fstat(&list).map_err(here("look at"))?;
        let opaque = sys::is_opaque(&list, b".").map_err(here("read the attributes of"))?;
        let names = sys::sorted_names(&list).map_err(here("list the directory"))?;
        let hidden = hidden || opaque;
        let mut touched = false;
        let mut left = false;
        if opaque {
            remove_opaque(&list).map_err(here("change the attributes of"))?;
        }
        if hidden && let Some(below) = below {
            let gone = self.below.names(below)?;
            for name in gone {
                if names.binary_search(&name).is_err() && self.below.child(below, &name)?.is_some()
                {
                    make_whiteout(&list, &name).map_err(here("write a deletion in"))?;
                    touched = true;
                    left = true;
                }
            }
        }
        let mut list = Some(list);
        for name in names {
            let open = match list.take() {
                Some(list) => list,
                None => self.open(path)?,
            };
            let child = join(path, &name);
            let found = sys::lstat(&open, &name)
                .map_err(StoreError::inside("look at", &child))?
                .ok_or_else(|| vanished(&child))?;
            let old = match below {
                Some(below) => self.below.child(below, &name)?,
                None => None,
            };
            let is_new = self.is_new(&open, &name, &found, hidden || old.is_none())?;
            if self.written_here
                && old.is_none()
                && !found.is_whiteout()
                && found.kind != FileKind::Socket
            {
                left = true;
                list = Some(open);
                continue;
            }
            let keep = if found.kind == FileKind::Directory {
                let next = rustix::fs::openat(&open, name.as_slice(), sys::LIST, Mode::empty())
                    .map_err(StoreError::inside("open the directory", &child))?;
                if depth < OPEN_DIRECTORIES {
                    list = Some(open);
                }
                let old = old.filter(ViewEntry::is_directory);
                let below = match &old {
                    Some(old) => self.below.directory(old.key())?,
                    None => None,
                };
                let filled = self.directory(next, &child, below.as_ref(), hidden, depth + 1)?;
                filled || self.directory_changed(&child, &found, old.as_ref())
            } else {
                let keep = self.other_changed(&open, &name, &child, &found, old.as_ref())?;
                list = Some(open);
                keep
            };
            if keep {
                left = true;
                if let Some(owner) = self.owner.filter(|_| is_new) {
                    let open = match list.take() {
                        Some(list) => list,
                        None => self.open(path)?,
                    };
                    crate::owners::adopt_at(&open, &name, &found, owner)
                        .map_err(StoreError::inside("set the owner of", &child))?;
                    list = Some(open);
                }
                continue;
            }
            let open = match list.take() {
                Some(list) => list,
                None => self.open(path)?,
            };
            let flags = match found.kind {
                FileKind::Directory => AtFlags::REMOVEDIR,
                _ => AtFlags::empty(),
            };
            rustix::fs::unlinkat(&open, name.as_slice(), flags)
                .map_err(StoreError::inside("remove the unchanged", &child))?;
            touched = true;
            list = Some(open);
        }
        if touched {
            let open = match list {
                Some(list) => list,
                None => self.open(path)?,
            };
            restore_mtime(&open, &before).map_err(here("set the times of"))?;
        }
        Ok(left)
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, StoreError> {
        sys::open_beneath(self.root, path, sys::LIST)
            .map_err(StoreError::inside("open the directory", path))
    }

    fn directory_changed(&self, path: &[u8], found: &Metadata, old: Option<&ViewEntry>) -> bool {
        match old {
            Some(old) => !same_identity(found, &old.metadata),
            None => !self.is_stub(path),
        }
    }

    /// Tells whether the step made this, and did not only change what was there: asked where owners
    /// are recorded.
    fn is_new(
        &self,
        directory: &OwnedFd,
        name: &[u8],
        found: &Metadata,
        nothing_below: bool,
    ) -> Result<bool, StoreError> {
        if self.owner.is_none() || found.is_whiteout() {
            return Ok(false);
        }
        let copied_up = !nothing_below
            && sys::has_origin(directory, name)
                .map_err(StoreError::inside("read the attributes of", name))?;
        Ok(!copied_up)
    }

    fn is_stub(&self, path: &[u8]) -> bool {
        self.stubs.iter().any(|stub| stub == path)
    }

    fn other_changed(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        path: &[u8],
        found: &Metadata,
        old: Option<&ViewEntry>,
    ) -> Result<bool, StoreError> {
        if found.is_whiteout() {
            return Ok(old.is_some());
        }
        if found.kind == FileKind::Socket {
            return Ok(false);
        }
        let Some(old) = old else {
            let empty_file = found.kind == FileKind::File && found.size == 0;
            return Ok(!(empty_file && self.is_stub(path)));
        };
        let looks_the_same = same_identity(found, &old.metadata)
            && found.size == old.metadata.size
            && found.mtime == old.metadata.mtime;
        if !looks_the_same {
            return Ok(true);
        }
        // Without the mark it was made here, not copied up. Only of a file with several names the
        // kernel does not mark the copy.
        let copied_up = old.metadata.nlink > 1
            || sys::has_origin(directory, name)
                .map_err(StoreError::inside("read the attributes of", path))?;
        if !copied_up {
            return Ok(true);
        }
        match found.kind {
            FileKind::Symlink => {
                let target = sys::readlink(directory, name)
                    .map_err(StoreError::inside("read the link", path))?;
                let old = old.link_target.as_deref().unwrap_or_default();
                Ok(std::os::unix::ffi::OsStrExt::as_bytes(old) != target.as_slice())
            }
            FileKind::File => self.content_changed(directory, name, path, old),
            _ => Ok(false),
        }
    }

    /// Compares capabilities and bytes of two files that look the same.
    fn content_changed(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        path: &[u8],
        old: &ViewEntry,
    ) -> Result<bool, StoreError> {
        let reading = |action| StoreError::inside::<std::io::Error>(action, path);
        let new = rustix::fs::openat(directory, name, sys::READ, Mode::empty())
            .map_err(StoreError::inside("open", path))?;
        let capability =
            sys::fxattr(&new, CAPABILITY).map_err(reading("read the capabilities of"))?;
        let old_capability = self.below.capability(old)?;
        if capability.map(portable_capability) != old_capability.map(portable_capability) {
            return Ok(true);
        }
        let mut new = std::fs::File::from(new);
        let mut old = self.below.open(old)?;
        self.buffers.0.resize(CHUNK, 0);
        self.buffers.1.resize(CHUNK, 0);
        loop {
            let a = fill(&mut new, &mut self.buffers.0).map_err(reading("read"))?;
            let b = fill(&mut old, &mut self.buffers.1).map_err(reading("read the old"))?;
            if a != b || self.buffers.0[..a] != self.buffers.1[..b] {
                return Ok(true);
            }
            if a == 0 {
                return Ok(false);
            }
        }
    }
}

/// Compares what counts for every kind of entry.
fn same_identity(a: &Metadata, b: &Metadata) -> bool {
    a.kind == b.kind && a.mode == b.mode && a.uid == b.uid && a.gid == b.gid && a.rdev == b.rdev
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn remove_opaque(directory: &OwnedFd) -> std::io::Result<()> {
    for name in sys::OPAQUE.into_iter().chain([marks::OPAQUE]) {
        match rustix::fs::fremovexattr(directory, name) {
            Ok(()) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
            // Without privilege `trusted.*` can be neither seen nor removed.
            Err(rustix::io::Errno::PERM) if name.starts_with("trusted.") => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn restore_mtime(directory: &OwnedFd, before: &Metadata) -> std::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: before.mtime.seconds,
            tv_nsec: i64::from(before.mtime.nanoseconds),
        },
    };
    Ok(rustix::fs::futimens(directory, &times)?)
}

fn vanished(path: &[u8]) -> StoreError {
    StoreError::NotRepresentable {
        path: format!("/{}", crate::error::escaped(path)),
        reason: "it vanished while the layer was made",
    }
}
