//! Making, finding and removing the network that all programs of a host share.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::link::{Links, Route};
use super::{forwarding, nft};
use crate::cgroup::owner_name;
use crate::wire::{Failure, InStep as _, Step};

/// The network as the state file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Network {
    /// The boot in which it was made: nothing of it outlives that.
    boot: String,
    /// Number in the name of the bridge and of the table of rules.
    number: u8,
    /// Third byte of the network's address.
    third: u8,
    /// Interfaces on which forwarding was off before.
    opened: Vec<String>,
}

/// More networks than anybody has state directories.
const NUMBERS: std::ops::Range<u8> = 0..16;

impl Network {
    /// Name of the bridge, and of the table of rules.
    pub(super) fn name(&self) -> String {
        format!("rbuild{}", self.number)
    }

    /// Name of the host's end of the veth pair of a host in it.
    pub(super) fn veth(&self, host: u8) -> String {
        format!("rbv{}-{host}", self.number)
    }

    /// The address of a host in it.
    pub(super) fn host(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 89, self.third, number)
    }

    /// The host's own address.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.host(1)
    }
}

/// A spawner's share in the network: a file that is locked as long as it lives.
#[derive(Debug)]
pub(crate) struct Membership {
    directory: PathBuf,
    name: PathBuf,
    file: File,
}

impl Membership {
    /// Announces this process as a user. Does not wait for others.
    pub(crate) fn join(state_dir: &Path) -> Step<Self> {
        let directory = state_dir.join("network");
        let users = directory.join("users");
        // Not by the umask: the spawner has none.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&users)
            .step_at("make the directory", &users)?;
        let name = users.join(owner_name());
        loop {
            let file = File::create(&name).step_at("make", &name)?;
            file.lock().step_at("lock", &name)?;
            // Someone who cleans up may have removed the file between these two steps.
            let ours = file.metadata().step_at("look at", &name)?;
            if fs::metadata(&name).is_ok_and(|found| found.ino() == ours.ino()) {
                return Ok(Self {
                    directory,
                    name,
                    file,
                });
            }
        }
    }

    /// Leaves, and removes the network if nobody else uses it. What fails is left to the next.
    pub(crate) fn leave(self) {
        let Ok(_lock) = lock(&self.directory) else {
            return;
        };
        let _ = fs::remove_file(&self.name);
        drop(self.file);
        if !anyone_else(&self.directory.join("users")) {
            let _ = tear_down(&self.directory);
        }
    }
}

/// Looks for a user that lives; removes the files of those that do not.
fn anyone_else(users: &Path) -> bool {
    let Ok(entries) = fs::read_dir(users) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let Ok(file) = File::open(entry.path()) else {
            return false;
        };
        match file.try_lock() {
            // Not to know is to leave the network alone.
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => true,
            Ok(()) => {
                let _ = fs::remove_file(entry.path());
                false
            }
        }
    })
}

fn lock(directory: &Path) -> io::Result<File> {
    let file = File::create(directory.join("lock"))?;
    file.lock()?;
    Ok(file)
}

/// Returns the network, making it first if it is not there or not whole.
pub(super) fn ensure(state_dir: &Path) -> Step<Network> {
    let directory = state_dir.join("network");
    let _lock = lock(&directory).step_at("lock the shared network in", &directory)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").step("read the boot id")?;
    let known = load(&directory).filter(|network| network.boot == boot);
    let mut links = Links::open().step("open a netlink socket")?;
    if let Some(network) = &known
        && is_whole(network, &mut links)
    {
        return Ok(network.clone());
    }
    make(&directory, boot, known, &mut links).inspect_err(|_| {
        // Do not leave half of it behind.
        let _ = tear_down(&directory);
    })
}

fn is_whole(network: &Network, links: &mut Links) -> bool {
    let addresses = links
        .index_of(&network.name())
        .and_then(|index| links.addresses(index));
    addresses.is_ok_and(|addresses| addresses.contains(&network.gateway()))
        && nft::is_installed(&network.name())
}

fn make(
    directory: &Path,
    boot: String,
    remains: Option<Network>,
    links: &mut Links,
) -> Step<Network> {
    if let Some(remains) = &remains
        && let Ok(index) = links.index_of(&remains.name())
    {
        links
            .remove(index)
            .step_at("remove the remains of the bridge", remains.name())?;
    }
    let routes = links.routes().step("read the routes")?;
    let names = links.names().step("read the interfaces")?;
    let mut opened = remains.map_or_else(Vec::new, |network| network.opened);
    let outward = outward_interfaces(&routes, &names);
    for name in forwarding::missing(outward).step("read the forwarding settings")? {
        if !opened.contains(&name) {
            opened.push(name);
        }
    }
    let third = free_network(&routes).ok_or_else(|| {
        let taken = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        Failure::new("find a free network", &taken).because("all of 10.89.0.0/16 is routed")
    })?;
    let number = free_number(&names).ok_or_else(|| {
        let taken = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        Failure::new("find a free name", &taken)
            .because("too many bridges of other state directories are there")
    })?;
    let network = Network {
        boot,
        number,
        third,
        opened,
    };
    // Before anything is changed: whoever finds this file knows what to put back.
    store(directory, &network).step_at("write the network state in", directory)?;

    let host_network = "without them, use the host network";
    let step = "make the bridge";
    let bridge = network.name();
    links
        .add_bridge(&bridge, network.gateway())
        .map_err(|error| {
            Failure::new(step, &error).at(&bridge).because(format!(
                "{error}; bridges are needed for an own network: {host_network}"
            ))
        })?;
    let index = links.index_of(&bridge).step_at(step, &bridge)?;
    links
        .add_address(index, network.gateway(), 24)
        .step_at(step, &bridge)?;
    links.up(index).step_at(step, &bridge)?;
    for name in network
        .opened
        .iter()
        .map(String::as_str)
        .chain([bridge.as_str()])
    {
        forwarding::enable(name).map_err(|error| {
            Failure::new("switch forwarding on for", &error)
                .at(name)
                .because(format!("{error}; an own network needs it: {host_network}"))
        })?;
    }
    nft::install(&bridge, network.host(0), &network.opened).map_err(|error| {
        let why = "nftables with masquerade (nft_masq, nft_ct) are needed for an own network";
        Failure::new("install the address translation", &error)
            .because(format!("{error}; {why}: {host_network}"))
    })?;
    Ok(network)
}

/// Removes everything that [`make`] makes and puts settings back. Goes on after errors.
fn tear_down(directory: &Path) -> io::Result<()> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let Some(network) = load(directory).filter(|network| network.boot == boot) else {
        return Ok(());
    };
    let rules = nft::remove(&network.name());
    let settings = forwarding::restore(&network.opened);
    let mut links = Links::open()?;
    let bridge = match links.index_of(&network.name()) {
        Ok(index) => links.remove(index),
        Err(_) => Ok(()),
    };
    rules.and(settings).and(bridge)?;
    fs::remove_file(directory.join("state"))
}

fn load(directory: &Path) -> Option<Network> {
    let text = fs::read(directory.join("state")).ok()?;
    // A damaged file says as much as none.
    serde_json::from_slice(&text).ok()
}

fn store(directory: &Path, network: &Network) -> io::Result<()> {
    let draft = directory.join("state.new");
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec(network)?)?;
    fs::rename(draft, directory.join("state"))
}

/// Picks the first 10.89.X.0/24 that no route touches.
fn free_network(routes: &[Route]) -> Option<u8> {
    (0..=u8::MAX).find(|&third| {
        let candidate = u32::from(Ipv4Addr::new(10, 89, third, 0));
        routes.iter().all(|route| {
            let prefix = route.prefix.min(24);
            // The default route is everywhere.
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            prefix == 0 || u32::from(route.network) & mask != candidate & mask
        })
    })
}

/// Picks a number whose bridge nobody else has made.
fn free_number(names: &[(u32, String)]) -> Option<u8> {
    NUMBERS.clone().find(|number| {
        let bridge = format!("rbuild{number}");
        names.iter().all(|(_, name)| *name != bridge)
    })
}

/// Interfaces that some route goes out by.
fn outward_interfaces(routes: &[Route], names: &[(u32, String)]) -> Vec<String> {
    let mut found: Vec<String> = names
        .iter()
        .filter(|(index, name)| {
            let routed = routes.iter().any(|route| route.interface == *index);
            routed && name != "lo" && !name.starts_with("rbuild")
        })
        .map(|(_, name)| name.clone())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str, prefix: u8, interface: u32) -> Route {
        Route {
            network: text.parse().unwrap(),
            prefix,
            interface,
        }
    }

    #[test]
    fn the_network_avoids_all_routes_but_the_default_one() {
        assert_eq!(free_network(&[route("0.0.0.0", 0, 1)]), Some(0));
        assert_eq!(free_network(&[route("10.89.0.0", 24, 1)]), Some(1));
        assert_eq!(free_network(&[route("10.89.0.128", 25, 1)]), Some(1));
        assert_eq!(free_network(&[route("10.89.0.7", 32, 1)]), Some(1));
        assert_eq!(free_network(&[route("10.89.0.0", 17, 1)]), Some(128));
        assert_eq!(free_network(&[route("10.0.0.0", 8, 1)]), None);
    }

    #[test]
    fn answers_come_in_where_routes_go_out() {
        let names = [
            (1, "lo".to_owned()),
            (2, "eth0".to_owned()),
            (3, "idle0".to_owned()),
            (4, "rbuild0".into()),
        ];
        let routes = [
            route("0.0.0.0", 0, 2),
            route("127.0.0.0", 8, 1),
            route("10.89.0.0", 24, 4),
        ];
        assert_eq!(outward_interfaces(&routes, &names), ["eth0"]);
    }
}
