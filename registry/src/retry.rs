//! Trying again: full jitter, a number of tries and a budget of time, both counted from the last
//! time that something got any further.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Again, RegistryError, chain};
use crate::options::{Notice, Notify, RetryPolicy};

/// Bytes that count as getting further: a server that cuts every answer short after a few bytes
/// does not earn more tries.
const PROGRESS: u64 = 1 << 20;

/// Tells threads that wait that they should stop.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    set: Mutex<bool>,
    wake: Condvar,
}

impl Interrupt {
    pub(crate) fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; true if it was interrupted.
    fn wait(&self, time: Duration) -> bool {
        let guard = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = self
            .wake
            .wait_timeout_while(guard, time, |set| !*set)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }
}

/// The tries of one thing.
pub(crate) struct Attempts<'c> {
    policy: RetryPolicy,
    interrupt: &'c Interrupt,
    notify: Option<&'c Notify>,
    doing: String,
    failures: u32,
    first_failure: Option<Instant>,
    progress: u64,
}

impl<'c> Attempts<'c> {
    pub(crate) fn new(
        policy: RetryPolicy,
        interrupt: &'c Interrupt,
        notify: Option<&'c Notify>,
        doing: &str,
    ) -> Attempts<'c> {
        Attempts {
            policy,
            interrupt,
            notify,
            doing: doing.to_owned(),
            failures: 0,
            first_failure: None,
            progress: 0,
        }
    }

    /// Notes that `bytes` more have come or gone for good.
    pub(crate) fn advanced(&mut self, bytes: u64) {
        self.progress = self.progress.saturating_add(bytes);
        if self.progress >= PROGRESS {
            self.progress = 0;
            self.failures = 0;
            self.first_failure = None;
        }
    }

    /// After a failure: waits as long as is proper, or returns the error if that was the last try.
    pub(crate) fn again(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        match error.again() {
            Again::Never => Err(error),
            when => self.wait(error, when),
        }
    }

    /// The same for an error that is no reason to give up here, though it is elsewhere.
    pub(crate) fn again_anyway(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let when = error.again();
        self.wait(error, when)
    }

    fn wait(&mut self, error: RegistryError, when: Again) -> Result<(), RegistryError> {
        if self.interrupt.is_set() {
            return Err(self.interrupted());
        }
        self.failures += 1;
        let now = Instant::now();
        let first_failure = *self.first_failure.get_or_insert(now);
        let elapsed = now.duration_since(first_failure);
        let wait = match when {
            Again::After(time) => time,
            Again::Never | Again::Soon => backoff(&self.policy, self.failures),
        };
        if self.failures >= self.policy.tries || elapsed + wait > self.policy.budget {
            return Err(self.gave_up(error, elapsed));
        }
        if let Some(Notify(notify)) = self.notify {
            notify(&Notice::Retry {
                doing: self.doing.clone(),
                cause: chain(&error),
                repetition: self.failures,
                wait,
            });
        }
        tracing::debug!(doing = %self.doing, cause = %chain(&error), ?wait, "trying again");
        if self.interrupt.wait(wait) {
            return Err(self.interrupted());
        }
        Ok(())
    }

    fn interrupted(&self) -> RegistryError {
        RegistryError::Interrupted {
            doing: self.doing.clone(),
        }
    }

    fn gave_up(&self, error: RegistryError, elapsed: Duration) -> RegistryError {
        if self.failures < 2 {
            return error;
        }
        RegistryError::GaveUp {
            tries: self.failures,
            elapsed,
            source: Box::new(error),
        }
    }
}

/// A random part of the wait that doubles with each failure.
fn backoff(policy: &RetryPolicy, failures: u32) -> Duration {
    let factor = 1_u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u32::MAX);
    let longest = policy
        .first_wait
        .saturating_mul(factor)
        .min(policy.longest_wait);
    longest.mul_f64(random_fraction())
}

/// A number from 0 to 1: each hasher of the standard library has its own random key.
fn random_fraction() -> f64 {
    let bits = RandomState::new().hash_one(0_u8);
    f64::from(bits as u32) / f64::from(u32::MAX)
}

/// Reads `Retry-After`: seconds or an HTTP date. RFC 9110, section 10.2.3.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(value)
        .ok()?;
    // A date that has passed means: now.
    Some(
        SystemTime::from(date)
            .duration_since(now)
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    fn status(status: u16, retry_after: Option<Duration>) -> RegistryError {
        RegistryError::Status {
            doing: "test".to_owned(),
            host: "h".to_owned(),
            status,
            errors: Vec::new(),
            retry_after,
        }
    }

    fn quick() -> RetryPolicy {
        RetryPolicy {
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_millis(2),
            ..RetryPolicy::default()
        }
    }

    #[test]
    fn waits_grow_and_stay_random_and_bounded() {
        let policy = RetryPolicy::default();
        for failures in 1..40 {
            let longest = Duration::from_millis(200)
                .saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX))
                .min(Duration::from_secs(10));
            assert!(backoff(&policy, failures) <= longest);
        }
        let waits: Vec<Duration> = (0..20).map(|_| backoff(&policy, 3)).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]), "no jitter");
    }

    #[test]
    fn the_number_of_tries_is_kept_and_progress_renews_it() {
        let interrupt = Interrupt::default();
        let mut attempts = Attempts::new(quick(), &interrupt, None, "test");
        for _ in 0..4 {
            attempts.again(status(503, None)).unwrap();
        }
        attempts.advanced(PROGRESS - 1);
        attempts.advanced(1);
        for _ in 0..4 {
            attempts.again(status(503, None)).unwrap();
        }
        let error = attempts.again(status(503, None)).unwrap_err();
        assert!(
            matches!(error, RegistryError::GaveUp { tries: 5, .. }),
            "{error}"
        );
    }

    #[test]
    fn what_will_not_change_is_not_tried_again() {
        let interrupt = Interrupt::default();
        let mut attempts = Attempts::new(quick(), &interrupt, None, "test");
        let error = attempts.again(status(403, None)).unwrap_err();
        assert!(matches!(error, RegistryError::Status { status: 403, .. }));
    }

    #[test]
    fn a_wish_beyond_the_budget_ends_it_at_once() {
        let interrupt = Interrupt::default();
        let mut attempts = Attempts::new(quick(), &interrupt, None, "test");
        let hour = Some(Duration::from_hours(1));
        let error = attempts.again(status(429, hour)).unwrap_err();
        assert!(matches!(error, RegistryError::Status { status: 429, .. }));
    }

    #[test]
    fn an_interrupt_ends_the_wait() {
        let interrupt = Arc::new(Interrupt::default());
        let other = Arc::clone(&interrupt);
        let thread = std::thread::spawn(move || {
            let policy = RetryPolicy::default();
            let mut attempts = Attempts::new(policy, &other, None, "test");
            attempts.again(status(503, Some(Duration::from_secs(100))))
        });
        interrupt.set();
        let error = thread.join().unwrap().unwrap_err();
        assert!(matches!(error, RegistryError::Interrupted { .. }));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_700);
        assert_eq!(retry_after("120", now), Some(Duration::from_mins(2)));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now),
            Some(Duration::from_secs(77))
        );
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now),
            Some(Duration::ZERO)
        );
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-5", now), None);
    }
}
