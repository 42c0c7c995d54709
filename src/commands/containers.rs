//! The commands over containers that have a name and a state.

pub(crate) mod attached;
pub(crate) mod changes;
pub(crate) mod commit;
pub(crate) mod copy;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod export;
mod filters;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod logs;
pub(crate) mod monitor;
mod networking;
pub(crate) mod pause;
pub(crate) mod port;
pub(crate) mod ps;
pub(crate) mod remove;
pub(crate) mod rename;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod usage;
pub(crate) mod wait;

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rbuild_runtime::container::{
    Connection, Container, ContainerError, Containers, Order, Reply, Status,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::ui;

/// The signal that nothing withstands.
const KILL: i32 = 9;

/// The containers of the store.
pub(crate) fn containers(settings: &Settings) -> Result<Containers, Failure> {
    Ok(Containers::new(settings.store_root()?.join("containers")))
}

/// Containers by name, or all.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Names or IDs
    #[arg(
        value_name = "CONTAINER",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    containers: Vec<String>,
    /// All that this can be done with
    #[arg(short, long)]
    all: bool,
}

impl Which {
    /// Those that were named, or all in such a state.
    fn queries(
        &self,
        known: &Containers,
        in_state: impl Fn(Status) -> bool,
    ) -> Result<Vec<String>, Failure> {
        let mut queries = self.containers.clone();
        if self.all {
            for container in known.list()? {
                if in_state(container.state()?.status) {
                    queries.push(container.config.name);
                }
            }
        }
        Ok(queries)
    }
}

/// Does something to each of the containers; goes on after errors.
fn each(
    settings: &Settings,
    queries: &[String],
    act: &mut dyn FnMut(&Container, &str) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let containers = containers(settings)?;
    let mut result = 0;
    for query in queries {
        let done = containers
            .find(query)
            .map_err(Failure::from)
            .and_then(|container| act(&container, query));
        if let Err(failure) = done {
            ui::fail(&settings.palette, "Error:", &failure);
            result = status::ERROR;
        }
    }
    Ok(result)
}

/// Asks a container's monitor for something, and waits until it is done.
fn order(container: &Container, order: &Order) -> Result<Reply, Failure> {
    match first_reply(container, &container.ask(order, &[])?)?.0 {
        Reply::Failed { message, .. } => Err(Failure::new(message)),
        reply => Ok(reply),
    }
}

/// The first answer to an order; a monitor that has just ended took the order and answers no more.
fn first_reply(
    container: &Container,
    connection: &Connection,
) -> Result<(Reply, Vec<OwnedFd>), Failure> {
    match connection.reply() {
        Err(_) if !container.state()?.status.is_alive() => {
            Err(ContainerError::NotRunning(container.config.id.clone()).into())
        }
        reply => Ok(reply?),
    }
}

/// Sends a signal to a container's first process.
fn signal(container: &Container, signal: i32) -> Result<(), Failure> {
    order(container, &Order::Signal(signal)).map(drop)
}

/// Waits for the end of a container that runs; none if the time is over before.
fn wait_for_end(connection: &Connection, time: Option<Duration>) -> Result<Option<i32>, Failure> {
    let until = time.map(|time| Instant::now() + time);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds = [PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match connection.reply()?.0 {
            Reply::Exited(code) => return Ok(Some(code)),
            Reply::Failed { message, .. } => return Err(Failure::new(message)),
            _ => {}
        }
    }
}

/// Asks a container to end for good and kills it after a while; nothing if it does not run.
///
/// A negative time is any time.
fn end(container: &Container, asking: i32, seconds: i64) -> Result<(), Failure> {
    let connection = match container.ask(&Order::Wait, &[]) {
        Err(ContainerError::NotRunning(_)) => return Ok(()),
        connection => connection?,
    };
    // A container that has ended meanwhile needs no signal. A monitor that was killed tells no end, but
    // the container has ended with it.
    let _ = order(container, &Order::Stop(asking));
    let time = u64::try_from(seconds).ok().map(Duration::from_secs);
    if let Ok(None) = wait_for_end(&connection, time) {
        let _ = order(container, &Order::Stop(KILL));
        let _ = wait_for_end(&connection, None);
    }
    Ok(())
}
