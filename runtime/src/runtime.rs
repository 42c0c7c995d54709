//! The handle of the spawner.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Running, Sandbox, SandboxError, Stdio};

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
    _inner: Arc<RuntimeOptions>,
}

impl Runtime {
    /// Prepares to start sandboxes.
    pub fn start(options: RuntimeOptions) -> Result<Runtime, SandboxError> {
        Ok(Self {
            _inner: Arc::new(options),
        })
    }

    /// Starts a sandbox. Returns when its command was executed or its set-up has failed.
    pub fn spawn(&self, _sandbox: &Sandbox, _stdio: Stdio) -> Result<Running, SandboxError> {
        Err(SandboxError::SpawnerGone)
    }
}
