//! `rbuild watch`.

mod changes;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::build::{BuildArgs, what};
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::ui::style::paint;
use crate::ui::{self, control::visible};
use changes::Changes;

/// Build again, and run again, whenever a file of the context changes
///
/// Takes the options of `rbuild build`. Files that the ignore file leaves out are not watched. With
/// `--run`, or arguments for `rbuild run` behind `--`, the image is run after each build that went
/// well, in place of the container before; `{}` stands for the image, which else comes last.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rbuild watch [OPTIONS] [BUILD OPTIONS] PATH [-- RUN ARGUMENTS]",
    after_help = "Examples:
  rbuild watch -t app .
  rbuild watch -t app . --run
  rbuild watch --target dev . -- -v \"$PWD/data:/data\" {} serve --verbose

Ends with Ctrl-C. Exit status: 130 then; 1 when it could not begin."
)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    build: BuildArgs,
    /// Run the image after each build
    #[arg(long)]
    run: bool,
    /// Arguments of `rbuild run`
    #[arg(last = true, value_name = "RUN ARGUMENTS")]
    run_arguments: Vec<OsString>,
}

/// How long a container has to end before it is killed.
const GRACE: Timespec = Timespec {
    tv_sec: 3,
    tv_nsec: 0,
};

/// Watches until a signal comes.
pub(crate) fn run(settings: &Settings, args: &WatchArgs) -> Result<u8, Failure> {
    args.build.refused.check()?;
    let mut session = Session::new(settings, args)?;
    session.rebuild()?;
    loop {
        match session.wait()? {
            Woken::Signal => {
                session.stop()?;
                return Ok(status::INTERRUPTED);
            }
            Woken::Ended(ended) => {
                session.container = None;
                session.say(&format!(
                    "the container ended ({}); waiting for changes",
                    how(ended)
                ));
            }
            Woken::Changed(path) => {
                session.say(&format!("{} changed", visible(&path)));
                session.stop()?;
                session.rebuild()?;
            }
        }
    }
}

/// Why the wait is over.
enum Woken {
    /// A file changed; one of those that did.
    Changed(String),
    /// The container ended by itself.
    Ended(ExitStatus),
    /// Ctrl-C or the like.
    Signal,
}

/// A container that runs: our own program, which is its monitor.
struct Container {
    child: Child,
    pidfd: OwnedFd,
}

struct Session<'a> {
    settings: &'a Settings,
    args: &'a WatchArgs,
    changes: Changes,
    signals: UnixStream,
    /// Holds the file with the image's ID.
    scratch: PathBuf,
    container: Option<Container>,
}

impl<'a> Session<'a> {
    fn new(settings: &'a Settings, args: &'a WatchArgs) -> Result<Session<'a>, Failure> {
        let requested = what(settings, args.build.what())?;
        let changes = Changes::watch(&requested)?;
        let (signals, write) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        let mut bytes = [0_u8; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let number = u64::from_le_bytes(bytes);
        let place = settings.environment.temporary.clone();
        let place = place.unwrap_or_else(|| PathBuf::from("/tmp"));
        let scratch = place.join(format!("rbuild-watch-{number:016x}"));
        std::fs::DirBuilder::new()
            .create(&scratch)
            .map_err(|error| Failure::from(error).within("could not make a temporary directory"))?;
        Ok(Session {
            settings,
            args,
            changes,
            signals,
            scratch,
            container: None,
        })
    }

    fn say(&self, text: &str) {
        ui::message(&format!(
            "{} {text}\n",
            paint(self.settings.palette.strong, "watch:")
        ));
    }

    /// Builds, and runs what came out.
    fn rebuild(&mut self) -> Result<(), Failure> {
        let id = self.scratch.join("image");
        let mut command = own_program(self.settings)?;
        command.arg("build").args(build_arguments());
        command.arg("--iidfile").arg(&id);
        let built = command.status()?;
        // What changed while it was built counts, what the build itself touched does not.
        self.changes.refresh()?;
        if !built.success() {
            self.say("the build failed; waiting for changes");
            return Ok(());
        }
        if self.args.run || !self.args.run_arguments.is_empty() {
            let image = std::fs::read_to_string(&id)?;
            return self.start(image.trim());
        }
        self.say("waiting for changes");
        Ok(())
    }

    fn start(&mut self, image: &str) -> Result<(), Failure> {
        let mut command = own_program(self.settings)?;
        command.args(["run", "--rm"]);
        let mut placed = false;
        for argument in &self.args.run_arguments {
            if argument == "{}" && !placed {
                command.arg(image);
                placed = true;
            } else {
                command.arg(argument);
            }
        }
        if !placed {
            command.arg(image);
        }
        let child = command.stdin(std::process::Stdio::null()).spawn()?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        self.container = Some(Container { child, pidfd });
        self.say("running; waiting for changes");
        Ok(())
    }

    /// Ends the container, if there is one.
    fn stop(&mut self) -> Result<(), Failure> {
        let Some(Container { mut child, pidfd }) = self.container.take() else {
            return Ok(());
        };
        // One that has ended already needs no signal.
        let _ = pidfd_send_signal(&pidfd, Signal::TERM);
        let mut gone = [PollFd::new(&pidfd, PollFlags::IN)];
        if !matches!(poll(&mut gone, Some(&GRACE)), Ok(1..)) {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
        child.wait()?;
        Ok(())
    }

    fn wait(&mut self) -> Result<Woken, Failure> {
        loop {
            let mut fds = vec![
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::from_borrowed_fd(self.changes.as_fd(), PollFlags::IN),
            ];
            if let Some(container) = &self.container {
                fds.push(PollFd::from_borrowed_fd(
                    container.pidfd.as_fd(),
                    PollFlags::IN,
                ));
            }
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[0] {
                return Ok(Woken::Signal);
            }
            if ready.get(2) == Some(&true)
                && let Some(container) = &mut self.container
            {
                return Ok(Woken::Ended(container.child.wait()?));
            }
            if ready[1]
                && let Some(path) = self.changes.settled()?
            {
                return Ok(Woken::Changed(path));
            }
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // An error on the way must not leave the container behind.
        let _ = self.stop();
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// This program, on the same store.
fn own_program(settings: &Settings) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env("RBUILD_ROOT", settings.store_root()?);
    Ok(command)
}

/// Our own arguments without those that only `watch` has.
fn build_arguments() -> Vec<OsString> {
    let arguments = std::env::args_os().skip(1);
    let mut past_word = false;
    let mut kept = Vec::new();
    for argument in arguments {
        if argument == "--" {
            break;
        }
        if !past_word && argument == "watch" {
            past_word = true;
        } else if argument != "--run" {
            kept.push(argument);
        }
    }
    kept
}

fn how(ended: ExitStatus) -> String {
    match ended.code() {
        Some(code) => format!("exit code {code}"),
        None => "killed".to_owned(),
    }
}
