//! Keeping a store within bounds while it is used, without anybody asking.
//!
//! Looking at the whole store takes time, so it is only done when it may be too large: one look at
//! the file system tells how much more is on it than at the last look, whoever wrote it.

use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::disk::DiskSpace;
use crate::error::StoreError;
use crate::prune::{PruneOptions, PruneReport};
use crate::store::Store;

/// Old build cache is looked for this often.
const AGE_EVERY: Duration = Duration::from_hours(24);

/// After a look that could not free enough, the next one comes when this much more is on the disk.
const FUTILE: u64 = 64 << 20;

/// The bounds of a store; none is no bound.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Most bytes that the store may take. Images, containers and running builds keep what they
    /// need all the same.
    pub max_used: Option<u64>,
    /// Bytes that are to be free on its file system.
    pub min_free: Option<u64>,
    /// Bytes of build cache that are kept in spite of the other bounds.
    pub reserved: Option<u64>,
    /// Build cache that was not used for longer goes.
    pub unused_for: Option<Duration>,
}

/// What [`Collector::make_room`] found out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Room {
    /// What was removed.
    pub removed: PruneReport,
    /// Bytes by which the store is still over its bounds: everything that is left is needed.
    pub missing: u64,
}

/// Keeps a store within its bounds.
#[derive(Debug, Default)]
pub struct Collector {
    bounds: Bounds,
    last: Mutex<Option<Look>>,
}

/// What the last look at the whole store has shown.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// Bytes of the store.
    used: u64,
    /// Free bytes of the file system.
    free: u64,
    /// Not enough could be removed.
    futile: bool,
}

impl Collector {
    /// A collector with these bounds.
    pub fn new(bounds: Bounds) -> Collector {
        Collector {
            bounds,
            last: Mutex::default(),
        }
    }

    /// Removes build cache, least recently used first, if the store is out of its bounds.
    ///
    /// Returns nothing if it is within them, or if another process is just looking after it.
    pub fn make_room(&self, store: &Store) -> Result<Option<Room>, StoreError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let space = store.space()?;
        let is_old = self.bounds.unused_for.is_some() && is_due(store);
        if !is_old && !self.may_be_over(space, *last) {
            return Ok(None);
        }
        let Some(_single) = store.try_lock("collect")? else {
            return Ok(None);
        };
        let mut room = Room::default();
        if is_old {
            note_age_look(store)?;
            room.removed = store.prune(&PruneOptions {
                unused_for: self.bounds.unused_for,
                ..PruneOptions::default()
            })?;
        }
        let report = store.prune(&PruneOptions {
            max_used_bytes: self.bounds.max_used,
            min_free_bytes: self.bounds.min_free,
            reserved_bytes: self.bounds.reserved,
            ..PruneOptions::default()
        })?;
        let free = store.space()?.free;
        let over = self
            .bounds
            .max_used
            .map_or(0, |max| report.left.saturating_sub(max));
        let lacking = self
            .bounds
            .min_free
            .map_or(0, |min| min.saturating_sub(free));
        room.missing = over.max(lacking);
        *last = Some(Look {
            used: report.left,
            free,
            futile: room.missing > 0,
        });
        room.removed.add(report);
        Ok(Some(room))
    }

    /// Tells without looking at the store whether it can be over its bounds.
    fn may_be_over(&self, space: DiskSpace, last: Option<Look>) -> bool {
        let more = last.map(|last| last.free.saturating_sub(space.free));
        if last.is_some_and(|last| last.futile) && more.is_some_and(|more| more < FUTILE) {
            return false;
        }
        if self.bounds.min_free.is_some_and(|min| space.free < min) {
            return true;
        }
        let Some(max) = self.bounds.max_used else {
            return false;
        };
        // Everything on the file system together is an upper bound.
        if space.total - space.free.min(space.total) <= max {
            return false;
        }
        match (last, more) {
            (Some(last), Some(more)) => last.used.saturating_add(more) > max,
            _ => true,
        }
    }
}

/// Tells whether nobody has looked for old build cache for a day.
fn is_due(store: &Store) -> bool {
    let looked = store
        .memo_path(MEMO)
        .metadata()
        .and_then(|found| found.modified());
    looked.map_or(true, |looked| {
        let age = SystemTime::now().duration_since(looked);
        age.is_ok_and(|age| age >= AGE_EVERY)
    })
}

/// Its time is that of the last look.
const MEMO: &str = "old build cache";

fn note_age_look(store: &Store) -> Result<(), StoreError> {
    let path = store.memo_path(MEMO);
    File::create(&path).map_err(StoreError::io("write", &path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 1000 << 20;

    fn space(free: u64) -> DiskSpace {
        DiskSpace { free, total: DISK }
    }

    #[test]
    fn the_store_is_only_looked_at_when_it_may_be_too_large() {
        let collector = |max, min| {
            Collector::new(Bounds {
                max_used: max,
                min_free: min,
                ..Bounds::default()
            })
        };
        assert!(!collector(None, None).may_be_over(space(0), None));
        let free = collector(None, Some(100 << 20));
        assert!(!free.may_be_over(space(100 << 20), None));
        assert!(free.may_be_over(space(99 << 20), None));
        let used = collector(Some(300 << 20), None);
        assert!(
            !used.may_be_over(space(700 << 20), None),
            "less is on all of the disk"
        );
        assert!(used.may_be_over(space(699 << 20), None));
        let look = Look {
            used: 200 << 20,
            free: 500 << 20,
            futile: false,
        };
        assert!(!used.may_be_over(space(400 << 20), Some(look)));
        assert!(used.may_be_over(space(399 << 20), Some(look)));
        let futile = Look {
            used: 400 << 20,
            futile: true,
            ..look
        };
        assert!(!used.may_be_over(space(490 << 20), Some(futile)));
        assert!(used.may_be_over(space(400 << 20), Some(futile)));
    }
}
