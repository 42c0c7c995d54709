//! What others ask of a monitor, each in a thread of its own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::Builder;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};

use super::shared::{Attached, Life, Shared, StoppedBy};
use super::streams;
use crate::container::control::{Connection, Listener, Order, Reply};
use crate::container::files;
use crate::{ExitStatus, Joining, Running, SandboxError, Stdio, cgroup, processes, usage};

/// Answers every conversation as long as the process lives.
pub(super) fn answer_all(shared: &Arc<Shared>, listener: Listener) -> io::Result<()> {
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

/// Attaches a conversation, which is told the end.
pub(super) fn see(
    shared: &Arc<Shared>,
    connection: Connection,
    descriptors: Vec<OwnedFd>,
) -> io::Result<()> {
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

fn converse(shared: &Arc<Shared>, connection: &Connection) -> io::Result<()> {
    while let Some((order, descriptors)) = connection.order()? {
        let _hold = shared.hold();
        match order {
            Order::Exec(joining) => execute(shared, connection, &joining, descriptors)?,
            Order::Attach => {
                if let Err(message) = shared.running() {
                    connection.answer(&refused(message), &[])?;
                    continue;
                }
                attach(shared, descriptors)?;
                connection.answer(&Reply::Done, &[])?;
                connection.answer(&Reply::Exited(shared.wait_for_end()), &[])?;
            }
            Order::Root => hand_root_out(shared, connection)?,
            order => connection.answer(&answer(shared, &order), &[])?,
        }
    }
    Ok(())
}

/// Answers an order that takes and gives no descriptors.
fn answer(shared: &Arc<Shared>, order: &Order) -> Reply {
    let done = |done: Result<(), String>| done.map_or_else(refused, |()| Reply::Done);
    let about = |look: &dyn Fn(u32) -> Reply| match shared.life() {
        Some(life) => look(life.pid),
        None => shared.running().map_or_else(refused, |_| Reply::Done),
    };
    match order {
        Order::Signal(signal) => done(match shared.life() {
            Some(life) => life.signal(*signal),
            None => shared.running().map(drop),
        }),
        Order::Stop(signal) => done(shared.stop(*signal, StoppedBy::Somebody)),
        Order::Pause => match shared.pause() {
            Ok(None) => Reply::Done,
            Ok(Some(note)) => Reply::Noted(note.to_owned()),
            Err(message) => refused(message),
        },
        Order::Unpause => done(shared.unpause()),
        Order::Processes => about(&|pid| Reply::Processes(processes::of_sandbox(pid))),
        Order::Usage => about(&|pid| Reply::Usage(usage::of_sandbox(pid))),
        Order::Limits(limits) => {
            about(&|pid| cgroup::change(pid, limits).map_or_else(refused, |()| Reply::Done))
        }
        Order::Wait => Reply::Exited(shared.wait_for_end()),
        Order::Resize(rows, columns) => {
            if let Some(life) = shared.life()
                && let Some(terminal) = &life.terminal
            {
                let size = Winsize {
                    ws_row: *rows,
                    ws_col: *columns,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                // A terminal that is closing has no size any more.
                let _ = tcsetwinsize(terminal, size);
            }
            Reply::Done
        }
        Order::Connect(endpoint) => rewire(shared, |life| {
            let (container, pidfd) = (shared.container(), life.pidfd.as_fd());
            let state_dir = shared.runtime().state_dir();
            life.network.connect(container, pidfd, state_dir, endpoint)
        }),
        Order::Disconnect(lan) => rewire(shared, |life| {
            let (container, pidfd) = (shared.container(), life.pidfd.as_fd());
            life.network.disconnect(container, pidfd, lan.as_deref())
        }),
        Order::Exec(_) | Order::Attach | Order::Root | Order::Leave => {
            refused("the order does not belong here".to_owned())
        }
    }
}

/// Changes the networks of a container that runs.
fn rewire(shared: &Shared, change: impl FnOnce(&Life) -> Result<(), SandboxError>) -> Reply {
    let Some(life) = shared.life() else {
        return shared.running().map_or_else(refused, |_| Reply::Done);
    };
    change(&life).map_or_else(|error| failed(&error, None), |()| Reply::Done)
}

/// Of a container that stands still, too.
fn hand_root_out(shared: &Shared, connection: &Connection) -> io::Result<()> {
    let Some(life) = shared.life() else {
        let message = shared.running().err().unwrap_or_default();
        return connection.answer(&refused(message), &[]);
    };
    match files::root_of(life.pid, life.pidfd.as_fd()) {
        Ok(root) => connection.answer(&Reply::Done, &[root.as_fd()]),
        Err(error) => connection.answer(&failed(&error, None), &[]),
    }
}

fn refused(message: String) -> Reply {
    Reply::Failed {
        message,
        status: None,
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
    let life = match shared.running() {
        Ok(life) => life,
        Err(message) => return connection.answer(&refused(message), &[]),
    };
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
    let mut running = match shared.runtime().join(life.pidfd.as_fd(), joining, stdio) {
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
    if let Some(terminal) = terminal {
        attend(&running, connection, terminal)?;
    }
    let reply = match running.wait() {
        Ok(ExitStatus::Code(code)) => Reply::Exited(code.into()),
        Ok(ExitStatus::Signal(signal, _)) => Reply::Exited(128 + signal),
        Err(error) => failed(&error, None),
    };
    connection.answer(&reply, &[])
}

/// Stays with a process that has a terminal until it has ended, or until whoever started it has gone,
/// whose terminal is gone with it then; unless that is what they wanted.
fn attend(running: &Running, connection: &Connection, terminal: OwnedFd) -> io::Result<()> {
    let pidfd = running.pidfd();
    let mut fds = [
        PollFd::new(&pidfd, PollFlags::IN),
        PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN),
    ];
    rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
    if fds[0].revents().is_empty()
        && let Ok(Some((Order::Leave, _))) = connection.order()
    {
        return discard(&terminal, running);
    }
    drop(terminal);
    Ok(())
}

/// Reads what nobody wants to see, so that the process does not wait for a reader.
fn discard(terminal: &OwnedFd, running: &Running) -> io::Result<()> {
    let pidfd = running.pidfd();
    let mut buffer = [0; 4096];
    loop {
        let mut fds = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::new(terminal, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        match rustix::io::read(terminal, &mut buffer) {
            // Whoever had it before may have made it one that does not wait.
            Ok(1..) | Err(Errno::INTR | Errno::AGAIN) => {}
            // All users of the terminal have gone.
            Ok(0) | Err(_) => return Ok(()),
        }
    }
}

/// Shows what the container writes, and passes on what it is given to read.
fn attach(shared: &Arc<Shared>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let mut descriptors = descriptors.into_iter();
    let (Some(stdout), Some(stderr)) = (descriptors.next(), descriptors.next()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    shared.attach(Attached {
        stdout: File::from(stdout),
        stderr: File::from(stderr),
    });
    match descriptors.next() {
        Some(input) => streams::feed(shared, input),
        None => Ok(()),
    }
}
