//! Writing to disk what will have to be there at the end, while it still comes.
//!
//! An image gets its name when everything of it is on disk. Until then the kernel keeps what is written in
//! memory, by default up to a tenth of it: all that would be waited for at the end, and a writer that has
//! filled that tenth is slowed down. So whoever [expects](Store::expect_name) to give a name has the file
//! system flushed beside the writing, each time that [`AMOUNT`] bytes have come together. The flush at the
//! end is what counts, as ever; it finds little to do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::io::{Errno, Result};

use crate::disk::DiskSpace;
use crate::flush;
use crate::store::{Durability, Store};

/// Bytes that are worth a flush: it costs some milliseconds, and what a step writes and removes again
/// need not reach the disk.
const AMOUNT: u64 = 128 << 20;

/// Flushes in a thread, which starts with the first flush; dropping it waits for the one that runs.
#[derive(Default)]
pub(crate) struct FlushAhead {
    /// What is written will have to be flushed.
    expected: AtomicBool,
    /// Bytes written since the last flush was asked for.
    unflushed: AtomicU64,
    /// What went wrong: the kernel tells it once only.
    failed: Arc<Mutex<Option<Errno>>>,
    thread: Mutex<Option<(SyncSender<()>, JoinHandle<()>)>>,
}

impl FlushAhead {
    /// Counts bytes; true each time that enough have come together.
    fn count(&self, bytes: u64) -> bool {
        let before = self.unflushed.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes < AMOUNT {
            return false;
        }
        self.unflushed.swap(0, Ordering::Relaxed) >= AMOUNT
    }

    /// Has `flush` called once more in the thread; one that waits already serves both.
    fn begin(&self, flush: impl FnMut() -> Result<()> + Send + 'static) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = self.start(flush);
        }
        if let Some((sender, _)) = &*thread {
            // Full: what is asked for is just about to be done.
            let _ = sender.try_send(());
        }
    }

    /// Without a thread everything is flushed at the end.
    fn start(
        &self,
        mut flush: impl FnMut() -> Result<()> + Send + 'static,
    ) -> Option<(SyncSender<()>, JoinHandle<()>)> {
        let failed = Arc::clone(&self.failed);
        let (sender, receiver) = sync_channel(1);
        let work = move || {
            for () in receiver {
                if let Err(error) = flush() {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.get_or_insert(error);
                }
            }
        };
        let started = Builder::new().name("flush".to_owned()).spawn(work);
        started.ok().map(|handle| (sender, handle))
    }

    /// What went wrong: from then on nothing that was written can be relied on.
    pub(crate) fn failure(&self) -> Result<()> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(()), Err)
    }

    /// Waits for flushes that were asked for.
    pub(crate) fn finish(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((sender, handle)) = thread.take() {
            drop(sender);
            // It does not panic; what was not flushed is flushed by whoever waits.
            let _ = handle.join();
        }
    }
}

impl Drop for FlushAhead {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Sees how much others write to the file system of the store.
pub struct SpaceWatch {
    store: Store,
    /// Free bytes when last looked; more than that means that something was removed.
    free: u64,
}

impl SpaceWatch {
    /// How often to look.
    pub const INTERVAL: Duration = Duration::from_millis(250);

    /// Looks, and has the file system flushed beside if much was written since the last flush.
    pub fn look(&mut self) {
        let written = self.written();
        if written >= AMOUNT {
            self.free -= written;
            self.store.begin_flush();
        }
    }

    /// The writers have ended: has what they left flushed beside what comes next.
    pub fn end(mut self) {
        if self.written() >= AMOUNT / 8 {
            self.store.begin_flush();
        }
    }

    fn written(&mut self) -> u64 {
        // Who cannot see flushes at the end.
        let free = self.store.space().map_or(self.free, |space| space.free);
        self.free = self.free.max(free);
        self.free - free
    }
}

impl Store {
    /// Says that what is written from now on will get a name at the end.
    pub fn expect_name(&self) {
        let expected = self.durability() != Durability::None;
        self.ahead().expected.store(expected, Ordering::Relaxed);
    }

    /// Watches what others write, if it will get a name.
    pub fn watch_space(&self) -> Option<SpaceWatch> {
        if !self.ahead().expected.load(Ordering::Relaxed) {
            return None;
        }
        let DiskSpace { free, .. } = self.space().ok()?;
        let store = self.clone();
        Some(SpaceWatch { store, free })
    }

    /// Counts bytes of a blob or a tree.
    pub(crate) fn wrote(&self, bytes: u64) {
        if self.ahead().expected.load(Ordering::Relaxed) && self.ahead().count(bytes) {
            self.begin_flush();
        }
    }

    fn begin_flush(&self) {
        // Opened before anything can go wrong: it is told to whoever had the file system open.
        if let Ok(root) = flush::open_root(self.layout()) {
            self.ahead().begin(move || rustix::fs::syncfs(&root));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_flush_for_every_amount() {
        let ahead = FlushAhead::default();
        assert!(!ahead.count(AMOUNT - 1));
        assert!(ahead.count(1));
        assert!(!ahead.count(AMOUNT / 2));
        assert!(ahead.count(3 * AMOUNT));
        assert!(!ahead.count(1));
    }

    #[test]
    fn flushes_that_were_asked_for_are_done_at_the_end() {
        let ahead = FlushAhead::default();
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..3 {
            let done = Arc::clone(&done);
            ahead.begin(move || {
                done.fetch_add(1, Ordering::SeqCst);
                Ok(())
            });
            ahead.finish();
        }
        assert_eq!(done.load(Ordering::SeqCst), 3);
        ahead.failure().unwrap();
    }

    #[test]
    fn what_went_wrong_first_is_told_ever_after() {
        let ahead = FlushAhead::default();
        let mut errors = [Errno::IO, Errno::NOSPC].into_iter();
        ahead.begin(move || errors.next().map_or(Ok(()), Err));
        ahead.finish();
        for _ in 0..2 {
            assert_eq!(ahead.failure(), Err(Errno::IO));
        }
    }
}
