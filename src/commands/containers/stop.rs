//! `rbuild stop` and `rbuild restart`.

use rbuild_runtime::container::Status;

use super::{Which, containers, each, end, start};
use crate::config::Settings;
use crate::container::signals;
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::ui;

/// Stop containers
///
/// They are asked to end with their stop signal, and killed when they have not ended in time.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild stop web
  rbuild restart -t 60 web")]
pub(crate) struct StopArgs {
    #[command(flatten)]
    which: Which,
    /// Seconds to wait before killing; -1 for any time [default: 10, or `--stop-timeout`]
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    time: Option<i64>,
    /// Signal to ask with
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
}

/// Stops containers.
pub(crate) fn run(settings: &Settings, args: &StopArgs) -> Result<u8, Failure> {
    act(settings, args, false)
}

/// Stops containers and starts them again.
pub(crate) fn restart(settings: &Settings, args: &StopArgs) -> Result<u8, Failure> {
    act(settings, args, true)
}

fn act(settings: &Settings, args: &StopArgs, again: bool) -> Result<u8, Failure> {
    let signal = args.signal.as_deref().map(signals::number).transpose()?;
    let queries = args
        .which
        .queries(&containers(settings)?, Status::is_alive)?;
    each(settings, &queries, &mut |container, query| {
        let config = &container.config;
        let signal = signal.unwrap_or(config.stop_signal);
        if container.state()?.status.is_alive() {
            events::note(settings, || Event::killed(container, signal));
        }
        end(container, signal, args.time.unwrap_or(config.stop_timeout))?;
        events::note(settings, || Event::container("stop", container));
        if again {
            start::detached(settings, container)?;
            events::note(settings, || Event::container("restart", container));
        }
        ui::println(query)
    })
}
