//! Carries a command's output to the events until the command is gone.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rbuild_cache::SpaceWatch;
use rbuild_runtime::Running;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};

use super::ExecContext;
use super::mask::{Mask, Secrets};
use crate::error::BuildError;
use crate::event::{Event, Stream, Warning};
use crate::report::{Recorder, log_path};

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Forwards both pipes, without the values of secrets, until they end and the command has exited;
/// kills it on cancellation.
pub(super) fn pump(
    context: &ExecContext<'_>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    running: &Running,
    secrets: &Secrets,
) -> Result<Vec<u8>, BuildError> {
    let mut log = Log::new(context);
    let mut pipes = [
        (Stream::Stdout, Some(stdout)),
        (Stream::Stderr, Some(stderr)),
    ];
    let mut masks = [Mask::new(secrets), Mask::new(secrets)];
    let mut tell = |stream, bytes: Vec<u8>| {
        if !bytes.is_empty() {
            log.write(&bytes);
            context.events.event(Event::Output {
                vertex: context.vertex,
                stream,
                bytes,
            });
        }
    };
    let mut buffer = vec![0; CHUNK];
    let mut exited = false;
    let mut killed = false;
    let mut written = Written::new(context);
    while !exited || pipes.iter().any(|(_, pipe)| pipe.is_some()) {
        let (ready, now_exited, cancelled) =
            wait(context, &pipes, running, (exited, killed), written.pause())?;
        written.look();
        exited |= now_exited;
        if cancelled && !killed {
            killed = true;
            running
                .kill()
                .map_err(|error| BuildError::io("could not stop the command", &error))?;
        }
        for (index, (stream, pipe)) in pipes.iter_mut().enumerate() {
            let Some(fd) = pipe.as_ref().filter(|_| ready[index]) else {
                continue;
            };
            match read(fd, &mut buffer) {
                Ok(0) => {
                    *pipe = None;
                    tell(*stream, masks[index].end());
                }
                Ok(count) => tell(*stream, masks[index].pass(&buffer[..count])),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => {
                    let error = std::io::Error::from(error);
                    return Err(BuildError::io(
                        "could not read the command's output",
                        &error,
                    ));
                }
            }
        }
    }
    written.end();
    Ok(log.tail)
}

/// What a command writes is flushed while it still runs, if that has to be done at the end.
struct Written {
    watch: Option<SpaceWatch>,
    next: Instant,
}

impl Written {
    fn new(context: &ExecContext<'_>) -> Written {
        Written {
            watch: context.store.watch_space(),
            next: Instant::now() + SpaceWatch::INTERVAL,
        }
    }

    /// Time until the next look.
    fn pause(&self) -> Option<Duration> {
        let left = || self.next.saturating_duration_since(Instant::now());
        self.watch.is_some().then(left)
    }

    fn look(&mut self) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        if let Some(watch) = &mut self.watch {
            watch.look();
        }
        self.next = now + SpaceWatch::INTERVAL;
    }

    /// The command has ended.
    fn end(self) {
        if let Some(watch) = self.watch {
            watch.end();
        }
    }
}

/// Keeps the whole output of a command in a file, and its end in memory.
struct Log<'a> {
    context: &'a ExecContext<'a>,
    /// Opened with the first output; none after a failure, which is told once.
    file: Option<File>,
    begun: bool,
    tail: Vec<u8>,
}

impl<'a> Log<'a> {
    /// The end of the output that is looked at for the reason of a failure.
    const TAIL: usize = 16 * 1024;

    fn new(context: &'a ExecContext<'a>) -> Log<'a> {
        Log {
            context,
            file: None,
            begun: false,
            tail: Vec::new(),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * Self::TAIL {
            self.tail.drain(..self.tail.len() - Self::TAIL);
        }
        let written = if self.begun {
            self.file
                .as_mut()
                .map_or(Ok(()), |file| file.write_all(bytes))
        } else {
            self.begun = true;
            self.open().and_then(|()| {
                let file = self.file.as_mut();
                file.map_or(Ok(()), |file| file.write_all(bytes))
            })
        };
        if let Err(error) = written {
            // The command is not to fail for it: what it does may even make room.
            self.file = None;
            self.context.events.event(Event::Warning(Warning {
                rule: None,
                message: format!("the log of a step is not complete: {error}"),
                line: None,
                url: None,
                help: None,
            }));
        }
    }

    fn open(&mut self) -> std::io::Result<()> {
        if let Some(build) = self.context.recorder.and_then(Recorder::build) {
            let path = log_path(build.path(), self.context.vertex);
            self.file = Some(File::create(path)?);
        }
        Ok(())
    }
}

/// Waits for output, the end of the command, or cancellation, and no longer than `pause`.
fn wait(
    context: &ExecContext<'_>,
    pipes: &[(Stream, Option<OwnedFd>); 2],
    running: &Running,
    (exited, killed): (bool, bool),
    pause: Option<Duration>,
) -> Result<([bool; 2], bool, bool), BuildError> {
    let mut fds = Vec::with_capacity(4);
    let mut places = [None; 2];
    for (index, (_, pipe)) in pipes.iter().enumerate() {
        if let Some(pipe) = pipe {
            places[index] = Some(fds.len());
            fds.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
        }
    }
    let exit_place = (!exited).then(|| {
        fds.push(PollFd::from_borrowed_fd(running.pidfd(), PollFlags::IN));
        fds.len() - 1
    });
    let cancel_place = (!killed).then(|| {
        fds.push(PollFd::from_borrowed_fd(
            context.cancel.as_fd(),
            PollFlags::IN,
        ));
        fds.len() - 1
    });
    let pause = pause.and_then(|pause| Timespec::try_from(pause).ok());
    loop {
        match poll(&mut fds, pause.as_ref()) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => {
                let error = std::io::Error::from(error);
                return Err(BuildError::io(
                    "could not wait for the command's output",
                    &error,
                ));
            }
        }
    }
    let fired = |place: Option<usize>| place.is_some_and(|place| !fds[place].revents().is_empty());
    Ok((
        [fired(places[0]), fired(places[1])],
        fired(exit_place),
        fired(cancel_place),
    ))
}
