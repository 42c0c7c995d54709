//! What stopped containers and others keep from being removed.

use rusqlite::params;

use super::Meta;
use super::images::digest_at;
use crate::digest::Digest;
use crate::error::StoreError;

impl Meta {
    /// Replaces what an owner keeps.
    pub(crate) fn pin(&self, owner: &str, digests: &[Digest]) -> Result<(), StoreError> {
        self.write_durably("pin layers", |transaction| {
            transaction.execute("DELETE FROM pins WHERE owner = ?1", [owner])?;
            let mut statement = transaction
                .prepare("INSERT OR IGNORE INTO pins (owner, digest) VALUES (?1, ?2)")?;
            for digest in digests {
                statement.execute(params![owner, digest.hex()])?;
            }
            Ok(())
        })
    }

    /// All pinned digests.
    pub(crate) fn pinned(&self) -> Result<Vec<Digest>, StoreError> {
        self.run("list the pins", |connection| {
            connection
                .prepare_cached("SELECT DISTINCT digest FROM pins")?
                .query_map([], |row| digest_at(row, 0))?
                .collect()
        })
    }
}
