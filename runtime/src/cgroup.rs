//! Control groups: one per sandbox that has limits, on whichever hierarchy holds the controller.
//!
//! A group is a directory named `rbuild-PID-START-N` after the spawner that made it, in the root of
//! the version 2 hierarchy, or below the spawner's own group for each controller of version 1. Hosts
//! with both at once are served controller by controller. Groups of spawners that are gone are
//! recognised by their name and removed by the next one that makes a group.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, mkdirat, statfs};
use rustix::mount::MountAttrFlags;

use crate::mount::{FileSystem, open_path};
use crate::spec::{Limits, Swap};
use crate::wire::{InStep as _, Step};

/// Scheduling period of processor limits in microseconds, as everybody uses it.
const CPU_PERIOD: u32 = 100_000;

/// `statfs` type of the version 2 hierarchy.
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

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
        let name = format!("{}-{number}", owner_name());
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
                .and_then(|home| cgroup.add(controller, &home, &name, limits));
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
            enable(parent, controller)?;
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
}

/// One file of a controller with its value.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    name: &'static str,
    value: String,
}

fn concerns(controller: Controller, limits: &Limits) -> bool {
    match controller {
        Controller::Memory => limits.memory.is_some(),
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
fn settings(controller: Controller, limits: &Limits, unified: bool, parent: &Path) -> Vec<Setting> {
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

fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Lets groups below `parent` use a controller.
fn enable(parent: &Path, controller: Controller) -> Result<(), String> {
    let file = parent.join("cgroup.subtree_control");
    let name = controller.name();
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    if enabled.split_whitespace().any(|word| word == name) {
        return Ok(());
    }
    let explain = |error: io::Error| format!("{}: {error}", file.display());
    match fs::write(&file, format!("+{name}")) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            // A group with processes of its own cannot have limited groups in it: they go aside.
            move_aside(parent)?;
            fs::write(&file, format!("+{name}")).map_err(explain)
        }
        result => result.map_err(explain),
    }
}

/// Moves all processes of a group into a group below it.
fn move_aside(parent: &Path) -> Result<(), String> {
    let aside = parent.join(format!("{}-supervisor", owner_name()));
    let explain = |error: io::Error| format!("{}: {error}", aside.display());
    match fs::create_dir(&aside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(explain(error)),
        _ => {}
    }
    let processes = fs::read_to_string(parent.join("cgroup.procs")).map_err(explain)?;
    for process in processes.lines() {
        match fs::write(aside.join("cgroup.procs"), process) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            result => result.map_err(explain)?,
        }
    }
    Ok(())
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

/// The hierarchies that are mounted, with the place for new groups in each.
#[derive(Debug, Default)]
struct Hierarchies {
    unified: Option<PathBuf>,
    /// Our own group in it.
    own: Option<PathBuf>,
    /// Names of controllers and the directory.
    legacy: Vec<(Vec<String>, PathBuf)>,
}

impl Hierarchies {
    fn of_this_process() -> Self {
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
            .map(|(root, own)| root.join(own));
        found
    }

    fn home(&self, controller: Controller) -> Option<Home> {
        let name = controller.name();
        if let Some(root) = &self.unified {
            let offered = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            if offered.split_whitespace().any(|word| word == name) {
                // Without rights at the root, below our own group: that may be given to this user.
                let home = match &self.own {
                    Some(own) if !is_writable(root) => own.clone(),
                    _ => root.clone(),
                };
                return Some(Home::Unified(home));
            }
        }
        let (_, directory) = self
            .legacy
            .iter()
            .find(|(options, _)| options.iter().any(|option| option == name))?;
        Some(Home::Legacy(directory.clone()))
    }

    /// Removes groups of spawners that are gone.
    fn remove_leftovers(&self) {
        let directories = self
            .unified
            .iter()
            .chain(self.legacy.iter().map(|(_, path)| path));
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

fn owner_is_gone(name: &str, proc: &Path) -> bool {
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

/// Mounts what the sandbox sees at `/sys/fs/cgroup`.
///
/// With version 2 its own group. With version 1 the controllers that limit it, so that programs
/// which size themselves by their limits find them; nothing without limits.
pub(crate) fn mount_view(
    target: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    cgroup: Option<&Cgroup>,
) -> Step<()> {
    let step = "mount /sys/fs/cgroup";
    let unified = statfs("/sys/fs/cgroup").is_ok_and(|found| found.f_type == CGROUP2_SUPER_MAGIC);
    if unified {
        let view = FileSystem::new("cgroup2")?.mount(attributes)?;
        return view.attach(target).step(step);
    }
    let Some(cgroup) = cgroup.filter(|cgroup| !cgroup.legacy.is_empty()) else {
        return Ok(());
    };
    let tmpfs = FileSystem::new("tmpfs")?;
    tmpfs.option(c"mode", "0755")?;
    let parent = tmpfs.mount(attributes - crate::mount::READ_ONLY)?;
    parent.attach(target).step(step)?;
    for (controller, _) in &cgroup.legacy {
        let (name, key) = match controller {
            Controller::Memory => ("memory", c"memory"),
            Controller::Cpu => ("cpu", c"cpu"),
            Controller::Cpuset => ("cpuset", c"cpuset"),
            Controller::Pids => ("pids", c"pids"),
        };
        mkdirat(&parent, name, Mode::from_raw_mode(0o755)).step(step)?;
        let context = FileSystem::new("cgroup")?;
        context.flag(key)?;
        let view = context.mount(attributes)?;
        let place = open_path(std::os::fd::AsFd::as_fd(&parent), Path::new(name)).step(step)?;
        view.attach(&place).step(step)?;
    }
    parent.set(attributes).step(step)
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

    #[test]
    fn limits_are_written_in_the_words_of_each_version() {
        let limits = Limits {
            memory: Some(100),
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
            ["memory.max=100", "memory.swap.max=20"]
        );
        assert_eq!(
            written(Controller::Memory, false),
            [
                "memory.limit_in_bytes=100",
                "memory.memsw.limit_in_bytes=120"
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
