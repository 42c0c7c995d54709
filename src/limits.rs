//! Limits of all processes of a step or container together: the options that `build` and `run` share.

use rbuild_parser::parse_size;
use rbuild_runtime::{Limits, Swap};

use crate::failure::Failure;

/// Smallest memory limit, as in Docker.
const LEAST_MEMORY: u64 = 6 << 20;

/// What the kernel takes for scheduling periods, in microseconds.
const CPU_PERIODS: std::ops::RangeInclusive<u64> = 1000..=1_000_000;

/// The options.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct LimitArgs {
    /// Most memory
    #[arg(short, long, value_name = "SIZE", help_heading = "Limits")]
    memory: Option<String>,
    /// Memory that it keeps when the machine has little left
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    memory_reservation: Option<String>,
    /// Most memory and swap together; -1 for any amount [default: twice the memory]
    #[arg(
        long,
        value_name = "SIZE",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    memory_swap: Option<String>,
    /// Most processor time, as a number of processors
    #[arg(long, value_name = "N", help_heading = "Limits")]
    cpus: Option<f64>,
    /// Share of the processors when they are busy; 1024 is usual
    #[arg(short, long, value_name = "N", help_heading = "Limits")]
    cpu_shares: Option<u64>,
    /// Period of `--cpu-quota` in microseconds [default: 100000]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    cpu_period: Option<u64>,
    /// Processor time in each period in microseconds
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    cpu_quota: Option<i64>,
    /// Processors to use, such as `0-2,4`
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use, such as `0`
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    cpuset_mems: Option<String>,
    /// Most processes; -1 for any number
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pids_limit: Option<i64>,
    /// Control group to be below
    #[arg(long, value_name = "PATH", help_heading = "Limits")]
    cgroup_parent: Option<String>,
}

impl LimitArgs {
    /// Takes values of `--resource NAME=VALUE`; a later one counts.
    pub(crate) fn add_resources(&mut self, resources: &[String]) -> Result<(), Failure> {
        for resource in resources.iter().flat_map(|list| list.split(',')) {
            let (name, value) = resource.split_once('=').ok_or_else(|| {
                Failure::new(format!(
                    "invalid --resource {resource:?}: expected NAME=VALUE"
                ))
            })?;
            let number = |error: std::num::ParseIntError| {
                Failure::new(format!("invalid --resource {resource:?}: {error}"))
            };
            match name {
                "memory" => self.memory = Some(value.to_owned()),
                "memory-swap" => self.memory_swap = Some(value.to_owned()),
                "cpu-shares" => self.cpu_shares = Some(value.parse().map_err(number)?),
                "cpu-period" => self.cpu_period = Some(value.parse().map_err(number)?),
                "cpu-quota" => self.cpu_quota = Some(value.parse().map_err(number)?),
                "cpuset-cpus" => self.cpuset_cpus = Some(value.to_owned()),
                "cpuset-mems" => self.cpuset_mems = Some(value.to_owned()),
                "pids" => self.pids_limit = Some(value.parse().map_err(number)?),
                other => {
                    return Err(Failure::new(format!("unknown resource {other:?}")).hint(
                        "known: memory, memory-swap, cpu-shares, cpu-period, cpu-quota, \
                         cpuset-cpus, cpuset-mems, pids",
                    ));
                }
            }
        }
        Ok(())
    }

    /// The limits in typed form.
    pub(crate) fn limits(&self) -> Result<Limits, Failure> {
        let memory = self.memory.as_deref().map(|size| bytes("--memory", size));
        let memory = memory.transpose()?.filter(|bytes| *bytes > 0);
        if memory.is_some_and(|bytes| bytes < LEAST_MEMORY) {
            return Err(Failure::new("Minimum memory limit allowed is 6MB"));
        }
        let invalid = |text: &str| Err(Failure::new(text.to_owned()));
        let reservation = self.memory_reservation.as_deref();
        let reservation = reservation.map(|size| bytes("--memory-reservation", size));
        let reservation = reservation.transpose()?.filter(|bytes| *bytes > 0);
        if reservation.is_some_and(|bytes| bytes < LEAST_MEMORY) {
            return invalid("Minimum memory reservation allowed is 6MB");
        }
        if reservation > memory && memory.is_some() {
            return invalid(
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            );
        }
        if self
            .cpus
            .is_some_and(|cpus| !cpus.is_finite() || cpus < 0.0)
        {
            return invalid("invalid --cpus: it must be a positive number");
        }
        let cpus = self.cpus.filter(|cpus| *cpus > 0.0);
        let quota = self.cpu_quota.filter(|quota| *quota > 0);
        if cpus.is_some() && (quota.is_some() || self.cpu_period.is_some()) {
            return invalid("--cpus and --cpu-quota or --cpu-period cannot be used together");
        }
        let period = self.cpu_period.filter(|period| *period > 0);
        if period.is_some_and(|period| !CPU_PERIODS.contains(&period)) {
            return invalid(
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            );
        }
        if quota.is_some_and(|quota| quota < 1000) {
            return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
        }
        for (flag, list) in [
            ("--cpuset-cpus", &self.cpuset_cpus),
            ("--cpuset-mems", &self.cpuset_mems),
        ] {
            if list.as_deref().is_some_and(|list| !is_list(list)) {
                return invalid(&format!("invalid {flag}: expected a list such as `0-2,4`"));
            }
        }
        Ok(Limits {
            memory,
            memory_reservation: reservation,
            swap: self.swap(memory)?,
            cpus,
            cpu_shares: self.cpu_shares.filter(|shares| *shares > 0),
            cpu_period: period,
            cpu_quota: quota.map(i64::unsigned_abs),
            cpuset_cpus: self.cpuset_cpus.clone().filter(|list| !list.is_empty()),
            cpuset_mems: self.cpuset_mems.clone().filter(|list| !list.is_empty()),
            pids: self
                .pids_limit
                .filter(|pids| *pids > 0)
                .map(i64::unsigned_abs),
            parent: self.parent()?,
        })
    }

    /// Whether any limit was named.
    pub(crate) fn are_given(&self) -> bool {
        let LimitArgs {
            memory,
            memory_reservation,
            memory_swap,
            cpus,
            cpu_shares,
            cpu_period,
            cpu_quota,
            cpuset_cpus,
            cpuset_mems,
            pids_limit,
            cgroup_parent,
        } = self;
        let texts = [
            memory,
            memory_reservation,
            memory_swap,
            cpuset_cpus,
            cpuset_mems,
            cgroup_parent,
        ];
        texts.iter().any(|text| text.is_some())
            || cpus.is_some()
            || cpu_shares.is_some()
            || cpu_period.is_some()
            || cpu_quota.is_some()
            || pids_limit.is_some()
    }

    /// Limits that a container has, with those that were named in their place.
    pub(crate) fn change(&self, old: &Limits) -> Result<Limits, Failure> {
        if self.cgroup_parent.is_some() {
            return Err(Failure::new(
                "the control group above a container cannot be changed: it is made when it starts",
            ));
        }
        let named = self.limits()?;
        let mut new = old.clone();
        if self.memory.is_some() {
            (new.memory, new.swap) = (named.memory, named.swap);
        }
        if self.memory_reservation.is_some() {
            new.memory_reservation = named.memory_reservation;
        }
        if self.cpus.is_some() {
            (new.cpus, new.cpu_period, new.cpu_quota) = (named.cpus, None, None);
        }
        if self.cpu_quota.is_some() || self.cpu_period.is_some() {
            new.cpus = None;
            new.cpu_quota = named.cpu_quota.or(old.cpu_quota);
            new.cpu_period = named.cpu_period.or(old.cpu_period);
        }
        if self.cpu_shares.is_some() {
            new.cpu_shares = named.cpu_shares;
        }
        if self.cpuset_cpus.is_some() {
            new.cpuset_cpus = named.cpuset_cpus;
        }
        if self.cpuset_mems.is_some() {
            new.cpuset_mems = named.cpuset_mems;
        }
        if self.pids_limit.is_some() {
            new.pids = named.pids;
        }
        Ok(new)
    }

    /// A limit that is in force can be changed, but the kernel's files do not tell how it was before.
    pub(crate) fn refuse_lifting(&self) -> Result<(), Failure> {
        let named = self.limits()?;
        let lifted = (self.memory.is_some() && named.memory.is_none())
            || (self.memory_reservation.is_some() && named.memory_reservation.is_none())
            || (self.cpus.is_some() && named.cpus.is_none())
            || (self.pids_limit.is_some() && named.pids.is_none())
            || (self.cpu_quota.is_some() && named.cpu_quota.is_none());
        if lifted {
            return Err(Failure::new(
                "a limit of a running container can be changed, not taken away",
            )
            .hint("stop the container, update it, and start it again"));
        }
        Ok(())
    }

    fn swap(&self, memory: Option<u64>) -> Result<Swap, Failure> {
        let Some(text) = self.memory_swap.as_deref() else {
            return Ok(Swap::AsMuchAgain);
        };
        if text == "-1" {
            return Ok(Swap::Unlimited);
        }
        let both = bytes("--memory-swap", text)?;
        match memory {
            _ if both == 0 => Ok(Swap::AsMuchAgain),
            None => Err(Failure::new(
                "You should always set the Memory limit when using Memoryswap limit",
            )),
            Some(memory) if both < memory => Err(Failure::new(
                "Minimum memoryswap limit should be larger than memory limit",
            )),
            Some(memory) => Ok(Swap::Bytes(both - memory)),
        }
    }

    fn parent(&self) -> Result<Option<String>, Failure> {
        let Some(parent) = self.cgroup_parent.as_deref() else {
            return Ok(None);
        };
        let names: Vec<&str> = parent.split('/').filter(|name| !name.is_empty()).collect();
        if names.iter().any(|name| matches!(*name, "." | "..")) || parent.contains('\0') {
            return Err(Failure::new(format!("invalid --cgroup-parent: {parent:?}")));
        }
        Ok((!names.is_empty()).then(|| names.join("/")))
    }
}

fn bytes(flag: &str, size: &str) -> Result<u64, Failure> {
    parse_size(size).map_err(|reason| Failure::new(format!("invalid {flag}: {reason}")))
}

/// Numbers and ranges, with commas between them.
fn is_list(list: &str) -> bool {
    list.is_empty()
        || list.split(',').all(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.parse::<u32>(), last.parse::<u32>()) {
                (Ok(first), Ok(last)) => first <= last,
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_the_same_limits_by_another_name() {
        let mut args = LimitArgs::default();
        let resources = ["memory=64m,memory-swap=64m", "cpu-quota=50000", "pids=7"];
        args.add_resources(&resources.map(str::to_owned)).unwrap();
        let limits = args.limits().unwrap();
        assert_eq!(limits.memory, Some(64 << 20));
        assert_eq!(limits.swap, Swap::Bytes(0));
        assert_eq!((limits.cpu_quota, limits.pids), (Some(50_000), Some(7)));
        for wrong in ["memory", "disk=1", "cpu-shares=x"] {
            assert!(args.add_resources(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let with = |change: &dyn Fn(&mut LimitArgs)| {
            let mut args = LimitArgs::default();
            change(&mut args);
            args.limits()
        };
        assert!(with(&|args| args.memory = Some("1m".into())).is_err());
        assert!(with(&|args| args.memory_swap = Some("10m".into())).is_err());
        assert!(with(&|args| args.memory_reservation = Some("1m".into())).is_err());
        let both = |memory: &str| {
            with(&|args| {
                args.memory = Some(memory.into());
                args.memory_reservation = Some("64m".into());
            })
        };
        assert!(both("32m").is_err());
        assert_eq!(both("64m").unwrap().memory_reservation, Some(64 << 20));
        assert!(with(&|args| args.cpus = Some(-1.0)).is_err());
        assert!(with(&|args| args.cpu_period = Some(10)).is_err());
        assert!(with(&|args| args.cpuset_cpus = Some("2-1".into())).is_err());
        assert!(with(&|args| args.cgroup_parent = Some("/a/../b".into())).is_err());
        assert!(with(&|args| args.cgroup_parent = Some("/a/b/".into())).is_ok());
    }
}
