//! What is kept of past builds: one directory each, with whatever the builder writes into it (the
//! report, the logs of its steps), and what a failed step left of its root file system.
//!
//! ```text
//! builds/<microseconds in hex>-<random>/    files of the builder; locked while the build runs or it is
//!                                           looked into
//! builds/<the same>.failed/                 upper directory of the step that failed
//! ```
//!
//! Nothing here is needed to build: it is written without flushing, and what a killed build left
//! goes with the next one.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::draft::Draft;
use crate::error::StoreError;
use crate::recover::list;
use crate::remove::remove_tree;
use crate::store::Store;

/// What the name of the upper directory of a failed step ends with, behind the build's name.
const FAILED: &str = "failed";

/// The directory of one build; nobody removes it as long as this lives.
#[derive(Debug)]
pub struct BuildDirectory {
    name: String,
    path: PathBuf,
    /// Open and locked.
    _lock: File,
}

impl BuildDirectory {
    /// Returns the build's name, unique in its store; later builds have greater ones.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where the upper directory of the failed step is, if it was kept.
    pub fn failed_upper(&self) -> Option<PathBuf> {
        let path = self.path.with_extension(FAILED);
        path.is_dir().then_some(path)
    }
}

impl Draft {
    /// Keeps what a failed step wrote, beside the directory of its build; only the first one's.
    pub fn keep(self, build: &BuildDirectory) -> Result<(), StoreError> {
        let place = build.path.with_extension(FAILED);
        if place.exists() {
            return Ok(());
        }
        std::fs::rename(self.upper(), &place).map_err(StoreError::io("keep the files of", &place))
    }
}

impl Store {
    /// Makes a directory for a build that begins.
    pub fn new_build(&self) -> Result<BuildDirectory, StoreError> {
        let parent = self.layout().builds();
        loop {
            let mut bytes = [0_u8; 2];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
                .map_err(StoreError::io("make a random name in", &parent))?;
            let [a, b] = bytes;
            let name = format!("{:013x}-{a:02x}{b:02x}", now_micros());
            let path = parent.join(&name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(StoreError::io("create the directory", &path)(error)),
            }
            // Somebody who empties the store may have been faster.
            if let Some(lock) = lock(&path)?
                && path.is_dir()
            {
                return Ok(BuildDirectory {
                    name,
                    path,
                    _lock: lock,
                });
            }
        }
    }

    /// Returns the names of all builds that are kept, oldest first.
    pub fn builds(&self) -> Result<Vec<String>, StoreError> {
        let mut names: Vec<String> = list(&self.layout().builds())?
            .iter()
            .filter_map(|path| path.file_name()?.to_str())
            .filter(|name| is_build_name(name))
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }

    /// Tells whether what a failed step of a build left is kept.
    pub fn keeps_failed_step(&self, name: &str) -> bool {
        self.build_path(name)
            .is_some_and(|path| path.with_extension(FAILED).is_dir())
    }

    /// Returns the directory of a build, to read from; none if it is not kept.
    ///
    /// The name may come from outside.
    pub fn build_path(&self, name: &str) -> Option<PathBuf> {
        let path = self.layout().builds().join(name);
        (is_build_name(name) && path.is_dir()).then_some(path)
    }

    /// Takes the directory of a build, so that it stays; none if it is not kept.
    ///
    /// Waits while the build runs or somebody else has it.
    pub fn open_build(&self, name: &str) -> Result<Option<BuildDirectory>, StoreError> {
        let Some(path) = self.build_path(name) else {
            return Ok(None);
        };
        let lock = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        };
        lock.lock().map_err(StoreError::io("lock", &path))?;
        Ok(path.is_dir().then(|| BuildDirectory {
            name: name.to_owned(),
            path,
            _lock: lock,
        }))
    }

    /// Removes what failed steps of other builds left, and all builds but the last `keep`.
    ///
    /// Those that run or are looked into stay as they are.
    pub fn forget_builds(&self, keep: usize) -> Result<(), StoreError> {
        let names = self.builds()?;
        let old = names.len().saturating_sub(keep);
        for path in list(&self.layout().builds())? {
            let failed = path
                .extension()
                .is_some_and(|extension| extension == FAILED);
            let name = path.file_stem().and_then(|name| name.to_str());
            let is_old = names[..old].iter().any(|old| Some(old.as_str()) == name);
            if !failed && !is_old {
                continue;
            }
            let build = path.with_extension("");
            if let Some(_lock) = lock(&build)? {
                remove_tree(&path)?;
            } else if failed && !build.exists() {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

/// Takes the lock of a directory if it is there and free.
fn lock(path: &Path) -> Result<Option<File>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", path)(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
    }
}

/// Microseconds since 1970.
fn now_micros() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros())
}

fn is_build_name(name: &str) -> bool {
    (10..40).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}
