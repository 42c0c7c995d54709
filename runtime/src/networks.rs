//! Networks that users made: what was asked for, one file each. What is made of them while somebody is
//! in them is told in [`net`](crate::net).
//!
//! ```text
//! networks/<id>.json   a network; under a lock on the directory when names and addresses are given
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use crate::net;
use crate::{Lan, LanKind, Owner, Subnet};

/// The networks that are always there: of sandboxes of the host, the host's, none.
pub const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

/// Subnets of this size are given to networks that ask for none.
const PREFIX: u8 = 24;

/// The first bytes of addresses that are given: `10.90` to `10.99`.
const POOL: std::ops::RangeInclusive<u8> = 90..=99;

/// All networks of a store.
#[derive(Debug, Clone)]
pub struct Networks {
    root: PathBuf,
    state_dir: PathBuf,
}

/// What was asked for when a network was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Its name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Addresses and how they are connected; the ID.
    pub lan: Lan,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver as they were given.
    pub options: BTreeMap<String, String>,
    /// Whether containers that run may be connected, as it was asked for; they always may.
    pub attachable: bool,
}

/// A network to be made.
#[derive(Debug, Clone, Default)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// Its addresses; some that nobody has if none.
    pub subnet: Option<Subnet>,
    /// The host's address; the first one if none.
    pub gateway: Option<Ipv4Addr>,
    /// Where addresses of containers come from.
    pub range: Option<Subnet>,
    /// Nothing outside can be reached.
    pub internal: bool,
    /// How it is connected; a bridge if none.
    pub kind: Option<LanKind>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// See [`NetworkConfig::attachable`].
    pub attachable: bool,
}

/// Why something could not be done with networks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// There is none with this name or beginning of an ID.
    #[error("network {0} not found")]
    NotFound(String),
    /// Several IDs begin like this.
    #[error("network {query} is ambiguous ({matches} matches found on ID prefix)")]
    Ambiguous {
        /// What was asked for.
        query: String,
        /// How many networks.
        matches: usize,
    },
    /// There is one with this name.
    #[error("network with name {0} already exists")]
    Exists(String),
    /// It is not a name.
    #[error("invalid network name {0:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    InvalidName(String),
    /// It is always there.
    #[error("{0} is a pre-defined network and cannot be removed")]
    Predefined(String),
    /// Addresses that another network has.
    #[error(
        "invalid pool request: Pool overlaps with other one on this address space: {subnet} and {other}"
    )]
    Overlaps {
        /// What was asked for.
        subnet: Subnet,
        /// Who has it.
        other: String,
    },
    /// Addresses that do not fit together.
    #[error("{0}")]
    Addresses(String),
    /// Containers run in it.
    #[error("error while removing network: network {name} has active endpoints ({endpoints})")]
    InUse {
        /// The network.
        name: String,
        /// Who is in it.
        endpoints: String,
    },
    /// A file cannot be read or written.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl NetworkError {
    fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> NetworkError {
        let path = path.into();
        move |source| NetworkError::Io {
            action,
            path,
            source,
        }
    }
}

impl NetworkConfig {
    /// The first twelve digits of its ID.
    pub fn short_id(&self) -> &str {
        self.lan.id.get(..12).unwrap_or(&self.lan.id)
    }

    /// The name of its driver.
    pub fn driver(&self) -> &'static str {
        match self.lan.kind {
            LanKind::Bridge => "bridge",
            LanKind::Macvlan { .. } => "macvlan",
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter();
    digits.fold(String::new(), |digits, byte| {
        digits + &format!("{byte:02x}")
    })
}

/// The ID of a network that is always there.
pub fn predefined_id(name: &str) -> String {
    format!("{:0<64}", hex(name.as_bytes()))
}

impl Networks {
    /// Uses the directory `root`, which is made when the first network is, and the directory of small state
    /// that tells who is in a network; see [`RuntimeOptions`](crate::RuntimeOptions).
    pub fn new(root: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Networks {
        Networks {
            root: root.into(),
            state_dir: state_dir.into(),
        }
    }

    /// All that users made, by name.
    pub fn list(&self) -> Result<Vec<NetworkConfig>, NetworkError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(NetworkError::io("list", &self.root)(error)),
        };
        let mut found: Vec<NetworkConfig> = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                found.extend(read(&path)?);
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The network with this name, ID or unique beginning of an ID; a name counts first.
    pub fn find(&self, query: &str) -> Result<NetworkConfig, NetworkError> {
        let mut all = self.list()?;
        if let Some(at) = all.iter().position(|network| network.name == query) {
            return Ok(all.swap_remove(at));
        }
        all.retain(|network| !query.is_empty() && network.lan.id.starts_with(query));
        match all.len() {
            0 => Err(NetworkError::NotFound(query.to_owned())),
            1 => Ok(all.swap_remove(0)),
            matches => Err(NetworkError::Ambiguous {
                query: query.to_owned(),
                matches,
            }),
        }
    }

    /// Makes a network.
    pub fn create(&self, new: NewNetwork) -> Result<NetworkConfig, NetworkError> {
        let short =
            new.name.len() == 1 && new.name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !short && !crate::container::is_name(&new.name) {
            return Err(NetworkError::InvalidName(new.name));
        }
        fs::create_dir_all(&self.root)
            .map_err(NetworkError::io("make the directory", &self.root))?;
        let _lock = self.lock()?;
        let all = self.list()?;
        let taken = |network: &NetworkConfig| network.name == new.name;
        if all.iter().any(taken) || PREDEFINED.contains(&new.name.as_str()) {
            return Err(NetworkError::Exists(new.name));
        }
        let kind = new.kind.unwrap_or(LanKind::Bridge);
        let bridged = kind == LanKind::Bridge;
        let subnet = choose_subnet(new.subnet, &all, bridged)?;
        let gateway = match new.gateway {
            // On an interface of the host there may be no router.
            None if bridged => subnet.hosts().next(),
            gateway => gateway,
        };
        check_addresses(subnet, gateway, new.range)?;
        let mut bytes = [0_u8; 32];
        getrandom(&mut bytes, GetRandomFlags::empty())
            .map_err(|error| NetworkError::io("make an ID in", &self.root)(error.into()))?;
        let network = NetworkConfig {
            name: new.name,
            created: jiff::Timestamp::now().to_string(),
            lan: Lan {
                id: hex(&bytes),
                subnet,
                gateway,
                range: new.range,
                internal: new.internal,
                kind,
            },
            labels: new.labels,
            options: new.options,
            attachable: new.attachable,
        };
        self.write(&network)?;
        Ok(network)
    }

    /// Who is in a network now, with addresses.
    pub fn users(&self, network: &NetworkConfig) -> Vec<(Ipv4Addr, Owner)> {
        net::find_leases(&self.state_dir.join("network"), &network.lan.id)
    }

    /// Removes a network that nobody is in.
    pub fn remove(&self, network: &NetworkConfig) -> Result<(), NetworkError> {
        let _lock = self.lock()?;
        let users = self.users(network);
        if !users.is_empty() {
            let endpoint = |(_, owner): &(Ipv4Addr, Owner)| {
                let id = owner.id.get(..12).unwrap_or(&owner.id);
                format!("name:{:?} id:{id:?}", owner.name)
            };
            let endpoints: Vec<String> = users.iter().map(endpoint).collect();
            return Err(NetworkError::InUse {
                name: network.name.clone(),
                endpoints: endpoints.join(", "),
            });
        }
        let path = self.path(&network.lan.id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(NetworkError::NotFound(network.name.clone()))
            }
            Err(error) => Err(NetworkError::io("remove", path)(error)),
            Ok(()) => Ok(()),
        }
    }

    /// Tells those who look for a container in the networks that it is in that it has another name.
    pub fn rename_user(&self, id: &str, name: &str) -> Result<(), NetworkError> {
        let shared = self.state_dir.join("network");
        for network in self.list()? {
            net::rename_in_leases(&shared, &network.lan.id, id, name)
                .map_err(NetworkError::io("write a lease in", &shared))?;
        }
        Ok(())
    }

    fn path(&self, id: &str) -> PathBuf {
        self.root.join(format!("{id}.json"))
    }

    fn lock(&self) -> Result<File, NetworkError> {
        let lock = File::open(&self.root).map_err(NetworkError::io("open", &self.root))?;
        rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
            .map_err(|error| NetworkError::io("lock", &self.root)(error.into()))?;
        Ok(lock)
    }

    fn write(&self, network: &NetworkConfig) -> Result<(), NetworkError> {
        let path = self.path(&network.lan.id);
        let beside = path.with_extension("new");
        let written = serde_json::to_vec(network)
            .map_err(io::Error::from)
            .and_then(|bytes| {
                let mut file = File::create(&beside)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                fs::rename(&beside, &path)
            });
        written.map_err(|error| {
            // What could not be renamed is of no use; the first error counts.
            let _ = fs::remove_file(&beside);
            NetworkError::io("write", path)(error)
        })
    }
}

/// Removes what killed programs have left on the host of networks that nobody uses any more: bridges,
/// rules, leases.
pub fn sweep(state_dir: &Path) {
    net::sweep(state_dir);
}

fn read(path: &Path) -> Result<Option<NetworkConfig>, NetworkError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        // Removed since the directory was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(NetworkError::io("read", path)(error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| NetworkError::io("understand", path)(error.into()))
}

/// The subnet that was asked for, or one that no network and no route of the host has.
fn choose_subnet(
    wanted: Option<Subnet>,
    all: &[NetworkConfig],
    bridged: bool,
) -> Result<Subnet, NetworkError> {
    let taken = |subnet: Subnet| {
        all.iter()
            .filter(|network| bridged && network.lan.kind == LanKind::Bridge)
            .find(|network| network.lan.subnet.overlaps(subnet))
    };
    if let Some(subnet) = wanted {
        return match taken(subnet) {
            None => Ok(subnet),
            Some(other) => Err(NetworkError::Overlaps {
                subnet,
                other: format!("{} of the network {}", other.lan.subnet, other.name),
            }),
        };
    }
    let routed = net::routed_subnets().unwrap_or_default();
    let mut candidates: Vec<Subnet> = POOL
        .flat_map(|second| (0..=u8::MAX).map(move |third| Ipv4Addr::new(10, second, third, 0)))
        .map(|network| Subnet::around(network, PREFIX))
        .collect();
    // Begins anywhere: networks of other stores are not on the host before somebody is in them.
    let mut start = [0; 2];
    if getrandom(&mut start, GetRandomFlags::empty()).is_ok() {
        let count = candidates.len();
        candidates.rotate_left(usize::from(u16::from_ne_bytes(start)) % count);
    }
    candidates
        .into_iter()
        .find(|subnet| {
            taken(*subnet).is_none() && routed.iter().all(|route| !route.overlaps(*subnet))
        })
        .ok_or_else(|| {
            NetworkError::Addresses(
                "all predefined address pools have been fully subnetted: `--subnet` names another one"
                    .to_owned(),
            )
        })
}

fn check_addresses(
    subnet: Subnet,
    gateway: Option<Ipv4Addr>,
    range: Option<Subnet>,
) -> Result<(), NetworkError> {
    if subnet.prefix() > 30 {
        return Err(NetworkError::Addresses(format!(
            "invalid subnet {subnet}: it has no room for a gateway and a container"
        )));
    }
    if let Some(gateway) = gateway
        && !subnet.contains(gateway)
    {
        return Err(NetworkError::Addresses(format!(
            "no matching subnet for gateway {gateway}"
        )));
    }
    if let Some(range) = range
        && (!subnet.contains(range.network()) || range.prefix() < subnet.prefix())
    {
        return Err(NetworkError::Addresses(format!(
            "no matching subnet for range {range}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> NewNetwork {
        NewNetwork {
            name: name.to_owned(),
            ..NewNetwork::default()
        }
    }

    #[test]
    fn networks_are_made_found_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let networks = Networks::new(directory.path().join("n"), directory.path());
        assert!(networks.list().unwrap().is_empty());
        let one = networks.create(new("one")).unwrap();
        let two = networks.create(new("two")).unwrap();
        assert!(!one.lan.subnet.overlaps(two.lan.subnet));
        assert!(one.lan.subnet.contains(one.lan.gateway.unwrap()));
        assert_eq!(networks.find("two").unwrap(), two);
        assert_eq!(networks.find(&one.lan.id[..10]).unwrap(), one);
        for name in ["one", "bridge", "host"] {
            let error = networks.create(new(name)).unwrap_err();
            assert!(matches!(error, NetworkError::Exists(_)), "{error}");
        }
        assert!(networks.create(new("-x")).is_err());
        let overlapping = NewNetwork {
            subnet: Some(one.lan.subnet),
            ..new("three")
        };
        let error = networks.create(overlapping).unwrap_err();
        assert!(error.to_string().contains("Pool overlaps"), "{error}");
        networks.remove(&one).unwrap();
        assert_eq!(networks.list().unwrap(), [two]);
        assert!(networks.find("one").is_err() && networks.remove(&one).is_err());
    }

    #[test]
    fn addresses_have_to_fit() {
        let directory = tempfile::tempdir().unwrap();
        let networks = Networks::new(directory.path().join("n"), directory.path());
        let with = |subnet: &str, gateway: Option<&str>, range: Option<&str>| {
            networks.create(NewNetwork {
                subnet: Some(subnet.parse().unwrap()),
                gateway: gateway.map(|gateway| gateway.parse().unwrap()),
                range: range.map(|range| range.parse().unwrap()),
                ..new("x")
            })
        };
        for (subnet, gateway, range) in [
            ("10.1.0.0/24", Some("10.2.0.1"), None),
            ("10.1.0.0/24", None, Some("10.2.0.0/25")),
            ("10.1.0.0/24", None, Some("10.1.0.0/16")),
            ("10.1.0.0/31", None, None),
        ] {
            assert!(with(subnet, gateway, range).is_err(), "{subnet}");
        }
        with("10.1.0.0/24", Some("10.1.0.9"), Some("10.1.0.128/25")).unwrap();
    }
}
