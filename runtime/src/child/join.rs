//! A process that joins a sandbox which runs already.
//!
//! The spawner clones a *waiter*. It joins control group and namespaces of the sandbox; a process
//! cannot move into another pid namespace itself, so it clones the command, which is born there,
//! waits for it and ends as it ended. When the waiter is killed, so is the command.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::{Never, Report, command, identity, terminal};
use crate::cgroup::Cgroup;
use crate::spec::{Joining, Network};
use crate::sys::{self, Cloned};
use crate::wire::{self, Failure, InStep as _, Request, Setup, Step};
use crate::{seccomp, usage};

/// The whole life of the waiter, and of the command until it is executed.
pub(crate) fn run(
    joining: &Joining,
    request: &Request,
    target: &OwnedFd,
    cgroup: Option<&Cgroup>,
) -> ! {
    sys::unblock_signals();
    let attempt = std::panic::catch_unwind(|| set_up(joining, request, target, cgroup));
    let failure = match attempt {
        Ok(Err(failure)) => failure,
        Ok(Ok(never)) => match never {},
        Err(_) => Failure::new(
            "join the sandbox",
            &io::Error::other("internal error (panic)"),
        ),
    };
    // Without a reader there is nobody left to tell.
    let _ = wire::tell(&request.setup, &Setup::Failed(failure), &[]);
    sys::exit_now(127)
}

/// The same in a sandbox that this process has not made: its groups are found by its first process.
pub(crate) fn run_in_groups(
    joining: &Joining,
    request: &Request,
    target: &OwnedFd,
    first: u32,
) -> ! {
    let report = Report(request.setup.as_fd());
    for group in usage::own_groups(first) {
        // Process 0 means the writer.
        if let Err(error) = std::fs::write(group.join("cgroup.procs"), "0") {
            report.warn(format!(
                "a limit is not in force: could not enter {}: {error}",
                group.display()
            ));
        }
    }
    run(joining, request, target, None)
}

fn set_up(
    joining: &Joining,
    request: &Request,
    target: &OwnedFd,
    cgroup: Option<&Cgroup>,
) -> Step<Never> {
    let report = Report(request.setup.as_fd());
    let filter = seccomp::filter_of(&joining.security);
    if let Some(cgroup) = cgroup {
        for warning in cgroup.join() {
            report.warn(warning);
        }
    }
    let mut all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::CONTROL_GROUP;
    // Nobody in a user namespace may join what belongs to the host, not even who is in it.
    if joining.network != Network::Host {
        all |= ThreadNameSpaceType::NETWORK;
    }
    if !joining.of_host.ipc {
        all |= ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION;
    }
    if !joining.of_host.names {
        all |= ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    }
    move_into_thread_name_spaces(target.as_fd(), all).step("join the namespaces")?;
    // The root is the sandbox's now, whatever it holds.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty()).step("open the root")?;
    let process = &joining.process;
    match sys::clone_process(0) {
        Ok(Cloned::Parent { pid, .. }) => sys::wait_and_end_alike(pid),
        Err(error) => return Err(Failure::new("start the command", &error)),
        Ok(Cloned::Child) => {}
    }
    let terminal = if process.terminal {
        Some(terminal::open_inside(&process.user, report.0)?)
    } else {
        None
    };
    identity::set_rlimits(&joining.rlimits, &report);
    command::enter_directory(root.as_fd(), &process.cwd)?;
    command::take_streams(request, terminal, &process.user)?;
    sys::close_on_exec_from(3).step("mark descriptors close-on-exec")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Whoever kills the waiter means the command. A change of ids would take this back.
    let end_with_waiter = || sys::die_with_parent().step("end with the waiter");
    let (security, user) = (&joining.security, &process.user);
    identity::give_up_rights(security, user, filter.as_ref(), &report, end_with_waiter)?;
    Err(command::execute(process))
}
