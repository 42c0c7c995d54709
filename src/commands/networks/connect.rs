//! `rbuild network connect` and `rbuild network disconnect`.

use std::net::Ipv4Addr;

use rbuild_runtime::Network;
use rbuild_runtime::container::{Container, ContainerError, Endpoint, Order, Reply};

use super::Known;
use crate::commands::containers::containers;
use crate::config::Settings;
use crate::container::networking::{check_address, hardware};
use crate::events::{self, wiring};
use crate::failure::Failure;

/// Put a container into a network, whether it runs or not
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild network connect back web
  rbuild network connect --alias db --ip 10.5.0.9 back postgres")]
pub(crate) struct ConnectArgs {
    /// Name or ID of the network
    network: String,
    /// Name or ID of the container
    container: String,
    /// Let others find it by this name, too
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Its address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// Its hardware address
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
}

/// Take a container out of a network, whether it runs or not
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild network disconnect back web")]
pub(crate) struct DisconnectArgs {
    /// Name or ID of the network
    network: String,
    /// Name or ID of the container
    container: String,
    /// Do not mind if it is not in the network
    #[arg(short, long)]
    force: bool,
}

/// Connects a container with a network.
pub(crate) fn connect(settings: &Settings, args: &ConnectArgs) -> Result<(), Failure> {
    let networks = super::networks(settings)?;
    let mut container = containers(settings)?.find(&args.container)?;
    refuse_fixed(&container)?;
    let endpoint = Endpoint {
        network: match super::find(&networks, &args.network)? {
            Known::Made(network) => {
                check_address(&network, args.ip)?;
                Some(network.lan.id)
            }
            Known::Predefined("bridge") if args.ip.is_none() && args.alias.is_empty() => None,
            Known::Predefined(name) => {
                return Err(Failure::new(format!(
                    "container cannot be connected to the network {name} with these options"
                )));
            }
        },
        aliases: args.alias.clone(),
        address: args.ip,
        hardware: args.mac_address.as_deref().map(hardware).transpose()?,
    };
    let known = &container.config.networking.endpoints;
    if known.iter().any(|known| known.network == endpoint.network) {
        return Err(Failure::new(format!(
            "endpoint with name {} already exists in network {}",
            container.config.name, args.network
        )));
    }
    if rewire(&container, &Order::Connect(endpoint.clone()))? {
        let event = || wiring::of_network("connect", endpoint.network.as_deref(), &networks);
        events::note(settings, || event().with("container", &container.config.id));
    }
    container.config.networking.endpoints.push(endpoint);
    Ok(container.save()?)
}

/// Takes a container out of a network.
pub(crate) fn disconnect(settings: &Settings, args: &DisconnectArgs) -> Result<(), Failure> {
    let networks = super::networks(settings)?;
    let mut container = containers(settings)?.find(&args.container)?;
    refuse_fixed(&container)?;
    let id = match super::find(&networks, &args.network)? {
        Known::Made(network) => Some(network.lan.id),
        Known::Predefined(_) => None,
    };
    let endpoints = &mut container.config.networking.endpoints;
    let before = endpoints.len();
    endpoints.retain(|endpoint| endpoint.network != id);
    if endpoints.len() == before {
        if args.force {
            return Ok(());
        }
        return Err(Failure::new(format!(
            "container {} is not connected to network {}",
            container.config.id, args.network
        )));
    }
    if endpoints.is_empty() {
        // In no network at all, as Docker leaves it.
        container.config.sandbox.network = Network::None;
    }
    if rewire(&container, &Order::Disconnect(id.clone()))? {
        let event = || wiring::of_network("disconnect", id.as_deref(), &networks);
        events::note(settings, || event().with("container", &container.config.id));
    }
    Ok(container.save()?)
}

/// A container without networks of its own has none to change.
fn refuse_fixed(container: &Container) -> Result<(), Failure> {
    let refused = |what: &str| {
        Err(Failure::new(format!(
            "container sharing network namespace with {what} cannot be connected to any other network"
        )))
    };
    let networking = &container.config.networking;
    match &container.config.sandbox.network {
        Network::Host => refused("the host"),
        _ if networking.container.is_some() => refused("another container"),
        _ => Ok(()),
    }
}

/// Changes the networks of a container if it runs; says whether it does.
fn rewire(container: &Container, order: &Order) -> Result<bool, Failure> {
    let connection = match container.ask(order, &[]) {
        Err(ContainerError::NotRunning(_)) => return Ok(false),
        connection => connection?,
    };
    match connection.reply()?.0 {
        Reply::Failed { message, .. } => Err(Failure::new(message)),
        _ => Ok(true),
    }
}
