//! `rbuild stop` and `rbuild restart`.

use super::{each, end, start};
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
    /// Names or IDs
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
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
    each(settings, &args.containers, &mut |container, query| {
        let config = &container.config;
        let signal = signal.unwrap_or(config.stop_signal);
        end(container, signal, args.time.unwrap_or(config.stop_timeout))?;
        events::note(settings, || Event::container("stop", container));
        if again {
            start::detached(settings, container)?;
            events::note(settings, || Event::container("restart", container));
        }
        ui::println(query)
    })
}
