//! A started sandbox, seen from the program.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::RecvFlags;

use crate::net::Lease;
use crate::spec::Connected;
use crate::wire::{self, Status};
use crate::{SandboxError, runtime, sys};

/// The standard streams of a sandbox. Ignored when the process has a terminal.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input; `None` is an empty pipe.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// How the process of a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it; the flag says that it was for want of memory within its limit.
    Signal(i32, bool),
}

/// What a sandbox with [`Network::Attached`](crate::Network::Attached) was connected with. Dropping it
/// gives its addresses back: only when the sandbox has ended.
#[derive(Debug, Default)]
pub struct Connections {
    /// Its interfaces, in the order of their numbers.
    pub interfaces: Vec<Connected>,
    /// Sockets inside for a name server: for datagrams, for connections. Neither blocks.
    pub name_server: Option<[OwnedFd; 2]>,
    pub(crate) leases: Vec<Lease>,
    /// The network namespace of the bridges if that is not the host's, and where it is noted what was
    /// made there.
    pub(crate) router: Option<(OwnedFd, PathBuf)>,
}

/// A running sandbox. Dropping it before its end kills it.
#[derive(Debug)]
pub struct Running {
    pub(crate) pidfd: OwnedFd,
    pub(crate) pid: u32,
    pub(crate) status_socket: OwnedFd,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) connections: Connections,
    pub(crate) warnings: Vec<String>,
    pub(crate) status: Option<ExitStatus>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) out_of_memory: bool,
    pub(crate) keeps_remains: bool,
    pub(crate) remains: Option<OwnedFd>,
    /// Keeps the spawner alive.
    pub(crate) _spawner: Arc<runtime::Spawner>,
}

impl Running {
    /// Waits until the process and everything that it started is gone.
    pub fn wait(&mut self) -> Result<ExitStatus, SandboxError> {
        loop {
            if let Some(status) = self.receive(RecvFlags::empty())? {
                return Ok(status);
            }
        }
    }

    /// As [`wait`](Self::wait), but returns `None` at once when the sandbox still runs.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, SandboxError> {
        self.receive(RecvFlags::DONTWAIT)
    }

    fn receive(&mut self, flags: RecvFlags) -> Result<Option<ExitStatus>, SandboxError> {
        if self.status.is_none() {
            match wire::hear::<Status>(&self.status_socket, flags) {
                Ok(Some((Status::Exited(exit), descriptors))) => {
                    // Otherwise they are taken apart here and now: whoever asks next may use the directories.
                    self.remains = descriptors
                        .into_iter()
                        .next()
                        .filter(|_| self.keeps_remains);
                    self.cpu_time = Some(Duration::from_millis(exit.cpu_ms));
                    self.out_of_memory = exit.out_of_memory;
                    self.status = Some(exit.into());
                }
                Ok(Some((Status::Started, _))) => {}
                Ok(None) => return Err(SandboxError::SpawnerGone),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(source) => {
                    return Err(SandboxError::Host {
                        action: "wait for the sandbox",
                        source,
                    });
                }
            }
        }
        Ok(self.status)
    }

    /// Says whether a process of the sandbox was killed because it had too little memory; known when the
    /// sandbox has ended.
    pub fn was_out_of_memory(&self) -> bool {
        self.out_of_memory
    }

    /// Returns a descriptor of the process, readable when the sandbox is gone.
    ///
    /// [`try_wait`](Self::try_wait) may still say `None` for a moment after that; `wait` does not
    /// block for longer than that moment.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Returns the process id as the host sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to the process. One that has ended already is not an error.
    ///
    /// Process 1 of a pid namespace ignores signals that it has no handler for, except `SIGKILL`
    /// and `SIGSTOP`; with [`Sandbox::init`](crate::Sandbox::init) the command is not process 1.
    pub fn signal(&self, signal: i32) -> Result<(), SandboxError> {
        match sys::send_signal(self.pidfd.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.map_err(|source| SandboxError::Host {
                action: "send a signal to the sandbox",
                source,
            }),
        }
    }

    /// Kills the process and all that it started.
    pub fn kill(&self) -> Result<(), SandboxError> {
        self.signal(libc::SIGKILL)
    }

    /// Returns the controlling side of the terminal, once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Returns what the sandbox was connected with, once.
    pub fn take_connections(&mut self) -> Connections {
        std::mem::take(&mut self.connections)
    }

    /// Keeps the mounts of the sandbox, which nobody sees any more when it has ended, for
    /// [`take_remains`](Self::take_remains). To take them apart takes the kernel some tenths of a millisecond.
    pub fn keep_remains(&mut self) {
        self.keeps_remains = true;
    }

    /// Returns what was kept of a sandbox that has ended, once; it is gone when it was dropped, in any thread.
    pub fn take_remains(&mut self) -> Option<OwnedFd> {
        self.remains.take()
    }

    /// Returns the processor time of the process and of what it had waited for, once it has ended.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.cpu_time
    }

    /// Returns what the host refused and the sandbox goes without.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            // Whoever gives up a sandbox does not want it to go on unseen. An error means that it
            // is gone already.
            let _ = self.kill();
        }
    }
}

impl From<wire::Exit> for ExitStatus {
    fn from(exit: wire::Exit) -> Self {
        if exit.signalled {
            Self::Signal(exit.code, exit.out_of_memory)
        } else {
            Self::Code(exit.code as u8)
        }
    }
}

/// Reads the process id behind a pidfd as this process's `/proc` shows it; 0 when it is gone.
pub(crate) fn pid_of(pidfd: &OwnedFd) -> u32 {
    std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .unwrap_or(0)
}
