//! Trees that others lie over: they stay as long as those do.

use std::collections::{BTreeMap, BTreeSet};

use super::UsageKind;
use super::survey::Survey;
use crate::digest::Digest;
use crate::entry::Timestamp;

impl Survey {
    /// Lets lower trees be needed, cached and used as the layers over them are.
    pub(super) fn lower_trees(&mut self) {
        let mut used: BTreeMap<Digest, Timestamp> = BTreeMap::new();
        for item in &self.items {
            let Some(under) = item.over else { continue };
            for users in [&mut self.needed, &mut self.cached] {
                if let Some(what) = users.get(&item.digest).cloned() {
                    users.entry(under).or_insert(what);
                }
            }
            let latest = used.entry(under).or_default();
            *latest = item.last_used.max(*latest);
        }
        for item in &mut self.items {
            if item.kind == UsageKind::Layer
                && let Some(latest) = used.get(&item.digest)
            {
                item.last_used = item.last_used.max(*latest);
            }
        }
    }

    /// What stays keeps the tree that it lies over, also if only that one was asked to go.
    pub(super) fn spare_lower_trees(&self, chosen: &mut BTreeSet<(UsageKind, Digest)>) {
        for item in &self.items {
            if let Some(under) = item.over
                && !chosen.contains(&(item.kind, item.digest))
            {
                chosen.remove(&(UsageKind::Layer, under));
            }
        }
    }
}
