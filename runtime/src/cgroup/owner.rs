//! Whose a group is: its name tells, and so others know that nobody needs it any more.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

/// `rbuild-PID-START` of this process, with the process id as the host's `/proc` has it.
pub(crate) fn owner_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let pid = stat.split(' ').next().unwrap_or("0");
        format!("rbuild-{pid}-{}", start_time(&stat).unwrap_or("0"))
    })
}

/// Start time of a process in clock ticks since boot: the 22nd field, the 20th after the name.
fn start_time(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)
}

pub(super) fn owner_is_gone(name: &str, proc: &Path) -> bool {
    let mut fields = name.strip_prefix("rbuild-").unwrap_or_default().split('-');
    let (Some(pid), Some(start)) = (fields.next(), fields.next()) else {
        return false;
    };
    let numbers = [pid, start]
        .iter()
        .all(|field| !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit()));
    if !numbers {
        return false;
    }
    match fs::read_to_string(proc.join(pid).join("stat")) {
        Ok(stat) => start_time(&stat) != Some(start),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_of_dead_spawners_are_leftovers() {
        let directory = tempfile::tempdir().unwrap();
        let process = directory.path().join("17");
        fs::create_dir(&process).unwrap();
        let fields: Vec<String> = (3..30).map(|field| field.to_string()).collect();
        fs::write(
            process.join("stat"),
            format!("17 (a) b) {}", fields.join(" ")),
        )
        .unwrap();
        let gone = |name| owner_is_gone(name, directory.path());
        assert!(!gone("rbuild-17-22-0"));
        assert!(gone("rbuild-17-23-0"), "another process with that number");
        assert!(gone("rbuild-18-22-0"));
        assert!(!gone("rbuild-x-22"));
        assert!(!gone("rbuild-"));
        assert!(!gone("system.slice"));
    }
}
