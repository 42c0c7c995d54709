//! What the store holds, and who needs it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{UsageKind, references};
use crate::digest::{DiffId, Digest};
use crate::entry::Timestamp;
use crate::error::StoreError;
use crate::holes::SHORTEST_HOLE;
use crate::layout::Layout;
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

impl Item {
    /// A blob; none if it is not there.
    pub(super) fn of_blob(digest: Digest, path: PathBuf) -> Option<Item> {
        let found = path.symlink_metadata().ok()?;
        Some(Item {
            kind: UsageKind::Blob,
            digest,
            path,
            size: on_disk(&found),
            last_used: changed_at(&found),
            sharing: Sharing::No,
            over: None,
        })
    }

    /// An unpacked layer.
    pub(super) fn of_layer(layout: &Layout, diff_id: DiffId) -> Result<Item, StoreError> {
        let seal = Seal::read(layout, &diff_id)?;
        let path = layout.tree(&diff_id);
        let dated = if seal.is_some() {
            layout.seal(&diff_id)
        } else {
            path.clone()
        };
        let found = dated.symlink_metadata();
        Ok(Item {
            kind: UsageKind::Layer,
            digest: *diff_id.digest(),
            path,
            size: seal.as_ref().map_or(0, Seal::own_content),
            last_used: found.map_or_else(|_| Timestamp::default(), |found| changed_at(&found)),
            sharing: match &seal {
                Some(seal) if seal.shares => Sharing::Yes,
                Some(seal) if seal.canonical => Sharing::Perhaps,
                _ => Sharing::No,
            },
            over: seal
                .and_then(|seal| seal.over)
                .map(|over| *over.layer.digest()),
        })
    }
}

impl Store {
    /// Looks at everything; `without`: images that are treated as removed.
    pub(super) fn survey(&self, without: &[ImageRecord]) -> Result<Survey, StoreError> {
        let mut survey = self.users(without)?;
        survey.items = self.items()?;
        survey.lower_trees();
        survey.share_out();
        Ok(survey)
    }

    /// Finds out who needs what, without looking at what there is.
    pub(super) fn users(&self, without: &[ImageRecord]) -> Result<Survey, StoreError> {
        let mut survey = Survey {
            items: Vec::new(),
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
        Ok(survey)
    }

    /// The unpacked layers.
    pub(super) fn unpacked_layers(&self) -> Result<Vec<Item>, StoreError> {
        list_trees(self.layout())?
            .into_iter()
            .map(|diff_id| Item::of_layer(self.layout(), diff_id))
            .collect()
    }

    /// Everything on disk that can be removed by itself.
    fn items(&self) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        for (digest, path) in list_blobs(self.layout())? {
            items.extend(Item::of_blob(digest, path));
        }
        items.extend(self.unpacked_layers()?);
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
