//! `rbuild run`.

mod life;
mod options;
mod refused;
mod streams;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rbuild_cache::Store;
use rbuild_parser::Platform;
use rbuild_runtime::{
    ExitStatus, Frame, Isolation, OfHost, Running, Runtime, RuntimeOptions, Sandbox, SandboxError,
    Stdio, isolation,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use super::containers::{create, start};
use super::lookup::{self, Found};
use crate::config::Settings;
use crate::container;
use crate::failure::{Failure, status};
use crate::ground;
use crate::terminal::{DetachKeys, RawMode, converse, copy_in_thread, copy_size};
use crate::ui;

pub(crate) use options::RunArgs;

/// How often Ctrl-C is passed on before the container is killed.
const PATIENCE: usize = 3;

/// How long a container has to end after its terminal has gone.
const HANG_UP_GRACE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// Runs a container.
pub(crate) fn run(settings: &Settings, args: &RunArgs) -> Result<u8, Failure> {
    start(settings, args).map_err(|failure| match failure.status {
        status::ERROR | status::USAGE => failure.with_status(status::ENGINE),
        _ => failure,
    })
}

fn start(settings: &Settings, args: &RunArgs) -> Result<u8, Failure> {
    args.refused.check()?;
    let (image, _) = args.image();
    if image.starts_with('-') {
        return Err(Failure::new(format!("unknown option: {image}"))
            .hint("`rbuild run --help` lists the options"));
    }
    let mut options = args.options()?;
    super::volumes::take_over(settings, args, &mut options)?;
    if isolation() == Isolation::Nothing {
        let failure = Failure::new("commands cannot be run here");
        let way_out = settings.ground.as_deref().and_then(super::doctor::way_out);
        return Err(way_out.into_iter().fold(failure, Failure::hint));
    }
    container::fall_back(settings, &mut options)?;
    if args.tty && args.interactive && !settings.stdin_terminal {
        return Err(Failure::new("the input device is not a TTY")
            .hint("leave `-t` out when standard input is not a terminal"));
    }
    // Who types the keys that let go of it wants to find it again.
    let may_be_left = (args.interactive && args.tty) || !args.attaching.signals();
    let listed = !args.rm
        || may_be_left
        || args.name.is_some()
        || args.cidfile.is_some()
        || !args.attach.is_empty()
        || args.life.needs_monitor();
    let lives_alone = || {
        isolation() != Isolation::Chroot
            && !matches!(ground::overlay_refusal(settings), Ok(Some(_)))
    };
    let served = args.detach || options.networks.needs_monitor();
    if served || (listed && lives_alone()) {
        return as_container(settings, args, &image, options);
    }
    // First of all: the process is still small and has one thread.
    let runtime = Runtime::start(RuntimeOptions {
        state_dir: settings.state_dir()?,
    })?;
    // It gets ready while the image is looked up. What is wrong with it is told when it is needed.
    let shm_size = options.shm_size.unwrap_or(Sandbox::DEFAULT_SHM_SIZE);
    let (network, security) = (&options.network, &options.security);
    let expected = Frame::ahead(network, security, &options.limits, shm_size)
        .filter(|_| options.of_host == OfHost::default());
    let _ = runtime.warm_up(expected);
    let store = super::open_store(settings)?;
    let found = find_or_pull(settings, args, &store, &image)?;
    let prepared = container::prepare(&store, &found, &options)?;
    let sandbox = &prepared.sandbox;
    let (status, out_of_memory) = if args.tty {
        with_terminal(settings, &runtime, sandbox, args.interactive)?
    } else {
        with_streams(settings, &runtime, sandbox, args.interactive)?
    };
    runtime.retire();
    Ok(exit_code(settings, sandbox, status, out_of_memory))
}

/// Runs a container that is listed and has a monitor.
fn as_container(
    settings: &Settings,
    args: &RunArgs,
    image: &str,
    options: container::Options,
) -> Result<u8, Failure> {
    let store = super::open_store(settings)?;
    let found = find_or_pull(settings, args, &store, image)?;
    let container = create::make(settings, args, &store, &found, options)?;
    drop(store);
    let done = if args.detach {
        start::detached(settings, &container).map(|()| 0)
    } else {
        start::run_in_foreground(settings, &container, args)
    };
    if done.is_err() && args.rm {
        // It has not run: what is told is why.
        let _ = container.remove();
    }
    if args.detach && done.is_ok() {
        ui::println(&container.config.id)?;
    }
    done
}

/// Finds the image, asking its registry as far as `--pull` wants it.
pub(super) fn find_or_pull(
    settings: &Settings,
    args: &RunArgs,
    store: &Store,
    image: &str,
) -> Result<Found, Failure> {
    let missing = || {
        Failure::new(format!("No such image: {image}"))
            .hint("`rbuild images` lists what is there, `rbuild pull` gets others")
    };
    let platform = super::pull::wanted_platform(settings, args.platform.as_deref())?;
    let find = || -> Result<Option<Found>, Failure> {
        let found = lookup::find(store, image)?;
        Ok(found.and_then(|found| for_platform(store, image, found, platform.as_ref())))
    };
    let found = find()?;
    let pulls = match args.pull.as_str() {
        "always" => true,
        "missing" => found.is_none(),
        "never" => false,
        other => {
            return Err(
                Failure::new(format!("invalid value {other:?} for `--pull`"))
                    .hint("known values: always, missing, never"),
            );
        }
    };
    if !pulls {
        return found.ok_or_else(missing);
    }
    if found.is_none() && !args.quiet {
        ui::message(&format!("Unable to find image '{image}' locally\n"));
    }
    super::pull::for_run(settings, store, image, platform.as_ref(), args.quiet)?;
    find()?.ok_or_else(missing)
}

/// The image for a platform among those behind a name; none if it is not here.
fn for_platform(
    store: &Store,
    image: &str,
    mut found: Found,
    platform: Option<&Platform>,
) -> Option<Found> {
    if let Some(platform) = platform {
        let (_, record) = lookup::variant(store, image, &found, platform).ok()?;
        found.entry.record = record;
    }
    Some(found)
}

pub(super) fn exit_code(
    settings: &Settings,
    sandbox: &Sandbox,
    status: ExitStatus,
    out_of_memory: bool,
) -> u8 {
    let failed = status != ExitStatus::Code(0);
    if let Some(limit) = sandbox.limits.memory.filter(|_| out_of_memory && failed) {
        let limit = ui::units::memory(limit);
        let text = format!("a process was killed: out of memory (limit {limit})");
        ui::warn(&settings.palette, &text);
    }
    match status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal, _) => (128 + signal) as u8,
    }
}

/// Starts the sandbox; what it goes without is told.
fn spawn(
    settings: &Settings,
    runtime: &Runtime,
    sandbox: &Sandbox,
    stdio: Stdio,
) -> Result<Running, Failure> {
    let running = runtime
        .spawn(sandbox, stdio)
        .map_err(|error| spawn_failure(sandbox, &error))?;
    for warning in running.warnings() {
        ui::warn(&settings.palette, warning);
    }
    Ok(running)
}

/// The command that cannot be executed has exit statuses of its own.
pub(crate) fn spawn_failure(sandbox: &Sandbox, error: &SandboxError) -> Failure {
    let SandboxError::Exec { source, .. } = error else {
        let failure = Failure::new(error.to_string()).with_status(status::ENGINE);
        return match std::error::Error::source(error) {
            Some(source) => failure.because(source),
            None => failure,
        };
    };
    let program = sandbox
        .process
        .args
        .first()
        .map_or(OsStr::new(""), |program| program.as_os_str());
    let shown = program.to_string_lossy();
    let has_slash = Path::new(program).components().count() > 1 || shown.starts_with('/');
    if source.kind() == io::ErrorKind::NotFound {
        let reason = if has_slash {
            "no such file or directory"
        } else {
            "executable file not found in $PATH"
        };
        return Failure::new(format!("exec: {shown:?}: {reason}")).with_status(status::NOT_FOUND);
    }
    let reason = crate::failure::io_text(source);
    Failure::new(format!("exec: {shown:?}: {reason}")).with_status(status::NOT_EXECUTABLE)
}

/// Runs with pipes between the container and our own streams.
pub(super) fn with_streams(
    settings: &Settings,
    runtime: &Runtime,
    sandbox: &Sandbox,
    interactive: bool,
) -> Result<(ExitStatus, bool), Failure> {
    let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stdin_end, stdin) = if interactive {
        let (end, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
        (Some(end), Some(stdin))
    } else {
        (None, None)
    };
    let stdio = Stdio {
        stdin: stdin_end,
        stdout: stdout_end,
        stderr: stderr_end,
    };
    let mut running = spawn(settings, runtime, sandbox, stdio)?;
    if let Some(stdin) = stdin {
        // Not waited for: it may be blocked in reading a terminal when the container ends.
        copy_in_thread("stdin", io::stdin().as_fd().try_clone_to_owned()?, stdin)?;
    }
    streams::relay(&running, stdout, stderr)?;
    Ok((running.wait()?, running.was_out_of_memory()))
}

/// Runs with a terminal of the container's own.
pub(super) fn with_terminal(
    settings: &Settings,
    runtime: &Runtime,
    sandbox: &Sandbox,
    interactive: bool,
) -> Result<(ExitStatus, bool), Failure> {
    // With a terminal the descriptors are not used, but there have to be some.
    let unused = || rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, 0.into());
    let stdio = Stdio {
        stdin: None,
        stdout: unused()?,
        stderr: unused()?,
    };
    let mut running = spawn(settings, runtime, sandbox, stdio)?;
    let Some(master) = running.take_terminal() else {
        return Err(Failure::new("the container has no terminal"));
    };
    let own = own_terminal(settings);
    if let Some(own) = &own {
        copy_size(own.as_fd(), master.as_fd());
    }
    forward_signals(
        &running,
        own.map(|own| Ok::<_, io::Error>((own, master.try_clone()?)))
            .transpose()?,
    )?;
    let stdin = io::stdin();
    let raw = if interactive && settings.stdin_terminal {
        Some(RawMode::enter(stdin.as_fd())?)
    } else {
        None
    };
    let gone = running.pidfd().try_clone_to_owned()?;
    // It ends with this process: it cannot be let go of.
    let keys = DetachKeys::none();
    let result = converse(
        master,
        interactive.then(|| stdin.as_fd()),
        gone.as_fd(),
        keys,
    );
    let status = running.wait();
    drop(raw);
    result?;
    Ok((status?, running.was_out_of_memory()))
}

/// The terminal that the user sees, if any.
fn own_terminal(settings: &Settings) -> Option<OwnedFd> {
    if settings.stdin_terminal {
        io::stdin().as_fd().try_clone_to_owned().ok()
    } else if settings.stdout_terminal {
        io::stdout().as_fd().try_clone_to_owned().ok()
    } else {
        None
    }
}

/// Signals that are passed on.
const SIGNALS: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// How far the user's patience has gone.
#[derive(Debug, Default)]
struct Forwarding {
    impatient: usize,
}

impl Forwarding {
    /// What the container gets when we are sent `signal`.
    fn instead_of(&mut self, signal: i32) -> Signal {
        self.impatient += usize::from(signal == SIGINT || signal == SIGTERM);
        if self.impatient > PATIENCE {
            Signal::KILL
        } else {
            named(signal)
        }
    }
}

/// Passes signals on to the container; with terminals, a change of the first one's size too.
fn forward_signals(
    running: &Running,
    terminals: Option<(OwnedFd, OwnedFd)>,
) -> Result<(), Failure> {
    let container = running.pidfd().try_clone_to_owned()?;
    let mut signals = Signals::new(SIGNALS.into_iter().chain([SIGWINCH]))?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut forwarding = Forwarding::default();
            for signal in signals.forever() {
                if signal == SIGWINCH {
                    if let Some((own, master)) = &terminals {
                        copy_size(own.as_fd(), master.as_fd());
                    }
                    continue;
                }
                if signal == SIGHUP && terminals.is_some() {
                    hang_up(container.as_fd());
                    continue;
                }
                forwarding.pass(signal, container.as_fd());
            }
        })?;
    Ok(())
}

/// Ends a container whose terminal is gone: nobody can reach it any more.
///
/// It is told first; a shell that is process 1 ignores that.
fn hang_up(container: BorrowedFd<'_>) {
    // A container that is gone needs no signal.
    let _ = pidfd_send_signal(container, Signal::HUP);
    let mut gone = [PollFd::new(&container, PollFlags::IN)];
    if !matches!(poll(&mut gone, Some(&HANG_UP_GRACE)), Ok(1..)) {
        let _ = pidfd_send_signal(container, Signal::KILL);
    }
}

fn named(signal: i32) -> Signal {
    match signal {
        SIGHUP => Signal::HUP,
        SIGINT => Signal::INT,
        SIGQUIT => Signal::QUIT,
        SIGUSR1 => Signal::USR1,
        SIGUSR2 => Signal::USR2,
        _ => Signal::TERM,
    }
}

#[cfg(test)]
mod tests {
    use rbuild_runtime::RootFs;

    use super::*;

    fn failure(program: &str, kind: io::ErrorKind) -> Failure {
        let sandbox = Sandbox::new(RootFs::default(), [program]);
        let error = SandboxError::Exec {
            path: program.into(),
            source: kind.into(),
        };
        spawn_failure(&sandbox, &error)
    }

    #[test]
    fn commands_that_do_not_start_have_their_own_status() {
        let missing = failure("nope", io::ErrorKind::NotFound);
        assert_eq!(missing.status, 127);
        let text = "exec: \"nope\": executable file not found in $PATH";
        assert_eq!(missing.message.as_deref(), Some(text));
        let missing = failure("/bin/nope", io::ErrorKind::NotFound);
        assert_eq!(
            missing.message.as_deref(),
            Some("exec: \"/bin/nope\": no such file or directory")
        );
        assert_eq!(failure("/etc", io::ErrorKind::PermissionDenied).status, 126);
    }
}
