//! Remembered digests of file contents, so that an unchanged file is not read again.
//!
//! One flat file per tree, read and written whole: a header line, then fixed-size records of
//! device, inode, size, mtime, ctime (seconds and nanoseconds) and the SHA-256 of the content. An
//! entry is believed only when all of them are the same. A file that changed within a moment of
//! being read is not remembered: its times could stay the same over a second change.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

const HEADER: &[u8; 16] = b"rbuild memo v1\n\n";
const RECORD: usize = 8 * 7 + 32;
/// Longer than the clock tick of any file system timestamp (10 ms at HZ=100).
const TICK_NANOSECONDS: i128 = 20_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

/// Digests by file identity.
#[derive(Debug)]
pub(crate) struct FileMemo {
    path: PathBuf,
    state: Mutex<State>,
}

/// Stamp and digest by device and inode number.
type Known = HashMap<(u64, u64), (Stamp, [u8; 32])>;

#[derive(Debug, Default)]
struct State {
    known: Known,
    changed: bool,
}

impl FileMemo {
    /// Reads the memo at `path`; a missing or damaged file is an empty memo.
    pub(crate) fn load(path: &Path) -> FileMemo {
        let known = fs::read(path)
            .ok()
            .and_then(|bytes| decode(&bytes))
            .unwrap_or_default();
        FileMemo {
            path: path.to_path_buf(),
            state: Mutex::new(State {
                known,
                changed: false,
            }),
        }
    }

    /// SHA-256 of an open regular file.
    pub(crate) fn digest(&self, file: &mut File) -> io::Result<[u8; 32]> {
        let metadata = file.metadata()?;
        let identity = (metadata.dev(), metadata.ino());
        let stamp = Stamp {
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let known = self.lock().known.get(&identity).copied();
        if let Some((known, digest)) = known
            && known == stamp
        {
            return Ok(digest);
        }
        let before = now();
        let digest = hash(file)?;
        let changed_at = i128::from(stamp.ctime.0) * 1_000_000_000 + i128::from(stamp.ctime.1);
        if changed_at + TICK_NANOSECONDS < before {
            let mut state = self.lock();
            state.known.insert(identity, (stamp, digest));
            state.changed = true;
        }
        Ok(digest)
    }

    /// Writes the memo if it learned something; a failure only costs time in the next build.
    pub(crate) fn save(&self) -> io::Result<()> {
        let path = &self.path;
        let state = self.lock();
        if !state.changed {
            return Ok(());
        }
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = File::create(&temporary)?;
        file.write_all(&encode(&state.known))?;
        drop(file);
        fs::rename(&temporary, path)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic while holding the lock leaves a map that is still true.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn now() -> i128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_nanos() as i128)
}

fn hash(file: &mut File) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finalize().into());
        }
        hasher.update(&buffer[..count]);
    }
}

fn encode(known: &Known) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER.len() + known.len() * RECORD);
    bytes.extend_from_slice(HEADER);
    for (identity, (stamp, digest)) in known {
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
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Known> {
    let records = bytes.strip_prefix(HEADER)?;
    if records.len() % RECORD != 0 {
        return None;
    }
    let mut known = HashMap::with_capacity(records.len() / RECORD);
    for record in records.chunks_exact(RECORD) {
        let number = |index: usize| {
            let bytes = record[index * 8..index * 8 + 8]
                .try_into()
                .unwrap_or_default();
            u64::from_le_bytes(bytes)
        };
        let signed = |index: usize| number(index) as i64;
        let stamp = Stamp {
            size: number(2),
            mtime: (signed(3), signed(4)),
            ctime: (signed(5), signed(6)),
        };
        let digest: [u8; 32] = record[56..].try_into().ok()?;
        known.insert((number(0), number(1)), (stamp, digest));
    }
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memo_survives_and_a_changed_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "one").unwrap();
        let old = fs::FileTimes::new().set_modified(UNIX_EPOCH);
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_times(old)
            .unwrap();
        let memo = FileMemo::load(&directory.path().join("memo"));
        let first = memo.digest(&mut File::open(&file).unwrap()).unwrap();
        assert_eq!(first, <[u8; 32]>::from(Sha256::digest("one")));
        memo.save().unwrap();
        fs::write(&file, "two").unwrap();
        let memo = FileMemo::load(&directory.path().join("memo"));
        let second = memo.digest(&mut File::open(&file).unwrap()).unwrap();
        assert_eq!(second, <[u8; 32]>::from(Sha256::digest("two")));
    }

    #[test]
    fn a_damaged_memo_is_empty() {
        assert!(decode(b"rbuild memo v1\n\nshort").is_none());
        assert!(decode(b"").is_none());
    }
}
