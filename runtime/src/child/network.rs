//! The network of a sandbox, made from inside of its process.

use std::borrow::Cow;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use super::Report;
use crate::net::{self, Outlet, Spare};
use crate::spec::{Attached, Connected, Mount, MountSource, Network, Sandbox};
use crate::wire::{self, InStep as _, Setup, Step};

/// Moves the process into its network; returns its interfaces as far as others may know them.
pub(super) fn enter(
    network: &Network,
    outlet: &Outlet<'_>,
    report: &Report<'_>,
) -> Step<Vec<Connected>> {
    match network {
        Network::Joined(pid) => net::join(*pid)?,
        Network::Attached(attached) => return attach(attached, outlet, report),
        Network::None => net::loopback_up()?,
        Network::Private => outlet.keep(net::connect(&outlet.place()?)?),
        Network::Host => {}
    }
    Ok(Vec::new())
}

/// The same where others have nothing to do with it, for a sandbox that is made ahead: in a network that
/// nobody has used, or in a new one, which the spawner gets to know of.
pub(super) fn enter_ahead(
    network: &Network,
    outlet: &Outlet<'_>,
    spare: Option<&Spare>,
    spawner: BorrowedFd<'_>,
) -> Step<()> {
    match (network, spare) {
        (Network::None, _) => net::loopback_up()?,
        (Network::Private, Some(spare)) => spare.enter()?,
        (Network::Private, None) => {
            outlet.keep(net::connect(&outlet.place()?)?);
            net::hand_out(spawner);
        }
        (Network::Host | Network::Joined(_) | Network::Attached(_), _) => {}
    }
    Ok(())
}

fn attach(attached: &Attached, outlet: &Outlet<'_>, report: &Report<'_>) -> Step<Vec<Connected>> {
    let place = outlet.place()?;
    let step = "tell of the network";
    if let Some(router) = &place.router {
        let made = place.made.clone();
        wire::tell(report.0, &Setup::Router { made }, &[router.as_fd()]).step(step)?;
    }
    let mut connected = Vec::new();
    let (all, settling) = net::attach(&place, attached)?;
    outlet.keep(settling);
    for plugged in all {
        let lease: Vec<_> = plugged.lease.iter().map(|lease| lease.as_fd()).collect();
        let message = Setup::Connected(plugged.connected);
        wire::tell(report.0, &message, &lease).step(step)?;
        if let Setup::Connected(interface) = message {
            connected.push(interface);
        }
    }
    if attached.name_server {
        let [datagrams, connections] = net::inside::name_server()?;
        let sockets = [datagrams.as_fd(), connections.as_fd()];
        wire::tell(report.0, &Setup::NameServer, &sockets).step(step)?;
    }
    Ok(connected)
}

/// The mounts, with the sandbox's own address and name in its `/etc/hosts`.
pub(super) fn with_own_address<'s>(
    sandbox: &'s Sandbox,
    connected: &[Connected],
) -> Cow<'s, [Mount]> {
    let Network::Attached(attached) = &sandbox.network else {
        return Cow::Borrowed(&sandbox.mounts);
    };
    let Some(host_name) = &attached.host_name else {
        return Cow::Borrowed(&sandbox.mounts);
    };
    let mut lines = String::new();
    for address in connected.iter().filter_map(|interface| interface.address) {
        lines.push_str(&format!("{address}\t{host_name}\n"));
    }
    let mut mounts = sandbox.mounts.clone();
    for mount in &mut mounts {
        if mount.target == Path::new("/etc/hosts")
            && let MountSource::File { content, .. } = &mut mount.source
        {
            if let Some(gateway) = connected.iter().find_map(|interface| interface.gateway) {
                *content = with_gateway(content, &gateway.to_string());
            }
            content.extend_from_slice(lines.as_bytes());
        }
    }
    Cow::Owned(mounts)
}

/// Replaces the word for the host's address at the beginning of lines.
fn with_gateway(content: &[u8], gateway: &str) -> Vec<u8> {
    const WORD: &str = "host-gateway\t";
    let text = String::from_utf8_lossy(content);
    let lines = text.lines().map(|line| match line.strip_prefix(WORD) {
        Some(rest) => format!("{gateway}\t{rest}\n"),
        None => format!("{line}\n"),
    });
    lines.collect::<String>().into_bytes()
}
