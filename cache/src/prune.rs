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

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::digest::{DiffId, Digest};
use crate::disk::{self, DiskTrouble};
use crate::error::StoreError;
use crate::lease;
use crate::lock::{Hold, StoreLock};
use crate::partial;
use crate::records::ImageRecord;
use crate::recover::list;
use crate::session::Scratch;
use crate::stack::keep::stacks;
use crate::store::{Store, now_unix};

mod condition;
mod lower;
mod reach;
mod release;
mod shares;
mod survey;
mod usage;
mod victims;

pub use condition::ItemCondition;
pub(crate) use reach::references;
use survey::{Item, Survey};
pub use usage::{Usage, UsageItem, UsageKind};

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
    /// Remove only what all of this holds for.
    pub only: Vec<ItemCondition>,
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

impl Store {
    /// Removes what nobody needs.
    ///
    /// Without options that is garbage: what no image, build record, pin or living process reaches.
    /// Build cache goes with `all`, with `unused_for`, or as far as `keep_bytes` demands.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport, StoreError> {
        self.on_a_full_disk(|| self.prune_now(options))
    }

    /// Does what makes room; on a full disk with the space that is kept back for it.
    fn on_a_full_disk(
        &self,
        make_room: impl Fn() -> Result<PruneReport, StoreError>,
    ) -> Result<PruneReport, StoreError> {
        let report = match make_room() {
            Err(error)
                if DiskTrouble::of(&error) == Some(DiskTrouble::Full)
                    && disk::give_reserve_up(self.layout()) =>
            {
                make_room()
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
            self.forget_builds(if options.takes_everything() {
                0
            } else {
                usize::MAX
            })?;
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
        self.discard_all(
            victims.items.into_iter(),
            options.dry_run,
            scratch,
            &mut report,
        )?;
        let everything = options.all || options.is_by_size();
        if options.only.is_empty() {
            let (freed, left) = partial::prune(self.layout(), everything, options.dry_run)?;
            report.reclaimed += freed;
            report.left += left;
        }
        Ok(report)
    }

    /// Moves items into `scratch` and notes what was moved; those that lie over others come first.
    fn discard_all<'i>(
        &self,
        items: impl Iterator<Item = &'i Item>,
        dry_run: bool,
        scratch: &Scratch,
        report: &mut PruneReport,
    ) -> Result<(), StoreError> {
        let mut spared = BTreeSet::new();
        for (number, item) in items.enumerate() {
            let place = scratch.path().join(number.to_string());
            if spared.contains(&item.digest) {
                continue;
            }
            if !dry_run && !self.discard(item, &place)? {
                spared.extend(item.over);
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
        Ok(())
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
            if !used && stack.is_stale(self.layout(), gone, options.takes_everything()) {
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
            if options.takes_everything() || age > UNUSED {
                crate::remove::remove_tree(&path)?;
            }
        }
        Ok(())
    }
}
