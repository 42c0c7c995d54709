//! `rbuild network rm` and `rbuild network prune`.

use rbuild_runtime::networks::{NetworkConfig, NetworkError, sweep};

use super::{Filters, Known};
use crate::commands::containers::containers;
use crate::commands::prune;
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::{Failure, status};
use crate::ui;

/// Remove networks that no running container is in
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild network rm back")]
pub(crate) struct RemoveArgs {
    /// Names or IDs
    #[arg(value_name = "NETWORK", required = true)]
    networks: Vec<String>,
    /// Do not mind missing networks
    #[arg(short, long)]
    force: bool,
}

/// Remove all networks that no container is in
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild network prune -f
  rbuild network prune -f --filter until=24h")]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove only what meets a condition: label=, label!=, until=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Removes networks; goes on after errors.
pub(crate) fn remove(settings: &Settings, args: &RemoveArgs) -> Result<u8, Failure> {
    let networks = super::networks(settings)?;
    let mut result = 0;
    for query in &args.networks {
        let done = match super::find(&networks, query) {
            Ok(Known::Predefined(name)) => Err(NetworkError::Predefined(name.to_owned())),
            Ok(Known::Made(network)) => networks.remove(&network).map(|()| {
                note_destroyed(settings, &network);
            }),
            Err(NetworkError::NotFound(_)) if args.force => continue,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => ui::println(query)?,
            Err(error) => {
                ui::fail(&settings.palette, "Error:", &error.into());
                result = status::ERROR;
            }
        }
    }
    sweep(&settings.state_dir()?);
    Ok(result)
}

fn note_destroyed(settings: &Settings, network: &NetworkConfig) {
    events::note(settings, || {
        Event::network("destroy", &network.lan.id, &network.name, network.driver())
    });
}

/// Removes all networks that no container is in.
pub(crate) fn prune(settings: &Settings, args: &PruneArgs) -> Result<(), Failure> {
    if !args.force {
        prune::confirm("This will remove all custom networks not used by at least one container.")?;
    }
    prune_all(settings, &args.filter)
}

/// The same without asking; tells which.
pub(crate) fn prune_all(settings: &Settings, filters: &[String]) -> Result<(), Failure> {
    let filters = Filters::of_prune(filters)?;
    let networks = super::networks(settings)?;
    sweep(&settings.state_dir()?);
    let mut used = Vec::new();
    for container in containers(settings)?.list()? {
        let endpoints = container.config.networking.endpoints.into_iter();
        used.extend(endpoints.filter_map(|endpoint| endpoint.network));
    }
    let mut removed = String::new();
    for network in networks.list()? {
        let known = Known::Made(Box::new(network.clone()));
        if used.contains(&network.lan.id) || !filters.accept(&networks, &known) {
            continue;
        }
        match networks.remove(&network) {
            // Somebody has begun to use it, or has removed it.
            Err(NetworkError::InUse { .. } | NetworkError::NotFound(_)) => {}
            done => {
                done?;
                note_destroyed(settings, &network);
                removed.push_str(&format!("{}\n", network.name));
            }
        }
    }
    if removed.is_empty() {
        return Ok(());
    }
    ui::print(&format!("Deleted Networks:\n{removed}\n"))
}
