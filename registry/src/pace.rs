//! Notices when a transfer crawls: fewer bytes than expected during a whole window of time.

use std::io;
use std::time::{Duration, Instant};

use crate::options::Timeouts;

/// Watches the bytes of one transfer.
#[derive(Debug)]
pub(crate) struct Pace {
    window: Duration,
    bytes_per_second: u64,
    since: Instant,
    bytes: u64,
}

/// The transfer became too slow.
#[derive(Debug, thiserror::Error)]
#[error("the transfer stalled")]
pub(crate) struct Stalled;

impl Pace {
    pub(crate) fn new(timeouts: &Timeouts) -> Pace {
        Pace {
            window: timeouts.stall,
            bytes_per_second: timeouts.stall_bytes,
            since: Instant::now(),
            bytes: 0,
        }
    }

    /// Notes that some bytes have passed.
    pub(crate) fn passed(&mut self, bytes: u64) -> Result<(), Stalled> {
        self.bytes += bytes;
        let elapsed = self.since.elapsed();
        if elapsed < self.window {
            return Ok(());
        }
        let least = elapsed.as_millis() * u128::from(self.bytes_per_second) / 1000;
        if u128::from(self.bytes) < least {
            return Err(Stalled);
        }
        self.since = Instant::now();
        self.bytes = 0;
        Ok(())
    }
}

impl From<Stalled> for io::Error {
    fn from(stalled: Stalled) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(window: Duration) -> Pace {
        Pace::new(&Timeouts {
            stall: window,
            stall_bytes: 1000,
            ..Timeouts::default()
        })
    }

    #[test]
    fn a_trickle_is_noticed_when_the_window_ends() {
        let mut pace = pace(Duration::from_millis(20));
        let started = Instant::now();
        while pace.passed(1).is_ok() {
            assert!(started.elapsed() < Duration::from_secs(10), "never noticed");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(started.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn enough_bytes_open_a_new_window() {
        let mut pace = pace(Duration::from_millis(1));
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(2));
            assert!(pace.passed(1000).is_ok());
        }
    }
}
