//! Where a tar is cut into blocks: before entries, by what the entries are called.
//!
//! Two tars with the same files in the same order are cut at the same places, also if a file before
//! has grown. What does not look like a tar is cut every [`BLOCK`] bytes.

/// Most bytes of a block.
pub(super) const BLOCK: usize = 1 << 20;

/// A block is only ended early when it has this many bytes.
const LEAST: usize = BLOCK / 4;

/// One in so many entries ends a block that is long enough.
const SPREAD: u32 = 16;

/// Bytes of a tar header.
const HEADER: usize = 512;

/// Follows the headers of a tar that is given piece by piece.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    /// Bytes of file content until the next header.
    content: u64,
    /// What is there of the next header.
    header: Vec<u8>,
}

/// What to do with the bytes that were given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The first bytes, so many of them, go into the block.
    Take(usize),
    /// They were taken in here; nothing goes into the block yet.
    Wait(usize),
    /// So many were taken in; the header goes into the block, a new one if `cut`.
    Header {
        taken: usize,
        header: Vec<u8>,
        cut: bool,
    },
}

impl Cutter {
    /// Looks at the next bytes, of a block that has `filled` already.
    pub(super) fn step(&mut self, bytes: &[u8], filled: usize) -> Step {
        if self.content > 0 {
            let room = (BLOCK - filled) as u64;
            let taken = room.min(self.content).min(bytes.len() as u64);
            self.content -= taken;
            return Step::Take(taken as usize);
        }
        let taken = bytes.len().min(HEADER - self.header.len());
        self.header.extend_from_slice(&bytes[..taken]);
        if self.header.len() < HEADER {
            return Step::Wait(taken);
        }
        let header = std::mem::take(&mut self.header);
        let size = content_size(&header);
        self.content = size.unwrap_or(0).div_ceil(HEADER as u64) * HEADER as u64;
        let cut = match size {
            None => false,
            // A large file begins a block, so that what is before it moves nothing in it.
            Some(size) if size >= BLOCK as u64 => true,
            Some(_) => filled >= LEAST && chosen(&header),
        };
        Step::Header {
            taken,
            header,
            cut: filled > 0 && (cut || filled + HEADER > BLOCK),
        }
    }

    /// Follows bytes that are in no block any more.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = match self.step(bytes, 0) {
                Step::Take(taken) | Step::Wait(taken) | Step::Header { taken, .. } => taken,
            };
            bytes = &bytes[taken..];
        }
    }

    /// What is left of an unfinished header when the stream ends.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.header)
    }
}

/// Bytes that follow a header; none if it is not one.
fn content_size(header: &[u8]) -> Option<u64> {
    if &header[257..262] != b"ustar" {
        return None;
    }
    let field = &header[124..136];
    if field[0] & 0x80 != 0 {
        // Base 256, for more than 8 GiB.
        let number = field[4..]
            .iter()
            .try_fold(u64::from(field[3]), |number, byte| {
                number.checked_mul(256)?.checked_add(u64::from(*byte))
            });
        return number;
    }
    let digits = field.iter().skip_while(|byte| **byte == b' ');
    let digits = digits.take_while(|byte| (b'0'..=b'7').contains(*byte));
    Some(digits.fold(0, |number, digit| number * 8 + u64::from(digit - b'0')))
}

/// Whether the entry's name is one that may end a block.
fn chosen(header: &[u8]) -> bool {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&header[..100]);
    hash.update(&header[345..500]);
    hash.finalize().is_multiple_of(SPREAD)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::tar_write::{PaxWriter, TarHeader, TarKind};

    /// The blocks of a stream, whatever the pieces it comes in.
    fn blocks(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut cutter = Cutter::default();
        let mut blocks = vec![Vec::new()];
        for mut piece in bytes.chunks(piece) {
            while !piece.is_empty() {
                if blocks[blocks.len() - 1].len() == BLOCK {
                    blocks.push(Vec::new());
                }
                let filled = blocks[blocks.len() - 1].len();
                let taken = match cutter.step(piece, filled) {
                    Step::Take(taken) => {
                        let last = blocks.len() - 1;
                        blocks[last].extend_from_slice(&piece[..taken]);
                        taken
                    }
                    Step::Wait(taken) => taken,
                    Step::Header { taken, header, cut } => {
                        if cut {
                            blocks.push(Vec::new());
                        }
                        let last = blocks.len() - 1;
                        blocks[last].extend_from_slice(&header);
                        taken
                    }
                };
                piece = &piece[taken..];
            }
        }
        let last = blocks.len() - 1;
        blocks[last].extend(cutter.rest());
        blocks
    }

    fn tar(grown: usize) -> Vec<u8> {
        let mut tar = PaxWriter::new(Vec::new());
        for number in 0..600_usize {
            let size = match number {
                300 => 3 << 20,
                20 => 2020 + grown,
                number => 2000 + number,
            };
            let mut header =
                TarHeader::new(TarKind::File, format!("dir/file-{number}").into_bytes());
            header.size = size as u64;
            tar.entry(&header).unwrap();
            tar.write_all(&vec![(number % 251) as u8; size]).unwrap();
        }
        tar.finish().unwrap()
    }

    #[test]
    fn blocks_are_the_stream_whatever_the_pieces() {
        let noise: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 % 253) as u8).collect();
        for stream in [tar(0), noise, b"short".to_vec(), Vec::new()] {
            let whole = blocks(&stream, stream.len().max(1));
            assert_eq!(whole.concat(), stream);
            assert!(whole.iter().all(|block| block.len() <= BLOCK));
            for piece in [1 << 16, 511, 1000] {
                assert!(blocks(&stream, piece) == whole);
            }
        }
    }

    #[test]
    fn a_file_that_has_grown_changes_only_the_blocks_around_it() {
        let (before, after) = (blocks(&tar(0), 1 << 16), blocks(&tar(5000), 1 << 16));
        let new = after.iter().filter(|block| !before.contains(block)).count();
        assert!(after.len() >= 5, "{} blocks", after.len());
        assert!(new <= 2, "{new} of {} blocks are new", after.len());
    }
}
