//! What the threads of a monitor share: the container's present life, and who waits for its end.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::streams::Begun;
use super::{Again, exit_code_of};
use crate::container::error::ContainerError;
use crate::container::log::{Log, Stream};
use crate::container::network::Live;
use crate::container::restart::Backoff;
use crate::container::state::{self, State, Status, now};
use crate::container::{Container, Health};
use crate::freezer::{self, Frozen};
use crate::{ExitStatus, Runtime, SandboxError, sys};

const KILL: i32 = libc::SIGKILL;

/// What the threads share.
pub(super) struct Shared {
    container: Container,
    log: Log,
    runtime: Runtime,
    state: Mutex<State>,
    /// Who sees what it writes.
    attached: Mutex<Vec<Attached>>,
    /// Set while it stands still; taken before `progress` where both are.
    frozen: Mutex<Option<Frozen>>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

/// The time between a start of the container and its end.
pub(super) struct Life {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    /// What serves its network.
    pub(super) network: Arc<Live>,
    /// The controlling side of the container's terminal.
    pub(super) terminal: Option<OwnedFd>,
    /// Where its standard input is written to.
    pub(super) stdin: Mutex<Option<OwnedFd>>,
    pub(super) began: Instant,
}

#[derive(Default)]
struct Progress {
    /// None while it waits to be started again, and at the end.
    life: Option<Arc<Life>>,
    /// Lives that have ended.
    ended: u64,
    /// How the last one did.
    exit: i32,
    /// There will be no other life.
    finished: bool,
    /// It is to end for good; this is the signal that told it so, and who did.
    stopping: Option<(i32, StoppedBy)>,
    /// It is to be started again, whatever its policy says.
    renewing: bool,
    /// Conversations that wait for an end.
    waiting: usize,
}

/// Who wants a container to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoppedBy {
    /// A user: it stays ended.
    Somebody,
    /// Who shuts the machine down: it is to be there again after that.
    Machine,
}

/// Where somebody wants to see what the container writes.
pub(super) struct Attached {
    pub(super) stdout: File,
    pub(super) stderr: File,
}

pub(in crate::container) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded here is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(container: Container, log: Log, runtime: Runtime) -> Shared {
        Shared {
            container,
            log,
            runtime,
            state: Mutex::default(),
            attached: Mutex::default(),
            frozen: Mutex::default(),
            progress: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn container(&self) -> &Container {
        &self.container
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    fn wait<'g, T>(&self, guard: MutexGuard<'g, T>) -> MutexGuard<'g, T> {
        self.changed
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and its file with it.
    fn change_state(&self, change: impl FnOnce(&mut State)) -> Result<(), ContainerError> {
        let mut state = lock(&self.state);
        change(&mut state);
        state::write(&self.container.state_file(), &*state)
    }

    /// A life begins.
    pub(super) fn begin(&self, begun: &Begun, restarts: u32) -> Result<(), ContainerError> {
        let life = Arc::new(Life::of(begun)?);
        if self.container.config.health.is_some() {
            self.tell_health(&Health::default())?;
        }
        self.change_state(|state| {
            *state = State {
                status: Status::Running,
                pid: life.pid,
                started: now(),
                restarts,
                // How it ended before is of interest while it has been started again by itself.
                finished: std::mem::take(&mut state.finished),
                ..State::default()
            };
        })?;
        let mut progress = lock(&self.progress);
        if let Some((signal, _)) = progress.stopping {
            // Somebody wanted it to end while it was being started.
            let _ = sys::send_signal(life.pidfd.as_fd(), signal);
        }
        progress.life = Some(life);
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn tell_health(&self, health: &Health) -> Result<(), ContainerError> {
        state::write(&self.container.health_file(), health)
    }

    /// A life has ended. Tells all who wait; says whether there is to be another one.
    pub(super) fn ended(
        &self,
        exit: Result<ExitStatus, SandboxError>,
        backoff: &mut Backoff,
    ) -> Result<Option<Again>, ContainerError> {
        let policy = self.container.config_now().restart;
        if let Some(frozen) = lock(&self.frozen).take() {
            frozen.discard();
        }
        let ran = self.life().map(|life| life.began.elapsed());
        let mut progress = lock(&self.progress);
        let renewing = std::mem::take(&mut progress.renewing);
        let stopped = progress.stopping;
        let mut again = None;
        self.change_state(|state| {
            *state = match exit {
                Ok(exit) => state.ended(exit),
                Err(error) => State {
                    error: error.to_string(),
                    ..state.lost(now())
                },
            };
            state.stopped = matches!(stopped, Some((_, StoppedBy::Somebody)));
            if stopped.is_none() && (renewing || policy.goes_on(state.exit_code, state.restarts)) {
                state.status = Status::Restarting;
                again = Some(Again {
                    delay: backoff.next(ran.unwrap_or_default()),
                    restarts: state.restarts + 1,
                });
            }
        })?;
        lock(&self.attached).clear();
        progress.life = None;
        progress.ended += 1;
        progress.exit = lock(&self.state).exit_code;
        progress.finished = again.is_none();
        self.changed.notify_all();
        Ok(again)
    }

    /// Waits before the next life; false if somebody does not want another one.
    pub(super) fn rest(&self, delay: Duration) -> Result<bool, ContainerError> {
        let until = Instant::now() + delay;
        let mut progress = lock(&self.progress);
        while progress.stopping.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            let woken = self.changed.wait_timeout(progress, left);
            progress = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.change_state(|state| {
            state.status = Status::Exited;
            state.stopped = matches!(progress.stopping, Some((_, StoppedBy::Somebody)));
        })?;
        progress.finished = true;
        self.changed.notify_all();
        Ok(false)
    }

    /// There is no other life: it could not be started.
    pub(super) fn not_started(&self, error: &SandboxError) -> Result<(), ContainerError> {
        let exit = exit_code_of(error);
        self.change_state(|state| {
            state.status = Status::Exited;
            state.exit_code = exit;
            state.error = error.to_string();
        })?;
        let mut progress = lock(&self.progress);
        progress.exit = exit;
        progress.finished = true;
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until all who wait for the end know it.
    pub(super) fn wait_for_conversations(&self) {
        let mut progress = lock(&self.progress);
        while progress.waiting > 0 {
            progress = self.wait(progress);
        }
    }

    /// Keeps the monitor alive until the result is dropped.
    pub(super) fn hold(self: &Arc<Shared>) -> Hold {
        lock(&self.progress).waiting += 1;
        Hold(Arc::clone(self))
    }

    /// Waits for the end of the present life, or of the next one while there is none.
    pub(super) fn wait_for_end(&self) -> i32 {
        let mut progress = lock(&self.progress);
        let before = progress.ended;
        while progress.ended == before && !progress.finished {
            progress = self.wait(progress);
        }
        progress.exit
    }

    /// The present life; none while there is none.
    pub(super) fn life(&self) -> Option<Arc<Life>> {
        lock(&self.progress).life.clone()
    }

    /// The present life, for something that a container must run for.
    pub(super) fn running(&self) -> Result<Arc<Life>, String> {
        let id = &self.container.config.id;
        if lock(&self.frozen).is_some() {
            return Err(format!("container {id} is paused, unpause it first"));
        }
        self.life().ok_or_else(|| self.no_life())
    }

    fn no_life(&self) -> String {
        let id = &self.container.config.id;
        if lock(&self.progress).finished {
            format!("container {id} is not running")
        } else {
            format!("container {id} is restarting, wait until it is running")
        }
    }

    /// Waits until this life has ended or the time is over; says whether it has ended.
    pub(super) fn wait_while(&self, life: &Arc<Life>, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut progress = lock(&self.progress);
        loop {
            let goes_on = progress
                .life
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(now, life));
            let left = until.saturating_duration_since(Instant::now());
            if !goes_on || left.is_zero() {
                return !goes_on;
            }
            let woken = self.changed.wait_timeout(progress, left);
            progress = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits while it stands still.
    pub(super) fn wait_while_paused(&self) {
        while lock(&self.frozen).is_some() {
            let progress = lock(&self.progress);
            if progress.life.is_none() {
                return;
            }
            // Whoever lets it go on tells so with this lock.
            if lock(&self.state).status == Status::Paused {
                drop(self.wait(progress));
            }
        }
    }

    /// Sends a signal that is meant to end it for good.
    pub(super) fn stop(&self, signal: i32, by: StoppedBy) -> Result<(), String> {
        let mut progress = lock(&self.progress);
        progress.stopping = Some((signal, by));
        self.changed.notify_all();
        let life = progress.life.clone();
        drop(progress);
        if let Some(life) = life {
            life.signal(signal)?;
        }
        // What stands still can be killed but cannot end by itself.
        match self.unpause() {
            Err(error) if lock(&self.frozen).is_some() => Err(error),
            _ => Ok(()),
        }
    }

    /// Kills it; it is started again.
    pub(super) fn renew(&self, life: &Life) {
        lock(&self.progress).renewing = true;
        // It may have ended by itself meanwhile.
        let _ = life.signal(KILL);
    }

    /// Has it stand still; says what is to be said about that.
    pub(super) fn pause(&self) -> Result<Option<&'static str>, String> {
        let id = &self.container.config.id;
        let mut frozen = lock(&self.frozen);
        if frozen.is_some() {
            return Err(format!("container {id} is already paused"));
        }
        let life = self.life().ok_or_else(|| self.no_life())?;
        let held = freezer::freeze(life.pid)
            .map_err(|error| format!("could not pause the container {id}: {error}"))?;
        let note = held.note();
        *frozen = Some(held);
        if let Err(error) = self.change_status(Status::Running, Status::Paused) {
            let held = frozen.take();
            drop(frozen);
            // The first error counts.
            let _ = held.map(|held| held.thaw(life.pid));
            return Err(error.to_string());
        }
        Ok(note)
    }

    /// Lets it go on.
    pub(super) fn unpause(&self) -> Result<(), String> {
        let id = &self.container.config.id;
        let mut frozen = lock(&self.frozen);
        let Some(held) = frozen.take() else {
            return Err(format!("container {id} is not paused"));
        };
        let Some(life) = self.life() else {
            held.discard();
            return Ok(());
        };
        held.thaw(life.pid)
            .map_err(|error| format!("could not let the container {id} go on: {error}"))?;
        let changed = self.change_status(Status::Paused, Status::Running);
        drop(frozen);
        let _progress = lock(&self.progress);
        self.changed.notify_all();
        changed.map_err(|error| error.to_string())
    }

    /// Changes one status into another one, unless it has ended meanwhile.
    fn change_status(&self, from: Status, to: Status) -> Result<(), ContainerError> {
        self.change_state(|state| {
            if state.status == from {
                state.status = to;
            }
        })
    }

    /// Lets somebody see what it writes.
    pub(super) fn attach(&self, attached: Attached) {
        lock(&self.attached).push(attached);
    }

    /// Shows bytes to all who are attached; who does not read any more is left out.
    pub(super) fn show(&self, stream: Stream, bytes: &[u8]) {
        lock(&self.attached).retain_mut(|attached| {
            let file = match stream {
                Stream::Stdout => &mut attached.stdout,
                Stream::Stderr => &mut attached.stderr,
            };
            file.write_all(bytes).is_ok()
        });
    }
}

impl Life {
    fn of(begun: &Begun) -> Result<Life, ContainerError> {
        let failed = |source| ContainerError::Monitor {
            action: "duplicate a descriptor",
            source,
        };
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(Life {
            pid: begun.running.pid(),
            pidfd: begun.running.pidfd().try_clone_to_owned().map_err(failed)?,
            network: Arc::clone(&begun.network),
            terminal: copy(&begun.terminal).map_err(failed)?,
            stdin: Mutex::new(copy(&begun.stdin).map_err(failed)?),
            began: Instant::now(),
        })
    }

    /// Sends a signal to its first process; one that has ended needs none.
    pub(super) fn signal(&self, signal: i32) -> Result<(), String> {
        match sys::send_signal(self.pidfd.as_fd(), signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(format!("could not send a signal: {error}"))
            }
            _ => Ok(()),
        }
    }
}

/// Keeps the monitor alive.
pub(super) struct Hold(Arc<Shared>);

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.0.progress).waiting -= 1;
        self.0.changed.notify_all();
    }
}
