//! Being attached to a container: its output here, our input and signals there, until it ends or the
//! user types the keys that let go of it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rbuild_runtime::container::{Connection, Container, Order, Reply};
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::tcgetwinsize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use super::KILL;
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::terminal::{DetachKeys, RawMode, Typed, copy_in_thread};
use crate::truth::Truth as _;
use crate::ui;

/// How long a container has to end after its terminal has gone.
const HANG_UP_GRACE: Duration = Duration::from_secs(2);

/// Options of being attached.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct AttachingArgs {
    /// Keys that let go of a container with a terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Pass signals on
    #[arg(long, truth = "BOOL")]
    sig_proxy: Option<bool>,
}

impl AttachingArgs {
    /// `--sig-proxy`.
    pub(crate) fn signals(&self) -> bool {
        self.sig_proxy != Some(false)
    }

    /// `--detach-keys`.
    pub(crate) fn keys(&self) -> Result<DetachKeys, Failure> {
        DetachKeys::of_option(self.detach_keys.as_deref())
    }
}

/// What is wanted of a container.
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) signals: bool,
    pub(super) keys: DetachKeys,
}

impl Wanted {
    /// Both outputs, and the input of a container that reads.
    pub(super) fn all(
        container: &Container,
        interactive: bool,
        args: &AttachingArgs,
    ) -> Result<Wanted, Failure> {
        Ok(Wanted {
            stdin: interactive && container.config.interactive,
            stdout: true,
            stderr: true,
            signals: args.signals(),
            keys: args.keys()?,
        })
    }

    /// Leaves only the streams that are named, if any are.
    pub(super) fn only(mut self, streams: &[String]) -> Result<Wanted, Failure> {
        if streams.is_empty() {
            return Ok(self);
        }
        let named = |name: &str| {
            streams
                .iter()
                .any(|stream| stream.eq_ignore_ascii_case(name))
        };
        if let Some(other) = streams.iter().find(|stream| {
            !["stdin", "stdout", "stderr"]
                .iter()
                .any(|known| stream.eq_ignore_ascii_case(known))
        }) {
            return Err(
                Failure::new(format!("invalid stream {other:?} for `--attach`"))
                    .hint("valid streams are stdin, stdout and stderr"),
            );
        }
        self.stdin &= named("stdin");
        self.stdout = named("stdout");
        self.stderr = named("stderr");
        Ok(self)
    }
}

/// A conversation that shows what a container writes.
pub(super) struct Attached {
    connection: Connection,
    copies: Vec<JoinHandle<io::Result<()>>>,
    /// The keys were typed.
    detached: Arc<AtomicBool>,
}

impl Attached {
    /// Attaches to a container that runs, or is about to.
    pub(super) fn new(container: &Container, wanted: &Wanted) -> Result<Attached, Failure> {
        let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut descriptors: Vec<OwnedFd> = vec![stdout_end, stderr_end];
        let mut stdin = None;
        if wanted.stdin {
            let (end, own) = pipe_with(PipeFlags::CLOEXEC)?;
            descriptors.push(end);
            stdin = Some(own);
        }
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        let connection = container.ask(&Order::Attach, &borrowed)?;
        drop(descriptors);
        let detached = Arc::new(AtomicBool::new(false));
        if let Some(stdin) = stdin {
            let keys = if container.config.sandbox.process.terminal {
                wanted.keys.clone()
            } else {
                DetachKeys::none()
            };
            let socket = connection.as_fd().try_clone_to_owned()?;
            type_in_thread(stdin, keys, socket, &detached)?;
        }
        let mut copies = Vec::new();
        // What is not wanted is closed: the monitor leaves it out then.
        if wanted.stdout {
            let own = io::stdout().as_fd().try_clone_to_owned()?;
            copies.push(copy_in_thread("stdout", stdout, own)?);
        } else {
            copies.push(copy_in_thread("stdout", stdout, null()?)?);
        }
        if wanted.stderr {
            let own = io::stderr().as_fd().try_clone_to_owned()?;
            copies.push(copy_in_thread("stderr", stderr, own)?);
        } else {
            copies.push(copy_in_thread("stderr", stderr, null()?)?);
        }
        Ok(Attached {
            connection,
            copies,
            detached,
        })
    }

    /// Waits for the end; none if the user has let go of it.
    fn wait(self) -> Result<Option<i32>, Failure> {
        let code = loop {
            match self.connection.reply() {
                Ok((Reply::Exited(code), _)) => break code,
                Ok((Reply::Failed { message, .. }, _)) => return Err(Failure::new(message)),
                Ok(_) => {}
                Err(_) if self.detached.load(Ordering::Acquire) => return Ok(None),
                Err(_) => {
                    return Err(Failure::new("the container's monitor was killed")
                        .with_status(status::ENGINE));
                }
            }
        };
        for copy in self.copies {
            // A reader of ours that went away has stopped the copy; the container's status counts.
            let _ = copy.join();
        }
        Ok(Some(code))
    }
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options().write(true).open("/dev/null")?.into())
}

/// Passes standard input on until its end, or until the keys; then closes the conversation.
fn type_in_thread(
    to: OwnedFd,
    mut keys: DetachKeys,
    socket: OwnedFd,
    detached: &Arc<AtomicBool>,
) -> Result<(), Failure> {
    let detached = Arc::clone(detached);
    let mut from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut to = File::from(to);
    // Not waited for: it may be blocked in reading a terminal when the container ends.
    Builder::new().name("stdin".into()).spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let Typed { bytes, detach } = keys.take(&buffer[..count]);
            if to.write_all(&bytes).is_err() {
                return;
            }
            if detach {
                detached.store(true, Ordering::Release);
                // An error means that the conversation is over anyway.
                let _ = shutdown(&socket, Shutdown::Both);
                return;
            }
        }
    })?;
    Ok(())
}

/// Shows a container until it ends or the user lets go of it; returns the exit status.
pub(super) fn see_to_the_end(
    settings: &Settings,
    container: &Container,
    attached: Attached,
    wanted: &Wanted,
) -> Result<u8, Failure> {
    let terminal = container.config.sandbox.process.terminal;
    if wanted.signals {
        forward_signals(container, terminal && settings.stdin_terminal)?;
    }
    let raw = if terminal && wanted.stdin && settings.stdin_terminal {
        Some(RawMode::enter(io::stdin().as_fd())?)
    } else {
        None
    };
    if terminal {
        resize(container);
    }
    let code = attached.wait();
    drop(raw);
    if let Some(code) = code? {
        return Ok(u8::try_from(code).unwrap_or(status::ERROR));
    }
    ui::message("read escape sequence\n");
    Ok(0)
}

/// Gives the container's terminal the size of ours.
fn resize(container: &Container) {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
    if let Ok(size) = size {
        // A container that is gone has no terminal any more.
        let order = Order::Resize(size.ws_row, size.ws_col);
        if let Ok(connection) = container.ask(&order, &[]) {
            let _ = connection.reply();
        }
    }
}

/// Passes signals on; Ctrl-C in a terminal of the container's own is a byte, not a signal.
fn forward_signals(container: &Container, terminal: bool) -> Result<(), Failure> {
    const PATIENCE: usize = 3;
    let forwarded = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
    let mut signals = Signals::new(forwarded)?;
    let container = container.clone();
    Builder::new().name("signals".into()).spawn(move || {
        let mut impatient = 0;
        for signal in signals.forever() {
            if signal == SIGWINCH {
                if terminal {
                    resize(&container);
                }
                continue;
            }
            if signal == SIGHUP && terminal && container.config.auto_remove {
                hang_up(&container);
                continue;
            }
            impatient += usize::from(signal == SIGINT || signal == SIGTERM);
            let signal = if impatient > PATIENCE { KILL } else { signal };
            // A container that is gone needs no signal.
            let _ = super::signal(&container, signal);
        }
    })?;
    Ok(())
}

/// Ends a container that was to be gone with its terminal: it is told first; a shell that is process 1
/// ignores that.
fn hang_up(container: &Container) {
    // A container that is gone needs no signal.
    let Ok(waiting) = container.ask(&Order::Wait, &[]) else {
        return;
    };
    let _ = super::signal(container, SIGHUP);
    if let Ok(None) = super::wait_for_end(&waiting, Some(HANG_UP_GRACE)) {
        let _ = super::order(container, &Order::Stop(KILL));
    }
}
