//! What a sandbox is made of: plain data, built by the caller, understood only in this crate.

pub(crate) mod bytes;
mod capability;
mod frame;
mod network;

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use capability::CapabilitySet;
pub use frame::Frame;

use crate::seccomp::SeccompProfile;
pub use network::{
    Attached, Connected, Interface, Lan, LanKind, MacvlanMode, NAME_SERVER, Network, Owner, Subnet,
};

/// Everything that is needed to run one process apart from the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The root file system.
    pub root: RootFs,
    /// What to run in it.
    pub process: Process,
    /// Mounts below the root, made in this order after `/proc`, `/dev` and `/sys`.
    pub mounts: Vec<Mount>,
    /// Host name inside.
    pub hostname: String,
    /// NIS domain name inside; none for the host's.
    #[serde(default)]
    pub domain_name: Option<String>,
    /// What the process sees of the network.
    pub network: Network,
    /// Capabilities, system call filter and masked paths.
    pub security: Security,
    /// Size of `/dev/shm` in bytes; [`Sandbox::DEFAULT_SHM_SIZE`] is what Docker uses.
    pub shm_size: u64,
    /// Resource limits of the process. One that the host refuses to raise becomes a warning.
    pub rlimits: Vec<Rlimit>,
    /// Limits of all processes of the sandbox together.
    pub limits: Limits,
    /// Runs the command below a small init that reaps orphans and forwards signals.
    ///
    /// Without it the command itself is process 1, as in `docker build`.
    pub init: bool,
    /// Settings of the kernel.
    #[serde(default)]
    pub kernel: KernelSettings,
    /// What it has in common with the host.
    #[serde(default)]
    pub of_host: OfHost,
}

/// What a sandbox has in common with the host beside, perhaps, the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfHost {
    /// Message queues, semaphores and shared memory of System V. `/dev/shm` is another matter: a mount.
    pub ipc: bool,
    /// The host name.
    pub names: bool,
}

/// What the kernel is told about a sandbox beside its limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSettings {
    /// How soon its processes are killed when the machine has no memory left: -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Names and values below `/proc/sys` that belong to its namespaces; see [`is_own_sysctl`].
    pub sysctls: Vec<(String, String)>,
}

/// Says whether a setting belongs to the namespaces of a sandbox and not to the whole machine.
///
/// `own_network`: it has a network namespace.
pub fn is_own_sysctl(name: &str, own_network: bool) -> bool {
    const OWN: [&str; 9] = [
        "kernel.domainname",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let whole = name.bytes().all(plain) && name.split('.').all(|part| !part.is_empty());
    let own = OWN.contains(&name)
        || name.starts_with("fs.mqueue.")
        || (own_network && name.starts_with("net."));
    whole && own
}

impl Sandbox {
    /// 64 MiB, the size of `/dev/shm` in Docker.
    pub const DEFAULT_SHM_SIZE: u64 = 64 << 20;

    /// Returns a sandbox with Docker's defaults, without network, for `args` over `root`.
    pub fn new(root: RootFs, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            root,
            process: Process {
                args: args.into_iter().map(Into::into).collect(),
                env: Vec::new(),
                cwd: PathBuf::from("/"),
                user: User::default(),
                terminal: false,
            },
            mounts: Vec::new(),
            hostname: "sandbox".into(),
            domain_name: None,
            network: Network::None,
            security: Security::default(),
            shm_size: Self::DEFAULT_SHM_SIZE,
            rlimits: Vec::new(),
            limits: Limits::default(),
            init: false,
            kernel: KernelSettings::default(),
            of_host: OfHost::default(),
        }
    }
}

/// A process that joins a running sandbox: same root, namespaces and control group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joining {
    /// What to run.
    pub process: Process,
    /// What it may do.
    pub security: Security,
    /// What the sandbox sees of the network.
    pub network: Network,
    /// What the sandbox has in common with the host.
    #[serde(default)]
    pub of_host: OfHost,
    /// Resource limits of the process.
    pub rlimits: Vec<Rlimit>,
}

/// A root file system: an overlay of unpacked layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Host directories of the layers, the topmost first.
    #[serde(with = "bytes::list")]
    pub lowers: Vec<PathBuf>,
    /// Where writes go; `None` makes the root read-only.
    pub upper: Option<UpperDir>,
    /// Makes the root read-only although there is an upper directory.
    pub readonly: bool,
    /// A plain directory with everything in it, in place of layers: for
    /// [`Isolation::Chroot`](crate::Isolation::Chroot), which can mount nothing, and where overlay
    /// cannot write.
    #[serde(with = "bytes::option")]
    pub plain: Option<PathBuf>,
}

/// The writable directory of an overlay with its work directory, on one file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpperDir {
    /// Receives changed files, whiteouts and opaque directories.
    #[serde(with = "bytes")]
    pub upper: PathBuf,
    /// Empty directory for the kernel's use; fresh for every mount.
    #[serde(with = "bytes")]
    pub work: PathBuf,
}

/// The process to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments. A program without slash is searched in the `PATH` of `env`.
    #[serde(with = "bytes::list")]
    pub args: Vec<OsString>,
    /// The whole environment, as `KEY=value`.
    #[serde(with = "bytes::list")]
    pub env: Vec<OsString>,
    /// Working directory, absolute, in the sandbox. It must exist.
    #[serde(with = "bytes")]
    pub cwd: PathBuf,
    /// Ids to run as.
    pub user: User,
    /// Gives the process a terminal of its own; see [`Running::take_terminal`].
    ///
    /// [`Running::take_terminal`]: crate::Running::take_terminal
    pub terminal: bool,
}

/// Numeric ids of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, exactly as they are set; the caller adds the primary one.
    pub groups: Vec<u32>,
}

/// One mount below the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the sandbox. It exists in the root, or lies inside an earlier mount (then it
    /// is created when missing). Of two mounts on one target the later wins.
    #[serde(with = "bytes")]
    pub target: PathBuf,
    /// What appears there.
    pub source: MountSource,
    /// Refuses writes.
    pub readonly: bool,
}

/// What a [`Mount`] shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A directory or file of the host.
    Bind {
        /// Host path.
        #[serde(with = "bytes")]
        source: PathBuf,
        /// Path below `source`, resolved as if `source` were the root directory.
        #[serde(with = "bytes::option")]
        subpath: Option<PathBuf>,
    },
    /// A directory or file of the host, without what is mounted below it.
    BindAlone {
        /// Host path.
        #[serde(with = "bytes")]
        source: PathBuf,
    },
    /// An overlay of host directories.
    Overlay {
        /// Layers, the topmost first.
        #[serde(with = "bytes::list")]
        lowers: Vec<PathBuf>,
        /// Where writes go; `None` makes the mount read-only.
        upper: Option<UpperDir>,
        /// Path in the overlay, resolved as if the overlay were the root directory.
        #[serde(with = "bytes::option")]
        subpath: Option<PathBuf>,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Largest size in bytes; the kernel's default (half of the memory) if `None`.
        size: Option<u64>,
        /// Mode of the directory; 1777 if `None`.
        mode: Option<u32>,
        /// What else is asked for.
        #[serde(default)]
        options: TmpfsOptions,
    },
    /// A small file whose content is never written to a disk. What is written to it is gone with the sandbox.
    File {
        /// The content.
        #[serde(with = "bytes")]
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Rarer options of a directory in memory. Devices never work there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsOptions {
    /// Owner of the directory.
    pub uid: Option<u32>,
    /// Group of the directory.
    pub gid: Option<u32>,
    /// Most files that it may hold.
    pub inodes: Option<u64>,
    /// Programs in it cannot be executed.
    pub noexec: bool,
    /// Set-user-id programs in it work.
    pub suid: bool,
}

/// What the process may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Bounding set, and what user 0 holds.
    pub capabilities: CapabilitySet,
    /// System call filter.
    pub seccomp: Seccomp,
    /// Refuses new privileges by set-user-id programs. Off in `docker build`: `sudo` works.
    pub no_new_privileges: bool,
    /// Hides and write-protects the usual paths of `/proc` and `/sys`.
    pub masked_paths: bool,
    /// `--security=insecure`: all capabilities, no filter, no masks, writable `/sys`, device nodes
    /// work everywhere.
    pub privileged: bool,
    /// Devices in `/dev` beside those that everybody has. They work in privileged sandboxes only.
    #[serde(default)]
    pub devices: DeviceSet,
}

/// Devices that a privileged sandbox finds in its `/dev`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceSet {
    /// Those that everybody has: `null`, `zero`, `full`, `random`, `urandom`, `tty`.
    #[default]
    Usual,
    /// With those that `BuildKit` gives to `RUN --security=insecure`: `kmsg`, `fuse`, `cuse`, `kvm`, the
    /// tunnel and loop devices. None of them in a user namespace, as there.
    OfSteps,
    /// With all that the host has in its own; in a user namespace those that its user may open.
    OfHost,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            capabilities: CapabilitySet::DOCKER_DEFAULT,
            seccomp: Seccomp::Default,
            no_new_privileges: false,
            masked_paths: true,
            privileged: false,
            devices: DeviceSet::Usual,
        }
    }
}

/// The system call filter of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// Docker's default profile.
    #[default]
    Default,
    /// No filter.
    Unconfined,
    /// The user's own, which holds for privileged sandboxes, too.
    Profile(SeccompProfile),
}

/// One limit of `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// What is limited.
    pub resource: RlimitKind,
    /// The limit in force; `u64::MAX` is unlimited.
    pub soft: u64,
    /// The most that the process may set; `u64::MAX` is unlimited.
    pub hard: u64,
}

/// The resources of `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of setrlimit(2)")]
pub enum RlimitKind {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl RlimitKind {
    /// Finds a resource by the name that `--ulimit` takes.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "as" => Self::As,
            "core" => Self::Core,
            "cpu" => Self::Cpu,
            "data" => Self::Data,
            "fsize" => Self::Fsize,
            "locks" => Self::Locks,
            "memlock" => Self::Memlock,
            "msgqueue" => Self::Msgqueue,
            "nice" => Self::Nice,
            "nofile" => Self::Nofile,
            "nproc" => Self::Nproc,
            "rss" => Self::Rss,
            "rtprio" => Self::Rtprio,
            "rttime" => Self::Rttime,
            "sigpending" => Self::Sigpending,
            "stack" => Self::Stack,
            _ => return None,
        })
    }
}

/// Limits of all processes of a sandbox together. What the host cannot enforce becomes a warning.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Bytes of memory that it keeps when the machine has little left.
    #[serde(default)]
    pub memory_reservation: Option<u64>,
    /// Swap beyond the limit; counts with a limit of memory only.
    pub swap: Swap,
    /// Processor time as a number of processors, such as `1.5`.
    pub cpus: Option<f64>,
    /// Weight against others; 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// Scheduling period in microseconds.
    pub cpu_period: Option<u64>,
    /// Processor time in each period in microseconds.
    pub cpu_quota: Option<u64>,
    /// Processors, as the kernel writes lists: `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
    /// Control group to be below, from the root of each hierarchy; no `..` in it.
    pub parent: Option<String>,
}

/// How much swap there is beyond a limit of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Swap {
    /// As much as memory, as in Docker.
    #[default]
    AsMuchAgain,
    /// This many bytes.
    Bytes(u64),
    /// Any amount.
    Unlimited,
}

impl Limits {
    /// Says whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
