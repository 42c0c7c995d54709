//! Manifests and indexes as we write them.
//!
//! Field order and white space are BuildKit's, since digests depend on them. Empty lists are written
//! as `[]`; BuildKit writes `null` for an image without layers, which the specification does not
//! allow.
//!
//! Format: OCI image specification, "Image Manifest", "Image Index", "Content Descriptors".

use std::collections::BTreeMap;

use rbuild_cache::Digest;
use serde::Serialize;

use super::json;
use super::media::Family;

/// Name and version of an image in an index of a layout.
pub(crate) const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
/// When the image was made.
pub(crate) const ANNOTATION_CREATED: &str = "org.opencontainers.image.created";
/// Full name of an image, in layouts that containerd and `docker` read.
pub(crate) const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";

/// What a document says about other content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Kind of the content.
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
    /// Free-form information.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What a manifest in an index is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
}

/// Platform of a manifest in an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DescriptorPlatform {
    /// CPU architecture.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Version of the operating system.
    #[serde(rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// What the operating system must be able to do.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Descriptor {
    /// Makes a descriptor without annotations and platform.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            annotations: BTreeMap::new(),
            platform: None,
        }
    }
}

/// Manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document.
    pub media_type: String,
    /// The image config.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// Free-form information.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Index of the manifests of several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document.
    pub media_type: String,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Free-form information.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Makes a manifest without annotations.
    pub(crate) fn new(family: Family, config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
        Manifest {
            schema_version: 2,
            media_type: family.manifest().to_owned(),
            config,
            layers,
            annotations: BTreeMap::new(),
        }
    }

    /// Writes the manifest, indented by two blanks.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::indented(self)
    }
}

impl Index {
    /// Makes an index without annotations.
    pub(crate) fn new(family: Family, manifests: Vec<Descriptor>) -> Index {
        Index {
            schema_version: 2,
            media_type: family.index().to_owned(),
            manifests,
            annotations: BTreeMap::new(),
        }
    }

    /// Writes the index, indented by two blanks.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::indented(self)
    }

    /// Writes the index without white space, as in the `index.json` of a layout.
    pub(crate) fn to_compact_bytes(&self) -> Vec<u8> {
        json::compact(self)
    }
}

#[cfg(test)]
mod tests {
    use rbuild_cache::CompressionKind;

    use super::*;

    fn digest(hex: &str) -> Digest {
        Digest::from_hex(hex).unwrap()
    }

    /// The manifest that BuildKit wrote for the recorded case L16: same bytes, so same digest.
    #[test]
    fn manifest_has_buildkits_bytes() {
        let config = Descriptor::new(
            Family::Oci.config(),
            digest("7146ad306ab8e3399d964a8f354b1c56e507214a279b7616c0f8b7ec396a7832"),
            425,
        );
        let layer = Descriptor::new(
            Family::Oci.layer(CompressionKind::Gzip),
            digest("a8eb975b2f59cac1b005dfdd807dd0844bb5242cb08b72bd15217d1a553a2687"),
            97,
        );
        let bytes = Manifest::new(Family::Oci, config, vec![layer]).to_bytes();
        assert_eq!(bytes.len(), 475);
        assert_eq!(
            Digest::of(&bytes).hex(),
            "fe08397b67f5336513e89b669d4c91e97f90ec8ededa1b3e6922b82931cd6b15"
        );
    }

    #[test]
    fn a_manifest_without_layers_is_valid() {
        let config = Descriptor::new(Family::Docker.config(), Digest::of(b"{}"), 2);
        let text = String::from_utf8(Manifest::new(Family::Docker, config, vec![]).to_bytes());
        assert_eq!(
            text.unwrap(),
            r#"{
  "schemaVersion": 2,
  "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
  "config": {
    "mediaType": "application/vnd.docker.container.image.v1+json",
    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "size": 2
  },
  "layers": []
}"#
        );
    }

    /// Field order as in the `index.json` of the recorded case L16.
    #[test]
    fn index_has_buildkits_field_order() {
        let mut entry = Descriptor::new(Family::Oci.manifest(), Digest::of(b""), 475);
        entry
            .annotations
            .insert(ANNOTATION_REF_NAME.into(), "latest".into());
        entry
            .annotations
            .insert(ANNOTATION_CREATED.into(), "2020-09-13T12:26:40Z".into());
        entry.platform = Some(DescriptorPlatform {
            architecture: "arm".into(),
            os: "linux".into(),
            os_version: None,
            os_features: Vec::new(),
            variant: Some("v7".into()),
        });
        let bytes = Index::new(Family::Oci, vec![entry]).to_compact_bytes();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            concat!(
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","#,
                r#""manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
                r#""digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","#,
                r#""size":475,"annotations":{"org.opencontainers.image.created":"2020-09-13T12:26:40Z","#,
                r#""org.opencontainers.image.ref.name":"latest"},"#,
                r#""platform":{"architecture":"arm","os":"linux","variant":"v7"}}]}"#
            )
        );
    }
}
