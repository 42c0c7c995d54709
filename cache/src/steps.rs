//! The build cache: what a step's key gave.

use crate::digest::{DiffId, Digest};
use crate::error::StoreError;
use crate::lease::Lease;
use crate::meta::RecordReader;
use crate::records::BuildRecord;
use crate::store::Store;

impl Store {
    /// Returns what a build key gave, if all of it is still there.
    ///
    /// A record with an output that is neither unpacked nor a blob is dropped: it is a miss.
    pub fn record(&self, key: &Digest) -> Result<Option<BuildRecord>, StoreError> {
        match self.meta().record(key)? {
            Some(record) => self.if_there(record),
            None => Ok(None),
        }
    }

    /// As [`record`](Store::record), for whoever uses its layers: the lease protects them before they are
    /// looked for.
    pub fn record_for(
        &self,
        lease: &Lease,
        key: &Digest,
    ) -> Result<Option<BuildRecord>, StoreError> {
        match self.meta().record(key)? {
            Some(record) => self.record_of(lease, record),
            None => Ok(None),
        }
    }

    /// The same of a record that was looked up before.
    pub fn record_of(
        &self,
        lease: &Lease,
        record: BuildRecord,
    ) -> Result<Option<BuildRecord>, StoreError> {
        let digests: Vec<Digest> = record.layers.iter().map(|layer| *layer.digest()).collect();
        lease.protect_all(&digests)?;
        self.if_there(record)
    }

    /// Asks for many records with one look at the database.
    ///
    /// What they gave may be gone: see [`record_of`](Store::record_of).
    pub fn look_up_records<T>(
        &self,
        ask: impl FnMut(&RecordReader<'_>) -> T,
    ) -> Result<T, StoreError> {
        self.meta().look_up_records(ask)
    }

    fn if_there(&self, record: BuildRecord) -> Result<Option<BuildRecord>, StoreError> {
        for layer in &record.layers {
            if !self.has_layer(layer)? {
                self.meta().remove_records(&[record.key])?;
                return Ok(None);
            }
        }
        Ok(Some(record))
    }

    /// Remembers what a build key gave; replaces an older record of the same key.
    pub fn put_record(&self, record: &BuildRecord) -> Result<(), StoreError> {
        if let Some(missing) = record.layers.iter().try_fold(None, |missing, layer| {
            if missing.is_some() || self.has_layer(layer)? {
                return Ok::<_, StoreError>(missing);
            }
            Ok(Some(*layer))
        })? {
            return Err(StoreError::MissingLayer { diff_id: missing });
        }
        self.meta().put_record(record)
    }

    /// Returns the last records of a step identity, most recent first.
    pub fn records_by_name(&self, step_identity: &str) -> Result<Vec<BuildRecord>, StoreError> {
        self.meta().records_by_name(step_identity)
    }

    /// Returns how long a step took when it last ran, in milliseconds.
    pub fn last_duration(&self, step_identity: &str) -> Result<Option<u64>, StoreError> {
        self.meta().last_duration(step_identity)
    }

    /// Tells whether a layer is there in any form.
    pub fn has_layer(&self, diff_id: &DiffId) -> Result<bool, StoreError> {
        if self.layer(diff_id)?.is_some() {
            return Ok(true);
        }
        let blobs = self.meta().layer_blobs(diff_id)?;
        Ok(blobs.iter().any(|known| self.has_blob(&known.blob.digest)))
    }
}
