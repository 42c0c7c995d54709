//! `config.json` of the OCI runtime specification, as far as it is understood.
//!
//! What is not named here lands in `other`, and is refused by its name unless it asks for nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;

/// What nobody has looked at.
pub(super) type Other = BTreeMap<String, Value>;

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Config {
    pub(super) oci_version: String,
    pub(super) process: Process,
    pub(super) root: Root,
    pub(super) hostname: String,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Hooks,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) linux: Linux,
    #[serde(flatten)]
    pub(super) other: Other,
}

/// `process`, also the file of `exec --process`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Process {
    pub(super) terminal: bool,
    pub(super) console_size: Option<ConsoleSize>,
    pub(super) user: User,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) rlimits: Vec<Rlimit>,
    pub(super) no_new_privileges: bool,
    pub(super) oom_score_adj: Option<i32>,
    #[serde(flatten)]
    pub(super) other: Other,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct ConsoleSize {
    pub(super) height: u16,
    pub(super) width: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) additional_gids: Vec<u32>,
    pub(super) umask: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Capabilities {
    pub(super) bounding: Vec<String>,
    pub(super) effective: Vec<String>,
    pub(super) permitted: Vec<String>,
    pub(super) inheritable: Vec<String>,
    pub(super) ambient: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rlimit {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) readonly: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Mount {
    pub(super) destination: PathBuf,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) options: Vec<String>,
    #[serde(flatten)]
    pub(super) other: Other,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Hooks {
    pub(super) prestart: Vec<Hook>,
    pub(super) create_runtime: Vec<Hook>,
    pub(super) poststart: Vec<Hook>,
    pub(super) poststop: Vec<Hook>,
    #[serde(flatten)]
    pub(super) other: Other,
}

/// A program that is told of a change.
#[derive(Debug, Clone, Default, Deserialize, serde::Serialize)]
#[serde(default)]
pub(super) struct Hook {
    pub(super) path: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    /// Seconds.
    pub(super) timeout: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Linux {
    pub(super) namespaces: Vec<Namespace>,
    pub(super) cgroups_path: String,
    pub(super) resources: Resources,
    pub(super) masked_paths: Vec<PathBuf>,
    pub(super) readonly_paths: Vec<PathBuf>,
    pub(super) sysctl: BTreeMap<String, String>,
    pub(super) rootfs_propagation: String,
    pub(super) seccomp: Option<Value>,
    pub(super) devices: Vec<Device>,
    #[serde(flatten)]
    pub(super) other: Other,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Namespace {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) path: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Device {
    pub(super) path: PathBuf,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Resources {
    /// Rules; which devices work is decided by the mounts of the sandbox.
    pub(super) devices: Value,
    pub(super) memory: Memory,
    pub(super) cpu: Cpu,
    pub(super) pids: Pids,
    #[serde(flatten)]
    pub(super) other: Other,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    pub(super) limit: Option<i64>,
    pub(super) reservation: Option<i64>,
    pub(super) swap: Option<i64>,
    #[serde(flatten)]
    pub(super) other: Other,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Cpu {
    pub(super) shares: Option<u64>,
    pub(super) quota: Option<i64>,
    pub(super) period: Option<u64>,
    pub(super) cpus: Option<String>,
    pub(super) mems: Option<String>,
    #[serde(flatten)]
    pub(super) other: Other,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pids {
    pub(super) limit: Option<i64>,
}

/// Reads a JSON file.
pub(super) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let failed = || format!("could not read `{}`", path.display());
    let bytes = std::fs::read(path).map_err(|error| Failure::new(failed()).because(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::new(failed()).because(&error))
}

/// Refuses what was not looked at, by its name, unless it asks for nothing.
pub(super) fn refuse(place: &str, other: &Other) -> Result<(), Failure> {
    match other.iter().find(|(_, value)| !is_nothing(value)) {
        None => Ok(()),
        Some((name, _)) => Err(not_supported(&format!("`{place}{name}`"))),
    }
}

/// A refusal.
pub(super) fn not_supported(what: &str) -> Failure {
    Failure::new(format!(
        "{what} of the container's configuration is not supported"
    ))
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.iter().all(is_nothing),
        Value::Object(fields) => fields.values().all(is_nothing),
    }
}
