//! Blobs: immutable files named by the digest of their bytes.
//!
//! A blob is written below `tmp/`, hashed on the way, and published by rename, so it is there whole
//! or not at all. Until the file system has been flushed its mode is 0400, afterwards 0444: that is
//! how the first command after another boot knows which ones it has to check.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::Mode;

use crate::digest::{Digest, DigestWriter};
use crate::error::StoreError;
use crate::flush::{self, UNFLUSHED};
use crate::holes::HoleWriter;
use crate::session;
use crate::store::{Store, check_stop};

/// Bytes gathered before they are hashed and written.
const BUFFER: usize = 128 << 10;

/// What a blob is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A blob being written. Dropping it without [`commit`](BlobWriter::commit) discards it.
#[must_use = "a blob writer that is dropped is discarded"]
pub struct BlobWriter {
    store: Store,
    out: Option<BufWriter<DigestWriter<HoleWriter>>>,
    path: PathBuf,
    bytes: u64,
    stop: Option<Arc<AtomicBool>>,
    /// What is written stays when this is dropped, for somebody to go on with.
    stays: bool,
}

impl BlobWriter {
    /// Goes on with a blob whose beginning is in the file at `path` already.
    pub(crate) fn resuming(
        store: &Store,
        out: DigestWriter<HoleWriter>,
        path: PathBuf,
    ) -> BlobWriter {
        BlobWriter {
            store: store.clone(),
            bytes: out.bytes(),
            out: Some(BufWriter::with_capacity(BUFFER, out)),
            path,
            stop: store.stop_flag(),
            stays: true,
        }
    }

    /// Throws away what was written: it is wrong.
    pub fn discard(mut self) {
        self.stays = false;
    }

    pub(crate) fn new(store: &Store) -> Result<BlobWriter, StoreError> {
        let (file, path) = session::temporary_file(store.layout())?;
        let out = BufWriter::with_capacity(BUFFER, DigestWriter::new(HoleWriter::new(file)));
        Ok(BlobWriter {
            store: store.clone(),
            out: Some(out),
            path,
            bytes: 0,
            stop: store.stop_flag(),
            stays: false,
        })
    }

    /// Returns how many bytes have been written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Publishes the blob, if it has the expected digest.
    ///
    /// With another digest nothing is published and the error tells both.
    pub fn commit(mut self, expected: Option<&Digest>) -> Result<BlobInfo, StoreError> {
        // Whatever goes wrong from here on, going on would lead to the same end.
        self.stays = false;
        let writing = |error: io::Error| StoreError::io("write the blob", &self.path)(error);
        let Some(out) = self.out.take() else {
            return Err(writing(io::Error::other("the blob was already ended")));
        };
        let out = out
            .into_inner()
            .map_err(|error| writing(error.into_error()))?;
        let (file, digest, size) = out.finish();
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(StoreError::Corrupt {
                what: "blob",
                expected: *expected,
                actual: digest,
            });
        }
        let file = file.finish().map_err(writing)?;
        let info = BlobInfo { digest, size };
        self.store.protect_published(&digest)?;
        if self.store.freshen_blob(&info)? {
            return Ok(info);
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(UNFLUSHED))
            .map_err(StoreError::io("set the mode of", &self.path))?;
        self.store.publish_blob(&self.path, &digest)?;
        // The name below `tmp/` is gone: nothing for `drop` to remove.
        self.path = PathBuf::new();
        Ok(info)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check_stop(self.stop.as_deref())?;
        let Some(out) = &mut self.out else {
            return Err(io::Error::other("the blob was already ended"));
        };
        let taken = match out.write(bytes) {
            Ok(taken) => taken,
            Err(error) => {
                // A full disk gets back what was taken.
                self.stays = false;
                return Err(error);
            }
        };
        self.bytes += taken as u64;
        self.store.wrote(taken as u64);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.stays && !self.path.as_os_str().is_empty() {
            // What cannot be removed now is collected by the next command that opens the store.
            let _ = std::fs::remove_file(&self.path);
        }
        // Taken apart without `into_inner`, so that an abandoned blob is not written out first.
        if let Some(out) = self.out.take() {
            let _ = out.into_parts();
        }
    }
}

impl Store {
    /// Starts a new blob.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        BlobWriter::new(self)
    }

    /// Stores `bytes` as a blob.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<BlobInfo, StoreError> {
        let info = BlobInfo {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        self.protect_published(&info.digest)?;
        if self.freshen_blob(&info)? {
            return Ok(info);
        }
        let mut writer = self.blob_writer()?;
        writer
            .write_all(bytes)
            .map_err(StoreError::io("write the blob", &writer.path))?;
        writer.commit(Some(&info.digest))
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.layout().blob(digest);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::MissingBlob { digest: *digest },
            _ => StoreError::io("open the blob", &path)(error),
        })
    }

    /// Reads a blob of at most `limit` bytes.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let file = self.open_blob(digest)?;
        let path = self.layout().blob(digest);
        let size = file
            .metadata()
            .map_err(StoreError::io("look at", &path))?
            .len();
        if size > limit {
            return Err(StoreError::Limit {
                what: format!("blob {digest}"),
                limit: "blob size",
                seen: size,
                allowed: limit,
            });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(StoreError::io("read", &path))?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(StoreError::Corrupt {
                what: "blob",
                expected: *digest,
                actual,
            });
        }
        Ok(bytes)
    }

    /// Tells whether a blob is there.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.look_at_blob(digest).is_ok_and(|found| found.is_file())
    }

    /// Returns the size of a blob in bytes, none if it is not there.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        match self.look_at_blob(digest) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("look at", &self.layout().blob(digest))(
                error,
            )),
        }
    }

    /// Looks at a blob; one that nobody has flushed yet is flushed with what is ours.
    fn look_at_blob(&self, digest: &Digest) -> io::Result<Metadata> {
        let found = std::fs::symlink_metadata(self.layout().blob(digest))?;
        if !flush::is_marked(&found) {
            self.pending_blob(*digest);
        }
        Ok(found)
    }

    /// If the blob is there, notes that it was needed now; false if it is not there.
    ///
    /// A blob of another size than its digest promises was damaged; it counts as missing and is
    /// replaced.
    fn freshen_blob(&self, info: &BlobInfo) -> Result<bool, StoreError> {
        if self.blob_size(&info.digest)? != Some(info.size) {
            return Ok(false);
        }
        let path = self.layout().blob(&info.digest);
        // Only the owner may set times; whoever else may still use the blob.
        if let Ok(file) = OpenOptions::new().read(true).open(&path) {
            let _ = file.set_modified(std::time::SystemTime::now());
        }
        Ok(true)
    }

    /// Renames a finished file into `blobs/`.
    fn publish_blob(&self, temporary: &std::path::Path, digest: &Digest) -> Result<(), StoreError> {
        let path = self.layout().blob(digest);
        let mut result = std::fs::rename(temporary, &path);
        if result
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            && let Some(parent) = path.parent()
        {
            match std::fs::create_dir(parent) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StoreError::io("create the directory", parent)(error)),
            }
            result = std::fs::rename(temporary, &path);
        }
        result.map_err(StoreError::io("publish the blob", &path))?;
        self.pending_blob(*digest);
        Ok(())
    }
}
