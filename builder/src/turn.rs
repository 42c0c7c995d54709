//! One at a time: identical steps of several builds on one store.
//!
//! A lock of the store, named by the step's key, is held while the step runs; the kernel frees it
//! when its owner dies, whatever it dies of. Who waits for it can be cancelled.

use std::thread;

use rbuild_cache::{Store, StoreLock};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::cancel::Cancel;
use crate::error::BuildError;

/// Takes the lock of this name; calls `waiting` if somebody else has it.
pub(crate) fn turn(
    store: &Store,
    cancel: &Cancel,
    name: &str,
    waiting: impl FnOnce(),
) -> Result<StoreLock, BuildError> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        BuildError::io("could not take a lock of the store", error)
    };
    let free = store.try_lock(name).map_err(|error| failed(&error))?;
    if let Some(lock) = free {
        return Ok(lock);
    }
    waiting();
    // `flock` cannot be waited for together with anything else, so a thread of its own waits. When
    // the build is cancelled it is left behind and lets go of the lock as soon as it has it.
    let (done, signal) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(&std::io::Error::from(error)))?;
    let store = store.clone();
    let name = name.to_owned();
    let waiter = thread::Builder::new()
        .name("lock".to_owned())
        .spawn(move || {
            let lock = store.lock(&name);
            drop(signal);
            lock
        })
        .map_err(|error| failed(&error))?;
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN),
            PollFd::new(&done, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(failed(&std::io::Error::from(error))),
        }
        if cancel.is_cancelled() {
            return Err(BuildError::cancelled());
        }
        return match waiter.join() {
            Ok(lock) => lock.map_err(|error| failed(&error)),
            Err(_) => Err(BuildError::user("waiting for a build step failed")),
        };
    }
}
