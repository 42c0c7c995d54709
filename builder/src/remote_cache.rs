//! The cache that builds on different machines share: `--cache-from` and `--cache-to`.
//!
//! There are two forms. rbuild's own, a record for each step, is described in `records.rs`. The
//! other one is BuildKit's: a manifest whose layers are the layers of steps and whose config lists which
//! keys they are the results of. Keys are rbuild's own. Each step has up to two: the key by content, the
//! one of the local cache, and for steps that copy from other stages an *early* key, which names those
//! stages by their layers instead of by the files that are copied. It is known before any layer of
//! those stages is downloaded.
//!
//! A cache is a help and no source: one that cannot be read is a warning.

mod artifact;
mod config;
mod export;
mod import;
mod layer;
mod mounts;
mod records;

use std::sync::{Mutex, PoisonError};

use crate::event::VertexId;

pub(crate) use config::INLINE;
pub(crate) use export::{export, inline};
pub(crate) use import::{Hit, Imports, import};
pub(crate) use layer::layer_blob;
pub(crate) use mounts::MountSources;
pub(crate) use records::{RecordTarget, Records, record_targets, send_step};

/// Vertices of caches are numbered from here: no graph is as large.
const FIRST_VERTEX: u32 = u32::MAX / 2;

/// The caches that promised a layer and did not deliver it.
#[derive(Debug, Default)]
pub(crate) struct Lost(Mutex<Vec<VertexId>>);

impl Lost {
    /// Notes that the cache with this vertex is lost; false if the vertex is none of a cache.
    pub(crate) fn add(&self, vertex: VertexId) -> bool {
        let is_cache = is_cache(vertex);
        if is_cache && !self.has(vertex) {
            let mut lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lost.push(vertex);
        }
        is_cache
    }

    /// Whether the cache with this vertex is lost.
    pub(crate) fn has(&self, vertex: VertexId) -> bool {
        let lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lost.contains(&vertex)
    }
}

/// Whether layers of this vertex come from a cache.
pub(crate) fn is_cache(vertex: VertexId) -> bool {
    vertex.0 >= FIRST_VERTEX
}
