//! Reading manifests and indexes that others wrote, and choosing among them.
//!
//! Every document is bound by the limits and checked against the digest and size of the descriptor
//! that led to it. A document that could be read both as a manifest and as an index is refused
//! (the confusion of CVE-2021-41190).

use std::collections::BTreeMap;

use oci_spec::image as oci;
use rbuild_cache::Digest;
use rbuild_parser::Platform;
use serde::Deserialize;

use super::base::{BaseImage, BaseLayer, Origin};
use super::config::ImageConfig;
use super::error::ImageError;
use super::manifest::{Descriptor, DescriptorPlatform};
use super::{limits, media, platform};

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
    Manifest(ReadManifest),
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
                Ok(Document::Manifest(ReadManifest {
                    config: descriptor(what, config)?,
                    layers: descriptors(what, layers)?,
                }))
            }
            (None, Some(manifests)) if read.layers.is_none() && !media::is_manifest(media_type) => {
                let entries = manifests.len() as u64;
                limits::check(what, "index entries", entries, limits::INDEX_ENTRIES)?;
                Ok(Document::Index(ReadIndex {
                    manifests: descriptors(what, manifests)?,
                }))
            }
            (None, None) => refuse("it is neither a manifest nor an index".to_owned()),
            _ => refuse("it can be taken for a manifest and for an index".to_owned()),
        }
    }
}

fn descriptors(what: &str, list: Vec<oci::Descriptor>) -> Result<Vec<Descriptor>, ImageError> {
    list.into_iter()
        .map(|entry| descriptor(what, entry))
        .collect()
}

/// Takes over a foreign descriptor, whose digest must be a SHA-256.
fn descriptor(what: &str, foreign: oci::Descriptor) -> Result<Descriptor, ImageError> {
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

/// The image that was chosen for a platform.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// Descriptor of its manifest.
    pub(crate) descriptor: Descriptor,
    /// Its manifest.
    pub(crate) manifest: ReadManifest,
    /// Its config.
    pub(crate) config: ImageConfig,
}

/// Finds the image for `wanted` among `start` and the indexes below.
///
/// A single manifest that no index leads to is taken whatever its platform, as BuildKit does: the
/// build check `InvalidBaseImagePlatform` is for that.
pub(crate) fn choose(
    source: &dyn Documents,
    name: &str,
    start: &[Descriptor],
    wanted: &Platform,
) -> Result<Chosen, ImageError> {
    if let [only] = start
        && let Document::Manifest(manifest) = read_document(source, name, only)?
    {
        return complete(source, only.clone(), manifest);
    }
    let mut candidates = Vec::new();
    for descriptor in start {
        collect(source, name, descriptor, 0, &mut candidates)?;
    }
    let mut available = Vec::new();
    let mut best: Option<(usize, &Descriptor)> = None;
    for candidate in &candidates {
        let platform = platform_of(source, name, candidate)?;
        if let Some(rank) = platform::rank(wanted, &platform)
            && best.is_none_or(|(least, _)| rank < least)
        {
            best = Some((rank, candidate));
        }
        available.push(platform.text());
    }
    let Some((_, descriptor)) = best else {
        available.retain(|text| text != "unknown/unknown");
        let platform = wanted.to_string();
        return Err(ImageError::NoPlatform {
            name: name.to_owned(),
            platform,
            available,
        });
    };
    match read_document(source, name, descriptor)? {
        Document::Manifest(manifest) => complete(source, descriptor.clone(), manifest),
        Document::Index(_) => Err(ImageError::document(
            format!("manifest {} of {name}", descriptor.digest),
            "it is an index, its descriptor says otherwise",
        )),
    }
}

/// Collects the manifests below a descriptor.
fn collect(
    source: &dyn Documents,
    name: &str,
    descriptor: &Descriptor,
    depth: usize,
    into: &mut Vec<Descriptor>,
) -> Result<(), ImageError> {
    if !media::is_index(&descriptor.media_type) {
        into.push(descriptor.clone());
        return Ok(());
    }
    limits::check(
        name,
        "nested indexes",
        depth as u64 + 1,
        limits::INDEX_DEPTH as u64,
    )?;
    let Document::Index(index) = read_document(source, name, descriptor)? else {
        return Err(ImageError::document(
            format!("index {} of {name}", descriptor.digest),
            "it is a manifest, its descriptor says otherwise",
        ));
    };
    for entry in &index.manifests {
        collect(source, name, entry, depth + 1, into)?;
        limits::check(
            name,
            "index entries",
            into.len() as u64,
            limits::INDEX_ENTRIES,
        )?;
    }
    Ok(())
}

fn read_document(
    source: &dyn Documents,
    name: &str,
    descriptor: &Descriptor,
) -> Result<Document, ImageError> {
    let bytes = checked(source, "manifest", descriptor)?;
    Document::parse(&format!("manifest {} of {name}", descriptor.digest), &bytes)
}

/// Platform of a manifest: from its descriptor, else from its config.
fn platform_of(
    source: &dyn Documents,
    name: &str,
    descriptor: &Descriptor,
) -> Result<DescriptorPlatform, ImageError> {
    if let Some(platform) = &descriptor.platform {
        return Ok(platform.clone());
    }
    match read_document(source, name, descriptor)? {
        Document::Manifest(manifest) if media::is_config(&manifest.config.media_type) => {
            let bytes = checked(source, "config", &manifest.config)?;
            Ok(DescriptorPlatform::of_config(&ImageConfig::from_bytes(
                &bytes,
            )?))
        }
        // An artifact beside the images: never fits.
        _ => Ok(DescriptorPlatform {
            architecture: "unknown".to_owned(),
            os: "unknown".to_owned(),
            os_version: None,
            variant: None,
        }),
    }
}

fn complete(
    source: &dyn Documents,
    descriptor: Descriptor,
    manifest: ReadManifest,
) -> Result<Chosen, ImageError> {
    if !media::is_config(&manifest.config.media_type) {
        return Err(ImageError::document(
            format!("manifest {}", descriptor.digest),
            format!(
                "it is not an image: its config is `{}`",
                manifest.config.media_type
            ),
        ));
    }
    let config = ImageConfig::from_bytes(&checked(source, "config", &manifest.config)?)?;
    Ok(Chosen {
        descriptor,
        manifest,
        config,
    })
}

impl Chosen {
    /// Makes it a base image.
    pub(crate) fn into_base(self, name: String, origin: Origin) -> Result<BaseImage, ImageError> {
        let layers = self.base_layers(&name)?;
        Ok(BaseImage {
            name,
            manifest: self.descriptor.digest,
            config: self.config,
            layers,
            origin,
        })
    }

    /// Brings layers of the manifest and diff IDs of the config together.
    pub(crate) fn base_layers(&self, name: &str) -> Result<Vec<BaseLayer>, ImageError> {
        let diff_ids = &self.config.rootfs.diff_ids;
        if self.manifest.layers.len() != diff_ids.len() {
            return Err(ImageError::LayerCount {
                name: name.to_owned(),
                layers: self.manifest.layers.len(),
                diff_ids: diff_ids.len(),
            });
        }
        self.manifest
            .layers
            .iter()
            .zip(diff_ids)
            .map(|(layer, diff_id)| {
                if media::layer_kind(&layer.media_type).is_none() {
                    return Err(ImageError::document(
                        format!("layer {} of {name}", layer.digest),
                        format!("its media type `{}` is not supported", layer.media_type),
                    ));
                }
                Ok(BaseLayer {
                    diff_id: *diff_id,
                    blob: layer.digest,
                    size: layer.size,
                    media_type: layer.media_type.clone(),
                })
            })
            .collect()
    }
}
