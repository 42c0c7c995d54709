//! What this program keeps about a container beside what its sandbox needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rbuild_builder::image::{ContainerConfig, HealthConfig};
use rbuild_builder::request::NameResolution;
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
    /// The image's platform.
    pub(crate) platform: String,
    /// Labels of the image and of the container.
    pub(crate) labels: BTreeMap<String, String>,
    /// The user as it was named.
    pub(crate) user: String,
    /// The name of its network.
    pub(crate) network: String,
    /// The settings of its health check.
    pub(crate) health: Option<HealthConfig>,
    /// Ports that it listens on, such as `80/tcp`.
    pub(crate) exposed: BTreeSet<String>,
    /// All of them are published.
    pub(crate) publish_all: bool,
    /// How it finds names.
    pub(crate) names: NameResolution,
    /// Lines for its `/etc/hosts`: name, address.
    pub(crate) extra_hosts: Vec<(String, String)>,
    /// What is mounted in it, in the order given.
    pub(crate) mounts: Vec<MountPoint>,
    /// The image's settings, with what was asked for beside them.
    pub(crate) config: ContainerConfig,
    /// `-v`, as it was written.
    pub(crate) binds: Vec<String>,
    /// `--volumes-from`, as it was written.
    pub(crate) volumes_from: Vec<String>,
    /// Other options that are only shown.
    pub(crate) asked: Asked,
}

/// Options as they were written, for `rbuild inspect`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    pub(crate) cap_add: Vec<String>,
    pub(crate) cap_drop: Vec<String>,
    pub(crate) security_opt: Vec<String>,
    pub(crate) group_add: Vec<String>,
    pub(crate) devices: Vec<String>,
    pub(crate) tmpfs: Vec<String>,
    pub(crate) ulimits: Vec<String>,
    pub(crate) id_file: String,
    pub(crate) annotations: BTreeMap<String, String>,
    /// `--stop-signal`, or that of the image.
    pub(crate) stop_signal: String,
}

/// What kind of thing is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MountKind {
    /// A file or directory of this machine.
    Bind,
    /// A volume of the store.
    Volume,
    /// A directory in memory.
    Tmpfs,
    /// The files of an image.
    Image,
}

impl MountKind {
    /// As Docker names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            MountKind::Bind => "bind",
            MountKind::Volume => "volume",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Image => "image",
        }
    }
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountPoint {
    /// What it is.
    pub(crate) kind: MountKind,
    /// Name of the volume, or empty.
    #[serde(default)]
    pub(crate) name: String,
    /// Path on this machine, name of the image, or empty.
    #[serde(default)]
    pub(crate) source: String,
    /// Where it appears.
    pub(crate) target: PathBuf,
    /// It can be written to.
    #[serde(default)]
    pub(crate) writable: bool,
}

impl MountPoint {
    /// A mount at `target` of which nothing else is known.
    pub(crate) fn new(target: &Path, kind: MountKind) -> MountPoint {
        MountPoint {
            kind,
            name: String::new(),
            source: String::new(),
            target: target.to_path_buf(),
            writable: true,
        }
    }
}

impl Details {
    /// What was kept; what cannot be read is empty.
    pub(crate) fn of(container: &Container) -> Details {
        Details::deserialize(&container.config.details).unwrap_or_default()
    }

    /// Names of the volumes that it uses.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &str> {
        let volumes = self
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume && !mount.name.is_empty());
        volumes.map(|mount| mount.name.as_str())
    }
}
