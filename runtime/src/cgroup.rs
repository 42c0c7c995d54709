//! Control groups: one per sandbox that has limits, on whichever hierarchy holds the controller.
//!
//! A group is a directory named `rbuild-PID-START-N` after the spawner that made it, in the root of
//! the version 2 hierarchy or else in the nearest group above the spawner that is this user's, or below the
//! spawner's own group for each controller of version 1. Hosts with both at once are served controller
//! by controller. Groups of spawners that are gone are
//! recognised by their name and removed by the next one that makes a group.

mod change;
mod hierarchies;
mod owner;
mod room;
mod settings;
mod view;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::spec::Limits;
pub(crate) use change::change;
use hierarchies::Hierarchies;
pub(crate) use hierarchies::describe;
pub(crate) use owner::owner_name;
use room::enable_down;
pub(crate) use room::{ASIDE, make_room};
use settings::{Setting, concerns, settings};
pub(crate) use view::{is_unified, mount_view};

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Memory,
    Cpu,
    Cpuset,
    Pids,
}

impl Controller {
    const ALL: [Self; 4] = [Self::Memory, Self::Cpu, Self::Cpuset, Self::Pids];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
        }
    }
}

/// Where a controller is served.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Home {
    /// Directory in the version 2 hierarchy that new groups go in.
    Unified(PathBuf),
    /// The same in the version 1 hierarchy of this controller.
    Legacy(PathBuf),
}

impl Home {
    /// The mount point of the hierarchy.
    fn root(&self) -> &Path {
        let (Self::Unified(directory) | Self::Legacy(directory)) = self;
        let is_root = |directory: &&Path| {
            directory
                .parent()
                .is_none_or(|parent| !parent.join("cgroup.procs").exists())
        };
        directory.ancestors().find(is_root).unwrap_or(directory)
    }

    /// Another directory of the same hierarchy.
    fn at(&self, directory: PathBuf) -> Self {
        match self {
            Self::Unified(_) => Self::Unified(directory),
            Self::Legacy(_) => Self::Legacy(directory),
        }
    }
}

/// The control group of one sandbox.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// One directory for all controllers of version 2, one each for those of version 1.
    directories: Vec<PathBuf>,
    legacy: Vec<(Controller, PathBuf)>,
    memory: Option<Home>,
    /// Groups above that were made for this one.
    parents: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes a group with these limits. What the host cannot limit is returned as warnings.
    pub(crate) fn create(limits: &Limits) -> (Option<Self>, Vec<String>) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let hierarchies = Hierarchies::of_this_process();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            hierarchies.remove_leftovers();
        }
        Self::create_in(&hierarchies, &format!("{}-{number}", owner_name()), limits)
    }

    fn create_in(
        hierarchies: &Hierarchies,
        name: &str,
        limits: &Limits,
    ) -> (Option<Self>, Vec<String>) {
        let mut cgroup = Self {
            directories: Vec::new(),
            legacy: Vec::new(),
            memory: None,
            parents: Vec::new(),
        };
        let mut warnings = Vec::new();
        for controller in Controller::ALL {
            if !concerns(controller, limits) {
                continue;
            }
            let made = hierarchies
                .home(controller)
                .ok_or_else(|| format!("this host has no {} controller", controller.name()))
                .and_then(|home| cgroup.below(home, limits.parent.as_deref()))
                .and_then(|home| cgroup.add(controller, &home, name, limits));
            if let Err(why) = made {
                warnings.push(format!(
                    "the {} limit is not in force: {why}",
                    controller.name()
                ));
            }
        }
        let any = !cgroup.directories.is_empty();
        (any.then_some(cgroup), warnings)
    }

    fn add(
        &mut self,
        controller: Controller,
        home: &Home,
        name: &str,
        limits: &Limits,
    ) -> Result<(), String> {
        let explain = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let (parent, unified) = match home {
            Home::Unified(parent) => (parent, true),
            Home::Legacy(parent) => (parent, false),
        };
        if unified {
            enable_down(home.root(), parent, controller)?;
        }
        let directory = parent.join(name);
        if !self.directories.contains(&directory) {
            fs::create_dir(&directory).map_err(|error| explain(&directory, error))?;
            self.directories.push(directory.clone());
        }
        for Setting { name, value } in settings(controller, limits, unified, parent) {
            let file = directory.join(name);
            match fs::write(&file, value) {
                Ok(()) => {}
                // Without swap accounting the file is not there.
                Err(error) if name.contains("sw") && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(explain(&file, error)),
            }
        }
        if controller == Controller::Memory {
            self.memory = Some(match home {
                Home::Unified(_) => Home::Unified(directory.clone()),
                Home::Legacy(_) => Home::Legacy(directory.clone()),
            });
        }
        if !unified {
            self.legacy.push((controller, directory));
        }
        Ok(())
    }

    /// Goes down to a group below the root of a hierarchy, making what is missing of it.
    fn below(&mut self, home: Home, parent: Option<&str>) -> Result<Home, String> {
        let Some(parent) = parent else {
            return Ok(home);
        };
        let mut directory = home.root().to_path_buf();
        for name in parent.split('/') {
            directory.push(name);
            match fs::create_dir(&directory) {
                // Removed with the group, the innermost first, if nobody else uses it.
                Ok(()) => self.parents.insert(0, directory.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(format!("{}: {error}", directory.display())),
            }
        }
        Ok(home.at(directory))
    }

    /// Its directories, and those above that were made for it, the innermost first.
    pub(crate) fn places(&self) -> Vec<PathBuf> {
        self.directories
            .iter()
            .chain(&self.parents)
            .cloned()
            .collect()
    }

    /// Moves the calling process into the group; returns what did not work.
    pub(crate) fn join(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for directory in &self.directories {
            // Process 0 means the writer, whatever its number in whichever namespace.
            if let Err(error) = fs::write(directory.join("cgroup.procs"), "0") {
                warnings.push(format!(
                    "a limit is not in force: could not enter {}: {error}",
                    directory.display()
                ));
            }
        }
        warnings
    }

    /// Says whether the kernel has killed a process of the group for want of memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        let file = match &self.memory {
            None => return false,
            Some(Home::Unified(directory)) => directory.join("memory.events"),
            Some(Home::Legacy(directory)) => directory.join("memory.oom_control"),
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| {
            line.strip_prefix("oom_kill ")
                .is_some_and(|count| count.trim() != "0")
        })
    }

    /// Removes the group. Returns it if the kernel has not quite let go of its processes.
    pub(crate) fn remove(mut self) -> Option<Self> {
        self.directories
            .retain(|directory| match fs::remove_dir(directory) {
                Ok(()) => false,
                Err(error) => error.raw_os_error() == Some(libc::EBUSY),
            });
        if self.directories.is_empty() {
            for parent in &self.parents {
                // Somebody else may be in it by now.
                let _ = fs::remove_dir(parent);
            }
            return None;
        }
        Some(self)
    }

    /// Removes groups as soon as the kernel has let go of their processes, which takes it some moments
    /// after they were collected, and tells nobody for version 1. What is busy after two seconds is found
    /// by its name one day.
    pub(crate) fn remove_soon(mut groups: Vec<Self>) {
        let pauses = (0..11).map(|doubled| std::time::Duration::from_millis(1 << doubled));
        for pause in pauses {
            groups = groups.into_iter().filter_map(Self::remove).collect();
            if groups.is_empty() {
                return;
            }
            std::thread::sleep(pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Swap;

    fn made_up(controllers: &str) -> (tempfile::TempDir, Hierarchies) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(root.path().join("cgroup.subtree_control"), "").unwrap();
        fs::write(root.path().join("cgroup.procs"), "").unwrap();
        let hierarchies = Hierarchies::unified(root.path());
        (root, hierarchies)
    }

    fn limits() -> Limits {
        Limits {
            memory: Some(64 << 20),
            swap: Swap::Bytes(0),
            cpus: Some(0.5),
            cpuset_cpus: Some("0".into()),
            pids: Some(20),
            ..Limits::default()
        }
    }

    #[test]
    fn one_directory_of_version_2_holds_all_limits() {
        let (root, hierarchies) = made_up("cpuset cpu memory pids");
        let (cgroup, warnings) = Cgroup::create_in(&hierarchies, "group", &limits());
        let cgroup = cgroup.unwrap();
        assert_eq!(warnings, [""; 0]);
        let group = root.path().join("group");
        assert_eq!(cgroup.directories, [group.as_path()]);
        assert!(cgroup.legacy.is_empty());
        let read = |name: &str| fs::read_to_string(group.join(name)).unwrap();
        assert_eq!(read("memory.max"), (64 << 20).to_string());
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("cpu.max"), "50000 100000");
        assert_eq!(read("cpuset.cpus"), "0");
        assert_eq!(read("pids.max"), "20");
        // The last controller that was handed down.
        let handed = fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(handed, "+pids");
        assert_eq!(cgroup.join(), [""; 0]);
        assert_eq!(read("cgroup.procs"), "0");
        for (events, killed) in [("oom 1\noom_kill 0\n", false), ("oom_kill 2\n", true)] {
            fs::write(group.join("memory.events"), events).unwrap();
            assert_eq!(cgroup.out_of_memory(), killed, "{events}");
        }
    }

    #[test]
    fn a_controller_that_is_not_there_is_told_and_the_others_hold() {
        let (root, hierarchies) = made_up("pids");
        let (cgroup, warnings) = Cgroup::create_in(&hierarchies, "group", &limits());
        assert!(root.path().join("group/pids.max").exists());
        assert!(!root.path().join("group/memory.max").exists());
        assert_eq!(cgroup.unwrap().directories.len(), 1);
        let told = "the memory limit is not in force: this host has no memory controller";
        assert_eq!(warnings.len(), 3);
        assert_eq!(warnings[0], told);
    }

    #[test]
    fn a_parent_is_made_and_removed_with_the_group() {
        let (root, hierarchies) = made_up("pids");
        let limits = Limits {
            pids: Some(20),
            parent: Some("a/b".into()),
            ..Limits::default()
        };
        let (cgroup, warnings) = Cgroup::create_in(&hierarchies, "group", &limits);
        assert_eq!(warnings, [""; 0]);
        let group = root.path().join("a/b/group");
        for file in fs::read_dir(&group).unwrap() {
            // Those of the kernel need not be removed.
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        let _ = fs::remove_file(root.path().join("a/b/cgroup.subtree_control"));
        assert!(cgroup.unwrap().remove().is_none());
        assert!(!root.path().join("a").exists());
    }
}
