//! `rbuild update`.

use rbuild_runtime::container::{Container, Order, RestartPolicy};

use super::{each, order};
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::limits::LimitArgs;
use crate::ui;

/// Change limits of containers, and when they are started again
///
/// Limits that a running container has can be changed at once; others hold from its next start.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild update -m 1g --cpus 2 web
  rbuild update --restart unless-stopped web")]
pub(crate) struct UpdateArgs {
    /// Names or IDs
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// When it is started again: `no`, `on-failure[:N]`, `always` or `unless-stopped`
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
}

/// Changes containers.
pub(crate) fn run(settings: &Settings, args: &UpdateArgs) -> Result<u8, Failure> {
    let restart = args.restart.as_deref().map(RestartPolicy::parse);
    let restart = restart
        .transpose()
        .map_err(|reason| Failure::new(format!("invalid restart policy: {reason}")))?;
    if restart.is_none() && !args.limits.are_given() {
        return Err(Failure::new(
            "you must provide one or more flags when using this command",
        ));
    }
    each(settings, &args.containers, &mut |container, query| {
        change(container, &args.limits, restart)?;
        events::note(settings, || Event::container("update", container));
        ui::println(query)
    })
}

fn change(
    container: &Container,
    args: &LimitArgs,
    restart: Option<RestartPolicy>,
) -> Result<(), Failure> {
    if restart.is_some_and(|policy| policy != RestartPolicy::No) && container.config.auto_remove {
        return Err(Failure::new(
            "conflicting options: a container that is removed when it ends is not started again",
        ));
    }
    let limits = args.change(&container.config.sandbox.limits)?;
    // First those in force: what they refuse is not written down either.
    if args.are_given() && container.state()?.status.has_processes() {
        args.refuse_lifting()?;
        order(container, &Order::Limits(Box::new(limits.clone())))?;
    }
    container.update(&|config| {
        config.sandbox.limits = limits.clone();
        config.restart = restart.unwrap_or(config.restart);
    })?;
    Ok(())
}
