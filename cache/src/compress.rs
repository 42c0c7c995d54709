//! Compression of layers, and recognition of compressed streams.
//!
//! The digest of a compressed layer depends on every detail here: block size, level, library. None
//! of them depends on the machine.

use std::io::Write;
use std::num::NonZero;

use zstd::stream::raw::CParameter;

use crate::error::StoreError;

mod cut;
mod detect;
mod gzip;
mod huffman;
mod known;

pub use detect::{StreamKind, detect_and_decompress, detect_and_decompress_within};
pub(crate) use gzip::Blocks;
pub(crate) use known::{Block, KnownBlocks, Shared, list};

/// Bytes that a thread of zstd compresses at once: the library would take four times the window, of which
/// each thread holds several, and most of the memory of a build would be theirs.
const ZSTD_JOB: u32 = 1 << 20;

/// How a layer blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CompressionKind {
    /// A plain tar.
    Uncompressed,
    /// One gzip member.
    Gzip,
    /// One zstd frame.
    Zstd,
}

impl CompressionKind {
    /// Returns the name that `compression=` options use.
    pub fn name(self) -> &'static str {
        match self {
            CompressionKind::Uncompressed => "uncompressed",
            CompressionKind::Gzip => "gzip",
            CompressionKind::Zstd => "zstd",
        }
    }

    /// Finds a kind by its [`name`](CompressionKind::name).
    pub fn from_name(name: &str) -> Option<CompressionKind> {
        [
            CompressionKind::Uncompressed,
            CompressionKind::Gzip,
            CompressionKind::Zstd,
        ]
        .into_iter()
        .find(|kind| kind.name() == name)
    }
}

/// How a layer blob shall be compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// The wanted kind.
    pub kind: CompressionKind,
    /// Level of that kind (gzip 0 to 9, zstd -7 to 22); none: 6 for gzip, 3 for zstd.
    pub level: Option<i32>,
    /// Compress again when the layer is there in another kind; otherwise any existing blob of the
    /// layer is taken as it is.
    pub force: bool,
}

impl Default for Compression {
    fn default() -> Compression {
        Compression {
            kind: CompressionKind::Gzip,
            level: None,
            force: false,
        }
    }
}

impl Compression {
    /// The level that is used, within what the kind knows; none for plain layers.
    pub fn effective_level(&self) -> Option<i32> {
        match self.kind {
            CompressionKind::Uncompressed => None,
            CompressionKind::Gzip => Some(self.level.unwrap_or(6).clamp(0, 9)),
            CompressionKind::Zstd => Some(self.level.unwrap_or(3).clamp(-7, 22)),
        }
    }

    /// Compresses what `produce` writes into `out`, on all cores; tells the blocks of gzip.
    pub(crate) fn run<W: Write + Send, T>(
        &self,
        out: W,
        blocks: &Blocks,
        produce: impl FnOnce(&mut dyn Write) -> Result<T, StoreError>,
    ) -> Result<(W, T, Vec<Block>), StoreError> {
        let level = self.effective_level().unwrap_or_default();
        match self.kind {
            CompressionKind::Uncompressed => {
                let mut out = out;
                let value = produce(&mut out)?;
                Ok((out, value, Vec::new()))
            }
            CompressionKind::Gzip => gzip::compress(level.unsigned_abs(), out, blocks, produce),
            CompressionKind::Zstd => {
                zstd(level, out, produce).map(|(out, value)| (out, value, Vec::new()))
            }
        }
    }
}

/// One zstd frame.
///
/// Without worker threads the library gives other bytes than with any number of them, so there is
/// always at least one.
fn zstd<W: Write, T>(
    level: i32,
    out: W,
    produce: impl FnOnce(&mut dyn Write) -> Result<T, StoreError>,
) -> Result<(W, T), StoreError> {
    let starting = |error| StoreError::stream("start the compression")(error);
    let mut encoder = zstd::stream::write::Encoder::new(out, level).map_err(starting)?;
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    encoder
        .multithread(workers.try_into().unwrap_or(1))
        .map_err(starting)?;
    encoder
        .set_parameter(CParameter::JobSize(ZSTD_JOB))
        .map_err(starting)?;
    let value = produce(&mut encoder)?;
    let out = encoder
        .finish()
        .map_err(StoreError::stream("compress the layer"))?;
    Ok((out, value))
}
