//! Making, finding and removing the networks that all programs of a host share.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::link::{Links, Route};
use super::nft::Rules;
use super::{Place, forwarding, router};
use crate::cgroup::owner_name;
use crate::spec::{Lan, Subnet};
use crate::userns::in_user_namespace;
use crate::wire::{Failure, InStep as _, Step};

/// A bridge as the state file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bridge {
    /// The boot in which it was made: nothing of it outlives that.
    boot: String,
    /// Its name, and that of the table of rules.
    name: String,
    /// Its addresses.
    subnet: Subnet,
    /// The host's own address.
    gateway: Ipv4Addr,
    /// Nothing is forwarded out of it.
    internal: bool,
    /// Interfaces on which forwarding was off before.
    opened: Vec<String>,
}

/// More networks than anybody has state directories.
const NUMBERS: std::ops::Range<u8> = 0..16;

impl Bridge {
    /// A bridge to try something with.
    pub(super) fn of_probe(name: &str, gateway: Ipv4Addr) -> Bridge {
        Bridge {
            boot: String::new(),
            name: name.to_owned(),
            subnet: Subnet::around(gateway, 24),
            gateway,
            internal: false,
            opened: Vec::new(),
        }
    }

    /// Its name, and that of the table of rules.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses.
    pub(super) fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The host's own address.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// Whether nothing is forwarded out of it.
    pub(super) fn is_internal(&self) -> bool {
        self.internal
    }
}

/// Name of the bridge of a network that a user made.
pub(super) fn bridge_name(lan: &str) -> String {
    format!("rbuild-{}", lan.get(..8).unwrap_or(lan))
}

/// Name of the host's end of the veth pair of the host with an address.
pub(super) fn veth(address: Ipv4Addr) -> String {
    format!("rbv{:08x}", u32::from(address))
}

/// A spawner's share in the shared network: a file that is locked as long as it lives.
#[derive(Debug)]
pub(crate) struct Membership {
    directory: PathBuf,
    name: PathBuf,
    file: File,
}

impl Membership {
    /// Announces this process as a user. Does not wait for others.
    pub(crate) fn join(directory: &Path) -> Step<Self> {
        let users = directory.join("users");
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
                    directory: directory.to_path_buf(),
                    name,
                    file,
                });
            }
        }
    }

    /// Leaves, and removes the networks that nobody else uses. What fails is left to the next.
    pub(crate) fn leave(self) {
        let Ok(_lock) = lock(&self.directory) else {
            return;
        };
        let _ = fs::remove_file(&self.name);
        drop(self.file);
        clean(&self.directory);
    }
}

/// Removes what killed programs have left: networks that nobody uses, with their bridges and rules.
///
/// What fails is left to the next.
pub(crate) fn sweep(state_dir: &Path) {
    let directory = state_dir.join("network");
    if !directory.exists() {
        return;
    }
    router::sweep(&directory);
    let Ok(_lock) = lock(&directory) else { return };
    clean(&directory);
}

/// Removes networks without users. To be called under the lock.
fn clean(directory: &Path) {
    for lan in lans(directory) {
        if !anyone_else(&lan.join("leases")) && tear_down(directory, &lan).is_ok() {
            // Sockets that nobody has.
            let _ = fs::remove_dir_all(lan.join("wires"));
            // In this order: a directory that holds something new stays.
            let _ = fs::remove_dir(lan.join("leases"));
            let _ = fs::remove_dir(lan);
        }
    }
    if !anyone_else(&directory.join("users")) {
        let _ = tear_down(directory, directory);
    }
}

/// Directories of the networks that users made.
fn lans(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("lans"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// Looks for a user that lives; removes the files of those that do not.
fn anyone_else(users: &Path) -> bool {
    let Ok(entries) = fs::read_dir(users) else {
        return false;
    };
    let mut alive = false;
    for entry in entries.flatten() {
        let Ok(file) = File::open(entry.path()) else {
            continue;
        };
        match file.try_lock() {
            // Not to know is to leave the network alone.
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => alive = true,
            Ok(()) => {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    alive
}

fn lock(directory: &Path) -> io::Result<File> {
    let file = File::create(directory.join("lock"))?;
    file.lock()?;
    Ok(file)
}

/// Returns the bridge of a network, making it first if it is not there or not whole. Without a network
/// it is the shared one. `rules` are those of the place.
pub(super) fn ensure(place: &Place, lan: Option<&Lan>, rules: &mut Rules) -> Step<Bridge> {
    let made = &place.made;
    let directory = match lan {
        None => made.clone(),
        Some(lan) => made.join("lans").join(&lan.id),
    };
    fs::create_dir_all(&directory).step_at("make the directory", &directory)?;
    let _lock = lock(made).step_at("lock the networks in", made)?;
    // Who cleans up may have removed it between these two steps.
    fs::create_dir_all(&directory).step_at("make the directory", &directory)?;
    let boot = boot().step("read the boot id")?;
    let known = load(&directory).filter(|bridge| bridge.boot == boot);
    let mut links = Links::open().step("open a netlink socket")?;
    if let Some(bridge) = &known
        && is_whole(bridge, &mut links, rules)
    {
        return Ok(bridge.clone());
    }
    let work = Making {
        all: made,
        directory: &directory,
        boot,
        remains: known,
    };
    work.make(lan, &mut links, rules).inspect_err(|_| {
        // Do not leave half of it behind. What is in a router goes with it.
        let _ = tear_down(made, &directory);
    })
}

fn boot() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
}

fn is_whole(bridge: &Bridge, links: &mut Links, rules: &mut Rules) -> bool {
    let addresses = links
        .index_of(&bridge.name)
        .and_then(|index| links.addresses(index));
    addresses.is_ok_and(|addresses| addresses.contains(&bridge.gateway))
        && rules.is_installed(&bridge.name)
}

/// What is needed to make a bridge.
struct Making<'a> {
    all: &'a Path,
    directory: &'a Path,
    boot: String,
    remains: Option<Bridge>,
}

impl Making<'_> {
    fn make(self, lan: Option<&Lan>, links: &mut Links, rules: &mut Rules) -> Step<Bridge> {
        let bridge = self.choose(lan, links)?;
        if let Ok(index) = links.index_of(&bridge.name) {
            links
                .remove(index)
                .step_at("remove the remains of the bridge", &bridge.name)?;
        }
        // Before anything is changed: whoever finds this file knows what to put back.
        store(self.directory, &bridge).step_at("write the network state in", self.directory)?;
        raise(&bridge, links, rules)?;
        Ok(bridge)
    }

    /// Decides on name, addresses and settings.
    fn choose(&self, lan: Option<&Lan>, links: &mut Links) -> Step<Bridge> {
        if let Some(remains) = &self.remains
            && let Ok(index) = links.index_of(&remains.name)
        {
            links
                .remove(index)
                .step_at("remove the remains of the bridge", &remains.name)?;
        }
        let routes = links.routes().step("read the routes")?;
        let names = links.names().step("read the interfaces")?;
        // What another network of ours has switched on was off, too.
        let mut opened = opened_by_others(self.all, self.directory, &self.boot);
        opened.extend(self.remains.iter().flat_map(|bridge| bridge.opened.clone()));
        let outward = outward_interfaces(&routes, &names);
        opened.extend(forwarding::missing(outward).step("read the forwarding settings")?);
        opened.sort();
        opened.dedup();
        let (name, subnet, gateway) = match lan {
            None => free_shared(&routes, &names)?,
            Some(lan) => of_lan(lan, &routes, &names)?,
        };
        Ok(Bridge {
            boot: self.boot.clone(),
            name,
            subnet,
            gateway,
            internal: lan.is_some_and(|lan| lan.internal),
            opened,
        })
    }
}

/// A name and addresses for the shared network that nobody has.
fn free_shared(routes: &[Route], names: &[(u32, String)]) -> Step<(String, Subnet, Ipv4Addr)> {
    let third = free_network(routes).ok_or_else(|| {
        let taken = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        Failure::new("find a free network", &taken).because("all of 10.89.0.0/16 is routed")
    })?;
    let number = free_number(names).ok_or_else(|| {
        let taken = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        Failure::new("find a free name", &taken)
            .because("too many bridges of other state directories are there")
    })?;
    let gateway = Ipv4Addr::new(10, 89, third, 1);
    Ok((
        format!("rbuild{number}"),
        Subnet::around(gateway, 24),
        gateway,
    ))
}

/// The name and addresses of a network that a user made, if the host has not got them otherwise.
fn of_lan(
    lan: &Lan,
    routes: &[Route],
    names: &[(u32, String)],
) -> Step<(String, Subnet, Ipv4Addr)> {
    let name = bridge_name(&lan.id);
    let own = names.iter().find(|(_, known)| *known == name);
    let taken = routes.iter().find(|route| {
        route.prefix != 0
            && own.is_none_or(|(index, _)| *index != route.interface)
            && Subnet::around(route.network, route.prefix).overlaps(lan.subnet)
    });
    if let Some(route) = taken {
        let error = io::Error::from_raw_os_error(libc::EADDRINUSE);
        let interface = names.iter().find(|(index, _)| *index == route.interface);
        return Err(
            Failure::new("use the addresses of the network", &error).because(format!(
                "the host reaches {}/{} by {}, which overlaps with {}",
                route.network,
                route.prefix,
                interface.map_or("another way", |(_, name)| name),
                lan.subnet
            )),
        );
    }
    let gateway = lan.gateway.or_else(|| lan.subnet.hosts().next());
    Ok((name, lan.subnet, gateway.unwrap_or(lan.subnet.network())))
}

/// Makes a bridge with its rules and settings.
fn raise(bridge: &Bridge, links: &mut Links, rules: &mut Rules) -> Step<()> {
    let host_network = "without them, use the host network";
    let step = "make the bridge";
    let name = &bridge.name;
    links.add_bridge(name, bridge.gateway).map_err(|error| {
        Failure::new(step, &error).at(name).because(format!(
            "{error}; bridges are needed for an own network: {host_network}"
        ))
    })?;
    let index = links.index_of(name).step_at(step, name)?;
    links
        .add_address(index, bridge.gateway, bridge.subnet.prefix())
        .step_at(step, name)?;
    links.up(index).step_at(step, name)?;
    let opened = bridge.opened.iter().chain([name]);
    for name in opened.filter(|_| !bridge.internal) {
        match forwarding::enable(name) {
            // An interface that has gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name != &bridge.name => {}
            done => done.map_err(|error| {
                Failure::new("switch forwarding on for", &error)
                    .at(name)
                    .because(format!("{error}; an own network needs it: {host_network}"))
            })?,
        }
    }
    rules.install(bridge, &bridge.opened).map_err(|error| {
        let why = "nftables with masquerade (nft_masq, nft_ct) are needed for an own network";
        Failure::new("install the address translation", &error)
            .because(format!("{error}; {why}: {host_network}"))
    })
}

/// Settings that the other networks of the place have switched on.
fn opened_by_others(all: &Path, except: &Path, boot: &str) -> Vec<String> {
    lans(all)
        .into_iter()
        .chain([all.to_path_buf()])
        .filter(|directory| directory != except)
        .filter_map(|directory| load(&directory))
        .filter(|bridge| bridge.boot == boot)
        .flat_map(|bridge| bridge.opened)
        .collect()
}

/// Removes everything that [`Making`] makes and puts settings back that no other network needs. Goes on
/// after errors.
fn tear_down(all: &Path, directory: &Path) -> io::Result<()> {
    let boot = boot()?;
    let state = directory.join("made");
    if in_user_namespace() && state.exists() {
        // Made by somebody with other rights.
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let Some(bridge) = load(directory).filter(|bridge| bridge.boot == boot) else {
        return match fs::remove_file(state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    let mut rules = Rules::open()?;
    let unruled = rules.remove(&bridge.name);
    let needed = opened_by_others(all, directory, &boot);
    let opened = bridge.opened.iter().filter(|name| !needed.contains(name));
    let settings = forwarding::restore(opened);
    let mut links = Links::open()?;
    let removed = match links.index_of(&bridge.name) {
        Ok(index) => links.remove(index),
        Err(_) => Ok(()),
    };
    // Not before the bridge has gone: both wait for the same.
    drop(rules);
    unruled.and(settings).and(removed)?;
    fs::remove_file(state)
}

fn load(directory: &Path) -> Option<Bridge> {
    let text = fs::read(directory.join("made")).ok()?;
    // A damaged file says as much as none.
    serde_json::from_slice(&text).ok()
}

fn store(directory: &Path, bridge: &Bridge) -> io::Result<()> {
    let draft = directory.join("made.new");
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec(bridge)?)?;
    fs::rename(draft, directory.join("made"))
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
