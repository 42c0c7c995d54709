//! What a sandbox uses: processor, memory, disks, network.
//!
//! From its control groups where it has some of its own, else summed up over its processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{cgroup, processes};

/// Ticks a second in `/proc`, the same on all architectures that Linux images are made for.
const TICKS: u64 = 100;

/// What a sandbox uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time so far.
    pub cpu: Duration,
    /// Bytes of memory, without what the kernel would drop first.
    pub memory: u64,
    /// Processes and threads.
    pub tasks: u64,
    /// Bytes read from disks so far.
    pub read: u64,
    /// Bytes written to disks so far.
    pub written: u64,
    /// Bytes received so far by its network interfaces but loopback.
    pub received: u64,
    /// Bytes sent so far.
    pub sent: u64,
}

/// Looks what the sandbox with this first process uses.
pub(crate) fn of_sandbox(first: u32) -> Usage {
    let mut usage = Usage::default();
    for pid in processes::of_sandbox(first) {
        add(&mut usage, pid);
    }
    (usage.received, usage.sent) = network(first);
    let groups = Groups::of(first);
    if let Some(cpu) = groups.cpu() {
        usage.cpu = cpu;
    }
    if let Some(memory) = groups.memory() {
        usage.memory = memory;
    }
    usage
}

/// Adds what one process uses; one that has ended meanwhile uses nothing.
fn add(usage: &mut Usage, pid: u32) {
    let Some(fields) = processes::stat(pid) else {
        return;
    };
    let number = |index: usize| -> u64 {
        let field = fields.get(index).map(String::as_str);
        field.and_then(|field| field.parse().ok()).unwrap_or(0)
    };
    // utime, stime, and those of children that have ended.
    let ticks: u64 = (11..=14).map(number).sum();
    usage.cpu += Duration::from_millis(ticks * 1000 / TICKS);
    usage.tasks += number(17);
    let named = |file: &str, name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    // Pages that several processes share count once in all.
    let proportional = named("smaps_rollup", "Pss:");
    let resident = proportional.or_else(|| named("status", "VmRSS:"));
    usage.memory += resident.unwrap_or(0) * 1024;
    usage.read += named("io", "read_bytes:").unwrap_or(0);
    usage.written += named("io", "write_bytes:").unwrap_or(0);
}

/// Bytes received and sent in the network namespace of a process.
fn network(pid: u32) -> (u64, u64) {
    let same = |name: &str| fs::read_link(format!("/proc/{name}/ns/net")).ok();
    if same(&pid.to_string()) == same("self") {
        // The host's network: what others use does not count.
        return (0, 0);
    }
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    sum_interfaces(&text)
}

fn sum_interfaces(text: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in text.lines().skip(2) {
        let Some((name, numbers)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        sums.0 += numbers.first().unwrap_or(&0);
        sums.1 += numbers.get(8).unwrap_or(&0);
    }
    sums
}

/// Directories of the control groups that a sandbox has of its own.
pub(crate) fn own_groups(first: u32) -> Vec<PathBuf> {
    let groups = Groups::of(first).directories;
    groups.into_iter().map(|(_, directory)| directory).collect()
}

/// Control groups of a sandbox that hold it and nobody else.
struct Groups {
    /// Names of controllers, none for version 2, and the directory.
    directories: Vec<(Vec<String>, PathBuf)>,
}

impl Groups {
    fn of(pid: u32) -> Groups {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Groups::parse(&mounts, &groups)
    }

    fn parse(mounts: &str, groups: &str) -> Groups {
        let mut directories = Vec::new();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(names), Some(group)) = (fields.next(), fields.next()) else {
                continue;
            };
            let own = Path::new(group)
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("rbuild-"));
            let names: Vec<String> = names.split(',').map(str::to_owned).collect();
            if own
                && !group.ends_with(cgroup::ASIDE)
                && let Some(point) = mounts.lines().find_map(|line| shows(line, &names))
            {
                let (shown, point) = point;
                let below = Path::new(group).strip_prefix(&shown);
                directories.push((names, point.join(below.unwrap_or(Path::new("")))));
            }
        }
        Groups { directories }
    }

    fn file(&self, controller: &str, name: &str) -> Option<String> {
        let (_, directory) = self
            .directories
            .iter()
            .find(|(names, _)| names.iter().any(|known| known == controller))?;
        fs::read_to_string(directory.join(name)).ok()
    }

    fn cpu(&self) -> Option<Duration> {
        if let Some(stat) = self.file("", "cpu.stat") {
            return value(&stat, "usage_usec").map(Duration::from_micros);
        }
        let nanoseconds = self.file("cpuacct", "cpuacct.usage")?;
        Some(Duration::from_nanos(nanoseconds.trim().parse().ok()?))
    }

    fn memory(&self) -> Option<u64> {
        let (version, usage, inactive) = match self.file("", "memory.current") {
            Some(usage) => ("", usage, "inactive_file"),
            None => (
                "memory",
                self.file("memory", "memory.usage_in_bytes")?,
                "total_inactive_file",
            ),
        };
        let stat = self.file(version, "memory.stat")?;
        let usage: u64 = usage.trim().parse().ok()?;
        Some(usage.saturating_sub(value(&stat, inactive).unwrap_or(0)))
    }
}

/// What a line of `mountinfo` shows of a hierarchy with these controllers, and where.
fn shows(line: &str, names: &[String]) -> Option<(PathBuf, PathBuf)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (shown, point) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let fits = match right.next()? {
        "cgroup2" => names.iter().all(String::is_empty),
        "cgroup" => {
            let options = right.nth(1)?;
            options
                .split(',')
                .any(|option| names.iter().any(|name| name == option))
        }
        _ => false,
    };
    fits.then(|| (PathBuf::from(shown), PathBuf::from(point)))
}

/// The number behind a name in a file of `name number` lines.
fn value(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_summed_up_without_loopback() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets\n    \
                    lo: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n  \
                    eth0: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n  \
                    eth1: 1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(sum_interfaces(text), (101, 202));
    }

    #[test]
    fn only_groups_of_its_own_count() {
        let mounts = "1 0 0:1 / /cg/memory rw - cgroup cgroup rw,memory\n\
                      2 0 0:2 / /cg/unified rw - cgroup2 cgroup2 rw\n\
                      3 0 0:3 /outer /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        let groups = "4:memory:/a/rbuild-1-2-3\n3:cpu,cpuacct:/outer/rbuild-1-2-3\n0::/session\n";
        let groups = Groups::parse(mounts, groups);
        let found: Vec<_> = groups
            .directories
            .iter()
            .map(|(_, directory)| directory.to_str().unwrap())
            .collect();
        assert_eq!(found, ["/cg/memory/a/rbuild-1-2-3", "/cg/cpu/rbuild-1-2-3"]);
    }

    #[test]
    fn this_process_uses_something() {
        let mut usage = Usage::default();
        add(&mut usage, std::process::id());
        assert!(usage.memory > 1 << 20 && usage.tasks >= 1, "{usage:?}");
    }
}
