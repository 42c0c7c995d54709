//! `rbuild pause` and `rbuild unpause`.

use rbuild_runtime::container::{Order, Reply, Status};

use super::{Which, containers, each, order};
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::ui;

/// Have all processes of containers stand still
///
/// They notice nothing of it where control groups of version 2 can be used; elsewhere they are stopped by
/// SIGSTOP.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild pause web")]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    which: Which,
}

/// Let containers go on that stand still
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild unpause web
  rbuild unpause --all")]
pub(crate) struct UnpauseArgs {
    #[command(flatten)]
    which: Which,
}

/// Pauses containers.
pub(crate) fn pause(settings: &Settings, args: &PauseArgs) -> Result<u8, Failure> {
    act(settings, &args.which, &Order::Pause, Status::Running)
}

/// Lets containers go on.
pub(crate) fn unpause(settings: &Settings, args: &UnpauseArgs) -> Result<u8, Failure> {
    act(settings, &args.which, &Order::Unpause, Status::Paused)
}

fn act(settings: &Settings, which: &Which, what: &Order, in_state: Status) -> Result<u8, Failure> {
    let queries = which.queries(&containers(settings)?, |status| status == in_state)?;
    each(settings, &queries, &mut |container, query| {
        if let Reply::Noted(note) = order(container, what)? {
            ui::warn(&settings.palette, &note);
        }
        let action = match what {
            Order::Pause => "pause",
            _ => "unpause",
        };
        events::note(settings, || Event::container(action, container));
        ui::println(query)
    })
}
