//! Which blobs are which layers.

use rusqlite::params;

use super::Meta;
use super::images::digest_at;
use crate::blob::BlobInfo;
use crate::compress::CompressionKind;
use crate::digest::{DiffId, Digest};
use crate::error::StoreError;

/// A blob of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownBlob {
    pub(crate) blob: BlobInfo,
    pub(crate) kind: CompressionKind,
    /// Level it was made with; none if it came from outside.
    pub(crate) level: Option<i32>,
}

impl Meta {
    pub(crate) fn layer_blobs(&self, diff_id: &DiffId) -> Result<Vec<KnownBlob>, StoreError> {
        self.run("look the blobs of a layer up", |connection| {
            connection
                .prepare_cached(
                    "SELECT digest, size, kind, level FROM layer_blobs WHERE diff_id = ?1 \
                     ORDER BY digest",
                )?
                .query_map([diff_id.hex()], |row| {
                    let name: String = row.get(2)?;
                    // A kind that only a later version knows is of no use here.
                    let Some(kind) = CompressionKind::from_name(&name) else {
                        return Ok(None);
                    };
                    let size = row.get::<_, i64>(1)? as u64;
                    let blob = BlobInfo {
                        digest: digest_at(row, 0)?,
                        size,
                    };
                    Ok(Some(KnownBlob {
                        blob,
                        kind,
                        level: row.get(3)?,
                    }))
                })?
                .filter_map(rusqlite::Result::transpose)
                .collect()
        })
    }

    pub(crate) fn put_layer_blob(
        &self,
        diff_id: &DiffId,
        known: &KnownBlob,
    ) -> Result<(), StoreError> {
        if self.layer_blobs(diff_id)?.contains(known) {
            return Ok(());
        }
        self.write("remember the blob of a layer", |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO layer_blobs (diff_id, digest, size, kind, level) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    diff_id.hex(),
                    known.blob.digest.hex(),
                    known.blob.size as i64,
                    known.kind.name(),
                    known.level,
                ],
            )?;
            Ok(())
        })
    }

    /// All pairs of layer and blob.
    pub(crate) fn all_layer_blobs(&self) -> Result<Vec<(DiffId, Digest)>, StoreError> {
        self.run("list the blobs of layers", |connection| {
            connection
                .prepare_cached("SELECT diff_id, digest FROM layer_blobs")?
                .query_map([], |row| {
                    Ok((DiffId::from_digest(digest_at(row, 0)?), digest_at(row, 1)?))
                })?
                .collect()
        })
    }

    pub(crate) fn forget_layer_blobs(&self, blobs: &[Digest]) -> Result<(), StoreError> {
        if blobs.is_empty() {
            return Ok(());
        }
        self.write("forget blobs of layers", |transaction| {
            let mut statement = transaction.prepare("DELETE FROM layer_blobs WHERE digest = ?1")?;
            for blob in blobs {
                statement.execute([blob.hex()])?;
            }
            Ok(())
        })
    }
}
