//! Which of the things that nobody needs go.

use std::collections::BTreeSet;
use std::time::Duration;

use super::survey::{Item, Survey};
use super::{ItemCondition, PruneOptions, UsageItem, UsageKind};
use crate::digest::Digest;
use crate::store::now_unix;

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
    pub(super) fn is_by_size(&self) -> bool {
        self.keep_bytes.is_some() || self.max_used_bytes.is_some() || self.min_free_bytes.is_some()
    }

    /// Whether all goes that nobody needs, be it old or young.
    pub(super) fn takes_everything(&self) -> bool {
        self.all && self.unused_for.is_none() && !self.is_by_size() && self.only.is_empty()
    }

    /// Whether build cache goes, not only garbage.
    fn takes_cache(&self) -> bool {
        self.all || self.unused_for.is_some() || self.is_by_size()
    }
}

fn matches(conditions: &[ItemCondition], item: &UsageItem) -> bool {
    conditions.iter().all(|condition| condition.holds(item))
}

/// What is to be removed.
pub(super) struct Victims<'a> {
    pub(super) items: Vec<&'a Item>,
    pub(super) records: Vec<Digest>,
}

impl Survey {
    /// What goes; `free` is what is free on the file system, in bytes.
    pub(super) fn victims(
        &self,
        options: &PruneOptions,
        grace: Duration,
        free: u64,
    ) -> Victims<'_> {
        let now = now_unix();
        let is_fresh =
            |item: &Item| now.saturating_sub(item.last_used.seconds) < grace.as_secs() as i64;
        let mut chosen: BTreeSet<(UsageKind, Digest)> = BTreeSet::new();
        let mut cache: Vec<&Item> = Vec::new();
        for item in &self.items {
            let is_meant = options.only.is_empty() || matches(&options.only, &self.describe(item));
            if self.needed.contains_key(&item.digest) || !is_meant {
                continue;
            }
            if item.kind == UsageKind::CacheMount || self.cached.contains_key(&item.digest) {
                cache.push(item);
            } else if !is_fresh(item) {
                chosen.insert((item.kind, item.digest));
            }
        }
        // What lies over a tree goes before it.
        cache.sort_by_key(|item| (item.last_used, item.over.is_none(), item.digest));
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
        self.spare_lower_trees(&mut chosen);
        let records = self.records_without(&chosen, options);
        let is_chosen = |item: &&Item| chosen.contains(&(item.kind, item.digest));
        let mut items: Vec<&Item> = self.items.iter().filter(is_chosen).collect();
        items.sort_by_key(|item| item.over.is_none());
        Victims { items, records }
    }

    /// Records that lose an output, and with `all` those whose layers only images keep.
    fn records_without(
        &self,
        chosen: &BTreeSet<(UsageKind, Digest)>,
        options: &PruneOptions,
    ) -> Vec<Digest> {
        let everything = options.takes_everything();
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
