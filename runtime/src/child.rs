//! The sandbox child: from clone to exec.
//!
//! Order matters:
//!
//! 1. join the control group, so that nothing runs outside the limits; then the network;
//! 2. collect all sources as detached mounts, while the host's tree is still in sight;
//! 3. attach the root aside and compose it: `/proc`, `/dev`, `/sys`, then the caller's mounts;
//! 4. enter it and let go of the host's tree;
//! 5. working directory, streams, limits;
//! 6. give up rights, last of all the right to do any of the above; execute.
//!
//! What of this needs neither root nor command (1 without a control group, and `/proc`, `/dev` and `/sys`) may be
//! done ahead, by a child that then waits: a sandbox is used once, whoever made it.
//!
//! Everything that is opened here is closed by exec, the setup socket included: its end tells the
//! program that the command runs.

mod chroot;
mod command;
mod devices;
mod half;
mod held;
mod identity;
mod init;
pub(crate) mod join;
mod kernel;
mod mounts;
mod network;
mod terminal;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountAttrFlags, UnmountFlags};

use crate::cgroup::Cgroup;
use crate::held::Held;
use crate::isolation::isolation;
use crate::mount::{Detached, READ_ONLY, Stage};
use crate::net::{Outlet, Spare};
use crate::overlay;
use crate::spec::{Connected, Frame, Network, OfHost, Sandbox};
use crate::sys::{self, CloneFlags};
use crate::userns::in_user_namespace;
use crate::wire::{self, Failure, InStep as _, Request, Setup, Step};
use crate::{emulation, seccomp};

use half::Half;
use held::Gate;

/// The setup socket, as the child uses it.
pub(crate) struct Report<'a>(BorrowedFd<'a>);

impl Report<'_> {
    /// Tells of something that the sandbox goes without.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        // If the program has gone the spawner ends us.
        let _ = wire::tell(self.0, &Setup::Warning(text.into()), &[]);
    }
}

impl Report<'_> {
    /// Hands the calls out that need ids which this process does not have.
    fn hand_out_calls(&self) -> Step<()> {
        let step = "hand system calls about owners out";
        let listener = sys::install_listener(&emulation::filter()).step(step)?;
        wire::tell(self.0, &Setup::Owners, &[listener.as_fd()]).step(step)
    }
}

/// Namespaces to clone the child into.
///
/// The cgroup namespace comes later if the child must first move into a control group, the network
/// namespace if it must first be connected from outside.
pub(crate) fn namespaces(sandbox: &Sandbox) -> CloneFlags {
    namespaces_for(&sandbox.network, sandbox.of_host, sandbox.limits.is_empty())
}

fn namespaces_for(network: &Network, of_host: OfHost, unlimited: bool) -> CloneFlags {
    if !isolation().has_namespaces() {
        return 0;
    }
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    if !of_host.ipc {
        flags |= libc::CLONE_NEWIPC;
    }
    if !of_host.names {
        flags |= libc::CLONE_NEWUTS;
    }
    if unlimited {
        flags |= libc::CLONE_NEWCGROUP;
    }
    if *network == Network::None {
        flags |= libc::CLONE_NEWNET;
    }
    flags
}

/// The same for a child that is made ahead.
pub(crate) fn namespaces_ahead(frame: &Frame) -> CloneFlags {
    namespaces_for(&frame.network, frame.of_host, true)
}

/// The whole life of a sandbox child before its command.
pub(crate) fn run(
    sandbox: &Sandbox,
    request: &Request,
    cgroup: Option<&Cgroup>,
    outlet: &Outlet<'_>,
) -> ! {
    sys::unblock_signals();
    let attempt = std::panic::AssertUnwindSafe(|| set_up(sandbox, request, cgroup, outlet, None));
    let attempt = std::panic::catch_unwind(attempt);
    fail(request, attempt)
}

/// The same for a child that is made ahead: its request comes when it is needed.
pub(crate) fn run_ahead(
    frame: &Frame,
    requests: BorrowedFd<'_>,
    outlet: &Outlet<'_>,
    network: Option<&Spare>,
) -> ! {
    sys::unblock_signals();
    let attempt = std::panic::AssertUnwindSafe(|| {
        network::enter_ahead(&frame.network, outlet, network, requests)?;
        no_umask();
        Half::make(frame, None)
    });
    let half = std::panic::catch_unwind(attempt);
    let request = match Request::receive(requests) {
        Ok(Some(request)) => request,
        // Nobody needs it any more.
        Ok(None) => sys::exit_now(0),
        // What was asked for was not done.
        Err(_) => sys::exit_now(127),
    };
    // What went wrong is told as if it had been done now.
    let attempt = half.and_then(|half| {
        let attempt = std::panic::AssertUnwindSafe(|| finish_half(half?, &request));
        std::panic::catch_unwind(attempt)
    });
    fail(&request, attempt)
}

fn finish_half(half: Half, request: &Request) -> Step<Never> {
    let sandbox: Sandbox = serde_json::from_slice(&request.body)?;
    let report = Report(request.setup.as_fd());
    set_names(&sandbox, &report)?;
    finish(&sandbox, request, half, &[], None, &report)
}

/// The same for a sandbox that other programs monitor, and that waits at a gate.
pub(crate) fn run_held(
    sandbox: &Sandbox,
    request: &Request,
    cgroup: Option<&Cgroup>,
    held: &Held,
    gate: BorrowedFd<'_>,
) -> ! {
    let gate = Gate { held, gate };
    let outlet = Outlet {
        state_dir: Path::new(""),
        router: None,
        keep: None,
    };
    let attempt =
        std::panic::AssertUnwindSafe(|| set_up(sandbox, request, cgroup, &outlet, Some(gate)));
    let attempt = std::panic::catch_unwind(attempt);
    fail(request, attempt)
}

/// Tells why there is no command.
fn fail(request: &Request, attempt: std::thread::Result<Step<Never>>) -> ! {
    let failure = match attempt {
        Ok(Err(failure)) => failure,
        Ok(Ok(never)) => match never {},
        Err(_) => Failure::new(
            "set up the sandbox",
            &io::Error::other("internal error (panic)"),
        ),
    };
    // Without a reader there is nobody left to tell.
    let _ = wire::tell(&request.setup, &Setup::Failed(failure), &[]);
    sys::exit_now(127)
}

/// What never is.
pub(crate) enum Never {}

fn set_up(
    sandbox: &Sandbox,
    request: &Request,
    cgroup: Option<&Cgroup>,
    outlet: &Outlet<'_>,
    gate: Option<Gate<'_>>,
) -> Step<Never> {
    let report = Report(request.setup.as_fd());
    if !isolation().has_namespaces() {
        no_umask();
        return chroot::set_up(sandbox, request, cgroup, &report);
    }
    if let Some(cgroup) = cgroup {
        for warning in cgroup.join() {
            report.warn(warning);
        }
    }
    let connected = enter_namespaces(sandbox, outlet, gate, &report)?;
    no_umask();

    let half = Half::make(&Frame::of(sandbox), cgroup)?;
    finish(sandbox, request, half, &connected, gate, &report)
}

/// What depends on the root and the command.
fn finish(
    sandbox: &Sandbox,
    request: &Request,
    mut half: Half,
    connected: &[Connected],
    gate: Option<Gate<'_>>,
    report: &Report<'_>,
) -> Step<Never> {
    let mounts = network::with_own_address(sandbox, connected);
    let prepared = mounts::prepare(&mounts, &mut half.stage)?;
    let filter = seccomp::filter_of(&sandbox.security);
    let root = attach_root(sandbox, &mut half.stage, gate.is_some())?;
    half.move_into(root.as_fd())?;
    let user = &sandbox.process.user;
    let terminal = if sandbox.process.terminal {
        Some(terminal::open(&half.devices, user, report.0)?)
    } else {
        None
    };
    mounts::attach(root.as_fd(), &mounts, prepared, gate.is_some())?;
    if let Some(gate) = gate {
        gate.cover(&root, &half.cover, sandbox)?;
    }
    let root = enter(root)?;

    identity::set_rlimits(&sandbox.rlimits, report);
    command::enter_directory(root.as_fd(), &sandbox.process.cwd)?;
    if sandbox.init {
        init::split()?;
    }
    command::take_streams(request, terminal, user)?;
    sys::close_on_exec_from(3).step("mark descriptors close-on-exec")?;
    let umask = gate.map_or(0o022, |gate| gate.held.umask);
    rustix::process::umask(Mode::from_raw_mode(umask));
    // Where a filter that the user brings may not allow what is needed for it.
    let wait = || gate.map_or(Ok(()), |gate| gate.wait(report, sandbox));
    identity::give_up_rights(&sandbox.security, user, filter.as_ref(), report, wait)?;
    Err(command::execute(&sandbox.process))
}

/// What is made in a root has exactly the mode that is asked for.
fn no_umask() {
    rustix::process::umask(Mode::empty());
}

/// Enters the namespaces that the process was not born into, and sets up what is in them.
fn enter_namespaces(
    sandbox: &Sandbox,
    outlet: &Outlet<'_>,
    gate: Option<Gate<'_>>,
    report: &Report<'_>,
) -> Step<Vec<Connected>> {
    if let Some(gate) = gate {
        return gate.enter_namespaces(sandbox, report).map(|()| Vec::new());
    }
    if !sandbox.limits.is_empty() {
        sys::unshare(libc::CLONE_NEWCGROUP).step("make a cgroup namespace")?;
    }
    let connected = network::enter(&sandbox.network, outlet, report)?;
    set_names(sandbox, report)?;
    Ok(connected)
}

/// Sets up what is in the namespaces.
fn set_names(sandbox: &Sandbox, report: &Report<'_>) -> Step<()> {
    if !sandbox.of_host.names {
        set_host_name(&sandbox.hostname, report)?;
    }
    kernel::tell(&sandbox.kernel)?;
    if let Some(name) = sandbox
        .domain_name
        .as_ref()
        .filter(|_| !sandbox.of_host.names)
    {
        rustix::system::setdomainname(name.as_bytes()).step("set the domain name")?;
    }
    Ok(())
}

/// Sets the host name; some containers around us refuse that, and next to nobody needs it.
fn set_host_name(name: &str, report: &Report<'_>) -> Step<()> {
    match rustix::system::sethostname(name.as_bytes()) {
        Err(rustix::io::Errno::PERM) if in_user_namespace() => {
            report.warn("the container around this process keeps its host name: it cannot be set");
            Ok(())
        }
        result => result.step("set the host name"),
    }
}

/// Mounts the root file system aside.
fn attach_root(sandbox: &Sandbox, stage: &mut Stage, held: bool) -> Step<Detached> {
    let mut attributes = MountAttrFlags::empty();
    if !sandbox.security.privileged {
        // Without a device cgroup this is what keeps a `mknod` of the host's disk harmless.
        attributes |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    if let (true, Some(directory)) = (held, &sandbox.root.plain) {
        return held::attach_root(directory, attributes);
    }
    if sandbox.root.readonly {
        attributes |= READ_ONLY;
    }
    let root = match &sandbox.root.plain {
        Some(plain) => overlay::bind(plain, attributes)?,
        None => overlay::mount(
            &sandbox.root.lowers,
            sandbox.root.upper.as_ref(),
            attributes,
            stage,
        )?,
    };
    root.attach_over_root().step("attach the root")?;
    Ok(root)
}

/// Makes the root of a sandbox with its mounts the root of the calling thread, which has a mount
/// namespace of its own; returns a descriptor of it.
///
/// There is no process to come: `/proc`, `/dev` and `/sys` are as the layers have them.
pub(crate) fn root_with_mounts(sandbox: &Sandbox, stage: &mut Stage) -> Step<OwnedFd> {
    let prepared = mounts::prepare(&sandbox.mounts, stage)?;
    let root = attach_root(sandbox, stage, false)?;
    mounts::attach(root.as_fd(), &sandbox.mounts, prepared, false)?;
    enter(root)
}

/// Makes `root` the root directory and lets go of everything above it.
fn enter(root: Detached) -> Step<OwnedFd> {
    rustix::process::fchdir(&root).step("enter the root")?;
    // Stacks the old root on the new one and needs no directory in it.
    rustix::process::pivot_root(c".", c".").step("pivot_root")?;
    // The stage lies in the old root and goes with it.
    rustix::mount::unmount(c".", UnmountFlags::DETACH).step("detach the old root")?;
    drop(root);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(c"/", flags, Mode::empty()).step("open the root")
}
