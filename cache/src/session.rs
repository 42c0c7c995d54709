//! Unfinished things below `tmp/`: who owns them, and how they go away.
//!
//! A name is `<boot>-<pid>-<start>-<n>`, and its owner holds a `flock` on the file or directory
//! itself. The name tells people who it was; the lock decides, since process IDs mean little where
//! several PID namespaces share a store. Making an entry and locking it happens under a shared hold
//! on `locks/tmp`, collecting under an exclusive one, so no entry is seen before it is locked.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};

use crate::error::StoreError;
use crate::layout::Layout;
use crate::lock::{Hold, StoreLock};
use crate::remove::remove_tree;
use crate::sys;

/// ID of the running boot, without dashes; `0` where the kernel does not tell.
pub(crate) fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let id: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        if id.is_empty() { "0".to_owned() } else { id }
    })
}

/// Start time of this process in clock ticks since boot; 0 where the kernel does not tell.
fn start_time() -> u64 {
    static START: OnceLock<u64> = OnceLock::new();
    *START.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is the program's name in parentheses and may hold anything.
        let after_name = text.rsplit(')').next().unwrap_or_default();
        after_name
            .split_whitespace()
            .nth(19)
            .and_then(|field| field.parse().ok())
            .unwrap_or(0)
    })
}

/// A name for something unfinished that nobody else has.
pub(crate) fn unique_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{}-{}-{}-{number}",
        boot_id(),
        std::process::id(),
        start_time()
    )
}

fn hold_tmp(layout: &Layout) -> Result<StoreLock, StoreError> {
    StoreLock::wait(&layout.named_lock("tmp"), Hold::Shared)
}

/// Makes a file below `tmp/`, locked as long as it is open.
pub(crate) fn temporary_file(layout: &Layout) -> Result<(File, PathBuf), StoreError> {
    owned_file(layout, &layout.tmp())
}

/// Makes a file that [`collect_dead`] removes once nobody has it open any more.
pub(crate) fn owned_file(layout: &Layout, directory: &Path) -> Result<(File, PathBuf), StoreError> {
    let path = directory.join(unique_name());
    let _hold = hold_tmp(layout)?;
    let file = OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(StoreError::io("create", &path))?;
    file.lock().map_err(StoreError::io("lock", &path))?;
    Ok((file, path))
}

/// A directory below `tmp/` that is removed on drop.
#[derive(Debug)]
#[must_use = "a scratch directory is removed as soon as it is dropped"]
pub struct Scratch {
    path: PathBuf,
    /// Open and locked as long as we live, so that no other process collects the directory.
    _lock: File,
}

impl Scratch {
    pub(crate) fn new(layout: &Layout) -> Result<Scratch, StoreError> {
        let path = layout.tmp().join(unique_name());
        let _hold = hold_tmp(layout)?;
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(StoreError::io("create the directory", &path))?;
        let lock = File::open(&path).map_err(StoreError::io("open", &path))?;
        lock.lock().map_err(StoreError::io("lock", &path))?;
        Ok(Scratch { path, _lock: lock })
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory now and tells what went wrong.
    pub fn close(self) -> Result<(), StoreError> {
        self.remove()
    }

    fn remove(&self) -> Result<(), StoreError> {
        remove_tree(&self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After `close` there is nothing left. What cannot be removed now is found by the next
        // command that opens the store.
        if let Err(error) = self.remove() {
            tracing::debug!(%error, path = %self.path.display(), "scratch directory stays behind");
        }
    }
}

/// Removes what dead processes left below `directory`; returns how many entries those were.
///
/// Entries that cannot be removed are reported through `complain` and stay.
pub(crate) fn collect_dead(
    layout: &Layout,
    directory: &Path,
    complain: &mut dyn FnMut(StoreError),
) -> Result<u64, StoreError> {
    let list = match rustix::fs::openat(CWD, directory, sys::LIST, Mode::empty()) {
        Ok(list) => list,
        Err(error) => return Err(StoreError::io("open the directory", directory)(error)),
    };
    let names = sys::names(&list).map_err(StoreError::io("list the directory", directory))?;
    if names.is_empty() {
        return Ok(0);
    }
    // Somebody is just creating something: the next command will find the garbage as well.
    let Some(_hold) = StoreLock::try_now(&layout.named_lock("tmp"), Hold::Exclusive)? else {
        return Ok(0);
    };
    let mut removed = 0;
    for name in names {
        let path = directory.join(sys::os(&name));
        match is_abandoned(&list, &name) {
            Ok(false) => {}
            Ok(true) => match remove_tree(&path) {
                Ok(()) => removed += 1,
                Err(error) => complain(error),
            },
            Err(error) => complain(StoreError::io("look at", &path)(error)),
        }
    }
    Ok(removed)
}

/// Tells whether nobody holds the lock of an entry.
fn is_abandoned(directory: impl rustix::fd::AsFd, name: &[u8]) -> std::io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => file,
        // Renamed away or removed by its owner between listing and now.
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        // A symlink or something else that no process of ours makes here.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
