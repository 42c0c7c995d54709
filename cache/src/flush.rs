//! Bringing what was written to disk, so that it survives a power cut.
//!
//! One call flushes a whole file system, but it waits for what everybody has written to it, be that
//! gigabytes of somebody else. So where a few files are to be flushed, each is written by itself, and then
//! their names are, all at once: file systems with a journal write it from its beginning up to what is asked
//! for, so that a directory which was changed last takes everything along that was changed before.

use std::ffi::OsStr;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, RawDir, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::digest::{DiffId, Digest};
use crate::error::StoreError;
use crate::layout::Layout;
use crate::sys;

/// With more entries than this one flush of the file system is cheaper than to look for the files.
const FEW: u64 = 128;

/// Mode of what has been flushed: blobs, and seals with their trees.
const FLUSHED: u32 = 0o444;

/// Mode of a blob that a power cut may still damage.
pub(crate) const UNFLUSHED: u32 = 0o400;

/// Marks a blob, or a seal with its tree, as flushed.
pub(crate) fn mark(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(FLUSHED))
}

/// Whether a blob or seal is marked as flushed.
pub(crate) fn is_marked(found: &Metadata) -> bool {
    found.permissions().mode() & 0o777 == FLUSHED
}

/// What is to be flushed.
#[derive(Debug, Default)]
pub(crate) struct Unflushed {
    /// Blobs.
    pub(crate) blobs: Vec<Digest>,
    /// Trees with their seals.
    pub(crate) trees: Vec<DiffId>,
    /// How many entries the trees have in all.
    pub(crate) entries: u64,
}

/// Flushes the file system that the store is on.
pub(crate) fn everything(layout: &Layout) -> Result<(), StoreError> {
    let root = open_root(layout)?;
    rustix::fs::syncfs(&root).map_err(StoreError::io("flush the file system of", layout.root()))
}

/// Flushes these blobs and trees, or more.
pub(crate) fn only(layout: &Layout, what: &Unflushed) -> Result<(), StoreError> {
    let files = what.blobs.len() + what.trees.len();
    let is_little = what.entries.saturating_add(files as u64) <= FEW;
    let root = open_root(layout)?;
    if !is_little || !writes_names_in_order(&root) {
        return everything(layout);
    }
    // What cannot be opened by itself is flushed with everything else.
    let Ok(files) = files_of(layout, what) else {
        return everything(layout);
    };
    for wait in [false, true] {
        for file in &files {
            match sys::write_content(file.as_fd(), wait) {
                Ok(()) => {}
                // The call is not there, or not allowed here.
                Err(error) if is_refused(&error) => return everything(layout),
                // Nothing is tried again: what could not be written counts as lost.
                Err(error) => return Err(StoreError::io("flush files in", layout.root())(error)),
            }
        }
    }
    // A change of our own, behind all others: what flushes it flushes them.
    let now = Timestamps {
        last_access: moment(UTIME_OMIT),
        last_modification: moment(UTIME_NOW),
    };
    rustix::fs::futimens(&root, &now)
        .and_then(|()| rustix::fs::fsync(&root))
        .map_err(StoreError::io("flush", layout.root()))
}

/// Whether a call was refused as such, before it did anything.
fn is_refused(error: &io::Error) -> bool {
    let known = [Errno::NOSYS, Errno::PERM, Errno::INVAL, Errno::OPNOTSUPP];
    Errno::from_io_error(error).is_some_and(|error| known.contains(&error))
}

fn moment(nanoseconds: i64) -> Timespec {
    Timespec {
        tv_sec: 0,
        tv_nsec: nanoseconds,
    }
}

/// Opens the root of the store.
pub(crate) fn open_root(layout: &Layout) -> Result<OwnedFd, StoreError> {
    rustix::fs::openat(CWD, layout.root(), sys::LIST, Mode::empty())
        .map_err(StoreError::io("open", layout.root()))
}

/// Opens all files that have content.
fn files_of(layout: &Layout, what: &Unflushed) -> io::Result<Vec<OwnedFd>> {
    let mut files = Vec::new();
    let seals = what.trees.iter().map(|tree| layout.seal(tree));
    for path in what.blobs.iter().map(|blob| layout.blob(blob)).chain(seals) {
        files.push(OwnedFd::from(File::open(path)?));
    }
    for tree in &what.trees {
        let root = rustix::fs::openat(CWD, layout.tree(tree), sys::LIST, Mode::empty())?;
        let mut waiting = vec![root];
        while let Some(directory) = waiting.pop() {
            add_files(&directory, &mut files, &mut waiting)?;
        }
    }
    Ok(files)
}

/// Opens the files and directories in a directory; whatever else there is has nothing but a name.
fn add_files(
    directory: &OwnedFd,
    files: &mut Vec<OwnedFd>,
    directories: &mut Vec<OwnedFd>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4 << 10);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let open = |flags| rustix::fs::openat(directory, name, flags, Mode::empty());
        match entry.file_type() {
            FileType::RegularFile => files.push(open(sys::READ)?),
            FileType::Directory => directories.push(open(sys::LIST)?),
            FileType::Unknown => return Err(io::Error::other("a file system without types")),
            _ => {}
        }
    }
    Ok(())
}

/// Whether flushing one inode brings all names to disk that were made or changed before.
///
/// So it is on ext4 with a journal and on XFS, whose journals are written in order. Others write what
/// belongs to the inode (btrfs, ext4 without a journal) or do not say.
fn writes_names_in_order(root: &OwnedFd) -> bool {
    const EXT: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    #[expect(
        clippy::cast_sign_loss,
        reason = "a number of 32 bits on every architecture"
    )]
    let kind = rustix::fs::fstatfs(root).map(|found| found.f_type as u64);
    match kind {
        Ok(XFS) => true,
        Ok(EXT) => has_journal(root).unwrap_or(false),
        _ => false,
    }
}

/// Whether an ext file system has a journal: the kernel tells which of its threads writes it.
fn has_journal(root: &OwnedFd) -> Option<bool> {
    let device = rustix::fs::fstat(root).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let device = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let mut path = PathBuf::from("/sys/fs/ext4");
    path.push(device.file_name().unwrap_or(OsStr::from_bytes(b"")));
    path.push("journal_task");
    let task = std::fs::read_to_string(path).ok()?;
    Some(task.trim().parse::<u32>().is_ok_and(|task| task > 0))
}
