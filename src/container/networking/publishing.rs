//! Ports of a container that are reached on this machine, as they are written.

use std::collections::BTreeSet;

use rbuild_parser::parse_port_spec;
use rbuild_runtime::container::{PortMapping, Protocol};

use crate::failure::Failure;

/// Parses a value of `--publish`.
pub(super) fn publish(value: &str) -> Result<Vec<PortMapping>, Failure> {
    let spec = parse_port_spec(value)
        .map_err(|reason| Failure::new(format!("invalid --publish: {reason}")))?;
    let protocol = protocol(&spec.protocol)?;
    let (first, last) = spec.container;
    if first == 0 {
        return Err(Failure::new(format!(
            "invalid --publish: invalid containerPort: {value}"
        )));
    }
    let mapping = |container_port: u16, host_ports: (u16, u16)| PortMapping {
        // What is written as all addresses is all addresses of one family.
        host_ip: spec.address,
        host_ports,
        container_port,
        protocol,
    };
    Ok(match spec.host {
        None => (first..=last).map(|port| mapping(port, (0, 0))).collect(),
        Some(range) if first == last => vec![mapping(first, range)],
        Some((start, _)) => (first..=last)
            .zip(start..)
            .map(|(port, host)| mapping(port, (host, host)))
            .collect(),
    })
}

fn protocol(name: &str) -> Result<Protocol, Failure> {
    match name {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err(Failure::unsupported(&format!("publishing `{other}` ports"))),
    }
}

/// `--publish-all`: the exposed ports that are not published otherwise.
pub(super) fn all_exposed(
    exposed: &BTreeSet<String>,
    published: &[PortMapping],
) -> Result<Vec<PortMapping>, Failure> {
    let mut ports = Vec::new();
    for word in exposed {
        let spec = parse_port_spec(word).map_err(Failure::new)?;
        // Others cannot be published; EXPOSE may name them all the same.
        let Ok(protocol) = protocol(&spec.protocol) else {
            continue;
        };
        let port = spec.container.0;
        let known =
            |mapping: &PortMapping| mapping.container_port == port && mapping.protocol == protocol;
        if !published.iter().any(known) {
            ports.push(PortMapping {
                host_ip: None,
                host_ports: (0, 0),
                container_port: port,
                protocol,
            });
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address and ports of the host, port of the container, protocol.
    type Port = (Option<String>, (u16, u16), u16, Protocol);

    fn ports(value: &str) -> Vec<Port> {
        let all = publish(value).unwrap().into_iter();
        all.map(|port| {
            let ip = port.host_ip.map(|ip| ip.to_string());
            (ip, port.host_ports, port.container_port, port.protocol)
        })
        .collect()
    }

    #[test]
    fn published_ports_have_docker_s_forms() {
        let tcp = Protocol::Tcp;
        assert_eq!(ports("80"), [(None, (0, 0), 80, tcp)]);
        assert_eq!(ports("8080:80"), [(None, (8080, 8080), 80, tcp)]);
        assert_eq!(
            ports("127.0.0.1:8080:80/udp"),
            [(Some("127.0.0.1".into()), (8080, 8080), 80, Protocol::Udp)]
        );
        assert_eq!(ports("[::1]::80"), [(Some("::1".into()), (0, 0), 80, tcp)]);
        assert_eq!(ports("8000-8010:80"), [(None, (8000, 8010), 80, tcp)]);
        assert_eq!(
            ports("8000-8001:80-81"),
            [(None, (8000, 8000), 80, tcp), (None, (8001, 8001), 81, tcp)]
        );
        for value in [
            "x",
            "1:2:3:4",
            "80/sctp",
            "70000:80",
            "8000-8001:80-82",
            "8080:0",
        ] {
            assert!(publish(value).is_err(), "{value}");
        }
    }
}
