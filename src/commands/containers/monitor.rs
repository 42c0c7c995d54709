//! The process that stays with a container, and how it tells whoever started it what became of it.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rbuild_builder::shorten_roots;
use rbuild_cache::{Lease, Store, StoreOptions};
use rbuild_runtime::container::{Container, Containers, Event, monitor};
use rbuild_runtime::networks::Networks;
use rbuild_runtime::{Isolation, MountSource, RuntimeOptions, Sandbox, inherit, isolation};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::commands::run;
use crate::commands::volumes::remove_anonymous;
use crate::config::Settings;
use crate::container::details::Details;
use crate::events::{self, Event as Happening, wiring};
use crate::failure::Failure;

/// One line from a monitor that is starting.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Told {
    /// Somebody may attach.
    Listening,
    /// It runs; what the host refused.
    Started(Vec<String>),
    /// It does not run.
    Failed {
        message: String,
        causes: Vec<String>,
        hints: Vec<String>,
        status: u8,
    },
}

/// First argument of a process that is to be a monitor.
pub(crate) const COMMAND: &str = "container-monitor";

/// Third argument: the container starts when somebody has attached.
const ATTACHED: &str = "attached";

/// Fewer layers can be mounted everywhere.
const SHALLOW: usize = 100;

/// Runs a container to its end, as its monitor.
///
/// The arguments are the store, the directory of small state, the rung of isolation that this process
/// was born on, the container's ID, and [`ATTACHED`] or not.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let missing = || Failure::new("monitors are started by `rbuild run` and `rbuild start`");
    let root = PathBuf::from(arguments.next().ok_or_else(missing)?);
    let state_dir = PathBuf::from(arguments.next().ok_or_else(missing)?);
    let rung = arguments.next().ok_or_else(missing)?;
    inherit(Isolation::from_name(&rung.to_string_lossy()).ok_or_else(missing)?);
    let id = arguments.next().ok_or_else(missing)?;
    let attached = arguments
        .next()
        .is_some_and(|argument| argument == ATTACHED);
    let mut container = Containers::new(root.join("containers")).find(&id.to_string_lossy())?;
    let _lease = shorten(&root, &mut container.config.sandbox)?;
    let networks = wiring::networks_of(&root, &state_dir);
    let options = RuntimeOptions { state_dir };
    let stdout = io::stdout();
    let told = |told: &Told| {
        let line = serde_json::to_string(told).unwrap_or_default();
        // Whoever started it may have gone.
        let _ = writeln!(io::stdout().lock(), "{line}").and_then(|()| io::stdout().flush());
    };
    let mut tell = |event: &Event<'_>| match event {
        Event::Listening => told(&Told::Listening),
        Event::Started(warnings) => {
            note_start(&root, &container, &networks);
            told(&Told::Started(warnings.to_vec()));
            // Its reader waits for the end of what is told.
            if let Err(error) = let_go_of_stdout() {
                // Into the monitor's own log.
                crate::ui::message(&format!("could not let go of standard output: {error}\n"));
            }
        }
        Event::Failed(error) => {
            let failure = run::spawn_failure(&container.config.sandbox, error);
            told(&Told::Failed {
                message: failure.message.unwrap_or_default(),
                causes: failure.causes,
                hints: failure.hints,
                status: failure.status,
            });
        }
        Event::StartedAgain => {
            note_start(&root, &container, &networks);
        }
        Event::Ended(code) => {
            let died = Happening::container("die", &container);
            events::note_in(&root, &died.with("exitCode", &code.to_string()));
            let now = as_it_is(&root, &container);
            for event in wiring::ended(&now, &networks) {
                events::note_in(&root, &event);
            }
        }
        _ => {}
    };
    let client = attached.then(|| stdout.as_fd());
    monitor(&container, options, client, &mut tell)?;
    if container.config.auto_remove {
        let store = Store::open(&root, &StoreOptions::default())?;
        store.pin(&super::create::owner(&container.config.id), &[])?;
        let containers = Containers::new(root.join("containers"));
        events::note_in(&root, &Happening::container("destroy", &container));
        remove_anonymous(&store, &containers, &Details::of(&container))?;
    }
    Ok(())
}

/// Makes deep roots shallow enough to be mounted, each time anew: what takes the place of layers does
/// not outlive a boot. Returns what keeps it as long as the container runs; the store is only opened
/// where this may be needed.
pub(super) fn shorten(root: &Path, sandbox: &mut Sandbox) -> Result<Option<Lease>, Failure> {
    let of_mounts = sandbox.mounts.iter().map(|mount| match &mount.source {
        MountSource::Overlay { lowers, .. } => lowers.len(),
        _ => 0,
    });
    let deepest = of_mounts.fold(sandbox.root.lowers.len(), usize::max);
    if deepest < SHALLOW {
        return Ok(None);
    }
    let store = Store::open(root, &StoreOptions::default())?;
    let lease = store.lease()?;
    shorten_roots(&store, &lease, sandbox)?;
    Ok(Some(lease))
}

/// The container with what others may have changed since it was read: its networks.
fn as_it_is(root: &Path, container: &Container) -> Container {
    let containers = Containers::new(root.join("containers"));
    let now = containers.find(&container.config.id);
    // One that is just being removed by others is known from before.
    now.unwrap_or_else(|_| container.clone())
}

fn note_start(root: &Path, container: &Container, networks: &Networks) {
    for event in wiring::began(&as_it_is(root, container), networks) {
        events::note_in(root, &event);
    }
    events::note_in(root, &Happening::container("start", container));
}

fn let_go_of_stdout() -> io::Result<()> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// A monitor that is starting.
pub(super) struct Starting {
    lines: BufReader<ChildStdout>,
    // Not waited for: it outlives this process.
    _child: Child,
}

impl Starting {
    /// Starts the monitor of a container; with `attached`, the container waits for somebody.
    pub(super) fn begin(
        settings: &Settings,
        container: &Container,
        attached: bool,
    ) -> Result<Starting, Failure> {
        let log = container.directory().join("monitor.log");
        let log = std::fs::File::create(&log)
            .map_err(|error| Failure::new("could not make the monitor's log").because(&error))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(COMMAND)
            .arg(settings.store_root()?)
            .arg(settings.state_dir()?)
            .arg(isolation().name())
            .arg(&container.config.id)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        if attached {
            command.arg(ATTACHED);
        }
        let failed = |error: io::Error| Failure::new("could not start the monitor").because(&error);
        let mut child = command.spawn().map_err(failed)?;
        let stdout = child.stdout.take();
        let stdout = stdout.ok_or_else(|| Failure::new("the monitor has no output"))?;
        Ok(Starting {
            lines: BufReader::new(stdout),
            _child: child,
        })
    }

    /// Waits until somebody may attach.
    pub(super) fn listening(&mut self) -> Result<(), Failure> {
        match self.next()? {
            Told::Listening => Ok(()),
            told => told.into_result().map(drop),
        }
    }

    /// Waits until the container runs; returns what the host refused.
    pub(super) fn started(&mut self) -> Result<Vec<String>, Failure> {
        loop {
            match self.next()? {
                Told::Listening => {}
                told => return told.into_result(),
            }
        }
    }

    fn next(&mut self) -> Result<Told, Failure> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        serde_json::from_str(&line).map_err(|_| {
            Failure::new("the monitor of the container has ended")
                .hint("`monitor.log` in the container's directory may tell why")
        })
    }
}

impl Told {
    fn into_result(self) -> Result<Vec<String>, Failure> {
        match self {
            Told::Listening => Ok(Vec::new()),
            Told::Started(warnings) => Ok(warnings),
            Told::Failed {
                message,
                causes,
                hints,
                status,
            } => Err(Failure {
                causes,
                hints,
                ..Failure::new(message).with_status(status)
            }),
        }
    }
}
