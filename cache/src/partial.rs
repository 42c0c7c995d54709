//! Downloads that broke off: `partial/<digest>` holds the beginning of a blob, for the next download of
//! it to go on from, in this process or another.
//!
//! Whoever writes one holds a `flock` on it. What is in it counts for nothing before the whole blob has
//! its digest; the bytes that are there are hashed again when a download goes on. Pruning removes what
//! nobody has gone on with for a day, and all of them when it is to make room.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::blob::BlobWriter;
use crate::digest::{Digest, DigestWriter, Hasher};
use crate::error::StoreError;
use crate::holes::HoleWriter;
use crate::layout::Layout;
use crate::recover::list;
use crate::store::{Store, now_unix};

/// A blob below this size is soon downloaded again.
const SMALLEST: u64 = 1 << 20;

/// What nobody has gone on with for longer goes with the next pruning.
const UNUSED: Duration = Duration::from_hours(24);

/// Bytes that are hashed again at once.
const BUFFER: usize = 128 << 10;

impl Store {
    /// Starts a blob of this digest and size, or goes on with one that broke off; `known` hears the
    /// bytes that are there already.
    ///
    /// What is written stays when the writer is dropped, unless it could not be written or was wrong.
    ///
    /// # Errors
    ///
    /// A file cannot be made or read.
    pub fn resume_blob(
        &self,
        digest: &Digest,
        size: u64,
        known: &mut dyn FnMut(&[u8]),
    ) -> Result<BlobWriter, StoreError> {
        if size < SMALLEST {
            return self.blob_writer();
        }
        let path = self.layout().partial(digest);
        let Some(mut file) = own(&path, true)? else {
            // Somebody else is just downloading it.
            return self.blob_writer();
        };
        let reading = || StoreError::io("read the unfinished download", &path);
        let mut hash = Hashed::default();
        let length = file.metadata().map_err(reading())?.len();
        if length > size {
            file.set_len(0).map_err(reading())?;
        }
        read_again(&mut file, &mut hash, known).map_err(reading())?;
        let Hashed { hasher, bytes } = hash;
        let out = DigestWriter::after(HoleWriter::at(file, bytes), hasher, bytes);
        Ok(BlobWriter::resuming(self, out, path))
    }
}

/// What was there already.
#[derive(Default)]
struct Hashed {
    hasher: Hasher,
    bytes: u64,
}

/// Hashes what is in a file from its beginning.
fn read_again(
    file: &mut File,
    hashed: &mut Hashed,
    known: &mut dyn FnMut(&[u8]),
) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        hashed.hasher.update(&buffer[..count]);
        hashed.bytes += count as u64;
        known(&buffer[..count]);
    }
}

/// Opens and locks a file, if nobody else has it; without `make` only one that is there.
fn own(path: &Path, make: bool) -> Result<Option<File>, StoreError> {
    let opened = OpenOptions::new()
        .create(make)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !make => return Ok(None),
        Err(error) => return Err(StoreError::io("open the unfinished download", path)(error)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => {
            return Err(StoreError::io("lock the unfinished download", path)(error));
        }
    }
    // Between opening and locking it may have become a blob, or have been removed.
    let here = path.symlink_metadata().map(|found| found.ino()).ok();
    let ours = file.metadata().map(|found| found.ino()).ok();
    Ok((here.is_some() && here == ours).then_some(file))
}

/// The unfinished downloads of a store, with their sizes on disk and their ages.
fn all(layout: &Layout) -> Result<Vec<(PathBuf, u64, Duration)>, StoreError> {
    let mut found = Vec::new();
    for path in list(&layout.partials())? {
        let Ok(looked) = path.symlink_metadata() else {
            continue;
        };
        let age = now_unix().saturating_sub(looked.mtime());
        let age = Duration::from_secs(u64::try_from(age).unwrap_or(0));
        found.push((path, looked.blocks() * 512, age));
    }
    Ok(found)
}

/// Removes those that nobody has gone on with for a day, or all that nobody writes; returns the bytes
/// that became free, and those that are left.
pub(crate) fn prune(
    layout: &Layout,
    everything: bool,
    dry_run: bool,
) -> Result<(u64, u64), StoreError> {
    let (mut freed, mut left) = (0, 0);
    for (path, size, age) in all(layout)? {
        let goes = everything || age > UNUSED;
        // Held until it is gone, so that nobody goes on with it.
        let owned = if goes { own(&path, false)? } else { None };
        if owned.is_none() {
            left += size;
            continue;
        }
        if !dry_run {
            std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        freed += size;
    }
    Ok((freed, left))
}
