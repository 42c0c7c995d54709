//! A container without a terminal: one loop moves what it writes to our own streams and passes
//! signals on. Threads for that would cost a twentieth of a short run.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rbuild_runtime::Running;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::process::pidfd_send_signal;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::{Forwarding, SIGNALS};
use crate::failure::Failure;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Bytes that a pipe takes without making the writer wait once it has said that it takes some
/// (`PIPE_BUF`): signals shall not wait for who reads our output.
const WITHOUT_WAITING: usize = 4096;

/// Moves output and passes signals on until the container is gone and all that it wrote is written.
pub(super) fn relay(running: &Running, stdout: OwnedFd, stderr: OwnedFd) -> Result<(), Failure> {
    let (own_stdout, own_stderr) = (io::stdout(), io::stderr());
    let mut streams = [
        Stream::new(stdout, own_stdout.as_fd())?,
        Stream::new(stderr, own_stderr.as_fd())?,
    ];
    let (read, write) = UnixStream::pair()?;
    let mut signals = SignalDelivery::with_pipe(read, write, SignalOnly, SIGNALS)?;
    let container = running.pidfd();
    let mut forwarding = Forwarding::default();
    let mut gone = false;
    while !gone || streams.iter().any(Stream::is_open) {
        let ready = {
            let mut waited_for = vec![PollFd::new(signals.get_read(), PollFlags::IN)];
            if !gone {
                waited_for.push(PollFd::new(&container, PollFlags::IN));
            }
            waited_for.extend(streams.iter().filter_map(Stream::waits_for));
            match poll(&mut waited_for, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready = waited_for.iter().map(|fd| !fd.revents().is_empty());
            ready.collect::<Vec<bool>>()
        };
        let mut ready = ready.into_iter();
        let mut next = || ready.next().unwrap_or(false);
        if next() {
            for signal in signals.pending() {
                forwarding.pass(signal, container);
            }
        }
        if !gone {
            gone = next();
        }
        for stream in &mut streams {
            if stream.is_open() && next() {
                stream.go_on();
            }
        }
    }
    Ok(())
}

/// One of the two ways out.
struct Stream<'o> {
    /// What the container writes; none when that has ended, or nobody reads it any more.
    from: Option<OwnedFd>,
    to: BorrowedFd<'o>,
    /// The most that is written at once.
    most: usize,
    buffer: Box<[u8]>,
    /// What of the buffer is still to be written.
    pending: std::ops::Range<usize>,
}

impl<'o> Stream<'o> {
    fn new(from: OwnedFd, to: BorrowedFd<'o>) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(fstat(to)?.st_mode);
        let most = match kind {
            FileType::RegularFile => CHUNK,
            _ => WITHOUT_WAITING,
        };
        Ok(Self {
            from: Some(from),
            to,
            most,
            buffer: vec![0; CHUNK].into_boxed_slice(),
            pending: 0..0,
        })
    }

    fn is_open(&self) -> bool {
        self.from.is_some()
    }

    fn waits_for(&self) -> Option<PollFd<'_>> {
        let from = self.from.as_ref()?;
        Some(if self.pending.is_empty() {
            PollFd::new(from, PollFlags::IN)
        } else {
            PollFd::new(&self.to, PollFlags::OUT)
        })
    }

    /// Reads, or writes what was read. Closing `from` tells the writer that nobody reads.
    fn go_on(&mut self) {
        let Some(from) = &self.from else { return };
        let done = if self.pending.is_empty() {
            rustix::io::read(from, &mut self.buffer[..]).inspect(|length| {
                self.pending = 0..*length;
            })
        } else {
            let end = self.pending.end.min(self.pending.start + self.most);
            let part = &self.buffer[self.pending.start..end];
            rustix::io::write(self.to, part).inspect(|length| self.pending.start += length)
        };
        match done {
            Ok(1..) | Err(Errno::INTR | Errno::AGAIN) => {}
            // The end, or a reader of ours that went away: the container's status is what counts.
            Ok(0) | Err(_) => self.from = None,
        }
    }
}

impl Forwarding {
    /// Sends a signal to the container; it is killed if the user has asked for its end too often.
    pub(super) fn pass(&mut self, signal: i32, container: BorrowedFd<'_>) {
        // A container that is gone needs no signal.
        let _ = pidfd_send_signal(container, self.instead_of(signal));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use rustix::pipe::pipe;
    use rustix::process::Signal;

    use super::*;

    #[test]
    fn a_stream_is_moved_whole_and_ends() {
        let (from, writer) = pipe().unwrap();
        let (reader, to) = pipe().unwrap();
        let mut stream = Stream::new(from, to.as_fd()).unwrap();
        let text: Vec<u8> = (0..20_000_u32).map(|number| number as u8).collect();
        File::from(writer).write_all(&text).unwrap();
        while stream.is_open() {
            stream.go_on();
        }
        drop(to);
        let mut found = Vec::new();
        File::from(reader).read_to_end(&mut found).unwrap();
        assert!(found == text);
    }

    #[test]
    fn a_reader_that_went_away_closes_the_stream() {
        let (from, writer) = pipe().unwrap();
        let (reader, to) = pipe().unwrap();
        drop(reader);
        let mut stream = Stream::new(from, to.as_fd()).unwrap();
        File::from(writer.try_clone().unwrap())
            .write_all(b"x")
            .unwrap();
        stream.go_on();
        assert!(stream.is_open());
        stream.go_on();
        assert!(!stream.is_open());
        assert_eq!(rustix::io::write(&writer, b"x"), Err(Errno::PIPE));
    }

    #[test]
    fn patience_ends() {
        let mut forwarding = Forwarding::default();
        let sent: Vec<Signal> = (0..5).map(|_| forwarding.instead_of(2)).collect();
        let kept = [Signal::INT, Signal::INT, Signal::INT];
        assert_eq!(sent[..3], kept);
        assert_eq!(sent[3..], [Signal::KILL, Signal::KILL]);
        assert_eq!(Forwarding::default().instead_of(10), Signal::USR1);
    }
}
