//! The options of a container.

use std::ffi::OsString;
use std::path::PathBuf;

use rbuild_parser::parse_size;
use rbuild_runtime::{
    DeviceSet, KernelSettings, Network, OfHost, Rlimit, RlimitKind, Seccomp, Security,
    is_own_sysctl,
};

use super::life::LifeArgs;
use super::refused::RunRefused;
use crate::commands::containers::attached::AttachingArgs;
use crate::container::environment::{self, Change};
use crate::container::mounts::{
    Volume, parse_device, parse_mount, parse_tmpfs, parse_volume, unknown_driver,
};
use crate::container::networking::NetworkArgs;
use crate::container::{Options, capabilities};
use crate::failure::{Failure, status};
use crate::hostflags;
use crate::limits::LimitArgs;
use crate::refused::Refused;
use crate::rights::RightsArgs;

/// Run a command in a new container
///
/// With `--rm` the container is removed when its command ends, and what it wrote goes with it. In the
/// foreground and without a name such a container is not listed. Everything behind IMAGE belongs to the
/// command.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "rbuild run [OPTIONS] IMAGE [COMMAND] [ARG…]",
    after_help = "Examples:
  rbuild run --rm app
  rbuild run -it --rm -v ./src:/src -w /src app sh
  rbuild run -d --name web app

Exit status: that of the command; 128 and the number of the signal that killed it; 125 when the
container could not be started, 126 when the command cannot be executed, 127 when there is none."
)]
pub(crate) struct RunArgs {
    /// Name or ID of the image, and a command with its arguments
    #[arg(
        value_name = "IMAGE",
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(in crate::commands) image_and_command: Vec<OsString>,

    /// Leave it running and print its ID
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Remove the container when it ends
    #[arg(long)]
    pub(in crate::commands) rm: bool,
    /// Name of the container [default: one is made up]
    #[arg(long, value_name = "NAME")]
    pub(in crate::commands) name: Option<String>,
    /// Remove the container that has this name
    #[arg(long, requires = "name")]
    pub(in crate::commands) replace: bool,
    /// Write the container's ID to a file that must not be there yet
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) cidfile: Option<PathBuf>,
    /// Set a label
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(in crate::commands) label: Vec<String>,
    /// Note something down about it, for others to read
    #[arg(long, value_name = "NAME=VALUE")]
    pub(in crate::commands) annotation: Vec<String>,
    /// Set labels from a file
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) label_file: Vec<PathBuf>,
    /// Signal that asks it to end [default: that of the image, or SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    pub(in crate::commands) stop_signal: Option<String>,
    /// Seconds between that signal and SIGKILL; -1 for any time [default: 10]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(in crate::commands) stop_timeout: Option<i64>,
    /// Pass standard input on
    #[arg(short, long)]
    pub(in crate::commands) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(in crate::commands) tty: bool,
    /// Ask the registry for the image: `always`, `missing` or `never`
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "missing",
        hide_default_value = true
    )]
    pub(in crate::commands) pull: String,
    /// The platform that the image has to be for [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    pub(in crate::commands) platform: Option<String>,
    /// Say nothing about a download
    #[arg(short, long)]
    pub(in crate::commands) quiet: bool,
    /// Set a variable; `NAME` alone takes the value from the environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User and group, as names or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(in crate::commands) user: Option<String>,
    /// Replace the image's ENTRYPOINT
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Host name
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(in crate::commands) hostname: Option<String>,
    /// Add its processes to a group, by name or number
    #[arg(long, value_name = "GROUP")]
    pub(in crate::commands) group_add: Vec<String>,
    /// Set what belongs to its namespaces, such as `net.ipv4.ip_forward=1`
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,
    /// Message queues and shared memory: `private`, or `host` for those of this machine
    #[arg(long, value_name = "WHOSE")]
    ipc: Option<String>,
    /// Host name: `private`, or `host` for that of this machine
    #[arg(long, value_name = "WHOSE")]
    uts: Option<String>,
    /// How soon it is killed when the machine has no memory left: -1000 to 1000
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    oom_score_adj: Option<i32>,
    /// Show it a device of this machine
    #[arg(long, value_name = "SOURCE[:TARGET]", help_heading = "Rights")]
    pub(in crate::commands) device: Vec<String>,
    /// Make a small init process 1, which reaps orphans and passes signals on
    #[arg(long)]
    init: bool,

    /// Mount a directory or file of this machine, or a volume: by its name, or a new one
    #[arg(
        short,
        long,
        value_name = "[SOURCE:]TARGET[:ro,nocopy]",
        help_heading = "Files"
    )]
    pub(in crate::commands) volume: Vec<String>,
    /// Mount something: `type=volume|bind|tmpfs|image,src=,dst=,readonly`, and `volume-nocopy`,
    /// `volume-subpath=`, `volume-label=`, `volume-opt=`, `bind-nonrecursive`, `bind-create-src`,
    /// `tmpfs-size=`, `tmpfs-mode=`, `image-subpath=`
    #[arg(long, value_name = "MOUNT", help_heading = "Files")]
    mount: Vec<String>,
    /// Mount an empty directory in memory; programs in it need `exec`
    #[arg(
        long,
        value_name = "TARGET[:size=,mode=,uid=,gid=,exec,ro]",
        help_heading = "Files"
    )]
    pub(in crate::commands) tmpfs: Vec<String>,
    /// Mount what is mounted in another container
    #[arg(long, value_name = "CONTAINER[:ro]", help_heading = "Files")]
    pub(in crate::commands) volumes_from: Vec<String>,
    /// Driver of volumes that are made; there is only `local`
    #[arg(long, value_name = "DRIVER", help_heading = "Files", hide = true)]
    volume_driver: Option<String>,
    /// Make the root file system read-only
    #[arg(long, help_heading = "Files")]
    read_only: bool,
    /// Size of `/dev/shm` [default: 64m]
    #[arg(long, value_name = "SIZE", help_heading = "Files")]
    shm_size: Option<String>,

    #[command(flatten)]
    pub(crate) network: NetworkArgs,

    #[command(flatten)]
    pub(in crate::commands) life: LifeArgs,
    #[command(flatten)]
    pub(in crate::commands) attaching: AttachingArgs,
    /// Show only these of its streams: `stdin`, `stdout`, `stderr`
    #[arg(short, long, value_name = "STREAM", conflicts_with = "detach")]
    pub(in crate::commands) attach: Vec<String>,

    #[command(flatten)]
    limits: LimitArgs,
    /// Limit a resource of each process, such as `nofile=1024:2048`
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Limits")]
    pub(in crate::commands) ulimit: Vec<String>,

    #[command(flatten)]
    pub(in crate::commands) rights: RightsArgs,
    /// What it has around it: `default` (the best that this host allows), `root`, `rootless`,
    /// `single-id`, `nested` or `chroot`
    #[arg(long, value_name = "ISOLATION", help_heading = "Rights")]
    pub(crate) isolation: Option<String>,
    /// Give it all rights
    #[arg(long, help_heading = "Rights")]
    privileged: bool,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    #[command(flatten)]
    pub(in crate::commands) refused: Refused<RunRefused>,
}

impl RunArgs {
    /// The image and the command behind it.
    pub(in crate::commands) fn image(&self) -> (String, &[OsString]) {
        match self.image_and_command.split_first() {
            Some((image, command)) => (image.to_string_lossy().into_owned(), command),
            None => (String::new(), &[]),
        }
    }

    /// The options in typed form.
    pub(in crate::commands) fn options(&self) -> Result<Options, Failure> {
        let (network_mode, networks) = self.network.options()?;
        Ok(Options {
            entrypoint: self.entrypoint.clone(),
            command: self.image().1.to_vec(),
            environment: self.environment()?,
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            volumes: self.volumes()?,
            network: network_mode.clone(),
            hostname: self.hostname.clone().map(check_hostname).transpose()?,
            networks,
            read_only: self.read_only,
            init: self.init,
            groups: self.group_add.clone(),
            kernel: self.kernel(&network_mode)?,
            terminal: self.tty,
            security: self.security()?,
            shm_size: self
                .shm_size
                .as_deref()
                .map(|size| bytes("--shm-size", size))
                .transpose()?,
            rlimits: self
                .ulimit
                .iter()
                .map(|limit| rlimit(limit))
                .collect::<Result<_, _>>()?,
            limits: self.limits.limits()?,
            of_host: self.of_host()?,
        })
    }

    /// `--ipc` and `--uts`.
    fn of_host(&self) -> Result<OfHost, Failure> {
        let whose = |flag: &str, value: &Option<String>| match value.as_deref() {
            None | Some("" | "private" | "shareable") => Ok(false),
            Some("host") => Ok(true),
            Some(other) => Err(Failure::unsupported(&format!("`--{flag} {other}`"))
                .with_status(status::ENGINE)
                .hint("known values: private, host")),
        };
        let of_host = OfHost {
            ipc: whose("ipc", &self.ipc)?,
            names: whose("uts", &self.uts)?,
        };
        if of_host.ipc && self.shm_size.is_some() {
            return Err(Failure::new(
                "conflicting options: --shm-size and --ipc host, which has this machine's `/dev/shm`",
            ));
        }
        if of_host.names && (self.hostname.is_some() || self.network.has_domain()) {
            return Err(Failure::new(
                "conflicting options: hostname and the UTS mode: --uts host has this machine's name",
            ));
        }
        Ok(of_host)
    }

    fn environment(&self) -> Result<Vec<Change>, Failure> {
        let mut changes = Vec::new();
        for file in &self.env_file {
            changes.extend(environment::parse_file(file)?);
        }
        for variable in &self.env {
            changes.push(environment::parse(variable)?);
        }
        Ok(changes)
    }

    fn volumes(&self) -> Result<Vec<Volume>, Failure> {
        if let Some(driver) = self
            .volume_driver
            .as_deref()
            .filter(|name| *name != "local")
        {
            return Err(unknown_driver(driver));
        }
        let volumes = self.volume.iter().map(|volume| parse_volume(volume));
        let mounts = self.mount.iter().map(|mount| parse_mount(mount));
        let tmpfs = self.tmpfs.iter().map(|tmpfs| parse_tmpfs(tmpfs));
        let devices = self.device.iter().map(|device| parse_device(device));
        volumes.chain(mounts).chain(tmpfs).chain(devices).collect()
    }

    fn kernel(&self, network: &Network) -> Result<KernelSettings, Failure> {
        let range = -1000..=1000;
        if let Some(score) = self.oom_score_adj.filter(|score| !range.contains(score)) {
            return Err(Failure::new(format!(
                "invalid value {score}, range for oom score adj is [-1000, 1000]"
            )));
        }
        let mut sysctls = Vec::new();
        for setting in &self.sysctl {
            let Some((name, value)) = setting.split_once('=') else {
                return Err(Failure::new(format!(
                    "invalid --sysctl {setting:?}: it must have the form NAME=VALUE"
                )));
            };
            if !is_own_sysctl(name, *network != Network::Host) {
                return Err(Failure::new(format!(
                    "sysctl {name:?} is not in a separate kernel namespace"
                ))
                .hint("what holds for the whole machine is set on the machine"));
            }
            sysctls.push((name.to_owned(), value.to_owned()));
        }
        Ok(KernelSettings {
            oom_score_adj: self.oom_score_adj,
            sysctls,
        })
    }

    fn security(&self) -> Result<Security, Failure> {
        let mut security = Security {
            capabilities: capabilities::combine(&self.rights.cap_add, &self.rights.cap_drop)?,
            privileged: self.privileged,
            ..Security::default()
        };
        if self.privileged {
            security.capabilities = capabilities::combine(&["ALL".into()], &self.rights.cap_drop)?;
            security.seccomp = Seccomp::Unconfined;
            security.masked_paths = false;
            security.devices = DeviceSet::OfHost;
        }
        self.rights.apply_options(&mut security)?;
        Ok(security)
    }
}

fn bytes(flag: &str, size: &str) -> Result<u64, Failure> {
    parse_size(size).map_err(|reason| Failure::new(format!("invalid {flag}: {reason}")))
}

/// The kernel takes 64 bytes, RFC 1123 letters, digits, dashes and dots.
fn check_hostname(name: String) -> Result<String, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
        return Err(Failure::new(format!("invalid hostname: {name:?}")));
    }
    Ok(name)
}

fn rlimit(value: &str) -> Result<Rlimit, Failure> {
    let (name, soft, hard) = hostflags::ulimit(value)?;
    let resource = RlimitKind::from_name(&name)
        .ok_or_else(|| Failure::new(format!("invalid ulimit type: {name}")))?;
    Ok(Rlimit {
        resource,
        soft,
        hard,
    })
}
