//! The image config: what a container starts with, and how the image came about.
//!
//! The bytes are hashed into the image ID, so they are written by these structs alone and the way
//! BuildKit writes them: top-level keys sorted, no white space, the fields of `config` in the order
//! of its struct, empty ones left out, maps sorted. Fields of a base image that we do not know are
//! kept in `extra`. A config is only ever written anew for a new image; that of a foreign image is
//! kept as the bytes that came.
//!
//! Format: OCI image specification, "Image Configuration", and Docker's additions to it.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_cache::{DiffId, Digest};
use serde::de::{Deserializer, IgnoredAny};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::ImageError;
use super::json;
use super::limits;

/// Config of an image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImageConfig {
    /// CPU architecture in Go's names, for example `amd64`.
    pub architecture: String,
    /// Who made the image (`MAINTAINER`).
    pub author: Option<String>,
    /// What a container of this image starts with.
    pub config: ContainerConfig,
    /// When the image was made, RFC 3339. Left out when absent, never written as `null`.
    pub created: Option<String>,
    /// One entry per instruction, oldest first.
    pub history: Vec<History>,
    /// Operating system in Go's names, for example `linux`.
    pub os: String,
    /// The layers that make up the root file system.
    pub rootfs: RootFs,
    /// Variant of the architecture, for example `v7`.
    pub variant: Option<String>,
    /// Top-level fields that we do not know, kept as they came.
    pub extra: BTreeMap<String, Value>,
}

/// What a container of an image starts with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `USER`, as written.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// `EXPOSE`, as `80/tcp`.
    #[serde(
        default,
        with = "empty_objects",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub exposed_ports: BTreeSet<String>,
    /// Environment as `NAME=value`, in order.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// `ENTRYPOINT`; absent and empty are written alike.
    #[serde(default, skip_serializing_if = "absent_or_empty")]
    pub entrypoint: Option<Vec<String>>,
    /// `CMD`; absent and empty are written alike.
    #[serde(default, skip_serializing_if = "absent_or_empty")]
    pub cmd: Option<Vec<String>>,
    /// `VOLUME`, as written.
    #[serde(
        default,
        with = "empty_objects",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub volumes: BTreeSet<String>,
    /// `WORKDIR`.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// `LABEL`.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`, as written.
    #[serde(default, skip_serializing_if = "absent_or_empty_text")]
    pub stop_signal: Option<String>,
    /// Windows only: the command line is already escaped.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub args_escaped: bool,
    /// `HEALTHCHECK`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// `ONBUILD` triggers.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub on_build: Vec<String>,
    /// `SHELL`.
    #[serde(default, skip_serializing_if = "absent_or_empty")]
    pub shell: Option<Vec<String>>,
    /// Fields that we do not know, kept as they came; written last, sorted.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// A health check; zero means "inherit", as in Docker, and is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthConfig {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between two checks, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time a check may take, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time after the start in which failures do not count, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between two checks in the start period, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row until the container counts as unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// How one instruction changed the image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction as shown by `history`.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub created_by: String,
    /// By whom.
    #[serde(skip_serializing_if = "absent_or_empty_text")]
    pub author: Option<String>,
    /// With what tool.
    #[serde(skip_serializing_if = "absent_or_empty_text")]
    pub comment: Option<String>,
    /// Whether the instruction made no layer.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub empty_layer: bool,
}

/// The layers of the root file system, bottom first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootFs {
    /// Digests of the uncompressed layer tars.
    pub diff_ids: Vec<DiffId>,
}

impl ImageConfig {
    /// Writes the config; its digest is the image ID.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::compact(&self.top())
    }

    /// Returns the image ID: the digest of [`to_bytes`](ImageConfig::to_bytes).
    pub fn id(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// The document as a sorted map from key to the JSON text of its value.
    fn top(&self) -> BTreeMap<&str, Box<RawValue>> {
        let rootfs = WrittenRootFs {
            kind: "layers",
            diff_ids: &self.rootfs.diff_ids,
        };
        let mut top: BTreeMap<&str, Box<RawValue>> = self
            .extra
            .iter()
            .map(|(key, value)| (key.as_str(), raw(value)))
            .collect();
        top.insert("architecture", raw(&self.architecture));
        top.insert("config", raw(&self.config));
        top.insert("os", raw(&self.os));
        top.insert("rootfs", raw(&rootfs));
        if let Some(author) = self.author.as_ref().filter(|text| !text.is_empty()) {
            top.insert("author", raw(author));
        }
        if let Some(created) = &self.created {
            top.insert("created", raw(created));
        }
        if !self.history.is_empty() {
            top.insert("history", raw(&self.history));
        }
        if let Some(variant) = self.variant.as_ref().filter(|text| !text.is_empty()) {
            top.insert("variant", raw(variant));
        }
        top
    }

    /// Reads a config, of ours or of a foreign image.
    ///
    /// # Errors
    ///
    /// [`ImageError::Limit`] when it is larger than 16 MB or names more than 500 layers,
    /// [`ImageError::Document`] when it is not an image config.
    pub fn from_bytes(bytes: &[u8]) -> Result<ImageConfig, ImageError> {
        limits::check(
            "image config",
            "config",
            bytes.len() as u64,
            limits::DOCUMENT_BYTES,
        )?;
        let read: ReadConfig = serde_json::from_slice(bytes)
            .map_err(|error| ImageError::document("image config", error))?;
        let diff_ids = read.rootfs.diff_ids.unwrap_or_default();
        limits::check(
            "image config",
            "layers",
            diff_ids.len() as u64,
            limits::LAYERS,
        )?;
        Ok(ImageConfig {
            architecture: read.architecture,
            author: read.author,
            config: read.config.unwrap_or_default(),
            created: read.created,
            history: read.history.unwrap_or_default(),
            os: read.os,
            rootfs: RootFs { diff_ids },
            variant: read.variant,
            extra: read.extra,
        })
    }
}

/// The JSON text of one value.
fn raw<T: Serialize>(value: &T) -> Box<RawValue> {
    let text = String::from_utf8(json::compact(value)).expect("JSON is UTF-8");
    RawValue::from_string(text).expect("the writer makes valid JSON")
}

/// `rootfs` as written.
#[derive(Serialize)]
struct WrittenRootFs<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: &'a [DiffId],
}

/// The top level as read; `null` stands for "absent" everywhere, as in Go.
#[derive(Deserialize)]
struct ReadConfig {
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    config: Option<ContainerConfig>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    history: Option<Vec<History>>,
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    rootfs: ReadRootFs,
    #[serde(default)]
    variant: Option<String>,
    #[serde(flatten)]
    extra: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct ReadRootFs {
    #[serde(default)]
    diff_ids: Option<Vec<DiffId>>,
}

/// Reads `null` as the default value.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn absent_or_empty(list: &Option<Vec<String>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

fn absent_or_empty_text(text: &Option<String>) -> bool {
    text.as_ref().is_none_or(String::is_empty)
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Sets in the form that Go gives `map[string]struct{}`: `{"80/tcp":{}}`.
mod empty_objects {
    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer, IgnoredAny, Serializer};

    pub(super) fn serialize<S: Serializer>(
        set: &BTreeSet<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            set.iter()
                .map(|key| (key, BTreeMap::<String, String>::new())),
        )
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map: Option<BTreeMap<String, IgnoredAny>> = Option::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}
