//! `rbuild wait`.

use rbuild_runtime::container::{ContainerError, Order};

use super::{each, wait_for_end};
use crate::config::Settings;
use crate::failure::Failure;
use crate::ui;

/// Wait until containers have ended and print their exit codes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild wait job")]
pub(crate) struct WaitArgs {
    /// Names or IDs
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

/// Waits for containers, one after the other.
pub(crate) fn run(settings: &Settings, args: &WaitArgs) -> Result<u8, Failure> {
    each(settings, &args.containers, &mut |container, _| {
        let ended = match container.ask(&Order::Wait, &[]) {
            Err(ContainerError::NotRunning(_)) => None,
            connection => wait_for_end(&connection?, None).ok().flatten(),
        };
        let code = match ended {
            Some(code) => code,
            None => container.state()?.exit_code,
        };
        ui::println(&code.to_string())
    })
}
