//! Parallel gzip: one member, the same bytes whatever the number of threads.
//!
//! The input is cut into blocks of 1 MiB. Each is deflated on its own, with the 32 KiB before it as
//! dictionary, and ended by a sync flush, so that the pieces can be put one behind the other; their
//! checksums are combined. Any reader of gzip reads it. Memory: two blocks a thread.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use flate2::{Compress, Compression, Crc, FlushCompress};

use crate::error::StoreError;

/// Plain bytes of one block.
const BLOCK: usize = 1 << 20;

/// How far deflate looks back.
const WINDOW: usize = 32 << 10;

/// Magic, deflate, no flags, no time, no extra flags, unknown system: the header Go writes.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty block with the mark of the last one.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// A deflated block.
struct Piece {
    deflated: Vec<u8>,
    crc: Crc,
    /// The plain block, to be used again.
    plain: Vec<u8>,
}

type Promise = Receiver<io::Result<Piece>>;

/// Threads that deflate; they never wait for anything but work.
fn pool() -> Result<&'static rayon::ThreadPool, StoreError> {
    static POOL: OnceLock<Result<rayon::ThreadPool, String>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        rayon::ThreadPoolBuilder::new()
            .thread_name(|index| format!("gzip-{index}"))
            .build()
            .map_err(|error| error.to_string())
    });
    pool.as_ref().map_err(|error| StoreError::Stream {
        action: "start the compression threads",
        source: io::Error::other(error.clone()),
    })
}

/// Compresses what `produce` writes into `out`.
pub(super) fn compress<W: Write + Send, T>(
    level: u32,
    mut out: W,
    produce: impl FnOnce(&mut dyn Write) -> Result<T, StoreError>,
) -> Result<(W, T), StoreError> {
    let pool = pool()?;
    let ahead = 2 * pool.current_num_threads();
    let (promises, in_order) = sync_channel::<Promise>(ahead);
    let (give_back, used) = channel();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let result = write_pieces(&mut out, &in_order, &give_back);
            result.map(|()| out)
        });
        let mut blocks = Blocks {
            level: Compression::new(level),
            pool,
            promises,
            used,
            current: Vec::with_capacity(BLOCK),
            dictionary: Vec::new(),
        };
        let produced = produce(&mut blocks);
        let sent = blocks.finish();
        let written = writer
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        // A failure of the writer shows in the producer as a closed channel: the cause comes first.
        let out = written.map_err(StoreError::stream("write the compressed layer"))?;
        let value = produced?;
        sent.map_err(StoreError::stream("compress the layer"))?;
        Ok((out, value))
    })
}

/// Cuts the input into blocks and hands them out.
struct Blocks {
    level: Compression,
    pool: &'static rayon::ThreadPool,
    promises: SyncSender<Promise>,
    used: Receiver<Vec<u8>>,
    current: Vec<u8>,
    dictionary: Vec<u8>,
}

impl Blocks {
    fn send(&mut self) -> io::Result<()> {
        let mut next = self
            .used
            .try_recv()
            .unwrap_or_else(|_| Vec::with_capacity(BLOCK));
        next.clear();
        let plain = std::mem::replace(&mut self.current, next);
        let tail = plain[plain.len().saturating_sub(WINDOW)..].to_vec();
        let dictionary = std::mem::replace(&mut self.dictionary, tail);
        let (fulfil, promise) = sync_channel(1);
        let level = self.level;
        self.pool.spawn(move || {
            // Nobody waits any more if the writer failed.
            let _ = fulfil.send(deflate(level, &dictionary, plain));
        });
        self.promises
            .send(promise)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn finish(mut self) -> io::Result<()> {
        if self.current.is_empty() {
            Ok(())
        } else {
            self.send()
        }
    }
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.current.len());
        self.current.extend_from_slice(&bytes[..taken]);
        if self.current.len() == BLOCK {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes header, pieces in order, and trailer.
fn write_pieces(
    out: &mut impl Write,
    in_order: &Receiver<Promise>,
    give_back: &Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut crc = Crc::new();
    out.write_all(&HEADER)?;
    for promise in in_order {
        let piece = promise
            .recv()
            .map_err(|_| io::Error::other("a thread panicked"))??;
        out.write_all(&piece.deflated)?;
        crc.combine(&piece.crc);
        // The producer may be through already.
        let _ = give_back.send(piece.plain);
    }
    out.write_all(&LAST_BLOCK)?;
    out.write_all(&crc.sum().to_le_bytes())?;
    // The size field is modulo 2^32 by definition, and so is the counter.
    out.write_all(&crc.amount().to_le_bytes())
}

fn deflate(level: Compression, dictionary: &[u8], plain: Vec<u8>) -> io::Result<Piece> {
    // Always a new one: after `reset` the same input can give other bytes, depending on what was
    // compressed before (seen with zlib-rs 0.6.8), and its 300 KB are nothing beside a block's work.
    let mut compress = Compress::new(level, false);
    if !dictionary.is_empty() {
        compress
            .set_dictionary(dictionary)
            .map_err(io::Error::other)?;
    }
    let mut deflated = Vec::with_capacity(plain.len() / 2 + 1024);
    loop {
        let done = compress.total_in() as usize;
        compress
            .compress_vec(&plain[done..], &mut deflated, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        // A flush is complete once it leaves room in the output.
        if compress.total_in() as usize == plain.len() && deflated.len() < deflated.capacity() {
            break;
        }
        deflated.reserve(deflated.capacity().max(4096));
    }
    let mut crc = Crc::new();
    crc.update(&plain);
    Ok(Piece {
        deflated,
        crc,
        plain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text that compresses, numbers that compress badly, noise.
    fn input() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut state = 1_u64;
        for number in 0..400_000_u64 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(number);
            match number / 40_000 % 3 {
                0 => bytes.extend_from_slice(format!("line {number}\n").as_bytes()),
                1 => bytes.extend_from_slice(format!("{number} {}\n", state >> 40).as_bytes()),
                _ => bytes.extend_from_slice(&state.to_le_bytes()),
            }
        }
        bytes
    }

    fn compressed(level: u32, input: &[u8]) -> Vec<u8> {
        let (bytes, ()) = compress(level, Vec::new(), |out| {
            out.write_all(input).map_err(StoreError::stream("write"))
        })
        .unwrap();
        bytes
    }

    #[test]
    fn every_run_gives_the_same_bytes() {
        let input = input();
        for level in [1, 6, 9] {
            let first = compressed(level, &input);
            std::thread::scope(|scope| {
                for other in [0, 1, 6, 9] {
                    let input = &input;
                    scope.spawn(move || {
                        for length in [0, 1, 10, 2000, 70_000, 1_100_000, 3_000_000] {
                            compressed(other, &input[..length]);
                        }
                    });
                }
                for _ in 0..3 {
                    scope.spawn(|| {
                        for _ in 0..3 {
                            assert!(compressed(level, &input) == first, "level {level}");
                            compressed(level, &input[777..3_000_000]);
                        }
                    });
                }
            });
        }
    }
}
