//! `rbuild oci-runtime`: the sandbox behind the command line of runc, for podman and containerd.

mod config;
mod hooks;
mod state;
mod translate;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use jiff::Timestamp;
use rbuild_runtime::{Stdio, Waiting, hold, join_held, leave_writable_program};
use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::commands::run;
use crate::container::signals;
use crate::failure::{Failure, status};
use crate::ui;
use config::Config;
use hooks::run_hooks;
use state::{Containers, State};

/// The program is also called by this name: podman takes a path and no arguments.
pub(crate) const NAME: &str = "rbuild-oci";

/// The command, where the program has its own name.
pub(crate) const COMMAND: &str = "oci-runtime";

/// Version of the specification that is understood.
const SPECIFICATION: &str = "1.2.0";

/// Run containers of podman, containerd and others in rbuild's sandbox
///
/// It understands what runc does; whoever takes a path only gets a link to it named `rbuild-oci`.
#[derive(Debug, clap::Parser)]
#[command(
    name = "rbuild oci-runtime",
    disable_version_flag = true,
    after_help = "Examples:
  ln -s \"$(command -v rbuild)\" /usr/local/bin/rbuild-oci
  podman --runtime /usr/local/bin/rbuild-oci run --rm docker.io/library/busybox true"
)]
struct Line {
    /// Directory of the containers' states
    #[arg(long, value_name = "DIR", default_value = "/run/rbuild-oci")]
    root: PathBuf,
    /// Write errors to a file, too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How: `text` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: String,
    /// Have systemd make control groups: not supported
    #[arg(long)]
    systemd_cgroup: bool,
    /// Tell more
    #[arg(long)]
    debug: bool,
    /// Print the version
    #[arg(short, long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Order>,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// Make a container that waits
    Create(Create),
    /// Have a container begin
    Start { id: String },
    /// Make a container, have it begin and wait for its end
    Run(Create),
    /// Print the state of a container
    State { id: String },
    /// Send a signal
    Kill {
        id: String,
        #[arg(default_value = "TERM")]
        signal: String,
        /// To all processes
        #[arg(short, long)]
        all: bool,
    },
    /// Remove a container that has ended
    Delete {
        id: String,
        /// Kill it before
        #[arg(short, long)]
        force: bool,
    },
    /// Run another process in a container
    Exec(Exec),
    /// List the processes of a container
    Ps {
        id: String,
        /// `json` or `table`
        #[arg(short, long, default_value = "json")]
        format: String,
        /// Accepted for runc's sake
        #[arg(hide = true)]
        options: Vec<String>,
    },
    /// Have a container stand still
    Pause { id: String },
    /// Let it go on
    Resume { id: String },
    /// List containers
    List {
        /// `json` or `table`
        #[arg(short, long, default_value = "table")]
        format: String,
    },
    /// Print what is supported
    Features,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Directory with `config.json`
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    #[command(flatten)]
    streams: Streams,
    /// Accepted for runc's sake: the root is always entered by `pivot_root`, which needs no directory
    #[arg(long)]
    no_pivot: bool,
    /// Keep the session keyring: not supported
    #[arg(long)]
    no_new_keyring: bool,
    id: String,
}

#[derive(Debug, clap::Args)]
struct Exec {
    #[command(flatten)]
    streams: Streams,
    /// File with the process as in `config.json`
    #[arg(short, long, value_name = "FILE")]
    process: PathBuf,
    /// Do not wait for its end
    #[arg(short, long)]
    detach: bool,
    id: String,
}

#[derive(Debug, clap::Args)]
struct Streams {
    /// Socket that the controlling side of the terminal is sent to
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File for the number of the first process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Descriptors that are passed on, beside the standard ones: not supported
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
}

/// Carries out a command line of runc's; returns the exit status.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> u8 {
    let line = match Line::try_parse_from([OsString::from(NAME)].into_iter().chain(arguments)) {
        Ok(line) => line,
        Err(error) => {
            // A reader that went away is no news.
            let _ = error.print();
            return if error.use_stderr() { status::ERROR } else { 0 };
        }
    };
    match carry_out(&line) {
        Ok(code) => code,
        Err(failure) => {
            let text = whole(&failure);
            Log(&line).write("error", &text);
            ui::message(&format!("{NAME}: {text}\n"));
            status::ERROR
        }
    }
}

fn whole(failure: &Failure) -> String {
    let mut text = failure.message.clone().unwrap_or_default();
    for cause in &failure.causes {
        text.push_str(&format!(": {cause}"));
    }
    text
}

/// The file that was asked for with `--log`.
#[derive(Clone, Copy)]
struct Log<'l>(&'l Line);

impl Log<'_> {
    /// Writes a line. A log that cannot be written is no reason to fail.
    fn write(self, level: &str, text: &str) {
        let Some(path) = &self.0.log else { return };
        let time = Timestamp::now().to_string();
        let entry = if self.0.log_format == "json" {
            serde_json::json!({"level": level, "msg": text, "time": time}).to_string()
        } else {
            format!("time={time:?} level={level} msg={text:?}")
        };
        let _ = File::options()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| writeln!(file, "{entry}"));
    }
}

fn carry_out(line: &Line) -> Result<u8, Failure> {
    if line.version {
        let version = env!("CARGO_PKG_VERSION");
        ui::println(&format!("{NAME} version {version}\nspec: {SPECIFICATION}"))?;
        return Ok(0);
    }
    if line.systemd_cgroup {
        return Err(Failure::unsupported("`--systemd-cgroup`")
            .hint("podman takes `--cgroup-manager cgroupfs`"));
    }
    if matches!(
        line.command,
        Some(Order::Create(_) | Order::Run(_) | Order::Exec(_))
    ) {
        leave_writable_program().map_err(|error| Failure::new(error.to_string()))?;
    }
    let (containers, log) = (Containers::new(&line.root), Log(line));
    let Some(order) = &line.command else {
        return Err(Failure::new("no command").hint("`rbuild oci-runtime --help` lists them"));
    };
    match order {
        Order::Create(create) => make(&containers, create, log).map(|_| 0),
        Order::Start { id } => begin(&containers, &containers.find(id)?).map(|()| 0),
        Order::Run(create) => run_whole(&containers, create, log),
        Order::State { id } => {
            ui::println(&ui::to_json(&containers.find(id)?.told()))?;
            Ok(0)
        }
        Order::Kill { id, signal, all } => {
            containers
                .find(id)?
                .signal(signals::number(signal)?, *all)?;
            Ok(0)
        }
        Order::Delete { id, force } => delete(&containers, id, *force).map(|()| 0),
        Order::Exec(exec) => execute(&containers, exec, log),
        Order::Ps { id, format, .. } => processes(&containers.find(id)?, format).map(|()| 0),
        Order::Pause { id } => containers.find(id)?.pause(&containers).map(|()| 0),
        Order::Resume { id } => containers.find(id)?.resume(&containers).map(|()| 0),
        Order::List { format } => list(&containers, format).map(|()| 0),
        Order::Features => ui::println(&ui::to_json(&features())).map(|()| 0),
    }
}

impl Streams {
    /// Our own streams, for the container.
    fn own(&self) -> Result<Stdio, Failure> {
        if self.preserve_fds > 0 {
            return Err(Failure::unsupported("`--preserve-fds`"));
        }
        Ok(Stdio {
            stdin: Some(io::stdin().as_fd().try_clone_to_owned()?),
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }

    fn check_terminal(&self, terminal: bool) -> Result<(), Failure> {
        match (&self.console_socket, terminal) {
            (None, true) => Err(Failure::new(
                "the process has a terminal, and there is no `--console-socket` to send it to",
            )),
            (Some(_), false) => Err(Failure::new(
                "there is a `--console-socket`, and the process has no terminal",
            )),
            _ => Ok(()),
        }
    }

    /// Gives away what was made: the terminal, and the number of the process.
    fn hand_out(
        &self,
        made: &Waiting,
        size: Option<config::ConsoleSize>,
        log: Log<'_>,
    ) -> Result<(), Failure> {
        // Not on standard error, which is the container's, too.
        for warning in &made.warnings {
            log.write("warning", warning);
        }
        if let (Some(path), Some(terminal)) = (&self.console_socket, &made.terminal) {
            if let Some(size) = size {
                let size = Winsize {
                    ws_row: size.height,
                    ws_col: size.width,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                tcsetwinsize(terminal, size)?;
            }
            send_terminal(path, terminal).map_err(|error| {
                Failure::new(format!(
                    "could not send the terminal to `{}`",
                    path.display()
                ))
                .because(&error)
            })?;
        }
        if let Some(path) = &self.pid_file {
            let beside = path.with_extension("tmp");
            std::fs::write(&beside, made.pid.to_string())
                .and_then(|()| std::fs::rename(&beside, path))
                .map_err(|error| {
                    Failure::new(format!("could not write `{}`", path.display())).because(&error)
                })?;
        }
        Ok(())
    }
}

fn send_terminal(path: &Path, terminal: &OwnedFd) -> io::Result<()> {
    let socket = UnixStream::connect(path)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [terminal.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let name = IoSlice::new(b"/dev/ptmx");
    sendmsg(&socket, &[name], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Makes a container that waits.
fn make(containers: &Containers, create: &Create, log: Log<'_>) -> Result<State, Failure> {
    if create.no_new_keyring {
        return Err(Failure::unsupported("`--no-new-keyring`"));
    }
    let bundle = std::fs::canonicalize(&create.bundle).map_err(|error| {
        Failure::new(format!(
            "could not find the bundle `{}`",
            create.bundle.display()
        ))
        .because(&error)
    })?;
    let config: Config = config::read(&bundle.join("config.json"))?;
    let translated = translate::translate(&config, &bundle)?;
    create.streams.check_terminal(config.process.terminal)?;
    let stdio = create.streams.own()?;
    let new = containers.begin(&create.id)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let gate = rustix::fs::open(new.gate(), flags, Mode::empty())?;
    let made = hold(&translated.sandbox, &translated.held, stdio, gate.as_fd());
    let made = made.map_err(|error| run::spawn_failure(&translated.sandbox, &error))?;
    let state = State::new(&create.id, &bundle, &config, &made);
    let told = || -> Result<(), Failure> {
        new.write(&state)?;
        create
            .streams
            .hand_out(&made, config.process.console_size, log)?;
        run_hooks(&state, &config.hooks.prestart)?;
        run_hooks(&state, &config.hooks.create_runtime)
    };
    match told() {
        Ok(()) => {
            new.keep();
            Ok(state)
        }
        Err(failure) => {
            // What is told is why; it goes with its directory.
            let _ = state.signal(9, false);
            state.remove_groups();
            Err(failure)
        }
    }
}

/// Has a container begin.
fn begin(containers: &Containers, state: &State) -> Result<(), Failure> {
    containers.open_gate(state)?;
    run_hooks(state, &state.hooks_after_start)
}

fn run_whole(containers: &Containers, create: &Create, log: Log<'_>) -> Result<u8, Failure> {
    let state = make(containers, create, log)?;
    begin(containers, &state)?;
    let code = wait_for(state.pid)?;
    delete(containers, &create.id, true)?;
    Ok(code)
}

/// Waits for a child of this process.
fn wait_for(pid: u32) -> Result<u8, Failure> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed());
    let options = rustix::process::WaitOptions::empty();
    let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(pid, options))?;
    let Some((_, ended)) = ended else {
        return Err(Failure::new("the process cannot be waited for"));
    };
    let signal = ended.terminating_signal().unwrap_or_default();
    let code = ended.exit_status().unwrap_or(128 + signal);
    Ok(u8::try_from(code).unwrap_or(status::ERROR))
}

fn delete(containers: &Containers, id: &str, force: bool) -> Result<(), Failure> {
    let state = match containers.find(id) {
        Err(_) if force => return containers.discard(id),
        state => state?,
    };
    if state.is_alive() {
        if !force {
            return Err(Failure::new(format!(
                "cannot delete the container {id} that is not stopped"
            )));
        }
        state.kill_and_wait()?;
    }
    state.remove_groups();
    containers.discard(id)?;
    for hook in &state.hooks_after_stop {
        // As the specification has it: an error is told, and the container is gone.
        if let Err(failure) = run_hooks(&state, std::slice::from_ref(hook)) {
            ui::message(&format!("{NAME}: {}\n", whole(&failure)));
        }
    }
    Ok(())
}

fn execute(containers: &Containers, exec: &Exec, log: Log<'_>) -> Result<u8, Failure> {
    let state = containers.find(&exec.id)?;
    if !state.is_alive() {
        return Err(Failure::new(format!(
            "container {} is not running",
            exec.id
        )));
    }
    let config: Config = config::read(&state.bundle.join("config.json"))?;
    let process: config::Process = config::read(&exec.process)?;
    exec.streams.check_terminal(process.terminal)?;
    let joining = translate::joining(&config, &process)?;
    let made = join_held(state.pid, &joining, exec.streams.own()?).map_err(|error| {
        let mut sandbox = rbuild_runtime::Sandbox::new(rbuild_runtime::RootFs::default(), [""; 0]);
        sandbox.process = joining.process.clone();
        run::spawn_failure(&sandbox, &error)
    })?;
    exec.streams.hand_out(&made, process.console_size, log)?;
    if exec.detach {
        return Ok(0);
    }
    wait_for(made.pid)
}

fn processes(state: &State, format: &str) -> Result<(), Failure> {
    let pids = rbuild_runtime::processes(state.pid);
    match format {
        "json" => ui::println(&ui::to_json(&pids)),
        "table" => {
            let lines: Vec<String> = pids.iter().map(u32::to_string).collect();
            ui::println(&format!("PID\n{}", lines.join("\n")))
        }
        other => Err(Failure::new(format!("invalid format {other:?}")).hint("json or table")),
    }
}

fn list(containers: &Containers, format: &str) -> Result<(), Failure> {
    let states = containers.list()?;
    match format {
        "json" => {
            let all: Vec<_> = states.iter().map(State::told).collect();
            ui::println(&ui::to_json(&all))
        }
        "table" => {
            let mut lines = vec!["ID\tPID\tSTATUS\tBUNDLE\tCREATED".to_owned()];
            lines.extend(states.iter().map(|state| {
                let bundle = state.bundle.display();
                let (status, created) = (state.status(), &state.created);
                format!("{}\t{}\t{status}\t{bundle}\t{created}", state.id, state.pid)
            }));
            ui::print(&ui::table::columns(lines.iter().map(String::as_str)))
        }
        other => Err(Failure::new(format!("invalid format {other:?}")).hint("json or table")),
    }
}

/// As runc prints it.
fn features() -> serde_json::Value {
    serde_json::json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPECIFICATION,
        "hooks": ["prestart", "createRuntime", "poststart", "poststop"],
        "mountOptions": ["bind", "rbind", "ro", "rw", "private", "rprivate", "nodev", "noexec",
                         "nosuid", "size", "mode", "uid", "gid"],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false},
            "seccomp": {"enabled": true},
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
        },
    })
}
