//! `rbuild port`, and how ports are shown in lists.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use rbuild_parser::parse_port_spec;
use rbuild_runtime::container::{NetworkState, Protocol, PublishedPort};

use super::containers;
use crate::config::Settings;
use crate::container::details::Details;
use crate::failure::Failure;
use crate::ui;

/// Show where the ports of a container are reached on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild port web
  rbuild port web 80/tcp")]
pub(crate) struct PortArgs {
    /// Name or ID
    container: String,
    /// Only this port of the container
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

/// Shows ports.
pub(crate) fn run(settings: &Settings, args: &PortArgs) -> Result<(), Failure> {
    let container = containers(settings)?.find(&args.container)?;
    let ports = container.network()?.ports;
    let Some(wanted) = &args.port else {
        let mut lines = String::new();
        for port in &ports {
            lines.push_str(&format!("{} -> {}\n", inside(port), outside(port)));
        }
        return ui::print(&lines);
    };
    let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let number: u16 = number
        .parse()
        .map_err(|_| Failure::new(format!("invalid port {wanted:?}")))?;
    let mut lines = String::new();
    for port in &ports {
        if port.container_port == number && port.protocol.to_string() == protocol {
            lines.push_str(&format!("{}\n", outside(port)));
        }
    }
    if lines.is_empty() {
        return Err(Failure::new(format!(
            "no public port '{wanted}' published for {}",
            args.container
        )));
    }
    ui::print(&lines)
}

/// A port in the container, such as `80/tcp`.
pub(super) fn inside(port: &PublishedPort) -> String {
    format!("{}/{}", port.container_port, port.protocol)
}

fn outside(port: &PublishedPort) -> String {
    SocketAddr::new(port.host_ip, port.host_port).to_string()
}

/// The column PORTS: `0.0.0.0:8080->80/tcp, 443/tcp`, neighbours as ranges.
pub(super) fn column(state: &NetworkState, details: &Details) -> String {
    let mut shown: Vec<Range> = Vec::new();
    let mut ports = state.ports.clone();
    ports.sort_by_key(|port| {
        (
            port.host_ip,
            port.protocol,
            port.container_port,
            port.host_port,
        )
    });
    for port in &ports {
        match shown.last_mut() {
            Some(range) if range.goes_on_with(port) => range.last += 1,
            _ => shown.push(Range {
                host_ip: port.host_ip,
                host_port: port.host_port,
                first: port.container_port,
                last: port.container_port,
                protocol: port.protocol,
            }),
        }
    }
    shown.sort_by_key(|range| (range.first, range.protocol, range.host_port, range.host_ip));
    let published: BTreeSet<String> = ports.iter().map(inside).collect();
    let mut texts: Vec<String> = shown.iter().map(ToString::to_string).collect();
    let exposed = details.exposed.difference(&published).cloned();
    let mut exposed: Vec<String> = exposed.collect();
    exposed.sort_by_key(|port| {
        let number = port.split('/').next().unwrap_or_default();
        (number.parse::<u16>().unwrap_or(0), port.clone())
    });
    texts.extend(exposed);
    texts.join(", ")
}

/// A port or a range of ports as a filter has it, `80` or `80-90/udp`, checked.
pub(super) fn wanted(filter: &str, value: &str) -> Result<String, Failure> {
    match parse_port_spec(value) {
        Ok(spec) if !spec.had_host_part => Ok(value.to_owned()),
        _ => Err(Failure::new(format!(
            "invalid value in the filter {filter:?}"
        ))),
    }
}

/// Whether one of the ports is the wanted one.
pub(super) fn matches(wanted: &str, mut ports: impl Iterator<Item = String>) -> bool {
    parse_port_spec(wanted).is_ok_and(|spec| ports.any(|port| spec.ports.contains(&port)))
}

/// Neighbouring ports.
struct Range {
    host_ip: IpAddr,
    host_port: u16,
    first: u16,
    last: u16,
    protocol: Protocol,
}

impl Range {
    fn goes_on_with(&self, port: &PublishedPort) -> bool {
        self.host_ip == port.host_ip
            && self.protocol == port.protocol
            && self.last.checked_add(1) == Some(port.container_port)
            && u32::from(self.host_port) + u32::from(self.last - self.first) + 1
                == u32::from(port.host_port)
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = SocketAddr::new(self.host_ip, self.host_port);
        if self.first == self.last {
            return write!(formatter, "{start}->{}/{}", self.first, self.protocol);
        }
        let end = u32::from(self.host_port) + u32::from(self.last - self.first);
        write!(
            formatter,
            "{start}-{end}->{}-{}/{}",
            self.first, self.last, self.protocol
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_shown_as_docker_shows_them() {
        let port = |ip: &str, host_port: u16, container_port: u16| PublishedPort {
            container_port,
            protocol: Protocol::Tcp,
            host_ip: ip.parse().unwrap(),
            host_port,
        };
        let state = NetworkState {
            interfaces: Vec::new(),
            ports: vec![
                port("0.0.0.0", 8080, 80),
                port("::", 8080, 80),
                port("127.0.0.1", 9000, 90),
                port("127.0.0.1", 9001, 91),
                port("127.0.0.1", 9003, 92),
            ],
        };
        let details = Details {
            exposed: ["80/tcp".into(), "443/tcp".into(), "53/udp".into()].into(),
            ..Details::default()
        };
        assert_eq!(
            column(&state, &details),
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 127.0.0.1:9000-9001->90-91/tcp, \
             127.0.0.1:9003->92/tcp, 53/udp, 443/tcp"
        );
    }
}
