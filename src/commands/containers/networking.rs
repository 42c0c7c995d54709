//! What `inspect` and `ps` tell of a container's networks.

use std::collections::BTreeMap;

use rbuild_runtime::container::{Container, Containers, Endpoint, NetworkState, Networking};
use rbuild_runtime::networks::predefined_id;
use rbuild_runtime::{Connected, Network};

use super::port;
use crate::config::Settings;
use crate::container::details::Details;
use crate::container::networking::show_hardware;
use crate::failure::Failure;
use crate::format::{NilKind, Value};

/// The names of networks by their IDs.
pub(super) struct Names(BTreeMap<String, String>);

impl Names {
    /// Reads them.
    pub(super) fn read(settings: &Settings) -> Result<Names, Failure> {
        let all = crate::commands::networks::networks(settings)?.list()?;
        let names = all
            .into_iter()
            .map(|network| (network.lan.id, network.name));
        Ok(Names(names.collect()))
    }

    fn of<'n>(&'n self, id: Option<&'n str>) -> &'n str {
        match id {
            None => "bridge",
            // One that was removed meanwhile has its ID only.
            Some(id) => self.0.get(id).map_or(id, String::as_str),
        }
    }

    /// The networks that a container is in.
    pub(super) fn of_container(&self, container: &Container, details: &Details) -> Vec<String> {
        let networking = &container.config.networking;
        let endpoints = networking.endpoints.iter();
        match &container.config.sandbox.network {
            Network::Host => vec!["host".to_owned()],
            _ if networking.container.is_some() => vec![details.network.clone()],
            _ if networking.endpoints.is_empty() => vec!["none".to_owned()],
            _ => endpoints
                .map(|endpoint| self.of(endpoint.network.as_deref()).to_owned())
                .collect(),
        }
    }
}

impl Names {
    /// Whether a container is in a network, by its name or ID.
    pub(super) fn is_in(&self, container: &Container, details: &Details, network: &str) -> bool {
        let mut endpoints = container.config.networking.endpoints.iter();
        self.of_container(container, details)
            .iter()
            .any(|name| name == network)
            || (network.len() >= 4
                && endpoints.any(|endpoint| {
                    let id = endpoint.network.as_deref();
                    id.is_some_and(|id| id.starts_with(network))
                }))
    }
}

/// `HostConfig.NetworkMode`: how it was named; a container by its ID.
pub(super) fn mode(networking: &Networking, details: &Details) -> String {
    match &networking.container {
        Some(id) => format!("container:{id}"),
        None => details.network.clone(),
    }
}

/// `NetworkSettings`.
pub(super) fn settings(
    container: &Container,
    details: &Details,
    names: &Names,
) -> Result<Value, Failure> {
    let state = container.network()?;
    let pid = container.state()?.pid;
    let key = match pid {
        0 => String::new(),
        pid => format!("/proc/{pid}/ns/net"),
    };
    let first = state.interfaces.iter().find(|known| known.lan.is_none());
    let mut fields = vec![
        ("Bridge", "".into()),
        ("SandboxID", "".into()),
        ("SandboxKey", key.into()),
        ("Ports", ports(&state, details)),
    ];
    fields.extend(addresses(first));
    fields.push(("Networks", networks(container, &state, names)));
    Ok(Value::Struct(fields))
}

fn addresses(interface: Option<&Connected>) -> Vec<(&'static str, Value)> {
    let text = |text: Option<String>| Value::from(text.unwrap_or_default());
    let address = interface.and_then(|known| known.address);
    let gateway = interface.and_then(|known| known.gateway);
    let prefix = interface.map_or(0, |known| known.prefix);
    let hardware = interface.map(|known| show_hardware(known.hardware));
    vec![
        ("EndpointID", "".into()),
        ("Gateway", text(gateway.map(|gateway| gateway.to_string()))),
        ("GlobalIPv6Address", "".into()),
        ("GlobalIPv6PrefixLen", Value::Int(0)),
        (
            "IPAddress",
            text(address.map(|address| address.to_string())),
        ),
        ("IPPrefixLen", Value::Int(prefix.into())),
        ("IPv6Gateway", "".into()),
        ("MacAddress", text(hardware)),
    ]
}

/// Ports inside with where they are reached; nil for those that are not.
fn ports(state: &NetworkState, details: &Details) -> Value {
    let exposed = details.exposed.iter();
    let mut all: BTreeMap<String, Value> = exposed
        .map(|port| (port.clone(), Value::Nil(NilKind::List)))
        .collect();
    for published in &state.ports {
        let entry = all.entry(port::inside(published));
        let entry = entry.or_insert(Value::Nil(NilKind::List));
        let binding = Value::Struct(vec![
            ("HostIp", published.host_ip.to_string().into()),
            ("HostPort", published.host_port.to_string().into()),
        ]);
        match entry {
            Value::List(bindings) => bindings.push(binding),
            entry => *entry = Value::List(vec![binding]),
        }
    }
    Value::Map(all)
}

fn networks(container: &Container, state: &NetworkState, names: &Names) -> Value {
    let networking = &container.config.networking;
    let bare = |name: &str| (name.to_owned(), predefined_id(name), None, None);
    let all: Vec<_> = match &container.config.sandbox.network {
        Network::Host => vec![bare("host")],
        _ if networking.container.is_some() => Vec::new(),
        _ if networking.endpoints.is_empty() => vec![bare("none")],
        _ => networking
            .endpoints
            .iter()
            .map(|endpoint| {
                let id = endpoint.network.as_deref();
                let interface = state
                    .interfaces
                    .iter()
                    .find(|known| known.lan.as_deref() == id);
                let name = names.of(id).to_owned();
                let id = id.map_or_else(|| predefined_id("bridge"), str::to_owned);
                (name, id, Some(endpoint), interface)
            })
            .collect(),
    };
    let entries = all
        .into_iter()
        .map(|(name, id, endpoint, interface)| (name, network(container, id, endpoint, interface)));
    Value::Map(entries.collect())
}

fn network(
    container: &Container,
    id: String,
    endpoint: Option<&Endpoint>,
    interface: Option<&Connected>,
) -> Value {
    let named = endpoint.is_some_and(|endpoint| endpoint.network.is_some());
    let aliases = endpoint.map_or(&[][..], |endpoint| &endpoint.aliases);
    let asked = endpoint.and_then(|endpoint| endpoint.address);
    let wanted = match asked {
        Some(address) => Value::Struct(vec![("IPv4Address", address.to_string().into())]),
        None => Value::Nil(NilKind::Pointer),
    };
    let mut dns = Vec::new();
    if named {
        dns.push(container.config.name.clone());
        dns.extend(aliases.iter().cloned());
        dns.push(container.short_id().to_owned());
    }
    let mut fields = vec![
        ("IPAMConfig", wanted),
        ("Links", Value::Nil(NilKind::List)),
        ("Aliases", Value::strings(aliases.iter().cloned())),
        ("DriverOpts", Value::Nil(NilKind::Map)),
        ("NetworkID", id.into()),
        ("DNSNames", Value::strings(dns)),
    ];
    fields.extend(addresses(interface));
    Value::Struct(fields)
}

/// `HostConfig.Links`: `/db:/web/alias`.
pub(super) fn links(container: &Container) -> Value {
    let config = &container.config;
    let links = config.networking.links.iter();
    let shown = links.map(|link| {
        // By its name, if it is still there.
        let containers = container.directory().parent().map(Containers::new);
        let other = containers.and_then(|all| all.find(&link.container).ok());
        let other = other.map_or_else(|| link.container.clone(), |other| other.config.name);
        format!("/{other}:/{}/{}", config.name, link.alias)
    });
    Value::strings(shown)
}

/// `HostConfig.PortBindings`: what was asked for.
pub(super) fn bindings(networking: &Networking) -> Value {
    let mut all = BTreeMap::<String, Vec<Value>>::new();
    for port in &networking.ports {
        let (first, last) = port.host_ports;
        let host_port = match (first, last) {
            (0, _) => String::new(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let host_ip = port.host_ip.map_or_else(String::new, |ip| ip.to_string());
        let inside = format!("{}/{}", port.container_port, port.protocol);
        all.entry(inside).or_default().push(Value::Struct(vec![
            ("HostIp", host_ip.into()),
            ("HostPort", host_port.into()),
        ]));
    }
    Value::Map(
        all.into_iter()
            .map(|(port, list)| (port, Value::List(list)))
            .collect(),
    )
}

/// The other fields of `HostConfig` about networks.
pub(super) fn host_config(
    networking: &Networking,
    details: &Details,
) -> Vec<(&'static str, Value)> {
    let names = &details.names;
    let hosts = details.extra_hosts.iter();
    let servers = names.servers.iter().map(ToString::to_string);
    vec![
        ("NetworkMode", mode(networking, details).into()),
        ("PortBindings", bindings(networking)),
        ("PublishAllPorts", Value::Bool(details.publish_all)),
        ("Dns", Value::strings(servers)),
        ("DnsOptions", Value::strings(names.options.iter().cloned())),
        ("DnsSearch", Value::strings(names.search.iter().cloned())),
        (
            "ExtraHosts",
            Value::strings(hosts.map(|(name, address)| format!("{name}:{address}"))),
        ),
    ]
}
