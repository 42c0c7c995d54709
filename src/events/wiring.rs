//! What is told of a container's volumes and networks when it starts and when it has ended.

use std::path::Path;

use rbuild_runtime::container::Container;
use rbuild_runtime::networks::{Networks, predefined_id};

use super::Event;
use crate::container::details::{Details, MountKind, MountPoint};

/// Its volumes are mounted and its networks joined. `networks` are those of its store.
pub(crate) fn began(container: &Container, networks: &Networks) -> Vec<Event> {
    let id = &container.config.id;
    let details = Details::of(container);
    let mut events: Vec<Event> = volumes(&details)
        .map(|mount| {
            Event::volume("mount", &mount.name)
                .with("container", id)
                .with("destination", &mount.target.display().to_string())
                .with("read/write", &mount.writable.to_string())
                .with("propagation", "")
        })
        .collect();
    events.extend(joined(container, networks, "connect"));
    events
}

/// Its networks are left and its volumes let go of.
pub(crate) fn ended(container: &Container, networks: &Networks) -> Vec<Event> {
    let details = Details::of(container);
    let mut events: Vec<Event> = joined(container, networks, "disconnect").collect();
    events.extend(volumes(&details).map(|mount| {
        Event::volume("unmount", &mount.name).with("container", &container.config.id)
    }));
    events
}

fn volumes(details: &Details) -> impl Iterator<Item = &MountPoint> {
    let mounts = details.mounts.iter();
    mounts.filter(|mount| mount.kind == MountKind::Volume && !mount.name.is_empty())
}

fn joined(container: &Container, networks: &Networks, action: &str) -> impl Iterator<Item = Event> {
    let endpoints = container.config.networking.endpoints.iter();
    endpoints
        .map(move |endpoint| of_network(action, endpoint.network.as_deref(), networks))
        .map(|event| event.with("container", &container.config.id))
}

/// Something that happens to a network by its ID, or to the one that all share.
pub(crate) fn of_network(action: &str, id: Option<&str>, networks: &Networks) -> Event {
    match id {
        None => Event::network(action, &predefined_id("bridge"), "bridge", "bridge"),
        Some(id) => match networks.find(id) {
            Ok(network) => Event::network(action, id, &network.name, network.driver()),
            // It was removed meanwhile.
            Err(_) => Event::network(action, id, "", ""),
        },
    }
}

/// The networks of the store at `root`.
pub(crate) fn networks_of(root: &Path, state_dir: &Path) -> Networks {
    Networks::new(root.join("networks"), state_dir)
}
