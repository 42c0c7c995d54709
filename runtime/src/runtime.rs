//! The handle of the spawner: starts it with the first sandbox, and talks to it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{RecvFlags, Shutdown, shutdown};
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::cgroup;
use crate::isolation::isolation;
use crate::net::Lease;
use crate::running::Connections;
use crate::wire::{self, Failure, Request, Setup, Status};
use crate::{Frame, Joining, Running, Sandbox, SandboxError, Stdio, emulation, running, sys};

/// What a [`Runtime`] needs from its user.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Directory for small state shared by all programs of the host, such as `/run/rbuild`: the
    /// locks of the shared network. Created when missing.
    pub state_dir: PathBuf,
}

/// Starts sandboxes. Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: RuntimeOptions,
    /// Started with the first sandbox. A failure is not kept: the next sandbox tries again.
    spawner: Mutex<Option<Arc<Spawner>>>,
}

/// The spawner process; ends when the last user is gone.
#[derive(Debug)]
pub(crate) struct Spawner {
    control: Option<OwnedFd>,
    pid: Option<Pid>,
    /// It has said that it can take requests.
    ready: Mutex<bool>,
}

/// Spawners that had not ended yet when nobody needed them any more.
static PARTED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

impl Drop for Spawner {
    fn drop(&mut self) {
        let mut parted = false;
        if let Some(control) = self.control.take() {
            // Without requests it kills what still runs and cleans up.
            let _ = shutdown(&control, Shutdown::Write);
            while let Ok(Some((said, _))) = wire::hear(&control, RecvFlags::empty()) {
                parted |= matches!(said, wire::Ready::Parted);
            }
        }
        let Some(pid) = self.pid else { return };
        if parted {
            PARTED
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(pid);
        } else {
            // Someone who ignores or reaps all children has done this already.
            let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
        }
        collect_parted();
    }
}

/// Collects those that have ended meanwhile.
fn collect_parted() {
    let mut parted = PARTED.lock().unwrap_or_else(PoisonError::into_inner);
    parted.retain(|pid| matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None)));
}

impl Runtime {
    /// Prepares to start sandboxes. Costs nothing: the spawner starts with the first sandbox, so a
    /// build without `RUN` never has one.
    ///
    /// Works for every user; where the host does not let this process make a sandbox,
    /// [`spawn`](Self::spawn) says so.
    pub fn start(options: RuntimeOptions) -> Result<Self, SandboxError> {
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                spawner: Mutex::new(None),
            }),
        })
    }

    /// Starts the spawner now: it gets ready while the caller prepares the first
    /// [`spawn`](Self::spawn), which tells if it could not.
    ///
    /// Its sandboxes share the network namespace of the thread that starts it first. If the first one will
    /// be as `expected`, half of it is made meanwhile.
    pub fn warm_up(&self, expected: Option<Frame>) -> Result<(), SandboxError> {
        self.spawner(expected).map(drop)
    }

    /// Lets the spawner end while the caller clears up; the last drop waits for it.
    ///
    /// For when no sandbox runs and none will be asked for.
    pub fn retire(&self) {
        let slot = self
            .inner
            .spawner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(control) = slot.as_ref().and_then(|spawner| spawner.control.as_ref()) {
            // It has gone already if that fails.
            let _ = shutdown(control, Shutdown::Write);
        }
    }

    /// See [`RuntimeOptions`].
    pub(crate) fn state_dir(&self) -> &Path {
        &self.inner.options.state_dir
    }

    fn spawner(&self, expected: Option<Frame>) -> Result<Arc<Spawner>, SandboxError> {
        let mut slot = self
            .inner
            .spawner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(spawner) = &*slot {
            return Ok(Arc::clone(spawner));
        }
        let spawner = Arc::new(Spawner::start(&self.inner.options, expected)?);
        Ok(Arc::clone(slot.insert(spawner)))
    }

    /// Starts a sandbox. Returns when its command was executed or its set-up has failed.
    pub fn spawn(&self, sandbox: &Sandbox, stdio: Stdio) -> Result<Running, SandboxError> {
        self.spawn_followed(sandbox, stdio, false)
    }

    /// Starts a sandbox; with `followed`, another one much like it is about to be asked for, so that half of
    /// it is made while this one runs. Nothing passes from one to the other.
    pub fn spawn_followed(
        &self,
        sandbox: &Sandbox,
        stdio: Stdio,
        followed: bool,
    ) -> Result<Running, SandboxError> {
        let body = serde_json::to_vec(sandbox)
            .map_err(|error| SandboxError::Invalid(error.to_string()))?;
        if !sandbox.limits.is_empty() {
            cgroup::make_room(&sandbox.limits);
        }
        self.ask(body, stdio, None, followed)
    }

    /// Starts a process in a sandbox that runs. Returns as [`spawn`](Self::spawn) does.
    ///
    /// The process ends with the sandbox at the latest. Killing the result kills the process, unless a
    /// set-user-id program has taken its place, but not what it has started.
    pub fn join(
        &self,
        sandbox: BorrowedFd<'_>,
        joining: &Joining,
        stdio: Stdio,
    ) -> Result<Running, SandboxError> {
        let body = serde_json::to_vec(joining)
            .map_err(|error| SandboxError::Invalid(error.to_string()))?;
        let target = sandbox
            .try_clone_to_owned()
            .map_err(host("duplicate a descriptor"))?;
        self.ask(body, stdio, Some(target), false)
    }

    fn ask(
        &self,
        body: Vec<u8>,
        stdio: Stdio,
        target: Option<OwnedFd>,
        followed: bool,
    ) -> Result<Running, SandboxError> {
        let spawner = self.spawner(None)?;
        if let Err(error) = spawner.await_ready() {
            self.forget(&spawner);
            return Err(error);
        }
        let control = spawner.control.as_ref().ok_or(SandboxError::SpawnerGone)?;
        let (status, its_status) = wire::pair().map_err(host("make a socket"))?;
        let (setup, its_setup) = wire::pair().map_err(host("make a socket"))?;
        let Stdio {
            stdin,
            stdout,
            stderr,
        } = stdio;
        let request = Request {
            body,
            status: its_status,
            setup: its_setup,
            stdout,
            stderr,
            stdin,
            target,
            followed,
        };
        let answer = match request.send(control.as_fd()) {
            Ok(()) => {
                // Our copies of the child's ends would keep its silence from being an end.
                drop(request);
                follow(&spawner, status, &setup, &self.inner.options.state_dir)
            }
            Err(source) => match source.raw_os_error() {
                Some(libc::EPIPE | libc::ECONNRESET) => Err(SandboxError::SpawnerGone),
                _ => Err(SandboxError::Host {
                    action: "ask for a sandbox",
                    source,
                }),
            },
        };
        if matches!(answer, Err(SandboxError::SpawnerGone)) {
            self.forget(&spawner);
        }
        answer
    }

    /// Lets the next sandbox start another spawner: this one was killed.
    fn forget(&self, dead: &Arc<Spawner>) {
        let mut slot = self
            .inner
            .spawner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if slot
            .as_ref()
            .is_some_and(|spawner| Arc::ptr_eq(spawner, dead))
        {
            *slot = None;
        }
    }
}

/// Follows the set-up until the command runs or something failed.
fn follow(
    spawner: &Arc<Spawner>,
    status: OwnedFd,
    setup: &OwnedFd,
    state_dir: &Path,
) -> Result<Running, SandboxError> {
    let mut terminal = None;
    let mut warnings = Vec::new();
    let mut connections = Connections::default();
    let mut failure: Option<Failure> = None;
    let answer = host("read the answer of the sandbox");
    while let Some((message, descriptors)) =
        wire::hear::<Setup>(setup, RecvFlags::empty()).map_err(&answer)?
    {
        match message {
            Setup::Warning(text) => warnings.push(text),
            Setup::Owners => {
                if let Some(listener) = descriptors.into_iter().next() {
                    emulation::start(listener).map_err(host("start a thread"))?;
                }
            }
            // Of sandboxes that other programs monitor.
            Setup::Ready => {}
            message @ (Setup::Connected(_) | Setup::NameServer | Setup::Router { .. }) => {
                connections.add(message, descriptors, state_dir);
            }
            Setup::Terminal => terminal = descriptors.into_iter().next(),
            Setup::Failed(found) => failure = failure.or(Some(found)),
        }
    }
    let started = wire::hear::<Status>(&status, RecvFlags::empty()).map_err(&answer)?;
    let pidfd = match started {
        Some((Status::Started, descriptors)) => descriptors.into_iter().next(),
        _ => None,
    };
    let Some(pidfd) = pidfd else {
        return Err(failure.map_or(SandboxError::SpawnerGone, SandboxError::from));
    };
    let pid = running::pid_of(&pidfd);
    let mut running = Running {
        pidfd,
        pid,
        status_socket: status,
        terminal,
        connections,
        warnings,
        status: None,
        cpu_time: None,
        out_of_memory: false,
        keeps_remains: false,
        remains: None,
        _spawner: Arc::clone(spawner),
    };
    match failure {
        Some(failure) => {
            // The caller may reuse the directories at once: they must be free.
            running.wait()?;
            Err(failure.into())
        }
        None => Ok(running),
    }
}

impl Connections {
    /// Takes note of what the child tells.
    fn add(&mut self, message: Setup, descriptors: Vec<OwnedFd>, state_dir: &Path) {
        let mut descriptors = descriptors.into_iter();
        match message {
            Setup::Connected(connected) => {
                if let (Some(lock), Some(lan), Some(address)) =
                    (descriptors.next(), &connected.lan, connected.address)
                {
                    let shared = state_dir.join("network");
                    let lease = Lease::take(&shared, lan, address, lock.into());
                    self.leases.push(lease);
                }
                self.interfaces.push(connected);
            }
            Setup::NameServer => {
                if let (Some(datagrams), Some(connections)) =
                    (descriptors.next(), descriptors.next())
                {
                    self.name_server = Some([datagrams, connections]);
                }
            }
            Setup::Router { made } => {
                self.router = descriptors.next().map(|router| (router, made));
            }
            _ => {}
        }
    }
}

impl Spawner {
    fn start(options: &RuntimeOptions, expected: Option<Frame>) -> Result<Self, SandboxError> {
        let (ours, its) = wire::pair().map_err(host("make a socket"))?;
        let pid = sys::spawn_spawner(its.as_fd()).map_err(not_permitted)?;
        drop(its);
        let spawner = Self {
            control: Some(ours),
            pid: Pid::from_raw(pid),
            ready: Mutex::new(false),
        };
        let control = spawner.control.as_ref().ok_or(SandboxError::SpawnerGone)?;
        let hello = wire::Hello {
            state_dir: options.state_dir.clone(),
            isolation: isolation(),
            expected,
        };
        wire::tell(control, &hello, &[]).map_err(|_| SandboxError::SpawnerGone)?;
        Ok(spawner)
    }

    fn await_ready(&self) -> Result<(), SandboxError> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if *ready {
            return Ok(());
        }
        let control = self.control.as_ref().ok_or(SandboxError::SpawnerGone)?;
        match wire::hear::<wire::Ready>(control, RecvFlags::empty()) {
            Ok(Some((wire::Ready::Yes, _))) => {
                *ready = true;
                Ok(())
            }
            Ok(Some((wire::Ready::No(failure), _))) => Err(failure.into()),
            _ => Err(SandboxError::SpawnerGone),
        }
    }
}

fn host(action: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Host { action, source }
}

/// Says which right or setting is missing when namespaces are refused.
fn not_permitted(source: io::Error) -> SandboxError {
    let what = "make the namespaces of a sandbox".to_owned();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            let hint = "`rbuild doctor` tells what this host allows";
            SandboxError::NotPermitted {
                what,
                hint: hint.into(),
                source,
            }
        }
        Some(libc::ENOSPC | libc::EUSERS) => {
            let hint = "the limit is in /proc/sys/user/max_mnt_namespaces and max_pid_namespaces";
            SandboxError::NotPermitted {
                what,
                hint: hint.into(),
                source,
            }
        }
        _ => SandboxError::Setup {
            step: "start the spawner".into(),
            path: None,
            source,
        },
    }
}
