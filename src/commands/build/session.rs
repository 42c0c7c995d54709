//! What a build starts with, made when it is first needed: loading a context comes before the request
//! is complete, and has progress to show.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rbuild_builder::request::{SecretSource, SshSource};
use rbuild_builder::{
    BuildError, BuildErrorKind, Cancel, ContextAccess, ContextAddress, OpenedContext, Remote,
    open_context,
};
use rbuild_cache::Store;
use rustix::event::{PollFd, PollFlags, poll};

use super::context::{LARGEST_FILE, Opener};
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::signals::{self, Received};
use crate::ui;
use crate::ui::progress::{Display, Progress, ProgressMode};

/// The store, the progress and the way to stop of one build.
pub(super) struct Session<'s> {
    settings: &'s Settings,
    mode: ProgressMode,
    pub(super) remote: Remote,
    /// Where the progress goes instead of the terminal.
    log: Option<PathBuf>,
    store: Option<Store>,
    running: Option<Running>,
}

/// What shows and stops a build.
pub(in crate::commands) struct Running {
    pub(in crate::commands) progress: Progress,
    pub(in crate::commands) cancel: Cancel,
    pub(in crate::commands) received: Received,
}

impl<'s> Session<'s> {
    pub(super) fn new(settings: &'s Settings, mode: ProgressMode, remote: Remote) -> Session<'s> {
        Session {
            settings,
            mode,
            remote,
            log: None,
            store: None,
            running: None,
        }
    }

    /// Writes the progress to a file, if there is one.
    pub(super) fn logging_to(mut self, log: Option<&Path>) -> Session<'s> {
        self.log = log.map(Path::to_path_buf);
        self
    }

    /// Opens the store, once.
    pub(super) fn store(&mut self) -> Result<Store, Failure> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let store = crate::commands::open_store(self.settings)?;
        Ok(self.store.insert(store).clone())
    }

    /// Starts showing what happens, and being stopped by signals; once.
    pub(super) fn start(mut self) -> Result<(Running, Remote), Failure> {
        let running = match self.running.take() {
            Some(running) => running,
            None => self.begin()?,
        };
        Ok((running, self.remote))
    }

    fn begin(&self) -> Result<Running, Failure> {
        let mode = self.mode;
        let log = self.log.as_deref().map(create_log).transpose()?;
        let cancel = Cancel::new()?;
        let received = signals::cancel_on_signals(cancel.clone(), move || {
            if mode == ProgressMode::Plain {
                ui::message("stopping; press Ctrl-C again to end at once\n");
            }
        })?;
        let display = Display {
            palette: self.settings.palette,
            terminal: self.settings.stderr_terminal,
            log_lines: self.settings.log_lines(),
        };
        Ok(Running {
            progress: match log {
                Some(file) => Progress::to_file(file)?,
                None => Progress::start(mode, display)?,
            },
            cancel,
            received,
        })
    }
}

fn create_log(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|error| {
        let message = format!("could not write the log `{}`", path.display());
        Failure::new(message).because(&error)
    })
}

/// Standard input of which nothing is read ahead, so that waiting for more is waiting for the descriptor.
pub(super) fn unbuffered_stdin() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Reads standard input until the build is stopped, also when nothing comes any more.
struct Stoppable<'r> {
    inner: &'r mut dyn Read,
    cancel: &'r Cancel,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        let mut ready = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::from_borrowed_fd(self.cancel.as_fd(), PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut ready, None))?;
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.inner.read(buffer)
    }
}

/// Opens a context; one that comes as a stream is given up when the build is stopped.
fn open_stoppable(
    store: &Store,
    remote: &Remote,
    address: ContextAddress<'_>,
    access: &ContextAccess<'_>,
) -> Result<OpenedContext, BuildError> {
    let ContextAddress::Stream(inner) = address else {
        return open_context(store, remote, address, access, LARGEST_FILE);
    };
    let mut stream = Stoppable {
        inner,
        cancel: access.cancel,
    };
    let address = ContextAddress::Stream(&mut stream);
    open_context(store, remote, address, access, LARGEST_FILE)
}

impl Opener for Session<'_> {
    fn open(
        &mut self,
        address: ContextAddress<'_>,
        secrets: &BTreeMap<String, SecretSource>,
        ssh: &BTreeMap<String, SshSource>,
    ) -> Result<OpenedContext, Failure> {
        let store = self.store()?;
        let running = match self.running.take() {
            Some(running) => running,
            None => self.begin()?,
        };
        let access = ContextAccess {
            secrets,
            ssh,
            events: &running.progress,
            cancel: &running.cancel,
        };
        match open_stoppable(&store, &self.remote, address, &access) {
            Ok(opened) => {
                self.running = Some(running);
                Ok(opened)
            }
            Err(error) => {
                // What was shown must be complete before the failure is told.
                running.progress.finish();
                let stopped =
                    error.kind == BuildErrorKind::Cancelled || running.cancel.is_cancelled();
                let error = if stopped {
                    BuildError::cancelled()
                } else {
                    error
                };
                let code = match running.received.exit_status() {
                    code if stopped => code.unwrap_or(status::INTERRUPTED),
                    _ => status::ERROR,
                };
                Err(Failure {
                    causes: error.causes.clone(),
                    hints: error.help.clone(),
                    disk: error.disk,
                    ..Failure::new(format!("failed to solve: {error}")).with_status(code)
                })
            }
        }
    }
}
