//! Whether and when a container is started again.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first delay, and the longest one; it doubles between them.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_mins(1);

/// Who has run for so long begins anew with the first delay.
const SETTLED: Duration = Duration::from_secs(10);

/// When a container that has ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it has failed, at most this often; none for any number.
    OnFailure(Option<u32>),
    /// Whenever it has ended, unless somebody stopped it.
    Always,
    /// The same; after a start of the machine not if somebody had stopped it before.
    UnlessStopped,
}

impl RestartPolicy {
    /// Reads `no`, `always`, `unless-stopped`, `on-failure` or `on-failure:N`; says what is wrong.
    pub fn parse(text: &str) -> Result<RestartPolicy, String> {
        let (name, count) = match text.split_once(':') {
            Some((name, count)) => (name, Some(count)),
            None => (text, None),
        };
        let most = |count: &str| match count.parse::<u32>() {
            Ok(0) => Ok(None),
            Ok(count) => Ok(Some(count)),
            Err(_) => Err("maximum retry count must be a whole number, 0 or more".to_owned()),
        };
        match (name, count) {
            ("no" | "", None) => Ok(RestartPolicy::No),
            ("always", None) => Ok(RestartPolicy::Always),
            ("unless-stopped", None) => Ok(RestartPolicy::UnlessStopped),
            ("on-failure", count) => count.map_or(Ok(None), most).map(RestartPolicy::OnFailure),
            ("no" | "always" | "unless-stopped", Some(_)) => Err(format!(
                "maximum retry count cannot be used with restart policy '{name}'"
            )),
            _ => Err(format!("unknown policy '{name}'")),
        }
    }

    /// The name, without a count.
    pub fn name(self) -> &'static str {
        match self {
            RestartPolicy::No => "no",
            RestartPolicy::OnFailure(_) => "on-failure",
            RestartPolicy::Always => "always",
            RestartPolicy::UnlessStopped => "unless-stopped",
        }
    }

    /// Whether a container that has ended by itself is started again.
    pub(super) fn goes_on(self, exit_code: i32, restarts: u32) -> bool {
        match self {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure(most) => {
                exit_code != 0 && most.is_none_or(|most| restarts < most)
            }
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestartPolicy::OnFailure(Some(most)) => write!(f, "on-failure:{most}"),
            policy => f.write_str(policy.name()),
        }
    }
}

/// The delays before a container is started again: they grow while it ends soon.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    delay: Option<Duration>,
}

impl Backoff {
    /// The next delay, for a container that ran for a while.
    pub(super) fn next(&mut self, ran: Duration) -> Duration {
        let delay = match self.delay.filter(|_| ran < SETTLED) {
            None => FIRST,
            Some(delay) => LONGEST.min(delay * 2),
        };
        self.delay = Some(delay);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_docker_reads_them() {
        for text in [
            "no",
            "always",
            "unless-stopped",
            "on-failure",
            "on-failure:3",
        ] {
            assert_eq!(RestartPolicy::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(RestartPolicy::parse(""), Ok(RestartPolicy::No));
        assert_eq!(
            RestartPolicy::parse("on-failure:0"),
            Ok(RestartPolicy::OnFailure(None))
        );
        for text in ["always:3", "no:1", "on-failure:-1", "on-failure:x", "never"] {
            assert!(RestartPolicy::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn failures_are_counted() {
        let policy = RestartPolicy::OnFailure(Some(2));
        assert!(policy.goes_on(1, 1));
        assert!(!policy.goes_on(1, 2));
        assert!(!policy.goes_on(0, 0));
        assert!(RestartPolicy::OnFailure(None).goes_on(1, 1000));
        assert!(RestartPolicy::Always.goes_on(0, 1000));
        assert!(!RestartPolicy::No.goes_on(1, 0));
    }

    #[test]
    fn delays_grow_and_begin_anew() {
        let mut backoff = Backoff::default();
        let soon = Duration::from_secs(1);
        let delays: Vec<u128> = (0..12).map(|_| backoff.next(soon).as_millis()).collect();
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[10..], [60_000, 60_000]);
        assert_eq!(backoff.next(SETTLED), FIRST);
        assert_eq!(backoff.next(soon), FIRST * 2);
    }
}
