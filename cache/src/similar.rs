//! Layers that are nearly the same as an older one: whose compressed blocks may be used again.
//!
//! All of it is memos, pruned by age. Without them a layer is compressed as a whole.

use std::fs::{self, File};
use std::sync::Arc;

use crate::compress::{Block, Blocks, Compression, CompressionKind, KnownBlocks, Shared, list};
use crate::digest::{DiffId, Digest};
use crate::store::Store;

impl Store {
    /// Notes that a layer is likely to be made again with small changes, and of which one it is such
    /// a version.
    pub fn note_version(&self, layer: &DiffId, of: Option<&DiffId>) {
        let text = of.map_or_else(String::new, DiffId::to_string);
        self.keep_memo(&version_memo(layer), text.as_bytes());
    }

    /// The blocks that compressing a layer may use, and whether its own are to be kept.
    pub(crate) fn blocks_for(&self, layer: &DiffId, compression: &Compression) -> Blocks {
        let noted = fs::read_to_string(self.memo_path(&version_memo(layer))).ok();
        let of: Option<DiffId> = noted.as_ref().and_then(|text| text.parse().ok());
        let known = of.and_then(|of| self.known_blocks(&of, compression));
        let shared = match (&of, &known) {
            (Some(of), Some(known)) => self.shared(layer, of, known),
            _ => None,
        };
        Blocks {
            known: known.map(Arc::new),
            shared: shared.map(Arc::new),
            list: noted.is_some() && compression.kind == CompressionKind::Gzip,
        }
    }

    /// What the tars of two versions of a layer begin with.
    fn shared(&self, layer: &DiffId, of: &DiffId, known: &KnownBlocks) -> Option<Shared> {
        let (old, new) = (self.checkpoints(of), self.checkpoints(layer));
        let same = old.iter().zip(&new).take_while(|(old, new)| old == new);
        known.shared(&new[..same.count()])
    }

    fn known_blocks(&self, of: &DiffId, compression: &Compression) -> Option<KnownBlocks> {
        let wanted = (compression.kind, compression.effective_level());
        let blobs = self.meta().layer_blobs(of).ok()?;
        let known = blobs
            .iter()
            .find(|known| (known.kind, known.level) == wanted)?;
        let blob: File = self.open_blob(&known.blob.digest).ok()?;
        let list = fs::read(self.memo_path(&blocks_memo(&known.blob.digest))).ok()?;
        KnownBlocks::new(&list, blob)
    }

    /// Keeps the list of a blob's blocks for the next version of its layer.
    pub(crate) fn keep_blocks(&self, blob: &Digest, blocks: &[Block]) {
        self.keep_memo(&blocks_memo(blob), &list(blocks));
    }

    /// Without the memo it only takes longer later.
    pub(crate) fn keep_memo(&self, name: &str, bytes: &[u8]) {
        if let Err(error) = self.write_memo(name, bytes) {
            tracing::debug!(%error, "a memo was not kept");
        }
    }
}

fn version_memo(layer: &DiffId) -> String {
    format!("version of {layer}")
}

fn blocks_memo(blob: &Digest) -> String {
    format!("gzip blocks of {blob}")
}
