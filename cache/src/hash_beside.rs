//! Hashing a stream on a thread of its own, so that who reads the files need not wait for it.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;

use crate::digest::{Digest, Hasher};

/// Bytes that are handed over at once; less is hashed in place.
const PIECE: usize = 1 << 20;

/// Pieces between the two threads.
const PIECES: usize = 3;

/// Takes the bytes of a stream and keeps nothing but their digest.
pub(crate) struct HashBeside {
    buffer: Vec<u8>,
    bytes: u64,
    stop: Option<Arc<AtomicBool>>,
    worker: Option<Worker>,
}

struct Worker {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Hasher>,
}

impl HashBeside {
    /// Nothing is hashed yet; writing fails once `stop` is set.
    pub(crate) fn new(stop: Option<Arc<AtomicBool>>) -> HashBeside {
        HashBeside {
            buffer: Vec::new(),
            bytes: 0,
            stop,
            worker: None,
        }
    }

    /// Ends the stream: the digest and how many bytes it is of.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64)> {
        let rest = std::mem::take(&mut self.buffer);
        let mut hasher = match self.worker.take() {
            None => Hasher::new(),
            Some(Worker { full, thread, .. }) => {
                drop(full);
                thread.join().map_err(|_| gone())?
            }
        };
        hasher.update(&rest);
        Ok((hasher.finish(), self.bytes))
    }

    fn hand_over(&mut self) -> io::Result<()> {
        if self
            .stop
            .as_ref()
            .is_some_and(|stop| stop.load(Ordering::Relaxed))
        {
            return Err(io::Error::other("cancelled"));
        }
        let worker = match &mut self.worker {
            Some(worker) => worker,
            none => none.insert(Worker::start()?),
        };
        let next = worker.empty.try_recv().unwrap_or_default();
        let piece = std::mem::replace(&mut self.buffer, next);
        worker.full.send(piece).map_err(|_| gone())
    }
}

impl Worker {
    fn start() -> io::Result<Worker> {
        let (full, pieces) = mpsc::sync_channel::<Vec<u8>>(PIECES);
        let (used, empty) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("hash".to_owned())
            .spawn(move || {
                let mut hasher = Hasher::new();
                for mut piece in pieces {
                    hasher.update(&piece);
                    piece.clear();
                    // Nobody takes the last ones back.
                    let _ = used.send(piece);
                }
                hasher
            })?;
        Ok(Worker {
            full,
            empty,
            thread,
        })
    }
}

impl Write for HashBeside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > PIECE && !self.buffer.is_empty() {
            self.hand_over()?;
        }
        self.buffer.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that hashes ended early")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..5_000_000u32)
            .map(|number| (number % 251) as u8)
            .collect();
        for (length, cut) in [
            (0, 1),
            (10, 3),
            (PIECE, PIECE),
            (5_000_000, 300_000),
            (5_000_000, 4_999_999),
        ] {
            let bytes = &bytes[..length];
            let mut writer = HashBeside::new(None);
            for piece in bytes.chunks(cut) {
                writer.write_all(piece).unwrap();
            }
            assert_eq!(writer.finish().unwrap(), (Digest::of(bytes), length as u64));
        }
    }

    #[test]
    fn a_stop_ends_it_with_an_error() {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writer = HashBeside::new(Some(Arc::clone(&stop)));
        writer.write_all(&vec![0; PIECE]).unwrap();
        stop.store(true, Ordering::Relaxed);
        assert!(writer.write_all(&[0]).is_err());
    }
}
