//! The monitor of a container: starts it, keeps its log, answers orders, tells its end.
//!
//! A thread for each stream and each conversation; all of them sleep while nothing happens.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};

use super::Container;
use super::control::{Connection, Listener, Order, Reply};
use super::error::ContainerError;
use super::files;
use super::log::{Lines, Log, Stream};
use super::state::{self, State, Status, now};
use crate::{
    ExitStatus, Joining, MountSource, Running, Runtime, RuntimeOptions, SandboxError, Stdio,
    UpperDir, sys,
};

/// Bytes moved at once.
const CHUNK: usize = 16 << 10;

/// What a monitor tells whoever started it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'e> {
    /// It answers; the container is not started yet.
    Listening,
    /// The container runs; this is what the host refused and it goes without.
    Started(&'e [String]),
    /// The container could not be started.
    Failed(&'e SandboxError),
}

/// Runs a container to its end. This process is its monitor from now on.
///
/// With `client`, a descriptor whose other end belongs to whoever waits for the container, the
/// container starts when somebody has attached to it, so that nothing that it writes is missed; and
/// not at all if that end is closed before.
pub fn monitor(
    container: &Container,
    options: RuntimeOptions,
    client: Option<BorrowedFd<'_>>,
    tell: &mut dyn FnMut(&Event<'_>),
) -> Result<(), ContainerError> {
    // It leads a session already if somebody started it by hand.
    let _ = rustix::process::setsid();
    let _lock = container.lock("lock")?;
    let before: State = state::read(&container.state_file())?.unwrap_or_default();
    let log = Log::open(&container.log())?;
    let listener = Listener::bind(container.directory())
        .map_err(ContainerError::io("listen in", container.directory()))?;
    tell(&Event::Listening);
    let first = match client {
        None => None,
        Some(client) => match first_attached(&listener, client) {
            Some(first) => Some(first),
            None => return Ok(()),
        },
    };
    let begun = start(container, options);
    let (runtime, mut running, streams) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let state = State {
                exit_code: exit_code_of(&error),
                error: error.to_string(),
                ..before
            };
            state::write(&container.state_file(), &state)?;
            tell(&Event::Failed(&error));
            return Ok(());
        }
    };
    let state = State {
        status: Status::Running,
        pid: running.pid(),
        started: now(),
        ..State::default()
    };
    state::write(&container.state_file(), &state)?;
    let shared = Arc::new(Shared {
        log,
        runtime,
        pidfd: duplicate(running.pidfd())?,
        pid: running.pid(),
        terminal: streams.terminal,
        stdin: Mutex::new(streams.stdin),
        attached: Mutex::default(),
        progress: Mutex::default(),
        changed: Condvar::new(),
    });
    if let Some((connection, descriptors)) = first {
        see(&shared, connection, descriptors).map_err(thread_failed)?;
    }
    let pumps = streams
        .outputs
        .into_iter()
        .map(|(stream, from)| pump(&shared, stream, from))
        .collect::<io::Result<Vec<_>>>();
    let pumps = pumps.map_err(thread_failed)?;
    answer_all(&shared, listener).map_err(thread_failed)?;
    tell(&Event::Started(running.warnings()));
    let exit = running.wait();
    for pump in pumps {
        // A pump that panicked has said so itself.
        let _ = pump.join();
    }
    let state = match exit {
        Ok(exit) => state.ended(exit),
        Err(error) => State {
            error: error.to_string(),
            ..state.lost(now())
        },
    };
    state::write(&container.state_file(), &state)?;
    shared.end(state.exit_code);
    if container.config.auto_remove {
        container.take_away()?;
    }
    Ok(())
}

/// Waits for somebody to attach; none if the client goes away.
fn first_attached(
    listener: &Listener,
    client: BorrowedFd<'_>,
) -> Option<(Connection, Vec<OwnedFd>)> {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(client, PollFlags::empty()),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
        }
        if fds[0].revents().is_empty() {
            return None;
        }
        let connection = listener.accept().ok()?;
        if let Ok(Some((Order::Attach, descriptors))) = connection.order() {
            return Some((connection, descriptors));
        }
    }
}

/// Attaches a conversation, which is told the end.
fn see(shared: &Arc<Shared>, connection: Connection, descriptors: Vec<OwnedFd>) -> io::Result<()> {
    attach(shared, descriptors)?;
    let hold = shared.hold();
    let shared = Arc::clone(shared);
    let tell_end = move || {
        // An error means that the other side has gone.
        let _ = connection
            .answer(&Reply::Done, &[])
            .and_then(|()| connection.answer(&Reply::Exited(shared.wait_for_end()), &[]));
        drop(hold);
    };
    Builder::new().name("attached".into()).spawn(tell_end)?;
    Ok(())
}

/// Exit code of a container that could not be started, as Docker has it.
fn exit_code_of(error: &SandboxError) -> i32 {
    match error {
        SandboxError::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
        SandboxError::Exec { .. } => 126,
        _ => 128,
    }
}

fn thread_failed(source: io::Error) -> ContainerError {
    ContainerError::Monitor {
        action: "start a thread",
        source,
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, ContainerError> {
    fd.try_clone_to_owned()
        .map_err(|source| ContainerError::Monitor {
            action: "duplicate a descriptor",
            source,
        })
}

/// Our ends of a container's streams.
struct Streams {
    outputs: Vec<(Stream, OwnedFd)>,
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

/// Starts the sandbox.
fn start(
    container: &Container,
    options: RuntimeOptions,
) -> Result<(Runtime, Running, Streams), SandboxError> {
    let sandbox = &container.config.sandbox;
    let host = |action| move |source: io::Error| SandboxError::Host { action, source };
    fresh_work_directories(sandbox).map_err(host("empty a directory of overlay"))?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| host("make a pipe")(error.into()));
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let (stdin_end, stdin) = if container.config.interactive {
        let (end, stdin) = pipe()?;
        (Some(end), Some(stdin))
    } else {
        (None, None)
    };
    let runtime = Runtime::start(options)?;
    let stdio = Stdio {
        stdin: stdin_end,
        stdout: stdout_end,
        stderr: stderr_end,
    };
    let mut running = runtime.spawn(sandbox, stdio)?;
    let streams = match running.take_terminal() {
        None => Streams {
            outputs: vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)],
            stdin,
            terminal: None,
        },
        Some(terminal) => {
            let copy = || terminal.try_clone().map_err(host("duplicate a descriptor"));
            Streams {
                outputs: vec![(Stream::Stdout, copy()?)],
                stdin: container.config.interactive.then(copy).transpose()?,
                terminal: Some(terminal),
            }
        }
    };
    Ok((runtime, running, streams))
}

/// Overlay wants an empty directory for every mount.
pub(super) fn fresh_work_directories(sandbox: &crate::Sandbox) -> io::Result<()> {
    let of_mounts = sandbox
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Overlay { upper, .. } => upper.as_ref(),
            _ => None,
        });
    for UpperDir { work, .. } in sandbox.root.upper.iter().chain(of_mounts) {
        match fs::remove_dir_all(work) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(work)?;
    }
    Ok(())
}

/// What the threads share.
struct Shared {
    log: Log,
    runtime: Runtime,
    pidfd: OwnedFd,
    pid: u32,
    /// The controlling side of the container's terminal.
    terminal: Option<OwnedFd>,
    /// Where its standard input is written to.
    stdin: Mutex<Option<OwnedFd>>,
    /// Who sees what it writes.
    attached: Mutex<Vec<Attached>>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// How the container ended.
    exit: Option<i32>,
    /// Conversations that wait for an end.
    waiting: usize,
}

struct Attached {
    stdout: File,
    stderr: File,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded here is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Tells the end to all who wait, and waits until they know.
    fn end(&self, exit: i32) {
        lock(&self.attached).clear();
        let mut progress = lock(&self.progress);
        progress.exit = Some(exit);
        self.changed.notify_all();
        while progress.waiting > 0 {
            progress = self
                .changed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Keeps the monitor alive until the result is dropped.
    fn hold(self: &Arc<Shared>) -> Hold {
        lock(&self.progress).waiting += 1;
        Hold(Arc::clone(self))
    }

    fn wait_for_end(&self) -> i32 {
        let mut progress = lock(&self.progress);
        loop {
            if let Some(exit) = progress.exit {
                return exit;
            }
            progress = self
                .changed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Shows bytes to all who are attached; who does not read any more is left out.
    fn show(&self, stream: Stream, bytes: &[u8]) {
        lock(&self.attached).retain_mut(|attached| {
            let file = match stream {
                Stream::Stdout => &mut attached.stdout,
                Stream::Stderr => &mut attached.stderr,
            };
            file.write_all(bytes).is_ok()
        });
    }
}

struct Hold(Arc<Shared>);

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.0.progress).waiting -= 1;
        self.0.changed.notify_all();
    }
}

/// Moves what one stream brings into the log and to who is attached.
fn pump(shared: &Arc<Shared>, stream: Stream, from: OwnedFd) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    Builder::new().name("stream".into()).spawn(move || {
        let mut from = File::from(from);
        let mut lines = Lines::new(&shared.log, stream);
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    lines.push(&buffer[..count]);
                    shared.show(stream, &buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A terminal whose last user has gone answers with an error.
                Err(_) => break,
            }
        }
        lines.finish();
    })
}

/// Answers every conversation in a thread of its own, as long as the process lives.
fn answer_all(shared: &Arc<Shared>, listener: Listener) -> io::Result<()> {
    let shared = Arc::clone(shared);
    Builder::new().name("control".into()).spawn(move || {
        while let Ok(connection) = listener.accept() {
            let shared = Arc::clone(&shared);
            // Without a thread the connection closes, and the other side knows.
            let _ = Builder::new().name("conversation".into()).spawn(move || {
                // An error means that the other side has gone.
                let _ = converse(&shared, &connection);
            });
        }
    })?;
    Ok(())
}

fn converse(shared: &Arc<Shared>, connection: &Connection) -> io::Result<()> {
    while let Some((order, descriptors)) = connection.order()? {
        let _hold = shared.hold();
        match order {
            Order::Signal(signal) => {
                let sent = sys::send_signal(shared.pidfd.as_fd(), signal);
                let reply = match sent {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => failed(&error, None),
                    _ => Reply::Done,
                };
                connection.answer(&reply, &[])?;
            }
            Order::Wait => {
                connection.answer(&Reply::Exited(shared.wait_for_end()), &[])?;
            }
            Order::Exec(joining) => execute(shared, connection, &joining, descriptors)?,
            Order::Attach => {
                attach(shared, descriptors)?;
                connection.answer(&Reply::Done, &[])?;
                connection.answer(&Reply::Exited(shared.wait_for_end()), &[])?;
            }
            Order::Root => hand_root_out(shared, connection)?,
            Order::Resize(rows, columns) => {
                if let Some(terminal) = &shared.terminal {
                    let size = Winsize {
                        ws_row: rows,
                        ws_col: columns,
                        ws_xpixel: 0,
                        ws_ypixel: 0,
                    };
                    // A terminal that is closing has no size any more.
                    let _ = tcsetwinsize(terminal, size);
                }
                connection.answer(&Reply::Done, &[])?;
            }
        }
    }
    Ok(())
}

fn hand_root_out(shared: &Shared, connection: &Connection) -> io::Result<()> {
    match files::root_of(shared.pid, shared.pidfd.as_fd()) {
        Ok(root) => connection.answer(&Reply::Done, &[root.as_fd()]),
        Err(error) => connection.answer(&failed(&error, None), &[]),
    }
}

fn failed(error: &dyn std::error::Error, status: Option<u8>) -> Reply {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    Reply::Failed { message, status }
}

/// Runs another process in the container and tells how it ended.
fn execute(
    shared: &Shared,
    connection: &Connection,
    joining: &Joining,
    descriptors: Vec<OwnedFd>,
) -> io::Result<()> {
    let mut descriptors = descriptors.into_iter();
    let null = || -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(
            c"/dev/null",
            OFlags::RDWR | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    };
    let mut next = || descriptors.next().map_or_else(null, Ok);
    let stdio = Stdio {
        stdout: next()?,
        stderr: next()?,
        stdin: descriptors.next(),
    };
    let mut running = match shared.runtime.join(shared.pidfd.as_fd(), joining, stdio) {
        Ok(running) => running,
        Err(error) => {
            let status = match &error {
                SandboxError::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                    Some(127)
                }
                SandboxError::Exec { .. } => Some(126),
                _ => None,
            };
            return connection.answer(&failed(&error, status), &[]);
        }
    };
    let terminal = running.take_terminal();
    let sent: Vec<_> = terminal.iter().map(|terminal| terminal.as_fd()).collect();
    connection.answer(&Reply::Started, &sent)?;
    drop(sent);
    drop(terminal);
    let reply = match running.wait() {
        Ok(ExitStatus::Code(code)) => Reply::Exited(code.into()),
        Ok(ExitStatus::Signal(signal, _)) => Reply::Exited(128 + signal),
        Err(error) => failed(&error, None),
    };
    connection.answer(&reply, &[])
}

/// Shows what the container writes, and passes on what it is given to read.
fn attach(shared: &Arc<Shared>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let mut descriptors = descriptors.into_iter();
    let (Some(stdout), Some(stderr)) = (descriptors.next(), descriptors.next()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    lock(&shared.attached).push(Attached {
        stdout: File::from(stdout),
        stderr: File::from(stderr),
    });
    let Some(input) = descriptors.next() else {
        return Ok(());
    };
    let shared = Arc::clone(shared);
    Builder::new().name("input".into()).spawn(move || {
        let Some(target) = lock(&shared.stdin).as_ref().map(OwnedFd::try_clone) else {
            return;
        };
        let Ok(target) = target else { return };
        let (mut input, mut target) = (File::from(input), File::from(target));
        // Its end is the end of the container's input, unless a terminal has it.
        if io::copy(&mut input, &mut target).is_ok() && shared.terminal.is_none() {
            lock(&shared.stdin).take();
        }
    })?;
    Ok(())
}
