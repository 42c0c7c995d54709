//! What the store holds, and who needs it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{UsageKind, references};
use crate::digest::{DiffId, Digest};
use crate::entry::Timestamp;
use crate::error::StoreError;
use crate::holes::SHORTEST_HOLE;
use crate::lease;
use crate::records::{BuildRecord, ImageRecord};
use crate::recover::{list, list_blobs, list_trees};
use crate::store::{Store, now_unix};
use crate::tree::Seal;

/// Something on disk that can be removed by itself.
pub(super) struct Item {
    pub(super) kind: UsageKind,
    pub(super) digest: Digest,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) last_used: Timestamp,
    pub(super) sharing: Sharing,
    /// The layer that its tree lies over.
    pub(super) over: Option<Digest>,
}

/// Whether files of an item can be those of another, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// It has none of others.
    No,
    /// It was made here, so that others may have been made of it.
    Perhaps,
    /// It has some of others.
    Yes,
}

/// What the store holds and who needs it.
pub(super) struct Survey {
    pub(super) items: Vec<Item>,
    /// Digests that images, pins and leases need.
    pub(super) needed: BTreeMap<Digest, String>,
    /// Digests that build records need, with the record that was used last.
    pub(super) cached: BTreeMap<Digest, String>,
    pub(super) records: Vec<BuildRecord>,
}

impl Store {
    /// Looks at everything; `without`: images that are treated as removed.
    pub(super) fn survey(&self, without: &[ImageRecord]) -> Result<Survey, StoreError> {
        let mut survey = Survey {
            items: self.items()?,
            needed: BTreeMap::new(),
            cached: BTreeMap::new(),
            records: self.meta().all_records()?,
        };
        let mut layer_blobs: BTreeMap<DiffId, Vec<Digest>> = BTreeMap::new();
        for (layer, blob) in self.meta().all_layer_blobs()? {
            layer_blobs.entry(layer).or_default().push(blob);
        }
        for entry in self.images()? {
            if without
                .iter()
                .any(|image| image.manifest == entry.record.manifest)
            {
                continue;
            }
            let what = entry
                .names
                .first()
                .cloned()
                .unwrap_or_else(|| "<none>".to_owned());
            for digest in references(self, &entry.record)? {
                survey.needed.entry(digest).or_insert_with(|| what.clone());
            }
        }
        for digest in self.meta().pinned()? {
            survey
                .needed
                .entry(digest)
                .or_insert_with(|| "a container".to_owned());
        }
        for digest in lease::protected(self.layout())? {
            survey
                .needed
                .entry(digest)
                .or_insert_with(|| "a running process".to_owned());
        }
        for record in &survey.records {
            for layer in &record.layers {
                survey
                    .cached
                    .entry(*layer.digest())
                    .or_insert_with(|| record.name.clone());
            }
        }
        // The blobs of a layer are needed as long as the layer is. Those of layers from outside
        // could not be made again.
        for users in [&mut survey.needed, &mut survey.cached] {
            for (layer, blobs) in &layer_blobs {
                if let Some(what) = users.get(layer.digest()).cloned() {
                    for blob in blobs {
                        users.entry(*blob).or_insert_with(|| what.clone());
                    }
                }
            }
        }
        survey.lower_trees();
        survey.share_out();
        Ok(survey)
    }

    /// Everything on disk that can be removed by itself.
    fn items(&self) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        for (digest, path) in list_blobs(self.layout())? {
            let Ok(found) = path.symlink_metadata() else {
                continue;
            };
            let (size, last_used) = (on_disk(&found), changed_at(&found));
            items.push(Item {
                kind: UsageKind::Blob,
                digest,
                path,
                size,
                last_used,
                sharing: Sharing::No,
                over: None,
            });
        }
        for diff_id in list_trees(self.layout())? {
            let seal = Seal::read(self.layout(), &diff_id)?;
            let path = self.layout().tree(&diff_id);
            let dated = if seal.is_some() {
                self.layout().seal(&diff_id)
            } else {
                path.clone()
            };
            let found = dated.symlink_metadata();
            let last_used = found.map_or_else(|_| Timestamp::default(), |found| changed_at(&found));
            let sharing = match &seal {
                Some(seal) if seal.shares => Sharing::Yes,
                Some(seal) if seal.canonical => Sharing::Perhaps,
                _ => Sharing::No,
            };
            let over = seal.as_ref().and_then(|seal| seal.over);
            let over = over.map(|over| *over.layer.digest());
            let size = seal.map_or(0, |seal| seal.own_content());
            let digest = *diff_id.digest();
            items.push(Item {
                kind: UsageKind::Layer,
                digest,
                path,
                size,
                last_used,
                sharing,
                over,
            });
        }
        for path in list(&self.layout().mounts())? {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let Ok(digest) = Digest::from_hex(name) else {
                continue;
            };
            let (size, last_used) = content_of(&path)?;
            items.push(Item {
                kind: UsageKind::CacheMount,
                digest,
                path,
                size,
                last_used,
                sharing: Sharing::No,
                over: None,
            });
        }
        Ok(items)
    }
}

/// Bytes of a blob; of one with holes, what it takes on disk.
fn on_disk(found: &std::fs::Metadata) -> u64 {
    let allocated = found.blocks() * 512;
    // Some file systems keep small files elsewhere.
    if allocated == 0 || found.len() - allocated.min(found.len()) < SHORTEST_HOLE as u64 {
        found.len()
    } else {
        allocated
    }
}

/// Bytes of the files in a directory, and the latest time in it.
fn content_of(path: &Path) -> Result<(u64, Timestamp), StoreError> {
    let mut size = 0;
    let found = path.symlink_metadata();
    let mut latest = found.map_or_else(|_| Timestamp::default(), |found| changed_at(&found));
    let mut directories = vec![path.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            // A running step may be changing it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StoreError::io("list the directory", &directory)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(StoreError::io("list the directory", &directory))?;
            let Ok(found) = entry.path().symlink_metadata() else {
                continue;
            };
            latest = latest.max(changed_at(&found));
            if found.is_dir() {
                directories.push(entry.path());
            } else {
                size += found.blocks() * 512;
            }
        }
    }
    // A time in the future must not keep it for ever.
    let now = Timestamp {
        seconds: now_unix(),
        nanoseconds: 0,
    };
    Ok((size, latest.min(now)))
}

/// The time of a file's last change, which is its last use here.
fn changed_at(found: &std::fs::Metadata) -> Timestamp {
    Timestamp {
        seconds: found.mtime(),
        nanoseconds: u32::try_from(found.mtime_nsec()).unwrap_or(0),
    }
}
