//! What containers take on disk.

use rbuild_cache::tree_size;
use rbuild_runtime::container::Container;

use super::containers;
use crate::config::Settings;
use crate::failure::Failure;

/// A container and what it takes.
pub(crate) struct ContainerUsage {
    /// The container.
    pub(crate) container: Container,
    /// It does not run.
    pub(crate) stopped: bool,
    /// Bytes of what it has written.
    pub(crate) size: u64,
}

/// Bytes of what a container has written into its root.
pub(crate) fn size_of(container: &Container) -> u64 {
    let upper = &container.config.sandbox.root.upper;
    upper.as_ref().map_or(0, |upper| tree_size(&upper.upper))
}

/// All containers, the newest first.
pub(crate) fn all(settings: &Settings) -> Result<Vec<ContainerUsage>, Failure> {
    let mut found = Vec::new();
    for container in containers(settings)?.list()? {
        let stopped = !container.state()?.status.is_alive();
        found.push(ContainerUsage {
            stopped,
            size: size_of(&container),
            container,
        });
    }
    Ok(found)
}
