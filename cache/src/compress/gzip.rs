//! Parallel gzip: one member, the same bytes whatever the number of threads.
//!
//! The input is cut into blocks of at most 1 MiB ([`cut`](super::cut)). Each is deflated on its own, with
//! the 32 KiB before it as dictionary, and ended by a sync flush, so that the pieces can be put one
//! behind the other; a block in which nothing repeats is coded without looking for it
//! ([`huffman`](super::huffman)). Checksums are combined. Any reader of gzip reads it. A block that an older
//! blob has already is copied from there, to the same bytes. Memory: two blocks a thread.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, OnceLock};

use flate2::{Compress, Compression, FlushCompress};

use super::cut::{BLOCK, Cutter, Step};
use super::huffman;
use super::known::{Block, BlockKey, KnownBlocks, Shared};
use crate::digest::Hasher;
use crate::error::StoreError;

/// How far deflate looks back.
pub(super) const WINDOW: usize = 32 << 10;

/// Magic, deflate, no flags, no time, no extra flags, unknown system: the header Go writes.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty block with the mark of the last one.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// A deflated block.
struct Piece {
    deflated: Vec<u8>,
    /// Its place in the blob is not known yet.
    block: Block,
    /// The plain block, to be used again.
    plain: Vec<u8>,
}

/// What is known of blocks: those of an older blob, and whether the new ones are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blocks {
    /// Blocks that need not be deflated again.
    pub(crate) known: Option<Arc<KnownBlocks>>,
    /// The first of them, of a stream that begins at its start.
    pub(crate) shared: Option<Arc<Shared>>,
    /// List the blocks for next time.
    pub(crate) list: bool,
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

/// Compresses what `produce` writes into `out`: the stream, or what follows the start of what is shared
/// with an older one.
pub(super) fn compress<W: Write + Send, T>(
    level: u32,
    mut out: W,
    blocks: &Blocks,
    produce: impl FnOnce(&mut dyn Write) -> Result<T, StoreError>,
) -> Result<(W, T, Vec<Block>), StoreError> {
    let pool = pool()?;
    let ahead = 2 * pool.current_num_threads();
    let (promises, in_order) = sync_channel::<Promise>(ahead);
    let (give_back, used) = channel();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let result = write_pieces(&mut out, blocks, &in_order, &give_back);
            result.map(|blocks| (out, blocks))
        });
        let mut input = Input {
            level,
            blocks: blocks.clone(),
            pool,
            promises,
            used,
            cutter: Cutter::default(),
            current: Vec::with_capacity(BLOCK),
            dictionary: Vec::new(),
            skip: blocks.shared.as_ref().map_or(0, |shared| shared.skip),
        };
        let produced = produce(&mut input);
        let sent = input.finish();
        let written = writer
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        // A failure of the writer shows in the producer as a closed channel: the cause comes first.
        let (out, blocks) = written.map_err(StoreError::stream("write the compressed layer"))?;
        let value = produced?;
        sent.map_err(StoreError::stream("compress the layer"))?;
        Ok((out, value, blocks))
    })
}

/// Cuts the input into blocks and hands them out.
struct Input {
    level: u32,
    blocks: Blocks,
    pool: &'static rayon::ThreadPool,
    promises: SyncSender<Promise>,
    used: Receiver<Vec<u8>>,
    cutter: Cutter,
    current: Vec<u8>,
    dictionary: Vec<u8>,
    /// Bytes that are in blocks of the older blob.
    skip: u64,
}

impl Input {
    /// Takes bytes that are in blocks already: the next block may refer to the last of them.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let taken = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        self.cutter.pass(&bytes[..taken]);
        self.dictionary.extend_from_slice(&bytes[..taken]);
        self.skip -= taken as u64;
        let shared = self.blocks.shared.as_ref();
        let last = shared.and_then(|shared| shared.blocks.last());
        let window = last.map_or(0, |block| WINDOW.min(block.plain as usize));
        if self.skip == 0 || self.dictionary.len() > BLOCK {
            let over = self.dictionary.len().saturating_sub(window);
            self.dictionary.drain(..over);
        }
        taken
    }

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
        let (level, blocks) = (self.level, self.blocks.clone());
        self.pool.spawn(move || {
            // Nobody waits any more if the writer failed.
            let _ = fulfil.send(piece(level, &blocks, &dictionary, plain));
        });
        self.promises
            .send(promise)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn finish(mut self) -> io::Result<()> {
        let rest = self.cutter.rest();
        if self.current.len() + rest.len() > BLOCK {
            self.send()?;
        }
        self.current.extend(rest);
        if self.current.is_empty() {
            Ok(())
        } else {
            self.send()
        }
    }
}

impl Write for Input {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.skip > 0 {
            return Ok(self.pass(bytes));
        }
        let taken = match self.cutter.step(bytes, self.current.len()) {
            Step::Take(taken) => {
                self.current.extend_from_slice(&bytes[..taken]);
                taken
            }
            Step::Wait(taken) => taken,
            Step::Header { taken, header, cut } => {
                if cut {
                    self.send()?;
                }
                self.current.extend_from_slice(&header);
                taken
            }
        };
        if self.current.len() == BLOCK {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes header, blocks of the older blob, pieces in order, and trailer; tells where the blocks are.
fn write_pieces(
    out: &mut impl Write,
    older: &Blocks,
    in_order: &Receiver<Promise>,
    give_back: &Sender<Vec<u8>>,
) -> io::Result<Vec<Block>> {
    let mut crc = crc32fast::Hasher::new();
    let mut size = 0_u64;
    let mut offset = HEADER.len() as u64;
    let mut blocks: Vec<Block> = Vec::new();
    let mut add = |mut block: Block| {
        let plain = u64::from(block.plain);
        crc.combine(&crc32fast::Hasher::new_with_initial_len(block.crc, plain));
        size += plain;
        block.offset = offset;
        offset += u64::from(block.deflated);
        blocks.push(block);
    };
    out.write_all(&HEADER)?;
    if let (Some(shared), Some(known)) = (&older.shared, &older.known) {
        for block in &shared.blocks {
            out.write_all(&known.read(block)?)?;
            add(*block);
        }
    }
    for promise in in_order {
        let piece = promise
            .recv()
            .map_err(|_| io::Error::other("a thread panicked"))??;
        out.write_all(&piece.deflated)?;
        add(piece.block);
        // The producer may be through already.
        let _ = give_back.send(piece.plain);
    }
    out.write_all(&LAST_BLOCK)?;
    out.write_all(&crc.finalize().to_le_bytes())?;
    // The size field is modulo 2^32 by definition.
    out.write_all(&(size as u32).to_le_bytes())?;
    Ok(blocks)
}

/// Deflates a block, or takes it from where it is known.
fn piece(level: u32, blocks: &Blocks, dictionary: &[u8], plain: Vec<u8>) -> io::Result<Piece> {
    let key = if blocks.list || blocks.known.is_some() {
        key(level, dictionary, &plain)
    } else {
        BlockKey::default()
    };
    if let Some((deflated, block)) = blocks.known.as_ref().and_then(|known| known.get(&key)) {
        return Ok(Piece {
            deflated,
            block,
            plain,
        });
    }
    let deflated = if level > 0 && huffman::repeats_rarely(&plain) {
        huffman::deflate(&plain)
    } else {
        deflate(Compression::new(level), dictionary, &plain)?
    };
    let block = Block {
        key,
        offset: 0,
        // Neither is much more than a block.
        deflated: deflated.len() as u32,
        plain: plain.len() as u32,
        crc: crc32fast::hash(&plain),
        check: if blocks.list {
            crc32fast::hash(&deflated)
        } else {
            0
        },
    };
    Ok(Piece {
        deflated,
        block,
        plain,
    })
}

/// Everything that the deflated bytes depend on, but for the library, whose version the list's first
/// line stands for.
fn key(level: u32, dictionary: &[u8], plain: &[u8]) -> BlockKey {
    let mut hasher = Hasher::new();
    hasher.update(&level.to_le_bytes());
    hasher.update(&(dictionary.len() as u64).to_le_bytes());
    hasher.update(dictionary);
    hasher.update(plain);
    *hasher.finish().as_bytes()
}

fn deflate(level: Compression, dictionary: &[u8], plain: &[u8]) -> io::Result<Vec<u8>> {
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
            return Ok(deflated);
        }
        deflated.reserve(deflated.capacity().max(4096));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoints::Checkpoint;
    use crate::tar_write::{PaxWriter, TarHeader, TarKind};

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
        listed(level, input, &Blocks::default()).0
    }

    fn listed(level: u32, input: &[u8], blocks: &Blocks) -> (Vec<u8>, Vec<Block>) {
        let (bytes, (), blocks) = compress(level, Vec::new(), blocks, |out| {
            out.write_all(input).map_err(StoreError::stream("write"))
        })
        .unwrap();
        (bytes, blocks)
    }

    #[test]
    fn known_blocks_give_the_same_bytes() {
        let mut input = input();
        let list = Blocks {
            list: true,
            ..Blocks::default()
        };
        let (old, blocks) = listed(6, &input, &list);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&old).unwrap();
        let known = KnownBlocks::new(&super::super::known::list(&blocks), file).unwrap();
        let with = Blocks {
            known: Some(Arc::new(known)),
            shared: None,
            list: true,
        };
        let middle = input.len() / 2;
        input[middle] ^= 1;
        let expected = compressed(6, &input);
        assert_ne!(expected, old);
        let (bytes, now) = listed(6, &input, &with);
        assert!(bytes == expected);
        let same = now
            .iter()
            .filter(|block| blocks.iter().any(|old| old.key == block.key));
        // The changed one, and the one that has it as dictionary.
        assert!(same.count() >= now.len() - 2);
        // Another level has other blocks.
        assert!(listed(1, &input, &with).0 == compressed(1, &input));
        let mut plain = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(bytes.as_slice());
        std::io::Read::read_to_end(&mut reader, &mut plain).unwrap();
        assert!(plain == input);
    }

    #[test]
    fn the_blocks_of_a_shared_beginning_are_taken_unseen() {
        // Entries of a tar, and where each begins.
        let tar = |last: &[u8]| {
            let mut tar = PaxWriter::new(Vec::new());
            let mut points = Vec::new();
            for number in 0..600_u32 {
                let text = format!("{number} {}\n", number.wrapping_mul(2_654_435_761)).repeat(900);
                let text = if number == 599 { last } else { text.as_bytes() };
                let path = format!("dir/file-{number}").into_bytes();
                points.push(Checkpoint {
                    path: path.clone(),
                    bytes: tar.between().unwrap().len() as u64,
                    entries: 0,
                    content: 0,
                    tar: Vec::new(),
                    headers: Vec::new(),
                });
                let mut header = TarHeader::new(TarKind::File, path);
                header.size = text.len() as u64;
                tar.entry(&header).unwrap();
                tar.write_all(text).unwrap();
            }
            (tar.finish().unwrap(), points)
        };
        let (old, points) = tar(b"old");
        let (new, _) = tar(&b"new".repeat(500_000));
        let list = Blocks {
            list: true,
            ..Blocks::default()
        };
        let (blob, blocks) = listed(6, &old, &list);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&blob).unwrap();
        let known = Arc::new(
            KnownBlocks::new(
                &super::super::known::list(&blocks),
                file.try_clone().unwrap(),
            )
            .unwrap(),
        );
        let expected = compressed(6, &new);
        for same in [100, 300, 301, 302, 303, 599] {
            let shared = known.shared(&points[..=same]).unwrap();
            let (count, start) = (shared.blocks.len(), shared.start.bytes as usize);
            assert!(count > 0 && start > 0);
            let with = Blocks {
                known: Some(Arc::clone(&known)),
                shared: Some(Arc::new(shared)),
                list: true,
            };
            let (bytes, now) = listed(6, &new[start..], &with);
            assert!(bytes == expected, "same up to entry {same}");
            assert_eq!(now[..count], blocks[..count]);
        }
        assert!(known.shared(&points[..=1]).is_none());
        // A damaged block is an error that says so.
        let shared = known.shared(&points[..=599]).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"damage", 1000).unwrap();
        let start = shared.start.bytes as usize;
        let with = Blocks {
            known: Some(known),
            shared: Some(Arc::new(shared)),
            list: true,
        };
        let failed = compress(6, Vec::new(), &with, |out| {
            out.write_all(&new[start..])
                .map_err(StoreError::stream("write"))
        });
        let Err(StoreError::Stream { source, .. }) = failed else {
            panic!("damage was not found");
        };
        assert_eq!(source.kind(), io::ErrorKind::InvalidData);
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
