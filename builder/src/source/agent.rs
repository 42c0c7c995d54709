//! A socket that speaks the SSH agent protocol to a step, and lets it do two things only: list the
//! keys and sign with them (draft-miller-ssh-agent).
//!
//! Behind it is the user's own agent, or keys that were read from files.

mod keys;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::BuildError;
use crate::request::SshSource;
use keys::Key;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Longest message, as in OpenSSH.
const LONGEST: u32 = 256 << 10;

/// A listening socket; gone with the value, and so are its connections.
pub(crate) struct AgentSocket {
    path: PathBuf,
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    connections: Arc<Mutex<Vec<UnixStream>>>,
}

/// Who answers.
enum Backend {
    Agent(PathBuf),
    Keys(Vec<Key>),
}

impl AgentSocket {
    /// Listens at a path that does not exist yet; only the owner of the process may connect.
    pub(crate) fn start(source: &SshSource, path: &Path) -> Result<AgentSocket, BuildError> {
        let backend = Arc::new(match source {
            SshSource::Agent(socket) => {
                // Told here, where it can be told well, and not as a failing command.
                UnixStream::connect(socket).map_err(|error| {
                    BuildError::io(
                        format!("could not reach the SSH agent at `{}`", socket.display()),
                        &error,
                    )
                    .with_help("start it with `eval $(ssh-agent)`, and add keys with `ssh-add`")
                })?;
                Backend::Agent(socket.clone())
            }
            SshSource::Keys(files) => Backend::Keys(keys::read_all(files)?),
        });
        let failed = |error: io::Error| BuildError::io("could not forward the SSH agent", &error);
        let listener = bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let (wake, stop) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let connections = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&connections);
        let thread = std::thread::Builder::new()
            .name("ssh-agent".into())
            .spawn(move || listen(&listener, &wake, &backend, &known))
            .map_err(failed)?;
        Ok(AgentSocket {
            path: path.to_path_buf(),
            stop: Some(stop),
            thread: Some(thread),
            connections,
        })
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Binds by a descriptor of the directory, since addresses of sockets must be short.
fn bind(path: &Path) -> io::Result<UnixListener> {
    use std::os::fd::AsRawFd;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default();
    let opened = std::fs::File::open(directory)?;
    let short = Path::new("/proc/self/fd")
        .join(opened.as_raw_fd().to_string())
        .join(name);
    UnixListener::bind(short).or_else(|_| UnixListener::bind(path))
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.stop.take();
        for connection in self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Accepts until the other end of `wake` is closed, then waits for the connections.
fn listen(
    listener: &UnixListener,
    wake: &OwnedFd,
    backend: &Arc<Backend>,
    connections: &Mutex<Vec<UnixStream>>,
) {
    std::thread::scope(|scope| {
        loop {
            let mut fds = [
                PollFd::new(wake, PollFlags::IN),
                PollFd::new(listener, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => break,
            }
            if !fds[0].revents().is_empty() {
                break;
            }
            let Ok((client, _)) = listener.accept() else {
                continue;
            };
            let Ok(known) = client.try_clone() else {
                continue;
            };
            connections
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(known);
            let backend = Arc::clone(backend);
            scope.spawn(move || {
                // A client that breaks the protocol loses its connection, and that is all.
                if let Err(error) = serve(client, &backend) {
                    tracing::debug!(%error, "a client of the SSH agent went away");
                }
            });
        }
        for connection in connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    });
}

fn serve(mut client: UnixStream, backend: &Backend) -> io::Result<()> {
    let mut agent = match backend {
        Backend::Agent(socket) => Some(UnixStream::connect(socket)?),
        Backend::Keys(_) => None,
    };
    while let Some(request) = read_message(&mut client)? {
        let kind = request.first().copied();
        let allowed = matches!(kind, Some(REQUEST_IDENTITIES | SIGN_REQUEST));
        let answer = match (&mut agent, backend) {
            _ if !allowed => vec![FAILURE],
            (Some(agent), _) => {
                write_message(agent, &request)?;
                read_message(agent)?.ok_or(io::ErrorKind::UnexpectedEof)?
            }
            (None, Backend::Keys(keys)) => answer(keys, &request),
            (None, Backend::Agent(_)) => vec![FAILURE],
        };
        write_message(&mut client, &answer)?;
    }
    Ok(())
}

fn read_message(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::Error::other("a message is too long"));
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

fn write_message(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let mut framed = Vec::with_capacity(message.len() + 4);
    put(&mut framed, message);
    stream.write_all(&framed)
}

/// Answers in the place of an agent.
fn answer(keys: &[Key], request: &[u8]) -> Vec<u8> {
    if request[0] == REQUEST_IDENTITIES {
        let mut answer = vec![IDENTITIES_ANSWER];
        answer.extend((keys.len() as u32).to_be_bytes());
        for key in keys {
            put(&mut answer, &key.public);
            put(&mut answer, key.comment.as_bytes());
        }
        return answer;
    }
    let mut reader = Reader(&request[1..]);
    let parts = reader
        .string()
        .and_then(|key| Some((key, reader.string()?, reader.number()?)));
    let Some((wanted, data, flags)) = parts else {
        return vec![FAILURE];
    };
    let key = keys.iter().find(|key| key.public == wanted);
    match key.and_then(|key| key.sign(data, flags)) {
        Some(signature) => {
            let mut answer = vec![SIGN_RESPONSE];
            put(&mut answer, &signature);
            answer
        }
        None => vec![FAILURE],
    }
}

/// Appends a string of the SSH encoding (RFC 4251, section 5).
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u32).to_be_bytes());
    to.extend_from_slice(bytes);
}

/// Reads the SSH encoding.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()? as usize;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}
