//! Mount targets that the image does not have.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::apply::{Apply, Purpose};
use crate::error::{StoreError, ViewError};
use crate::limits::Limits;
use crate::owners;
use crate::sys;
use crate::view::{Follow, RootView, absolute, join};

/// What a mount target has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// An empty regular file.
    File,
    /// An empty directory.
    Directory,
}

/// A mount target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaffoldTarget {
    /// Path in the root file system, symlinks allowed.
    pub path: PathBuf,
    /// What has to be there.
    pub kind: TargetKind,
}

/// Fills `into` with the mount targets that are missing in `view`.
///
/// `into` (an empty directory) becomes one more overlay lower directory on top of the layers, so
/// that nothing appears in the upper directory. Parents carry the image's metadata. Returns the
/// targets with all symlinks resolved, in the order given. A target that exists as something else
/// than asked for (a directory instead of a file, or the reverse) is an error.
pub fn scaffold(
    view: &RootView,
    targets: &[ScaffoldTarget],
    into: &Path,
) -> Result<Vec<PathBuf>, StoreError> {
    let purpose = Purpose::Archive { into: Vec::new() };
    let mut apply = Apply::new(into, Some(view), purpose, None, &Limits::default())?;
    let mut resolved = Vec::with_capacity(targets.len());
    let mut existing = vec![Vec::new()];
    for target in targets {
        let found = view.resolve(&target.path)?;
        if let Some(entry) = &found.entry {
            match (target.kind, entry.is_directory()) {
                (TargetKind::Directory, false) => {
                    return Err(ViewError::NotADirectory { path: found.path }.into());
                }
                (TargetKind::File, true) => {
                    return Err(ViewError::NotAFile { path: found.path }.into());
                }
                _ => {}
            }
            resolved.push(found.path);
            continue;
        }
        let prefix = found.path.as_os_str().as_bytes();
        let mut path = prefix.strip_prefix(b"/").unwrap_or(prefix).to_vec();
        existing.extend(ancestors(&path));
        let Some((last, between)) = found.missing.split_last() else {
            resolved.push(found.path);
            continue;
        };
        for name in between {
            path = join(&path, name.as_bytes());
        }
        let target_path = join(&path, last.as_bytes());
        match target.kind {
            TargetKind::Directory => apply.make_directories(&target_path)?,
            TargetKind::File => {
                apply.make_directories(&path)?;
                make_file(into, &path, last.as_bytes())?;
            }
        }
        resolved.push(absolute(&target_path));
    }
    drop(apply);
    restore_times(view, into, &existing)?;
    Ok(resolved)
}

/// A path and all directories above it, without the root.
fn ancestors(path: &[u8]) -> Vec<Vec<u8>> {
    let slashes = path
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| at);
    let mut all: Vec<Vec<u8>> = slashes.map(|at| path[..at].to_vec()).collect();
    if !path.is_empty() {
        all.push(path.to_vec());
    }
    all
}

fn make_file(into: &Path, directory: &[u8], name: &[u8]) -> Result<(), StoreError> {
    let path = join(directory, name);
    let root = open(into)?;
    let directory = sys::open_beneath(&root, directory, sys::DIRECTORY)
        .map_err(StoreError::inside("open the directory of", &path))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(StoreError::inside("create", &path)(error)),
    }
}

fn open(path: &Path) -> Result<std::os::fd::OwnedFd, StoreError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(StoreError::io("open", path))
}

/// Gives directories that exist in the image their metadata back, which new names in them changed.
fn restore_times(view: &RootView, into: &Path, directories: &[Vec<u8>]) -> Result<(), StoreError> {
    let root = open(into)?;
    for path in directories {
        let Some(entry) = view.lookup(absolute(path), Follow::None)? else {
            continue;
        };
        let Ok(directory) = sys::open_beneath(&root, path, sys::LIST) else {
            continue;
        };
        let found = &entry.metadata;
        if path.is_empty() {
            owners::set(&directory, found.uid, found.gid, found.mode)
                .map_err(StoreError::inside("set owner and mode of", path))?;
        }
        let time = Timespec {
            tv_sec: found.mtime.seconds,
            tv_nsec: i64::from(found.mtime.nanoseconds),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::futimens(&directory, &times)
            .map_err(StoreError::inside("set the times of", path))?;
    }
    Ok(())
}
