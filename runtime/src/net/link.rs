//! Interfaces, addresses and routes, over rtnetlink.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use crate::spec::MacvlanMode;

use super::netlink::{Attributes, CREATE, CREATE_NEW, DUMP, Message, Netlink, attribute};

const AF_INET: u8 = libc::AF_INET as u8;
const UP: u32 = libc::IFF_UP as u32;
/// `VETH_INFO_PEER` of `linux/veth.h`.
const PEER: u16 = 1;
/// `IFLA_MACVLAN_MODE` of `linux/if_link.h`.
const MACVLAN_MODE: u16 = 1;
/// `IFLA_BRPORT_ISOLATED` of `linux/if_link.h` (Linux 4.18).
const BRIDGE_PORT_ISOLATED: u16 = 33;
/// `RTEXT_FILTER_SKIP_STATS` of `linux/rtnetlink.h`.
const WITHOUT_STATISTICS: [u8; 4] = 8_u32.to_ne_bytes();
/// Of queues; unless a pair is told how many it has, the kernel makes more and takes them back, and
/// waits for all processors twice.
const ONE: [u8; 4] = 1_u32.to_ne_bytes();

/// A route of the main table that says where a network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    /// Network address; unspecified for the default route.
    pub(super) network: Ipv4Addr,
    /// Length of its prefix.
    pub(super) prefix: u8,
    /// Outgoing interface, 0 if there is none.
    pub(super) interface: u32,
}

/// The interfaces of the network namespace in which this was opened.
pub(super) struct Links(Netlink);

impl Links {
    /// Opens a socket.
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(None).map(Self)
    }

    /// Returns the number of an interface.
    ///
    /// Asks for this one: pairs of sandboxes that have ended stay for a while, and to describe one
    /// interface takes the kernel longer than all else that is asked here.
    pub(super) fn index_of(&mut self, name: &str) -> io::Result<u32> {
        let message = Message::new(libc::RTM_GETLINK, 0, &link(0, 0, 0))
            .text(libc::IFLA_IFNAME, name)
            .attribute(libc::IFLA_EXT_MASK, &WITHOUT_STATISTICS);
        let answer = self.0.get(&message)?;
        let index = answer.get(4..8).and_then(|index| index.try_into().ok());
        let index = index.ok_or(io::ErrorKind::InvalidData)?;
        Ok(u32::from_ne_bytes(index))
    }

    /// Brings an interface up.
    pub(super) fn up(&mut self, index: u32) -> io::Result<()> {
        self.0
            .request(&Message::new(libc::RTM_NEWLINK, 0, &link(0, index, UP)))
    }

    /// Makes a bridge with a fixed hardware address, which would otherwise follow its ports.
    pub(super) fn add_bridge(&mut self, name: &str, address: Ipv4Addr) -> io::Result<()> {
        let info = Attributes::default().text(libc::IFLA_INFO_KIND, "bridge");
        let message = Message::new(libc::RTM_NEWLINK, CREATE_NEW, &link(0, 0, 0))
            .text(libc::IFLA_IFNAME, name)
            .attribute(libc::IFLA_ADDRESS, &hardware_address(address))
            .nest(libc::IFLA_LINKINFO, &info);
        self.0.request(&message)
    }

    /// Makes a veth pair: `name` here as a port of `bridge`, `inside` in `namespace`.
    pub(super) fn add_veth(
        &mut self,
        name: &str,
        bridge: u32,
        namespace: &OwnedFd,
        inside: &str,
        hardware: [u8; 6],
    ) -> io::Result<()> {
        let namespace = namespace.as_raw_fd().to_ne_bytes();
        let peer = Attributes::after(&link(0, 0, 0))
            .text(libc::IFLA_IFNAME, inside)
            .attribute(libc::IFLA_ADDRESS, &hardware)
            .attribute(libc::IFLA_NUM_TX_QUEUES, &ONE)
            .attribute(libc::IFLA_NUM_RX_QUEUES, &ONE)
            .attribute(libc::IFLA_NET_NS_FD, &namespace);
        let data = Attributes::default().nest(PEER, &peer);
        let info = Attributes::default()
            .text(libc::IFLA_INFO_KIND, "veth")
            .nest(libc::IFLA_INFO_DATA, &data);
        let message = Message::new(libc::RTM_NEWLINK, CREATE_NEW, &link(0, 0, 0))
            .text(libc::IFLA_IFNAME, name)
            .attribute(libc::IFLA_NUM_TX_QUEUES, &ONE)
            .attribute(libc::IFLA_NUM_RX_QUEUES, &ONE)
            .attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes())
            .nest(libc::IFLA_LINKINFO, &info);
        self.0.request(&message)
    }

    /// Makes `inside` in `namespace`, a host of its own on the interface `parent`.
    pub(super) fn add_macvlan(
        &mut self,
        inside: &str,
        parent: u32,
        mode: MacvlanMode,
        namespace: &OwnedFd,
        hardware: [u8; 6],
    ) -> io::Result<()> {
        let namespace = namespace.as_raw_fd().to_ne_bytes();
        let data = Attributes::default().attribute(MACVLAN_MODE, &(mode as u32).to_ne_bytes());
        let info = Attributes::default()
            .text(libc::IFLA_INFO_KIND, "macvlan")
            .nest(libc::IFLA_INFO_DATA, &data);
        let mut message = Message::new(libc::RTM_NEWLINK, CREATE_NEW, &link(0, 0, 0))
            .text(libc::IFLA_IFNAME, inside)
            .attribute(libc::IFLA_LINK, &parent.to_ne_bytes())
            .attribute(libc::IFLA_NET_NS_FD, &namespace);
        if mode != MacvlanMode::Passthru {
            message = message.attribute(libc::IFLA_ADDRESS, &hardware);
        }
        self.0.request(&message.nest(libc::IFLA_LINKINFO, &info))
    }

    /// Keeps a port of a bridge from talking to other such ports.
    pub(super) fn isolate(&mut self, index: u32) -> io::Result<()> {
        let port = Attributes::default().attribute(BRIDGE_PORT_ISOLATED, &[1]);
        let fixed = link(libc::AF_BRIDGE as u8, index, 0);
        let message = Message::new(libc::RTM_SETLINK, 0, &fixed).nest(libc::IFLA_PROTINFO, &port);
        self.0.request(&message)
    }

    /// Removes an interface.
    pub(super) fn remove(&mut self, index: u32) -> io::Result<()> {
        self.0
            .request(&Message::new(libc::RTM_DELLINK, 0, &link(0, index, 0)))
    }

    /// Gives an interface an address.
    pub(super) fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> io::Result<()> {
        let index = index.to_ne_bytes();
        let fixed = [
            AF_INET, prefix, 0, 0, index[0], index[1], index[2], index[3],
        ];
        let broadcast = u32::from(address) | u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let message = Message::new(libc::RTM_NEWADDR, CREATE, &fixed)
            .attribute(libc::IFA_LOCAL, &address.octets())
            .attribute(libc::IFA_ADDRESS, &address.octets())
            .attribute(libc::IFA_BROADCAST, &broadcast.to_be_bytes());
        self.0.request(&message)
    }

    /// Returns the IPv4 addresses of an interface.
    pub(super) fn addresses(&mut self, index: u32) -> io::Result<Vec<Ipv4Addr>> {
        let message = Message::new(libc::RTM_GETADDR, DUMP, &[AF_INET, 0, 0, 0, 0, 0, 0, 0]);
        let answers = self.0.dump(&message)?;
        let of_interface = answers
            .iter()
            .filter(|answer| answer.get(4..8) == Some(&index.to_ne_bytes()[..]));
        Ok(of_interface
            .filter_map(|answer| address(attribute(answer.get(8..)?, libc::IFA_LOCAL)?))
            .collect())
    }

    /// Adds a route to everywhere.
    pub(super) fn add_default_route(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        let fixed = [
            AF_INET,
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let message = Message::new(libc::RTM_NEWROUTE, CREATE, &fixed)
            .attribute(libc::RTA_GATEWAY, &gateway.octets());
        self.0.request(&message)
    }

    /// Returns all IPv4 routes that lead somewhere, of all tables but the local one.
    pub(super) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let fixed = [AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let answers = self
            .0
            .dump(&Message::new(libc::RTM_GETROUTE, DUMP, &fixed))?;
        Ok(answers.iter().filter_map(|answer| route(answer)).collect())
    }

    /// Returns the names of interfaces by their numbers.
    pub(super) fn names(&mut self) -> io::Result<Vec<(u32, String)>> {
        let answers = self
            .0
            .dump(&Message::new(libc::RTM_GETLINK, DUMP, &link(0, 0, 0)))?;
        Ok(answers
            .iter()
            .filter_map(|answer| {
                let index = u32::from_ne_bytes(answer.get(4..8)?.try_into().ok()?);
                let name = attribute(answer.get(16..)?, libc::IFLA_IFNAME)?;
                let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
                Some((index, name.to_owned()))
            })
            .collect())
    }
}

fn route(answer: &[u8]) -> Option<Route> {
    let fixed = answer.get(..12)?;
    let (prefix, table, kind) = (fixed[1], fixed[4], fixed[7]);
    if table == libc::RT_TABLE_LOCAL || kind != libc::RTN_UNICAST {
        return None;
    }
    let attributes = &answer[12..];
    let network = attribute(attributes, libc::RTA_DST).and_then(address);
    let interface = attribute(attributes, libc::RTA_OIF)
        .and_then(|value| Some(u32::from_ne_bytes(value.try_into().ok()?)));
    Some(Route {
        network: network.unwrap_or(Ipv4Addr::UNSPECIFIED),
        prefix,
        interface: interface.unwrap_or(0),
    })
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

/// `struct ifinfomsg`, changing only the flags that are set.
fn link(family: u8, index: u32, flags: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[0] = family;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&flags.to_ne_bytes());
    fixed
}

/// A locally administered address that nobody has; the kernel's own would do, but has to be asked for.
pub(super) fn random_address() -> [u8; 6] {
    let mut bytes = [0; 6];
    // What is left of it when this fails is an address as well.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes[0] = (bytes[0] & 0xfc) | 2;
    bytes
}

/// A locally administered address made of an IPv4 address: a neighbour's memory of who has that stays
/// right.
pub(super) fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x72, a, b, c, d]
}
