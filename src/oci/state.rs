//! What is known of a container between two calls.
//!
//! ```text
//! ROOT/ID/state.json   written when it is made, and when it stands still or goes on
//! ROOT/ID/gate         a pipe: a byte has the container begin; gone after that
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rbuild_runtime::{StandStill, Waiting, processes};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::config::{Config, Hook, read};
use crate::failure::Failure;

/// Where states are kept.
pub(super) struct Containers {
    root: PathBuf,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) pid: u32,
    /// When the process began, in ticks since the start of the machine: its number may be given to another.
    began: String,
    pub(super) created: String,
    oci_version: String,
    rootfs: PathBuf,
    annotations: BTreeMap<String, String>,
    groups: Vec<PathBuf>,
    pub(super) hooks_after_start: Vec<Hook>,
    pub(super) hooks_after_stop: Vec<Hook>,
    #[serde(default)]
    frozen: Option<StandStill>,
    /// Whether the gate is still there.
    #[serde(skip)]
    waits: bool,
}

/// A container that is being made; dropping it discards it.
pub(super) struct New {
    directory: PathBuf,
    kept: std::cell::Cell<bool>,
}

impl Containers {
    pub(super) fn new(root: &Path) -> Containers {
        Containers {
            root: root.to_path_buf(),
        }
    }

    fn directory(&self, id: &str) -> Result<PathBuf, Failure> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if id.is_empty() || id == "." || id == ".." || !id.chars().all(plain) {
            return Err(Failure::new(format!("invalid container ID {id:?}")));
        }
        Ok(self.root.join(id))
    }

    /// Takes an ID.
    pub(super) fn begin(&self, id: &str) -> Result<New, Failure> {
        let directory = self.directory(id)?;
        fs::create_dir_all(&self.root)?;
        fs::create_dir(&directory).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                return Failure::new(format!("container with id exists: {id}"));
            }
            Failure::new(format!("could not make `{}`", directory.display())).because(&error)
        })?;
        let new = New {
            directory,
            kept: false.into(),
        };
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, new.gate(), FileType::Fifo, mode, 0)?;
        Ok(new)
    }

    /// Finds a container.
    pub(super) fn find(&self, id: &str) -> Result<State, Failure> {
        let directory = self.directory(id)?;
        let path = directory.join("state.json");
        if !path.exists() {
            return Err(Failure::new(format!("container does not exist: {id}")));
        }
        let mut state: State = read(&path)?;
        state.waits = directory.join("gate").exists();
        Ok(state)
    }

    /// All containers, in the order of their IDs.
    pub(super) fn list(&self) -> Result<Vec<State>, Failure> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        // One that is just being made or removed is not there.
        let mut found: Vec<State> = names.filter_map(|id| self.find(&id).ok()).collect();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// Has a container begin that waits.
    pub(super) fn open_gate(&self, state: &State) -> Result<(), Failure> {
        let gate = self.directory(&state.id)?.join("gate");
        if state.status() != "created" {
            return Err(Failure::new(format!(
                "cannot start the container {} that is {}",
                state.id,
                state.status()
            )));
        }
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut open: fs::File = rustix::fs::open(&gate, flags, Mode::empty())?.into();
        open.write_all(b"x")?;
        Ok(fs::remove_file(gate)?)
    }

    /// Forgets a container.
    pub(super) fn discard(&self, id: &str) -> Result<(), Failure> {
        match fs::remove_dir_all(self.directory(id)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn write(&self, state: &State) -> Result<(), Failure> {
        write(&self.directory(&state.id)?, state)
    }
}

fn write(directory: &Path, state: &State) -> Result<(), Failure> {
    let beside = directory.join("state.tmp");
    fs::write(&beside, serde_json::to_vec(state)?)?;
    Ok(fs::rename(beside, directory.join("state.json"))?)
}

impl New {
    pub(super) fn gate(&self) -> PathBuf {
        self.directory.join("gate")
    }

    pub(super) fn write(&self, state: &State) -> Result<(), Failure> {
        write(&self.directory, state)
    }

    pub(super) fn keep(&self) {
        self.kept.set(true);
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if !self.kept.get() {
            // It was not made: what is told is why.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

impl State {
    pub(super) fn new(id: &str, bundle: &Path, config: &Config, made: &Waiting) -> State {
        State {
            id: id.to_owned(),
            bundle: bundle.to_path_buf(),
            pid: made.pid,
            began: life(made.pid).map(|(_, began)| began).unwrap_or_default(),
            created: Timestamp::now().to_string(),
            oci_version: config.oci_version.clone(),
            rootfs: super::translate::absolute(bundle, &config.root.path),
            annotations: config.annotations.clone(),
            groups: made.groups.clone(),
            hooks_after_start: config.hooks.poststart.clone(),
            hooks_after_stop: config.hooks.poststop.clone(),
            frozen: None,
            waits: true,
        }
    }

    /// Whether its first process is there and has not ended.
    pub(super) fn is_alive(&self) -> bool {
        life(self.pid).is_some_and(|(state, began)| began == self.began && state != "Z")
    }

    /// In the words of the specification.
    pub(super) fn status(&self) -> &'static str {
        match (self.is_alive(), self.waits, &self.frozen) {
            (false, ..) => "stopped",
            (true, _, Some(_)) => "paused",
            (true, true, None) => "created",
            (true, false, None) => "running",
        }
    }

    /// What `state` prints and hooks get.
    pub(super) fn told(&self) -> serde_json::Value {
        let pid = if self.is_alive() { self.pid } else { 0 };
        serde_json::json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "pid": pid,
            "status": self.status(),
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "owner": "",
            "annotations": self.annotations,
        })
    }

    /// Sends a signal to the first process, or to all.
    pub(super) fn signal(&self, signal: i32, all: bool) -> Result<(), Failure> {
        if !self.is_alive() {
            if all {
                return Ok(());
            }
            return Err(Failure::new("container not running"));
        }
        let numbers = if all {
            processes(self.pid)
        } else {
            vec![self.pid]
        };
        for number in numbers {
            send(number, signal)?;
        }
        Ok(())
    }

    /// Kills it and waits until it is gone.
    pub(super) fn kill_and_wait(&self) -> Result<(), Failure> {
        let Some(pid) = Pid::from_raw(self.pid.cast_signed()) else {
            return Ok(());
        };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(());
        };
        // What stands still by signals ends all the same.
        let _ = pidfd_send_signal(&process, Signal::KILL);
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        Ok(())
    }

    /// Removes its control groups, the innermost first.
    pub(super) fn remove_groups(&self) {
        for group in &self.groups {
            // The next sandbox removes what the kernel has not quite let go of.
            let _ = fs::remove_dir(group);
        }
    }

    pub(super) fn pause(mut self, containers: &Containers) -> Result<(), Failure> {
        if self.status() != "running" {
            return Err(Failure::new(format!(
                "cannot pause the container {} that is {}",
                self.id,
                self.status()
            )));
        }
        self.frozen = Some(StandStill::begin(self.pid)?);
        containers.write(&self)
    }

    pub(super) fn resume(mut self, containers: &Containers) -> Result<(), Failure> {
        let Some(frozen) = self.frozen.take() else {
            return Err(Failure::new(format!("container {} is not paused", self.id)));
        };
        frozen.end(self.pid)?;
        containers.write(&self)
    }
}

/// State of a process, and when it began.
fn life(pid: u32) -> Option<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some(((*fields.first()?).to_owned(), (*fields.get(19)?).to_owned()))
}

fn send(number: u32, signal: i32) -> Result<(), Failure> {
    rbuild_runtime::signal_process(number, signal).map_err(|error| {
        Failure::new(format!(
            "could not send the signal {signal} to the process {number}"
        ))
        .because(&error)
    })
}
