//! Health checks: what is asked, and what was found.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state::now;
use crate::Joining;

/// Results that are kept.
const KEPT: usize = 5;

/// Bytes of a check's output that are kept.
pub(super) const OUTPUT: usize = 4096;

/// How a container is asked whether it is well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What runs in the container; exit status 0 means well.
    pub check: Joining,
    /// Between the end of a check and the next one.
    pub interval: Duration,
    /// For which a check may run.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
    /// After the start, in which failures do not count.
    pub start_period: Duration,
    /// In place of `interval` in that period.
    pub start_interval: Duration,
    /// What is done when it has become unhealthy.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// What is done with a container that has become unhealthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Nothing.
    #[default]
    None,
    /// It is killed; its restart policy counts.
    Kill,
    /// It is killed and started again.
    Restart,
    /// It is asked to end, and not started again.
    Stop,
}

/// How a container is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Not known yet.
    #[default]
    Starting,
    /// The last check went well.
    Healthy,
    /// Too many checks in a row have failed.
    Unhealthy,
}

impl HealthStatus {
    /// In one word, as in `ps` and `inspect`.
    pub fn name(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

/// What the checks have found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// How it is.
    pub status: HealthStatus,
    /// Failures in a row that count.
    pub failing_streak: u32,
    /// The last results, the oldest first.
    pub log: Vec<Probe>,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// When it began, RFC 3339.
    pub start: String,
    /// When it ended, RFC 3339.
    pub end: String,
    /// How: -1 if it took too long or could not be run.
    pub exit_code: i32,
    /// The beginning of what it wrote.
    pub output: String,
}

impl Probe {
    /// A result that ends now.
    pub(super) fn new(start: String, exit_code: i32, output: String) -> Probe {
        Probe {
            start,
            end: now(),
            exit_code,
            output,
        }
    }
}

impl Health {
    /// Takes a result; `age` is the time since the start. Says whether the container has become
    /// unhealthy by it.
    pub(super) fn take(&mut self, check: &HealthCheck, probe: Probe, age: Duration) -> bool {
        let well = probe.exit_code == 0;
        self.log.push(probe);
        let surplus = self.log.len().saturating_sub(KEPT);
        self.log.drain(..surplus);
        if well {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
            return false;
        }
        if self.status == HealthStatus::Starting && age < check.start_period {
            return false;
        }
        self.failing_streak += 1;
        let unhealthy = self.failing_streak >= check.retries;
        let became = unhealthy && self.status != HealthStatus::Unhealthy;
        if unhealthy {
            self.status = HealthStatus::Unhealthy;
        }
        became
    }

    /// How long to wait before the next check.
    pub(super) fn pause(&self, check: &HealthCheck, age: Duration) -> Duration {
        if self.status == HealthStatus::Starting && age < check.start_period {
            check.start_interval
        } else {
            check.interval
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Network, OfHost, Process, Security, User};

    fn check() -> HealthCheck {
        HealthCheck {
            check: Joining {
                process: Process {
                    args: vec!["true".into()],
                    env: Vec::new(),
                    cwd: "/".into(),
                    user: User::default(),
                    terminal: false,
                },
                security: Security::default(),
                network: Network::None,
                of_host: OfHost::default(),
                rlimits: Vec::new(),
            },
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            retries: 3,
            start_period: Duration::from_mins(1),
            start_interval: Duration::from_secs(5),
            on_failure: OnFailure::None,
        }
    }

    fn probe(exit_code: i32) -> Probe {
        Probe::new(now(), exit_code, String::new())
    }

    #[test]
    fn a_container_is_unhealthy_after_some_failures_in_a_row() {
        let (check, late) = (check(), Duration::from_secs(100));
        let mut health = Health::default();
        assert!(!health.take(&check, probe(1), late));
        assert!(!health.take(&check, probe(1), late));
        assert_eq!(health.status, HealthStatus::Starting);
        assert!(health.take(&check, probe(-1), late));
        assert!(!health.take(&check, probe(1), late), "told once");
        assert_eq!(
            (health.status, health.failing_streak),
            (HealthStatus::Unhealthy, 4)
        );
        assert!(!health.take(&check, probe(0), late));
        assert_eq!(
            (health.status, health.failing_streak),
            (HealthStatus::Healthy, 0)
        );
        health.take(&check, probe(1), late);
        assert_eq!(health.log.len(), 5);
        assert_eq!(health.status, HealthStatus::Healthy);
    }

    #[test]
    fn failures_at_the_start_do_not_count_until_it_was_well_once() {
        let (check, early) = (check(), Duration::from_secs(10));
        let mut health = Health::default();
        for _ in 0..5 {
            assert_eq!(health.pause(&check, early), check.start_interval);
            assert!(!health.take(&check, probe(1), early));
        }
        assert_eq!(
            (health.status, health.failing_streak),
            (HealthStatus::Starting, 0)
        );
        health.take(&check, probe(0), early);
        assert_eq!(health.pause(&check, early), check.interval);
        for _ in 0..3 {
            health.take(&check, probe(1), early);
        }
        assert_eq!(health.status, HealthStatus::Unhealthy);
    }
}
