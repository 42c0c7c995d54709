//! Removing what nobody needs, and telling what takes space.
//!
//! What must stay is found by walking from the roots: names and images to their manifests, from
//! there to configs, layers and blobs; pins; leases of living processes. Everything else is build
//! cache (reachable from a build record) or garbage (reachable from nothing).
//!
//! Deciding and moving away happens under the exclusive lock that leases take shared, so nothing
//! gets a lease in between. A victim is first renamed below `tmp/`, which takes it away at once and
//! whole, and then deleted. While others have the store open, unleased things younger than ten
//! minutes stay: somebody may be about to refer to them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::{DiffId, Digest};
use crate::disk::{self, DiskTrouble};
use crate::entry::Timestamp;
use crate::error::StoreError;
use crate::holes::SHORTEST_HOLE;
use crate::lease;
use crate::lock::{Hold, StoreLock};
use crate::partial;
use crate::records::{BuildRecord, ImageRecord};
use crate::recover::{list, list_blobs, list_trees};
use crate::session::Scratch;
use crate::stack::keep::stacks;
use crate::store::{Store, now_unix};
use crate::tree::Seal;

mod reach;
mod shares;

pub(crate) use reach::references;

/// Fresh things that no lease protects yet are left alone for this long.
const GRACE: Duration = Duration::from_mins(10);

/// What [`Store::prune`] may remove.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneOptions {
    /// Also remove build records and cache mounts that are still useful, not only garbage, and what
    /// is fresh if no other process has the store open.
    pub all: bool,
    /// Keep build cache that was used within this time.
    pub unused_for: Option<Duration>,
    /// Remove build cache, least recently used first, only until it is at most this large, in
    /// bytes.
    pub keep_bytes: Option<u64>,
    /// Remove build cache, least recently used first, until the whole store is at most this large,
    /// in bytes.
    pub max_used_bytes: Option<u64>,
    /// Remove build cache, least recently used first, until this many bytes are free on the file
    /// system.
    pub min_free_bytes: Option<u64>,
    /// Keep this many bytes of build cache in spite of the two options before.
    pub reserved_bytes: Option<u64>,
    /// Also remove images without a name.
    pub dangling_images: bool,
    /// Only tell what would be removed.
    pub dry_run: bool,
}

/// What [`Store::prune`] removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneReport {
    /// Removed blobs.
    pub blobs: Vec<Digest>,
    /// Removed layers.
    pub layers: Vec<DiffId>,
    /// Removed images.
    pub images: Vec<ImageRecord>,
    /// Number of removed build records.
    pub records: u64,
    /// Number of removed cache mounts.
    pub cache_mounts: u64,
    /// Bytes that were set free.
    pub reclaimed: u64,
    /// Bytes that the store still takes.
    pub left: u64,
}

impl PruneReport {
    /// Adds what was removed afterwards.
    pub(crate) fn add(&mut self, later: PruneReport) {
        self.blobs.extend(later.blobs);
        self.layers.extend(later.layers);
        self.images.extend(later.images);
        self.records += later.records;
        self.cache_mounts += later.cache_mounts;
        self.reclaimed += later.reclaimed;
        self.left = later.left;
    }
}

/// How much the store holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Every item, largest first.
    pub items: Vec<UsageItem>,
}

/// What kind of thing a [`UsageItem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageKind {
    /// A blob.
    Blob,
    /// An unpacked layer.
    Layer,
    /// A cache mount.
    CacheMount,
}

/// One line of `builder du`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageItem {
    /// What it is.
    pub kind: UsageKind,
    /// Its digest in hex, or the hashed ID of a cache mount.
    pub id: String,
    /// Bytes on disk; of a layer the bytes of its files.
    pub size: u64,
    /// Last use, seconds since 1970.
    pub last_used_unix: i64,
    /// Whether no image, no pin and no living process needs it.
    pub reclaimable: bool,
    /// Whether an image and the build cache both use it.
    pub shared: bool,
    /// What it is for: the step or image that needs it; empty if nothing does.
    pub description: String,
}

/// Something on disk that can be removed by itself.
struct Item {
    kind: UsageKind,
    digest: Digest,
    path: PathBuf,
    size: u64,
    last_used: Timestamp,
    sharing: Sharing,
}

/// Whether files of an item can be those of another, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// It has none of others.
    No,
    /// It was made here, so that others may have been made of it.
    Perhaps,
    /// It has some of others.
    Yes,
}

/// What the store holds and who needs it.
struct Survey {
    items: Vec<Item>,
    /// Digests that images, pins and leases need.
    needed: BTreeMap<Digest, String>,
    /// Digests that build records need, with the record that was used last.
    cached: BTreeMap<Digest, String>,
    records: Vec<BuildRecord>,
}

impl Store {
    /// Removes what nobody needs.
    ///
    /// Without options that is garbage: what no image, build record, pin or living process reaches.
    /// Build cache goes with `all`, with `unused_for`, or as far as `keep_bytes` demands.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport, StoreError> {
        let report = match self.prune_now(options) {
            Err(error)
                if DiskTrouble::of(&error) == Some(DiskTrouble::Full)
                    && disk::give_reserve_up(self.layout()) =>
            {
                self.prune_now(options)
            }
            result => result,
        };
        disk::keep_reserve(self.layout());
        report
    }

    fn prune_now(&self, options: &PruneOptions) -> Result<PruneReport, StoreError> {
        let scratch = self.scratch()?;
        let report = self.while_alone(|alone| self.take_away(options, alone, &scratch))?;
        // What is gone from its place may take its time to be deleted, beside whatever others do.
        scratch.close()?;
        if !options.dry_run {
            self.prune_locks_and_memos(options)?;
            self.forget_builds(if options.all { 0 } else { usize::MAX })?;
            self.meta().compact()?;
        }
        Ok(report)
    }

    /// Decides what goes and moves it into `scratch`. `alone`: nobody else has the store open, or
    /// can open it before this is done.
    fn take_away(
        &self,
        options: &PruneOptions,
        alone: bool,
        scratch: &Scratch,
    ) -> Result<PruneReport, StoreError> {
        let _hold = lease::hold(self.layout(), Hold::Exclusive)?;
        let mut report = PruneReport::default();
        if options.dangling_images {
            self.prune_images(options, &mut report)?;
        }
        let survey = self.survey(&report.images)?;
        // Nobody else can be about to use something that is fresh when nobody else is there.
        let grace = if alone && options.all {
            Duration::ZERO
        } else {
            GRACE
        };
        let victims = survey.victims(options, grace, self.space()?.free);
        report.left = survey.items.iter().map(|item| item.size).sum();
        let gone: BTreeSet<Digest> = victims.items.iter().map(|item| item.digest).collect();
        if !options.dry_run {
            self.discard_stacks(options, &survey, &gone, scratch)?;
        }
        // Records first: no row may outlive what it refers to.
        report.records = victims.records.len() as u64;
        if !options.dry_run {
            self.meta().remove_records(&victims.records)?;
            let blobs: Vec<Digest> = gone.iter().copied().collect();
            self.meta().forget_layer_blobs(&blobs)?;
        }
        for (number, item) in victims.items.into_iter().enumerate() {
            let place = scratch.path().join(number.to_string());
            if !options.dry_run && !self.discard(item, &place)? {
                continue;
            }
            report.reclaimed += item.size;
            report.left -= item.size;
            match item.kind {
                UsageKind::Blob => report.blobs.push(item.digest),
                UsageKind::Layer => report.layers.push(DiffId::from_digest(item.digest)),
                UsageKind::CacheMount => report.cache_mounts += 1,
            }
        }
        let everything = options.all || options.is_by_size();
        let (freed, left) = partial::prune(self.layout(), everything, options.dry_run)?;
        report.reclaimed += freed;
        report.left += left;
        Ok(report)
    }

    /// Tells what takes how much space.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let survey = self.survey(&[])?;
        let mut items: Vec<UsageItem> = survey
            .items
            .iter()
            .map(|item| {
                let needed = survey.needed.get(&item.digest);
                let cached = survey.cached.get(&item.digest);
                UsageItem {
                    kind: item.kind,
                    id: item.digest.hex(),
                    size: item.size,
                    last_used_unix: item.last_used.seconds,
                    reclaimable: needed.is_none(),
                    shared: needed.is_some() && cached.is_some(),
                    description: needed.or(cached).cloned().unwrap_or_default(),
                }
            })
            .collect();
        items.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
        Ok(Usage { items })
    }

    fn prune_images(
        &self,
        options: &PruneOptions,
        report: &mut PruneReport,
    ) -> Result<(), StoreError> {
        let leased = lease::protected(self.layout())?;
        for entry in self.images()? {
            if !entry.names.is_empty() || leased.contains(&entry.record.manifest) {
                continue;
            }
            if !options.dry_run {
                self.remove_image(&entry.record.manifest)?;
            }
            report.images.push(entry.record);
        }
        Ok(())
    }

    /// Looks at everything; `without`: images that are treated as removed.
    fn survey(&self, without: &[ImageRecord]) -> Result<Survey, StoreError> {
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
            let size = seal.map_or(0, |seal| seal.content);
            let digest = *diff_id.digest();
            items.push(Item {
                kind: UsageKind::Layer,
                digest,
                path,
                size,
                last_used,
                sharing,
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
            });
        }
        Ok(items)
    }

    /// Moves something to `place`, at once and whole; false if somebody is just publishing it.
    fn discard(&self, item: &Item, place: &Path) -> Result<bool, StoreError> {
        let mut publishing = None;
        if item.kind == UsageKind::Layer {
            let diff_id = DiffId::from_digest(item.digest);
            publishing = StoreLock::try_now(
                &self.layout().named_lock(&format!("tree:{diff_id}")),
                Hold::Exclusive,
            )?;
            if publishing.is_none() {
                return Ok(false);
            }
            let seal = self.layout().seal(&diff_id);
            match std::fs::remove_file(&seal) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &seal)(error));
                }
                _ => {}
            }
        }
        match std::fs::rename(&item.path, place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &item.path)(error));
            }
            _ => {}
        }
        drop(publishing);
        Ok(true)
    }

    /// Moves stacks away that nobody uses and whose layers go, or that are not needed any more.
    fn discard_stacks(
        &self,
        options: &PruneOptions,
        survey: &Survey,
        gone: &BTreeSet<Digest>,
        scratch: &Scratch,
    ) -> Result<(), StoreError> {
        for stack in stacks(self.layout())? {
            let used = survey.needed.contains_key(&stack.id);
            if !used && stack.is_stale(self.layout(), gone, options.all) {
                let place = scratch.path().join(format!("stack-{}", stack.id.hex()));
                std::fs::rename(&stack.path, &place)
                    .map_err(StoreError::io("remove", &stack.path))?;
            }
        }
        Ok(())
    }

    /// Memos of contexts that nobody has built for long. Lock files stay: one that somebody waits
    /// for must not be replaced by another of the same name.
    fn prune_locks_and_memos(&self, options: &PruneOptions) -> Result<(), StoreError> {
        const UNUSED: i64 = 90 * 24 * 3600;
        for path in list(&self.layout().memo())? {
            let age = now_unix() - path.symlink_metadata().map_or(0, |found| found.mtime());
            if options.all || age > UNUSED {
                crate::remove::remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

/// How far removing build cache has come.
struct Left {
    /// Bytes of build cache.
    cache: u64,
    /// Bytes that become free.
    freed: u64,
    /// Bytes that are to become free.
    wanted: u64,
}

impl Left {
    /// Tells whether too little would be left without something of this size.
    fn is_reserved(&self, options: &PruneOptions, size: u64) -> bool {
        let reserved = options.reserved_bytes.unwrap_or(0);
        self.cache.saturating_sub(size) < reserved
    }

    /// Tells whether more has to go.
    fn too_much(&self, options: &PruneOptions) -> bool {
        let over = self.freed < self.wanted;
        match options.keep_bytes {
            Some(keep) => self.cache > keep || over,
            None => over || !options.is_by_size(),
        }
    }
}

impl PruneOptions {
    /// Whether a size decides how much build cache goes.
    fn is_by_size(&self) -> bool {
        self.keep_bytes.is_some() || self.max_used_bytes.is_some() || self.min_free_bytes.is_some()
    }

    /// Whether build cache goes, not only garbage.
    fn takes_cache(&self) -> bool {
        self.all || self.unused_for.is_some() || self.is_by_size()
    }
}

/// What is to be removed.
struct Victims<'a> {
    items: Vec<&'a Item>,
    records: Vec<Digest>,
}

impl Survey {
    /// What goes; `free` is what is free on the file system, in bytes.
    fn victims(&self, options: &PruneOptions, grace: Duration, free: u64) -> Victims<'_> {
        let now = now_unix();
        let is_fresh =
            |item: &Item| now.saturating_sub(item.last_used.seconds) < grace.as_secs() as i64;
        let mut chosen: BTreeSet<(UsageKind, Digest)> = BTreeSet::new();
        let mut cache: Vec<&Item> = Vec::new();
        for item in &self.items {
            if self.needed.contains_key(&item.digest) {
                continue;
            }
            if item.kind == UsageKind::CacheMount || self.cached.contains_key(&item.digest) {
                cache.push(item);
            } else if !is_fresh(item) {
                chosen.insert((item.kind, item.digest));
            }
        }
        cache.sort_by_key(|item| (item.last_used, item.digest));
        let size = |items: &[&Item]| items.iter().map(|item| item.size).sum::<u64>();
        let total: u64 = self.items.iter().map(|item| item.size).sum();
        let garbage = self
            .items
            .iter()
            .filter(|item| chosen.contains(&(item.kind, item.digest)));
        let mut left = Left {
            cache: size(&cache),
            freed: garbage.map(|item| item.size).sum(),
            // What must become free in all.
            wanted: (options
                .max_used_bytes
                .map_or(0, |max| total.saturating_sub(max)))
            .max(
                options
                    .min_free_bytes
                    .map_or(0, |min| min.saturating_sub(free)),
            ),
        };
        for item in cache {
            let old_enough = options.unused_for.is_none_or(|unused| {
                now.saturating_sub(item.last_used.seconds) >= unused.as_secs() as i64
            });
            // Without `all`, cache mounts only go when they are the oldest of too much.
            let may_go = item.kind != UsageKind::CacheMount || options.all || options.is_by_size();
            // Not something smaller that was used later instead.
            if left.is_reserved(options, item.size) {
                break;
            }
            if options.takes_cache() && old_enough && may_go && left.too_much(options) {
                chosen.insert((item.kind, item.digest));
                left.cache -= item.size;
                left.freed += item.size;
            }
        }
        let records = self.records_without(&chosen, options);
        let items = self
            .items
            .iter()
            .filter(|item| chosen.contains(&(item.kind, item.digest)))
            .collect();
        Victims { items, records }
    }

    /// Records that lose an output, and with `all` those whose layers only images keep.
    fn records_without(
        &self,
        chosen: &BTreeSet<(UsageKind, Digest)>,
        options: &PruneOptions,
    ) -> Vec<Digest> {
        let everything = options.all && options.unused_for.is_none() && !options.is_by_size();
        self.records
            .iter()
            .filter(|record| {
                everything
                    || record
                        .layers
                        .iter()
                        .any(|layer| chosen.contains(&(UsageKind::Layer, *layer.digest())))
            })
            .map(|record| record.key)
            .collect()
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
