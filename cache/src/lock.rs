//! Locks across processes: `flock` on files that are never removed.
//!
//! The kernel frees them when their owner dies, whatever it dies of.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt};
use std::path::Path;

use crate::error::StoreError;

/// A lock across processes; free when dropped or when the process dies.
#[derive(Debug)]
#[must_use = "a lock is free as soon as it is dropped"]
pub struct StoreLock {
    file: File,
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    Shared,
    Exclusive,
}

fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(StoreError::io("open the lock", path))
}

impl StoreLock {
    /// Waits for the lock.
    pub(crate) fn wait(path: &Path, hold: Hold) -> Result<StoreLock, StoreError> {
        let file = open(path)?;
        let held = match hold {
            Hold::Shared => file.lock_shared(),
            Hold::Exclusive => file.lock(),
        };
        held.map_err(StoreError::io("lock", path))?;
        Ok(StoreLock { file })
    }

    /// Tells whether the file that is locked is the one that has this path now.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let same =
            |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        match (self.file.metadata(), std::fs::metadata(path)) {
            (Ok(held), Ok(there)) => same(&held, &there),
            _ => false,
        }
    }

    /// Makes a shared hold exclusive if nobody else holds the lock. It stays shared otherwise.
    pub(crate) fn try_alone(&self, path: &Path) -> Result<bool, StoreError> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => {
                // The kernel gives a hold up before it takes the other one.
                self.share(path)?;
                Ok(false)
            }
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
        }
    }

    /// Makes an exclusive hold shared again.
    pub(crate) fn share(&self, path: &Path) -> Result<(), StoreError> {
        self.file
            .lock_shared()
            .map_err(StoreError::io("lock", path))
    }

    /// Takes the lock if that is possible now.
    pub(crate) fn try_now(path: &Path, hold: Hold) -> Result<Option<StoreLock>, StoreError> {
        let file = open(path)?;
        let held = match hold {
            Hold::Shared => file.try_lock_shared(),
            Hold::Exclusive => file.try_lock(),
        };
        match held {
            Ok(()) => Ok(Some(StoreLock { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
        }
    }
}
