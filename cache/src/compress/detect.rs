//! Recognising compressed streams and reading what is in them.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::Limits;

/// How a stream is compressed, found by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    /// None of the known ones.
    Plain,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878), skippable frames first allowed.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

/// Largest zstd window that is accepted, as a power of two: 128 MiB, what `zstd --long` makes.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Largest LZMA2 dictionary that is accepted, as its property byte: 128 MiB (`xz -9` uses 64 MiB).
const XZ_DICTIONARY: u8 = 30;

/// Bytes read from a compressed stream at once.
const BUFFER: usize = 128 << 10;

impl StreamKind {
    /// Recognises a stream by its first bytes.
    pub fn of(start: &[u8]) -> StreamKind {
        match start {
            [0x1f, 0x8b, 0x08, ..] => StreamKind::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => StreamKind::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => StreamKind::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0x00, ..] => StreamKind::Xz,
            _ => StreamKind::Plain,
        }
    }
}

/// Recognises the compression of a stream and returns it with a reader of the plain bytes.
///
/// All decompression happens in this process, with a bound on memory. A stream that unpacks to more
/// than the default [`Limits`] allow ends with an error.
pub fn detect_and_decompress<'a>(
    reader: impl Read + Send + 'a,
) -> io::Result<(StreamKind, Box<dyn Read + Send + 'a>)> {
    detect_and_decompress_within(reader, &Limits::default())
}

/// Does the same with other limits on the ratio and the number of unpacked bytes.
pub fn detect_and_decompress_within<'a>(
    reader: impl Read + Send + 'a,
    limits: &Limits,
) -> io::Result<(StreamKind, Box<dyn Read + Send + 'a>)> {
    let taken = Arc::new(AtomicU64::new(0));
    let mut reader = Counting {
        inner: reader,
        taken: Arc::clone(&taken),
    };
    let mut start = Vec::with_capacity(64);
    reader.by_ref().take(64).read_to_end(&mut start)?;
    let kind = StreamKind::of(&start);
    if kind == StreamKind::Xz {
        check_xz_dictionary(&start)?;
    }
    let whole = Cursor::new(start).chain(reader);
    let whole = BufReader::with_capacity(BUFFER, whole);
    let plain: Box<dyn Read + Send + 'a> = match kind {
        StreamKind::Plain => return Ok((kind, Box::new(whole))),
        StreamKind::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        StreamKind::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        StreamKind::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
        StreamKind::Xz => Box::new(lzma_rust2::XzReader::new(whole, true)),
    };
    let guarded = Guarded {
        inner: plain,
        taken,
        given: 0,
        limits: limits.clone(),
    };
    Ok((kind, Box::new(guarded)))
}

/// Counts what is read from the compressed stream.
struct Counting<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Ends a stream that unpacks to far more than it holds.
struct Guarded<R> {
    inner: R,
    taken: Arc<AtomicU64>,
    given: u64,
    limits: Limits,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.given += count as u64;
        let taken = self.taken.load(Ordering::Relaxed).max(1);
        let Limits {
            unpacked_bytes,
            ratio,
            ratio_from,
            ..
        } = self.limits;
        if ratio != 0 && self.given > ratio_from && self.given / ratio > taken {
            return Err(over_limit("ratio", self.given / taken, ratio));
        }
        // Headers and padding come on top of the files' bytes, hence the margin.
        if unpacked_bytes != 0 && self.given > unpacked_bytes.saturating_mul(2).max(1 << 20) {
            return Err(over_limit("unpacked_bytes", self.given, unpacked_bytes));
        }
        Ok(count)
    }
}

fn over_limit(limit: &str, seen: u64, allowed: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the compressed stream is over the limit `{limit}`: {seen} > {allowed}"),
    )
}

/// Reads the dictionary size from the first block's header and refuses one that is too large.
///
/// The decoder makes room for the dictionary at once, up to 4 GiB.
fn check_xz_dictionary(start: &[u8]) -> io::Result<()> {
    const LZMA2: u8 = 0x21;
    // Stream header of 12 bytes, then the block header: its size, flags, two optional sizes of
    // variable length, the filters.
    let Some(&[_, flags, ref rest @ ..]) = start.get(12..) else {
        return Ok(());
    };
    let mut rest = rest;
    for bit in [0x40, 0x80] {
        if flags & bit != 0 {
            let length = rest
                .iter()
                .take(9)
                .position(|byte| byte & 0x80 == 0)
                .map_or(9, |i| i + 1);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    for _ in 0..=(flags & 3) {
        let [id, size, properties @ ..] = rest else {
            return Ok(());
        };
        if *id == LZMA2 && properties.first().is_some_and(|&code| code > XZ_DICTIONARY) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the xz stream wants a dictionary of more than 128 MiB",
            ));
        }
        rest = properties.get(usize::from(*size)..).unwrap_or_default();
    }
    Ok(())
}
