//! What is wrong with a disk, and the space that is kept back so that a full one can be cleaned up.
//!
//! Removing needs space too: a directory to move things into, a log of the database. So the store
//! keeps a file of [`RESERVE`] bytes that means nothing; pruning gives it up when the disk is full,
//! and makes it again afterwards.

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::Path;

use rusqlite::ErrorCode;
use rustix::fs::{FallocateFlags, statvfs};
use rustix::io::Errno;

use crate::error::StoreError;
use crate::layout::Layout;
use crate::store::Store;

/// Bytes that are kept back for pruning.
const RESERVE: u64 = 1 << 20;

/// A step that fails with less free space than this has most likely failed for want of it; bytes.
const NEARLY_FULL: u64 = 1 << 20;

/// Trouble that is not about what was asked for, but about the disk it was to be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskTrouble {
    /// No space, or no inode, is left.
    Full,
    /// The user's quota is used up.
    Quota,
    /// The disk cannot be read or written.
    Failing,
    /// The file system is mounted read-only.
    ReadOnly,
}

impl DiskTrouble {
    /// Finds the trouble in an error or its sources.
    pub fn of(error: &(dyn Error + 'static)) -> Option<DiskTrouble> {
        let mut next = Some(error);
        while let Some(error) = next {
            let found = match (
                error.downcast_ref::<io::Error>(),
                error.downcast_ref::<Errno>(),
                error.downcast_ref::<rusqlite::Error>(),
            ) {
                (Some(error), _, _) => of_io(error),
                (_, Some(error), _) => of_io(&io::Error::from(*error)),
                (_, _, Some(error)) => of_database(error),
                _ => None,
            };
            if found.is_some() {
                return found;
            }
            next = error.source();
        }
        None
    }
}

fn of_io(error: &io::Error) -> Option<DiskTrouble> {
    match error.kind() {
        io::ErrorKind::StorageFull => Some(DiskTrouble::Full),
        io::ErrorKind::QuotaExceeded => Some(DiskTrouble::Quota),
        io::ErrorKind::ReadOnlyFilesystem => Some(DiskTrouble::ReadOnly),
        _ if Errno::from_io_error(error) == Some(Errno::IO) => Some(DiskTrouble::Failing),
        // An error of ours inside one of the standard library's.
        _ => DiskTrouble::of(error.get_ref()?),
    }
}

fn of_database(error: &rusqlite::Error) -> Option<DiskTrouble> {
    match error.sqlite_error_code()? {
        ErrorCode::DiskFull => Some(DiskTrouble::Full),
        ErrorCode::SystemIoFailure => Some(DiskTrouble::Failing),
        ErrorCode::ReadOnly => Some(DiskTrouble::ReadOnly),
        _ => None,
    }
}

/// How much room a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that this process may still write.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

impl DiskSpace {
    /// Asks the file system that a path is on.
    pub fn of(path: &Path) -> io::Result<DiskSpace> {
        let found = statvfs(path)?;
        Ok(DiskSpace {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

impl Store {
    /// Asks the file system that the store is on.
    pub fn space(&self) -> Result<DiskSpace, StoreError> {
        DiskSpace::of(self.root())
            .map_err(StoreError::io("look at the file system of", self.root()))
    }

    /// Tells whether there is so little space that whatever failed has most likely failed for it.
    pub fn is_nearly_full(&self) -> bool {
        self.space().is_ok_and(|space| space.free < NEARLY_FULL)
    }
}

/// Takes the space that is kept back; without it the store works as well.
pub(crate) fn keep_reserve(layout: &Layout) {
    let path = layout.reserve();
    if path.exists() {
        return;
    }
    let taken = File::create(&path).and_then(|file| {
        Ok(rustix::fs::fallocate(
            &file,
            FallocateFlags::empty(),
            0,
            RESERVE,
        )?)
    });
    if let Err(error) = taken {
        tracing::debug!(%error, "no space is kept back");
        let _ = std::fs::remove_file(&path);
    }
}

/// Gives up the space that is kept back; false if there is none.
pub(crate) fn give_reserve_up(layout: &Layout) -> bool {
    std::fs::remove_file(layout.reserve()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_found_under_other_errors() {
        let io = |errno: Errno| io::Error::from(errno);
        let wrapped = |errno| StoreError::io("write", Path::new("/x"))(io(errno));
        for (errno, trouble) in [
            (Errno::NOSPC, Some(DiskTrouble::Full)),
            (Errno::DQUOT, Some(DiskTrouble::Quota)),
            (Errno::IO, Some(DiskTrouble::Failing)),
            (Errno::ROFS, Some(DiskTrouble::ReadOnly)),
            (Errno::NOENT, None),
        ] {
            assert_eq!(DiskTrouble::of(&wrapped(errno)), trouble);
            let inside = io::Error::other(wrapped(errno));
            assert_eq!(DiskTrouble::of(&inside), trouble);
        }
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let full = StoreError::database("write")(rusqlite::Error::SqliteFailure(full, None));
        assert_eq!(DiskTrouble::of(&full), Some(DiskTrouble::Full));
    }
}
