//! Standing still: all processes of a sandbox, until they are told to go on.
//!
//! A control group of version 2 stops them all at once, unnoticed by themselves, and a frozen process
//! can still be killed. A sandbox that has no such group of its own is moved into one meanwhile. Where
//! there is none to be had (no version 2, or no right to it) each process gets `SIGSTOP`: whoever waits
//! for a child in the sandbox may notice that.
//!
//! The freezer of version 1 is not used: a process in it does not even end by `SIGKILL`, so a sandbox
//! whose monitor was killed would be there for ever.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use serde::{Deserialize, Serialize};

use crate::cgroup::owner_name;
use crate::processes;

/// How long processes may take to stand still; one that waits for a disk does so when it is done.
const PATIENCE: Duration = Duration::from_secs(10);

/// Processes that stand still.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Frozen {
    /// By the sandbox's own group.
    Own(PathBuf),
    /// By a group made for that; the other directory is where they were.
    Moved { group: PathBuf, home: PathBuf },
    /// By signals.
    Stopped,
}

/// Has the sandbox with this first process stand still.
pub(crate) fn freeze(first: u32) -> io::Result<Frozen> {
    if let Some((root, sandbox, own)) = groups(first) {
        if sandbox != own && is_ours(&sandbox) {
            hold(&sandbox)?;
            return Ok(Frozen::Own(sandbox));
        }
        let name = format!("{}-paused", owner_name());
        for parent in [&root, &own] {
            let group = parent.join(&name);
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let moved = move_all(first, &group).and_then(|()| hold(&group));
            let frozen = Frozen::Moved {
                group,
                home: sandbox.clone(),
            };
            match moved {
                Ok(()) => return Ok(frozen),
                Err(_) => frozen.thaw(first)?,
            }
        }
    }
    stop(first)?;
    Ok(Frozen::Stopped)
}

impl Frozen {
    /// How that was done, if it was not done as well as it can be.
    pub(crate) fn note(&self) -> Option<&'static str> {
        match self {
            Frozen::Stopped => Some(
                "no control group of version 2 can be used here: its processes were stopped by \
                 SIGSTOP, which a process that waits for another one may notice",
            ),
            _ => None,
        }
    }

    /// Lets them go on.
    pub(crate) fn thaw(self, first: u32) -> io::Result<()> {
        match self {
            Frozen::Own(group) => fs::write(group.join("cgroup.freeze"), "0"),
            Frozen::Moved { group, home } => {
                fs::write(group.join("cgroup.freeze"), "0")?;
                move_between(&group, &home)?;
                fs::remove_dir(group)
            }
            Frozen::Stopped => {
                for pid in processes::of_sandbox(first) {
                    send(pid, Signal::CONT);
                }
                Ok(())
            }
        }
    }

    /// Removes what is left when the sandbox has ended.
    pub(crate) fn discard(self) {
        if let Frozen::Moved { group, .. } = self {
            // The next spawner removes what cannot be removed now.
            let _ = fs::remove_dir(group);
        }
    }
}

/// The standing still of a sandbox, for those who keep it between two processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StandStill(Frozen);

impl StandStill {
    /// Has the sandbox with this first process stand still.
    pub fn begin(first: u32) -> io::Result<StandStill> {
        freeze(first).map(StandStill)
    }

    /// Lets it go on.
    pub fn end(self, first: u32) -> io::Result<()> {
        self.0.thaw(first)
    }
}

/// The root of the hierarchy, the sandbox's group and our own.
fn groups(first: u32) -> Option<(PathBuf, PathBuf, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let root = mounts.lines().find_map(mount_point)?;
    let group = |process: &str| -> Option<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        Some(root.join(path))
    };
    let (sandbox, own) = (group(&first.to_string())?, group("self")?);
    Some((root, sandbox, own))
}

/// Where a line of `mountinfo` says that a hierarchy of version 2 is mounted.
fn mount_point(line: &str) -> Option<PathBuf> {
    let (left, right) = line.split_once(" - ")?;
    if !right.starts_with("cgroup2 ") {
        return None;
    }
    left.split(' ').nth(4).map(PathBuf::from)
}

fn is_ours(group: &Path) -> bool {
    let name = group.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with("rbuild-")
}

/// Moves all processes of a sandbox into a group, also those that are born meanwhile.
fn move_all(first: u32, group: &Path) -> io::Result<()> {
    loop {
        let inside = members(group)?;
        let outside = processes::of_sandbox(first);
        let mut outside = outside
            .iter()
            .filter(|pid| !inside.contains(pid))
            .peekable();
        if outside.peek().is_none() {
            return Ok(());
        }
        for pid in outside {
            enter(group, *pid)?;
        }
    }
}

fn move_between(from: &Path, to: &Path) -> io::Result<()> {
    loop {
        let members = members(from)?;
        if members.is_empty() {
            return Ok(());
        }
        for pid in members {
            enter(to, pid)?;
        }
    }
}

fn members(group: &Path) -> io::Result<Vec<u32>> {
    let text = fs::read_to_string(group.join("cgroup.procs"))?;
    // 0 is a process that this one cannot see.
    Ok(text
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid != 0)
        .collect())
}

fn enter(group: &Path, pid: u32) -> io::Result<()> {
    match fs::write(group.join("cgroup.procs"), pid.to_string()) {
        // It has ended meanwhile.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        done => done,
    }
}

/// Freezes a group and waits until all of it stands still; else it goes on.
fn hold(group: &Path) -> io::Result<()> {
    let mut events = File::open(group.join("cgroup.events"))?;
    fs::write(group.join("cgroup.freeze"), "1")?;
    let until = Instant::now() + PATIENCE;
    loop {
        let mut text = String::new();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if text.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        let time = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut changed = [PollFd::new(&events, PollFlags::PRI)];
        let woken = rustix::io::retry_on_intr(|| poll(&mut changed, Some(&time)))?;
        if woken == 0 {
            fs::write(group.join("cgroup.freeze"), "0")?;
            return Err(not_in_time());
        }
    }
}

fn not_in_time() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "its processes do not stand still: one of them waits in the kernel",
    )
}

/// Stops all processes by signals; none of them may be left to start another one.
fn stop(first: u32) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let moving: Vec<u32> = processes::of_sandbox(first)
            .into_iter()
            .filter(|pid| {
                let state = processes::stat(*pid).and_then(|fields| fields.into_iter().next());
                state.is_some_and(|state| !matches!(state.as_str(), "T" | "t" | "Z" | "X"))
            })
            .collect();
        if moving.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            for pid in processes::of_sandbox(first) {
                send(pid, Signal::CONT);
            }
            return Err(not_in_time());
        }
        for pid in moving {
            send(pid, Signal::STOP);
        }
        // The kernel tells nobody but the parent when a process has stopped.
        std::thread::yield_now();
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // One that has ended meanwhile needs none.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_beside_those_of_version_1() {
        let line = "42 31 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        assert_eq!(
            mount_point(line),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        let other = "41 31 0:26 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids";
        assert_eq!(mount_point(other), None);
    }
}
