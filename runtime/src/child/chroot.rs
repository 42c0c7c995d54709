//! A command without namespaces: root of an ordinary container, by `chroot` into a plain directory.
//!
//! What keeps the command from the rest of the machine is the container around us; from our files
//! outside its root, `chroot` without the right to call it again. A supervisor outside the root stands
//! in for the pid namespace: orphans become its children, and when the command ends it kills them.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{getpid, set_child_subreaper};
use rustix::thread::set_no_new_privs;

use super::{Never, Report, command, identity};
use crate::cgroup::Cgroup;
use crate::seccomp;
use crate::spec::{CapabilitySet, Network, Sandbox, Seccomp};
use crate::sys::{self, Cloned};
use crate::wire::{Failure, InStep as _, Request, Step};

/// `CAP_SYS_CHROOT`: with it a process leaves its root.
const SYS_CHROOT: u64 = 1 << 18;

pub(super) fn set_up(
    sandbox: &Sandbox,
    request: &Request,
    cgroup: Option<&Cgroup>,
    report: &Report<'_>,
) -> Step<Never> {
    if let Some(cgroup) = cgroup {
        for warning in cgroup.join() {
            report.warn(warning);
        }
    }
    refuse(sandbox)?;
    let Some(plain) = &sandbox.root.plain else {
        return Err(impossible("a root of layers needs mounts"));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(plain, flags, Mode::empty()).step_at("open the root", plain)?;
    let filtered = is_filtered();
    split()?;
    let root = enter(root)?;

    identity::set_rlimits(&sandbox.rlimits, report);
    command::enter_directory(root.as_fd(), &sandbox.process.cwd)?;
    command::take_streams(request, None, &sandbox.process.user)?;
    sys::close_on_exec_from(3).step("mark descriptors close-on-exec")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let mut sandbox = sandbox.clone();
    let kept = sandbox.security.capabilities.0 & !SYS_CHROOT;
    sandbox.security.capabilities = CapabilitySet(kept);
    let own = matches!(sandbox.security.seccomp, Seccomp::Profile(_));
    let filter = if filtered && !own {
        // The container's filter holds; one of ours would cost set-user-id programs their rights.
        None
    } else {
        let filter = seccomp::filter_of(&sandbox.security);
        if filter.is_some() {
            set_no_new_privs(true).step("set no_new_privs")?;
        }
        filter
    };
    let (security, user) = (&sandbox.security, &sandbox.process.user);
    identity::give_up_rights(security, user, filter.as_ref(), report, || Ok(()))?;
    Err(command::execute(&sandbox.process))
}

fn impossible(why: &str) -> Failure {
    let source = io::Error::from_raw_os_error(libc::EPERM);
    Failure::new("run a command by chroot", &source).because(why)
}

fn refuse(sandbox: &Sandbox) -> Step<()> {
    if sandbox.network != Network::Host {
        return Err(impossible("there is no network but the container's"));
    }
    if sandbox.security.privileged {
        return Err(impossible("privileged steps need a privileged container"));
    }
    if sandbox.process.terminal {
        return Err(impossible("there are no terminals"));
    }
    if !sandbox.mounts.is_empty() {
        return Err(impossible("nothing can be mounted"));
    }
    Ok(())
}

/// Splits into the supervisor, which never returns, and the process that goes on to be the command.
fn split() -> Step<()> {
    let step = "start the supervisor of the command";
    sys::die_with_parent().step(step)?;
    set_child_subreaper(Some(getpid())).step(step)?;
    let blocked = sys::block_signals();
    match sys::clone_process(0) {
        Ok(Cloned::Child) => {
            sys::restore_signals(&blocked);
            sys::die_with_parent().step(step)
        }
        Ok(Cloned::Parent { pid, pidfd }) => sys::be_supervisor(pid, pidfd),
        Err(error) => Err(Failure::new(step, &error)),
    }
}

fn enter(root: OwnedFd) -> Step<OwnedFd> {
    rustix::process::fchdir(&root).step("enter the root")?;
    rustix::process::chroot(c".").step("chroot")?;
    Ok(root)
}

/// Says whether a system call filter is in force already.
fn is_filtered() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| {
        line.strip_prefix("Seccomp:")
            .is_some_and(|mode| mode.trim() == "2")
    })
}
