//! Where groups can be made: the hierarchies that are mounted, and our own places in them.

use std::fs;
use std::path::{Path, PathBuf};

use super::owner::owner_is_gone;
use super::room::{ASIDE, hands_down};
use super::{Controller, Home};

/// The hierarchies that are mounted, with the place for new groups in each.
#[derive(Debug, Default)]
pub(super) struct Hierarchies {
    unified: Option<PathBuf>,
    /// Our own group in it.
    own: Option<PathBuf>,
    /// Names of controllers and the directory.
    legacy: Vec<(Vec<String>, PathBuf)>,
}

impl Hierarchies {
    /// A hierarchy of version 2 that a test has made.
    #[cfg(test)]
    pub(super) fn unified(root: &Path) -> Self {
        Self {
            unified: Some(root.to_path_buf()),
            ..Self::default()
        }
    }

    pub(super) fn of_this_process() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::parse(&mounts, &groups)
    }

    /// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`.
    fn parse(mounts: &str, groups: &str) -> Self {
        let mut found = Self::default();
        let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut left = left.split(' ').skip(3);
            let (Some(shown), Some(point)) = (left.next(), left.next()) else {
                continue;
            };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") if found.unified.is_none() => found.unified = Some(point.into()),
                Some("cgroup") => {
                    let options: Vec<String> = right
                        .nth(1)
                        .unwrap_or_default()
                        .split(',')
                        .map(str::to_owned)
                        .collect();
                    let group = own_group(groups, &options).unwrap_or_default();
                    // The mount shows the hierarchy from `shown` on; a group outside is out of sight.
                    let below = Path::new(group)
                        .strip_prefix(shown)
                        .unwrap_or(Path::new(""));
                    let directory = Path::new(point).join(below);
                    let directory = if directory.is_dir() {
                        directory
                    } else {
                        PathBuf::from(point)
                    };
                    found.legacy.push((options, directory));
                }
                _ => {}
            }
        }
        found.own = found
            .unified
            .as_deref()
            .zip(own)
            .map(|(root, own)| root.join(before_it_was_moved(own)));
        found
    }

    /// As [`of_this_process`](Self::of_this_process), with the groups of another one.
    pub(super) fn of_process(pid: u32) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Self::parse(&mounts, &groups)
    }

    /// The group of the process that this was read of, and whether it is one of version 2.
    pub(super) fn group(&self, controller: Controller) -> Option<(PathBuf, bool)> {
        let name = controller.name();
        if let Some(own) = &self.own {
            let offered = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
            if offered.split_whitespace().any(|word| word == name) {
                return Some((own.clone(), true));
            }
        }
        let mut legacy = self.legacy.iter();
        let found = legacy.find(|(options, _)| options.iter().any(|option| option == name));
        found.map(|(_, directory)| (directory.clone(), false))
    }

    pub(super) fn home(&self, controller: Controller) -> Option<Home> {
        let name = controller.name();
        if let Some(root) = &self.unified {
            let offered = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            if offered.split_whitespace().any(|word| word == name) {
                return Some(Home::Unified(self.place(root, controller)));
            }
        }
        let (_, directory) = self
            .legacy
            .iter()
            .find(|(options, _)| options.iter().any(|option| option == name))?;
        Some(Home::Legacy(directory.clone()))
    }

    /// Where new groups of version 2 go: the root if it is ours, else the nearest group above us that is
    /// (given to this user, by systemd for example) and hands the controller down, for such a one
    /// has no processes that would be in the way; else our own group.
    fn place(&self, root: &Path, controller: Controller) -> PathBuf {
        let Some(own) = &self.own else {
            return root.to_path_buf();
        };
        if is_writable(root) {
            return root.to_path_buf();
        }
        let given = |directory: &&Path| {
            // Who moves a process needs this right where the ways of the two groups part.
            is_writable(directory)
                && is_writable(&directory.join("cgroup.procs"))
                && hands_down(directory, controller)
        };
        let mut above = own.ancestors().take_while(|group| group.starts_with(root));
        above.find(given).unwrap_or(own).to_path_buf()
    }

    /// Removes groups of spawners that are gone.
    pub(super) fn remove_leftovers(&self) {
        let own = self.own.iter().flat_map(|own| own.ancestors());
        let root = self.unified.as_deref();
        let directories = own
            .take_while(|group| root.is_some_and(|root| group.starts_with(root)))
            .chain(root)
            .chain(self.legacy.iter().map(|(_, path)| path.as_path()));
        for directory in directories {
            let Ok(entries) = fs::read_dir(directory) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                if name
                    .to_str()
                    .is_some_and(|name| owner_is_gone(name, Path::new("/proc")))
                {
                    // Its processes died with its spawner; if not, the next one tries again.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

/// The group that a process was in before it had to make room for groups with limits.
fn before_it_was_moved(group: &str) -> &str {
    let (above, name) = group.rsplit_once('/').unwrap_or(("", group));
    if name.starts_with("rbuild-") && name.ends_with(ASIDE) {
        above
    } else {
        group
    }
}

/// Finds the group of this process in the hierarchy with these controllers.
fn own_group<'g>(groups: &'g str, options: &[String]) -> Option<&'g str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        names
            .split(',')
            .any(|name| options.iter().any(|option| option == name))
            .then_some(path)
    })
}

/// Says which limits can be held here, and by which version.
pub(crate) fn describe() -> Result<String, String> {
    let hierarchies = Hierarchies::of_this_process();
    let found: Vec<String> = Controller::ALL
        .iter()
        .filter_map(|&controller| {
            let version = match hierarchies.home(controller)? {
                Home::Unified(_) => "v2",
                Home::Legacy(_) => "v1",
            };
            Some(format!("{} ({version})", controller.name()))
        })
        .collect();
    if found.is_empty() {
        Err("no controller is mounted".into())
    } else {
        Ok(found.join(", "))
    }
}

fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
33 24 0:29 / /tmp rw - tmpfs tmpfs rw";

    #[test]
    fn who_was_moved_aside_has_the_group_of_before() {
        let mounts = "32 24 0:28 / /cg rw - cgroup2 cgroup2 rw";
        let own = |group: &str| Hierarchies::parse(mounts, &format!("0::/{group}\n")).own;
        assert_eq!(own("a/rbuild-1-2-supervisor"), Some("/cg/a".into()));
        assert_eq!(own("rbuild-1-2-supervisor"), Some("/cg/".into()));
        assert_eq!(own("a/b-supervisor"), Some("/cg/a/b-supervisor".into()));
        assert_eq!(own("a/rbuild-1-2-0"), Some("/cg/a/rbuild-1-2-0".into()));
    }

    #[test]
    fn both_versions_are_found_side_by_side() {
        let found = Hierarchies::parse(MOUNTS, "4:memory:/a/b\n3:cpu,cpuacct:/\n0::/x\n");
        assert_eq!(found.unified, Some("/sys/fs/cgroup/unified".into()));
        let memory = found.home(Controller::Memory);
        // The group `/a/b` does not exist on the machine of the test: the mount's root serves.
        assert_eq!(memory, Some(Home::Legacy("/sys/fs/cgroup/memory".into())));
        assert_eq!(
            found.home(Controller::Cpu),
            Some(Home::Legacy("/sys/fs/cgroup/cpu,cpuacct".into()))
        );
        assert_eq!(found.home(Controller::Pids), None);
        assert_eq!(
            own_group("4:memory:/a/b\n", &["rw".into(), "memory".into()]),
            Some("/a/b")
        );
    }
}
