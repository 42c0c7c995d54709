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
    worker: Worker,
}

/// What a stream hashed to.
pub(crate) struct Hashed {
    pub(crate) digest: Digest,
    /// Bytes of the stream.
    pub(crate) bytes: u64,
    /// States at the [marks](HashBeside::mark), in order.
    pub(crate) marks: Vec<Vec<u8>>,
}

/// Where the hash is.
enum Worker {
    /// Nothing has been handed over yet.
    Here(Hasher),
    Beside {
        full: SyncSender<Message>,
        empty: Receiver<Vec<u8>>,
        thread: JoinHandle<(Hasher, Vec<Vec<u8>>)>,
    },
}

enum Message {
    Piece(Vec<u8>),
    Mark,
}

impl HashBeside {
    /// Nothing is hashed yet; writing fails once `stop` is set.
    pub(crate) fn new(stop: Option<Arc<AtomicBool>>) -> HashBeside {
        HashBeside {
            buffer: Vec::new(),
            bytes: 0,
            stop,
            worker: Worker::Here(Hasher::new()),
        }
    }

    /// Goes on where `bytes` of the stream have been hashed already.
    pub(crate) fn after(self, hasher: Hasher, bytes: u64) -> HashBeside {
        HashBeside {
            bytes,
            worker: Worker::Here(hasher),
            ..self
        }
    }

    /// Ends the stream.
    pub(crate) fn finish(self) -> io::Result<Hashed> {
        let (mut hasher, marks) = match self.worker {
            Worker::Here(hasher) => (hasher, Vec::new()),
            Worker::Beside { full, thread, .. } => {
                drop(full);
                thread.join().map_err(|_| gone())?
            }
        };
        hasher.update(&self.buffer);
        Ok(Hashed {
            digest: hasher.finish(),
            bytes: self.bytes,
            marks,
        })
    }

    /// Keeps the state of the hash after what was written so far.
    pub(crate) fn mark(&mut self) -> io::Result<()> {
        self.hand_over()?;
        self.send(Message::Mark)
    }

    /// Bytes of the stream so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn hand_over(&mut self) -> io::Result<()> {
        if self
            .stop
            .as_ref()
            .is_some_and(|stop| stop.load(Ordering::Relaxed))
        {
            return Err(io::Error::other("cancelled"));
        }
        if let Worker::Here(hasher) = &self.worker {
            self.worker = Worker::start(hasher.clone())?;
        }
        let next = match &self.worker {
            Worker::Beside { empty, .. } => empty.try_recv().unwrap_or_default(),
            Worker::Here(_) => Vec::new(),
        };
        let piece = std::mem::replace(&mut self.buffer, next);
        self.send(Message::Piece(piece))
    }

    fn send(&self, message: Message) -> io::Result<()> {
        match &self.worker {
            Worker::Beside { full, .. } => full.send(message).map_err(|_| gone()),
            Worker::Here(_) => Err(gone()),
        }
    }
}

impl Worker {
    fn start(mut hasher: Hasher) -> io::Result<Worker> {
        let (full, messages) = mpsc::sync_channel(PIECES);
        let (used, empty) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("hash".to_owned())
            .spawn(move || {
                let mut marks = Vec::new();
                for message in messages {
                    match message {
                        Message::Mark => marks.push(hasher.state()),
                        Message::Piece(mut piece) => {
                            hasher.update(&piece);
                            piece.clear();
                            // Nobody takes the last ones back.
                            let _ = used.send(piece);
                        }
                    }
                }
                (hasher, marks)
            })?;
        Ok(Worker::Beside {
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
            let hashed = writer.finish().unwrap();
            assert_eq!(
                (hashed.digest, hashed.bytes),
                (Digest::of(bytes), length as u64)
            );
        }
    }

    #[test]
    fn it_goes_on_from_a_mark() {
        let bytes = vec![7; 3 * PIECE];
        let (first, rest) = bytes.split_at(PIECE + 777);
        let mut writer = HashBeside::new(None);
        writer.write_all(first).unwrap();
        writer.mark().unwrap();
        writer.write_all(rest).unwrap();
        let whole = writer.finish().unwrap();
        let [mark] = whole.marks.as_slice() else {
            panic!("{} marks", whole.marks.len());
        };
        let mut writer =
            HashBeside::new(None).after(Hasher::from_state(mark).unwrap(), first.len() as u64);
        writer.write_all(rest).unwrap();
        let again = writer.finish().unwrap();
        assert_eq!(whole.digest, Digest::of(&bytes));
        assert_eq!((again.digest, again.bytes), (whole.digest, whole.bytes));
        assert!(Hasher::from_state(&mark[1..]).is_none());
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
