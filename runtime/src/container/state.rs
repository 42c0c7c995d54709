//! What a container is and how it is: two files, each written beside and renamed into place.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use rustix::buffer::spare_capacity;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::ContainerError;
use super::health::HealthCheck;
use super::log::LogOptions;
use super::network::Networking;
use super::restart::RestartPolicy;
use crate::{ExitStatus, Sandbox};

/// More than the usual config of a container.
const SMALL: usize = 8 << 10;

/// What was asked for when the container was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// What runs.
    pub sandbox: Sandbox,
    /// The networks that it is in.
    #[serde(default)]
    pub networking: Networking,
    /// Standard input stays open.
    pub interactive: bool,
    /// It is removed when it ends.
    pub auto_remove: bool,
    /// Signal that asks it to end.
    pub stop_signal: i32,
    /// Seconds between that signal and `SIGKILL`; negative for any time.
    pub stop_timeout: i64,
    /// Whether it is started again when it has ended.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How it is asked whether it is well.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// What becomes of what it writes.
    #[serde(default)]
    pub log: LogOptions,
    /// What only the caller understands, such as the image.
    pub details: serde_json::Value,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It has never run.
    Created,
    /// It runs.
    Running,
    /// It runs, but all its processes stand still.
    Paused,
    /// It has ended and will be started again.
    Restarting,
    /// It has ended.
    Exited,
}

impl Status {
    /// Whether it has a monitor: it runs, stands still, or is about to be started again.
    pub fn is_alive(self) -> bool {
        matches!(self, Status::Running | Status::Paused | Status::Restarting)
    }

    /// Whether it has processes: it runs or stands still.
    pub fn has_processes(self) -> bool {
        matches!(self, Status::Running | Status::Paused)
    }
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Where it is in its life.
    pub status: Status,
    /// Its first process; 0 when it does not run.
    pub pid: u32,
    /// How it ended.
    pub exit_code: i32,
    /// It was killed for want of memory.
    pub out_of_memory: bool,
    /// Why it could not be started, or how it came to an end that it did not choose.
    pub error: String,
    /// When it was started last, RFC 3339; empty if never.
    pub started: String,
    /// When it ended last, RFC 3339; empty if never.
    pub finished: String,
    /// How often it was started again since somebody has started it.
    pub restarts: u32,
    /// Somebody has stopped it: it has not ended by itself.
    pub stopped: bool,
}

impl Default for State {
    fn default() -> State {
        State {
            status: Status::Created,
            pid: 0,
            exit_code: 0,
            out_of_memory: false,
            error: String::new(),
            started: String::new(),
            finished: String::new(),
            restarts: 0,
            stopped: false,
        }
    }
}

impl State {
    /// The state after the first process has ended.
    pub(super) fn ended(&self, exit: ExitStatus) -> State {
        let (exit_code, out_of_memory) = match exit {
            ExitStatus::Code(code) => (i32::from(code), false),
            ExitStatus::Signal(signal, out_of_memory) => (128 + signal, out_of_memory),
        };
        State {
            status: Status::Exited,
            pid: 0,
            exit_code,
            out_of_memory,
            finished: now(),
            ..self.clone()
        }
    }

    /// The state of a container whose monitor was killed, and the container with it.
    pub(super) fn lost(&self, finished: String) -> State {
        if self.status == Status::Restarting {
            // It had ended before: how is known.
            return State {
                status: Status::Exited,
                error: "its monitor was killed".to_owned(),
                ..self.clone()
            };
        }
        State {
            status: Status::Exited,
            pid: 0,
            exit_code: 137,
            error: "its monitor was killed".to_owned(),
            finished,
            ..self.clone()
        }
    }
}

/// The time, RFC 3339.
pub(super) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Reads a JSON file; none if there is no such file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ContainerError> {
    let bytes = match read_small(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ContainerError::io("read", path)(error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ContainerError::io("understand", path)(error.into()))
}

/// Reads a small file without asking for its size first, into memory that is not cleared first: lists of
/// containers read many.
fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::with_capacity(SMALL);
    loop {
        let room = bytes.capacity() - bytes.len();
        let read = || rustix::io::read(&file, spare_capacity(&mut bytes));
        let count = rustix::io::retry_on_intr(read)?;
        // What fills less than there is room for was read to its end.
        if count < room {
            return Ok(bytes);
        }
        bytes.reserve(SMALL);
    }
}

/// Writes a JSON file whole or not at all.
pub(super) fn write(path: &Path, value: &impl Serialize) -> Result<(), ContainerError> {
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let failed = ContainerError::io("write", path);
    let written = serde_json::to_vec(value)
        .map_err(io::Error::from)
        .and_then(|bytes| {
            let mut file = File::create(&beside)?;
            file.write_all(&bytes)?;
            fs::rename(&beside, path)
        });
    written.map_err(|error| {
        // What could not be renamed is of no use; the first error counts.
        let _ = fs::remove_file(&beside);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_a_shell_tells_them() {
        let state = State::default();
        assert_eq!(state.ended(ExitStatus::Code(3)).exit_code, 3);
        let killed = state.ended(ExitStatus::Signal(9, true));
        assert_eq!((killed.exit_code, killed.out_of_memory), (137, true));
        assert_eq!(killed.status, Status::Exited);
    }

    #[test]
    fn files_are_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert_eq!(read::<State>(&path).unwrap(), None);
        for code in [1, 2] {
            let state = State::default().ended(ExitStatus::Code(code));
            write(&path, &state).unwrap();
            assert_eq!(read::<State>(&path).unwrap(), Some(state));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        // More than is read at once, and just as much.
        for length in [SMALL - 2, SMALL * 3] {
            let text = "x".repeat(length);
            write(&path, &text).unwrap();
            assert_eq!(read::<String>(&path).unwrap(), Some(text));
        }
        fs::write(&path, "{").unwrap();
        let error = read::<State>(&path).unwrap_err();
        assert!(error.to_string().starts_with("could not understand `"));
    }
}
