//! From a layer blob to a sealed tree.
//!
//! One thread reads, hashes and inflates the blob, the caller's thread hashes the plain tar and
//! makes the files; a bounded channel is between them. The tree is published only after both digests
//! were right, so a wrong layer leaves nothing.

use std::fs::DirBuilder;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::fs::{CWD, Mode};

use crate::apply::{Apply, Outcome, Purpose};
use crate::blob::BlobInfo;
use crate::compress::{CompressionKind, StreamKind, detect_and_decompress_within};
use crate::digest::{DiffId, Digest, Hasher};
use crate::error::StoreError;
use crate::limits::Limits;
use crate::meta::KnownBlob;
use crate::owners;
use crate::store::Store;
use crate::sys;
use crate::tar_read::TarReader;
use crate::tar_write::PaxWriter;
use crate::tree::{Layer, Seal};
use crate::tree_tar::{self, Content};
use crate::view::RootView;

/// Plain bytes that go through the channel at once.
const CHUNK: usize = 256 << 10;

/// Chunks on their way.
const CHUNKS: usize = 4;

impl Store {
    /// Unpacks a layer blob (gzip, zstd or plain, by content) into a sealed tree.
    ///
    /// Checks both digests; nothing is published if one of them differs. If the layer is there
    /// already, the blob is not read.
    pub fn unpack(&self, blob: &Digest, diff_id: &DiffId) -> Result<Layer, StoreError> {
        self.unpack_over(blob, diff_id, &[], &Limits::default())
    }

    /// Does the same for a layer that lies on `parents` (bottom first), within limits.
    ///
    /// With the parents known, directories that the layer uses without having an entry for them
    /// keep the mode and owner that they have below, names that lead through a symlink below end
    /// where it points to, and hard links to files below are found.
    pub fn unpack_over(
        &self,
        blob: &Digest,
        diff_id: &DiffId,
        parents: &[Layer],
        limits: &Limits,
    ) -> Result<Layer, StoreError> {
        let _single = self.single_flight(&format!("unpack:{diff_id}"))?;
        self.protect_published(diff_id.digest())?;
        if let Some(known) = self.layer(diff_id)? {
            return Ok(known);
        }
        let file = self.open_blob(blob)?;
        self.unpack_from(file, blob, diff_id, parents, limits)
    }

    /// Unpacks a layer blob while it comes in: from a stream that ends with the blob.
    ///
    /// Both digests are checked as for [`unpack`](Store::unpack). The blob itself is not kept; who
    /// calls keeps it, and should do so before the stream ends. If the layer is there already, the
    /// stream is not read.
    pub fn unpack_stream(
        &self,
        stream: impl Read + Send,
        blob: &Digest,
        diff_id: &DiffId,
    ) -> Result<Layer, StoreError> {
        let _single = self.single_flight(&format!("unpack:{diff_id}"))?;
        self.protect_published(diff_id.digest())?;
        if let Some(known) = self.layer(diff_id)? {
            return Ok(known);
        }
        self.unpack_from(stream, blob, diff_id, &[], &Limits::default())
    }

    fn unpack_from(
        &self,
        stream: impl Read + Send,
        blob: &Digest,
        diff_id: &DiffId,
        parents: &[Layer],
        limits: &Limits,
    ) -> Result<Layer, StoreError> {
        let scratch = self.scratch()?;
        let tree = scratch.path().join("tree");
        DirBuilder::new()
            .mode(0o755)
            .create(&tree)
            .map_err(StoreError::io("create the directory", &tree))?;
        rustix::fs::chmod(&tree, Mode::from_raw_mode(0o755))
            .map_err(StoreError::io("set the mode of", &tree))?;
        let below = RootView::new(parents);
        let below = (!parents.is_empty()).then_some(&below);
        let unpacked = unpack_into(stream, &tree, below, limits)?;
        for (what, expected, actual) in [
            ("blob", *blob, unpacked.blob.digest),
            ("layer", *diff_id.digest(), *unpacked.diff_id.digest()),
        ] {
            if expected != actual {
                return Err(StoreError::Corrupt {
                    what,
                    expected,
                    actual,
                });
            }
        }
        let totals = header_totals(&tree, &unpacked.outcome)?;
        let mut seal = Seal::new(*diff_id, unpacked.size, unpacked.entries, totals.headers);
        seal.content = totals.content;
        seal.canonical = false;
        seal.opaque = unpacked.outcome.opaque;
        seal.root_entry = unpacked.outcome.root_entry;
        seal.source = Some(crate::tree::SourceBlob {
            digest: unpacked.blob.digest,
            size: unpacked.blob.size,
            kind: unpacked.kind.name().to_owned(),
        });
        let known = KnownBlob {
            blob: unpacked.blob,
            kind: unpacked.kind,
            level: None,
        };
        self.meta().put_layer_blob(diff_id, &known)?;
        self.publish_tree(&tree, seal, None)
    }

    /// Lets one process at a time do something that others would do again.
    pub(crate) fn single_flight(&self, what: &str) -> Result<crate::StoreLock, StoreError> {
        crate::StoreLock::wait(
            &self.layout().named_lock(what),
            crate::lock::Hold::Exclusive,
        )
    }
}

fn unpack_into(
    stream: impl Read + Send,
    tree: &Path,
    below: Option<&RootView>,
    limits: &Limits,
) -> Result<Unpacked, StoreError> {
    let (full, chunks) = sync_channel(CHUNKS);
    let (give_back, empty) = sync_channel(CHUNKS);
    std::thread::scope(|scope| {
        let inflater = scope.spawn(move || inflate(stream, limits, &full, &empty));
        let mut apply = Apply::new(tree, below, Purpose::Layer, None, limits)?;
        let plain = Chunks::new(chunks, give_back);
        let mut archive = TarReader::new(plain, limits.clone());
        while let Some(entry) = archive.next()? {
            apply.entry(&entry, &mut archive)?;
        }
        let entries = archive.entries();
        let plain = archive.drain()?;
        let outcome = apply.finish()?;
        let size = plain.bytes;
        let diff_id = DiffId::from_digest(plain.hasher.finish());
        let inflated = inflater
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        let (stream, blob) = inflated.map_err(StoreError::stream("read the layer"))?;
        let kind = match stream {
            StreamKind::Gzip => CompressionKind::Gzip,
            StreamKind::Zstd => CompressionKind::Zstd,
            _ => CompressionKind::Uncompressed,
        };
        Ok(Unpacked {
            blob,
            kind,
            diff_id,
            size,
            entries,
            outcome,
        })
    })
}

struct Unpacked {
    blob: BlobInfo,
    kind: CompressionKind,
    diff_id: DiffId,
    size: u64,
    entries: u64,
    outcome: Outcome,
}

fn header_totals(tree: &Path, outcome: &Outcome) -> Result<tree_tar::Totals, StoreError> {
    // To ask each file for attributes takes as long as to look at it.
    let content = if outcome.attributes || owners::are_recorded() {
        Content::HeadersOnly
    } else {
        Content::PlainHeaders
    };
    let root = rustix::fs::openat(CWD, tree, sys::DIRECTORY, Mode::empty())
        .map_err(StoreError::io("open", tree))?;
    let mut nowhere = PaxWriter::new(io::sink());
    tree_tar::write_tree(&[&root], &mut nowhere, content, None)
}

type Message = io::Result<Vec<u8>>;

/// Hashes what passes.
struct Hashing<R> {
    inner: R,
    hasher: Hasher,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Reads and inflates a blob into the channel; returns what was read.
fn inflate(
    blob: impl Read + Send,
    limits: &Limits,
    full: &SyncSender<Message>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<(StreamKind, BlobInfo)> {
    let mut hashing = Hashing {
        inner: blob,
        hasher: Hasher::new(),
        bytes: 0,
    };
    let result = (|| {
        let (kind, mut plain) = detect_and_decompress_within(&mut hashing, limits)?;
        if matches!(kind, StreamKind::Bzip2 | StreamKind::Xz) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "layers are gzip, zstd or plain tars",
            ));
        }
        loop {
            let mut chunk = empty.try_recv().unwrap_or_default();
            chunk.resize(CHUNK, 0);
            let filled = fill(&mut plain, &mut chunk)?;
            chunk.truncate(filled);
            // A reader that gave up has its own error to tell.
            if filled == 0 || full.send(Ok(chunk)).is_err() {
                return Ok(kind);
            }
        }
    })();
    let kind = match result {
        Ok(kind) => kind,
        Err(error) => {
            let copy = io::Error::new(error.kind(), error.to_string());
            let _ = full.send(Err(copy));
            return Err(error);
        }
    };
    // What a decoder leaves behind its stream belongs to the blob as well.
    io::copy(&mut hashing, &mut io::sink())?;
    let blob = BlobInfo {
        digest: hashing.hasher.finish(),
        size: hashing.bytes,
    };
    Ok((kind, blob))
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The plain bytes as they come out of the channel, hashed.
struct Chunks {
    full: Receiver<Message>,
    give_back: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    used: usize,
    hasher: Hasher,
    bytes: u64,
}

impl Chunks {
    fn new(full: Receiver<Message>, give_back: SyncSender<Vec<u8>>) -> Chunks {
        Chunks {
            full,
            give_back,
            current: Vec::new(),
            used: 0,
            hasher: Hasher::new(),
            bytes: 0,
        }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.current.len() {
            // The other side hangs up at the end of the stream.
            let Ok(next) = self.full.recv() else {
                return Ok(0);
            };
            let next = next?;
            self.hasher.update(&next);
            self.bytes += next.len() as u64;
            let old = std::mem::replace(&mut self.current, next);
            let _ = self.give_back.try_send(old);
            self.used = 0;
        }
        let count = buffer.len().min(self.current.len() - self.used);
        buffer[..count].copy_from_slice(&self.current[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}
