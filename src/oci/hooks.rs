//! Programs that are told of changes: they get the state on standard input.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::config::Hook;
use super::state::State;
use crate::failure::Failure;
use crate::ui;

/// Runs hooks, one after the other; the first that fails ends it.
pub(super) fn run_hooks(state: &State, hooks: &[Hook]) -> Result<(), Failure> {
    for hook in hooks {
        let within =
            |failure: Failure| failure.within(format!("the hook `{}` failed", hook.path.display()));
        run(state, hook).map_err(within)?;
    }
    Ok(())
}

fn run(state: &State, hook: &Hook) -> Result<(), Failure> {
    let mut command = Command::new(&hook.path);
    let variables = hook
        .env
        .iter()
        .filter_map(|variable| variable.split_once('='));
    command
        // The first argument is the program's name.
        .args(hook.args.iter().skip(1))
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not read is told nothing.
        let _ = input.write_all(ui::to_json(&state.told()).as_bytes());
    }
    if let Some(seconds) = hook.timeout
        && !ends_within(&child, Duration::from_secs(seconds))?
    {
        child.kill()?;
        child.wait()?;
        return Err(Failure::new(format!("it took longer than {seconds} s")));
    }
    let status = child.wait()?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(status.to_string()))
    }
}

fn ends_within(child: &Child, time: Duration) -> Result<bool, Failure> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let time = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&time)))? > 0)
}
