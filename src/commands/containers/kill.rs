//! `rbuild kill`.

use rbuild_runtime::container::{Order, Status};

use super::{KILL, Which, containers, each};
use crate::config::Settings;
use crate::container::signals;
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::ui;

/// Kill containers, or send them another signal
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild kill web
  rbuild kill -s HUP web")]
pub(crate) struct KillArgs {
    #[command(flatten)]
    which: Which,
    /// The signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
}

/// Sends a signal; waits for the end of what is killed.
pub(crate) fn run(settings: &Settings, args: &KillArgs) -> Result<u8, Failure> {
    let signal = signals::number(&args.signal)?;
    let queries = args
        .which
        .queries(&containers(settings)?, Status::is_alive)?;
    each(settings, &queries, &mut |container, query| {
        if container.state()?.status.is_alive() {
            events::note(settings, || Event::killed(container, signal));
        }
        if signal == KILL {
            let connection = container.ask(&Order::Wait, &[])?;
            super::order(container, &Order::Stop(KILL))?;
            // A monitor that was killed tells no end, but the container has ended with it.
            let _ = super::wait_for_end(&connection, None);
        } else if signal == container.config.stop_signal {
            // As Docker: what is meant to end it ends its restarts, too.
            super::order(container, &Order::Stop(signal))?;
        } else {
            super::signal(container, signal)?;
        }
        ui::println(query)
    })
}
