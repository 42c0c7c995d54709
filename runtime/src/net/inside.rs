//! What is set up inside a sandbox's network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with};

use super::link::Links;
use super::nft::Rules;
use crate::spec::NAME_SERVER;
use crate::wire::{InStep as _, Step};

/// The port of name servers.
const DOMAIN: u16 = 53;

/// Interfaces that come into the current network namespace get no address of IPv6, which leads nowhere. With
/// one the kernel sends some packets of its own in the first seconds.
pub(super) fn without_ipv6() {
    // A kernel without IPv6 has no such file.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
}

/// Gives an interface its address and brings it up.
pub(super) fn configure(inside: &mut Links, name: &str, address: Ipv4Addr, prefix: u8) -> Step<()> {
    let step = "connect the sandbox to the network";
    inside.up(1).step("bring the loopback interface up")?;
    let index = inside.index_of(name).step(step)?;
    inside.add_address(index, address, prefix).step(step)?;
    inside.up(index).step(step)
}

/// Makes the sockets of a name server in the current network: for datagrams, for connections.
///
/// They do not have the port itself, which a name server of the sandbox's own may want on all addresses;
/// what goes to it is redirected. Without rules for that they have it after all.
pub(crate) fn name_server() -> Step<[OwnedFd; 2]> {
    let step = "make the sockets of the name server";
    let sockets = listening(0).step(step)?;
    let ports = sockets.each_ref().map(|socket| {
        let name = getsockname(socket).ok();
        let name = name.and_then(|name| SocketAddr::try_from(name).ok());
        name.map_or(0, |name| name.port())
    });
    if let Ok(mut rules) = Rules::open()
        && rules.redirect_names(NAME_SERVER, ports).is_ok()
    {
        return Ok(sockets);
    }
    listening(DOMAIN).step(step)
}

fn listening(port: u16) -> io::Result<[OwnedFd; 2]> {
    let make = |kind: SocketType| -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
        bind(&socket, &SocketAddrV4::new(NAME_SERVER, port))?;
        if kind == SocketType::STREAM {
            listen(&socket, 16)?;
        }
        Ok(socket)
    };
    Ok([make(SocketType::DGRAM)?, make(SocketType::STREAM)?])
}
