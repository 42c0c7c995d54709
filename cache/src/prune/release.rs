//! Taking away at once what only removed images needed.
//!
//! Pruning spares what is fresh, since somebody may be about to refer to it. What an image had that
//! was just removed waits for nobody: who else is about to use it has a lease.

use std::collections::BTreeSet;

use super::survey::Item;
use super::{PruneReport, UsageKind, references};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::lease;
use crate::lock::Hold;
use crate::records::ImageRecord;
use crate::store::Store;

impl Store {
    /// Removes blobs and layers of images that were removed, as far as no other image, build record,
    /// pin or living process needs them.
    pub fn release(&self, removed: &[ImageRecord]) -> Result<PruneReport, StoreError> {
        self.on_a_full_disk(|| self.release_now(removed))
    }

    fn release_now(&self, removed: &[ImageRecord]) -> Result<PruneReport, StoreError> {
        let scratch = self.scratch()?;
        let hold = lease::hold(self.layout(), Hold::Exclusive)?;
        let mut users = self.users(&[])?;
        users.items = self.unpacked_layers()?;
        users.lower_trees();
        let mut candidates: BTreeSet<Digest> = BTreeSet::new();
        for image in removed {
            candidates.extend(references(self, image)?);
        }
        // Blobs that were made of its layers, for a registry.
        for (layer, blob) in self.meta().all_layer_blobs()? {
            if candidates.contains(layer.digest()) {
                candidates.insert(blob);
            }
        }
        candidates.retain(|digest| {
            !users.needed.contains_key(digest) && !users.cached.contains_key(digest)
        });
        let layers = candidates.iter().map(|digest| (UsageKind::Layer, *digest));
        let mut chosen: BTreeSet<(UsageKind, Digest)> = layers.collect();
        users.spare_lower_trees(&mut chosen);
        let blobs: Vec<Item> = candidates
            .iter()
            .filter_map(|digest| Item::of_blob(*digest, self.layout().blob(digest)))
            .collect();
        let trees = users.items.iter();
        let trees = trees.filter(|item| chosen.contains(&(item.kind, item.digest)));
        let mut items: Vec<&Item> = trees.chain(&blobs).collect();
        items.sort_by_key(|item| item.over.is_none());
        let mut report = PruneReport {
            left: items.iter().map(|item| item.size).sum(),
            ..PruneReport::default()
        };
        let gone: Vec<Digest> = candidates.into_iter().collect();
        self.meta().forget_layer_blobs(&gone)?;
        self.discard_all(items.into_iter(), false, &scratch, &mut report)?;
        drop(hold);
        scratch.close()?;
        Ok(report)
    }
}
