//! Layers as blobs and as plain tars.
//!
//! A layer that was made here has no blob until somebody wants one: its canonical tar is written
//! from the tree and must hash to the diff ID again. A layer from outside has the blob that it came
//! with; its tar is what is in there, byte for byte.

use std::io::{self, Write};

use crate::blob::BlobInfo;
use crate::checkpoints::Checkpoint;
use crate::compress::{Blocks, Compression, CompressionKind, detect_and_decompress};
use crate::digest::{DiffId, DigestWriter};
use crate::error::StoreError;
use crate::meta::KnownBlob;
use crate::store::Store;
use crate::tar_write::PaxWriter;
use crate::tree_tar::{self, Content, RewriteTimestamps, Start};

/// A layer as a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerBlob {
    /// The blob.
    pub blob: BlobInfo,
    /// How it is compressed.
    pub kind: CompressionKind,
}

impl From<KnownBlob> for LayerBlob {
    fn from(known: KnownBlob) -> LayerBlob {
        LayerBlob {
            blob: known.blob,
            kind: known.kind,
        }
    }
}

impl Store {
    /// Remembers that `blob` is the layer `diff_id`, compressed as `kind`.
    ///
    /// [`unpack`](Store::unpack) does this by itself; a layer that is only kept as a blob needs it
    /// to be found.
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
    ///
    /// Unless `force` is set, any blob that the layer has is returned, in whatever compression, as
    /// BuildKit does. The same layer and options give the same bytes every time.
    pub fn layer_blob(
        &self,
        diff_id: &DiffId,
        compression: &Compression,
    ) -> Result<LayerBlob, StoreError> {
        if let Some(known) = self.fitting_blob(diff_id, compression)? {
            return Ok(known);
        }
        let level = compression.effective_level();
        let kind = compression.kind;
        let _single =
            self.single_flight(&format!("layer-blob:{diff_id}:{}:{level:?}", kind.name()))?;
        if let Some(known) = self.fitting_blob(diff_id, compression)? {
            return Ok(known);
        }
        let mut blocks = self.blocks_for(diff_id, compression);
        let run = |blocks: &Blocks| {
            let from = blocks.shared.as_ref().map(|shared| &shared.start);
            compression.run(self.blob_writer()?, blocks, |mut out| {
                self.original_tar(diff_id, from, &mut out)
            })
        };
        let (writer, (), made) = match run(&blocks) {
            // The older blob is damaged: nothing of it is used.
            Err(StoreError::Stream { source, .. })
                if blocks.shared.is_some() && source.kind() == io::ErrorKind::InvalidData =>
            {
                (blocks.known, blocks.shared) = (None, None);
                run(&blocks)?
            }
            result => result?,
        };
        let expected = (kind == CompressionKind::Uncompressed).then_some(diff_id.digest());
        let blob = writer.commit(expected)?;
        self.meta()
            .put_layer_blob(diff_id, &KnownBlob { blob, kind, level })?;
        if blocks.list {
            self.keep_blocks(&blob.digest, &made);
        }
        Ok(LayerBlob { blob, kind })
    }

    /// A blob of the layer that is there and will do.
    fn fitting_blob(
        &self,
        diff_id: &DiffId,
        compression: &Compression,
    ) -> Result<Option<LayerBlob>, StoreError> {
        let known = self.known_blobs(diff_id)?;
        let wanted = compression.level.and(compression.effective_level());
        let exact = |known: &&KnownBlob| {
            known.kind == compression.kind && (wanted.is_none() || known.level == wanted)
        };
        let found = known.iter().find(exact);
        let found = match found {
            None if !compression.force => known.first(),
            found => found,
        };
        Ok(found.copied().map(LayerBlob::from))
    }

    /// The blobs of a layer that are really there.
    fn known_blobs(&self, diff_id: &DiffId) -> Result<Vec<KnownBlob>, StoreError> {
        let mut known = self.meta().layer_blobs(diff_id)?;
        if known.is_empty()
            && let Some(source) = self.layer(diff_id)?.and_then(|layer| layer.source_blob())
        {
            // The database was lost, but the seal remembers.
            known.push(source);
        }
        known.retain(|known| {
            matches!(self.blob_size(&known.blob.digest), Ok(Some(size)) if size == known.blob.size)
        });
        Ok(known)
    }

    /// Writes the tar whose digest is the diff ID, from a checkpoint on if there is one.
    fn original_tar(
        &self,
        diff_id: &DiffId,
        from: Option<&Checkpoint>,
        out: &mut dyn Write,
    ) -> Result<(), StoreError> {
        let missing = || StoreError::MissingLayer { diff_id: *diff_id };
        let mut start = None;
        let mut out = match from {
            None => DigestWriter::new(out),
            Some(point) => {
                let (tar, headers) = point.hashers().ok_or_else(missing)?;
                start = Some(Start {
                    path: point.path.clone(),
                    entries: point.entries,
                    content: point.content,
                    headers,
                });
                DigestWriter::after(out, tar, point.bytes)
            }
        };
        let made_here = self.layer(diff_id)?.filter(|layer| layer.seal().canonical);
        if let Some(layer) = made_here {
            let mut tar = PaxWriter::new(&mut out);
            tree_tar::write_from(&layer.roots()?, &mut tar, start, &mut |_, _| Ok(()))?;
            tar.finish()
                .map_err(StoreError::stream("write the layer"))?;
        } else if start.is_some() {
            return Err(missing());
        } else {
            let known = self.known_blobs(diff_id)?;
            let known = known.first().ok_or_else(missing)?;
            let file = self.open_blob(&known.blob.digest)?;
            let (_, mut plain) =
                detect_and_decompress(file).map_err(StoreError::stream("read the layer"))?;
            io::copy(&mut plain, &mut out).map_err(StoreError::stream("copy the layer"))?;
        }
        let (_, actual, _) = out.finish();
        if actual != *diff_id.digest() {
            return Err(StoreError::Corrupt {
                what: "layer",
                expected: *diff_id.digest(),
                actual,
            });
        }
        Ok(())
    }

    /// Writes the layer as a plain tar and returns the diff ID of what was written.
    ///
    /// With `rewrite`, later file times are clamped, so the diff ID is another one; such a tar is
    /// always in the canonical form, also that of a layer from outside, which has to be unpacked.
    pub fn layer_tar(
        &self,
        diff_id: &DiffId,
        out: &mut dyn Write,
        rewrite: Option<RewriteTimestamps>,
    ) -> Result<DiffId, StoreError> {
        if rewrite.is_none() {
            self.original_tar(diff_id, None, out)?;
            return Ok(*diff_id);
        }
        let layer = self
            .layer(diff_id)?
            .ok_or(StoreError::MissingLayer { diff_id: *diff_id })?;
        let mut tar = PaxWriter::new(DigestWriter::new(out));
        tree_tar::write_tree(&layer.roots()?, &mut tar, Content::Full, rewrite)?;
        let out = tar
            .finish()
            .map_err(StoreError::stream("write the layer"))?;
        Ok(DiffId::from_digest(out.finish().1))
    }
}
