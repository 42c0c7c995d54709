//! Roots of trees that are kept open, but not more of them than a process may have files open.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{CWD, Mode, OFlags};

/// How many are kept open now, in all of the process.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// How many may be. A deep image has more layers than a process may usually have files open (1,024);
/// the others are opened each time.
const MOST: usize = 256;

/// The root directory of a tree, opened when it is first asked for.
#[derive(Debug)]
pub(crate) struct OpenRoot {
    path: PathBuf,
    flags: OFlags,
    kept: OnceLock<OwnedFd>,
}

/// Descriptor of a root.
pub(crate) enum RootFd<'a> {
    /// Kept open for the next who asks.
    Kept(&'a OwnedFd),
    /// For this time only.
    Once(OwnedFd),
}

impl Deref for RootFd<'_> {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        match self {
            RootFd::Kept(fd) => fd,
            RootFd::Once(fd) => fd,
        }
    }
}

impl OpenRoot {
    /// The root at a path, to be opened with these flags.
    pub(crate) fn new(path: PathBuf, flags: OFlags) -> OpenRoot {
        OpenRoot {
            path,
            flags,
            kept: OnceLock::new(),
        }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> rustix::io::Result<RootFd<'_>> {
        if let Some(fd) = self.kept.get() {
            return Ok(RootFd::Kept(fd));
        }
        let fd = rustix::fs::openat(CWD, &self.path, self.flags, Mode::empty())?;
        if KEPT.fetch_add(1, Ordering::Relaxed) >= MOST {
            KEPT.fetch_sub(1, Ordering::Relaxed);
            return Ok(RootFd::Once(fd));
        }
        let mut fd = Some(fd);
        let kept = self.kept.get_or_init(|| fd.take().expect("asked for once"));
        if fd.is_some() {
            // Another thread was faster, and has counted it.
            KEPT.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(RootFd::Kept(kept))
    }
}

impl Drop for OpenRoot {
    fn drop(&mut self) {
        if self.kept.get().is_some() {
            KEPT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
