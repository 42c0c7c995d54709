//! What a sandbox sees of the network.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a sandbox sees of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// A loopback interface and nothing else.
    #[default]
    None,
    /// The network of the host, abstract sockets included.
    Host,
    /// An own network with outgoing connections, by a bridge and address translation, and no way to
    /// other sandboxes.
    ///
    /// Name servers at `127.x.x.x` in the host's `resolv.conf` cannot be reached from there: the
    /// caller, who writes the sandbox's `resolv.conf`, must give others.
    Private,
    /// Interfaces in networks whose sandboxes reach each other.
    Attached(Attached),
    /// The network of a sandbox that runs, by the process id of its first process.
    Joined(u32),
}

/// The interfaces of a sandbox: `eth0`, `eth1` and so on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// In this order. The first that leads outside has the default route.
    pub interfaces: Vec<Interface>,
    /// Makes sockets for a name server inside, at [`NAME_SERVER`]; see
    /// [`Running::take_connections`](crate::Running::take_connections).
    pub name_server: bool,
    /// The host name, which the file at `/etc/hosts` gets a line for, with the first address.
    pub host_name: Option<String>,
}

/// Where a name server that belongs to a sandbox listens inside it.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The network; none for the one that all sandboxes of the host share.
    pub lan: Option<Lan>,
    /// The address that it has to have.
    pub address: Option<Ipv4Addr>,
    /// The hardware address; none for one that follows from the address.
    pub hardware: Option<[u8; 6]>,
    /// Who has it, and by which names others find it.
    pub owner: Owner,
}

/// Who has an address in a network: what lies in the file of its lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The container's ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Further names, in lower case.
    pub aliases: Vec<String>,
}

/// A network with a bridge of its own, or on an interface of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lan {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its addresses.
    pub subnet: Subnet,
    /// The host's own address in it; for macvlan the router, if there is one.
    pub gateway: Option<Ipv4Addr>,
    /// Where addresses are taken from; none for the whole subnet.
    pub range: Option<Subnet>,
    /// Nothing outside can be reached.
    pub internal: bool,
    /// How it is made.
    pub kind: LanKind,
}

/// How a [`Lan`] is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LanKind {
    /// A bridge of its own, with address translation.
    Bridge,
    /// Hosts of their own on an interface of the host.
    Macvlan {
        /// The interface of the host.
        parent: String,
        /// Who can reach whom.
        mode: MacvlanMode,
    },
}

/// Who of the interfaces on one parent can reach each other (`linux/if_link.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub enum MacvlanMode {
    Private = 1,
    Vepa = 2,
    Bridge = 4,
    Passthru = 8,
}

/// An interface as it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// The network's ID; none for the one that all share.
    pub lan: Option<String>,
    /// Its name inside.
    pub name: String,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// The host's address in the network.
    pub gateway: Option<Ipv4Addr>,
    /// Its hardware address.
    pub hardware: [u8; 6],
}

/// An IPv4 network, such as `10.89.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The network of `prefix` bits, at most 32, that an address is in.
    pub fn around(address: Ipv4Addr, prefix: u8) -> Subnet {
        let prefix = prefix.min(32);
        let network = Ipv4Addr::from(u32::from(address) & mask(prefix));
        Subnet { network, prefix }
    }

    /// The network address.
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Length of the prefix in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The address of all hosts.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) | !mask(self.prefix))
    }

    /// The bits of an address that name the network.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix))
    }

    /// Whether an address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        Subnet::around(address, self.prefix) == self
    }

    /// Whether some address is in both.
    pub fn overlaps(self, other: Subnet) -> bool {
        let prefix = self.prefix.min(other.prefix);
        Subnet::around(self.network, prefix) == Subnet::around(other.network, prefix)
    }

    /// The addresses that hosts may have, in order.
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let (first, last) = (u32::from(self.network), u32::from(self.broadcast()));
        let (first, last) = match self.prefix {
            // Too small for addresses of network and broadcast.
            31.. => (first, last),
            _ => (first + 1, last - 1),
        };
        (first..=last).map(Ipv4Addr::from)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = String;

    /// Reads `ADDRESS/PREFIX`; bits behind the prefix do not count.
    fn from_str(text: &str) -> Result<Subnet, String> {
        let invalid = || format!("invalid CIDR address: {text}");
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        if prefix > 32 {
            return Err(invalid());
        }
        Ok(Subnet::around(address, prefix))
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> Result<Subnet, String> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_read_and_compared() {
        assert_eq!(subnet("10.1.2.3/16").to_string(), "10.1.0.0/16");
        assert!(subnet("10.1.0.0/16").overlaps(subnet("10.1.9.0/24")));
        assert!(subnet("10.1.9.0/24").overlaps(subnet("10.1.0.0/16")));
        assert!(!subnet("10.1.9.0/24").overlaps(subnet("10.1.8.0/24")));
        assert!(subnet("0.0.0.0/0").contains(Ipv4Addr::new(1, 2, 3, 4)));
        assert_eq!(subnet("10.0.0.0/30").broadcast().to_string(), "10.0.0.3");
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "x/8", "::1/64"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_are_neither_network_nor_broadcast() {
        let hosts = |text: &str| -> Vec<String> {
            subnet(text).hosts().map(|host| host.to_string()).collect()
        };
        assert_eq!(hosts("10.0.0.0/30"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(hosts("10.0.0.4/31"), ["10.0.0.4", "10.0.0.5"]);
        assert_eq!(hosts("10.0.0.7/32"), ["10.0.0.7"]);
    }
}
