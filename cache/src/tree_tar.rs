//! The canonical tar of a tree: a pure function of the tree, the same bytes every time.
//!
//! Entries come in the order of a depth-first walk, names in byte order; a directory stands before
//! its content; the root has no entry. Whiteouts become empty files `.wh.<name>`, an opaque
//! directory gets `.wh..wh..opq` as its first member, further hard links point to the first name.
//! File times are cut to seconds, of the extended attributes only file capabilities are written,
//! sockets are left out: what BuildKit's differ writes, in the same order.
//!
//! A tree may be several directories, which are shown as one ([`parts`](crate::parts)), and the tar may
//! be gone on with in the middle ([`checkpoints`](crate::checkpoints)).

mod ahead;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Advice, Mode};

use self::ahead::Small;
use crate::digest::Hasher;
use crate::entry::{FileKind, Metadata};
use crate::error::{StoreError, escaped};
use crate::holes::HoleReader;
use crate::parts::{Name, Parts};
use crate::sys;
use crate::tar_write::{PaxWriter, TarHeader, TarKind};
use crate::view::join;

/// Prefix of a deleted entry's name in a layer tar.
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// Name of the entry that makes its directory opaque.
pub(crate) const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

/// Name of the extended attribute that layers carry.
pub(crate) const CAPABILITY: &str = "security.capability";

/// Directories kept open at the same time on the way down.
const OPEN_DIRECTORIES: usize = 64;

/// Longest path that the kernel takes in one call.
const MAX_PATH: usize = 4095;

/// Bytes read from a file at once.
const CHUNK: usize = 256 << 10;

/// Changes of file times in an exported layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewriteTimestamps {
    /// Later file times become this one; seconds since 1970.
    pub epoch: i64,
}

/// What a tree holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Tar entries.
    pub(crate) entries: u64,
    /// Bytes of file content, hard-linked files once.
    pub(crate) content: u64,
    /// Some files have names outside the tree, too.
    pub(crate) shares: bool,
    /// Some entries are hard links to others.
    pub(crate) links: bool,
    /// Digest over all headers.
    pub(crate) headers: crate::digest::Digest,
}

/// How far the tar is, between two entries.
pub(crate) struct Position<'a> {
    /// Path of the next entry.
    pub(crate) path: &'a [u8],
    /// Entries before it.
    pub(crate) entries: u64,
    /// Bytes of file content before it.
    pub(crate) content: u64,
    /// Over the headers before it.
    pub(crate) headers: &'a Hasher,
}

/// Is told of every entry that the tar could begin with, before it is written.
pub(crate) type Watch<'a, W> =
    &'a mut dyn FnMut(&Position<'_>, &mut PaxWriter<W>) -> io::Result<()>;

/// Where a tar is gone on with.
pub(crate) struct Start {
    /// Path of the first entry to write, which is there.
    pub(crate) path: Vec<u8>,
    /// Entries before it.
    pub(crate) entries: u64,
    /// Bytes of file content before it.
    pub(crate) content: u64,
    /// Over the headers before it.
    pub(crate) headers: Hasher,
}

/// What to write of each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Header and data.
    Full,
    /// Nothing but the digest over the headers.
    HeadersOnly,
    /// The same of a tree in which no file has extended attributes.
    PlainHeaders,
}

struct TreeTar<'a, W: Write> {
    /// Topmost first.
    roots: Vec<&'a OwnedFd>,
    out: &'a mut PaxWriter<W>,
    content_mode: Content,
    rewrite: Option<RewriteTimestamps>,
    watch: Option<Watch<'a, W>>,
    /// Entries before this one are left out.
    begin: Option<Vec<u8>>,
    /// First names of hard-linked files.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Names of these files that were not met.
    names_elsewhere: u64,
    /// Some were met.
    linked: bool,
    entries: u64,
    content: u64,
    headers: Hasher,
    buffer: Vec<u8>,
    /// Bytes that were read ahead and wait for their turn.
    held: usize,
}

/// Writes the entries of the tree with these roots, topmost first; the caller ends the archive.
pub(crate) fn write_tree<W: Write, R: Deref<Target = OwnedFd>>(
    roots: &[R],
    out: &mut PaxWriter<W>,
    content_mode: Content,
    rewrite: Option<RewriteTimestamps>,
) -> Result<Totals, StoreError> {
    TreeTar::new(roots, out, content_mode, rewrite).write()
}

/// Writes all entries from `start`, or from the first; `watch` is told of them. The totals are those of
/// the whole tree, but for what is hard-linked.
pub(crate) fn write_from<W: Write, R: Deref<Target = OwnedFd>>(
    roots: &[R],
    out: &mut PaxWriter<W>,
    start: Option<Start>,
    watch: Watch<'_, W>,
) -> Result<Totals, StoreError> {
    let mut walk = TreeTar::new(roots, out, Content::Full, None);
    walk.watch = Some(watch);
    if let Some(start) = start {
        walk.begin = Some(start.path);
        walk.entries = start.entries;
        walk.content = start.content;
        walk.headers = start.headers;
    }
    walk.write()
}

impl<'a, W: Write> TreeTar<'a, W> {
    fn new<R: Deref<Target = OwnedFd>>(
        roots: &'a [R],
        out: &'a mut PaxWriter<W>,
        content_mode: Content,
        rewrite: Option<RewriteTimestamps>,
    ) -> TreeTar<'a, W> {
        TreeTar {
            roots: roots.iter().map(|root| &**root).collect(),
            out,
            content_mode,
            rewrite,
            watch: None,
            begin: None,
            links: HashMap::new(),
            names_elsewhere: 0,
            linked: false,
            entries: 0,
            content: 0,
            headers: Hasher::new(),
            buffer: Vec::new(),
            held: 0,
        }
    }

    fn write(mut self) -> Result<Totals, StoreError> {
        let list = Parts::open(&self.roots, b"").map_err(StoreError::inside("open", b""))?;
        self.directory(list, b"", 0)?;
        if let Some(begin) = &self.begin {
            return Err(changed(begin));
        }
        Ok(Totals {
            entries: self.entries,
            content: self.content,
            shares: self.names_elsewhere > 0,
            links: self.linked,
            headers: self.headers.finish(),
        })
    }

    fn directory(&mut self, list: Parts, path: &[u8], depth: usize) -> Result<(), StoreError> {
        let mut names = list
            .names()
            .map_err(StoreError::inside("list the directory", path))?;
        self.leave_out(path, &mut names);
        let mut list = Some(list);
        for names in names.chunks(ahead::window(self.content_mode)) {
            let here = self.open_again(&mut list, path)?;
            let ahead = ahead::look(&here, path, names, self.content_mode, self.held)?;
            list = Some(here);
            let small = ahead.iter().filter_map(|ahead| ahead.small.as_ref());
            let held: usize = small.map(|small| small.content.len()).sum();
            self.held += held;
            for (name, ahead) in names.iter().zip(ahead) {
                let child = join(path, &name.text);
                let here = self.open_again(&mut list, path)?;
                let found = ahead.found.ok_or_else(|| changed(&child))?;
                if self.begin.as_ref().is_some_and(|begin| *begin == child) {
                    self.begin = None;
                }
                if found.kind == FileKind::Directory {
                    let next = here
                        .enter(name)
                        .map_err(StoreError::inside("open the directory", &child))?;
                    if depth < OPEN_DIRECTORIES {
                        list = Some(here);
                    }
                    if self.begin.is_none() {
                        self.directory_entry(next.top(), &child, &found)?;
                    }
                    self.directory(next, &child, depth + 1)?;
                } else if self.begin.is_some() {
                    return Err(changed(&child));
                } else {
                    self.other_entry(here.part(name), &name.text, &child, &found, ahead.small)?;
                    list = Some(here);
                }
            }
            self.held -= held;
        }
        Ok(())
    }

    /// Leaves the names of a directory out that come before the entry to begin with.
    fn leave_out(&self, path: &[u8], names: &mut Vec<Name>) {
        let Some(begin) = &self.begin else { return };
        let inside = match path.len() {
            0 => begin.as_slice(),
            length => &begin[length + 1..],
        };
        let first = inside.split(|byte| *byte == b'/').next();
        names.retain(|name| first.is_none_or(|first| name.text.as_slice() >= first));
    }

    /// The directory at `path`, which was closed if the way down was long.
    fn open_again(&self, list: &mut Option<Parts>, path: &[u8]) -> Result<Parts, StoreError> {
        match list.take() {
            Some(list) => Ok(list),
            None => Parts::open(&self.roots, path)
                .map_err(StoreError::inside("open the directory", path)),
        }
    }

    fn directory_entry(
        &mut self,
        list: &OwnedFd,
        path: &[u8],
        found: &Metadata,
    ) -> Result<(), StoreError> {
        let mut name = path.to_vec();
        name.push(b'/');
        let header = self.header(TarKind::Directory, name, found);
        self.entry(&header)?;
        let opaque = sys::is_opaque(list, b".")
            .map_err(StoreError::inside("read the attributes of", path))?;
        if opaque {
            self.entry(&TarHeader::new(TarKind::File, join(path, OPAQUE_MARKER)))?;
        }
        Ok(())
    }

    fn other_entry(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        path: &[u8],
        found: &Metadata,
        small: Option<Small>,
    ) -> Result<(), StoreError> {
        if name.starts_with(WHITEOUT_PREFIX) {
            return Err(not_representable(
                path,
                "its name begins with `.wh.`, the mark of deletions",
            ));
        }
        if path.len() > MAX_PATH {
            return Err(not_representable(
                path,
                "its path is longer than 4095 bytes",
            ));
        }
        if found.is_whiteout() {
            let (parent, _) = crate::view::split(path);
            let marker = [WHITEOUT_PREFIX, name].concat();
            return self.entry(&TarHeader::new(TarKind::File, join(parent, &marker)));
        }
        let kind = match found.kind {
            FileKind::File => TarKind::File,
            FileKind::Symlink => TarKind::Symlink,
            FileKind::CharDevice => TarKind::CharDevice,
            FileKind::BlockDevice => TarKind::BlockDevice,
            FileKind::Fifo => TarKind::Fifo,
            FileKind::Socket | FileKind::Directory => return Ok(()),
        };
        let mut header = self.header(kind, path.to_vec(), found);
        let file = match kind {
            // For a look at the headers a file need not be opened: that is most of the cost.
            TarKind::File if self.content_mode == Content::HeadersOnly => {
                header.size = found.size;
                let value = sys::xattr(directory, name, CAPABILITY)
                    .map_err(StoreError::inside("read the capabilities of", path))?;
                header.xattrs.extend(value.map(capability_attribute));
                None
            }
            TarKind::File if self.content_mode == Content::PlainHeaders => {
                header.size = found.size;
                None
            }
            TarKind::File if small.is_some() => None,
            TarKind::File => Some(
                rustix::fs::openat(directory, name, sys::READ, Mode::empty())
                    .map_err(StoreError::inside("open", path))?,
            ),
            _ => None,
        };
        match (&file, kind) {
            _ if let Some(small) = &small => {
                header.size = found.size;
                let value = small.capability.clone();
                header.xattrs.extend(value.map(capability_attribute));
            }
            (Some(file), _) => {
                header.size = found.size;
                if let Some(value) = sys::fxattr(file, CAPABILITY)
                    .map_err(StoreError::inside("read the capabilities of", path))?
                {
                    header.xattrs.push(capability_attribute(value));
                }
            }
            (None, TarKind::Symlink) => {
                header.link = sys::readlink(directory, name)
                    .map_err(StoreError::inside("read the link", path))?;
            }
            (None, _) => {}
        }
        if found.nlink > 1 {
            if let Some(first) = self.links.get(&found.inode) {
                header.kind = TarKind::HardLink;
                header.link.clone_from(first);
                header.size = 0;
                header.device = (0, 0);
                self.linked = true;
                self.names_elsewhere = self.names_elsewhere.saturating_sub(1);
                return self.entry(&header);
            }
            self.names_elsewhere += found.nlink - 1;
            self.links.insert(found.inode, path.to_vec());
        }
        self.entry(&header)?;
        if let Some(file) = file {
            return self.data(File::from(file), path, header.size);
        }
        if let Some(small) = small {
            self.out
                .write_all(&small.content)
                .map_err(StoreError::stream("write the layer"))?;
        }
        self.content += header.size;
        Ok(())
    }

    fn header(&self, kind: TarKind, path: Vec<u8>, found: &Metadata) -> TarHeader {
        let mut header = TarHeader::new(kind, path);
        header.mode = found.mode;
        header.uid = found.uid;
        header.gid = found.gid;
        header.mtime = match self.rewrite {
            Some(rewrite) => found.mtime.seconds.min(rewrite.epoch),
            None => found.mtime.seconds,
        };
        if matches!(kind, TarKind::CharDevice | TarKind::BlockDevice) {
            header.device = found.rdev;
        }
        header
    }

    fn entry(&mut self, header: &TarHeader) -> Result<(), StoreError> {
        self.tell(header)
            .map_err(StoreError::stream("write the layer"))?;
        self.entries += 1;
        hash_header(&mut self.headers, header);
        if self.content_mode != Content::Full {
            return Ok(());
        }
        self.out.entry(header).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidInput => StoreError::NotRepresentable {
                path: escaped(&header.path),
                reason: "its header cannot be written",
            },
            _ => StoreError::stream("write the layer")(error),
        })
    }

    /// Tells of an entry before it is written, unless it stands for something else.
    fn tell(&mut self, header: &TarHeader) -> io::Result<()> {
        let Some(watch) = &mut self.watch else {
            return Ok(());
        };
        let path = header.path.strip_suffix(b"/").unwrap_or(&header.path);
        if crate::view::split(path).1.starts_with(WHITEOUT_PREFIX) {
            return Ok(());
        }
        let position = Position {
            path,
            entries: self.entries,
            content: self.content,
            headers: &self.headers,
        };
        watch(&position, self.out)
    }

    fn data(&mut self, file: File, path: &[u8], size: u64) -> Result<(), StoreError> {
        self.content += size;
        if size == 0 {
            return Ok(());
        }
        let mut file: Box<dyn Read> = if size > CHUNK as u64 {
            // Only a hint: a file system that does not know it reads as well.
            let _ = rustix::fs::fadvise(file.as_fd(), 0, None, Advice::Sequential);
            Box::new(HoleReader::new(file))
        } else {
            Box::new(file)
        };
        self.buffer.resize(CHUNK, 0);
        let mut left = size;
        while left > 0 {
            let want = left.min(CHUNK as u64) as usize;
            let got = file
                .read(&mut self.buffer[..want])
                .map_err(StoreError::inside("read", path))?;
            if got == 0 {
                return Err(changed(path));
            }
            self.out
                .write_all(&self.buffer[..got])
                .map_err(StoreError::stream("write the layer"))?;
            left -= got as u64;
        }
        Ok(())
    }
}

/// The attribute of a file with capabilities.
fn capability_attribute(value: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    (CAPABILITY.into(), portable_capability(value))
}

/// File capabilities as they stand in layers.
///
/// The kernel stores version 3, with the user ID of a namespace's root, when they were set inside a
/// user namespace. In a layer that ID means nothing: version 2 is the same without it.
pub(crate) fn portable_capability(value: Vec<u8>) -> Vec<u8> {
    const REVISION_2: u8 = 2;
    const REVISION_3: u8 = 3;
    if value.len() == 24 && value[3] == REVISION_3 {
        let mut portable = value[..20].to_vec();
        portable[3] = REVISION_2;
        return portable;
    }
    value
}

/// Adds a header to the digest over all headers, each field with its length.
fn hash_header(hasher: &mut Hasher, header: &TarHeader) {
    let mut text = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    text(&header.path);
    text(&header.link);
    text(&[header.kind as u8]);
    for (name, value) in &header.xattrs {
        text(name);
        text(value);
    }
    let numbers = [
        u64::from(header.mode),
        u64::from(header.uid),
        u64::from(header.gid),
        header.size,
        header.mtime as u64,
        u64::from(header.device.0),
        u64::from(header.device.1),
    ];
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
}

fn not_representable(path: &[u8], reason: &'static str) -> StoreError {
    StoreError::NotRepresentable {
        path: format!("/{}", escaped(path)),
        reason,
    }
}

fn changed(path: &[u8]) -> StoreError {
    not_representable(path, "it changed while it was read")
}
