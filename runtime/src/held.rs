//! Sandboxes for the monitors of other programs: made by one process, started by another one, and
//! children of neither.
//!
//! There is no spawner. The process that makes one ends, and the sandbox becomes a child of whoever
//! collects orphans above it, as conmon and containerd's shim do. It has set itself up by then and waits
//! at a *gate*, a pipe: a byte from there has it execute its command.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::net::RecvFlags;
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open,
    set_dumpable_behavior, waitpid,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cgroup::Cgroup;
use crate::child;
use crate::running::pid_of;
use crate::sys::{self, Cloned};
use crate::wire::{self, Failure, Request, Setup};
use crate::{Joining, Sandbox, SandboxError, Stdio};

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of namespaces(7)")]
pub enum Namespace {
    Cgroup,
    Ipc,
    Mount,
    Network,
    Pid,
    Uts,
}

impl Namespace {
    fn flag(self) -> i32 {
        match self {
            Namespace::Cgroup => libc::CLONE_NEWCGROUP,
            Namespace::Ipc => libc::CLONE_NEWIPC,
            Namespace::Mount => libc::CLONE_NEWNS,
            Namespace::Network => libc::CLONE_NEWNET,
            Namespace::Pid => libc::CLONE_NEWPID,
            Namespace::Uts => libc::CLONE_NEWUTS,
        }
    }

    fn kind(self) -> LinkNameSpaceType {
        match self {
            Namespace::Cgroup => LinkNameSpaceType::ControlGroup,
            Namespace::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Namespace::Mount => LinkNameSpaceType::Mount,
            Namespace::Network => LinkNameSpaceType::Network,
            Namespace::Pid => LinkNameSpaceType::ProcessID,
            Namespace::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        }
    }
}

/// What such a sandbox has beyond a [`Sandbox`], whose network is not looked at but for whether it has
/// only loopback.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Namespaces of its own. A mount namespace must be among them.
    pub own: Vec<Namespace>,
    /// Namespaces that it joins, by files that stand for them.
    pub joined: Vec<(Namespace, PathBuf)>,
    /// Paths that are hidden, beside those that a sandbox hides.
    pub hidden: Vec<PathBuf>,
    /// Paths that are write-protected, beside those that a sandbox protects.
    pub protected: Vec<PathBuf>,
    /// File mode bits that files do not get.
    pub umask: u32,
}

impl Held {
    /// Whether it has a namespace of its own of this kind.
    pub(crate) fn has(&self, kind: Namespace) -> bool {
        self.own.contains(&kind)
    }
}

/// A sandbox that waits at its gate, or a process in one.
#[derive(Debug)]
pub struct Waiting {
    /// Its first process, as this one sees it.
    pub pid: u32,
    /// The controlling side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// What the host refused and it goes without.
    pub warnings: Vec<String>,
    /// Directories of its control groups, to be removed when it has ended.
    pub groups: Vec<PathBuf>,
}

/// Executes this program again from a mount that refuses writes, unless that has been done: the first
/// process of a sandbox is this program until it executes its command, and what is in the sandbox could
/// reach the program's file through it (CVE-2019-5736).
///
/// Returns only where that is not needed, or not possible. To be called first of all.
pub fn leave_writable_program() -> Result<(), SandboxError> {
    sys::execute_read_only().map_err(host("execute this program from a read-only mount"))
}

/// Makes a sandbox that waits at `gate`. This process has to have a single thread.
pub fn hold(
    sandbox: &Sandbox,
    held: &Held,
    stdio: Stdio,
    gate: BorrowedFd<'_>,
) -> Result<Waiting, SandboxError> {
    prepare()?;
    let (cgroup, mut warnings) = if sandbox.limits.is_empty() {
        (None, Vec::new())
    } else {
        Cgroup::create(&sandbox.limits)
    };
    let groups = cgroup.as_ref().map(Cgroup::places).unwrap_or_default();
    match hold_in(cgroup.as_ref(), sandbox, held, stdio, gate) {
        Ok((pid, terminal, more)) => {
            warnings.extend(more);
            Ok(Waiting {
                pid,
                terminal,
                warnings,
                groups,
            })
        }
        Err(error) => {
            // What is still busy is removed by the next sandbox.
            cgroup.map(Cgroup::remove);
            Err(error)
        }
    }
}

/// Process, terminal and warnings of a sandbox that waits in this group.
fn hold_in(
    cgroup: Option<&Cgroup>,
    sandbox: &Sandbox,
    held: &Held,
    stdio: Stdio,
    gate: BorrowedFd<'_>,
) -> Result<(u32, Option<OwnedFd>, Vec<String>), SandboxError> {
    // A process enters another pid namespace by being born there.
    for (kind, path) in &held.joined {
        if *kind == Namespace::Pid {
            join(*kind, path)?;
        }
    }
    let flags = held.own.iter().fold(0, |flags, kind| match kind {
        // After it has entered its control group.
        Namespace::Cgroup => flags,
        kind => flags | kind.flag(),
    });
    let (setup, request) = request(stdio, None)?;
    let cloned = sys::clone_process(flags).map_err(host("clone the sandbox process"))?;
    match cloned {
        Cloned::Child => child::run_held(sandbox, &request, cgroup, held, gate),
        Cloned::Parent { pid, .. } => {
            drop(request);
            match follow(&setup, true) {
                Ok((terminal, warnings)) => Ok((pid.cast_unsigned(), terminal, warnings)),
                Err(error) => {
                    end(pid);
                    Err(error)
                }
            }
        }
    }
}

/// Ends a child of this process that has not become a sandbox.
fn end(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Errors mean that it is not there any more.
        let _ = kill_process(pid, Signal::KILL);
        let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
    }
}

/// Starts a process in a sandbox. What is returned is who waits for it, and ends as it ends.
pub fn join_held(first: u32, joining: &Joining, stdio: Stdio) -> Result<Waiting, SandboxError> {
    prepare()?;
    let gone = || SandboxError::Host {
        action: "join the sandbox",
        source: io::Error::from_raw_os_error(libc::ESRCH),
    };
    let pid = Pid::from_raw(first.cast_signed()).ok_or_else(gone)?;
    let target = pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| host("join the sandbox")(error.into()))?;
    if pid_of(&target) == 0 {
        return Err(gone());
    }
    let (setup, request) = request(stdio, Some(target))?;
    let cloned = sys::clone_process(0).map_err(host("clone a process"))?;
    match cloned {
        Cloned::Child => {
            let target = request.target.as_ref();
            match target {
                Some(target) => child::join::run_in_groups(joining, &request, target, first),
                None => sys::exit_now(127),
            }
        }
        Cloned::Parent { pid, .. } => {
            drop(request);
            let (terminal, warnings) = follow(&setup, false)?;
            Ok(Waiting {
                pid: pid.cast_unsigned(),
                terminal,
                warnings,
                groups: Vec::new(),
            })
        }
    }
}

/// Joins a namespace by its file.
pub(crate) fn join(kind: Namespace, path: &std::path::Path) -> Result<(), Failure> {
    use crate::wire::InStep as _;
    let step = "join the namespace";
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .step_at(step, path)?;
    move_into_link_name_space(file.as_fd(), Some(kind.kind())).step_at(step, path)
}

/// What holds for all that is cloned from this process.
fn prepare() -> Result<(), SandboxError> {
    sys::reset_signals();
    // Nobody who is in a sandbox may look into what joins it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| host("make the process undumpable")(error.into()))
}

fn request(stdio: Stdio, target: Option<OwnedFd>) -> Result<(OwnedFd, Request), SandboxError> {
    let (setup, its_setup) = wire::pair().map_err(host("make a socket"))?;
    let (status, _) = wire::pair().map_err(host("make a socket"))?;
    let request = Request {
        body: Vec::new(),
        status,
        setup: its_setup,
        stdout: stdio.stdout,
        stderr: stdio.stderr,
        stdin: stdio.stdin,
        target,
        followed: false,
    };
    Ok((setup, request))
}

/// Follows the set-up until the sandbox waits, if it does, or the command runs, or something failed.
fn follow(setup: &OwnedFd, waits: bool) -> Result<(Option<OwnedFd>, Vec<String>), SandboxError> {
    let (mut terminal, mut warnings) = (None, Vec::new());
    let answer = host("read the answer of the sandbox");
    while let Some((message, descriptors)) =
        wire::hear::<Setup>(setup, RecvFlags::empty()).map_err(&answer)?
    {
        match message {
            // Others connect it with networks.
            Setup::Connected(_) | Setup::NameServer | Setup::Router { .. } => {}
            Setup::Warning(text) => warnings.push(text),
            Setup::Terminal => terminal = descriptors.into_iter().next(),
            Setup::Ready => return Ok((terminal, warnings)),
            Setup::Failed(failure) => return Err(failure.into()),
            // Of sandboxes with a single id, whose calls nobody would answer after this process.
            Setup::Owners => {
                return Err(answer(io::Error::from_raw_os_error(libc::ENOTSUP)));
            }
        }
    }
    if waits {
        // Somebody killed it.
        return Err(answer(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok((terminal, warnings))
}

fn host(action: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Host { action, source }
}
