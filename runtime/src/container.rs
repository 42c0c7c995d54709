//! Containers: sandboxes with a name, a state and a life of their own.
//!
//! ```text
//! containers/names/<name>   the ID of the container with this name
//! containers/<id>/
//!     config.json           what was asked for; written once, except for the name
//!     state.json            how it is; written by its monitor only, once it has one
//!     lock                  held by the monitor as long as it lives
//!     change                held while the container is started or removed
//!     control               the monitor's socket
//!     health.json           what its health checks have found, if it has any
//!     log, log.1 …          what it wrote, a JSON object a line; the older, the higher the number
//!     upper/ work/ …        what the caller put there: what the container writes
//! ```
//!
//! There is no daemon. A container that runs has a *monitor*: a small process that owns its streams
//! and log, tells its exit status and answers on its socket. The kernel lets go of the lock when the
//! monitor dies, however it dies, and the sandbox dies with its monitor; so a state that says
//! `running` (or `paused`, or `restarting`) beside a free lock is a container that was killed. A
//! container that is to be started again keeps its monitor meanwhile.
//!
//! A container is made beside and renamed into place. Its name is taken before, by a file that can be
//! made once only; a name whose container is not there is free.

mod control;
mod error;
mod files;
mod health;
mod log;
mod monitor;
mod names;
mod network;
mod ports;
mod resolver;
mod restart;
mod state;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::rand::{GetRandomFlags, getrandom};

pub use control::{Connection, Order, Reply};
pub use error::ContainerError;
pub use files::Files;
pub use health::{Health, HealthCheck, HealthStatus, OnFailure, Probe};
pub use log::{LogLine, LogOptions, LogReader, Stream};
use monitor::fresh_work_directories;
pub use monitor::{Event, monitor};
pub use network::{Endpoint, Link, NetworkState, Networking};
pub use ports::{PortMapping, Protocol, PublishedPort};
pub use restart::RestartPolicy;
pub use state::{Config, State, Status};

/// Whether a text may be the name of a container or of a network.
pub(crate) fn is_name(name: &str) -> bool {
    names::is_valid(name)
}

/// All containers of a store.
#[derive(Debug, Clone)]
pub struct Containers {
    root: PathBuf,
}

/// One container.
#[derive(Debug, Clone)]
pub struct Container {
    /// What was asked for.
    pub config: Config,
    directory: PathBuf,
    names: PathBuf,
}

/// The right to start or remove a container.
#[must_use = "others may start or remove the container without it"]
#[derive(Debug)]
pub struct Changing {
    _lock: File,
}

/// A container that is being made; dropping it discards it.
#[must_use = "a draft that is dropped is discarded"]
#[derive(Debug)]
pub struct NewContainer {
    directory: PathBuf,
    id: String,
    finished: bool,
    /// Tells that somebody is at work here.
    _lock: File,
}

impl Containers {
    /// Uses the directory `root`, which is made when the first container is.
    pub fn new(root: impl Into<PathBuf>) -> Containers {
        Containers { root: root.into() }
    }

    fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// Begins a container: a directory of its own for what it needs, and its ID.
    pub fn begin(&self) -> Result<NewContainer, ContainerError> {
        let names = self.names();
        fs::create_dir_all(&names).map_err(ContainerError::io("make the directory", &names))?;
        let mut bytes = [0_u8; 32];
        getrandom(&mut bytes, GetRandomFlags::empty())
            .map_err(|error| ContainerError::io("make an ID in", &self.root)(error.into()))?;
        let id = bytes
            .iter()
            .fold(String::new(), |id, byte| id + &format!("{byte:02x}"));
        let directory = self.root.join(&id);
        let _all = self.lock_all()?;
        fs::create_dir(&directory).map_err(ContainerError::io("make the directory", &directory))?;
        let path = directory.join("change");
        let lock = File::create(&path).map_err(ContainerError::io("make", &path))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| ContainerError::io("lock", path)(error.into()))?;
        Ok(NewContainer {
            directory,
            id,
            finished: false,
            _lock: lock,
        })
    }

    /// Removes what is left of containers whose making or removal was killed; returns their IDs.
    pub fn sweep(&self) -> Result<Vec<String>, ContainerError> {
        let mut gone = Vec::new();
        for id in self.ids()? {
            let directory = self.root.join(&id);
            if directory.join("config.json").exists() {
                continue;
            }
            let _all = self.lock_all()?;
            // Whoever makes or removes it holds this one.
            let Ok(lock) = File::open(directory.join("change")) else {
                continue;
            };
            let free = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if free && !directory.join("config.json").exists() {
                fs::remove_dir_all(&directory).map_err(ContainerError::io("remove", &directory))?;
                gone.push(id);
            }
        }
        self.sweep_names()?;
        Ok(gone)
    }

    /// Removes names whose containers are not there. Each container has one: so there are none unless
    /// there are more names than containers.
    fn sweep_names(&self) -> Result<(), ContainerError> {
        let names = self.names();
        let count = || match fs::read_dir(&names) {
            Ok(entries) => Ok(entries.count()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(ContainerError::io("list", &names)(error)),
        };
        if count()? <= self.ids()?.len() {
            return Ok(());
        }
        let _all = self.lock_all()?;
        let entries = fs::read_dir(&names).map_err(ContainerError::io("list", &names))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let owner = fs::read_to_string(&path).unwrap_or_default();
            if is_id(&owner) && self.root.join(&owner).is_dir() {
                continue;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ContainerError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps others from making containers, taking names and sweeping.
    fn lock_all(&self) -> Result<File, ContainerError> {
        let names = self.names();
        let all = File::open(&names).map_err(ContainerError::io("open", &names))?;
        rustix::io::retry_on_intr(|| flock(&all, FlockOperation::LockExclusive))
            .map_err(|error| ContainerError::io("lock", names)(error.into()))?;
        Ok(all)
    }

    /// All containers, the newest first. One that is just being made or removed is not among them.
    pub fn list(&self) -> Result<Vec<Container>, ContainerError> {
        let mut found = Vec::new();
        for id in self.ids()? {
            found.extend(self.open(&id)?);
        }
        found.sort_by(|a, b| b.config.created.cmp(&a.config.created));
        Ok(found)
    }

    fn ids(&self) -> Result<Vec<String>, ContainerError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ContainerError::io("list", &self.root)(error)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| is_id(name)).collect())
    }

    fn open(&self, id: &str) -> Result<Option<Container>, ContainerError> {
        let directory = self.root.join(id);
        let config = state::read(&directory.join("config.json"))?;
        Ok(config.map(|config| Container {
            config,
            directory,
            names: self.names(),
        }))
    }

    /// The container with this name, ID or unique beginning of an ID; a name counts first.
    pub fn find(&self, query: &str) -> Result<Container, ContainerError> {
        let name = query.strip_prefix('/').unwrap_or(query);
        if names::is_valid(name)
            && let Some(id) = self.owner(name)?
            && let Some(container) = self.open(&id)?
        {
            return Ok(container);
        }
        let not_found = || ContainerError::NotFound(query.to_owned());
        if query.is_empty() || !query.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(not_found());
        }
        let mut ids = self.ids()?;
        ids.retain(|id| id.starts_with(query));
        match ids.as_slice() {
            [id] => self.open(id)?.ok_or_else(not_found),
            [] => Err(not_found()),
            ids => Err(ContainerError::Ambiguous {
                query: query.to_owned(),
                matches: ids.len(),
            }),
        }
    }

    /// Who has a name, whether the container is there or not.
    fn owner(&self, name: &str) -> Result<Option<String>, ContainerError> {
        let path = self.names().join(name);
        match fs::read_to_string(&path) {
            Ok(id) => Ok(Some(id).filter(|id| is_id(id))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ContainerError::io("read", path)(error)),
        }
    }

    /// Takes a name for a container; without one, finds a free one.
    pub fn take_name(
        &self,
        new: &NewContainer,
        wanted: Option<&str>,
    ) -> Result<String, ContainerError> {
        if let Some(name) = wanted {
            if !names::is_valid(name) {
                return Err(ContainerError::InvalidName(name.to_owned()));
            }
            self.reserve(name, &new.id)?;
            return Ok(name.to_owned());
        }
        let mut tries = 0;
        loop {
            let name = names::generate(&new.id, tries);
            match self.reserve(&name, &new.id) {
                Err(ContainerError::NameTaken { .. }) => tries += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(name),
            }
        }
    }

    fn reserve(&self, name: &str, id: &str) -> Result<(), ContainerError> {
        let path = self.names().join(name);
        // One at a time, so that two do not both find that a name's owner is gone.
        let _all = self.lock_all()?;
        if let Some(owner) = self.owner(name)?
            && self.root.join(&owner).is_dir()
        {
            return Err(ContainerError::NameTaken {
                name: name.to_owned(),
                id: owner,
            });
        }
        let beside = self.names().join(format!(".{id}"));
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(id.as_bytes())?;
            fs::rename(&beside, &path)
        });
        written.map_err(ContainerError::io("write", path))
    }
}

impl NewContainer {
    /// The container's ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its files go.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes it a container: from now on it is listed.
    pub fn finish(mut self, config: &Config) -> Result<(), ContainerError> {
        state::write(&self.directory.join("config.json"), config)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for NewContainer {
    fn drop(&mut self) {
        if !self.finished {
            // What is left without a config is no container, and its name is free with it.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

impl Container {
    /// Directory of its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The first twelve digits of its ID.
    pub fn short_id(&self) -> &str {
        &self.config.id[..12]
    }

    /// File with what it wrote.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// What its health checks have found since it was started; none if it has no checks.
    pub fn health(&self) -> Result<Option<Health>, ContainerError> {
        match &self.config.health {
            None => Ok(None),
            Some(_) => Ok(Some(state::read(&self.health_file())?.unwrap_or_default())),
        }
    }

    fn health_file(&self) -> PathBuf {
        self.directory.join("health.json")
    }

    /// What was asked for as it is now; others may have changed it since it was read.
    fn config_now(&self) -> Config {
        let read = state::read(&self.directory.join("config.json"));
        read.ok().flatten().unwrap_or_else(|| self.config.clone())
    }

    fn state_file(&self) -> PathBuf {
        self.directory.join("state.json")
    }

    /// How it is, also if its monitor can no longer tell.
    pub fn state(&self) -> Result<State, ContainerError> {
        loop {
            let state: State = state::read(&self.state_file())?.unwrap_or_default();
            if !state.status.is_alive() || self.is_monitored()? {
                return Ok(state);
            }
            // The monitor may have written the end since the state was read.
            let again: State = state::read(&self.state_file())?.unwrap_or_default();
            if again == state {
                let seen = fs::metadata(self.log()).and_then(|log| log.modified());
                let finished = seen
                    .ok()
                    .and_then(|time| jiff::Timestamp::try_from(time).ok())
                    .map_or_else(state::now, |time| time.to_string());
                return Ok(state.lost(finished));
            }
        }
    }

    /// Whether a monitor holds the lock.
    fn is_monitored(&self) -> Result<bool, ContainerError> {
        let lock = self.lock_file("lock")?;
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(ContainerError::io("lock", &self.directory)(error.into())),
        }
    }

    /// Takes one of the locks; whoever looks whether there is a monitor has it for a moment.
    fn lock(&self, name: &str) -> Result<File, ContainerError> {
        let lock = self.lock_file(name)?;
        rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
            .map_err(|error| ContainerError::io("lock", &self.directory)(error.into()))?;
        Ok(lock)
    }

    fn lock_file(&self, name: &str) -> Result<File, ContainerError> {
        let path = self.directory.join(name);
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ContainerError::io("open", path))
    }

    /// Keeps others from starting or removing the container; fails if it runs.
    pub fn change(&self) -> Result<Changing, ContainerError> {
        let lock = self.lock("change")?;
        if self.state()?.status.is_alive() {
            return Err(ContainerError::Running(self.config.id.clone()));
        }
        Ok(Changing { _lock: lock })
    }

    /// Speaks with its monitor.
    fn connect(&self) -> Result<Connection, ContainerError> {
        match Connection::open(&self.directory) {
            Ok(connection) => Ok(connection),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Err(ContainerError::NotRunning(self.config.id.clone()))
            }
            Err(source) => Err(ContainerError::Monitor {
                action: "speak with the container's monitor",
                source,
            }),
        }
    }

    /// Sends its monitor an order, and descriptors with it.
    pub fn ask(
        &self,
        order: &Order,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Connection, ContainerError> {
        let connection = self.connect()?;
        match connection.send(order, descriptors) {
            Ok(()) => Ok(connection),
            // A monitor that is about to end may be connected with, but takes no orders any more.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                Err(ContainerError::NotRunning(self.config.id.clone()))
            }
            Err(source) => Err(ContainerError::Monitor {
                action: "send an order to the container's monitor",
                source,
            }),
        }
    }

    /// Removes it with all that it wrote. It must not run.
    pub fn remove(&self) -> Result<(), ContainerError> {
        let _changing = self.change()?;
        // A monitor that has told the end may still be at work.
        let _lock = self.lock("lock")?;
        self.take_away()
    }

    /// Writes a changed config.
    pub fn save(&self) -> Result<(), ContainerError> {
        state::write(&self.directory.join("config.json"), &self.config)
    }

    /// Gives it another name; its monitor, if it has one, goes by its ID.
    pub fn rename(&mut self, containers: &Containers, name: &str) -> Result<(), ContainerError> {
        if !names::is_valid(name) {
            return Err(ContainerError::InvalidName(name.to_owned()));
        }
        containers.reserve(name, &self.config.id)?;
        let before = std::mem::replace(&mut self.config.name, name.to_owned());
        state::write(&self.directory.join("config.json"), &self.config)?;
        let before = self.names.join(before);
        fs::remove_file(&before).map_err(ContainerError::io("remove", before))
    }

    /// Changes what was asked for; its monitor, if it has one, reads it anew where it may change.
    pub fn update(&self, change: &dyn Fn(&mut Config)) -> Result<(), ContainerError> {
        let _lock = self.lock("change")?;
        let mut config = self.config_now();
        change(&mut config);
        state::write(&self.directory.join("config.json"), &config)
    }

    /// Removes the files: first what makes it a container, so that a half is never listed.
    fn take_away(&self) -> Result<(), ContainerError> {
        let config = self.directory.join("config.json");
        let name = self.names.join(&self.config.name);
        for path in [&config, &name] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ContainerError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ContainerError::io("remove", &self.directory)(error))
            }
            _ => Ok(()),
        }
    }
}

fn is_id(name: &str) -> bool {
    name.len() == 64
        && name
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests;
