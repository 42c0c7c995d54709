//! The processes of a sandbox, seen from outside.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys;

/// Numbers of the processes of the sandbox whose first process is `first`, in ascending order.
///
/// Those in its pid namespace, whoever started them, and all that descend from them: a pid namespace
/// in the sandbox is a part of it.
pub fn of_sandbox(first: u32) -> Vec<u32> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(own) = namespace(first) else {
        return Vec::new();
    };
    let mut all = all();
    let mut found: HashSet<u32> = all
        .iter()
        .map(|(pid, _)| *pid)
        .filter(|pid| namespace(*pid).as_ref() == Some(&own))
        .collect();
    loop {
        let before = found.len();
        all.retain(|(pid, parent)| {
            if found.contains(parent) {
                found.insert(*pid);
            }
            !found.contains(pid)
        });
        if found.len() == before {
            break;
        }
    }
    let mut found: Vec<u32> = found.into_iter().collect();
    found.sort_unstable();
    found
}

/// Sends a signal to a process; one that has ended needs none.
pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    let Some(number) = Pid::from_raw(pid.cast_signed()) else {
        return Ok(());
    };
    let sent = pidfd_open(number, PidfdFlags::empty())
        .map_err(io::Error::from)
        .and_then(|process| sys::send_signal(process.as_fd(), signal));
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        sent => sent,
    }
}

/// Number and parent of every process in sight.
fn all() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let of = |name: &str| -> Option<(u32, u32)> {
        let pid = name.parse().ok()?;
        Some((pid, stat(pid)?.get(1)?.parse().ok()?))
    };
    entries
        .filter_map(|entry| of(entry.ok()?.file_name().to_str()?))
        .collect()
}

/// The fields of `/proc/PID/stat` behind the name, which may hold anything: the state comes first.
pub(crate) fn stat(pid: u32) -> Option<Vec<String>> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = fs::read_to_string(path).ok()?;
    let fields = text.rsplit_once(") ")?.1.split_whitespace();
    Some(fields.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_those_of_its_namespace() {
        let own = std::process::id();
        let found = of_sandbox(own);
        assert!(found.contains(&own));
        assert!(found.is_sorted());
        assert!(of_sandbox(u32::MAX).is_empty());
    }

    #[test]
    fn the_state_comes_first() {
        let fields = stat(std::process::id()).unwrap();
        assert!(["R", "S"].contains(&fields[0].as_str()), "{fields:?}");
    }
}
