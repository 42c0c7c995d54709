//! The networks of a container: what it was asked for, what is made of it at each start, and what
//! stays with its monitor: forwarded ports, a name server, addresses.

mod links;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

pub use links::Link;
pub(super) use links::Linked;

use super::error::ContainerError;
use super::monitor::lock;
use super::ports::{self, Bound, PortMapping, PublishedPort, Relay};
use super::resolver::{Domain, Known, Resolver};
use super::{Container, Containers, State, state};
use crate::net::{self, Lease, Place, Tunnel};
use crate::networks::Networks;
use crate::{
    Attached, Connected, Connections, Interface, MountSource, NAME_SERVER, Network, Owner, Running,
    Sandbox, SandboxError,
};

/// The networks of a container as they were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Networking {
    /// The networks that it is in; with none, [`Sandbox::network`] counts.
    pub endpoints: Vec<Endpoint>,
    /// ID of the container whose network it uses.
    pub container: Option<String>,
    /// Ports that are reached on the host.
    pub ports: Vec<PortMapping>,
    /// Containers that it knows by names of its own.
    pub links: Vec<Link>,
}

/// A container's place in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// ID of the network; none for the one that all share.
    pub network: Option<String>,
    /// Further names of the container there.
    pub aliases: Vec<String>,
    /// The address that it has to have.
    pub address: Option<Ipv4Addr>,
    /// The hardware address that it has to have.
    pub hardware: Option<[u8; 6]>,
}

/// The networks of a container that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkState {
    /// Its interfaces.
    pub interfaces: Vec<Connected>,
    /// Its ports that are reached on the host.
    pub ports: Vec<PublishedPort>,
}

impl Container {
    /// Its interfaces and ports, as long as it runs.
    pub fn network(&self) -> Result<NetworkState, ContainerError> {
        self.network_of(&self.state()?)
    }

    /// The same for a state that is known already.
    pub fn network_of(&self, state: &State) -> Result<NetworkState, ContainerError> {
        if state.pid == 0 {
            return Ok(NetworkState::default());
        }
        Ok(state::read(&self.network_file())?.unwrap_or_default())
    }

    fn network_file(&self) -> PathBuf {
        self.directory.join("network.json")
    }

    /// Networks of the same store.
    fn networks(&self, state_dir: &Path) -> Networks {
        // Beside the directory of all containers.
        let store = self.directory.parent().and_then(Path::parent);
        Networks::new(store.unwrap_or(Path::new("/")).join("networks"), state_dir)
    }

    /// What stands in the networks' books about it.
    fn owner(&self, endpoint: &Endpoint) -> Owner {
        Owner {
            id: self.config.id.clone(),
            name: self.config_now().name,
            aliases: endpoint.aliases.clone(),
        }
    }

    /// With what others may have changed since it was read. Root and mounts never change; those in memory
    /// may have been made shallow enough to be mounted.
    fn as_it_is(&self) -> Container {
        let mut config = self.config_now();
        let known = &self.config.sandbox;
        config.sandbox.root.clone_from(&known.root);
        config.sandbox.mounts.clone_from(&known.mounts);
        Container {
            config,
            ..self.clone()
        }
    }
}

/// What a container needs of the network before it starts.
pub(super) struct Prepared {
    /// What is started.
    pub(super) sandbox: Sandbox,
    bound: Vec<Bound>,
    known: Option<Arc<Known>>,
    shared: PathBuf,
}

/// What serves a container's network as long as it runs.
#[derive(Debug)]
pub(super) struct Live(Mutex<Option<Serving>>);

#[derive(Debug)]
struct Serving {
    _relay: Option<Relay>,
    _resolver: Option<Resolver>,
    known: Option<Arc<Known>>,
    place: Place,
    state: NetworkState,
    leases: Vec<Lease>,
    /// In a user namespace: to the other parts of its networks, by their IDs.
    tunnels: Vec<(String, Tunnel)>,
}

fn failed(error: impl std::fmt::Display) -> SandboxError {
    SandboxError::Network(error.to_string())
}

/// Listens on the host and finds out what the container is to be connected with.
pub(super) fn prepare(container: &Container, state_dir: &Path) -> Result<Prepared, SandboxError> {
    // It may have been connected, and renamed, since it was started last.
    let container = &container.as_it_is();
    let networking = &container.config.networking;
    let mut sandbox = container.config.sandbox.clone();
    let mut known = None;
    if let Some(other) = &networking.container {
        join(&mut sandbox, container, other)?;
    } else if !networking.endpoints.is_empty() && sandbox.network != Network::Host {
        let (interfaces, domains) = resolve(container, state_dir)?;
        let links = linked(container)?;
        let upstream = name_servers(&mut sandbox);
        if upstream.is_some() {
            known = Some(Arc::new(Known {
                shared: state_dir.join("network"),
                domains: Mutex::new(domains),
                links,
                upstream: upstream.clone().unwrap_or_default(),
            }));
        }
        sandbox.network = Network::Attached(Attached {
            interfaces,
            name_server: known.is_some(),
            host_name: Some(host_names(&sandbox)),
        });
    }
    Ok(Prepared {
        sandbox,
        bound: ports::bind_all(&networking.ports).map_err(failed)?,
        known,
        shared: state_dir.join("network"),
    })
}

fn linked(container: &Container) -> Result<Vec<Linked>, SandboxError> {
    let root = container.directory.parent().unwrap_or(Path::new("/"));
    let containers = Containers::new(root);
    let links = container.config.networking.links.iter();
    let linked = links.map(|link| Linked::new(container, &containers, link));
    linked.collect::<Result<_, _>>().map_err(failed)
}

/// What stands behind a container's address in `/etc/hosts`.
fn host_names(sandbox: &Sandbox) -> String {
    match &sandbox.domain_name {
        Some(domain) => format!("{0}.{domain} {0}", sandbox.hostname),
        None => sandbox.hostname.clone(),
    }
}

/// Uses the network of another container, with its files.
fn join(sandbox: &mut Sandbox, container: &Container, other: &str) -> Result<(), SandboxError> {
    let root = container.directory.parent().unwrap_or(Path::new("/"));
    let other = Containers::new(root).find(other).map_err(failed)?;
    let state = other.state().map_err(failed)?;
    if state.pid == 0 {
        return Err(failed(format!(
            "cannot join network of a non running container: {}",
            other.config.id
        )));
    }
    sandbox.network = Network::Joined(state.pid);
    let mut theirs = other.config.sandbox.clone();
    let attached = !other.config.networking.endpoints.is_empty();
    if attached && theirs.network != Network::Host {
        name_servers(&mut theirs);
        let names = host_names(&theirs);
        if let Some(hosts) = file(&mut theirs, "/etc/hosts") {
            for interface in other.network_of(&state).map_err(failed)?.interfaces {
                let address = interface.address.map(|address| address.to_string());
                let line = address.map(|address| format!("{address}\t{names}\n"));
                hosts.extend(line.unwrap_or_default().into_bytes());
            }
        }
    }
    for target in ["/etc/hosts", "/etc/resolv.conf"] {
        if let (Some(own), Some(theirs)) = (file(sandbox, target), file(&mut theirs, target)) {
            theirs.clone_into(own);
        }
    }
    Ok(())
}

/// The content of a file that the caller has made for a sandbox.
fn file<'s>(sandbox: &'s mut Sandbox, target: &str) -> Option<&'s mut Vec<u8>> {
    let mut mounts = sandbox.mounts.iter_mut();
    mounts.find_map(|mount| match &mut mount.source {
        MountSource::File { content, .. } if mount.target == Path::new(target) => Some(content),
        _ => None,
    })
}

/// Looks the networks up.
fn resolve(
    container: &Container,
    state_dir: &Path,
) -> Result<(Vec<Interface>, Vec<Domain>), SandboxError> {
    let networks = container.networks(state_dir);
    let mut interfaces = Vec::new();
    let mut domains = Vec::new();
    for endpoint in &container.config.networking.endpoints {
        let owner = container.owner(endpoint);
        let (interface, domain) = interface_of(owner, &networks, endpoint)?;
        interfaces.push(interface);
        domains.extend(domain);
    }
    Ok((interfaces, domains))
}

fn interface_of(
    owner: Owner,
    networks: &Networks,
    endpoint: &Endpoint,
) -> Result<(Interface, Option<Domain>), SandboxError> {
    let network = match &endpoint.network {
        None => None,
        Some(id) => Some(networks.find(id).map_err(failed)?),
    };
    let domain = network.as_ref().map(|network| Domain {
        lan: network.lan.id.clone(),
        name: network.name.clone(),
        internal: network.lan.internal,
    });
    let interface = Interface {
        lan: network.map(|network| network.lan),
        address: endpoint.address,
        hardware: endpoint.hardware,
        owner,
    };
    Ok((interface, domain))
}

/// Makes the name server inside the one that the container asks: there may be names of other containers,
/// now or later, and the host's own name servers are perhaps not reached from inside. Returns whom that one
/// asks.
fn name_servers(sandbox: &mut Sandbox) -> Option<Vec<IpAddr>> {
    // Somebody's own file says whom to ask.
    let file = file(sandbox, "/etc/resolv.conf")?;
    let text = String::from_utf8_lossy(file).into_owned();
    let mut upstream = servers(&text);
    if upstream.is_empty() {
        // The monitor is in the host's network, where those on its loopback answer, too.
        upstream = servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    }
    let mut own: String = text
        .lines()
        .filter(|line| server(line).is_none())
        .flat_map(|line| [line, "\n"])
        .collect();
    own.push_str(&format!("nameserver {NAME_SERVER}\n"));
    if !text.lines().any(|line| line.starts_with("options")) {
        own.push_str("options ndots:0\n");
    }
    *file = own.into_bytes();
    Some(upstream)
}

fn servers(text: &str) -> Vec<IpAddr> {
    let all = text.lines().filter_map(server);
    all.filter_map(|server| server.parse().ok()).collect()
}

fn server(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next())?
}

impl Prepared {
    /// Serves the network of a container that has started.
    pub(super) fn begin(
        self,
        container: &Container,
        running: &mut Running,
    ) -> Result<Live, SandboxError> {
        let Connections {
            interfaces,
            name_server,
            leases,
            router,
        } = running.take_connections();
        let host = |action: &'static str| move |source| SandboxError::Host { action, source };
        let mut published: Vec<PublishedPort> =
            self.bound.iter().map(|bound| bound.port.clone()).collect();
        published.sort();
        let relay = if self.bound.is_empty() {
            None
        } else {
            let address = interfaces.iter().find_map(|interface| interface.address);
            let address = address.unwrap_or(Ipv4Addr::LOCALHOST);
            let started = Relay::start(self.bound, running.pidfd(), address.into());
            Some(started.map_err(host("forward ports"))?)
        };
        let resolver = match (&self.known, name_server) {
            (Some(known), Some(sockets)) => {
                let started = Resolver::start(Arc::clone(known), sockets);
                Some(started.map_err(host("start the name server"))?)
            }
            _ => None,
        };
        let (router, made) = match router {
            None => (None, self.shared.clone()),
            Some((router, made)) => (Some(router), made),
        };
        let state = NetworkState {
            interfaces,
            ports: published,
        };
        let place = Place {
            shared: self.shared,
            made,
            router,
        };
        let tunnels = tunnels(&place, container, &state.interfaces)?;
        state::write(&container.network_file(), &state).map_err(failed)?;
        Ok(Live(Mutex::new(Some(Serving {
            _relay: relay,
            _resolver: resolver,
            known: self.known,
            place,
            state,
            leases,
            tunnels,
        }))))
    }
}

impl Live {
    /// Ends it: ports and addresses are free again.
    pub(super) fn end(&self) {
        drop(lock(&self.0).take());
    }

    /// Connects the container that runs with one more network.
    pub(super) fn connect(
        &self,
        container: &Container,
        pidfd: BorrowedFd<'_>,
        state_dir: &Path,
        endpoint: &Endpoint,
    ) -> Result<(), SandboxError> {
        let networks = container.networks(state_dir);
        let owner = container.owner(endpoint);
        let (interface, domain) = interface_of(owner, &networks, endpoint)?;
        let lan = interface.lan.as_ref().map(|lan| lan.id.clone());
        let mut serving = lock(&self.0);
        let serving = serving.as_mut().ok_or_else(ended)?;
        if serving
            .state
            .interfaces
            .iter()
            .any(|known| known.lan == lan)
        {
            return Err(failed("the container is in this network already"));
        }
        let namespace = namespace_of(pidfd)?;
        let plugged = on_a_thread(|| net::attach_to(&serving.place, &namespace, &interface))?;
        if let (Some(file), Some(lan), Some(address)) =
            (plugged.lease, &lan, plugged.connected.address)
        {
            let lease = Lease::take(&serving.place.shared, lan, address, file);
            serving.leases.push(lease);
        }
        let more = tunnels(
            &serving.place,
            container,
            std::slice::from_ref(&plugged.connected),
        )?;
        serving.tunnels.extend(more);
        if let Some(known) = &serving.known {
            lock(&known.domains).extend(domain);
        }
        serving.state.interfaces.push(plugged.connected);
        state::write(&container.network_file(), &serving.state).map_err(failed)
    }

    /// Takes the container that runs out of a network.
    pub(super) fn disconnect(
        &self,
        container: &Container,
        pidfd: BorrowedFd<'_>,
        lan: Option<&str>,
    ) -> Result<(), SandboxError> {
        let mut serving = lock(&self.0);
        let serving = serving.as_mut().ok_or_else(ended)?;
        let mut interfaces = serving.state.interfaces.iter();
        let found = interfaces.find(|interface| interface.lan.as_deref() == lan);
        let interface = found
            .cloned()
            .ok_or_else(|| failed("the container is not in this network"))?;
        let namespace = namespace_of(pidfd)?;
        on_a_thread(|| net::detach_from(&namespace, &interface.name))?;
        if let (Some(lan), Some(address)) = (lan, interface.address) {
            let shared = &serving.place.shared;
            serving
                .leases
                .retain(|lease| !lease.is_for(shared, lan, address));
        }
        serving
            .tunnels
            .retain(|(known, _)| Some(known.as_str()) != lan);
        if let Some(known) = &serving.known {
            lock(&known.domains).retain(|domain| Some(domain.lan.as_str()) != lan);
        }
        let interfaces = &mut serving.state.interfaces;
        interfaces.retain(|known| known.lan.as_deref() != lan);
        state::write(&container.network_file(), &serving.state).map_err(failed)
    }
}

fn ended() -> SandboxError {
    failed("the container has ended")
}

/// Connects the networks of users, whose bridges are in a router, with their other parts.
fn tunnels(
    place: &Place,
    container: &Container,
    interfaces: &[Connected],
) -> Result<Vec<(String, Tunnel)>, SandboxError> {
    if place.router.is_none() {
        return Ok(Vec::new());
    }
    let start = |interface: &Connected| {
        let (lan, gateway) = (interface.lan.clone()?, interface.gateway?);
        let name = container.short_id();
        Some(Tunnel::start(place, &lan, gateway, name).map(|tunnel| (lan, tunnel)))
    };
    let all = interfaces.iter().filter_map(start);
    Ok(all.collect::<Result<Vec<_>, _>>()?)
}

/// The network namespace of the process behind a pidfd.
fn namespace_of(pidfd: BorrowedFd<'_>) -> Result<OwnedFd, SandboxError> {
    let gone = |source| SandboxError::Host {
        action: "open the container's network",
        source,
    };
    let pidfd = pidfd.try_clone_to_owned().map_err(gone)?;
    let path = format!("/proc/{}/ns/net", crate::running::pid_of(&pidfd));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| gone(error.into()))
}

/// Does something that moves its thread to other networks.
fn on_a_thread<T: Send>(
    act: impl FnOnce() -> crate::wire::Step<T> + Send,
) -> Result<T, SandboxError> {
    let done = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("network".into())
            .spawn_scoped(scope, act);
        thread.map(std::thread::ScopedJoinHandle::join)
    });
    match done {
        Ok(Ok(done)) => done.map_err(SandboxError::from),
        Ok(Err(_)) => Err(failed("internal error (panic)")),
        Err(source) => Err(SandboxError::Host {
            action: "start a thread",
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mount, RootFs};

    fn with_resolv_conf(text: &str) -> Sandbox {
        let mut sandbox = Sandbox::new(RootFs::default(), ["x"]);
        sandbox.mounts.push(Mount {
            target: "/etc/resolv.conf".into(),
            source: MountSource::File {
                content: text.as_bytes().to_vec(),
                mode: 0o644,
                uid: 0,
                gid: 0,
            },
            readonly: true,
        });
        sandbox
    }

    fn content(sandbox: &Sandbox) -> String {
        match &sandbox.mounts[0].source {
            MountSource::File { content, .. } => String::from_utf8(content.clone()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_name_server_inside_asks_those_that_were_there() {
        let text = "search a.example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        let mut sandbox = with_resolv_conf(text);
        let upstream = name_servers(&mut sandbox).unwrap();
        assert_eq!(upstream, servers(text));
        assert_eq!(
            content(&sandbox),
            "search a.example\nnameserver 127.0.0.11\noptions ndots:0\n"
        );
        assert!(name_servers(&mut with_resolv_conf("")).is_some());
        let own_file = Sandbox::new(RootFs::default(), ["x"]);
        assert_eq!(name_servers(&mut own_file.clone()), None);
    }
}
