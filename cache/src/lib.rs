//! The store: blobs, unpacked layers, layer diff and apply, build cache, images, garbage.
//!
//! The crate starts no process, prints nothing and reads no environment.

mod apply;
mod blob;
mod builds;
mod checkpoints;
mod collect;
mod compare;
mod compress;
mod copy_upper;
mod diff;
mod digest;
mod disk;
mod draft;
mod entry;
mod error;
mod extract;
mod fixed_times;
mod flush;
mod flush_ahead;
mod fsck;
mod hash_beside;
mod held;
mod holes;
mod images;
mod layer_blob;
mod layout;
mod lease;
mod limits;
mod live;
mod lock;
mod marks;
mod meta;
mod open_root;
pub mod owners;
mod pack;
mod partial;
mod parts;
mod plain;
mod prune;
mod records;
mod recover;
mod remove;
mod scaffold;
mod session;
mod similar;
mod stack;
mod steps;
mod store;
mod sweep;
mod sys;
mod tar_read;
pub mod tar_write;
mod tree;
mod tree_tar;
mod unpack;
mod view;
mod volumes;

pub use blob::{BlobInfo, BlobWriter};
pub use builds::BuildDirectory;
pub use collect::{Bounds, Collector, Room};
pub use compare::{LayerDifference, LayerField};
pub use compress::{
    Compression, CompressionKind, StreamKind, detect_and_decompress, detect_and_decompress_within,
};
pub use digest::{ChainId, DiffId, Digest, DigestWriter, Hasher, ParseDigestError};
pub use disk::{DiskSpace, DiskTrouble};
pub use draft::{CommitOptions, Draft, writable_over};
pub use entry::{FileKind, Metadata, Timestamp};
pub use error::{StoreError, ViewError};
pub use extract::{ExtractOptions, Extracted, extract, extract_keeping_kinds};
pub use flush_ahead::SpaceWatch;
pub use fsck::FsckReport;
pub use holes::{HoleReader, HoleWriter, copy_content};
pub use layer_blob::LayerBlob;
pub use lease::Lease;
pub use limits::Limits;
pub use live::{LiveDirectory, LiveName, LiveTree, metadata_of};
pub use lock::StoreLock;
pub use meta::RecordReader;
pub use pack::pack;
pub use plain::{PlainRoot, copy_tree};
pub use prune::{ItemCondition, PruneOptions, PruneReport, Usage, UsageItem, UsageKind};
pub use records::{BuildRecord, ImageEntry, ImageRecord};
pub use scaffold::{ScaffoldTarget, TargetKind, scaffold};
pub use session::Scratch;
pub use store::{CacheMount, Durability, Store, StoreOptions, check_stop};
pub use tar_read::looks_like_tar;
pub use tree::{Layer, overlay_lowers};
pub use tree_tar::RewriteTimestamps;
pub use view::{Follow, Resolved, RootView, ViewEntry, WalkAction};
pub use volumes::{
    Removable, Volume, VolumeRecord, VolumeRemoval, VolumeUse, is_volume_name, tree_size,
};
