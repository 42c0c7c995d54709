//! Networks of sandboxes: loopback alone, or bridges with address translation.
//!
//! # The shared network
//!
//! ```text
//! sandbox: eth0 10.89.X.N ──veth── rbv0a59XXNN ┐
//! sandbox: eth0 10.89.X.M ──veth── rbv0a59XXMM ┴ rbuild0 10.89.X.1 ── masquerade ── the host's routes
//! ```
//!
//! All programs that use one state directory share one bridge; those of another get `rbuild1` and so
//! on. Beside it there is a bridge for each network that users made ([`Lan`]), as long as somebody is
//! in it. What programs need to agree on lies in `STATE_DIR/network/`:
//!
//! ```text
//! lock                  flock: held while bridges, rules and settings are made or removed
//! made                  what was made, and which settings were changed (JSON, with the boot id)
//! users/NAME            one a spawner, locked while it lives: the lock dies with its process
//! lans/ID/made          the same for the network with this ID
//! lans/ID/leases/IP     who has this address (JSON); locked while the sandbox lives
//! lans/ID/wires/ID      sockets between the parts of it in user namespaces; see `tunnel`
//! routers/NAME/         one a spawner in a user namespace; see `router`
//! ```
//!
//! The first sandbox makes a network; the last to leave removes it and puts all settings back. When
//! spawners are killed instead, the next one finds their files without lock and removes what they
//! made in their stead. Addresses of the shared network need no book-keeping: the name of the
//! host's end of a veth pair is the address, the kernel refuses to make it twice, and the pair goes
//! with the sandbox's network namespace.
//!
//! Private sandboxes cannot reach each other (their bridge ports are isolated), attached ones can. The
//! host can be reached at 10.89.X.1. There is no IPv6. Loopback name servers of the host cannot be
//! reached from inside.

mod forwarding;
pub(crate) mod inside;
mod leases;
mod link;
mod netlink;
mod nft;
mod router;
mod shared;
mod spare;
mod tunnel;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::spec::{Attached, Connected, Interface, Lan, LanKind, Subnet};
use crate::sys;
use crate::wire::{self, Failure, InStep as _, Step};
use link::Links;
use nft::Rules;
use shared::Bridge;

pub(crate) use leases::{Lease, find as find_leases, rename as rename_in_leases};
pub(crate) use router::{Router, program as uplink_program};
pub(crate) use shared::{Membership, sweep};
pub(crate) use spare::{FRESH, Lent, Spare, Spares, hand_out};
pub(crate) use tunnel::Tunnel;

/// Where bridges are, and where is noted what was made.
#[derive(Debug)]
pub(crate) struct Place {
    /// Directory of the leases, which all sandboxes of the user share.
    pub(crate) shared: PathBuf,
    /// Directory of what was made.
    pub(crate) made: PathBuf,
    /// The network namespace of the bridges; none for that of the host.
    pub(crate) router: Option<OwnedFd>,
}

impl Place {
    /// Bridges on the host.
    pub(crate) fn on_host(state_dir: &Path) -> Place {
        let shared = state_dir.join("network");
        Place {
            made: shared.clone(),
            shared,
            router: None,
        }
    }

    /// Moves the calling thread to where the bridges are.
    pub(crate) fn enter(&self) -> Step<()> {
        match &self.router {
            None => Ok(()),
            Some(router) => {
                move_into_thread_name_spaces(router.as_fd(), ThreadNameSpaceType::NETWORK)
                    .step("join the network of the user's bridges")
            }
        }
    }
}

/// What a sandbox is connected by.
#[derive(Debug)]
pub(crate) struct Outlet<'s> {
    /// See [`RuntimeOptions`](crate::RuntimeOptions).
    pub(crate) state_dir: &'s Path,
    /// In a user namespace: the way out of it.
    pub(crate) router: Option<&'s Router>,
    /// What is sent here stays open until the spawner ends.
    pub(crate) keep: Option<BorrowedFd<'s>>,
}

impl Outlet<'_> {
    /// Has something closed later, by somebody who need not wait for it.
    pub(crate) fn keep(&self, settling: Option<OwnedFd>) {
        if let (Some(keep), Some(fd)) = (self.keep, settling) {
            // Otherwise it is closed here and now, which only takes longer.
            let _ = wire::send(keep, b"keep", &[fd.as_fd()]);
        }
    }

    /// Where the bridges are, once they can be used.
    pub(crate) fn place(&self) -> Step<Place> {
        match self.router {
            None => Ok(Place::on_host(self.state_dir)),
            Some(router) => {
                router.wait()?;
                router.place(self.state_dir)
            }
        }
    }
}

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
///
/// Returns what is better closed later: the kernel still works on what was changed, and closing waits for it.
pub(crate) fn connect(place: &Place) -> Step<Option<OwnedFd>> {
    place.enter()?;
    let mut rules = Rules::open().step("open a netlink socket")?;
    let bridge = shared::ensure(place, None, &mut rules)?;
    let mut host = Links::open().step("open a netlink socket")?;
    let namespace = new_namespace()?;
    inside::without_ipv6();
    let address = claim_shared(&mut host, &bridge, &namespace, None, "eth0", true)?;
    let mut inside = Links::open().step("open a netlink socket")?;
    inside::configure(&mut inside, "eth0", address, bridge.subnet().prefix())?;
    inside
        .add_default_route(bridge.gateway())
        .step("connect the sandbox to the network")?;
    Ok(rules.settling())
}

/// What a new network namespace was given.
pub(crate) struct Plugged {
    /// The interface.
    pub(crate) connected: Connected,
    /// The right to its address; none in the shared network.
    pub(crate) lease: Option<File>,
}

/// Moves the process into a new network namespace with interfaces in networks.
///
/// The caller's spawner must be a [member](Membership). Returns also what is to be closed later, as
/// [`connect`] does.
pub(crate) fn attach(place: &Place, attached: &Attached) -> Step<(Vec<Plugged>, Option<OwnedFd>)> {
    place.enter()?;
    let mut rules = Rules::open().step("open a netlink socket")?;
    // What is made for a network is made outside, all of it before the way back is lost. Whoever has an
    // address in it keeps it from being removed.
    let mut bridges = Vec::new();
    for interface in &attached.interfaces {
        let claimed = claim(place, interface)?;
        bridges.push((claimed, ensure(place, interface, &mut rules)?));
    }
    let mut host = Links::open().step("open a netlink socket")?;
    let namespace = new_namespace()?;
    loopback_up()?;
    let mut inside = Links::open().step("open a netlink socket")?;
    let mut routed = false;
    let mut all = Vec::new();
    for (number, (interface, made)) in attached.interfaces.iter().zip(bridges).enumerate() {
        let name = format!("eth{number}");
        let plugged = plug(&mut host, &namespace, interface, made, &name)?;
        routed |= settle(&mut inside, interface, &plugged.connected, !routed)?;
        all.push(plugged);
    }
    Ok((all, rules.settling()))
}

/// Gives a network namespace that is there already one more interface.
///
/// Moves the calling thread to where the bridges are and then into that namespace.
pub(crate) fn attach_to(
    place: &Place,
    namespace: &OwnedFd,
    interface: &Interface,
) -> Step<Plugged> {
    place.enter()?;
    let mut rules = Rules::open().step("open a netlink socket")?;
    let claimed = claim(place, interface)?;
    let made = (claimed, ensure(place, interface, &mut rules)?);
    let mut host = Links::open().step("open a netlink socket")?;
    move_into_thread_name_spaces(namespace.as_fd(), ThreadNameSpaceType::NETWORK)
        .step("join the container's network")?;
    let mut inside = Links::open().step("open a netlink socket")?;
    let step = "look at the container's interfaces";
    let names = inside.names().step(step)?;
    let name = (0..=names.len())
        .map(|number| format!("eth{number}"))
        .find(|name| names.iter().all(|(_, known)| known != name))
        .unwrap_or_else(|| "eth".to_owned());
    let routed = inside.routes().step(step)?;
    let routed = routed.iter().any(|route| route.prefix == 0);
    let plugged = plug(&mut host, namespace, interface, made, &name)?;
    settle(&mut inside, interface, &plugged.connected, !routed)?;
    Ok(plugged)
}

/// Takes an interface out of a network namespace. Moves the calling thread there.
pub(crate) fn detach_from(namespace: &OwnedFd, name: &str) -> Step<()> {
    move_into_thread_name_spaces(namespace.as_fd(), ThreadNameSpaceType::NETWORK)
        .step("join the container's network")?;
    let mut inside = Links::open().step("open a netlink socket")?;
    let index = inside.index_of(name).step_at("find the interface", name)?;
    inside.remove(index).step_at("remove the interface", name)
}

/// Makes the bridge that an interface goes to; none if it goes to none.
fn ensure(place: &Place, interface: &Interface, rules: &mut Rules) -> Step<Option<Bridge>> {
    match &interface.lan {
        Some(Lan {
            kind: LanKind::Macvlan { .. },
            ..
        }) => Ok(None),
        lan => shared::ensure(place, lan.as_ref(), rules).map(Some),
    }
}

/// An address in a network that users made, with the right to it.
type Claimed = Option<(Ipv4Addr, File)>;

fn claim(place: &Place, interface: &Interface) -> Step<Claimed> {
    let lan = interface.lan.as_ref();
    lan.map(|lan| leases::claim(place, lan, interface))
        .transpose()
}

/// Connects a namespace with a network, of which address and bridge were made sure of.
fn plug(
    host: &mut Links,
    namespace: &OwnedFd,
    interface: &Interface,
    (claimed, bridge): (Claimed, Option<Bridge>),
    name: &str,
) -> Step<Plugged> {
    let hardware = interface.hardware;
    let (Some(lan), Some((address, lease))) = (&interface.lan, claimed) else {
        let bridge = bridge.ok_or_else(no_bridge)?;
        let address = claim_shared(host, &bridge, namespace, hardware, name, false)?;
        return Ok(Plugged {
            connected: Connected {
                lan: None,
                name: name.to_owned(),
                address: Some(address),
                prefix: bridge.subnet().prefix(),
                gateway: Some(bridge.gateway()),
                hardware: hardware.unwrap_or_else(|| link::hardware_address(address)),
            },
            lease: None,
        });
    };
    let hardware = hardware.unwrap_or_else(|| link::hardware_address(address));
    let step = "connect the sandbox to the network";
    match &lan.kind {
        LanKind::Macvlan { parent, mode } => {
            let parent_index = host
                .index_of(parent)
                .step_at("find the interface", parent)?;
            host.add_macvlan(name, parent_index, *mode, namespace, hardware)
                .step_at(step, parent)?;
        }
        LanKind::Bridge => {
            let bridge = bridge.ok_or_else(no_bridge)?;
            let veth = shared::veth(address);
            // The address is ours: who had it before has gone, its interface perhaps not yet.
            if let Ok(stale) = host.index_of(&veth) {
                let _ = host.remove(stale);
            }
            let index = host.index_of(bridge.name()).step_at(step, bridge.name())?;
            host.add_veth(&veth, index, namespace, name, hardware)
                .step_at(step, &veth)?;
            let index = host.index_of(&veth).step_at(step, &veth)?;
            host.up(index).step_at(step, &veth)?;
        }
    }
    Ok(Plugged {
        connected: Connected {
            lan: Some(lan.id.clone()),
            name: name.to_owned(),
            address: Some(address),
            prefix: lan.subnet.prefix(),
            gateway: lan.gateway,
            hardware,
        },
        lease: Some(lease),
    })
}

fn no_bridge() -> Failure {
    let missing = std::io::Error::from_raw_os_error(libc::ENODEV);
    Failure::new("find the bridge", &missing)
}

/// Gives a new interface its address, and the default route if it leads outside and none is there.
fn settle(
    inside: &mut Links,
    interface: &Interface,
    connected: &Connected,
    wants_route: bool,
) -> Step<bool> {
    if let Some(address) = connected.address {
        inside::configure(inside, &connected.name, address, connected.prefix)?;
    }
    let internal = interface.lan.as_ref().is_some_and(|lan| lan.internal);
    match connected.gateway {
        Some(gateway) if wants_route && !internal => {
            inside
                .add_default_route(gateway)
                .step("add the default route")?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The networks that the host has routes to.
pub(crate) fn routed_subnets() -> std::io::Result<Vec<Subnet>> {
    let routes = Links::open()?.routes()?;
    let subnets = routes.iter().filter(|route| route.prefix != 0);
    Ok(subnets
        .map(|route| Subnet::around(route.network, route.prefix))
        .collect())
}

/// Moves the process into a new network namespace and opens it.
fn new_namespace() -> Step<OwnedFd> {
    sys::unshare(libc::CLONE_NEWNET).step("make a network namespace")?;
    open(
        c"/proc/thread-self/ns/net",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("open the network namespace")
}

/// Moves the process into the network of the sandbox whose first process is `pid`.
pub(crate) fn join(pid: u32) -> Step<()> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .step_at("open the network of the other container", &path)?;
    move_into_thread_name_spaces(namespace.as_fd(), ThreadNameSpaceType::NETWORK).map_err(|error| {
        let failure = Failure::new("join the network of the other container", &error.into());
        if error == rustix::io::Errno::PERM {
            return failure.because("it is in another user namespace");
        }
        failure
    })
}

/// Tries what a private network needs, in the network namespace of the calling thread, which is moved
/// to a new one.
pub(crate) fn probe() -> Result<(), String> {
    let missing = |what: &str, error: std::io::Error| format!("{what}: {error}");
    sys::unshare(libc::CLONE_NEWNET).map_err(|error| missing("network namespace", error))?;
    let mut links = Links::open().map_err(|error| missing("netlink", error))?;
    let gateway = Ipv4Addr::new(10, 89, 0, 1);
    links
        .add_bridge("rbuild0", gateway)
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
    let address = Ipv4Addr::new(10, 89, 0, 2);
    let hardware = link::hardware_address(address);
    links
        .add_veth("rbv0", bridge, &namespace, "eth0", hardware)
        .map_err(|error| missing("veth", error))?;
    let bridge = Bridge::of_probe("rbuild0", gateway);
    Rules::open()
        .and_then(|mut rules| rules.install(&bridge, &["eth0".to_owned()]))
        .map_err(|error| missing("nftables with masquerade", error))
}

/// Makes a veth pair whose name, and so whose address, nobody else has.
fn claim_shared(
    host: &mut Links,
    bridge: &Bridge,
    namespace: &OwnedFd,
    hardware: Option<[u8; 6]>,
    inside: &str,
    isolated: bool,
) -> Step<Ipv4Addr> {
    let step = "connect the sandbox to the network";
    // Begins anywhere, so that sandboxes that start at once seldom ask for the same.
    let mut start = [0];
    rustix::rand::getrandom(&mut start, rustix::rand::GetRandomFlags::empty())
        .step("choose an address")?;
    let index = host
        .index_of(bridge.name())
        .step_at("find the bridge", bridge.name())?;
    let hosts: Vec<Ipv4Addr> = bridge
        .subnet()
        .hosts()
        .filter(|address| *address != bridge.gateway())
        .collect();
    for attempt in 0..hosts.len() {
        let address = hosts[(usize::from(start[0]) + attempt) % hosts.len()];
        let name = shared::veth(address);
        let hardware = hardware.unwrap_or_else(|| link::hardware_address(address));
        match host.add_veth(&name, index, namespace, inside, hardware) {
            Ok(()) => {
                let index = host.index_of(&name).step(step)?;
                if isolated {
                    host.isolate(index)
                        .step("isolate the sandbox from others")?;
                }
                host.up(index).step(step)?;
                return Ok(address);
            }
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(Failure::new("make a veth pair", &error)),
        }
    }
    let full = std::io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
    Err(Failure::new("find a free address", &full)
        .because(format!("{} sandboxes are connected already", hosts.len())))
}
