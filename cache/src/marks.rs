//! How deletions and opaque directories are marked in trees.
//!
//! Usually as overlay does it: a character device 0:0, and an attribute of the directory. A file system
//! that is an overlay itself keeps these for its own use and refuses them; there the marks are
//! *recorded*: a deletion is an empty file with a [record](crate::owners) that says what it stands for,
//! and an opaque directory has an attribute of ours. Such trees cannot be mounted; only this program
//! reads them, and steps run in copies of their root.
//!
//! Whether marks are recorded is a property of the store's file system, found out when a store is opened.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags, mknodat, statfs, unlinkat};
use rustix::io::Errno;

use crate::error::StoreError;
use crate::owners;
use crate::session;
use crate::sys;

/// Set once a store is opened whose file system has no place for overlay's marks.
static RECORDED: AtomicBool = AtomicBool::new(false);

/// Our mark of an opaque directory.
pub(crate) const OPAQUE: &str = "user.rbuild.opaque";

/// `f_type` of overlay.
const OVERLAY: i64 = 0x794c_7630;

/// `f_type` of file systems that take overlay's marks: ext4, xfs, btrfs, tmpfs.
const WILLING: [i64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];

/// Whether marks are recorded in the stores that this process has open.
pub(crate) fn are_recorded() -> bool {
    RECORDED.load(Ordering::Relaxed)
}

/// Finds out whether the marks of a store must be recorded, with a directory in it to try.
pub(crate) fn settle(tmp: &Path) -> Result<(), StoreError> {
    let found = statfs(tmp).map_err(StoreError::io("look at the file system of", tmp))?;
    let kind = found.f_type as i64;
    if WILLING.contains(&kind) {
        return Ok(());
    }
    if kind == OVERLAY || !takes_whiteouts(tmp) {
        RECORDED.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn takes_whiteouts(tmp: &Path) -> bool {
    let path = tmp.join(session::unique_name());
    let made = mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0);
    // Refused for want of space or the like says nothing.
    let refused = matches!(made, Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS));
    if made.is_ok() {
        // What stays is collected by the next command.
        let _ = unlinkat(CWD, &path, AtFlags::empty());
    }
    !refused
}

/// Writes a deletion.
pub(crate) fn make_whiteout(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    if are_recorded() {
        return owners::make_recorded_whiteout(directory, name);
    }
    let kind = FileType::CharacterDevice;
    Ok(mknodat(directory, name, kind, Mode::empty(), 0)?)
}

/// Marks the directory at a path, which follows no symlink, as hiding what lies below it, in the form
/// that this process can write.
pub(crate) fn set_opaque(path: &[u8]) -> io::Result<()> {
    if are_recorded() {
        return Ok(rustix::fs::setxattr(
            path,
            OPAQUE,
            b"y",
            XattrFlags::empty(),
        )?);
    }
    let mut last = Errno::OPNOTSUPP;
    for name in sys::OPAQUE {
        match rustix::fs::setxattr(path, name, b"y", XattrFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last.into())
}
