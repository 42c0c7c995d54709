//! Deflate without repetitions: bytes in which hardly anything comes twice, as in keys, media and
//! archives, are coded by how often each occurs, or stored.
//!
//! Looking for repetitions is nearly all of deflate's work, and the better the level, the longer it
//! looks in vain. Format: RFC 1951, sections 3.2.2 to 3.2.7.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Bytes that share a code.
const PIECE: usize = 128 << 10;
/// Most bytes of a stored block.
const STORED: usize = 0xffff;
/// Bytes of a sample: more than deflate looks back.
const SAMPLE: usize = 48 << 10;
/// Of so many places one may be a repetition of an earlier one.
const RARE: usize = 100;
/// Literals and the end of a block.
const SYMBOLS: usize = 257;
/// The symbol that ends a block.
const END: usize = 256;
/// Longest code of a symbol, and of a code length.
const LONGEST: u8 = 15;
const LONGEST_OF_LENGTHS: u8 = 7;
/// The order in which the lengths of the codes for lengths are written.
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// Whether hardly any four bytes of samples occur a second time within reach.
pub(super) fn repeats_rarely(plain: &[u8]) -> bool {
    let middle = plain.len() / 2;
    let last = plain.len().saturating_sub(SAMPLE);
    [0, middle.min(last), last]
        .into_iter()
        .all(|start| sample_repeats_rarely(&plain[start..plain.len().min(start + SAMPLE)]))
}

fn sample_repeats_rarely(sample: &[u8]) -> bool {
    const BITS: u32 = 15;
    // Positions are kept plus one: zero is none.
    let mut last = vec![0_u16; 1 << BITS];
    let allowed = sample.len() / RARE;
    let mut repeated = 0;
    for (at, four) in sample.windows(4).enumerate() {
        let word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        let slot = (word.wrapping_mul(0x9e37_79b1) >> (32 - BITS)) as usize;
        let earlier = std::mem::replace(&mut last[slot], at as u16 + 1) as usize;
        if earlier > 0 && sample[earlier - 1..earlier + 3] == *four {
            repeated += 1;
            if repeated > allowed {
                return false;
            }
        }
    }
    true
}

/// Deflates without looking for repetitions; ends with a sync flush.
pub(super) fn deflate(plain: &[u8]) -> Vec<u8> {
    let mut out = Bits {
        bytes: Vec::with_capacity(plain.len() + plain.len() / 1000 + 64),
        ..Bits::default()
    };
    for piece in plain.chunks(PIECE) {
        let mut counts = [0_u32; SYMBOLS];
        for &byte in piece {
            counts[usize::from(byte)] += 1;
        }
        counts[END] = 1;
        let lengths = lengths::<SYMBOLS>(counts, LONGEST);
        let bits = counts.iter().zip(&lengths);
        let bits: u64 = bits
            .map(|(n, length)| u64::from(*n) * u64::from(*length))
            .sum();
        // The description of the code takes about a hundred bytes.
        if bits / 8 + 100 < piece.len() as u64 {
            coded(&mut out, piece, &lengths);
        } else {
            for piece in piece.chunks(STORED) {
                stored(&mut out, piece);
            }
        }
    }
    stored(&mut out, &[]);
    out.bytes
}

fn stored(out: &mut Bits, piece: &[u8]) {
    // Not the last block; stored.
    out.put(0, 3);
    out.align();
    let length = piece.len() as u16;
    out.bytes.extend_from_slice(&length.to_le_bytes());
    out.bytes.extend_from_slice(&(!length).to_le_bytes());
    out.bytes.extend_from_slice(piece);
}

fn coded(out: &mut Bits, piece: &[u8], lengths: &[u8; SYMBOLS]) {
    // Not the last block; with a code of its own.
    out.put(0b100, 3);
    // No literal codes beyond the end; two codes for distances, which are not used: some readers want
    // a whole set of them.
    let distances = [1, 1];
    out.put(0, 5);
    out.put(distances.len() as u64 - 1, 5);
    let all = || lengths.iter().chain(&distances);
    let mut counts = [0_u32; 19];
    for &length in all() {
        counts[usize::from(length)] += 1;
    }
    let of_lengths = self::lengths::<19>(counts, LONGEST_OF_LENGTHS);
    let written = ORDER.iter().rposition(|symbol| of_lengths[*symbol] > 0);
    let written = written.map_or(4, |last| (last + 1).max(4));
    out.put(written as u64 - 4, 4);
    for symbol in &ORDER[..written] {
        out.put(u64::from(of_lengths[*symbol]), 3);
    }
    let codes = codes(&of_lengths);
    for &length in all() {
        out.code(codes[usize::from(length)]);
    }
    let codes = self::codes(lengths);
    // Three codes and what is left of a byte fit in the accumulator.
    for three in piece.chunks(3) {
        for &byte in three {
            let (code, length) = codes[usize::from(byte)];
            out.held |= code << out.count;
            out.count += u32::from(length);
        }
        out.flush();
    }
    out.code(codes[END]);
}

/// Lengths of a code by how often symbols occur, none longer than `longest`.
fn lengths<const N: usize>(mut counts: [u32; N], longest: u8) -> [u8; N] {
    loop {
        let found = huffman(&counts);
        if found.iter().all(|length| *length <= longest) {
            return found;
        }
        // Rare symbols get nearer to the others, and their codes shorter.
        for count in counts.iter_mut().filter(|count| **count > 0) {
            *count = count.div_ceil(2);
        }
    }
}

fn huffman<const N: usize>(counts: &[u32; N]) -> [u8; N] {
    // Nodes: the symbols, then pairs of nodes; each knows the pair that it is in.
    let mut parents = vec![0; N];
    let used = |symbol: &usize| counts[*symbol] > 0;
    let mut heap: BinaryHeap<Reverse<(u32, usize)>> = (0..N)
        .filter(used)
        .map(|symbol| Reverse((counts[symbol], symbol)))
        .collect();
    while let (Some(Reverse((one, first))), Some(Reverse((other, second)))) =
        (heap.pop(), heap.pop())
    {
        let pair = parents.len();
        parents.push(0);
        parents[first] = pair;
        parents[second] = pair;
        if heap.is_empty() {
            break;
        }
        heap.push(Reverse((one + other, pair)));
    }
    // A pair stands behind its members, and the last one is the root.
    let mut depths = vec![0_u8; parents.len()];
    for node in (0..parents.len().saturating_sub(1)).rev() {
        if parents[node] > 0 {
            depths[node] = depths[parents[node]] + 1;
        }
    }
    std::array::from_fn(|symbol| depths[symbol])
}

/// The codes of lengths, bits reversed: deflate writes codes from their first bit.
fn codes<const N: usize>(lengths: &[u8; N]) -> [(u64, u8); N] {
    // First the number of codes of each length, one place further on; then the next code of each.
    let mut next = [0_u32; LONGEST as usize + 2];
    for &length in lengths.iter().filter(|length| **length > 0) {
        next[usize::from(length) + 1] += 1;
    }
    for length in 1..next.len() {
        next[length] = (next[length] + next[length - 1]) << 1;
    }
    std::array::from_fn(|symbol| {
        let length = lengths[symbol];
        if length == 0 {
            return (0, 0);
        }
        let code = next[usize::from(length)];
        next[usize::from(length)] += 1;
        (
            u64::from((code as u16).reverse_bits() >> (16 - length)),
            length,
        )
    })
}

/// Bits on their way into bytes, the lowest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    held: u64,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u64, bits: u32) {
        self.held |= value << self.count;
        self.count += bits;
        self.flush();
    }

    fn code(&mut self, (code, length): (u64, u8)) {
        self.put(code, u32::from(length));
    }

    /// Writes all whole bytes.
    fn flush(&mut self) {
        let whole = self.count / 8;
        self.bytes
            .extend_from_slice(&self.held.to_le_bytes()[..whole as usize]);
        self.held >>= whole * 8;
        self.count %= 8;
    }

    /// Fills the last byte up.
    fn align(&mut self) {
        if self.count > 0 {
            self.put(0, 8 - self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize, symbols: u64) -> Vec<u8> {
        let mut state = 1_u64;
        let next = |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            b'0'.wrapping_add(((state >> 33) % symbols) as u8)
        };
        (0..bytes).map(next).collect()
    }

    fn inflated(deflated: &[u8], expected: usize) -> Vec<u8> {
        let mut plain = Vec::with_capacity(expected + 10);
        let mut reader = flate2::Decompress::new(false);
        let flush = flate2::FlushDecompress::Sync;
        reader.decompress_vec(deflated, &mut plain, flush).unwrap();
        assert_eq!(reader.total_in() as usize, deflated.len());
        plain
    }

    #[test]
    fn what_was_deflated_comes_back() {
        // Counts as of Fibonacci's rabbits give the longest codes there can be.
        let mut skewed = Vec::new();
        let (mut one, mut other) = (1_usize, 1);
        for symbol in 0..24 {
            skewed.extend(std::iter::repeat_n(symbol, one));
            (one, other) = (other, one + other);
        }
        assert!(skewed.len() < PIECE);
        let every: Vec<u8> = (0..=255).collect();
        for plain in [
            Vec::new(),
            vec![7],
            vec![7; 300_000],
            every.repeat(3),
            skewed,
            noise(1 << 20, 64),
            noise((1 << 20) - 1, 256),
            noise(PIECE + 1, 2),
            noise(STORED + 1, 255),
        ] {
            let deflated = deflate(&plain);
            assert!(inflated(&deflated, plain.len()) == plain, "{}", plain.len());
        }
    }

    #[test]
    fn what_is_noise_takes_what_it_holds() {
        // Six bits a byte.
        let deflated = deflate(&noise(1 << 20, 64));
        assert!(
            deflated.len() < (1 << 20) * 3 / 4 + 4000,
            "{}",
            deflated.len()
        );
        let deflated = deflate(&noise(1 << 20, 256));
        assert!(deflated.len() < (1 << 20) + 200, "{}", deflated.len());
    }

    #[test]
    fn repetitions_are_seen() {
        let noise = noise(1 << 20, 64);
        assert!(repeats_rarely(&noise));
        assert!(repeats_rarely(b""));
        // As far back as deflate looks.
        assert!(!repeats_rarely(&noise[..30_000].repeat(30)));
        let text: String = (0..100_000).map(|n: u32| n.to_string()).collect();
        assert!(!repeats_rarely(text.as_bytes()));
        assert!(!repeats_rarely(&vec![0; 1 << 20]));
        // In one part only.
        let mut half = noise.clone();
        half[500_000..600_000].fill(0);
        assert!(!repeats_rarely(&half));
    }
}
