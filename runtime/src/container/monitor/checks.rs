//! Health checks of a container that lives: a thread that sleeps between them.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::shared::{Life, Shared, StoppedBy};
use crate::container::health::{OUTPUT, Probe};
use crate::container::state::now;
use crate::container::{Health, HealthCheck, OnFailure};
use crate::{ExitStatus, Running, Stdio};

/// Begins to check the present life, if the container has checks.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Option<JoinHandle<()>>> {
    let Some(check) = shared.container().config.health.clone() else {
        return Ok(None);
    };
    let Some(life) = shared.life() else {
        return Ok(None);
    };
    let shared = Arc::clone(shared);
    let thread = Builder::new().name("health".into());
    thread
        .spawn(move || check_until_the_end(&shared, &life, &check))
        .map(Some)
}

fn check_until_the_end(shared: &Arc<Shared>, life: &Arc<Life>, check: &HealthCheck) {
    let mut health = Health::default();
    loop {
        if shared.wait_while(life, health.pause(check, life.began.elapsed())) {
            return;
        }
        // What stands still cannot answer.
        shared.wait_while_paused();
        if shared.wait_while(life, Duration::ZERO) {
            return;
        }
        let probe = probe(shared, life, check);
        // The check may have failed because the container was ending.
        if shared.wait_while(life, Duration::ZERO) {
            return;
        }
        let became_unhealthy = health.take(check, probe, life.began.elapsed());
        // What cannot be written now will be after the next check.
        let _ = shared.tell_health(&health);
        if became_unhealthy {
            match check.on_failure {
                OnFailure::None => {}
                // An error means that it has ended by itself.
                OnFailure::Kill => drop(life.signal(libc::SIGKILL)),
                OnFailure::Restart => shared.renew(life),
                OnFailure::Stop => {
                    let signal = shared.container().config.stop_signal;
                    drop(shared.stop(signal, StoppedBy::Somebody));
                }
            }
        }
    }
}

/// Runs the check once.
fn probe(shared: &Shared, life: &Life, check: &HealthCheck) -> Probe {
    let start = now();
    match run(shared, life, check) {
        Ok((exit_code, output)) => Probe::new(start, exit_code, output),
        Err(error) => Probe::new(start, -1, error),
    }
}

fn run(shared: &Shared, life: &Life, check: &HealthCheck) -> Result<(i32, String), String> {
    let text = |error: io::Error| format!("could not run the check: {error}");
    let (output, end) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| text(error.into()))?;
    let stdio = Stdio {
        stdin: None,
        stdout: end.try_clone().map_err(text)?,
        stderr: end,
    };
    let until = Instant::now() + check.timeout;
    let running = shared
        .runtime()
        .join(life.pidfd.as_fd(), &check.check, stdio);
    let mut running = running.map_err(|error| {
        let cause = std::error::Error::source(&error);
        let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{error}{cause}")
    })?;
    let mut collected = Vec::new();
    let in_time = collect(&running, &output, until, &mut collected).map_err(text)?;
    let output = String::from_utf8_lossy(&collected).into_owned();
    if !in_time {
        // An error means that it has just ended.
        let _ = running.kill();
        let _ = running.wait();
        return Err(format!(
            "Health check exceeded timeout ({:?}): {output}",
            check.timeout
        ));
    }
    match running.wait() {
        Ok(ExitStatus::Code(code)) => Ok((code.into(), output)),
        Ok(ExitStatus::Signal(signal, _)) => Ok((128 + signal, output)),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads what a check writes until it has ended; false when the time is over before.
fn collect(
    running: &Running,
    output: &OwnedFd,
    until: Instant,
    collected: &mut Vec<u8>,
) -> io::Result<bool> {
    let mut open = true;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let time = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let pidfd = running.pidfd();
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        let woken = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&time)))?;
        let ended = !fds[0].revents().is_empty();
        let readable = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if readable {
            let mut buffer = [0; OUTPUT];
            let count = rustix::io::retry_on_intr(|| rustix::io::read(output, &mut buffer))?;
            open = count > 0;
            let room = OUTPUT.saturating_sub(collected.len());
            collected.extend_from_slice(&buffer[..count.min(room)]);
        } else if ended {
            // All that it has written was read; what it has left running does not count.
            return Ok(true);
        } else if woken == 0 {
            return Ok(false);
        }
    }
}
