//! Remembered digests of files, so that an unchanged file is not opened again.
//!
//! One flat file per set of trees, read and written whole: a header line, then fixed-size records of
//! device, inode, size, mtime, ctime (seconds and nanoseconds) and the digest, sorted by device and
//! inode so that it can be searched as it lies. An entry is believed only when all of them are the
//! same. A file that changed within a moment of being read is not remembered: its times could stay
//! the same over a second change.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rbuild_cache::{FileKind, HoleReader, Metadata, metadata_of};
use sha2::{Digest as _, Sha256};

use super::digest::is_copied_xattr;

const HEADER: &[u8; 16] = b"rbuild memo v2\n\n";
const RECORD: usize = 8 * 7 + 32;
/// Longer than the clock tick of any file system timestamp (10 ms at HZ=100).
const TICK_NANOSECONDS: i128 = 20_000_000;

/// Entries of files that this build did not look at are kept up to this many (other targets and
/// other ignore files look at other files), so that the memo of a changing directory stays small.
const KEPT_UNUSED: usize = 50_000;

/// Device and inode number.
type Identity = (u64, u64);

/// Content and kept extended attributes of a file, as one digest.
pub(crate) type FileDigest = [u8; 32];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        let pair = |time: rbuild_cache::Timestamp| (time.seconds, i64::from(time.nanoseconds));
        Stamp {
            size: metadata.size,
            mtime: pair(metadata.mtime),
            ctime: pair(metadata.ctime),
        }
    }

    fn changed_at(&self) -> i128 {
        i128::from(self.ctime.0) * 1_000_000_000 + i128::from(self.ctime.1)
    }
}

/// Digests by file identity.
#[derive(Debug)]
pub(crate) struct FileMemo {
    /// The records as they were read.
    known: Vec<u8>,
    /// Which of them were asked for.
    used: Vec<AtomicBool>,
    learned: Mutex<HashMap<Identity, (Stamp, FileDigest)>>,
    /// Ends the reading of a file with an error when it is set.
    stop: Arc<AtomicBool>,
}

impl FileMemo {
    /// Reads the memo at `path`; a missing or damaged file is an empty memo.
    pub(crate) fn load(path: &Path) -> FileMemo {
        let mut known = fs::read(path).unwrap_or_default();
        if known.starts_with(HEADER) && (known.len() - HEADER.len()).is_multiple_of(RECORD) {
            known.drain(..HEADER.len());
        } else {
            known.clear();
        }
        let used = (0..known.len() / RECORD)
            .map(|_| AtomicBool::new(false))
            .collect();
        FileMemo {
            known,
            used,
            learned: Mutex::default(),
            stop: Arc::default(),
        }
    }

    /// Has the reading of files stop when the flag is set, however large they are.
    pub(crate) fn stopped_by(mut self, stop: Arc<AtomicBool>) -> FileMemo {
        self.stop = stop;
        self
    }

    /// Digest of a regular file with this metadata, opened only if it is not known.
    pub(crate) fn digest<E: From<io::Error>>(
        &self,
        metadata: &Metadata,
        open: impl FnOnce() -> Result<File, E>,
    ) -> Result<FileDigest, E> {
        if let Some(known) = self.look_up(metadata.inode, &Stamp::of(metadata)) {
            return Ok(known);
        }
        let mut file = open()?;
        // What was opened is what counts, should it be another file by now.
        let metadata = metadata_of(&file)?;
        let (identity, stamp) = (metadata.inode, Stamp::of(&metadata));
        let before = now();
        let digest = hash(&mut file, &metadata, &self.stop)?;
        if stamp.changed_at() + TICK_NANOSECONDS < before {
            self.learned().insert(identity, (stamp, digest));
        }
        Ok(digest)
    }

    fn look_up(&self, identity: Identity, stamp: &Stamp) -> Option<FileDigest> {
        if let Some(index) = self.find(identity) {
            let record = self.record(index);
            if stamp_of(record) == *stamp {
                self.used[index].store(true, Relaxed);
                return Some(digest_of(record));
            }
        }
        let learned = self.learned();
        let (known, digest) = learned.get(&identity)?;
        (known == stamp).then_some(*digest)
    }

    fn find(&self, identity: Identity) -> Option<usize> {
        let (mut low, mut high) = (0, self.used.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match identity_of(self.record(middle)).cmp(&identity) {
                Ordering::Equal => return Some(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn record(&self, index: usize) -> &[u8] {
        &self.known[index * RECORD..(index + 1) * RECORD]
    }

    /// The bytes of the memo to be kept for the next build; none if it learned nothing.
    pub(crate) fn encoded(&self) -> Option<Vec<u8>> {
        let learned = self.learned();
        if learned.is_empty() {
            return None;
        }
        let unused = self.used.iter().filter(|used| !used.load(Relaxed)).count();
        let mut records: Vec<Vec<u8>> = (0..self.used.len())
            .filter(|index| unused <= KEPT_UNUSED || self.used[*index].load(Relaxed))
            .map(|index| self.record(index))
            .filter(|record| !learned.contains_key(&identity_of(record)))
            .map(<[u8]>::to_vec)
            .collect();
        records.extend(learned.iter().map(encode));
        records.sort_unstable_by_key(|record| identity_of(record));
        records.insert(0, HEADER.to_vec());
        Some(records.concat())
    }

    fn learned(&self) -> MutexGuard<'_, HashMap<Identity, (Stamp, FileDigest)>> {
        // A panic while holding the lock leaves a map that is still true.
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock that file times are taken from. It may stand still for longer than a tick, when the
/// machine is busy, while other clocks go on.
/// Whether an open file is still what a scan saw that began at `began`: not written to since, nor so
/// shortly before that its times could hide it.
pub(crate) fn is_as_scanned(file: &File, seen: &Metadata, began: i128) -> bool {
    let stamp = Stamp::of(seen);
    stamp.changed_at() + TICK_NANOSECONDS < began
        && metadata_of(file).is_ok_and(|now| now.inode == seen.inode && Stamp::of(&now) == stamp)
}

/// The time in nanoseconds since 1970, by the clock of file systems.
pub(super) fn now() -> i128 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// Files of more bytes are asked where their holes are.
const LARGE: u64 = 1 << 20;

/// Digest of the content, and of the extended attributes where there are any that are kept.
fn hash(file: &mut File, metadata: &Metadata, stop: &AtomicBool) -> io::Result<FileDigest> {
    let mut hasher = Sha256::new();
    if metadata.kind == FileKind::File {
        let mut buffer = vec![0; 128 * 1024];
        let mut content: Box<dyn Read> = if metadata.size > LARGE {
            Box::new(HoleReader::new(file.try_clone()?))
        } else {
            Box::new(&mut *file)
        };
        loop {
            if stop.load(Relaxed) {
                return Err(io::Error::other("cancelled"));
            }
            let count = content.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
        }
    }
    let content: FileDigest = hasher.finalize().into();
    let attributes = copied_xattrs(&*file)?;
    if attributes.is_empty() {
        return Ok(content);
    }
    let mut hasher = Sha256::new();
    hasher.update(b"content and attributes");
    hasher.update(content);
    for (name, value) in attributes {
        for field in [&name, &value] {
            hasher.update((field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
    }
    Ok(hasher.finalize().into())
}

/// Extended attributes of an open file or directory that a copy keeps, sorted by name.
pub(crate) fn copied_xattrs(file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let file = file.as_fd();
    let list = xattr_bytes(|buffer| rustix::fs::flistxattr(file, buffer))?;
    let mut names: Vec<&[u8]> = list
        .split(|byte| *byte == 0)
        .filter(|name| is_copied_xattr(name))
        .collect();
    names.sort_unstable();
    let mut attributes = Vec::with_capacity(names.len());
    for name in names {
        let value = xattr_bytes(|buffer| rustix::fs::fgetxattr(file, name, buffer))?;
        attributes.push((name.to_vec(), value));
    }
    Ok(attributes)
}

/// Calls `read` with buffers until the answer fits; nothing where there are no attributes.
fn xattr_bytes(
    mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<u8>> {
    use rustix::io::Errno;
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn encode((identity, (stamp, digest)): (&Identity, &(Stamp, FileDigest))) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD);
    for number in [
        identity.0,
        identity.1,
        stamp.size,
        stamp.mtime.0 as u64,
        stamp.mtime.1 as u64,
        stamp.ctime.0 as u64,
        stamp.ctime.1 as u64,
    ] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(digest);
    bytes
}

fn number(record: &[u8], index: usize) -> u64 {
    let bytes = record[index * 8..index * 8 + 8].try_into();
    u64::from_le_bytes(bytes.unwrap_or_default())
}

fn identity_of(record: &[u8]) -> Identity {
    (number(record, 0), number(record, 1))
}

fn stamp_of(record: &[u8]) -> Stamp {
    let signed = |index| number(record, index) as i64;
    Stamp {
        size: number(record, 2),
        mtime: (signed(3), signed(4)),
        ctime: (signed(5), signed(6)),
    }
}

fn digest_of(record: &[u8]) -> FileDigest {
    record[RECORD - 32..].try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(memo: &FileMemo, path: &Path) -> FileDigest {
        let metadata = metadata_of(&File::open(path).unwrap()).unwrap();
        memo.digest(&metadata, || File::open(path)).unwrap()
    }

    /// A stamp that is old enough to be believed.
    fn learn(memo: &FileMemo, inode: u64, seconds: i64) {
        let stamp = Stamp {
            size: 1,
            mtime: (seconds, 0),
            ctime: (seconds, 0),
        };
        memo.learned().insert((1, inode), (stamp, [7; 32]));
    }

    fn save(memo: &FileMemo, path: &Path) {
        // A file that was written a moment ago is not remembered.
        if let Some(bytes) = memo.encoded() {
            fs::write(path, bytes).unwrap();
        }
    }

    #[test]
    fn a_file_is_as_scanned_unless_it_changed_or_may_have() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "one").unwrap();
        let file = File::open(&path).unwrap();
        let seen = metadata_of(&file).unwrap();
        let changed = Stamp::of(&seen).changed_at();
        assert!(is_as_scanned(&file, &seen, changed + 2 * TICK_NANOSECONDS));
        // A second change within a tick would not show.
        assert!(!is_as_scanned(&file, &seen, changed + TICK_NANOSECONDS / 2));
        fs::write(&path, "other").unwrap();
        assert!(!is_as_scanned(&file, &seen, changed + 2 * TICK_NANOSECONDS));
        let another = directory.path().join("another");
        fs::write(&another, "one").unwrap();
        let another = File::open(&another).unwrap();
        assert!(!is_as_scanned(&another, &seen, i128::MAX));
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "one").unwrap();
        let memo = FileMemo::load(&directory.path().join("memo"));
        let first = digest(&memo, &file);
        assert_eq!(first, <FileDigest>::from(Sha256::digest("one")));
        save(&memo, &directory.path().join("memo"));
        fs::write(&file, "two").unwrap();
        let memo = FileMemo::load(&directory.path().join("memo"));
        let second = digest(&memo, &file);
        assert_eq!(second, <FileDigest>::from(Sha256::digest("two")));
    }

    #[test]
    fn what_was_learned_is_found_by_the_next_build_without_opening_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memo");
        let memo = FileMemo::load(&path);
        for inode in [9, 3, 5, 1] {
            learn(&memo, inode, 100);
        }
        save(&memo, &path);
        let memo = FileMemo::load(&path);
        let mut metadata = metadata_of(&File::open(&path).unwrap()).unwrap();
        let time = |seconds| rbuild_cache::Timestamp {
            seconds,
            nanoseconds: 0,
        };
        (metadata.size, metadata.mtime, metadata.ctime) = (1, time(100), time(100));
        for inode in [1, 3, 5, 9] {
            metadata.inode = (1, inode);
            let never = || Err(io::Error::other("opened"));
            assert_eq!(memo.digest(&metadata, never).unwrap(), [7; 32]);
        }
        metadata.ctime = time(101);
        let opened = memo.digest(&metadata, || Err(io::Error::other("opened")));
        assert!(opened.is_err());
    }

    #[test]
    fn entries_of_files_that_nobody_looks_at_do_not_pile_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memo");
        let memo = FileMemo::load(&path);
        for inode in 0..=KEPT_UNUSED as u64 {
            learn(&memo, inode, 100);
        }
        save(&memo, &path);
        let memo = FileMemo::load(&path);
        learn(&memo, 1 << 40, 100);
        save(&memo, &path);
        assert_eq!(FileMemo::load(&path).used.len(), 1);
    }

    #[test]
    fn a_damaged_memo_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memo");
        for bytes in [&b"rbuild memo v2\n\nshort"[..], b"", b"something else"] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(FileMemo::load(&path).used.len(), 0);
        }
    }
}
