//! One thread does it, the others wait for it.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Condvar, Mutex, PoisonError};

/// Keys that some thread is working on.
#[derive(Debug)]
pub(crate) struct Flights<K> {
    busy: Mutex<HashSet<K>>,
    landed: Condvar,
}

/// The right to work on a key; ends on drop.
pub(crate) struct Flight<'f, K: Eq + Hash + Copy> {
    flights: &'f Flights<K>,
    key: K,
}

impl<K> Default for Flights<K> {
    fn default() -> Flights<K> {
        Flights {
            busy: Mutex::default(),
            landed: Condvar::new(),
        }
    }
}

impl<K: Eq + Hash + Copy> Flights<K> {
    /// Waits until nobody works on the key, and reserves it.
    pub(crate) fn board(&self, key: K) -> Flight<'_, K> {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let mut busy = self
            .landed
            .wait_while(busy, |busy| busy.contains(&key))
            .unwrap_or_else(PoisonError::into_inner);
        busy.insert(key);
        Flight { flights: self, key }
    }
}

impl<K: Eq + Hash + Copy> Drop for Flight<'_, K> {
    fn drop(&mut self) {
        self.flights
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
        self.flights.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_at_a_time_per_key() {
        let flights = Flights::default();
        let flying = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _flight = flights.board(1);
                        assert_eq!(flying.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        flying.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let _one = flights.board(1);
        let _other = flights.board(2);
    }
}
