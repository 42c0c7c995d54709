//! Artifacts: manifests of something else than an image. OCI image specification, "Guidelines for
//! Artifact Usage".

use std::collections::BTreeMap;

use rbuild_cache::Digest;
use serde::{Deserialize, Serialize};

use crate::image::media::OCI_MANIFEST;
use crate::image::{Descriptor, ImageError, json};

/// Media type of the config of an artifact that has none.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// That config.
pub(super) const EMPTY: &[u8] = b"{}";

/// The manifest, in the order of the specification.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Artifact {
    schema_version: u32,
    media_type: String,
    #[serde(rename = "artifactType")]
    kind: String,
    pub(super) config: Part,
    pub(super) layers: Vec<Part>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// A descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl From<Descriptor> for Part {
    fn from(descriptor: Descriptor) -> Part {
        Part {
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size: descriptor.size,
            annotations: BTreeMap::new(),
        }
    }
}

impl Part {
    /// Without its annotations.
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest, self.size)
    }
}

/// Describes the config of an artifact that has none.
pub(super) fn empty() -> Descriptor {
    Descriptor::new(EMPTY_TYPE, Digest::of(EMPTY), EMPTY.len() as u64)
}

impl Artifact {
    /// A manifest of this kind.
    pub(super) fn new(kind: &str, config: Descriptor, layers: Vec<Part>) -> Artifact {
        Artifact {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            kind: kind.to_owned(),
            config: config.into(),
            layers,
            annotations: BTreeMap::new(),
        }
    }

    /// The manifest as it is stored.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        json::compact(self)
    }

    /// Reads a manifest that somebody wrote, which must be of this kind; `what` names it in errors.
    pub(super) fn parse(what: &str, kind: &str, bytes: &[u8]) -> Result<Artifact, ImageError> {
        let read: Artifact =
            serde_json::from_slice(bytes).map_err(|error| ImageError::document(what, error))?;
        if read.schema_version != 2 || read.kind != kind {
            return Err(ImageError::document(what, format!("it is no `{kind}`")));
        }
        Ok(read)
    }
}
