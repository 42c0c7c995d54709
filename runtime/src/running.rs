//! A started sandbox, seen from the program.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use crate::SandboxError;

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

/// A running sandbox. Dropping it before its end kills it.
#[derive(Debug)]
pub struct Running {
    pidfd: OwnedFd,
    pid: u32,
    terminal: Option<OwnedFd>,
    warnings: Vec<String>,
    status: Option<ExitStatus>,
}

impl Running {
    /// Waits until the process and everything that it started is gone.
    pub fn wait(&mut self) -> Result<ExitStatus, SandboxError> {
        self.status.ok_or(SandboxError::SpawnerGone)
    }

    /// As [`wait`](Self::wait), but returns `None` at once when the sandbox still runs.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, SandboxError> {
        Ok(self.status)
    }

    /// Returns a descriptor of the process, readable when the sandbox is gone.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Returns the process id as the host sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to the process.
    pub fn signal(&self, _signal: i32) -> Result<(), SandboxError> {
        Err(SandboxError::SpawnerGone)
    }

    /// Kills the process and all that it started.
    pub fn kill(&self) -> Result<(), SandboxError> {
        self.signal(9)
    }

    /// Returns the controlling side of the terminal, once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Returns what the host refused and the sandbox goes without.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}
