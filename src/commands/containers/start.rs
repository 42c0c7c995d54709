//! `rbuild start`, and the second half of `rbuild run`.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rbuild_runtime::container::{Connection, Container, ContainerError, Order, Reply};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::tcgetwinsize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use super::monitor::Starting;
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::terminal::{RawMode, copy_in_thread};
use crate::ui;

/// Start containers that were made or have ended
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild start web
  rbuild start -a -i shell")]
pub(crate) struct StartArgs {
    /// Names or IDs
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    /// Show what it writes and wait for its end; exit with its status
    #[arg(short, long)]
    attach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
}

/// Show what a running container writes, and pass input and signals on to it
///
/// Exits with the container's status when that ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild attach web")]
pub(crate) struct AttachArgs {
    /// Name or ID
    container: String,
    /// Do not pass standard input on
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true
    )]
    sig_proxy: Option<bool>,
}

/// Attaches to a container that runs.
pub(crate) fn attach(settings: &Settings, args: &AttachArgs) -> Result<u8, Failure> {
    let container = super::containers(settings)?.find(&args.container)?;
    let interactive = container.config.interactive && !args.no_stdin;
    let attached = Attached::new(&container, interactive)?;
    let signals = args.sig_proxy != Some(false);
    see_to_the_end(settings, &container, attached, interactive, signals)
}

/// Starts containers.
pub(crate) fn run(settings: &Settings, args: &StartArgs) -> Result<u8, Failure> {
    if args.attach || args.interactive {
        let [query] = args.containers.as_slice() else {
            return Err(Failure::new(
                "you cannot start and attach multiple containers at once",
            ));
        };
        let container = super::containers(settings)?.find(query)?;
        return in_foreground(settings, &container, args.interactive);
    }
    super::each(settings, &args.containers, &mut |container, query| {
        match detached(settings, container) {
            Err(failure) if failure.message.is_none() => {}
            other => other?,
        }
        ui::println(query)
    })
}

/// Starts a container and leaves it running. One that runs already is left alone.
pub(crate) fn detached(settings: &Settings, container: &Container) -> Result<(), Failure> {
    let _changing = match container.change() {
        Err(ContainerError::Running(_)) => return Ok(()),
        changing => changing?,
    };
    let mut starting = Starting::begin(settings, container, false)?;
    warn(settings, &starting.started()?);
    Ok(())
}

fn warn(settings: &Settings, warnings: &[String]) {
    for warning in warnings {
        ui::warn(&settings.palette, warning);
    }
}

/// Starts a container, shows what it writes and waits for its end.
pub(crate) fn in_foreground(
    settings: &Settings,
    container: &Container,
    interactive: bool,
) -> Result<u8, Failure> {
    let changing = container.change()?;
    let mut starting = Starting::begin(settings, container, true)?;
    starting.listening()?;
    let interactive = interactive && container.config.interactive;
    let attached = Attached::new(container, interactive)?;
    warn(settings, &starting.started()?);
    drop(changing);
    see_to_the_end(settings, container, attached, interactive, true)
}

/// Shows a container until it ends; returns its exit status.
fn see_to_the_end(
    settings: &Settings,
    container: &Container,
    attached: Attached,
    interactive: bool,
    signals: bool,
) -> Result<u8, Failure> {
    let terminal = container.config.sandbox.process.terminal;
    if signals {
        forward_signals(container, terminal && settings.stdin_terminal)?;
    }
    let raw = if terminal && interactive && settings.stdin_terminal {
        Some(RawMode::enter(io::stdin().as_fd())?)
    } else {
        None
    };
    if terminal {
        resize(container);
    }
    let code = attached.wait();
    drop(raw);
    Ok(u8::try_from(code?).unwrap_or(status::ERROR))
}

/// A conversation that shows what a container writes.
struct Attached {
    connection: Connection,
    copies: Vec<std::thread::JoinHandle<io::Result<()>>>,
}

impl Attached {
    fn new(container: &Container, interactive: bool) -> Result<Attached, Failure> {
        let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut descriptors: Vec<OwnedFd> = vec![stdout_end, stderr_end];
        if interactive {
            let (stdin_end, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
            descriptors.push(stdin_end);
            // Not waited for: it may be blocked in reading a terminal when the container ends.
            copy_in_thread("stdin", io::stdin().as_fd().try_clone_to_owned()?, stdin)?;
        }
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        let connection = container.ask(&Order::Attach, &borrowed)?;
        drop(descriptors);
        let own_stdout = io::stdout().as_fd().try_clone_to_owned()?;
        let own_stderr = io::stderr().as_fd().try_clone_to_owned()?;
        Ok(Attached {
            connection,
            copies: vec![
                copy_in_thread("stdout", stdout, own_stdout)?,
                copy_in_thread("stderr", stderr, own_stderr)?,
            ],
        })
    }

    fn wait(self) -> Result<i32, Failure> {
        let code = loop {
            match self.connection.reply() {
                Ok((Reply::Exited(code), _)) => break code,
                Ok((Reply::Failed { message, .. }, _)) => return Err(Failure::new(message)),
                Ok(_) => {}
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
        Ok(code)
    }
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
    const KILL: i32 = 9;
    let forwarded = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
    let mut signals = Signals::new(forwarded)?;
    let container = container.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut impatient = 0;
            for signal in signals.forever() {
                if signal == SIGWINCH {
                    if terminal {
                        resize(&container);
                    }
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
