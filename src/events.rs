//! What happened to containers, images, volumes and networks: a log in the store that every command
//! appends to, an object a line.
//!
//! ```text
//! events      the log
//! events.1    the one before, after the log had grown to its limit
//! ```
//!
//! An event is one write at the end of the file, so that lines of several processes do not mix. Who finds
//! the log full renames it under a lock. What cannot be written down is not told: the log is for looking at,
//! and no command fails for its sake.

pub(crate) mod wiring;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rbuild_runtime::container::Container;
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::container::details::Details;

/// Bytes from which on a log is full.
const FULL: u64 = 4 << 20;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Nanoseconds since 1970.
    pub(crate) time: i64,
    /// `container`, `image`, `volume` or `network`.
    pub(crate) kind: String,
    /// In Docker's words: `create`, `start`, `die` …
    pub(crate) action: String,
    /// ID or name of what it happened to.
    pub(crate) id: String,
    /// What else is to be known.
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Event {
    /// Something that happens now.
    pub(crate) fn new(kind: &str, action: &str, id: &str) -> Event {
        let now = i64::try_from(Timestamp::now().as_nanosecond());
        Event {
            time: now.unwrap_or(i64::MAX),
            kind: kind.to_owned(),
            action: action.to_owned(),
            id: id.to_owned(),
            attributes: BTreeMap::new(),
        }
    }

    /// Something that happens to a container, with its image, name and labels.
    pub(crate) fn container(action: &str, container: &Container) -> Event {
        let details = Details::of(container);
        let mut event = Event::new("container", action, &container.config.id);
        event.attributes = details.labels;
        event
            .with("image", &details.image)
            .with("name", &container.config.name)
    }

    /// A container is sent a signal.
    pub(crate) fn killed(container: &Container, signal: i32) -> Event {
        Event::container("kill", container).with("signal", &signal.to_string())
    }

    /// Something that happens to an image.
    pub(crate) fn image(action: &str, id: &str, name: &str) -> Event {
        Event::new("image", action, id).with("name", name)
    }

    /// Something that happens to a volume.
    pub(crate) fn volume(action: &str, name: &str) -> Event {
        Event::new("volume", action, name).with("driver", "local")
    }

    /// Something that happens to a network.
    pub(crate) fn network(action: &str, id: &str, name: &str, driver: &str) -> Event {
        Event::new("network", action, id)
            .with("name", name)
            .with("type", driver)
    }

    /// Adds an attribute.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Event {
        self.attributes.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// Writes an event down.
pub(crate) fn note(settings: &Settings, event: impl FnOnce() -> Event) {
    if let Ok(root) = settings.store_root() {
        note_in(&root, &event());
    }
}

/// Writes an event down in the store at `root`.
pub(crate) fn note_in(root: &Path, event: &Event) {
    if let Err(error) = append(root, event) {
        tracing::debug!(%error, "an event was not written down");
    }
}

fn append(root: &Path, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let path = log(root);
    let mut file = open(&path)?;
    if file.metadata()?.len() >= FULL {
        file = turn(root, &file)?;
    }
    file.write_all(&line)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Begins a new log, unless somebody else has just done so.
fn turn(root: &Path, full: &File) -> io::Result<File> {
    full.lock()?;
    let path = log(root);
    let there = fs::metadata(&path).map(|found| (found.dev(), found.ino()));
    let own = full.metadata()?;
    if there.is_ok_and(|there| there == (own.dev(), own.ino())) {
        fs::rename(&path, before(root))?;
    }
    open(&path)
}

/// The log of a store.
pub(crate) fn log(root: &Path) -> PathBuf {
    root.join("events")
}

/// The log before it.
pub(crate) fn before(root: &Path) -> PathBuf {
    root.join("events.1")
}

/// The events in whole lines of a log; what is no event is left out.
pub(crate) fn parse(lines: &[u8]) -> impl Iterator<Item = Event> {
    lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_put_aside_and_nothing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let event = Event::volume("create", "data").with("x", &"y".repeat(1000));
        append(root, &event).unwrap();
        let line = fs::read(log(root)).unwrap();
        let many = line.repeat((FULL as usize / line.len()) + 1);
        fs::write(log(root), &many).unwrap();
        append(root, &event).unwrap();
        append(root, &event).unwrap();
        assert_eq!(parse(&fs::read(log(root)).unwrap()).count(), 2);
        assert_eq!(fs::read(before(root)).unwrap(), many);
        let mut broken = line.clone();
        broken.extend_from_slice(b"{\"kind\":");
        assert_eq!(parse(&broken).collect::<Vec<_>>(), [event]);
    }
}
