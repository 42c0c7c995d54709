//! What the program, the spawner and the sandbox child say to each other, and how.
//!
//! All sockets are `SOCK_SEQPACKET`: one message is one packet, written atomically, so that many
//! threads may use the control socket without a lock. A request larger than [`INLINE`] travels in a
//! sealed memory file. Descriptors go along as `SCM_RIGHTS`.
//!
//! For each sandbox the program makes two socket pairs and sends one end of each with the request:
//!
//! * the *status* socket, held by the spawner: [`Status::Started`], later [`Status::Exited`];
//! * the *setup* socket, held by the sandbox child and closed by its exec: any number of
//!   [`Setup`] messages. Its end without [`Setup::Failed`] means that the command runs.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg,
    sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::spec::{Connected, Frame};
use crate::{Isolation, SandboxError};

/// Largest packet; well below the default socket buffer, which bounds a packet.
pub(crate) const INLINE: usize = 64 << 10;
/// More descriptors than any message has.
const MAX_DESCRIPTORS: usize = 8;

/// The first packet to the spawner.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// See [`RuntimeOptions`](crate::RuntimeOptions).
    #[serde(with = "crate::spec::bytes")]
    pub(crate) state_dir: PathBuf,
    /// The rung of the program.
    pub(crate) isolation: Isolation,
    /// What the first sandbox will be like.
    pub(crate) expected: Option<Frame>,
}

/// What the spawner says of itself; the first is its answer to [`Hello`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ready {
    /// Requests may come.
    Yes,
    /// It cannot work here, and has ended.
    No(Failure),
    /// The last: no sandbox is left, and nobody need wait for what it still does.
    Parted,
}

/// From the spawner, about one sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Status {
    /// The child exists; comes with its pidfd.
    Started,
    /// The child and its pid namespace are gone; comes with its mount namespace where the kernel can open it.
    Exited(Exit),
}

/// How the first process of a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Exit code, or the number of the signal.
    pub(crate) code: i32,
    /// Whether `code` is a signal.
    pub(crate) signalled: bool,
    /// Whether a process of the sandbox was killed for want of memory.
    pub(crate) out_of_memory: bool,
    /// Processor time of the process and of what it waited for, in milliseconds.
    pub(crate) cpu_ms: u64,
}

/// From the sandbox child (or, before it exists, the spawner).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Setup {
    /// The host refused something that the sandbox can go without.
    Warning(String),
    /// Comes with the controlling side of the terminal.
    Terminal,
    /// Comes with the descriptor that system calls about ids and owners are answered by.
    Owners,
    /// All is done, and the sandbox waits to be started.
    Ready,
    /// Another interface; comes with the lock of its lease if there is one.
    Connected(Connected),
    /// Comes with two sockets for a name server: for datagrams, for connections.
    NameServer,
    /// Comes with the network namespace of the bridges; this is where it is noted what was made there.
    Router {
        /// The directory.
        #[serde(with = "crate::spec::bytes")]
        made: PathBuf,
    },
    /// The set-up ended here.
    Failed(Failure),
}

/// Why a sandbox child gave up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What was being done; empty when the command could not be executed.
    pub(crate) step: String,
    /// To what.
    #[serde(with = "crate::spec::bytes::option")]
    pub(crate) path: Option<PathBuf>,
    /// The error number.
    pub(crate) errno: i32,
    /// What the kernel or we have to say beyond the number.
    pub(crate) detail: Option<String>,
}

/// The result of a step in the sandbox child.
pub(crate) type Step<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(step: impl Into<String>, error: &io::Error) -> Self {
        let errno = error.raw_os_error();
        Self {
            step: step.into(),
            path: None,
            errno: errno.unwrap_or(libc::EIO),
            detail: errno.is_none().then(|| error.to_string()),
        }
    }

    pub(crate) fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    pub(crate) fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// Names the step of a failing operation.
pub(crate) trait InStep<T> {
    fn step(self, step: impl Into<String>) -> Step<T>;
    fn step_at(self, step: impl Into<String>, path: impl Into<PathBuf>) -> Step<T>;
}

impl<T, E: Into<io::Error>> InStep<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Step<T> {
        self.map_err(|error| Failure::new(step, &error.into()))
    }

    fn step_at(self, step: impl Into<String>, path: impl Into<PathBuf>) -> Step<T> {
        self.map_err(|error| Failure::new(step, &error.into()).at(path))
    }
}

impl From<Failure> for SandboxError {
    fn from(failure: Failure) -> Self {
        let errno = io::Error::from_raw_os_error(failure.errno);
        let source = match failure.detail {
            Some(detail) => io::Error::new(errno.kind(), format!("{detail} ({errno})")),
            None => errno,
        };
        match failure.path {
            Some(path) if failure.step.is_empty() => Self::Exec { path, source },
            path => Self::Setup {
                step: failure.step,
                path,
                source,
            },
        }
    }
}

/// Makes a connected pair.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one packet.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL;
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)
    })?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Receives one packet; no bytes at all mean that the other side is closed.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let message = rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(buffer)],
            &mut ancillary,
            flags,
        )
    })?;
    let descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "truncated packet",
        ));
    }
    Ok((message.bytes, descriptors))
}

/// Sends a value as JSON.
pub(crate) fn tell(
    socket: impl AsFd,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    send(socket.as_fd(), &serde_json::to_vec(message)?, descriptors)
}

/// Receives a value; `None` when the other side is closed.
pub(crate) fn hear<T: DeserializeOwned>(
    socket: impl AsFd,
    flags: RecvFlags,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; 8 << 10];
    let (length, descriptors) = match receive(socket.as_fd(), &mut buffer, flags) {
        // A peer that closed with unread packets: nothing more will come either way.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        other => other?,
    };
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((
        serde_json::from_slice(&buffer[..length])?,
        descriptors,
    )))
}

/// The descriptors of a request, in the order in which they travel.
pub(crate) struct Request {
    /// The sandbox as JSON.
    pub(crate) body: Vec<u8>,
    /// See the module's text.
    pub(crate) status: OwnedFd,
    /// See the module's text.
    pub(crate) setup: OwnedFd,
    /// Standard output.
    pub(crate) stdout: OwnedFd,
    /// Standard error.
    pub(crate) stderr: OwnedFd,
    /// Standard input, if it is not an empty pipe.
    pub(crate) stdin: Option<OwnedFd>,
    /// The first process of a sandbox to join; the body is a [`Joining`](crate::Joining) then.
    pub(crate) target: Option<OwnedFd>,
    /// Another sandbox much like it will be asked for.
    pub(crate) followed: bool,
}

const HAS_STDIN: u8 = 1;
const IN_MEMORY_FILE: u8 = 2;
const HAS_TARGET: u8 = 4;
const FOLLOWED: u8 = 8;

impl Request {
    /// Sends the request to the spawner.
    pub(crate) fn send(&self, control: BorrowedFd<'_>) -> io::Result<()> {
        let mut descriptors = vec![
            self.status.as_fd(),
            self.setup.as_fd(),
            self.stdout.as_fd(),
            self.stderr.as_fd(),
        ];
        let mut flags = if self.followed { FOLLOWED } else { 0 };
        if let Some(stdin) = &self.stdin {
            flags |= HAS_STDIN;
            descriptors.push(stdin.as_fd());
        }
        if let Some(target) = &self.target {
            flags |= HAS_TARGET;
            descriptors.push(target.as_fd());
        }
        if self.body.len() < INLINE {
            let packet = [&[flags], self.body.as_slice()].concat();
            return send(control, &packet, &descriptors);
        }
        let mut file = std::fs::File::from(memfd_create(c"request", MemfdFlags::CLOEXEC)?);
        file.write_all(&self.body)?;
        descriptors.push(file.as_fd());
        send(control, &[flags | IN_MEMORY_FILE], &descriptors)
    }

    /// Receives a request; `None` when the program has gone.
    pub(crate) fn receive(control: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        // Just what is needed: clearing a page costs more than the look.
        let look = RecvFlags::PEEK | RecvFlags::TRUNC;
        let (_, length) = rustix::io::retry_on_intr(|| recv(control, &mut [0_u8; 1][..], look))?;
        let mut buffer = vec![0; length.min(INLINE) + 1];
        let (length, descriptors) = receive(control, &mut buffer, RecvFlags::empty())?;
        let Some((&flags, body)) = buffer[..length].split_first() else {
            return Ok(None);
        };
        let mut descriptors = descriptors.into_iter();
        let mut next = || {
            descriptors.next().ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a descriptor of the request is missing",
                )
            })
        };
        let mut request = Self {
            body: Vec::new(),
            status: next()?,
            setup: next()?,
            stdout: next()?,
            stderr: next()?,
            stdin: if flags & HAS_STDIN == 0 {
                None
            } else {
                Some(next()?)
            },
            target: if flags & HAS_TARGET == 0 {
                None
            } else {
                Some(next()?)
            },
            followed: flags & FOLLOWED != 0,
        };
        if flags & IN_MEMORY_FILE == 0 {
            request.body = body.to_vec();
        } else {
            let mut file = std::fs::File::from(next()?);
            file.rewind()?;
            file.read_to_end(&mut request.body)?;
        }
        Ok(Some(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: Vec<u8>) -> Request {
        let end = || pair().unwrap().0;
        Request {
            body,
            status: end(),
            setup: end(),
            stdout: end(),
            stderr: end(),
            stdin: None,
            target: None,
            followed: false,
        }
    }

    #[test]
    fn large_requests_travel_as_well_as_small_ones() {
        let (program, spawner) = pair().unwrap();
        for size in [0, 10, INLINE - 1, INLINE, INLINE + 1, 3 << 20] {
            let body: Vec<u8> = (0..size).map(|i| i as u8).collect();
            request(body.clone()).send(program.as_fd()).unwrap();
            let got = Request::receive(spawner.as_fd()).unwrap().unwrap();
            assert_eq!(got.body, body);
            assert!(got.stdin.is_none());
        }
        drop(program);
        assert!(Request::receive(spawner.as_fd()).unwrap().is_none());
    }

    #[test]
    fn a_failure_keeps_the_error_number_and_the_step() {
        let failure = Failure::new("mount /proc", &io::Error::from_raw_os_error(libc::EPERM));
        let error = SandboxError::from(failure.at("/proc"));
        assert_eq!(
            error.to_string(),
            "could not set up the sandbox: mount /proc `/proc`"
        );
        let failure = Failure::new("", &io::Error::from_raw_os_error(libc::ENOEXEC)).at("/bin/x");
        match SandboxError::from(failure) {
            SandboxError::Exec { source, .. } => {
                assert_eq!(source.raw_os_error(), Some(libc::ENOEXEC));
            }
            other => panic!("{other:?}"),
        }
    }
}
