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
use rbuild_parser::{CommandForm, Healthcheck};
use serde::de::Deserializer;
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

impl From<&Healthcheck> for HealthConfig {
    fn from(check: &Healthcheck) -> HealthConfig {
        match check {
            Healthcheck::None => HealthConfig {
                test: vec!["NONE".to_owned()],
                ..HealthConfig::default()
            },
            Healthcheck::Command {
                test,
                interval_ns,
                timeout_ns,
                start_period_ns,
                start_interval_ns,
                retries,
            } => HealthConfig {
                test: match test {
                    CommandForm::Exec(arguments) => std::iter::once("CMD".to_owned())
                        .chain(arguments.iter().cloned())
                        .collect(),
                    CommandForm::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
                },
                interval: interval_ns.unwrap_or(0),
                timeout: timeout_ns.unwrap_or(0),
                start_period: start_period_ns.unwrap_or(0),
                start_interval: start_interval_ns.unwrap_or(0),
                retries: retries.unwrap_or(0),
            },
        }
    }
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
    /// [`ImageError::Limit`] when it is larger than 16 MB or names more than 5000 layers,
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

#[expect(clippy::ref_option, reason = "serde calls it with the field")]
fn absent_or_empty(list: &Option<Vec<String>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

#[expect(clippy::ref_option, reason = "serde calls it with the field")]
fn absent_or_empty_text(text: &Option<String>) -> bool {
    text.as_ref().is_none_or(String::is_empty)
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with the field"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Sets in the form that Go gives `map[string]struct{}`: `{"80/tcp":{}}`.
mod empty_objects {

    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer, Serializer, Value};

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
        let map: Option<BTreeMap<String, Value>> = Option::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF_ID: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn text(config: &ImageConfig) -> String {
        String::from_utf8(config.to_bytes()).unwrap()
    }

    fn read(text: &str) -> ImageConfig {
        ImageConfig::from_bytes(text.as_bytes()).unwrap()
    }

    /// BuildKit's bytes of the recorded case L20, whose digest the record tells. We differ in two
    /// places on purpose: no `null` for the creation time and the list of layers.
    #[test]
    fn config_has_buildkits_bytes() {
        let buildkit = concat!(
            r#"{"architecture":"amd64","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:"#,
            r#"/usr/sbin:/usr/bin:/sbin:/bin","a=1"],"WorkingDir":"/"},"created":null,"#,
            r#""history":[{"created_by":"ENV a=1","comment":"buildkit.dockerfile.v0","#,
            r#""empty_layer":true}],"os":"linux","rootfs":{"type":"layers","diff_ids":null}}"#
        );
        assert_eq!(
            Digest::of(buildkit.as_bytes()).hex(),
            "5c3d3a55949d059ff834d4fa2c0f21985c4de2fabaa7084b443c17de8e19e716"
        );
        let ours = buildkit
            .replace(r#""created":null,"#, "")
            .replace("null", "[]");
        assert_eq!(text(&read(buildkit)), ours);
        let built = ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            config: ContainerConfig {
                env: vec![
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
                    "a=1".into(),
                ],
                working_dir: "/".into(),
                ..ContainerConfig::default()
            },
            history: vec![History {
                created_by: "ENV a=1".into(),
                comment: Some("buildkit.dockerfile.v0".into()),
                empty_layer: true,
                ..History::default()
            }],
            ..ImageConfig::default()
        };
        assert_eq!(text(&built), ours);
    }

    #[test]
    fn all_fields_have_their_place() {
        let some = |list: &[&str]| Some(list.iter().map(ToString::to_string).collect());
        let config = ContainerConfig {
            user: "u".into(),
            exposed_ports: ["80/tcp".into(), "443/tcp".into()].into(),
            env: vec!["A=<1>&".into()],
            entrypoint: some(&["/e"]),
            cmd: some(&["c"]),
            volumes: ["/v".into()].into(),
            working_dir: "/w".into(),
            labels: [("b".into(), "2".into()), ("a".into(), "1".into())].into(),
            stop_signal: Some("INT".into()),
            args_escaped: true,
            healthcheck: Some(HealthConfig {
                test: vec!["NONE".into()],
                interval: 1,
                timeout: 2,
                start_period: 3,
                start_interval: 4,
                retries: 5,
            }),
            on_build: vec!["RUN x".into()],
            shell: some(&["/bin/sh", "-ec"]),
            extra: [("StopTimeout".into(), 10.into())].into(),
        };
        let image = ImageConfig {
            architecture: "arm".into(),
            author: Some("me".into()),
            config,
            created: Some("2020-09-13T12:26:40Z".into()),
            history: vec![],
            os: "linux".into(),
            rootfs: RootFs {
                diff_ids: vec![DIFF_ID.parse().unwrap()],
            },
            variant: Some("v7".into()),
            extra: [
                ("os.version".into(), "1".into()),
                ("docker_version".into(), "2".into()),
            ]
            .into(),
        };
        let expected = concat!(
            r#"{"architecture":"arm","author":"me","config":{"User":"u","#,
            r#""ExposedPorts":{"443/tcp":{},"80/tcp":{}},"Env":["A=\u003c1\u003e\u0026"],"#,
            r#""Entrypoint":["/e"],"Cmd":["c"],"Volumes":{"/v":{}},"WorkingDir":"/w","#,
            r#""Labels":{"a":"1","b":"2"},"StopSignal":"INT","ArgsEscaped":true,"#,
            r#""Healthcheck":{"Test":["NONE"],"Interval":1,"Timeout":2,"StartPeriod":3,"#,
            r#""StartInterval":4,"Retries":5},"OnBuild":["RUN x"],"Shell":["/bin/sh","-ec"],"#,
            r#""StopTimeout":10},"created":"2020-09-13T12:26:40Z","docker_version":"2","#,
            r#""os":"linux","os.version":"1","rootfs":{"type":"layers","diff_ids":["#,
            r#""sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"#,
            r#""variant":"v7"}"#
        );
        assert_eq!(text(&image), expected);
        assert_eq!(read(expected), image);
        assert_eq!(image.id(), Digest::of(expected.as_bytes()));
    }

    /// Configs as Docker's classic builder wrote them: many nulls, many fields of its own.
    #[test]
    fn nulls_and_unknown_fields_of_old_images_are_read() {
        let old = concat!(
            r#"{"architecture":"amd64","config":{"Hostname":"x","User":"","Env":null,"#,
            r#""Cmd":null,"Volumes":null,"ExposedPorts":null,"Entrypoint":null,"Labels":null,"#,
            r#""OnBuild":null,"Healthcheck":null,"StopSignal":"","WorkingDir":""},"#,
            r#""container":"c0ffee","history":null,"os":"linux","#,
            r#""rootfs":{"type":"layers"},"variant":""}"#
        );
        let image = read(old);
        assert_eq!(image.config.extra.keys().collect::<Vec<_>>(), ["Hostname"]);
        assert_eq!(image.extra["container"], "c0ffee");
        assert_eq!(
            text(&image),
            concat!(
                r#"{"architecture":"amd64","config":{"Hostname":"x"},"container":"c0ffee","#,
                r#""os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#
            )
        );
    }

    #[test]
    fn empty_commands_are_left_out() {
        let image = ImageConfig {
            config: ContainerConfig {
                cmd: Some(vec![]),
                entrypoint: Some(vec![]),
                shell: Some(vec![]),
                ..ContainerConfig::default()
            },
            ..ImageConfig::default()
        };
        assert!(text(&image).contains(r#""config":{}"#));
    }

    #[test]
    fn what_is_no_config_is_refused() {
        for bad in [
            "",
            "null",
            "{}",
            "[]",
            r#"{"rootfs":{"diff_ids":["sha256:0"]}}"#,
            r#"{"rootfs":{"diff_ids":["../../etc/passwd"]}}"#,
            r#"{"rootfs":{},"config":[]}"#,
            r#"{"rootfs":{},"history":{}}"#,
        ] {
            let error = ImageConfig::from_bytes(bad.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("could not read image config: "),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn limits_are_named() {
        let ids = vec![format!("\"{DIFF_ID}\""); 5001].join(",");
        let many = format!(r#"{{"rootfs":{{"diff_ids":[{ids}]}}}}"#);
        assert_eq!(
            ImageConfig::from_bytes(many.as_bytes())
                .unwrap_err()
                .to_string(),
            "image config is over the limit `layers`: 5001 > 5000"
        );
        let large = vec![b' '; (16 << 20) + 1];
        assert_eq!(
            ImageConfig::from_bytes(&large).unwrap_err().to_string(),
            "image config is over the limit `config`: 16777217 > 16777216"
        );
    }
}
