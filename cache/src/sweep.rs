//! Removing what is done with, beside other work.
//!
//! What a step leaves in its scratch directories takes a hundred system calls to remove, its mounts some waits
//! of the kernel, and the next step need not wait for them.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::session::Scratch;
use crate::store::Store;

/// What is gone when it was dropped.
type Remains = Box<dyn Send>;

/// Removes in a thread, which starts with the first of it; dropping it waits until all is gone.
#[derive(Default)]
pub(crate) struct Sweeper(Mutex<Option<(Sender<Remains>, JoinHandle<()>)>>);

impl Sweeper {
    fn take(&self, remains: Remains) {
        let mut thread = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (sender, receiver) = channel::<Remains>();
            let started = Builder::new().name("sweeper".to_owned()).spawn(move || {
                // To drop one is to remove it.
                receiver.into_iter().for_each(drop);
            });
            // Without it everything is removed here and now.
            *thread = started.ok().map(|handle| (sender, handle));
        }
        if let Some((sender, _)) = &*thread {
            // It comes back, and is dropped here, if the thread has ended.
            let _ = sender.send(remains);
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        let thread = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((sender, handle)) = thread.take() {
            drop(sender);
            // What it could not remove is found by the next command.
            let _ = handle.join();
        }
    }
}

impl Store {
    /// Removes a scratch directory beside what else is done; it is gone when the last handle of the store is.
    pub fn remove_beside(&self, scratch: Scratch) {
        self.sweeper().take(Box::new(scratch));
    }

    /// Drops something beside what else is done; it is dropped when the last handle of the store is.
    pub fn drop_beside(&self, remains: impl Send + 'static) {
        self.sweeper().take(Box::new(remains));
    }
}
