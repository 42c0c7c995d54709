//! `rbuild exec`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rbuild_builder::users::lookup_user;
use rbuild_cache::RootView;
use rbuild_runtime::container::{Connection, Container, Order, Reply};
use rbuild_runtime::{Joining, Process, Sandbox, Seccomp, Security, User};
use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::Signals;

use crate::config::Settings;
use crate::container::details::Details;
use crate::container::environment::{self, Change};
use crate::events::{self, Event};
use crate::failure::{Failure, status};
use crate::terminal::{DetachKeys, Ended, RawMode, converse, copy_in_thread, copy_size};
use crate::ui;

/// Run a command in a container that runs
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rbuild exec [OPTIONS] CONTAINER COMMAND [ARG…]",
    after_help = "Examples:
  rbuild exec web ps
  rbuild exec -it web sh

Exit status: that of the command; 126 when it cannot be executed, 127 when there is \
none, 1 when the container does not run."
)]
pub(crate) struct ExecArgs {
    /// Name or ID, and the command with its arguments
    #[arg(
        value_name = "CONTAINER",
        required = true,
        num_args = 2..,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    container_and_command: Vec<OsString>,
    /// Do not wait for its end
    #[arg(short, long)]
    detach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set a variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// User and group, as names or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Give it all rights
    #[arg(long)]
    privileged: bool,
    /// Keys that let go of a command with a terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
}

/// Runs a command in a container.
pub(crate) fn run(settings: &Settings, args: &ExecArgs) -> Result<u8, Failure> {
    if args.tty && args.interactive && !settings.stdin_terminal {
        return Err(Failure::new("the input device is not a TTY")
            .hint("leave `-t` out when standard input is not a terminal"));
    }
    let query = args.container_and_command[0].to_string_lossy().into_owned();
    let container = super::containers(settings)?.find(&query)?;
    let joining = joining(&container, args)?;
    let note = Notes::new(settings, &container, args)?;
    let order = Order::Exec(Box::new(joining));
    if args.detach {
        let connection = container.ask(&order, &[])?;
        started(&container, &connection, args)?;
        note.began();
        return Ok(0);
    }
    if args.tty {
        let keys = DetachKeys::of_option(args.detach_keys.as_deref())?;
        let connection = container.ask(&order, &[])?;
        let terminal = started(&container, &connection, args)?;
        note.began();
        let code = in_terminal(settings, &connection, terminal, args.interactive, keys)?;
        note.ended(code);
        return Ok(code.unwrap_or(0));
    }
    let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut ends: Vec<OwnedFd> = vec![stdout_end, stderr_end];
    let mut stdin = None;
    if args.interactive {
        let (end, own) = pipe_with(PipeFlags::CLOEXEC)?;
        ends.push(end);
        stdin = Some(own);
    }
    let borrowed: Vec<BorrowedFd<'_>> = ends.iter().map(|fd| fd.as_fd()).collect();
    let connection = container.ask(&order, &borrowed)?;
    drop(ends);
    started(&container, &connection, args)?;
    note.began();
    let copies = [
        copy_in_thread("stdout", stdout, io::stdout().as_fd().try_clone_to_owned()?)?,
        copy_in_thread("stderr", stderr, io::stderr().as_fd().try_clone_to_owned()?)?,
    ];
    if let Some(stdin) = stdin {
        // Not waited for: it may be blocked in reading a terminal when the command ends.
        copy_in_thread("stdin", io::stdin().as_fd().try_clone_to_owned()?, stdin)?;
    }
    let code = exit_code(&connection)?;
    note.ended(Some(code));
    for copy in copies {
        // A reader of ours that went away has stopped the copy; the command's status counts.
        let _ = copy.join();
    }
    Ok(code)
}

/// What the log of events is told of a command. Its end is told by whoever waits for it.
struct Notes<'a> {
    settings: &'a Settings,
    container: &'a Container,
    command: String,
    id: String,
}

impl<'a> Notes<'a> {
    fn new(
        settings: &'a Settings,
        container: &'a Container,
        args: &ExecArgs,
    ) -> Result<Notes<'a>, Failure> {
        let words = args.container_and_command[1..].iter();
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let mut bytes = [0_u8; 32];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        Ok(Notes {
            settings,
            container,
            command: words.join(" "),
            id: bytes.map(|byte| format!("{byte:02x}")).concat(),
        })
    }

    fn tell(&self, action: &str) -> Event {
        Event::container(action, self.container).with("execID", &self.id)
    }

    fn began(&self) {
        for action in ["exec_create", "exec_start"] {
            let action = format!("{action}: {}", self.command);
            events::note(self.settings, || self.tell(&action));
        }
    }

    fn ended(&self, code: Option<u8>) {
        if let Some(code) = code {
            let code = code.to_string();
            events::note(self.settings, || {
                self.tell("exec_die").with("exitCode", &code)
            });
        }
    }
}

/// What is to run: the container's process with the changes of the options.
fn joining(container: &Container, args: &ExecArgs) -> Result<Joining, Failure> {
    let sandbox = &container.config.sandbox;
    let mut changes: Vec<Change> = Vec::new();
    for file in &args.env_file {
        changes.extend(environment::parse_file(file)?);
    }
    for variable in &args.env {
        changes.push(environment::parse(variable)?);
    }
    let details = Details::of(container);
    let named = args.user.as_deref().unwrap_or(&details.user);
    let (user, home) = user_of(sandbox, named)?;
    let cwd = match args.workdir.as_deref() {
        None => sandbox.process.cwd.clone(),
        Some(path) if path.starts_with('/') => PathBuf::from(path),
        Some(path) => sandbox.process.cwd.join(path),
    };
    Ok(Joining {
        process: Process {
            args: args.container_and_command[1..].to_vec(),
            env: variables(sandbox, &changes, args, &home),
            cwd,
            user,
            terminal: args.tty,
        },
        security: if args.privileged {
            Security {
                privileged: true,
                seccomp: Seccomp::Unconfined,
                ..sandbox.security.clone()
            }
        } else {
            sandbox.security.clone()
        },
        network: sandbox.network.clone(),
        of_host: sandbox.of_host,
        rlimits: sandbox.rlimits.clone(),
    })
}

/// The container's variables, changed; another user has another home.
fn variables(sandbox: &Sandbox, changes: &[Change], args: &ExecArgs, home: &str) -> Vec<OsString> {
    let mut all: Vec<(String, String)> = sandbox
        .process
        .env
        .iter()
        .filter_map(|entry| {
            let entry = entry.to_string_lossy();
            let (name, value) = entry.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect();
    let mut set = |name: &str, value: Option<&str>| {
        all.retain(|(known, _)| known != name);
        all.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    };
    if args.user.is_some() {
        set("HOME", Some(home));
    }
    if args.tty {
        set("TERM", Some("xterm"));
    }
    for change in changes {
        match change {
            Change::Set(name, value) => set(name, Some(value)),
            Change::Remove(name) => set(name, None),
        }
    }
    all.into_iter()
        .map(|(name, value)| OsString::from(format!("{name}={value}")))
        .collect()
}

/// The user, looked up in the container as it is now.
fn user_of(sandbox: &Sandbox, named: &str) -> Result<(User, String), Failure> {
    let root = &sandbox.root;
    let lowers = root.lowers.iter().rev();
    let stack = lowers.chain(root.upper.iter().map(|upper| &upper.upper));
    let view = stack.fold(RootView::new(&[]), |view, directory| {
        view.with_upper(directory)
    });
    let found = lookup_user(&view, named)?;
    let user = User {
        uid: found.uid,
        gid: found.gid,
        groups: found.groups,
    };
    Ok((user, found.home))
}

/// Waits until the command runs; returns its terminal.
fn started(
    container: &Container,
    connection: &Connection,
    args: &ExecArgs,
) -> Result<Option<OwnedFd>, Failure> {
    let program = args.container_and_command[1].to_string_lossy();
    match super::first_reply(container, connection)? {
        (Reply::Started, descriptors) => Ok(descriptors.into_iter().next()),
        (
            Reply::Failed {
                status: Some(status::NOT_FOUND),
                ..
            },
            _,
        ) => {
            let reason = if program.contains('/') {
                "no such file or directory"
            } else {
                "executable file not found in $PATH"
            };
            let message = format!("exec: {program:?}: {reason}");
            Err(Failure::new(message).with_status(status::NOT_FOUND))
        }
        (Reply::Failed { message, status }, _) => {
            Err(Failure::new(message).with_status(status.unwrap_or(status::ERROR)))
        }
        _ => Err(Failure::new(
            "the container's monitor answered something else",
        )),
    }
}

fn exit_code(connection: &Connection) -> Result<u8, Failure> {
    match connection.reply() {
        Ok((Reply::Exited(code), _)) => Ok(u8::try_from(code).unwrap_or(status::ERROR)),
        Ok((Reply::Failed { message, .. }, _)) => Err(Failure::new(message)),
        Ok(_) => Err(Failure::new(
            "the container's monitor answered something else",
        )),
        Err(error) => Err(Failure::new("the container has ended").because(&error)),
    }
}

/// Talks with a command until it ends; no exit status if the user has let go of it.
fn in_terminal(
    settings: &Settings,
    connection: &Connection,
    terminal: Option<OwnedFd>,
    interactive: bool,
    keys: DetachKeys,
) -> Result<Option<u8>, Failure> {
    let Some(master) = terminal else {
        return Err(Failure::new("the command has no terminal"));
    };
    let stdin = io::stdin();
    if settings.stdin_terminal {
        copy_size(stdin.as_fd(), master.as_fd());
        let (own, other) = (stdin.as_fd().try_clone_to_owned()?, master.try_clone()?);
        let mut signals = Signals::new([SIGWINCH])?;
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for _ in signals.forever() {
                    copy_size(own.as_fd(), other.as_fd());
                }
            })?;
    }
    let raw = if interactive && settings.stdin_terminal {
        Some(RawMode::enter(stdin.as_fd())?)
    } else {
        None
    };
    let talked = converse(
        master,
        interactive.then(|| stdin.as_fd()),
        connection.as_fd(),
        keys,
    );
    if matches!(talked, Ok(Ended::Detached)) {
        drop(raw);
        // If the monitor has gone, so has the command.
        let _ = connection.leave();
        ui::message("read escape sequence\n");
        return Ok(None);
    }
    let code = exit_code(connection);
    drop(raw);
    talked?;
    code.map(Some)
}
