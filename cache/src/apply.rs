//! Making files from archive entries, wherever an archive wants them and nowhere else.
//!
//! One [`Apply`] writes into one directory tree: the tree of a layer, a step's upper directory, or a
//! plain directory. Below it there may be layers, which are only looked at.
//!
//! Every path is resolved inside the root: its parents are opened through `openat2` with symlinks
//! refused, and only if that fails, symlinks are followed by [`RootView`], which stays inside. The
//! last component is never followed: what is there is removed first, and files are made with
//! `O_EXCL`. Owner, mode, attributes and times are set through descriptors, in the order in which
//! they do not undo each other.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::entry::{FileKind, Timestamp};
use crate::error::StoreError;
use crate::holes::split_hole;
use crate::limits::{Limits, check};
use crate::marks;
use crate::owners;
use crate::remove::remove_at;
use crate::sys;
use crate::tar_read::{ArchiveEntry, EntryKind, entry_error};
use crate::view::{RootView, absolute, is_overlay_attribute, join, split};

mod copy_up;
mod nodes;
mod paths;

pub(crate) use paths::clean;

/// What an archive is unpacked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The tree of a layer: whiteouts mean something, `..` is refused.
    Layer,
    /// `ADD`, or a context: everything goes below this canonical path, `..` is clamped.
    Archive { into: Vec<u8> },
}

/// What has been done and left out so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    /// Extended attributes that do not come from archives.
    pub(crate) dropped_attributes: u64,
    /// Device nodes that this process may not make.
    pub(crate) skipped_devices: u64,
    /// Something has extended attributes, those of overlay apart.
    pub(crate) attributes: bool,
    /// Some directory was made opaque.
    pub(crate) opaque: bool,
    /// The archive has an entry for the root.
    pub(crate) root_entry: bool,
}

/// The directory that the last entry was made in.
struct Parent {
    /// As the archive wrote it.
    raw: Vec<u8>,
    canonical: Vec<u8>,
    fd: OwnedFd,
}

/// Writes entries into a directory tree.
pub(crate) struct Apply<'a> {
    root: OwnedFd,
    below: Option<&'a RootView>,
    /// `below` with the tree on top.
    merged: RootView,
    purpose: Purpose,
    chown: Option<(u32, u32)>,
    limits: Limits,
    parent: Option<Parent>,
    /// Times of directories, set at the end: making an entry changes them.
    directory_times: BTreeMap<Vec<u8>, Timestamp>,
    pub(crate) outcome: Outcome,
    /// A directory is not replaced by something else, nor the other way round.
    pub(crate) keep_kinds: bool,
    buffer: Vec<u8>,
}

/// Where the data of an entry comes from.
pub(crate) trait Data {
    /// Reads the next piece: its place in the file and how many bytes of the buffer.
    fn next_piece(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>, StoreError>;
}

impl<R: std::io::Read> Data for crate::tar_read::TarReader<R> {
    fn next_piece(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>, StoreError> {
        self.data(buffer)
    }
}

impl<'a> Apply<'a> {
    /// Starts on the tree at `path`, over what `below` shows.
    pub(crate) fn new(
        path: &std::path::Path,
        below: Option<&'a RootView>,
        purpose: Purpose,
        chown: Option<(u32, u32)>,
        limits: &Limits,
    ) -> Result<Apply<'a>, StoreError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty())
            .map_err(StoreError::io("open", path))?;
        let merged = match below {
            Some(below) => below.stacked(path),
            None => RootView::new(&[]).with_upper(path),
        };
        Ok(Apply {
            root,
            below,
            merged,
            purpose,
            chown,
            limits: limits.clone(),
            parent: None,
            directory_times: BTreeMap::new(),
            outcome: Outcome::default(),
            keep_kinds: false,
            buffer: vec![0; 128 << 10],
        })
    }

    /// Makes one entry; later ones replace earlier ones.
    pub(crate) fn entry(
        &mut self,
        entry: &ArchiveEntry,
        data: &mut dyn Data,
    ) -> Result<(), StoreError> {
        let path = self.place(&entry.path)?;
        let (parent, name) = split(&path);
        if name.is_empty() || self.is_destination(&path) {
            return self.root_directory(entry);
        }
        if self.purpose == Purpose::Layer && self.layer_mark(entry, parent, name)? {
            return Ok(());
        }
        match entry.kind {
            EntryKind::Directory => self.directory(entry, parent, name),
            EntryKind::File => self.file(entry, parent, name, data),
            EntryKind::Symlink => self.symlink(entry, parent, name),
            EntryKind::HardLink => self.hard_link(entry, parent, name),
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                self.node(entry, parent, name)
            }
        }
    }

    /// Makes a directory with all that is missing above it.
    pub(crate) fn make_directories(&mut self, path: &[u8]) -> Result<(), StoreError> {
        self.open_parent(path).map(drop)
    }

    /// Sets the times of directories; nothing may be made afterwards.
    pub(crate) fn finish(self) -> Result<Outcome, StoreError> {
        for (path, time) in &self.directory_times {
            let directory = match sys::open_beneath(&self.root, path, sys::LIST) {
                Ok(directory) => directory,
                Err(error) => match Errno::from_io_error(&error) {
                    // A later entry took its place.
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    _ => return Err(StoreError::inside("open the directory", path)(error)),
                },
            };
            rustix::fs::futimens(&directory, &times(*time))
                .map_err(StoreError::inside("set the times of", path))?;
        }
        Ok(self.outcome)
    }

    /// Where an archive's name leads, before symlinks are looked at.
    fn place(&self, name: &[u8]) -> Result<Vec<u8>, StoreError> {
        let names = match &self.purpose {
            Purpose::Layer => paths::strict(name)?,
            Purpose::Archive { .. } => clean(name)?,
        };
        for part in &names {
            check("name", part.len() as u64, self.limits.name, || {
                format!("the name `{}…`", crate::error::escaped(&part[..64]))
            })?;
        }
        let path = names.join(&b'/');
        Ok(match &self.purpose {
            Purpose::Layer => path,
            Purpose::Archive { into } if path.is_empty() => into.clone(),
            Purpose::Archive { into } => join(into, &path),
        })
    }

    fn is_destination(&self, path: &[u8]) -> bool {
        matches!(&self.purpose, Purpose::Archive { into } if into == path)
    }

    /// The entry of the root itself, which can only be a directory.
    fn root_directory(&mut self, entry: &ArchiveEntry) -> Result<(), StoreError> {
        if entry.kind != EntryKind::Directory {
            return Err(entry_error(
                &entry.path,
                "only a directory can be the root".to_owned(),
            ));
        }
        if self.purpose != Purpose::Layer {
            // The destination exists; its metadata is not the archive's.
            return Ok(());
        }
        self.outcome.root_entry = true;
        let root = sys::open_beneath(&self.root, b"", sys::LIST)
            .map_err(StoreError::inside("open", b""))?;
        self.metadata(&root, entry, b"")?;
        self.directory_times.insert(Vec::new(), entry.mtime);
        Ok(())
    }

    /// Handles the names that mean deletions; true if the entry was one.
    fn layer_mark(
        &mut self,
        entry: &ArchiveEntry,
        parent: &[u8],
        name: &[u8],
    ) -> Result<bool, StoreError> {
        const PREFIX: &[u8] = crate::tree_tar::WHITEOUT_PREFIX;
        let wrong = |reason: &str| Err(entry_error(&entry.path, reason.to_owned()));
        if parent
            .split(|&byte| byte == b'/')
            .any(|part| part.starts_with(PREFIX))
        {
            return wrong("a directory has the name of a deletion");
        }
        let Some(target) = name.strip_prefix(PREFIX) else {
            return Ok(false);
        };
        if name == crate::tree_tar::OPAQUE_MARKER {
            let (canonical, directory) = self.open_parent(parent)?;
            self.hide_below(&directory, &canonical)?;
            self.merged.forget_directories();
            return Ok(true);
        }
        if target.starts_with(PREFIX) {
            // Bookkeeping of an old file system (aufs) that older images carry along.
            return Ok(true);
        }
        if matches!(target, b"" | b"." | b"..") {
            return wrong("it would delete no name or the directory itself");
        }
        self.whiteout(parent, target)?;
        Ok(true)
    }

    /// Hides what is below; never what this archive itself made.
    fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<(), StoreError> {
        let parent = self.parent(parent)?;
        let path = join(&parent.canonical, name);
        match marks::make_whiteout(&parent.fd, name) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let ours = open_directory(&parent.fd, name);
                if let Ok(directory) = ours {
                    self.hide_below(&directory, &path)?;
                }
                Ok(())
            }
            Err(error) => Err(StoreError::inside("write the deletion of", &path)(error)),
        }
    }

    fn directory(
        &mut self,
        entry: &ArchiveEntry,
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), StoreError> {
        let keep_kinds = self.keep_kinds;
        let parent = self.parent(parent)?;
        let path = join(&parent.canonical, name);
        check_kind(keep_kinds, &parent.fd, name, &path, true)?;
        let (directory, replaced) = make_or_open(&parent.fd, name)
            .map_err(StoreError::inside("create the directory", &path))?;
        if replaced {
            // What it replaced had hidden a directory below, which must stay hidden.
            self.hide_below(&directory, &path)?;
            self.merged.forget_directories();
        }
        self.metadata(&directory, entry, &path)?;
        self.directory_times.insert(path, entry.mtime);
        Ok(())
    }

    fn file(
        &mut self,
        entry: &ArchiveEntry,
        parent: &[u8],
        name: &[u8],
        data: &mut dyn Data,
    ) -> Result<(), StoreError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = owners::mode_to_make(entry.mode);
        let (file, path) = self.make(parent, name, |directory, name| {
            rustix::fs::openat(directory, name, flags, mode)
        })?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = write_data(&file, entry, &path, data, &mut buffer);
        self.buffer = buffer;
        written?;
        self.metadata(&file, entry, &path)?;
        rustix::fs::futimens(&file, &times(entry.mtime))
            .map_err(StoreError::inside("set the times of", &path))
    }

    /// Makes something that must not exist, removing what is in its place; returns its path.
    fn make<T>(
        &mut self,
        parent: &[u8],
        name: &[u8],
        mut create: impl FnMut(&OwnedFd, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<(T, Vec<u8>), StoreError> {
        let keep_kinds = self.keep_kinds;
        for attempt in 0..2 {
            let parent = self.parent(parent)?;
            let path = join(&parent.canonical, name);
            match create(&parent.fd, name) {
                Ok(made) => return Ok((made, path)),
                Err(Errno::EXIST) if attempt == 0 => {
                    check_kind(keep_kinds, &parent.fd, name, &path, false)?;
                    remove_at(&parent.fd, name).map_err(StoreError::inside("replace", &path))?;
                    // It may have been a directory that we hold or know.
                    self.parent = None;
                    self.merged.forget_directories();
                }
                Err(error) => return Err(StoreError::inside("create", &path)(error)),
            }
        }
        Err(StoreError::inside("create", &join(parent, name))(
            Errno::EXIST,
        ))
    }

    /// Owner, mode and attributes, in the order in which they do not undo each other.
    fn metadata(
        &mut self,
        file: &OwnedFd,
        entry: &ArchiveEntry,
        path: &[u8],
    ) -> Result<(), StoreError> {
        let (uid, gid) = self.chown.unwrap_or((entry.uid, entry.gid));
        if owners::are_recorded() {
            // The mode that follows may take the right to set attributes away.
            self.attributes(file, entry, path)?;
        }
        owners::set(file, uid, gid, entry.mode)
            .map_err(StoreError::inside("set owner and mode of", path))?;
        if !owners::are_recorded() {
            // Another owner takes file capabilities away.
            self.attributes(file, entry, path)?;
        }
        Ok(())
    }

    fn attributes(
        &mut self,
        file: &OwnedFd,
        entry: &ArchiveEntry,
        path: &[u8],
    ) -> Result<(), StoreError> {
        for (name, value) in &entry.xattrs {
            if !self.takes_attribute(name) {
                continue;
            }
            match owners::set_attribute(file, name, value) {
                Ok(()) => self.outcome.attributes = true,
                Err(error) => self.attribute_error(error, path)?,
            }
        }
        Ok(())
    }

    /// Tells whether an attribute may come from an archive.
    fn takes_attribute(&mut self, name: &[u8]) -> bool {
        let takes = name == crate::tree_tar::CAPABILITY.as_bytes()
            || name.starts_with(b"system.posix_acl_")
            || name.starts_with(b"user.")
                && !is_overlay_attribute(name)
                && !owners::is_record(name);
        if !takes {
            self.outcome.dropped_attributes += 1;
        }
        takes
    }

    /// File systems without attributes, and processes without the right to set them, go on.
    fn attribute_error(&mut self, error: Errno, path: &[u8]) -> Result<(), StoreError> {
        match error {
            Errno::OPNOTSUPP | Errno::PERM => {
                self.outcome.dropped_attributes += 1;
                Ok(())
            }
            error => Err(StoreError::inside("set an attribute of", path)(error)),
        }
    }

    /// Makes a directory hide what lies below it; a plain directory has nothing below.
    fn hide_below(&mut self, directory: &OwnedFd, path: &[u8]) -> Result<(), StoreError> {
        if self.below.is_none() && self.purpose != Purpose::Layer {
            return Ok(());
        }
        set_opaque(directory).map_err(StoreError::inside("mark", path))?;
        self.outcome.opaque = true;
        Ok(())
    }

    /// Opens the directory for an entry, making what is missing of it.
    fn parent(&mut self, raw: &[u8]) -> Result<&Parent, StoreError> {
        if self.parent.as_ref().is_none_or(|parent| parent.raw != raw) {
            self.parent = None;
            let (canonical, fd) = self.open_parent(raw)?;
            self.parent = Some(Parent {
                raw: raw.to_vec(),
                canonical,
                fd,
            });
        }
        self.parent
            .as_ref()
            .ok_or_else(|| StoreError::inside("open", raw)(Errno::NOENT))
    }

    fn open_parent(&mut self, raw: &[u8]) -> Result<(Vec<u8>, OwnedFd), StoreError> {
        // In the tree itself and free of symlinks: then it is its own canonical form.
        if let Ok(fd) = sys::open_beneath(&self.root, raw, sys::DIRECTORY) {
            return Ok((raw.to_vec(), fd));
        }
        let resolved = self.merged.resolve(absolute(raw))?;
        if resolved
            .entry
            .as_ref()
            .is_some_and(|entry| !entry.is_directory())
        {
            return Err(entry_error(
                raw,
                "it is used as a directory and is none".to_owned(),
            ));
        }
        let mut canonical = std::os::unix::ffi::OsStrExt::as_bytes(resolved.path.as_os_str())
            .strip_prefix(b"/")
            .unwrap_or_default()
            .to_vec();
        let mut fd = self.copy_up_directory(&canonical)?;
        for name in &resolved.missing {
            let name = std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str());
            canonical = join(&canonical, name);
            let (next, replaced) = make_or_open(&fd, name)
                .map_err(StoreError::inside("create the directory", &canonical))?;
            if replaced {
                self.hide_below(&next, &canonical)?;
            }
            self.implied_directory(&next, &canonical)?;
            fd = next;
        }
        self.merged.forget_directories();
        Ok((canonical, fd))
    }

    /// Metadata of a directory that the archive uses without having an entry for it.
    fn implied_directory(&mut self, directory: &OwnedFd, path: &[u8]) -> Result<(), StoreError> {
        let (uid, gid) = self.chown.unwrap_or((0, 0));
        owners::set(directory, uid, gid, 0o755)
            .map_err(StoreError::inside("set owner and mode of", path))?;
        if self.purpose == Purpose::Layer {
            // No clock in what is named by a digest.
            self.directory_times
                .insert(path.to_vec(), Timestamp::default());
        }
        Ok(())
    }
}

/// Refuses what would put a directory in the place of something else, or the other way round.
fn check_kind(
    keep: bool,
    parent: &OwnedFd,
    name: &[u8],
    path: &[u8],
    directory: bool,
) -> Result<(), StoreError> {
    if !keep {
        return Ok(());
    }
    let found = sys::lstat(parent, name).map_err(StoreError::inside("look at", path))?;
    let shown = crate::error::escaped(path);
    match found {
        Some(found) if directory && found.kind != FileKind::Directory => Err(entry_error(
            path,
            format!("cannot overwrite non-directory `/{shown}` with a directory"),
        )),
        Some(found) if !directory && found.kind == FileKind::Directory => Err(entry_error(
            path,
            format!("cannot overwrite directory `/{shown}` with non-directory"),
        )),
        _ => Ok(()),
    }
}

/// Opens a directory that is no symlink.
fn open_directory(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(parent, name, sys::LIST, Mode::empty())
}

/// Makes a directory or opens the one that is there; tells whether something else was replaced.
fn make_or_open(parent: &OwnedFd, name: &[u8]) -> std::io::Result<(OwnedFd, bool)> {
    let mut replaced = false;
    loop {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        match open_directory(parent, name) {
            Ok(directory) => return Ok((directory, replaced)),
            Err(Errno::NOTDIR | Errno::LOOP) if !replaced => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                replaced = true;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Marks a directory as hiding what lies below it.
fn set_opaque(directory: &OwnedFd) -> std::io::Result<()> {
    // The descriptor may be `O_PATH`, which has no attributes to set.
    marks::set_opaque(&sys::proc_path(directory, b"."))
}

fn times(time: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn write_data(
    file: &OwnedFd,
    entry: &ArchiveEntry,
    path: &[u8],
    data: &mut dyn Data,
    buffer: &mut [u8],
) -> Result<(), StoreError> {
    let (mut skipped, mut in_hole) = (false, false);
    while let Some((offset, count)) = data.next_piece(buffer)? {
        let mut done = 0;
        while done < count {
            let (data, zeros) = split_hole(&buffer[done..count], offset + done as u64, in_hole);
            let end = done + data;
            while done < end {
                match rustix::io::pwrite(file, &buffer[done..end], offset + done as u64) {
                    Ok(0) => return Err(StoreError::inside("write", path)(Errno::NOSPC)),
                    Ok(taken) => done += taken,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(StoreError::inside("write", path)(error)),
                }
            }
            done += zeros;
            skipped |= zeros > 0;
            in_hole = zeros > 0;
        }
    }
    if entry.sparse || skipped {
        rustix::fs::ftruncate(file, entry.size).map_err(StoreError::inside("write", path))?;
    }
    Ok(())
}

/// Tells whether a kind can be linked to.
fn is_linkable(kind: FileKind) -> bool {
    !matches!(kind, FileKind::Directory | FileKind::Socket)
}
