//! The store: blobs, unpacked layers, layer diff and apply, build cache, images, garbage.
//!
//! The crate starts no process, prints nothing and reads no environment.

mod compress;
mod digest;
mod error;
mod extract;
mod limits;
mod records;
mod scaffold;
mod store;
pub mod tar_write;
mod tree;
mod view;

pub use compress::{Compression, CompressionKind, StreamKind, detect_and_decompress};
pub use digest::{ChainId, DiffId, Digest, DigestWriter, Hasher, ParseDigestError};
pub use error::{StoreError, ViewError};
pub use extract::{ExtractOptions, Extracted, extract};
pub use limits::Limits;
pub use records::{BuildRecord, ImageEntry, ImageRecord};
pub use scaffold::{ScaffoldTarget, TargetKind, scaffold};
pub use store::{
    BlobInfo, BlobWriter, CacheMount, CommitOptions, Draft, Durability, FsckReport, LayerBlob,
    Lease, PruneOptions, PruneReport, RewriteTimestamps, Scratch, Store, StoreLock, StoreOptions,
    Usage, UsageItem, UsageKind,
};
pub use tree::Layer;
pub use view::{FileKind, Follow, Metadata, Resolved, RootView, Timestamp, ViewEntry, WalkAction};
