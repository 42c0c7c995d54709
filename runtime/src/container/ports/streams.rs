//! Connections that are passed on, without a look at what they carry: the bytes stay in the kernel.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, accept_with, connect, shutdown, socket_with,
    sockopt,
};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

/// Bytes moved at once: what a pipe holds.
const CHUNK: usize = 64 << 10;

/// How often a connection moves something before others have their turn.
const TURN: usize = 16;

/// How many empty pipes are kept for the next who needs one.
const SPARE: usize = 8;

/// Pipes that nobody uses. A connection has one only as long as something is in it.
#[derive(Default)]
pub(super) struct Pipes(Vec<Pipe>);

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipes {
    fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Pipe { read, write })
    }

    fn give_back(&mut self, pipe: Pipe) {
        if self.0.len() < SPARE {
            self.0.push(pipe);
        }
    }
}

/// One direction.
#[derive(Default)]
struct Flow {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    queued: usize,
    /// The sender has ended.
    ended: bool,
    /// The receiver knows.
    closed: bool,
}

/// What there is to do about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing until something happens to it.
    Waits,
    /// More, when others have had their turn.
    HasMore,
    /// Both sides have ended, or one has broken off.
    Ended,
}

/// A caller and whom it has called.
pub(super) struct Connection {
    caller: OwnedFd,
    called: OwnedFd,
    connected: bool,
    inward: Flow,
    outward: Flow,
}

impl Connection {
    /// Accepts a caller and calls `target` in the network of this thread.
    pub(super) fn begin(listener: &OwnedFd, target: SocketAddr) -> io::Result<Connection> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let caller = accept_with(listener, flags)?;
        let family = match target {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let called = socket_with(family, SocketType::STREAM, flags, None)?;
        for socket in [&caller, &called] {
            // What one side sends at once goes on at once. Without it, it is slower.
            let _ = sockopt::set_tcp_nodelay(socket, true);
        }
        match connect(&called, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Connection {
            caller,
            called,
            connected: false,
            inward: Flow::default(),
            outward: Flow::default(),
        })
    }

    pub(super) fn caller(&self) -> BorrowedFd<'_> {
        self.caller.as_fd()
    }

    pub(super) fn called(&self) -> BorrowedFd<'_> {
        self.called.as_fd()
    }

    /// Moves what can be moved. `connected` says that the attempt to connect is over.
    pub(super) fn move_on(&mut self, connected: bool, pipes: &mut Pipes) -> Progress {
        if !self.connected {
            if !connected {
                return Progress::Waits;
            }
            if !matches!(sockopt::socket_error(&self.called), Ok(Ok(()))) {
                return Progress::Ended;
            }
            self.connected = true;
        }
        let mut more = false;
        let directions = [
            (&mut self.inward, &self.caller, &self.called),
            (&mut self.outward, &self.called, &self.caller),
        ];
        for (flow, from, to) in directions {
            match flow.pump(from, to, pipes) {
                Ok(again) => more |= again,
                Err(_) => return Progress::Ended,
            }
        }
        if self.inward.closed && self.outward.closed {
            Progress::Ended
        } else if more {
            Progress::HasMore
        } else {
            Progress::Waits
        }
    }

    /// Closes both sides.
    pub(super) fn end(self, pipes: &mut Pipes) {
        for flow in [self.inward, self.outward] {
            // One with something in it is not empty, and so of no use.
            if let Some(pipe) = flow.pipe.filter(|_| flow.queued == 0) {
                pipes.give_back(pipe);
            }
        }
    }
}

impl Flow {
    /// Moves until nothing can be moved, or the turn is over; says whether it is that.
    fn pump(&mut self, from: &OwnedFd, to: &OwnedFd, pipes: &mut Pipes) -> io::Result<bool> {
        if self.closed {
            return Ok(false);
        }
        for _ in 0..TURN {
            let taken = self.fill(from, pipes)?;
            let given = self.drain(to)?;
            if self.ended && self.queued == 0 {
                self.closed = true;
                // A receiver that has gone needs no word.
                let _ = shutdown(to, Shutdown::Write);
                self.release(pipes);
                return Ok(false);
            }
            if !taken && !given {
                self.release(pipes);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn release(&mut self, pipes: &mut Pipes) {
        if self.queued == 0
            && let Some(pipe) = self.pipe.take()
        {
            pipes.give_back(pipe);
        }
    }

    fn fill(&mut self, from: &OwnedFd, pipes: &mut Pipes) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let pipe = match &mut self.pipe {
            Some(pipe) => pipe,
            none => none.insert(pipes.take()?),
        };
        match moved(splice(from, None, &pipe.write, None, CHUNK, flags()))? {
            None => Ok(false),
            Some(0) => {
                self.ended = true;
                Ok(true)
            }
            Some(count) => {
                self.queued += count;
                Ok(true)
            }
        }
    }

    fn drain(&mut self, to: &OwnedFd) -> io::Result<bool> {
        let Some(pipe) = self.pipe.as_ref().filter(|_| self.queued > 0) else {
            return Ok(false);
        };
        match moved(splice(&pipe.read, None, to, None, self.queued, flags()))? {
            None | Some(0) => Ok(false),
            Some(count) => {
                self.queued -= count;
                Ok(true)
            }
        }
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

/// How much was moved; none if nothing can be moved now.
fn moved(result: Result<usize, Errno>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
