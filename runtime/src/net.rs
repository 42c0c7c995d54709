//! Networks of sandboxes: loopback alone, or a bridge with address translation.
//!
//! # The shared network
//!
//! ```text
//! sandbox: eth0 10.89.X.N ──veth── rbv0-N ┐
//! sandbox: eth0 10.89.X.M ──veth── rbv0-M ┴ rbuild0 10.89.X.1 ── masquerade ── the host's routes
//! ```
//!
//! All programs that use one state directory share one bridge; those of another get `rbuild1` and so
//! on. What they need to agree on lies in `STATE_DIR/network/`:
//!
//! ```text
//! lock            flock: held while bridge, rules and settings are made or removed
//! state           what was made, and which settings were changed (JSON, with the boot id)
//! users/NAME      one a spawner, locked while it lives: the lock dies with its process
//! ```
//!
//! The first sandbox makes the network; the last spawner to leave removes it and puts all settings
//! back. When spawners are killed instead, the next one finds their files without lock, takes the
//! network over and removes it in their stead. Addresses need no book-keeping: the name of the host's
//! end of a veth pair is the address, the kernel refuses to make it twice, and the pair goes with
//! the sandbox's network namespace.
//!
//! Sandboxes cannot reach each other (bridge ports are isolated), the host can be reached at
//! 10.89.X.1. There is no IPv6. Loopback name servers of the host cannot be reached from inside.

mod forwarding;
mod link;
mod netlink;
mod nft;
mod shared;

use std::net::Ipv4Addr;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use crate::sys;
use crate::wire::{Failure, InStep as _, Step};
use link::Links;

pub(crate) use shared::Membership;

/// Numbers of hosts in a /24 network beside network, gateway and broadcast.
const HOSTS: std::ops::RangeInclusive<u8> = 2..=254;

/// Brings the loopback interface of the current network namespace up.
pub(crate) fn loopback_up() -> Step<()> {
    let step = "bring the loopback interface up";
    let mut links = Links::open().step(step)?;
    // The first interface of every namespace.
    links.up(1).step(step)
}

/// Moves the process into a new network namespace that is connected to the shared network.
///
/// The caller's spawner must be a [member](Membership).
pub(crate) fn connect(state_dir: &Path) -> Step<()> {
    let network = shared::ensure(state_dir)?;
    let mut host = Links::open().step("open a netlink socket")?;
    sys::unshare(libc::CLONE_NEWNET).step("make a network namespace")?;
    let namespace = open(
        c"/proc/self/ns/net",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("open the network namespace")?;

    let step = "connect the sandbox to the network";
    let address = claim_address(&mut host, &network, &namespace)?;
    let mut inside = Links::open().step("open a netlink socket")?;
    inside.up(1).step("bring the loopback interface up")?;
    let eth0 = inside.index_of("eth0").step(step)?;
    inside.add_address(eth0, address, 24).step(step)?;
    inside.up(eth0).step(step)?;
    inside.add_default_route(network.gateway()).step(step)
}

/// Tries what a private network needs, in the network namespace of the calling thread, which is moved
/// to a new one.
pub(crate) fn probe() -> Result<(), String> {
    let missing = |what: &str, error: std::io::Error| format!("{what}: {error}");
    sys::unshare(libc::CLONE_NEWNET).map_err(|error| missing("network namespace", error))?;
    let mut links = Links::open().map_err(|error| missing("netlink", error))?;
    let address = Ipv4Addr::new(10, 89, 0, 1);
    links
        .add_bridge("rbuild0", address)
        .map_err(|error| missing("bridge", error))?;
    let namespace = open(
        c"/proc/thread-self/ns/net",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| missing("network namespace", error.into()))?;
    let bridge = links
        .index_of("rbuild0")
        .map_err(|error| missing("bridge", error))?;
    links
        .add_veth("rbv0-2", bridge, &namespace, Ipv4Addr::new(10, 89, 0, 2))
        .map_err(|error| missing("veth", error))?;
    nft::install("rbuild0", Ipv4Addr::new(10, 89, 0, 0), &["eth0".to_owned()])
        .map_err(|error| missing("nftables with masquerade", error))
}

/// Makes a veth pair whose name, and so whose address, nobody else has.
fn claim_address(
    host: &mut Links,
    network: &shared::Network,
    namespace: &std::os::fd::OwnedFd,
) -> Step<Ipv4Addr> {
    // Begins anywhere, so that sandboxes that start at once seldom ask for the same.
    let mut start = [0];
    rustix::rand::getrandom(&mut start, rustix::rand::GetRandomFlags::empty())
        .step("choose an address")?;
    let bridge = network.name();
    let bridge = host.index_of(&bridge).step_at("find the bridge", &bridge)?;
    let (first, last) = (*HOSTS.start(), *HOSTS.end());
    let count = u16::from(last - first) + 1;
    for attempt in 0..count {
        let number = first + ((u16::from(start[0]) + attempt) % count) as u8;
        let name = network.veth(number);
        let address = network.host(number);
        match host.add_veth(&name, bridge, namespace, address) {
            Ok(()) => {
                let index = host
                    .index_of(&name)
                    .step("connect the sandbox to the network")?;
                host.isolate(index)
                    .step("isolate the sandbox from others")?;
                host.up(index).step("connect the sandbox to the network")?;
                return Ok(address);
            }
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(Failure::new("make a veth pair", &error)),
        }
    }
    let full = std::io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
    Err(Failure::new("find a free address", &full)
        .because(format!("{count} sandboxes are connected already")))
}
