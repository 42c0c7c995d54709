//! Stopping a build from outside: a flag that threads can test and wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};

/// Cancels a build; cheap to clone.
#[derive(Debug, Clone)]
pub struct Cancel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cancelled: Arc<AtomicBool>,
    /// Closed on cancellation, which makes `signal` readable (end of file) for every poller.
    keep_open: Mutex<Option<OwnedFd>>,
    signal: OwnedFd,
    hooks: Mutex<Vec<Hook>>,
}

/// Something to do on cancellation.
struct Hook(Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> io::Result<Cancel> {
        let (signal, keep_open) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Cancel {
            inner: Arc::new(Inner {
                cancelled: Arc::new(AtomicBool::new(false)),
                keep_open: Mutex::new(Some(keep_open)),
                signal,
                hooks: Mutex::default(),
            }),
        })
    }

    /// Sets the flag; doing so again changes nothing.
    pub fn cancel(&self) {
        self.inner.cancelled.store(true, Ordering::SeqCst);
        let mut keep_open = self
            .inner
            .keep_open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        keep_open.take();
        drop(keep_open);
        self.run_hooks();
    }

    /// Has something done when the flag is set, at once if it is set already.
    pub(crate) fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        let mut hooks = self
            .inner
            .hooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        hooks.push(Hook(Box::new(hook)));
        drop(hooks);
        if self.is_cancelled() {
            self.run_hooks();
        }
    }

    fn run_hooks(&self) {
        let mut hooks = self
            .inner
            .hooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let hooks = std::mem::take(&mut *hooks);
        for hook in hooks {
            hook.0();
        }
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::SeqCst)
    }

    /// The flag itself, for code that knows no builds.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.inner.cancelled)
    }

    /// A descriptor that polls as readable once the flag is set.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.signal.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    #[test]
    fn cancelling_wakes_pollers() {
        let cancel = Cancel::new().unwrap();
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&none)).unwrap(), 0);
        cancel.clone().cancel();
        assert!(cancel.is_cancelled());
        let mut fds = [PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN)];
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
    }
}
