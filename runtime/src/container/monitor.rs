//! The monitor of a container: starts it, keeps its log, answers orders, starts it again if it is to be,
//! tells its end.
//!
//! A thread for each stream and each conversation, and one for health checks if there are any; all of
//! them sleep while nothing happens.

mod checks;
mod conversation;
mod shared;
mod streams;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::Container;
use super::control::{Connection, Listener, Order};
use super::error::ContainerError;
use super::log::Log;
use super::restart::Backoff;
use super::state::{self, State};
use crate::{Runtime, RuntimeOptions, SandboxError, sys};
pub(super) use shared::lock;
use shared::{Shared, StoppedBy};
use streams::Begun;
pub(super) use streams::fresh_work_directories;

/// What a monitor tells whoever started it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'e> {
    /// It answers; the container is not started yet.
    Listening,
    /// The container runs; this is what the host refused and it goes without.
    Started(&'e [String]),
    /// The container could not be started.
    Failed(&'e SandboxError),
    /// It has ended, with this exit code.
    Ended(i32),
    /// It runs again by itself.
    StartedAgain,
}

/// Runs a container to its end. This process is its monitor from now on.
///
/// With `client`, a descriptor whose other end belongs to whoever waits for the container, the
/// container starts when somebody has attached to it, so that nothing that it writes is missed; and
/// not at all if that end is closed before.
pub fn monitor(
    container: &Container,
    options: RuntimeOptions,
    client: Option<BorrowedFd<'_>>,
    tell: &mut dyn FnMut(&Event<'_>),
) -> Result<(), ContainerError> {
    // It leads a session already if somebody started it by hand.
    let _ = rustix::process::setsid();
    sys::block_termination();
    let _lock = container.lock("lock")?;
    let before: State = state::read(&container.state_file())?.unwrap_or_default();
    let log = Log::open(&container.log(), &container.config.log)?;
    let listener = Listener::bind(container.directory())
        .map_err(ContainerError::io("listen in", container.directory()))?;
    tell(&Event::Listening);
    let first = match client {
        None => None,
        Some(client) => match first_attached(&listener, client) {
            Some(first) => Some(first),
            None => return Ok(()),
        },
    };
    let runtime = Runtime::start(options);
    let begun = runtime.and_then(|runtime| {
        let begun = streams::start(container, &runtime)?;
        Ok((runtime, begun))
    });
    let (runtime, begun) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let state = State {
                exit_code: exit_code_of(&error),
                error: error.to_string(),
                ..before
            };
            state::write(&container.state_file(), &state)?;
            tell(&Event::Failed(&error));
            return Ok(());
        }
    };
    let shared = Arc::new(Shared::new(container.clone(), log, runtime));
    shared.begin(&begun, 0)?;
    end_when_told(&shared).map_err(thread_failed)?;
    if let Some((connection, descriptors)) = first {
        conversation::see(&shared, connection, descriptors).map_err(thread_failed)?;
    }
    let warnings = begun.running.warnings().to_vec();
    let began = |tell: &mut dyn FnMut(&Event<'_>)| {
        conversation::answer_all(&shared, listener).map_err(thread_failed)?;
        tell(&Event::Started(&warnings));
        Ok(())
    };
    live(&shared, begun, began, tell)?;
    shared.wait_for_conversations();
    // Its name may be another one by now.
    let container = Container {
        config: container.config_now(),
        ..container.clone()
    };
    if container.config.auto_remove {
        container.take_away()?;
    }
    Ok(())
}

/// Sees to the container until it has ended for good; `began` is called when it has begun to.
fn live(
    shared: &Arc<Shared>,
    mut begun: Begun,
    began: impl FnOnce(&mut dyn FnMut(&Event<'_>)) -> Result<(), ContainerError>,
    tell: &mut dyn FnMut(&Event<'_>),
) -> Result<(), ContainerError> {
    let mut began = Some(began);
    let mut backoff = Backoff::default();
    loop {
        let pumps = streams::pump_all(shared, &mut begun).map_err(thread_failed)?;
        let checks = checks::start(shared).map_err(thread_failed)?;
        if let Some(began) = began.take() {
            began(tell)?;
        }
        let exit = begun.running.wait();
        // Its ports and addresses are free before anybody knows that it has ended.
        begun.network.end();
        drop(begun);
        for pump in pumps {
            // A pump that panicked has said so itself.
            let _ = pump.join();
        }
        // Before those who wait for it know.
        tell(&Event::Ended(match &exit {
            Ok(exit) => State::default().ended(*exit).exit_code,
            Err(_) => State::default().lost(String::new()).exit_code,
        }));
        let again = shared.ended(exit, &mut backoff)?;
        if let Some(checks) = checks {
            // As above.
            let _ = checks.join();
        }
        let Some(again) = again else {
            return Ok(());
        };
        if !shared.rest(again.delay)? {
            return Ok(());
        }
        let start = || streams::start(shared.container(), shared.runtime());
        let next = match start() {
            // Somebody killed the spawner, which is why the container has ended; there is another now.
            Err(SandboxError::SpawnerGone) => start(),
            next => next,
        };
        begun = match next {
            Ok(begun) => begun,
            Err(error) => return shared.not_started(&error),
        };
        shared.begin(&begun, again.restarts)?;
        tell(&Event::StartedAgain);
    }
}

/// Has the container end when this process is told to: the machine goes down.
fn end_when_told(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    Builder::new().name("signals".into()).spawn(move || {
        loop {
            sys::wait_for_termination();
            // An error means that it has ended.
            let _ = shared.stop(shared.container().config.stop_signal, StoppedBy::Machine);
        }
    })?;
    Ok(())
}

/// A container that is to be started again.
struct Again {
    /// After this time.
    delay: Duration,
    /// How often it will have been.
    restarts: u32,
}

/// Waits for somebody to attach; none if the client goes away.
fn first_attached(
    listener: &Listener,
    client: BorrowedFd<'_>,
) -> Option<(Connection, Vec<std::os::fd::OwnedFd>)> {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(client, PollFlags::empty()),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
        }
        if fds[0].revents().is_empty() {
            return None;
        }
        let connection = listener.accept().ok()?;
        if let Ok(Some((Order::Attach, descriptors))) = connection.order() {
            return Some((connection, descriptors));
        }
    }
}

/// Exit code of a container that could not be started, as Docker has it.
fn exit_code_of(error: &SandboxError) -> i32 {
    match error {
        SandboxError::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
        SandboxError::Exec { .. } => 126,
        _ => 128,
    }
}

fn thread_failed(source: io::Error) -> ContainerError {
    ContainerError::Monitor {
        action: "start a thread",
        source,
    }
}
