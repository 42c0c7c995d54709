//! Two layers beside each other: which files differ, and in what.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::Mode;

use crate::digest::DiffId;
use crate::entry::{FileKind, Metadata};
use crate::error::StoreError;
use crate::open_root::RootFd;
use crate::parts::Parts;
use crate::store::Store;
use crate::sys;
use crate::tree_tar::{CAPABILITY, portable_capability};
use crate::view::{join, split};

/// Bytes compared at once.
const CHUNK: usize = 128 << 10;

/// A file that is not the same in two layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDifference {
    /// Its path without leading slash.
    pub path: Vec<u8>,
    /// What is not the same.
    pub field: LayerField,
}

/// What of a file is not the same, in the first layer and in the second.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerField {
    /// Only the first layer has it.
    OnlyFirst,
    /// Only the second layer has it.
    OnlySecond,
    /// File, directory, link, deletion and so on.
    Kind(&'static str, &'static str),
    /// Permission bits.
    Mode(u32, u32),
    /// User and group.
    Owner((u32, u32), (u32, u32)),
    /// Modification time in seconds since 1970.
    Time(i64, i64),
    /// Target of a link.
    Target(Vec<u8>, Vec<u8>),
    /// Number of a device.
    Device((u32, u32), (u32, u32)),
    /// File capabilities.
    Capability,
    /// The first name of the same file: hard links.
    FirstName(Vec<u8>, Vec<u8>),
    /// Bytes.
    Content {
        /// Where the first byte is that differs; where the shorter one ends, if it is its beginning.
        offset: u64,
        /// Sizes in bytes.
        sizes: (u64, u64),
    },
}

impl Store {
    /// Tells `found` every file in which two unpacked layers differ, in the order of their tars, and
    /// of every file the first difference; ends when `found` returns false.
    pub fn compare_layers(
        &self,
        first: &DiffId,
        second: &DiffId,
        found: &mut dyn FnMut(LayerDifference) -> bool,
    ) -> Result<(), StoreError> {
        let open = |diff_id: &DiffId| {
            self.layer(diff_id)?
                .ok_or(StoreError::MissingLayer { diff_id: *diff_id })
        };
        let (first, second) = (open(first)?, open(second)?);
        let mut sides = Sides {
            roots: [first.roots()?, second.roots()?],
            names: [HashMap::new(), HashMap::new()],
        };
        // Directories wait on a list, the next one last: a deep tree does not need a deep stack.
        let mut waiting = vec![Vec::new()];
        while let Some(path) = waiting.pop() {
            let mut inside = Vec::new();
            for (name, place) in sides.children(&path)? {
                let path = join(&path, &name);
                let field = match place {
                    Place::First => Some(LayerField::OnlyFirst),
                    Place::Second => Some(LayerField::OnlySecond),
                    Place::Both => sides.entry(&path, &mut inside)?,
                };
                if let Some(field) = field
                    && !found(LayerDifference { path, field })
                {
                    return Ok(());
                }
            }
            inside.reverse();
            waiting.append(&mut inside);
        }
        Ok(())
    }
}

/// Which of two directories have a name.
enum Place {
    First,
    Second,
    Both,
}

struct Sides<'a> {
    /// Of the trees of each, topmost first.
    roots: [Vec<RootFd<'a>>; 2],
    /// First names of files that have several.
    names: [HashMap<(u64, u64), Vec<u8>>; 2],
}

impl Sides<'_> {
    /// The names of a directory that both sides have, in order.
    fn children(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Place)>, StoreError> {
        let list = |roots: &[RootFd<'_>]| {
            let names = Parts::open(roots, path)
                .and_then(|list| list.names())
                .map_err(StoreError::inside("list the directory", path))?;
            let texts = names.into_iter().map(|name| name.text);
            Ok::<Vec<Vec<u8>>, StoreError>(texts.collect())
        };
        let (first, second) = (list(&self.roots[0])?, list(&self.roots[1])?);
        let only_second = second
            .iter()
            .filter(|name| first.binary_search(name).is_err())
            .map(|name| (name.clone(), Place::Second));
        let of_first = first.iter().map(|name| {
            let place = match second.binary_search(name) {
                Ok(_) => Place::Both,
                Err(_) => Place::First,
            };
            (name.clone(), place)
        });
        let mut all: Vec<(Vec<u8>, Place)> = of_first.chain(only_second).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(all)
    }

    /// Compares what both sides have; directories are noted in `inside`.
    fn entry(
        &mut self,
        path: &[u8],
        inside: &mut Vec<Vec<u8>>,
    ) -> Result<Option<LayerField>, StoreError> {
        let (parent, _) = split(path);
        let open = |roots: &[RootFd<'_>]| {
            Parts::open(roots, parent).map_err(StoreError::inside("open the directory", parent))
        };
        let parents = [open(&self.roots[0])?, open(&self.roots[1])?];
        let ((first, a), (second, b)) = (look(&parents[0], path)?, look(&parents[1], path)?);
        if kind(&a) != kind(&b) {
            return Ok(Some(LayerField::Kind(kind(&a), kind(&b))));
        }
        if a.kind == FileKind::Directory {
            inside.push(path.to_vec());
        }
        if let Some(field) = self.data(path, [first, second], &a, &b)? {
            return Ok(Some(field));
        }
        Ok(if a.mode != b.mode {
            Some(LayerField::Mode(a.mode, b.mode))
        } else if (a.uid, a.gid) != (b.uid, b.gid) {
            Some(LayerField::Owner((a.uid, a.gid), (b.uid, b.gid)))
        } else if a.mtime.seconds != b.mtime.seconds && !a.is_whiteout() {
            Some(LayerField::Time(a.mtime.seconds, b.mtime.seconds))
        } else {
            None
        })
    }

    /// Compares what a file is for: bytes, target, device, capabilities, hard links.
    fn data(
        &mut self,
        path: &[u8],
        directories: [&OwnedFd; 2],
        a: &Metadata,
        b: &Metadata,
    ) -> Result<Option<LayerField>, StoreError> {
        match a.kind {
            FileKind::File => {
                let names = [self.first_name(0, path, a), self.first_name(1, path, b)];
                if names[0] != names[1] {
                    let [first, second] = names;
                    return Ok(Some(LayerField::FirstName(first, second)));
                }
                content(path, directories, (a.size, b.size))
            }
            FileKind::Symlink => {
                let read = |directory: &OwnedFd| {
                    sys::readlink(directory, split(path).1)
                        .map_err(StoreError::inside("read the link", path))
                };
                let (a, b) = (read(directories[0])?, read(directories[1])?);
                Ok((a != b).then_some(LayerField::Target(a, b)))
            }
            _ => Ok((a.rdev != b.rdev).then_some(LayerField::Device(a.rdev, b.rdev))),
        }
    }

    /// The name under which a file was met first.
    fn first_name(&mut self, side: usize, path: &[u8], found: &Metadata) -> Vec<u8> {
        if found.nlink < 2 {
            return path.to_vec();
        }
        let known = self.names[side].entry(found.inode);
        known.or_insert_with(|| path.to_vec()).clone()
    }
}

/// Looks at an entry: the directory that it is in, in whichever tree has it, and what it is.
fn look<'p>(parent: &'p Parts, path: &[u8]) -> Result<(&'p OwnedFd, Metadata), StoreError> {
    parent
        .find(split(path).1)
        .map_err(StoreError::inside("look at", path))?
        .ok_or_else(|| StoreError::NotRepresentable {
            path: format!("/{}", crate::error::escaped(path)),
            reason: "it vanished while it was compared",
        })
}

fn content(
    path: &[u8],
    directories: [&OwnedFd; 2],
    sizes: (u64, u64),
) -> Result<Option<LayerField>, StoreError> {
    let open = |directory: &OwnedFd| {
        rustix::fs::openat(directory, split(path).1, sys::READ, Mode::empty())
            .map_err(StoreError::inside("open", path))
    };
    let (a, b) = (open(directories[0])?, open(directories[1])?);
    let capability = |file: &OwnedFd| {
        sys::fxattr(file, CAPABILITY)
            .map(|value| value.map(portable_capability))
            .map_err(StoreError::inside("read the capabilities of", path))
    };
    if capability(&a)? != capability(&b)? {
        return Ok(Some(LayerField::Capability));
    }
    let offset = first_difference(&File::from(a), &File::from(b))
        .map_err(StoreError::inside("read", path))?;
    Ok(offset.map(|offset| LayerField::Content { offset, sizes }))
}

/// Where two files first differ.
fn first_difference(first: &File, second: &File) -> std::io::Result<Option<u64>> {
    let mut offset = 0;
    let (mut a, mut b) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
    loop {
        a.clear();
        b.clear();
        first.take(CHUNK as u64).read_to_end(&mut a)?;
        second.take(CHUNK as u64).read_to_end(&mut b)?;
        if a != b {
            let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            return Ok(Some(offset + same as u64));
        }
        if a.is_empty() {
            return Ok(None);
        }
        offset += a.len() as u64;
    }
}

fn kind(found: &Metadata) -> &'static str {
    match found.kind {
        _ if found.is_whiteout() => "deletion",
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
        FileKind::Fifo => "pipe",
        FileKind::Socket => "socket",
    }
}
