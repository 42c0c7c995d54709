//! Volumes: directories with a name that outlive the containers which use them.
//!
//! ```text
//! volumes/<name>/
//!     volume.json   labels, options, time of making; there before the directory has its name
//!     lock          shared while a container is made with it or runs unlisted; exclusive to remove
//!     filling       there while an image's files are copied into it
//!     _data/        the files
//! ```
//!
//! A volume is made in a scratch directory and renamed into place, and renamed away before it is
//! deleted: it is there whole or not at all. Whether a container that is listed uses it is in that
//! container's config, which only the caller reads: between [`Store::removing_volume`] and
//! [`VolumeRemoval::finish`] nobody can begin to use it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::lock::{Hold, StoreLock};
use crate::plain::copy_tree;
use crate::remove::remove_tree;
use crate::store::Store;
use crate::view::{Follow, RootView};

/// What is known of a volume besides its files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its name; see [`is_volume_name`].
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Options of the driver, such as `type`, `device` and `o`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// A volume.
#[derive(Debug, Clone)]
pub struct Volume {
    /// What is known of it.
    pub record: VolumeRecord,
    directory: PathBuf,
}

/// Keeps a volume from being removed while it is held.
#[derive(Debug)]
#[must_use = "others may remove the volume as soon as this is dropped"]
pub struct VolumeUse {
    _lock: StoreLock,
}

/// The right to remove a volume: nobody is about to use it.
#[must_use = "the volume stays unless the removal is finished"]
pub struct VolumeRemoval {
    store: Store,
    volume: Volume,
    _lock: StoreLock,
}

/// What [`Store::removing_volume`] found.
pub enum Removable {
    /// There is no such volume.
    Missing,
    /// Somebody is using it right now.
    Busy,
    /// It can be removed if no container that is listed uses it.
    Free(VolumeRemoval),
}

/// Says whether a text can be the name of a volume: two letters, digits, `_`, `.` or `-` at least, the
/// first of them a letter or digit.
pub fn is_volume_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    (2..=255).contains(&name.len())
        && bytes
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

impl Volume {
    /// The directory with its files.
    pub fn data(&self) -> PathBuf {
        self.directory.join("_data")
    }

    fn lock(&self) -> PathBuf {
        self.directory.join("lock")
    }

    fn filling(&self) -> PathBuf {
        self.directory.join("filling")
    }

    /// Bytes that its files take; see [`tree_size`].
    pub fn size(&self) -> u64 {
        tree_size(&self.data())
    }
}

/// Bytes of the files below a directory, each inode counted once.
///
/// What vanishes meanwhile, or cannot be looked at, is not counted.
pub fn tree_size(directory: &Path) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let mut todo = vec![directory.to_path_buf()];
    let mut bytes = 0;
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                todo.push(entry.path());
            } else if metadata.is_file() && seen.insert((metadata.dev(), metadata.ino())) {
                bytes += metadata.len();
            }
        }
    }
    bytes
}

impl Store {
    fn volumes_directory(&self) -> PathBuf {
        self.layout().volumes()
    }

    /// All volumes by name, and what is wrong with those that cannot be read.
    pub fn volumes(&self) -> Result<(Vec<Volume>, Vec<StoreError>), StoreError> {
        let directory = self.volumes_directory();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(error) => return Err(StoreError::io("list", &directory)(error)),
        };
        let (mut found, mut wrong) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(StoreError::io("list", &directory))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match self.volume(&name) {
                Ok(volume) => found.extend(volume),
                Err(error) => wrong.push(error),
            }
        }
        found.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok((found, wrong))
    }

    /// The volume with this name.
    pub fn volume(&self, name: &str) -> Result<Option<Volume>, StoreError> {
        if !is_volume_name(name) {
            return Ok(None);
        }
        let directory = self.volumes_directory().join(name);
        let path = directory.join("volume.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let record: VolumeRecord =
            serde_json::from_slice(&bytes).map_err(|error| StoreError::Document {
                what: format!("`{}`", path.display()),
                reason: error.to_string(),
            })?;
        Ok(Some(Volume { record, directory }))
    }

    /// Makes a volume; one that is there already is returned as it is. Says whether it was made.
    ///
    /// # Errors
    ///
    /// A name that none can have, or the directory could not be made.
    pub fn create_volume(&self, record: &VolumeRecord) -> Result<(Volume, bool), StoreError> {
        if !is_volume_name(&record.name) {
            return Err(StoreError::Document {
                what: format!("the volume name {:?}", record.name),
                reason: "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, and two of them at least"
                    .to_owned(),
            });
        }
        if let Some(known) = self.volume(&record.name)? {
            return Ok((known, false));
        }
        self.check_owners()?;
        let volumes = self.volumes_directory();
        fs::create_dir_all(&volumes).map_err(StoreError::io("make the directory", &volumes))?;
        let scratch = self.scratch()?;
        let new = scratch.path().join("volume");
        let data = new.join("_data");
        for (path, mode) in [(&new, 0o700), (&data, 0o755)] {
            fs::DirBuilder::new()
                .mode(mode)
                .create(path)
                .map_err(StoreError::io("make the directory", path))?;
        }
        // The process's umask is not the volume's.
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755))
            .map_err(StoreError::io("set the mode of", &data))?;
        let path = new.join("volume.json");
        let written = serde_json::to_vec(record)
            .map_err(io::Error::from)
            .and_then(|bytes| {
                let mut file = File::create(&path)?;
                file.write_all(&bytes)?;
                file.sync_all()
            });
        written.map_err(StoreError::io("write", &path))?;
        let path = new.join("lock");
        File::create(&path).map_err(StoreError::io("write", &path))?;
        let directory = volumes.join(&record.name);
        let renamed = renameat_with(CWD, &new, CWD, &directory, RenameFlags::NOREPLACE);
        let made = match renamed {
            Ok(()) => true,
            Err(Errno::EXIST | Errno::NOTEMPTY) => false,
            Err(error) => return Err(StoreError::io("make the volume", &directory)(error)),
        };
        scratch.close()?;
        match self.volume(&record.name)? {
            Some(volume) => Ok((volume, made)),
            // Removed by somebody at once: make it again.
            None => self.create_volume(record),
        }
    }

    /// Makes a volume if it is not there, and keeps it from being removed.
    pub fn use_volume(&self, record: &VolumeRecord) -> Result<(Volume, VolumeUse), StoreError> {
        loop {
            let (volume, _) = self.create_volume(record)?;
            match StoreLock::wait(&volume.lock(), Hold::Shared) {
                Ok(lock) if lock.is_at(&volume.lock()) => {
                    return Ok((volume, VolumeUse { _lock: lock }));
                }
                // Removed between look and lock.
                Ok(_) => {}
                Err(_) if !volume.directory.exists() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins the removal of a volume.
    pub fn removing_volume(&self, name: &str) -> Result<Removable, StoreError> {
        loop {
            let Some(volume) = self.volume(name)? else {
                return Ok(Removable::Missing);
            };
            match StoreLock::try_now(&volume.lock(), Hold::Exclusive) {
                Ok(None) => return Ok(Removable::Busy),
                Ok(Some(lock)) if lock.is_at(&volume.lock()) => {
                    return Ok(Removable::Free(VolumeRemoval {
                        store: self.clone(),
                        volume,
                        _lock: lock,
                    }));
                }
                Ok(Some(_)) => {}
                Err(_) if !volume.directory.exists() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Copies what an image has at `from` into a volume that is empty; says whether it did.
    ///
    /// Owners, modes, times and attributes come along, those of the directory itself, too. A copy that
    /// was interrupted is done again.
    pub fn fill_volume(
        &self,
        volume: &Volume,
        view: &RootView,
        from: &Path,
    ) -> Result<bool, StoreError> {
        let found = view.lookup(from, Follow::Last)?;
        if !found.is_some_and(|entry| entry.is_directory()) {
            return Ok(false);
        }
        let _one_at_a_time = self.lock(&format!("volume {}", volume.record.name))?;
        let (data, mark) = (volume.data(), volume.filling());
        let interrupted = mark.exists();
        for entry in fs::read_dir(&data).map_err(StoreError::io("list", &data))? {
            let entry = entry.map_err(StoreError::io("list", &data))?;
            if !interrupted {
                return Ok(false);
            }
            remove_tree(&entry.path())?;
        }
        File::create(&mark).map_err(StoreError::io("write", &mark))?;
        copy_tree(view, from, &data)?;
        fs::remove_file(&mark).map_err(StoreError::io("remove", &mark))?;
        Ok(true)
    }
}

impl VolumeRemoval {
    /// The volume.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Removes the volume with all that is in it.
    pub fn finish(self) -> Result<(), StoreError> {
        let scratch = self.store.scratch()?;
        let directory = &self.volume.directory;
        fs::rename(directory, scratch.path().join("volume"))
            .map_err(StoreError::io("remove", directory))?;
        scratch.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("s"), &StoreOptions::default()).unwrap();
        (directory, store)
    }

    fn record(name: &str) -> VolumeRecord {
        VolumeRecord {
            name: name.to_owned(),
            ..VolumeRecord::default()
        }
    }

    #[test]
    fn names_are_plain() {
        for name in ["ab", "a_b.c-9", "0x"] {
            assert!(is_volume_name(name), "{name}");
        }
        for name in ["", "a", ".a", "-a", "a/b", "..", "a b", "ä"] {
            assert!(!is_volume_name(name), "{name}");
        }
    }

    #[test]
    fn one_in_use_is_not_removed() {
        let (_directory, store) = store();
        let (volume, made) = store.create_volume(&record("one")).unwrap();
        assert!(made && !store.create_volume(&record("one")).unwrap().1);
        fs::write(volume.data().join("f"), "text").unwrap();
        assert_eq!(volume.size(), 4);
        let (_, used) = store.use_volume(&record("one")).unwrap();
        assert!(matches!(
            store.removing_volume("one").unwrap(),
            Removable::Busy
        ));
        drop(used);
        let Removable::Free(removal) = store.removing_volume("one").unwrap() else {
            panic!("it is not free");
        };
        removal.finish().unwrap();
        assert!(matches!(
            store.removing_volume("one").unwrap(),
            Removable::Missing
        ));
        assert!(store.volumes().unwrap().0.is_empty());
    }

    #[test]
    fn an_empty_volume_is_filled_once_and_an_interrupted_copy_again() {
        let (directory, store) = store();
        let image = directory.path().join("image");
        fs::create_dir_all(image.join("d/e")).unwrap();
        fs::write(image.join("d/e/f"), "1").unwrap();
        fs::set_permissions(image.join("d"), fs::Permissions::from_mode(0o1770)).unwrap();
        let view = RootView::of_directory(&image);
        let (volume, _) = store.create_volume(&record("one")).unwrap();
        let fill = |from: &str| store.fill_volume(&volume, &view, Path::new(from)).unwrap();
        assert!(!fill("/missing"));
        assert!(!fill("/d/e/f"));
        assert!(fill("/d"));
        let read = || fs::read_to_string(volume.data().join("e/f")).unwrap();
        assert_eq!(read(), "1");
        let mode = fs::metadata(volume.data()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1770);
        fs::write(volume.data().join("e/f"), "2").unwrap();
        assert!(!fill("/d"));
        assert_eq!(read(), "2");
        File::create(volume.filling()).unwrap();
        assert!(fill("/d"));
        assert_eq!(read(), "1");
    }
}
