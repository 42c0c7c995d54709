//! The way out of a user namespace: a network namespace of the user's own, with bridges as on a host,
//! whose uplink is a program that speaks for it outside, with a user's rights.
//!
//! ```text
//! sandbox: eth0 10.89.0.N ──veth── rbuild0 10.89.0.1 ── masquerade ── tap0 10.0.2.100 ── pasta
//! ```
//!
//! A spawner has at most one, made with the first sandbox that needs it and shared by all of them, so that
//! the program is started once. It lives in the spawner's pid namespace, and ends with it. What was
//! made lies in `routers/NAME/` beside the file `alive`, which the spawner locks.

use std::ffi::CString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, Mode, OFlags, access};
use rustix::net::RecvFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::{Place, loopback_up, new_namespace};
use crate::cgroup::owner_name;
use crate::sys::{self, Cloned};
use crate::wire::{self, Failure, InStep as _, Step};

/// Where programs are looked for.
const PROGRAM_DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"];

/// How long the program may take to begin; on a loaded machine it takes seconds.
const PATIENCE: Timespec = Timespec {
    tv_sec: 120,
    tv_nsec: 0,
};

/// What is said where neither program is there.
const NO_PROGRAM: &str = "neither pasta nor slirp4netns is installed (Debian: `apt install passt`)";

/// A program that connects a network namespace without privilege.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    path: PathBuf,
    pasta: bool,
}

impl std::fmt::Display for Program {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.path.display())
    }
}

impl Program {
    /// Its command line. Its standard input is written to when it is ready; its standard output is the
    /// network namespace.
    fn arguments(&self) -> &'static [&'static str] {
        if self.pasta {
            // IPv4 only; nothing is forwarded to the namespace, nor from it to the host's loopback.
            &[
                "--foreground",
                "--quiet",
                "--ipv4-only",
                "--config-net",
                "--ns-ifname",
                "tap0",
                "--address",
                "10.0.2.100",
                "--netmask",
                "24",
                "--gateway",
                "10.0.2.2",
                "--no-map-gw",
                "--tcp-ports",
                "none",
                "--udp-ports",
                "none",
                "--tcp-ns",
                "none",
                "--udp-ns",
                "none",
                "--pid",
                "/proc/self/fd/0",
                "--netns",
                "/proc/self/fd/1",
            ]
        } else {
            &[
                "--configure",
                "--mtu=65520",
                "--disable-host-loopback",
                "--ready-fd=0",
                "--netns-type=path",
                "/proc/self/fd/1",
                "tap0",
            ]
        }
    }
}

/// Finds the program and tries whether it will be able to work; in words, why there is none.
pub(crate) fn program() -> Result<Program, String> {
    let found = ["pasta", "slirp4netns"].iter().find_map(|name| {
        let mut paths = PROGRAM_DIRECTORIES
            .iter()
            .map(|at| Path::new(at).join(name));
        let path = paths.find(|path| access(path.as_path(), Access::EXEC_OK).is_ok())?;
        let pasta = *name == "pasta";
        Some(Program { path, pasta })
    });
    let program = found.ok_or(NO_PROGRAM)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(c"/dev/net/tun", flags, Mode::empty()) {
        Ok(_) => Ok(program),
        Err(error) => Err(format!(
            "{} is there, but /dev/net/tun cannot be opened ({}); `chmod 666 /dev/net/tun` lets it",
            program.path.display(),
            io::Error::from(error)
        )),
    }
}

/// A router, as its spawner has it.
#[derive(Debug)]
pub(crate) struct Router {
    directory: PathBuf,
    _alive: File,
    namespace: OwnedFd,
    /// Readable when the program is ready, at its end when that has ended.
    ready: OwnedFd,
}

impl Router {
    /// Makes the network namespace and starts the program. Does not wait for it.
    pub(crate) fn start(state_dir: &Path) -> Step<Router> {
        let program = program().map_err(|why| {
            let missing = io::Error::from_raw_os_error(libc::ENOENT);
            Failure::new("find a program that connects without privilege", &missing).because(why)
        })?;
        let directory = state_dir.join("network/routers").join(owner_name());
        fs::create_dir_all(&directory).step_at("make the directory", &directory)?;
        let alive = directory.join("alive");
        let alive_file = File::create(&alive).step_at("make", &alive)?;
        alive_file.lock().step_at("lock", &alive)?;
        let namespace = namespace()?;
        let (ready, its_end) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
        let log = directory.join("log");
        let log = File::create(&log).step_at("make", &log)?;
        match sys::clone_process(0) {
            Ok(Cloned::Child) => {
                // Only what goes wrong comes back.
                let error = begin(&program, &its_end, &namespace, &log);
                let _ = io::Write::write_all(&mut &log, format!("{error}\n").as_bytes());
                sys::exit_now(127)
            }
            Ok(Cloned::Parent { .. }) => Ok(Router {
                directory,
                _alive: alive_file,
                namespace,
                ready,
            }),
            Err(error) => Err(Failure::new("start the program", &error).at(&program.path)),
        }
    }

    /// Says whether the program has ended.
    pub(crate) fn is_dead(&self) -> bool {
        let mut fds = [PollFd::new(&self.ready, PollFlags::IN)];
        let now = Timespec::default();
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }

    /// Waits until the program is ready.
    pub(crate) fn wait(&self) -> Step<()> {
        let mut fds = [PollFd::new(&self.ready, PollFlags::IN)];
        let done = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE)))
            .step("wait for the program that connects without privilege")?;
        let events = fds[0].revents();
        if done == 1 && events.contains(PollFlags::IN) && !events.contains(PollFlags::HUP) {
            return Ok(());
        }
        let mut said = String::new();
        let log = File::open(self.directory.join("log"));
        // Its last words may tell why.
        let _ = log.and_then(|log| log.take(4 << 10).read_to_string(&mut said));
        let said = said.trim();
        let why = match (done, said) {
            (0, "") => "it does not get ready".to_owned(),
            (_, "") => "it has ended".to_owned(),
            (_, said) => said.to_owned(),
        };
        let failed = io::Error::from_raw_os_error(libc::EIO);
        Err(
            Failure::new("connect with the network by pasta or slirp4netns", &failed)
                .because(format!("{why}; without it, use the host network")),
        )
    }

    /// Where the bridges of its sandboxes are.
    pub(crate) fn place(&self, state_dir: &Path) -> Step<Place> {
        let router = self.namespace.try_clone().step("duplicate a descriptor")?;
        Ok(Place {
            router: Some(router),
            made: self.directory.clone(),
            ..Place::on_host(state_dir)
        })
    }

    /// Removes what was noted down; the rest goes with the spawner.
    pub(crate) fn stop(self) {
        // What is left goes with the next.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Makes a network namespace without moving there.
fn namespace() -> Step<OwnedFd> {
    let (ours, its) = wire::pair().step("make a socket")?;
    match sys::clone_process(0).step("start a process")? {
        Cloned::Child => {
            let made = new_namespace().and_then(|made| loopback_up().map(|()| made));
            // If the spawner has gone, there is nobody left to tell.
            let _ = match &made {
                Ok(namespace) => wire::tell(&its, &None::<Failure>, &[namespace.as_fd()]),
                Err(failure) => wire::tell(&its, &Some(failure), &[]),
            };
            sys::exit_now(0)
        }
        Cloned::Parent { pidfd, .. } => {
            drop(its);
            let answer = wire::hear::<Option<Failure>>(&ours, RecvFlags::empty())
                .step("make a network namespace")?;
            // Its answer is what counts.
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            match answer {
                Some((Some(failure), _)) => Err(failure),
                Some((None, descriptors)) if !descriptors.is_empty() => {
                    Ok(descriptors.into_iter().next().ok_or_else(gone)?)
                }
                _ => Err(gone()),
            }
        }
    }
}

fn gone() -> Failure {
    let gone = io::Error::from_raw_os_error(libc::ESRCH);
    Failure::new("make a network namespace", &gone)
}

/// Becomes the program.
fn begin(program: &Program, ready: &OwnedFd, namespace: &OwnedFd, log: &File) -> io::Error {
    // One more that goes along: slirp4netns closes the one that it writes to, and its end tells of the
    // program's.
    let Ok(_alive) = rustix::io::dup(ready) else {
        return io::Error::last_os_error();
    };
    let streams = rustix::stdio::dup2_stdin(ready)
        .and_then(|()| rustix::stdio::dup2_stdout(namespace))
        .and_then(|()| rustix::stdio::dup2_stderr(log));
    if let Err(error) = streams {
        return error.into();
    }
    let string = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let path = string(program.path.as_os_str().as_bytes());
    let arguments = program.arguments().iter();
    let arguments: Vec<CString> = [path.clone()]
        .into_iter()
        .chain(arguments.map(|argument| string(argument.as_bytes())))
        .collect();
    let environment = [string(b"PATH=/usr/sbin:/usr/bin:/sbin:/bin")];
    sys::execute(&path, &arguments, &environment)
}

/// Removes the directories of routers whose spawners have gone.
pub(super) fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory.join("routers")) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(alive) = File::open(entry.path().join("alive")) else {
            continue;
        };
        match alive.try_lock() {
            Ok(()) => {
                let _ = fs::remove_dir_all(entry.path());
            }
            // Not to know is to leave it alone.
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}
