//! What this program keeps about a container beside what its sandbox needs.

use std::collections::BTreeMap;

use rbuild_runtime::container::Container;
use serde::{Deserialize, Serialize};

/// Kept in the container's config.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Details {
    /// The image as it was named.
    pub(crate) image: String,
    /// Digest of the image's config.
    pub(crate) image_id: String,
    /// Labels of the image and of the container.
    pub(crate) labels: BTreeMap<String, String>,
    /// The user as it was named.
    pub(crate) user: String,
    /// The name of its network.
    pub(crate) network: String,
}

impl Details {
    /// What was kept; what cannot be read is empty.
    pub(crate) fn of(container: &Container) -> Details {
        serde_json::from_value(container.config.details.clone()).unwrap_or_default()
    }
}
