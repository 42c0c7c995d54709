//! Why a sandbox could not be started or waited for.

use std::io;
use std::path::PathBuf;

/// An error of the sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The host does not let this process make a sandbox at all.
    #[error("not permitted to {what}; {hint}")]
    NotPermitted {
        /// What is not permitted.
        what: String,
        /// Which right or setting is missing.
        hint: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The sandbox could not be set up.
    #[error("could not set up the sandbox: {step}{}", Place(path))]
    Setup {
        /// The step that failed, such as `pivot_root` or `mount /proc`.
        step: String,
        /// What it failed on.
        path: Option<PathBuf>,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The command could not be executed.
    #[error("could not execute `{}`", path.display())]
    Exec {
        /// The program as it was looked for.
        path: PathBuf,
        /// `ENOENT` (no such program, or no such interpreter), `EACCES`, `ENOEXEC`, …
        #[source]
        source: io::Error,
    },
    /// The process that starts sandboxes has ended unexpectedly.
    #[error("the process that starts sandboxes has ended unexpectedly")]
    SpawnerGone,
    /// An operation on the host's side failed.
    #[error("could not {action}")]
    Host {
        /// What was being done.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The network that was asked for cannot be had.
    #[error("{0}")]
    Network(String),
    /// The request or an answer does not make sense.
    #[error("invalid sandbox: {0}")]
    Invalid(String),
}

struct Place<'a>(&'a Option<PathBuf>);

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(path) => write!(formatter, " `{}`", path.display()),
            None => Ok(()),
        }
    }
}
