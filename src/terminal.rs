//! The terminal and the streams of a running container.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::{Builder, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::termios::{
    LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

mod detach;

pub(crate) use detach::{DetachKeys, Typed};

/// Bytes moved at once.
const CHUNK: usize = 16 * 1024;

/// Puts a terminal into raw mode; dropping it puts the terminal back.
#[derive(Debug)]
pub(crate) struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Changes the terminal.
    pub(crate) fn enter(terminal: BorrowedFd<'_>) -> io::Result<RawMode> {
        let terminal = terminal.try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Drain, &raw)?;
        Ok(RawMode { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone; there is nothing else to put back then.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Keeps a terminal from showing what is typed; dropping it puts the terminal back.
#[derive(Debug)]
pub(crate) struct Hidden {
    _restore: RawMode,
}

impl Hidden {
    /// Changes the terminal.
    pub(crate) fn enter(terminal: BorrowedFd<'_>) -> io::Result<Hidden> {
        let terminal = terminal.try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
        Ok(Hidden {
            _restore: RawMode { terminal, before },
        })
    }
}

/// Gives one terminal the size of another; a source that is no terminal changes nothing.
pub(crate) fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Ok(size) = tcgetwinsize(from) {
        // A terminal that is closing has no size any more.
        let _ = tcsetwinsize(to, size);
    }
}

/// How a conversation with a terminal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The container is gone.
    Gone,
    /// The user has typed the keys that let go of it.
    Detached,
}

/// Moves bytes between the user and a container's terminal until the container is gone.
///
/// `gone` polls as readable then. Without `stdin`, nothing is typed.
pub(crate) fn converse(
    master: OwnedFd,
    stdin: Option<BorrowedFd<'_>>,
    gone: BorrowedFd<'_>,
    keys: DetachKeys,
) -> io::Result<Ended> {
    let flags = rustix::fs::fcntl_getfl(&master)?;
    rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
    let mut conversation = Conversation {
        master: File::from(master),
        typed: Vec::new(),
        keys,
    };
    let mut stdin = stdin;
    let (mut output_open, mut detached) = (true, false);
    loop {
        // What was typed before the keys is still the container's.
        if detached && conversation.typed.is_empty() {
            return Ok(Ended::Detached);
        }
        let read_stdin = stdin.filter(|_| conversation.typed.is_empty());
        let ready = conversation.wait(read_stdin, gone, output_open)?;
        if ready.stdin {
            match conversation.read_stdin(read_stdin)? {
                Input::More => {}
                Input::End => stdin = None,
                Input::Detach => (stdin, detached) = (None, true),
            }
        }
        if ready.writable {
            conversation.write_typed();
        }
        if ready.readable {
            output_open = conversation.show()?;
        }
        if ready.gone {
            while conversation.show()? {}
            return Ok(Ended::Gone);
        }
    }
}

/// What can be done now.
#[derive(Debug, Default)]
struct Ready {
    stdin: bool,
    readable: bool,
    writable: bool,
    gone: bool,
}

/// What became of the user's input.
enum Input {
    /// There may be more.
    More,
    /// There is no more.
    End,
    /// The keys that let go of the container.
    Detach,
}

struct Conversation {
    master: File,
    /// Typed and not yet taken by the container: its input queue is small.
    typed: Vec<u8>,
    keys: DetachKeys,
}

impl Conversation {
    fn wait(
        &self,
        stdin: Option<BorrowedFd<'_>>,
        gone: BorrowedFd<'_>,
        output_open: bool,
    ) -> io::Result<Ready> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, output_open);
        events.set(PollFlags::OUT, !self.typed.is_empty() && output_open);
        let mut fds = vec![PollFd::new(&gone, PollFlags::IN)];
        if output_open {
            fds.push(PollFd::new(&self.master, events));
        }
        if let Some(stdin) = &stdin {
            fds.push(PollFd::new(stdin, PollFlags::IN));
        }
        loop {
            match poll(&mut fds, None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let end = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        let terminal = if output_open {
            fds[1].revents()
        } else {
            PollFlags::empty()
        };
        let typed = stdin.is_some() && fds.last().is_some_and(|fd| !fd.revents().is_empty());
        Ok(Ready {
            gone: !fds[0].revents().is_empty(),
            readable: terminal.intersects(PollFlags::IN | end),
            writable: terminal.contains(PollFlags::OUT),
            stdin: typed,
        })
    }

    /// Reads what was typed.
    fn read_stdin(&mut self, stdin: Option<BorrowedFd<'_>>) -> io::Result<Input> {
        let Some(stdin) = stdin else {
            return Ok(Input::End);
        };
        let mut buffer = [0; CHUNK];
        match rustix::io::read(stdin, &mut buffer) {
            Ok(0) | Err(rustix::io::Errno::IO) => Ok(Input::End),
            Ok(length) => {
                let Typed { bytes, detach } = self.keys.take(&buffer[..length]);
                self.typed.extend_from_slice(&bytes);
                Ok(if detach { Input::Detach } else { Input::More })
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(Input::More),
            Err(error) => Err(error.into()),
        }
    }

    fn write_typed(&mut self) {
        match self.master.write(&self.typed) {
            Ok(length) => drop(self.typed.drain(..length)),
            Err(error) if is_temporary(&error) => {}
            // The container has closed its terminal: what was typed is lost.
            Err(_) => self.typed.clear(),
        }
    }

    /// Writes what the container has written; says whether there may be more at once.
    fn show(&mut self) -> io::Result<bool> {
        let mut buffer = [0; CHUNK];
        match self.master.read(&mut buffer) {
            // `EIO`: no process has the terminal open any more.
            Ok(0) => Ok(false),
            Ok(length) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&buffer[..length])?;
                stdout.flush()?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(_) => Ok(false),
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Copies everything from one descriptor to another in a thread of its own.
///
/// The container never gets our own descriptors: through `/proc/self/fd` it could open what is
/// behind them anew, with more rights than we have given it.
pub(crate) fn copy_in_thread(
    name: &str,
    from: impl AsFd + Into<OwnedFd>,
    to: impl AsFd + Into<OwnedFd>,
) -> io::Result<JoinHandle<io::Result<()>>> {
    let (mut from, mut to) = (File::from(from.into()), File::from(to.into()));
    Builder::new().name(name.into()).spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                // Dropping `from` tells the writer that nobody reads.
                Ok(length) => to.write_all(&buffer[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use rustix::pipe::pipe;

    use super::*;

    /// A pseudo-terminal: the side of the user and the side of the program.
    fn pair() -> (OwnedFd, OwnedFd) {
        let master =
            rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)
                .unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(
            name.as_c_str(),
            OFlags::RDWR | OFlags::NOCTTY,
            rustix::fs::Mode::empty(),
        );
        (master, slave.unwrap())
    }

    #[test]
    fn raw_mode_is_undone() {
        use rustix::termios::LocalModes;
        let (_master, slave) = pair();
        let modes = |fd: &OwnedFd| tcgetattr(fd).unwrap().local_modes;
        let before = modes(&slave);
        assert!(before.contains(LocalModes::ICANON));
        let raw = RawMode::enter(slave.as_fd()).unwrap();
        assert!(
            !modes(&slave).intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
        );
        drop(raw);
        assert_eq!(modes(&slave), before);
    }

    #[test]
    fn what_is_typed_arrives_and_the_end_is_noticed() {
        let (master, slave) = pair();
        let (stdin, typing) = pipe().unwrap();
        let (gone, alive) = pipe().unwrap();
        let _raw = RawMode::enter(slave.as_fd()).unwrap();
        // More than the terminal's input queue holds.
        let text = vec![b'x'; 10_000];
        let wanted = text.len();
        let reader = std::thread::spawn(move || {
            let (mut slave, mut seen) = (File::from(slave), 0);
            let mut buffer = [0; 4096];
            while seen < wanted {
                seen += slave.read(&mut buffer).unwrap();
            }
            drop(alive);
            seen
        });
        File::from(typing).write_all(&text).unwrap();
        converse(
            master,
            Some(stdin.as_fd()),
            gone.as_fd(),
            DetachKeys::none(),
        )
        .unwrap();
        assert_eq!(reader.join().unwrap(), wanted);
    }

    #[test]
    fn copying_ends_with_the_stream() {
        let (from, writer) = pipe().unwrap();
        let (reader, to) = pipe().unwrap();
        let thread = copy_in_thread("test", from, to).unwrap();
        File::from(writer).write_all(b"hello").unwrap();
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        thread.join().unwrap().unwrap();
    }
}
