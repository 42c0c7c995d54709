//! What is said to a monitor: one packet of JSON each way, descriptors along with it.
//!
//! The socket lies in the container's directory and is reached by the directory's descriptor, since a
//! socket's path may have 107 bytes only. Who may open the directory may speak.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, socket_with,
};
use serde::{Deserialize, Serialize};

use super::network::Endpoint;
use crate::wire;
use crate::{Joining, Limits, Usage};

/// Largest packet: environments go through here.
const PACKET: usize = 128 << 10;

/// What a monitor is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// A signal for the first process.
    Signal(i32),
    /// A signal that is meant to end it: it is not started again.
    Stop(i32),
    /// All processes shall stand still.
    Pause,
    /// They shall go on.
    Unpause,
    /// The numbers of its processes.
    Processes,
    /// What it uses.
    Usage,
    /// The exit status, when there is one.
    Wait,
    /// Behind [`Order::Exec`] with a terminal: nobody looks at it any more, and the process shall go on.
    Leave,
    /// Another process; comes with its standard output and error, and its input if it has one.
    Exec(Box<Joining>),
    /// What the container writes from now on; comes with two descriptors to write to, and one to read
    /// its input from if it has one.
    Attach,
    /// Other limits for all its processes together.
    Limits(Box<Limits>),
    /// A descriptor of its root directory.
    Root,
    /// Size of the terminal: rows and columns.
    Resize(u16, u16),
    /// One more network.
    Connect(Endpoint),
    /// One network less, by its ID.
    Disconnect(Option<String>),
}

/// What a monitor answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// The process runs; comes with the controlling side of its terminal if it has one.
    Started,
    /// It is done, and this is to be said about it.
    Noted(String),
    /// Process numbers as the monitor sees them, which is outside of the container.
    Processes(Vec<u32>),
    /// What the container uses.
    Usage(Usage),
    /// The process has ended, or the container.
    Exited(i32),
    /// It could not be done.
    Failed {
        /// Why.
        message: String,
        /// Exit status that tells the same, where there is one: 126 or 127.
        status: Option<u8>,
    },
}

/// A conversation with a monitor.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

fn address(directory: &OwnedFd) -> io::Result<SocketAddrUnix> {
    let path = PathBuf::from(format!("/proc/self/fd/{}/control", directory.as_raw_fd()));
    Ok(SocketAddrUnix::new(path)?)
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}

fn socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

impl Connection {
    /// Connects to the monitor of the container in `directory`.
    pub(super) fn open(directory: &Path) -> io::Result<Connection> {
        let directory = open(directory)?;
        let socket = socket()?;
        connect(&socket, &address(&directory)?)?;
        Ok(Connection { socket })
    }

    /// Lets go of a process that was started in this conversation.
    pub fn leave(&self) -> io::Result<()> {
        self.send(&Order::Leave, &[])
    }

    /// Sends an order, and descriptors with it.
    pub(super) fn send(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        wire::tell(&self.socket, order, descriptors)
    }

    /// Waits for the next answer.
    pub fn reply(&self) -> io::Result<(Reply, Vec<OwnedFd>)> {
        wire::hear(&self.socket, RecvFlags::empty())?
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the monitor has gone"))
    }

    pub(super) fn answer(&self, reply: &Reply, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        wire::tell(&self.socket, reply, descriptors)
    }

    /// Receives an order; none when the other side has gone.
    pub(super) fn order(&self) -> io::Result<Option<(Order, Vec<OwnedFd>)>> {
        let mut buffer = vec![0; PACKET];
        let (length, descriptors) =
            wire::receive(self.socket.as_fd(), &mut buffer, RecvFlags::empty())?;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((
            serde_json::from_slice(&buffer[..length])?,
            descriptors,
        )))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The monitor's end.
pub(super) struct Listener(OwnedFd);

impl Listener {
    /// Takes the place of the socket of an earlier monitor.
    pub(super) fn bind(directory: &Path) -> io::Result<Listener> {
        match std::fs::remove_file(directory.join("control")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let opened = open(directory)?;
        let socket = socket()?;
        bind(&socket, &address(&opened)?)?;
        listen(&socket, 64)?;
        Ok(Listener(socket))
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(super) fn accept(&self) -> io::Result<Connection> {
        let accepted = rustix::io::retry_on_intr(|| accept_with(&self.0, SocketFlags::CLOEXEC))?;
        Ok(Connection { socket: accepted })
    }
}
