//! Layers as blobs and as plain tars.

use std::io::Write;

use crate::blob::BlobInfo;
use crate::compress::{Compression, CompressionKind};
use crate::digest::{DiffId, Digest, DigestWriter};
use crate::error::StoreError;
use crate::meta::KnownBlob;
use crate::store::Store;
use crate::tar_write::PaxWriter;
use crate::tree::Layer;
use crate::tree_tar::{self, Content, RewriteTimestamps};

/// A layer as a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerBlob {
    /// The blob.
    pub blob: BlobInfo,
    /// How it is compressed.
    pub kind: CompressionKind,
}

impl Store {
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
        self.meta().put_layer_blob(
            diff_id,
            &KnownBlob {
                blob: *blob,
                kind,
                level: None,
            },
        )
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
        let layer = self
            .layer(diff_id)?
            .ok_or(StoreError::MissingLayer { diff_id: *diff_id })?;
        let mut tar = PaxWriter::new(DigestWriter::new(out));
        tree_tar::write_tree(layer.root_fd()?, &mut tar, Content::Full, rewrite)?;
        let out = tar
            .finish()
            .map_err(StoreError::stream("write the layer"))?;
        Ok(DiffId::from_digest(out.finish().1))
    }
}

fn pending(what: &str) -> StoreError {
    StoreError::Document {
        what: what.to_owned(),
        reason: "not available yet".to_owned(),
    }
}
