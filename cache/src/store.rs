//! The store: one directory that many processes share.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::compress::{Compression, CompressionKind};
use crate::digest::{DiffId, Digest};
use crate::error::StoreError;
use crate::records::{BuildRecord, ImageEntry, ImageRecord};
use crate::tree::Layer;

/// How much of a power cut the store survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A named image is on disk when the command that named it ends.
    #[default]
    Full,
    /// Nothing is flushed: for throw-away disks.
    None,
}

/// Options of [`Store::open`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreOptions {
    /// How much of a power cut the store survives.
    pub durability: Durability,
}

/// A store; cheap to clone, usable from all threads.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    root: PathBuf,
}

/// What a blob is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A layer as a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerBlob {
    /// The blob.
    pub blob: BlobInfo,
    /// How it is compressed.
    pub kind: CompressionKind,
}

/// Changes of file times in an exported layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewriteTimestamps {
    /// Later file times become this one; seconds since 1970.
    pub epoch: i64,
}

/// A directory below `tmp/` that is removed on drop.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A named lock across processes; free when dropped or when the process dies.
pub struct StoreLock {
    _file: File,
}

/// A blob being written. Dropping it without [`commit`](BlobWriter::commit) discards it.
#[must_use = "a blob writer that is dropped is discarded"]
pub struct BlobWriter {
    _file: File,
}

impl BlobWriter {
    /// Publishes the blob if it has the expected digest.
    pub fn commit(self, expected: Option<&Digest>) -> Result<BlobInfo, StoreError> {
        let _ = expected;
        Err(pending("blob writer"))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A fresh upper and work directory of a step. Dropping it without [`commit`](Draft::commit)
/// discards it.
#[must_use = "a draft that is dropped is discarded"]
pub struct Draft {
    upper: PathBuf,
    work: PathBuf,
}

/// Options of [`Draft::commit`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitOptions {
    /// Paths inside the root that the runtime had to create as mount targets: left out of the
    /// layer if they are still empty and not in the parents.
    pub stubs: Vec<PathBuf>,
}

impl Draft {
    /// Returns the upper directory of the overlay mount.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// Returns the work directory of the overlay mount.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Makes the upper directory an immutable layer over `parents` (bottom first).
    pub fn commit(self, parents: &[Layer], options: &CommitOptions) -> Result<Layer, StoreError> {
        let _ = (parents, options);
        Err(pending("commit"))
    }
}

/// A persistent directory of `RUN --mount=type=cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// The directory.
    pub path: PathBuf,
    /// Whether this call made it; then the caller fills it and sets its owner and mode.
    pub created: bool,
}

/// Protects what a running build uses from [`prune`](Store::prune).
pub struct Lease {
    _file: File,
}

impl Lease {
    /// Protects a blob until the lease is dropped or the process dies.
    pub fn protect(&self, digest: &Digest) -> Result<(), StoreError> {
        let _ = digest;
        Err(pending("lease"))
    }

    /// Protects a layer until the lease is dropped or the process dies.
    pub fn protect_layer(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        self.protect(diff_id.digest())
    }
}

/// What [`Store::prune`] may remove.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneOptions {
    /// Also remove build records and cache mounts that are still useful, not only garbage.
    pub all: bool,
    /// Keep what was used within this time.
    pub unused_for: Option<std::time::Duration>,
    /// Stop removing build cache when it is at most this large, in bytes.
    pub keep_bytes: Option<u64>,
    /// Also remove images without a name.
    pub dangling_images: bool,
    /// Only tell what would be removed.
    pub dry_run: bool,
}

/// What [`Store::prune`] removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneReport {
    /// Removed blobs.
    pub blobs: Vec<Digest>,
    /// Removed layers.
    pub layers: Vec<DiffId>,
    /// Removed images.
    pub images: Vec<ImageRecord>,
    /// Number of removed build records.
    pub records: u64,
    /// Number of removed cache mounts.
    pub cache_mounts: u64,
    /// Bytes that were set free.
    pub reclaimed: u64,
}

/// How much the store holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Every item.
    pub items: Vec<UsageItem>,
}

/// What kind of thing a [`UsageItem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageKind {
    /// A blob.
    Blob,
    /// An unpacked layer.
    Layer,
    /// A cache mount.
    CacheMount,
}

/// One line of `builder du`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageItem {
    /// What it is.
    pub kind: UsageKind,
    /// Its digest in hex, or the hashed ID of a cache mount.
    pub id: String,
    /// Bytes on disk.
    pub size: u64,
    /// Last use, seconds since 1970.
    pub last_used_unix: i64,
    /// Whether no image and no living process needs it.
    pub reclaimable: bool,
    /// Whether an image and the build cache both use it.
    pub shared: bool,
    /// What it is for: the step or image that needs it.
    pub description: String,
}

/// What [`Store::fsck`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FsckReport {
    /// How many blobs were checked.
    pub blobs: u64,
    /// How many layers were checked.
    pub layers: u64,
    /// What is wrong, in words.
    pub problems: Vec<String>,
    /// How many of the problems were repaired.
    pub repaired: u64,
}

fn pending(what: &str) -> StoreError {
    StoreError::Document {
        what: what.to_owned(),
        reason: "not available yet".to_owned(),
    }
}

impl Store {
    /// Opens the store, creating it (0700) if it is not there.
    ///
    /// Checks the format and collects what dead processes left behind.
    pub fn open(root: &Path, options: &StoreOptions) -> Result<Store, StoreError> {
        let _ = options;
        Ok(Store(Arc::new(Inner {
            root: root.to_path_buf(),
        })))
    }

    /// Returns what was found damaged and set aside when the store was opened, in words.
    pub fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the root directory.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Makes a directory below `tmp/` that is removed on drop.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Err(pending("scratch"))
    }

    /// Takes a named lock, waiting for it.
    pub fn lock(&self, name: &str) -> Result<StoreLock, StoreError> {
        let _ = name;
        Err(pending("lock"))
    }

    /// Takes a named lock if it is free.
    pub fn try_lock(&self, name: &str) -> Result<Option<StoreLock>, StoreError> {
        let _ = name;
        Err(pending("lock"))
    }

    /// Starts a new blob.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        Err(pending("blob"))
    }

    /// Stores `bytes` as a blob.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<BlobInfo, StoreError> {
        let _ = bytes;
        Err(pending("blob"))
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        Err(StoreError::MissingBlob { digest: *digest })
    }

    /// Reads a blob of at most `limit` bytes.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let _ = limit;
        Err(StoreError::MissingBlob { digest: *digest })
    }

    /// Tells whether a blob is there.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        let _ = digest;
        false
    }

    /// Returns the size of a blob in bytes, none if it is not there.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let _ = digest;
        Err(pending("blob"))
    }

    /// Returns the layer if its sealed tree is there.
    pub fn layer(&self, diff_id: &DiffId) -> Result<Option<Layer>, StoreError> {
        let _ = diff_id;
        Err(pending("layer"))
    }

    /// Makes a fresh upper and work directory for a step.
    pub fn draft(&self) -> Result<Draft, StoreError> {
        Err(pending("draft"))
    }

    /// Makes a fresh upper and work directory whose root has the mode, owner and times that `/`
    /// has in `parents` (bottom first).
    pub fn draft_on(&self, parents: &[Layer]) -> Result<Draft, StoreError> {
        let _ = parents;
        self.draft()
    }

    /// Unpacks a layer blob (gzip, zstd or plain, by content) into a sealed tree.
    ///
    /// Checks both digests; nothing is published if one of them differs.
    pub fn unpack(&self, blob: &Digest, diff_id: &DiffId) -> Result<Layer, StoreError> {
        let _ = (blob, diff_id);
        Err(pending("unpack"))
    }

    /// Remembers that `blob` is the layer `diff_id`, compressed as `kind`.
    pub fn remember_layer_blob(
        &self,
        diff_id: &DiffId,
        blob: &BlobInfo,
        kind: CompressionKind,
    ) -> Result<(), StoreError> {
        let _ = (diff_id, blob, kind);
        Err(pending("layer blob"))
    }

    /// Returns the layer as a blob, making it from the tree if need be.
    pub fn layer_blob(
        &self,
        diff_id: &DiffId,
        compression: &Compression,
    ) -> Result<LayerBlob, StoreError> {
        let _ = (diff_id, compression);
        Err(pending("layer blob"))
    }

    /// Writes the layer as a plain tar and returns the diff ID of what was written.
    ///
    /// With `rewrite`, later file times are clamped, so the diff ID is another one.
    pub fn layer_tar(
        &self,
        diff_id: &DiffId,
        out: &mut dyn Write,
        rewrite: Option<RewriteTimestamps>,
    ) -> Result<DiffId, StoreError> {
        let _ = (diff_id, out, rewrite);
        Err(pending("layer tar"))
    }

    /// Gives an image a name; returns the image that had it before, if it is another one.
    pub fn tag(&self, name: &str, image: &ImageRecord) -> Result<Option<ImageRecord>, StoreError> {
        let _ = (name, image);
        Err(pending("tag"))
    }

    /// Takes a name away from its image, which stays; tells whether the name was there.
    pub fn untag(&self, name: &str) -> Result<bool, StoreError> {
        let _ = name;
        Err(pending("untag"))
    }

    /// Returns the image of a name.
    pub fn image(&self, name: &str) -> Result<Option<ImageRecord>, StoreError> {
        let _ = name;
        Err(pending("image"))
    }

    /// Adds an image without a name.
    pub fn put_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        let _ = image;
        Err(pending("image"))
    }

    /// Returns all images, last added first.
    pub fn images(&self) -> Result<Vec<ImageEntry>, StoreError> {
        Err(pending("images"))
    }

    /// Removes an image and all its names; tells whether it was there.
    ///
    /// Its blobs and layers stay until [`prune`](Store::prune).
    pub fn remove_image(&self, manifest: &Digest) -> Result<bool, StoreError> {
        let _ = manifest;
        Err(pending("images"))
    }

    /// Finds an image by a prefix of its ID or manifest digest (hex, with or without `sha256:`).
    pub fn find_image(&self, query: &str) -> Result<Option<ImageEntry>, StoreError> {
        let _ = query;
        Err(pending("images"))
    }

    /// Returns what a build key gave, if all of it is still there.
    pub fn record(&self, key: &Digest) -> Result<Option<BuildRecord>, StoreError> {
        let _ = key;
        Err(pending("record"))
    }

    /// Remembers what a build key gave.
    pub fn put_record(&self, record: &BuildRecord) -> Result<(), StoreError> {
        let _ = record;
        Err(pending("record"))
    }

    /// Returns the records of a step identity, most recent first.
    pub fn records_by_name(&self, step_identity: &str) -> Result<Vec<BuildRecord>, StoreError> {
        let _ = step_identity;
        Err(pending("record"))
    }

    /// Returns the directory of a cache mount, empty on first use.
    pub fn cache_mount(&self, id: &str) -> Result<CacheMount, StoreError> {
        let _ = id;
        Err(pending("cache mount"))
    }

    /// Returns a place for a flat memo file; its directory exists, the file maybe not.
    pub fn memo_path(&self, name: &str) -> PathBuf {
        self.0
            .root
            .join("memo")
            .join(Digest::of(name.as_bytes()).hex())
    }

    /// Starts a lease.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        Err(pending("lease"))
    }

    /// Removes what nobody needs.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport, StoreError> {
        let _ = options;
        Err(pending("prune"))
    }

    /// Tells what takes how much space.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        Err(pending("usage"))
    }

    /// Checks every blob, seal, record and name; with `repair`, removes what is damaged.
    pub fn fsck(&self, repair: bool) -> Result<FsckReport, StoreError> {
        let _ = repair;
        Err(pending("fsck"))
    }
}
