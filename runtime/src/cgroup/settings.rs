//! Limits in the words of each version: which files get which values.

use std::fs;
use std::path::Path;

use super::Controller;
use crate::spec::{Limits, Swap};

/// Scheduling period of processor limits in microseconds, as everybody uses it.
const CPU_PERIOD: u32 = 100_000;

/// One file of a controller with its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) value: String,
}

pub(super) fn concerns(controller: Controller, limits: &Limits) -> bool {
    match controller {
        Controller::Memory => limits.memory.is_some() || limits.memory_reservation.is_some(),
        Controller::Cpu => {
            limits.cpus.is_some()
                || limits.cpu_shares.is_some()
                || limits.cpu_period.is_some()
                || limits.cpu_quota.is_some()
        }
        Controller::Cpuset => limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some(),
        Controller::Pids => limits.pids.is_some(),
    }
}

/// What to write for a controller of version 2 (`unified`) or 1, in this order.
pub(super) fn settings(
    controller: Controller,
    limits: &Limits,
    unified: bool,
    parent: &Path,
) -> Vec<Setting> {
    let setting = |name, value: String| Setting { name, value };
    match controller {
        Controller::Memory => memory_settings(limits, unified),
        Controller::Cpu => cpu_settings(limits, unified),
        Controller::Cpuset => {
            // Of version 1 both have to be there before a process may enter.
            let inherited = |name: &str| {
                let text = fs::read_to_string(parent.join(name)).unwrap_or_default();
                (!unified).then(|| text.trim().to_owned())
            };
            [
                ("cpuset.cpus", &limits.cpuset_cpus),
                ("cpuset.mems", &limits.cpuset_mems),
            ]
            .into_iter()
            .filter_map(|(name, list)| {
                let list = list.clone().or_else(|| inherited(name))?;
                Some(setting(name, list))
            })
            .collect()
        }
        Controller::Pids => limits
            .pids
            .map(|pids| setting("pids.max", pids.to_string()))
            .into_iter()
            .collect(),
    }
}

fn memory_settings(limits: &Limits, unified: bool) -> Vec<Setting> {
    let mut settings = memory_limits(limits, unified);
    // Not quite the same: what is taken back from others first, or what is not taken back from this one.
    let name = if unified {
        "memory.low"
    } else {
        "memory.soft_limit_in_bytes"
    };
    settings.extend(limits.memory_reservation.map(|bytes| Setting {
        name,
        value: bytes.to_string(),
    }));
    settings
}

fn memory_limits(limits: &Limits, unified: bool) -> Vec<Setting> {
    let Some(bytes) = limits.memory else {
        return Vec::new();
    };
    let swap = match limits.swap {
        Swap::AsMuchAgain => Some(bytes),
        Swap::Bytes(swap) => Some(swap),
        Swap::Unlimited => None,
    };
    let (memory, both) = if unified {
        ("memory.max", "memory.swap.max")
    } else {
        ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    };
    let swap = match swap {
        Some(swap) if unified => swap.to_string(),
        Some(swap) => bytes.saturating_add(swap).to_string(),
        None if unified => "max".to_owned(),
        None => "-1".to_owned(),
    };
    vec![
        Setting {
            name: memory,
            value: bytes.to_string(),
        },
        Setting {
            name: both,
            value: swap,
        },
    ]
}

fn cpu_settings(limits: &Limits, unified: bool) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut add = |name, value: String| settings.push(Setting { name, value });
    if let Some(shares) = limits.cpu_shares {
        if unified {
            // The same line from 2…262144 to 1…10000 as everybody has.
            let shares = shares.clamp(2, 262_144);
            add(
                "cpu.weight",
                (1 + (shares - 2) * 9999 / 262_142).to_string(),
            );
        } else {
            add("cpu.shares", shares.to_string());
        }
    }
    let period = limits.cpu_period.unwrap_or(CPU_PERIOD.into());
    let quota = match limits.cpus {
        // The kernel refuses less than a millisecond.
        Some(cpus) => Some(((cpus * f64::from(CPU_PERIOD)).round() as u64).max(1000)),
        None => limits.cpu_quota,
    };
    if quota.is_some() || limits.cpu_period.is_some() {
        if unified {
            let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
            add("cpu.max", format!("{quota} {period}"));
        } else {
            add("cpu.cfs_period_us", period.to_string());
            if let Some(quota) = quota {
                add("cpu.cfs_quota_us", quota.to_string());
            }
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_in_the_words_of_each_version() {
        let limits = Limits {
            memory: Some(100),
            memory_reservation: Some(50),
            swap: Swap::Bytes(20),
            cpus: Some(1.5),
            cpu_shares: Some(1024),
            ..Limits::default()
        };
        let written = |controller, unified| -> Vec<String> {
            settings(controller, &limits, unified, Path::new("/"))
                .into_iter()
                .map(|Setting { name, value }| format!("{name}={value}"))
                .collect()
        };
        assert_eq!(
            written(Controller::Memory, true),
            ["memory.max=100", "memory.swap.max=20", "memory.low=50"]
        );
        assert_eq!(
            written(Controller::Memory, false),
            [
                "memory.limit_in_bytes=100",
                "memory.memsw.limit_in_bytes=120",
                "memory.soft_limit_in_bytes=50"
            ]
        );
        assert_eq!(
            written(Controller::Cpu, true),
            ["cpu.weight=39", "cpu.max=150000 100000"]
        );
        assert_eq!(
            written(Controller::Cpu, false),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=150000"
            ]
        );
        assert!(!concerns(Controller::Cpuset, &limits) && !concerns(Controller::Pids, &limits));
    }
}
