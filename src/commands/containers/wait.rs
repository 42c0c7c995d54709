//! `rbuild wait`.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rbuild_runtime::container::{Container, ContainerError, Containers, Order};
use rustix::fs::inotify;

use super::{containers, each, wait_for_end};
use crate::config::Settings;
use crate::failure::Failure;
use crate::ui;

/// Wait until containers have ended and print their exit codes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild wait job
  rbuild wait --condition removed job")]
pub(crate) struct WaitArgs {
    /// Names or IDs
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    /// What to wait for
    #[arg(long, value_name = "CONDITION", default_value = "not-running")]
    condition: Condition,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Condition {
    /// The end; one that does not run has ended.
    NotRunning,
    /// The next end, also of one that does not run yet.
    NextExit,
    /// That it is not there any more.
    Removed,
}

/// Waits for containers, one after the other.
pub(crate) fn run(settings: &Settings, args: &WaitArgs) -> Result<u8, Failure> {
    let known = containers(settings)?;
    each(settings, &args.containers, &mut |container, _| {
        let code = match args.condition {
            Condition::NotRunning => not_running(container)?,
            Condition::NextExit => next_exit(container)?,
            Condition::Removed => removed(&known, container)?,
        };
        ui::println(&code.to_string())
    })
}

/// The exit code of the present life; none if there is none, or nobody could tell.
fn exit_of_life(container: &Container) -> Result<Option<i32>, Failure> {
    match container.ask(&Order::Wait, &[]) {
        Err(ContainerError::NotRunning(_)) => Ok(None),
        connection => Ok(wait_for_end(&connection?, None).ok().flatten()),
    }
}

fn not_running(container: &Container) -> Result<i32, Failure> {
    match exit_of_life(container)? {
        Some(code) => Ok(code),
        None => Ok(container.state()?.exit_code),
    }
}

fn next_exit(container: &Container) -> Result<i32, Failure> {
    let mut changes = Changes::of(container)?;
    let before = container.state()?;
    loop {
        if let Some(code) = exit_of_life(container)? {
            return Ok(code);
        }
        let now = container.state()?;
        // It may have been started and have ended between two looks.
        if now.finished != before.finished && !now.status.is_alive() {
            return Ok(now.exit_code);
        }
        changes.wait()?;
    }
}

fn removed(known: &Containers, container: &Container) -> Result<i32, Failure> {
    let mut changes = Changes::of(container)?;
    let mut code = 0;
    while let Ok(container) = known.find(&container.config.id) {
        code = match exit_of_life(&container)? {
            Some(code) => code,
            None => container.state()?.exit_code,
        };
        if known.find(&container.config.id).is_ok() {
            changes.wait()?;
        }
    }
    Ok(code)
}

/// Tells when something changes in a container's directory.
struct Changes(OwnedFd);

impl Changes {
    fn of(container: &Container) -> Result<Changes, Failure> {
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let flags = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::DELETE_SELF;
        inotify::add_watch(&queue, container.directory(), flags)?;
        Ok(Changes(queue))
    }

    fn wait(&mut self) -> Result<(), Failure> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        rustix::io::retry_on_intr(|| events.next().map(drop))?;
        // What else has happened meanwhile is seen by the next look.
        Ok(())
    }
}
