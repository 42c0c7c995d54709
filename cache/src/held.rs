//! Layers that a lease of this process keeps: found once, they need not be looked for again.
//!
//! Every step over a deep root asks for all of its layers, and reading a seal costs several system
//! calls.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::{DiffId, Digest};
use crate::tree::Layer;

/// What the leases of this process protect.
#[derive(Default)]
pub(crate) struct Held(Mutex<HashMap<Digest, Entry>>);

#[derive(Default)]
struct Entry {
    leases: usize,
    layer: Option<Layer>,
}

impl Held {
    fn entries(&self) -> MutexGuard<'_, HashMap<Digest, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that one more lease protects these.
    pub(crate) fn add(&self, digests: &[Digest]) {
        let mut entries = self.entries();
        for digest in digests {
            entries.entry(*digest).or_default().leases += 1;
        }
    }

    /// Notes that a lease on these has ended.
    pub(crate) fn remove<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let mut entries = self.entries();
        for digest in digests {
            if let Some(entry) = entries.get_mut(digest) {
                entry.leases -= 1;
                if entry.leases == 0 {
                    entries.remove(digest);
                }
            }
        }
    }

    /// The layer, if it was found since it is protected.
    pub(crate) fn layer(&self, diff_id: &DiffId) -> Option<Layer> {
        self.entries().get(diff_id.digest())?.layer.clone()
    }

    /// Remembers a layer that was found, if it is protected.
    ///
    /// `since` is what [`is_held`](Held::is_held) said before it was looked for: protected only
    /// afterwards, it may be gone again.
    pub(crate) fn found(&self, layer: &Layer, since: bool) {
        if let Some(entry) = self.entries().get_mut(layer.diff_id().digest())
            && since
        {
            entry.layer = Some(layer.clone());
        }
    }

    /// Whether a lease of this process protects this.
    pub(crate) fn is_held(&self, diff_id: &DiffId) -> bool {
        self.entries().contains_key(diff_id.digest())
    }
}
