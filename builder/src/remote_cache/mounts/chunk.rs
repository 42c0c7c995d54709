//! Cutting a stream where its content says so, so that a change moves the cuts near it and no others.
//!
//! A rolling hash over the last 64 bytes ("gear") decides; near the usual size cuts become likelier
//! (`FastCDC`, Xia and others 2016, "normalized chunking").

use std::io::{self, Write};

/// No chunk is smaller, but for the last.
const LEAST: usize = 256 << 10;
/// From here on cuts are likelier.
const USUAL: usize = 1 << 20;
/// No chunk is larger.
pub(super) const LARGEST: usize = 4 << 20;
/// Bits that must be zero below the usual size, and above.
const STRICT: u64 = !0 << (64 - 22);
const LOOSE: u64 = !0 << (64 - 18);

/// A random number for each byte. Changing them moves all cuts.
const GEAR: [u64; 256] = gear();

/// `SplitMix64`.
const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state = 0_u64;
    let mut index = 0;
    while index < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[index] = mixed ^ (mixed >> 31);
        index += 1;
    }
    table
}

/// Hands what is written on in chunks.
pub(super) struct Chunker<F> {
    chunk: Vec<u8>,
    hash: u64,
    done: F,
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Chunker<F> {
    /// Calls `done` with each chunk.
    pub(super) fn new(done: F) -> Chunker<F> {
        Chunker {
            chunk: Vec::with_capacity(LARGEST),
            hash: 0,
            done,
        }
    }

    /// Hands on what is left.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        (self.done)(&self.chunk)
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Write for Chunker<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.chunk.push(*byte);
            self.hash = (self.hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
            let length = self.chunk.len();
            let mask = if length < USUAL { STRICT } else { LOOSE };
            if length >= LARGEST || length >= LEAST && self.hash & mask == 0 {
                (self.done)(&self.chunk)?;
                self.chunk.clear();
                self.hash = 0;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn chunks(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut chunker = Chunker::new(|chunk: &[u8]| {
            found.push(chunk.to_vec());
            Ok(())
        });
        for part in bytes.chunks(70_001) {
            chunker.write_all(part).unwrap();
        }
        chunker.finish().unwrap();
        found
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn chunks_are_the_stream_and_keep_their_sizes() {
        let bytes = noise(20 << 20);
        let found = chunks(&bytes);
        assert!(found.concat() == bytes);
        let (last, rest) = found.split_last().unwrap();
        assert!(last.len() <= LARGEST);
        assert!(
            rest.iter()
                .all(|one| (LEAST..=LARGEST).contains(&one.len()))
        );
        assert!((8..60).contains(&found.len()), "{}", found.len());
        assert!(chunks(&[]).is_empty());
        // Without any content to go by.
        let zeros = chunks(&vec![0; 9 << 20]);
        assert_eq!(zeros.concat().len(), 9 << 20);
    }

    #[test]
    fn a_change_leaves_the_other_chunks_alone() {
        let bytes = noise(20 << 20);
        let mut changed = bytes.clone();
        changed.splice(9_000_000..9_000_010, *b"something longer");
        let before: BTreeSet<Vec<u8>> = chunks(&bytes).into_iter().collect();
        let after = chunks(&changed);
        let new = after.iter().filter(|one| !before.contains(*one)).count();
        assert!((1..=3).contains(&new), "{new} of {}", after.len());
    }
}
