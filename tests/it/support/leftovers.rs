//! Finds processes and mounts that belong to a test's directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long processes that were told to die may take on a loaded machine.
const GRACE: Duration = Duration::from_secs(10);

/// Waits until nothing of `directory` runs or is mounted; returns what is left after the grace.
pub(crate) fn wait_until_gone(directory: &Path) -> Vec<String> {
    let needle = directory.to_str().unwrap();
    let deadline = Instant::now() + GRACE;
    loop {
        let left = find(needle);
        if left.is_empty() || Instant::now() > deadline {
            return left.into_iter().collect();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes whose command line, environment or mounts name `needle`, and mounts here that do.
fn find(needle: &str) -> BTreeSet<String> {
    let mut left = BTreeSet::new();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        if line.contains(needle) {
            left.insert(format!("mount: {line}"));
        }
    }
    for entry in fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap_or_default();
        if name
            .parse::<u32>()
            .is_ok_and(|pid| pid != std::process::id())
            && let Some(reason) = names(&name, needle)
        {
            left.insert(reason);
        }
    }
    left
}

/// Says how process `pid` has to do with `needle`, if it has. Processes may vanish meanwhile.
fn names(pid: &str, needle: &str) -> Option<String> {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
    for file in ["cmdline", "environ", "mountinfo"] {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        if String::from_utf8_lossy(&bytes).contains(needle) {
            return Some(format!("process {pid} (by its {file}): {command_line}"));
        }
    }
    None
}
