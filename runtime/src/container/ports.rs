//! Ports of a container that can be reached on the host.
//!
//! The monitor listens on the host and speaks for whoever calls inside the container's network, where
//! a thread of it is. So nothing is changed on the host, root and users are served alike, and with the
//! monitor all of it is gone. The container sees calls as coming from its own address.

mod datagrams;
mod relay;
mod streams;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt,
};
use serde::{Deserialize, Serialize};

pub(super) use relay::Relay;

/// How many callers may wait to be let in.
const BACKLOG: i32 = 1024;

/// How often a port is chosen that turns out to be taken for IPv6.
const CHOICES: usize = 64;

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// A port that shall be reached on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Address on the host; none for all, IPv4 and IPv6.
    pub host_ip: Option<IpAddr>,
    /// The first of these ports that is free; zeroes for any.
    pub host_ports: (u16, u16),
    /// Port in the container.
    pub container_port: u16,
    /// Protocol of both.
    pub protocol: Protocol,
}

/// A port that is reached on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Port in the container.
    pub container_port: u16,
    /// Protocol of both.
    pub protocol: Protocol,
    /// Address on the host.
    pub host_ip: IpAddr,
    /// Port on the host.
    pub host_port: u16,
}

/// A socket that listens on the host.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: OwnedFd,
    pub(super) port: PublishedPort,
}

/// Why a port cannot be reached on the host.
#[derive(Debug, thiserror::Error)]
#[error("Bind for {address} failed: {}", reason(source))]
pub(super) struct BindError {
    address: String,
    source: io::Error,
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "port is already allocated".to_owned(),
        io::ErrorKind::PermissionDenied => "ports below 1024 are for root; the sysctl \
             `net.ipv4.ip_unprivileged_port_start` says from where on they are for all"
            .to_owned(),
        _ => error.to_string(),
    }
}

/// Listens on the host for all mappings.
pub(super) fn bind_all(mappings: &[PortMapping]) -> Result<Vec<Bound>, BindError> {
    let mut all = Vec::new();
    for mapping in mappings {
        all.extend(bind_one(mapping)?);
    }
    Ok(all)
}

fn bind_one(mapping: &PortMapping) -> Result<Vec<Bound>, BindError> {
    let (first, last) = mapping.host_ports;
    let shown = mapping.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let failed = |port: u16, source| BindError {
        address: SocketAddr::new(shown, port).to_string(),
        source,
    };
    let tries: Vec<u16> = match (first, last) {
        (0, _) => vec![0; CHOICES],
        (first, last) => (first..=last).collect(),
    };
    let mut error = failed(first, io::ErrorKind::AddrInUse.into());
    for port in tries {
        match bind_port(mapping, port) {
            Ok(bound) => return Ok(bound),
            Err(source) => {
                let taken = source.kind() == io::ErrorKind::AddrInUse;
                error = failed(port, source);
                if !taken {
                    break;
                }
            }
        }
    }
    Err(error)
}

/// Listens on one port, or on any if that is 0.
fn bind_port(mapping: &PortMapping, port: u16) -> io::Result<Vec<Bound>> {
    if let Some(address) = mapping.host_ip {
        return Ok(vec![bind_at(mapping, address, port)?]);
    }
    let first = bind_at(mapping, Ipv4Addr::UNSPECIFIED.into(), port)?;
    let port = first.port.host_port;
    match bind_at(mapping, Ipv6Addr::UNSPECIFIED.into(), port) {
        Ok(second) => Ok(vec![first, second]),
        // A host without IPv6.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
            ) =>
        {
            Ok(vec![first])
        }
        Err(error) => Err(error),
    }
}

fn bind_at(mapping: &PortMapping, address: IpAddr, port: u16) -> io::Result<Bound> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = match mapping.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if mapping.protocol == Protocol::Tcp {
        // Connections that have just ended shall not keep the port.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(address, port))?;
    if mapping.protocol == Protocol::Tcp {
        listen(&socket, BACKLOG)?;
    }
    let name = SocketAddr::try_from(getsockname(&socket)?).map_err(|_| Errno::INVAL)?;
    Ok(Bound {
        socket,
        port: PublishedPort {
            container_port: mapping.container_port,
            protocol: mapping.protocol,
            host_ip: address,
            host_port: name.port(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: Option<&str>, host_ports: (u16, u16), protocol: Protocol) -> PortMapping {
        PortMapping {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_ports,
            container_port: 80,
            protocol,
        }
    }

    #[test]
    fn any_port_is_the_same_for_both_families() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let bound = bind_all(&[mapping(None, (0, 0), protocol)]).unwrap();
            let port = bound[0].port.host_port;
            assert_ne!(port, 0);
            assert!(bound.iter().all(|bound| bound.port.host_port == port));
            assert_eq!(bound[0].port.host_ip, Ipv4Addr::UNSPECIFIED);
        }
    }

    #[test]
    fn a_range_gives_its_first_free_port_and_a_taken_one_is_an_error() {
        let one = bind_all(&[mapping(Some("127.0.0.1"), (0, 0), Protocol::Tcp)]).unwrap();
        let port = one[0].port.host_port;
        let error = bind_all(&[mapping(Some("127.0.0.1"), (port, port), Protocol::Tcp)]);
        assert_eq!(
            error.unwrap_err().to_string(),
            format!("Bind for 127.0.0.1:{port} failed: port is already allocated")
        );
        // The ports behind it may be anybody's, too.
        let last = port.saturating_add(50);
        let two = bind_all(&[mapping(Some("127.0.0.1"), (port, last), Protocol::Tcp)]).unwrap();
        assert!((port + 1..=last).contains(&two[0].port.host_port));
    }
}
