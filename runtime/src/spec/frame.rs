//! What of a sandbox does not depend on its root and its command.

use serde::{Deserialize, Serialize};

use super::{DeviceSet, Limits, Network, OfHost, Sandbox, Security};

/// What of a sandbox does not depend on its root and its command, and can be made before they are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// See [`Sandbox::network`].
    pub(crate) network: Network,
    /// See [`Security::privileged`].
    pub(crate) privileged: bool,
    /// See [`Security::devices`].
    pub(crate) devices: DeviceSet,
    /// See [`Security::masked_paths`].
    pub(crate) masked_paths: bool,
    /// See [`Sandbox::shm_size`].
    pub(crate) shm_size: u64,
    /// See [`Sandbox::of_host`].
    pub(crate) of_host: OfHost,
}

impl Frame {
    /// The frame of a sandbox like this; none if it cannot be made ahead: a control group has to be entered
    /// first of all, and in networks that others are in, too, its addresses are its own. It shares nothing else
    /// with the host.
    pub fn ahead(
        network: &Network,
        security: &Security,
        limits: &Limits,
        shm_size: u64,
    ) -> Option<Self> {
        let alone = matches!(network, Network::None | Network::Host | Network::Private);
        (alone && limits.is_empty()).then(|| Self {
            network: network.clone(),
            privileged: security.privileged,
            devices: security.devices,
            masked_paths: security.masked_paths,
            shm_size,
            of_host: OfHost::default(),
        })
    }

    /// The frame of this sandbox.
    pub(crate) fn of(sandbox: &Sandbox) -> Self {
        Self {
            network: sandbox.network.clone(),
            privileged: sandbox.security.privileged,
            devices: sandbox.security.devices,
            masked_paths: sandbox.security.masked_paths,
            shm_size: sandbox.shm_size,
            of_host: sandbox.of_host,
        }
    }
}
