//! Other containers that one container knows by names of its own.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::container::error::ContainerError;
use crate::container::{Container, Containers};

/// Another container in one of its networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The other one's ID.
    pub container: String,
    /// What it is called.
    pub alias: String,
}

/// A link of a container that runs.
#[derive(Debug)]
pub(in crate::container) struct Linked {
    alias: String,
    other: Container,
    /// The networks that the container is in; none for the one that all share.
    lans: Vec<Option<String>>,
}

impl Linked {
    /// Looks the other one up; it has to run.
    pub(super) fn new(
        container: &Container,
        containers: &Containers,
        link: &Link,
    ) -> Result<Linked, ContainerError> {
        let other = containers.find(&link.container)?;
        if !other.state()?.status.has_processes() {
            return Err(ContainerError::LinkedNotRunning {
                other: other.config.name,
                name: container.config.name.clone(),
                alias: link.alias.clone(),
            });
        }
        let endpoints = container.config.networking.endpoints.iter();
        Ok(Linked {
            alias: link.alias.clone(),
            other,
            lans: endpoints.map(|endpoint| endpoint.network.clone()).collect(),
        })
    }

    /// Where the other one is now, if it is meant by `name`.
    pub(in crate::container) fn addresses(&self, name: &str) -> Vec<Ipv4Addr> {
        let names = [
            &*self.alias,
            &*self.other.config.name,
            self.other.short_id(),
        ];
        if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Vec::new();
        }
        // One that has ended has no address.
        let interfaces = self.other.network().unwrap_or_default().interfaces;
        let shared = interfaces
            .into_iter()
            .filter(|own| self.lans.contains(&own.lan));
        shared.filter_map(|interface| interface.address).collect()
    }
}
