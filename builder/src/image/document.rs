//! Reading manifests and indexes that others wrote.
//!
//! Every document is bound by the limits and checked against the digest and size of the descriptor
//! that led to it. A document that could be read both as a manifest and as an index is refused
//! (the confusion of CVE-2021-41190).

use std::collections::BTreeMap;

use oci_spec::image as oci;
use rbuild_cache::Digest;
use serde::Deserialize;

use super::error::ImageError;
use super::manifest::{Descriptor, DescriptorPlatform};
use super::{limits, media};

/// A place that holds documents under their digests.
pub(crate) trait Documents {
    /// Returns the document's bytes; the caller checks them.
    ///
    /// A document that is not there is [`ImageError::Missing`].
    fn bytes(&self, what: &'static str, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError>;
}

/// A foreign manifest or index.
#[derive(Debug)]
pub(crate) enum Document {
    /// Manifest of one image.
    Manifest(Box<ReadManifest>),
    /// List of manifests.
    Index(ReadIndex),
}

/// What we use of a foreign manifest.
#[derive(Debug)]
pub(crate) struct ReadManifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What we use of a foreign index.
#[derive(Debug)]
pub(crate) struct ReadIndex {
    pub(crate) manifests: Vec<Descriptor>,
}

/// Fields of both kinds of document. Go writers put `null` where a list is empty.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<oci::Descriptor>,
    #[serde(default)]
    layers: Option<Vec<oci::Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<oci::Descriptor>>,
}

impl Document {
    /// Reads a document; `what` names it in errors.
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Document, ImageError> {
        limits::check(what, "document", bytes.len() as u64, limits::DOCUMENT_BYTES)?;
        let read: Either =
            serde_json::from_slice(bytes).map_err(|error| ImageError::document(what, error))?;
        let refuse = |reason: String| Err(ImageError::document(what, reason));
        if read.schema_version != 2 {
            return refuse(format!(
                "schema version {} is not supported",
                read.schema_version
            ));
        }
        let media_type = read.media_type.as_deref().unwrap_or_default();
        match (read.config, read.manifests) {
            (Some(config), None) if !media::is_index(media_type) => {
                let layers = read.layers.unwrap_or_default();
                limits::check(what, "layers", layers.len() as u64, limits::LAYERS)?;
                Ok(Document::Manifest(Box::new(ReadManifest {
                    config: descriptor(what, &config)?,
                    layers: descriptors(what, &layers)?,
                })))
            }
            (None, Some(manifests)) if read.layers.is_none() && !media::is_manifest(media_type) => {
                let entries = manifests.len() as u64;
                limits::check(what, "index entries", entries, limits::INDEX_ENTRIES)?;
                Ok(Document::Index(ReadIndex {
                    manifests: descriptors(what, &manifests)?,
                }))
            }
            (None, None) => refuse("it is neither a manifest nor an index".to_owned()),
            _ => refuse("it can be taken for a manifest and for an index".to_owned()),
        }
    }
}

fn descriptors(what: &str, list: &[oci::Descriptor]) -> Result<Vec<Descriptor>, ImageError> {
    list.iter().map(|entry| descriptor(what, entry)).collect()
}

/// Takes over a foreign descriptor, whose digest must be a SHA-256.
fn descriptor(what: &str, foreign: &oci::Descriptor) -> Result<Descriptor, ImageError> {
    let digest: Digest = foreign
        .digest()
        .to_string()
        .parse()
        .map_err(|error| ImageError::document(what, error))?;
    let present = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(Descriptor {
        media_type: foreign.media_type().to_string(),
        digest,
        size: foreign.size(),
        annotations: foreign
            .annotations()
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>(),
        platform: foreign
            .platform()
            .as_ref()
            .map(|platform| DescriptorPlatform {
                architecture: platform.architecture().to_string(),
                os: platform.os().to_string(),
                os_version: platform.os_version().as_deref().and_then(present),
                os_features: platform.os_features().clone().unwrap_or_default(),
                variant: platform.variant().as_deref().and_then(present),
            }),
    })
}

/// Reads what a descriptor points to and checks size and digest.
pub(crate) fn checked(
    source: &dyn Documents,
    what: &'static str,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, ImageError> {
    limits::check(what, what, descriptor.size, limits::DOCUMENT_BYTES)?;
    let bytes = source.bytes(what, descriptor)?;
    let actual = Digest::of(&bytes);
    if actual != descriptor.digest {
        let what = what.to_owned();
        return Err(ImageError::Corrupt {
            what,
            expected: descriptor.digest,
            actual,
        });
    }
    if bytes.len() as u64 != descriptor.size {
        return Err(ImageError::Size {
            what,
            digest: descriptor.digest,
            expected: descriptor.size,
            actual: bytes.len() as u64,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(descriptor: &Descriptor) -> String {
        serde_json::to_string(descriptor).unwrap()
    }

    #[test]
    fn ambiguous_and_foreign_documents_are_refused() {
        let config = json(&Descriptor::new(media::OCI_CONFIG, Digest::of(b""), 0));
        let sha512 = config.replace("sha256:", "sha512:");
        for (text, reason) in [
            ("{}".to_owned(), "missing field"),
            (
                r#"{"schemaVersion":1}"#.to_owned(),
                "schema version 1 is not supported",
            ),
            (
                r#"{"schemaVersion":2}"#.to_owned(),
                "neither a manifest nor an index",
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{config},"manifests":[]}}"#),
                "taken for a manifest and for an index",
            ),
            (
                r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned(),
                "taken for a manifest and for an index",
            ),
            (
                format!(
                    r#"{{"schemaVersion":2,"mediaType":"{}","config":{config}}}"#,
                    media::OCI_INDEX
                ),
                "taken for a manifest and for an index",
            ),
            (format!(r#"{{"schemaVersion":2,"config":{sha512}}}"#), ""),
            (
                format!(
                    r#"{{"schemaVersion":2,"config":{}}}"#,
                    config.replace(":0", ":-1")
                ),
                "invalid value",
            ),
        ] {
            let error = Document::parse("it", text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_manifest_with_too_many_layers_is_refused() {
        let layer = json(&Descriptor::new("l", Digest::of(b""), 0));
        let text = format!(
            r#"{{"schemaVersion":2,"config":{layer},"layers":[{}]}}"#,
            vec![layer.clone(); 5001].join(",")
        );
        assert_eq!(
            Document::parse("it", text.as_bytes())
                .unwrap_err()
                .to_string(),
            "it is over the limit `layers`: 5001 > 5000"
        );
    }
}
