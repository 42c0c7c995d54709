//! From a configuration of the OCI runtime specification to a sandbox.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rbuild_runtime::{
    CapabilitySet, Held, Joining, KernelSettings, Limits, Mount, MountSource, Namespace, Network,
    OfHost, Process, Rlimit, RlimitKind, RootFs, Sandbox, Seccomp, Security, Swap, TmpfsOptions,
    User, is_own_sysctl,
};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::config::{self, Config, not_supported, refuse};
use crate::container::capabilities;
use crate::failure::Failure;

/// What a sandbox of ours hides and protects in any case.
const HIDDEN: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const PROTECTED: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Devices that a sandbox of ours has in any case.
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
];

/// A sandbox, and what comes with it.
pub(super) struct Translated {
    pub(super) sandbox: Sandbox,
    pub(super) held: Held,
}

/// Translates a configuration; paths in it are relative to `bundle`.
pub(super) fn translate(config: &Config, bundle: &Path) -> Result<Translated, Failure> {
    refuse("", &config.other)?;
    refuse("hooks.", &config.hooks.other)?;
    refuse("linux.", &config.linux.other)?;
    let linux = &config.linux;
    match linux.rootfs_propagation.as_str() {
        "" | "private" | "rprivate" | "slave" | "rslave" => {}
        other => {
            return Err(not_supported(&format!(
                "`linux.rootfsPropagation` {other:?}"
            )));
        }
    }
    for device in &linux.devices {
        if !DEVICES.iter().any(|known| device.path == Path::new(known)) {
            return Err(not_supported(&format!(
                "the device `{}`",
                device.path.display()
            )));
        }
    }
    let (own, joined) = namespaces(config)?;
    let root = absolute(bundle, &config.root.path);
    let (mounts, shm_size) = mounts(config, bundle)?;
    let (process, rlimits) = process(&config.process)?;
    let mut security = security(config)?;
    security.masked_paths = !linux.masked_paths.is_empty() || !linux.readonly_paths.is_empty();
    let rest = |paths: &[PathBuf], known: &[&str]| -> Vec<PathBuf> {
        let is_known = |path: &Path| known.iter().any(|known| path == Path::new(known));
        paths
            .iter()
            .filter(|path| !is_known(path))
            .cloned()
            .collect()
    };
    let sandbox = Sandbox {
        kernel: settings(config, &own)?,
        mounts,
        hostname: config.hostname.clone(),
        network: if own.contains(&Namespace::Network) {
            Network::None
        } else {
            Network::Host
        },
        security,
        shm_size: shm_size.unwrap_or(Sandbox::DEFAULT_SHM_SIZE),
        rlimits,
        limits: limits(config)?,
        process,
        ..Sandbox::new(
            RootFs {
                readonly: config.root.readonly,
                plain: Some(root),
                ..RootFs::default()
            },
            [""; 0],
        )
    };
    let held = Held {
        own,
        joined,
        hidden: rest(&linux.masked_paths, &HIDDEN),
        protected: rest(&linux.readonly_paths, &PROTECTED),
        umask: config.process.user.umask.unwrap_or(0o022),
    };
    Ok(Translated { sandbox, held })
}

/// A path of the configuration.
pub(super) fn absolute(bundle: &Path, path: &Path) -> PathBuf {
    // An absolute one takes the place of the bundle.
    bundle.join(path)
}

type Namespaces = (Vec<Namespace>, Vec<(Namespace, PathBuf)>);

fn namespaces(config: &Config) -> Result<Namespaces, Failure> {
    let (mut own, mut joined) = (Vec::new(), Vec::new());
    for namespace in &config.linux.namespaces {
        let kind = match namespace.kind.as_str() {
            "cgroup" => Namespace::Cgroup,
            "ipc" => Namespace::Ipc,
            "mount" => Namespace::Mount,
            "network" => Namespace::Network,
            "pid" => Namespace::Pid,
            "uts" => Namespace::Uts,
            other => return Err(not_supported(&format!("the namespace `{other}`"))),
        };
        match namespace
            .path
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty())
        {
            None => own.push(kind),
            Some(_) if kind == Namespace::Mount => {
                return Err(not_supported("a mount namespace with a path"));
            }
            Some(path) => joined.push((kind, path.to_path_buf())),
        }
    }
    if !own.contains(&Namespace::Mount) {
        return Err(not_supported(
            "a container without a mount namespace of its own",
        ));
    }
    if !config.hostname.is_empty() && !own.contains(&Namespace::Uts) {
        return Err(not_supported(
            "`hostname` without a namespace `uts` of its own",
        ));
    }
    Ok((own, joined))
}

/// What runs, from `process` or from the file of `exec`.
pub(super) fn process(process: &config::Process) -> Result<(Process, Vec<Rlimit>), Failure> {
    refuse("process.", &process.other)?;
    if process.args.is_empty() {
        return Err(Failure::new(
            "the container's configuration names no command",
        ));
    }
    if !process.cwd.starts_with('/') {
        return Err(Failure::new(format!(
            "`process.cwd` {:?} is not an absolute path",
            process.cwd
        )));
    }
    let mut groups = vec![process.user.gid];
    groups.extend(
        process
            .user
            .additional_gids
            .iter()
            .filter(|gid| **gid != process.user.gid),
    );
    let rlimits = process.rlimits.iter().map(|limit| {
        let name = limit.kind.strip_prefix("RLIMIT_").unwrap_or(&limit.kind);
        let resource = RlimitKind::from_name(&name.to_ascii_lowercase())
            .ok_or_else(|| not_supported(&format!("the limit `{}`", limit.kind)))?;
        Ok(Rlimit {
            resource,
            soft: limit.soft,
            hard: limit.hard,
        })
    });
    let words = |words: &[String]| words.iter().map(OsString::from).collect();
    let translated = Process {
        args: words(&process.args),
        env: words(&process.env),
        cwd: PathBuf::from(&process.cwd),
        user: User {
            uid: process.user.uid,
            gid: process.user.gid,
            groups,
        },
        terminal: process.terminal,
    };
    Ok((translated, rlimits.collect::<Result<_, Failure>>()?))
}

/// The process of `exec` in a container with this configuration.
pub(super) fn joining(config: &Config, asked: &config::Process) -> Result<Joining, Failure> {
    let (process, rlimits) = process(asked)?;
    let mut of_process = config.clone();
    of_process.process = asked.clone();
    if asked.capabilities.is_none() {
        of_process
            .process
            .capabilities
            .clone_from(&config.process.capabilities);
    }
    Ok(Joining {
        process,
        security: security(&of_process)?,
        // Its namespace is joined, whichever it is.
        network: Network::None,
        of_host: OfHost::default(),
        rlimits,
    })
}

fn security(config: &Config) -> Result<Security, Failure> {
    let process = &config.process;
    let capabilities = match &process.capabilities {
        None => CapabilitySet::EMPTY,
        Some(sets) => {
            for (name, set) in [
                ("ambient", &sets.ambient),
                ("inheritable", &sets.inheritable),
            ] {
                if !set.is_empty() {
                    return Err(not_supported(&format!("`process.capabilities.{name}`")));
                }
            }
            let set = capabilities::combine(&sets.bounding, &["ALL".to_owned()])?;
            let held = |names: &[String]| capabilities::combine(names, &["ALL".to_owned()]);
            let permitted = held(&sets.permitted)?;
            // Root holds what is in the bounding set, others nothing, as after `execve`.
            if process.user.uid == 0 && (permitted != set || held(&sets.effective)? != set) {
                return Err(not_supported(
                    "a bounding set of capabilities other than the permitted and the effective one",
                ));
            }
            if process.user.uid != 0 && permitted != CapabilitySet::EMPTY && permitted != set {
                return Err(not_supported("`process.capabilities.permitted` of a user"));
            }
            set
        }
    };
    Ok(Security {
        capabilities,
        seccomp: seccomp(config, capabilities)?,
        no_new_privileges: process.no_new_privileges,
        ..Security::default()
    })
}

fn seccomp(config: &Config, capabilities: CapabilitySet) -> Result<Seccomp, Failure> {
    match &config.linux.seccomp {
        None => Ok(Seccomp::Unconfined),
        Some(profile) => {
            let text = serde_json::to_vec(profile)?;
            let profile =
                rbuild_runtime::SeccompProfile::parse(&text, capabilities).map_err(|error| {
                    Failure::new("`linux.seccomp` of the container's configuration cannot be used")
                        .because(&error)
                })?;
            Ok(Seccomp::Profile(profile))
        }
    }
}

/// Settings of the kernel that belong to the container's namespaces; others would be the host's.
fn settings(config: &Config, own: &[Namespace]) -> Result<KernelSettings, Failure> {
    for name in config.linux.sysctl.keys() {
        let network = own.contains(&Namespace::Network);
        let ipc = own.contains(&Namespace::Ipc) || name.starts_with("net.");
        if !ipc || !is_own_sysctl(name, network) {
            return Err(not_supported(&format!("the kernel setting `{name}`"))
                .hint("it must belong to a namespace of the container's own"));
        }
    }
    let settings = config.linux.sysctl.iter();
    Ok(KernelSettings {
        oom_score_adj: config.process.oom_score_adj,
        sysctls: settings
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    })
}

fn limits(config: &Config) -> Result<Limits, Failure> {
    let resources = &config.linux.resources;
    refuse("linux.resources.", &resources.other)?;
    refuse("linux.resources.memory.", &resources.memory.other)?;
    refuse("linux.resources.cpu.", &resources.cpu.other)?;
    let positive = |value: Option<i64>| value.filter(|value| *value > 0).map(i64::cast_unsigned);
    let memory = positive(resources.memory.limit);
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let path = config.linux.cgroups_path.trim_start_matches('/');
    if path.contains(':') {
        return Err(not_supported("`linux.cgroupsPath` in the form of systemd")
            .hint("use cgroupfs: `podman --cgroup-manager cgroupfs`"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(not_supported("`..` in `linux.cgroupsPath`"));
    }
    Ok(Limits {
        memory,
        memory_reservation: positive(resources.memory.reservation),
        swap: match (memory, resources.memory.swap) {
            (_, Some(..0)) => Swap::Unlimited,
            (Some(memory), Some(both)) => Swap::Bytes(both.cast_unsigned().saturating_sub(memory)),
            _ => Swap::AsMuchAgain,
        },
        cpu_shares: resources.cpu.shares.filter(|shares| *shares > 0),
        cpu_quota: positive(resources.cpu.quota),
        cpu_period: resources.cpu.period.filter(|period| *period > 0),
        cpuset_cpus: text(&resources.cpu.cpus),
        cpuset_mems: text(&resources.cpu.mems),
        pids: positive(resources.pids.limit),
        parent: Some(path.to_owned()).filter(|path| !path.is_empty()),
        ..Limits::default()
    })
}

/// The mounts, without those that every sandbox has, and the size of `/dev/shm`.
fn mounts(config: &Config, bundle: &Path) -> Result<(Vec<Mount>, Option<u64>), Failure> {
    let (mut mounts, mut shm_size) = (Vec::new(), None);
    let root = absolute(bundle, &config.root.path);
    for mount in &config.mounts {
        let place = mount.destination.display().to_string();
        refuse(&format!("mounts.{place}."), &mount.other)?;
        match (mount.kind.as_str(), place.trim_end_matches('/')) {
            ("proc", "/proc")
            | ("sysfs", "/sys")
            | ("tmpfs", "/dev")
            | ("devpts", "/dev/pts")
            | ("mqueue", "/dev/mqueue")
            | ("cgroup" | "cgroup2", "/sys/fs/cgroup") => {}
            ("tmpfs" | "shm", "/dev/shm") => {
                let size = mount
                    .options
                    .iter()
                    .find_map(|option| option.strip_prefix("size="));
                shm_size = size.map(size_of).transpose()?;
            }
            // A namespace of the host's network comes with the host's /sys.
            ("bind" | "none", "/sys") if mount.source == "/sys" => {}
            ("tmpfs", _) => mounts.push(tmpfs(mount, &root)?),
            _ if is_bind(mount) => mounts.push(bind(mount, bundle)?),
            (kind, _) => {
                return Err(not_supported(&format!(
                    "the mount of type `{kind}` at `{place}`"
                )));
            }
        }
    }
    Ok((mounts, shm_size))
}

fn is_bind(mount: &config::Mount) -> bool {
    mount.kind == "bind"
        || mount
            .options
            .iter()
            .any(|option| option == "bind" || option == "rbind")
}

fn bind(mount: &config::Mount, bundle: &Path) -> Result<Mount, Failure> {
    let (mut readonly, mut alone) = (false, false);
    for option in &mount.options {
        match option.as_str() {
            "ro" => readonly = true,
            "rw" => readonly = false,
            "bind" => alone = true,
            "rbind" => alone = false,
            // Nothing propagates here, devices of binds do not work, and times are the kernel's usual.
            "private" | "rprivate" | "nodev" | "relatime" | "dev" | "suid" | "exec" => {}
            // What the mount shows is not a place for programs in what podman makes of it: plain files.
            "noexec" | "nosuid" if is_data(&mount.destination) => {}
            other => {
                return Err(not_supported(&format!(
                    "the option `{other}` of the mount at `{}`",
                    mount.destination.display()
                )));
            }
        }
    }
    let source = absolute(bundle, Path::new(&mount.source));
    Ok(Mount {
        target: mount.destination.clone(),
        source: if alone {
            MountSource::BindAlone { source }
        } else {
            MountSource::Bind {
                source,
                subpath: None,
            }
        },
        readonly,
    })
}

/// Places where containers' managers bind files of theirs that nobody executes.
fn is_data(target: &Path) -> bool {
    [
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/run/.containerenv",
        "/dev/shm",
    ]
    .iter()
    .any(|known| target == Path::new(known))
}

fn tmpfs(mount: &config::Mount, root: &Path) -> Result<Mount, Failure> {
    let (mut readonly, mut size, mut mode) = (false, None, None);
    let mut options = TmpfsOptions {
        suid: true,
        ..TmpfsOptions::default()
    };
    let wrong = |option: &str| {
        not_supported(&format!(
            "the option `{option}` of the mount at `{}`",
            mount.destination.display()
        ))
    };
    for option in &mount.options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("ro", "") => readonly = true,
            // What is not there need not be copied.
            ("tmpcopyup", "") if is_empty(root, &mount.destination) => {}
            ("noexec", "") => options.noexec = true,
            ("nosuid", "") => options.suid = false,
            (
                "rw" | "nodev" | "private" | "rprivate" | "relatime" | "strictatime" | "exec"
                | "suid",
                "",
            ) => {}
            ("size", value) => size = Some(size_of(value)?),
            ("mode", value) => {
                mode = Some(u32::from_str_radix(value, 8).map_err(|_| wrong(option))?);
            }
            ("uid", value) => options.uid = Some(value.parse().map_err(|_| wrong(option))?),
            ("gid", value) => options.gid = Some(value.parse().map_err(|_| wrong(option))?),
            _ => return Err(wrong(option)),
        }
    }
    Ok(Mount {
        target: mount.destination.clone(),
        source: MountSource::Tmpfs {
            size,
            mode,
            options,
        },
        readonly,
    })
}

/// Whether nothing lies in a directory of the root, or there is none.
fn is_empty(root: &Path, directory: &Path) -> bool {
    let opened = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = opened.and_then(|root| {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&root, directory, flags, Mode::empty(), how)
    });
    match found {
        Err(error) => error == rustix::io::Errno::NOENT,
        Ok(directory) => rustix::fs::Dir::new(directory).is_ok_and(|entries| {
            entries
                .flatten()
                .all(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
        }),
    }
}

fn size_of(text: &str) -> Result<u64, Failure> {
    rbuild_parser::parse_size(text).map_err(Failure::new)
}
