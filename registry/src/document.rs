//! Manifests and indexes from outside: kept as the bytes that came, read only to look inside, and
//! refused when they could be read in two ways.

use std::collections::{BTreeMap, HashSet};

use rbuild_cache::Digest;
use serde::Deserialize;

use crate::location::Descriptor;
use crate::options::RegistryLimits;

/// Media type of an OCI image index.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI image manifest.
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of a Docker manifest list.
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of a Docker schema 2 manifest.
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Media type of the empty JSON object that artifacts have in place of a config or layer.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// What we accept as a manifest, as the value of an `Accept` header.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index, byte for byte as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Its media type: what it says itself, else what the registry says.
    pub media_type: String,
    /// Digest of the bytes.
    pub digest: Digest,
    /// What is in it.
    pub contents: Contents,
}

/// What a document refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// An OCI index or a Docker manifest list, in its order.
    Index(Vec<IndexEntry>),
    /// An OCI or Docker schema 2 manifest.
    Manifest {
        /// The image config.
        config: Descriptor,
        /// The layers, bottom first.
        layers: Vec<Descriptor>,
    },
}

/// One manifest of an index.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IndexEntry {
    /// What it refers to.
    pub descriptor: Descriptor,
    /// What it is for, if the index says so.
    pub platform: Option<PlatformFields>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Type of the artifact, for what is not an image.
    pub artifact_type: Option<String>,
}

/// A platform as written in an index; fields that are not given are empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default)]
pub struct PlatformFields {
    /// Operating system, e.g. `linux`.
    pub os: String,
    /// Processor architecture, e.g. `arm64`.
    pub architecture: String,
    /// Variant of the architecture, e.g. `v8`.
    pub variant: String,
    /// Version of the operating system.
    #[serde(rename = "os.version")]
    pub os_version: String,
    /// Features of the operating system that are needed.
    #[serde(rename = "os.features")]
    pub os_features: Vec<String>,
}

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// It is not JSON of the expected form.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// It could be read as a manifest and as an index (CVE-2021-41190), or says so itself.
    #[error("it is ambiguous: {0}")]
    Ambiguous(String),
    /// It is of a kind that is not supported.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// It has the same content twice in a place where that makes no sense.
    #[error("it lists {0} twice")]
    Duplicate(Digest),
    /// It is larger or has more entries than allowed.
    #[error("it is over the limit `{limit}`: {seen} > {allowed}")]
    Limit {
        /// Name of the limit, as the field of [`RegistryLimits`](crate::RegistryLimits).
        limit: &'static str,
        /// The value that was seen.
        seen: u64,
        /// The value that is allowed.
        allowed: u64,
    },
    /// The chosen entry of an index is not there.
    #[error("nothing in the index matches")]
    NoMatch,
}

/// The fields that we look at; both kinds in one so that ambiguity is seen.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<serde_json::Value>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    // A negative or fractional size does not parse.
    size: u64,
    platform: Option<PlatformFields>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    artifact_type: Option<String>,
}

impl From<RawDescriptor> for Descriptor {
    fn from(raw: RawDescriptor) -> Descriptor {
        Descriptor {
            media_type: raw.media_type,
            digest: raw.digest,
            size: raw.size,
        }
    }
}

impl Document {
    /// Reads a document that came with this `Content-Type`, which may be empty.
    pub(crate) fn read(
        bytes: Vec<u8>,
        content_type: &str,
        limits: &RegistryLimits,
    ) -> Result<Document, DocumentError> {
        check_limit("manifest_bytes", bytes.len() as u64, limits.manifest_bytes)?;
        let raw: RawDocument = serde_json::from_slice(&bytes)
            .map_err(|error| DocumentError::Malformed(error.to_string()))?;
        let media_type = media_type(&raw, content_type)?;
        let contents = contents(raw, &media_type, limits)?;
        Ok(Document {
            digest: Digest::of(&bytes),
            bytes,
            media_type,
            contents,
        })
    }

    /// Describes the document itself.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest,
            size: self.bytes.len() as u64,
        }
    }
}

fn check_limit(limit: &'static str, seen: u64, allowed: u64) -> Result<(), DocumentError> {
    if seen > allowed {
        return Err(DocumentError::Limit {
            limit,
            seen,
            allowed,
        });
    }
    Ok(())
}

/// The `Content-Type` without parameters.
pub(crate) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether it is the media type of a manifest or index that we can read.
pub(crate) fn is_known(media_type: &str) -> bool {
    matches!(
        media_type,
        OCI_INDEX | OCI_MANIFEST | DOCKER_INDEX | DOCKER_MANIFEST
    )
}

/// Decides what the document is. What it says itself counts, and nothing may contradict it.
fn media_type(raw: &RawDocument, content_type: &str) -> Result<String, DocumentError> {
    let version = raw
        .schema_version
        .as_ref()
        .and_then(serde_json::Value::as_u64);
    if raw.fs_layers.is_some() || version == Some(1) {
        return Err(DocumentError::Unsupported(
            "a Docker schema 1 manifest".to_owned(),
        ));
    }
    if version != Some(2) {
        return Err(DocumentError::Malformed(
            "`schemaVersion` is not 2".to_owned(),
        ));
    }
    let has_index = raw.manifests.is_some();
    let has_manifest = raw.config.is_some() || raw.layers.is_some();
    if has_index && has_manifest {
        return Err(DocumentError::Ambiguous(
            "it has `manifests` and also `config` or `layers`".to_owned(),
        ));
    }
    let known = |name: &str| {
        matches!(
            name,
            OCI_INDEX | OCI_MANIFEST | DOCKER_INDEX | DOCKER_MANIFEST
        )
    };
    let sent = essence(content_type);
    if let Some(own) = &raw.media_type {
        if known(sent) && sent != own {
            return Err(DocumentError::Ambiguous(format!(
                "it says that it is `{}`, the registry says `{sent}`",
                own.escape_default()
            )));
        }
        return Ok(own.clone());
    }
    if is_known(sent) {
        return Ok(sent.to_owned());
    }
    // Some registries and layouts give no type; OCI documents need none of their own.
    Ok(if has_index { OCI_INDEX } else { OCI_MANIFEST }.to_owned())
}

fn contents(
    raw: RawDocument,
    media_type: &str,
    limits: &RegistryLimits,
) -> Result<Contents, DocumentError> {
    let ambiguous =
        |what: &str| DocumentError::Ambiguous(format!("as `{media_type}` it should have {what}"));
    match media_type {
        OCI_INDEX | DOCKER_INDEX => {
            let entries = raw.manifests.ok_or_else(|| ambiguous("`manifests`"))?;
            Ok(Contents::Index(index_entries(entries)?))
        }
        OCI_MANIFEST | DOCKER_MANIFEST => {
            let config = raw
                .config
                .ok_or_else(|| ambiguous("`config` and `layers`"))?;
            // Go programs write `null` for no layers.
            let layers = raw.layers.unwrap_or_default();
            check_limit("layers", layers.len() as u64, limits.layers as u64)?;
            let config = Descriptor::from(config);
            let layers: Vec<Descriptor> = layers.into_iter().map(Descriptor::from).collect();
            check_sizes(&config, &layers)?;
            Ok(Contents::Manifest { config, layers })
        }
        other => Err(DocumentError::Unsupported(format!(
            "media type `{}`",
            other.escape_default()
        ))),
    }
}

/// An index that lists the same manifest for the same platform twice was not made by any tool.
///
/// The same manifest for two platforms is fine: that is how indexes name variants.
fn index_entries(raw: Vec<RawDescriptor>) -> Result<Vec<IndexEntry>, DocumentError> {
    let entries: Vec<IndexEntry> = raw
        .into_iter()
        .map(|mut raw| IndexEntry {
            platform: raw.platform.take(),
            annotations: raw.annotations.take().unwrap_or_default(),
            artifact_type: raw.artifact_type.take(),
            descriptor: raw.into(),
        })
        .collect();
    let mut seen = HashSet::new();
    for entry in &entries {
        if !seen.insert(entry) {
            return Err(DocumentError::Duplicate(entry.descriptor.digest));
        }
    }
    Ok(entries)
}

/// The same layer twice is legal (two steps that do the same); with two sizes, one is a lie. A
/// config that is also a layer is not what any tool makes, but for the empty one of artifacts.
fn check_sizes(config: &Descriptor, layers: &[Descriptor]) -> Result<(), DocumentError> {
    let mut sizes = BTreeMap::new();
    for layer in layers {
        if *sizes.entry(layer.digest).or_insert(layer.size) != layer.size {
            return Err(DocumentError::Ambiguous(format!(
                "it gives {} two sizes",
                layer.digest
            )));
        }
    }
    if sizes.contains_key(&config.digest) && config.media_type != EMPTY {
        return Err(DocumentError::Duplicate(config.digest));
    }
    Ok(())
}
