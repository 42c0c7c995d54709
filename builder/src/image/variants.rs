//! The images for several platforms behind one name.
//!
//! The record of an image is that of one platform, the one that was unpacked. Its manifest may be an
//! index that leads to others, of which all, some or none of the blobs are here.

use std::collections::BTreeSet;

use rbuild_cache::{Digest, ImageRecord, Store};
use rbuild_parser::Platform;

use super::choose::{Chosen, collect, manifest_at};
use super::config::ImageConfig;
use super::error::ImageError;
use super::manifest::{Descriptor, DescriptorPlatform};
use super::platform;
use super::stored::{Stored, descriptor_of};

/// One of the images behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// What it is for.
    pub platform: DescriptorPlatform,
    /// Descriptor of its manifest.
    pub descriptor: Descriptor,
    /// The image by itself; none unless manifest, config and all layers are here.
    pub record: Option<ImageRecord>,
    /// Bytes of its manifest, config and layer blobs that are here.
    pub content: u64,
}

impl Variant {
    /// Tells whether it is the one for a platform; relatives that would run there do not count.
    pub fn is_for(&self, wanted: &Platform) -> bool {
        platform::rank(wanted, &self.platform) == Some(0)
    }
}

/// Lists the images behind a record, in the order of its index.
///
/// What is no image for a platform, such as an attestation, is left out.
pub fn variants(store: &Store, record: &ImageRecord) -> Result<Vec<Variant>, ImageError> {
    let name = record.config.to_string();
    let source = Stored { store, name: &name };
    let mut descriptors = Vec::new();
    collect(&source, &name, &descriptor_of(record), 0, &mut descriptors)?;
    let mut found = Vec::with_capacity(descriptors.len());
    for descriptor in descriptors {
        let chosen = match manifest_at(&source, &name, &descriptor) {
            Ok(chosen) => Some(chosen),
            Err(ImageError::Missing { .. }) => None,
            // An artifact beside the images.
            Err(ImageError::Document { .. }) if descriptor.digest != record.manifest => continue,
            Err(error) => return Err(error),
        };
        let of_config = chosen
            .as_ref()
            .map(|chosen| DescriptorPlatform::of_config(&chosen.config));
        // A manifest that is not here and has no platform in the index may be anything.
        let Some(platform) = descriptor.platform.clone().or(of_config) else {
            continue;
        };
        if platform.os == "unknown" {
            continue;
        }
        let (record, content) = match &chosen {
            None => (None, 0),
            Some(chosen) => (record_of(store, chosen, &name)?, content_of(store, chosen)?),
        };
        found.push(Variant {
            platform,
            descriptor,
            record,
            content,
        });
    }
    Ok(found)
}

/// The image by itself, if all of it is here.
fn record_of(
    store: &Store,
    chosen: &Chosen,
    name: &str,
) -> Result<Option<ImageRecord>, ImageError> {
    let layers = chosen.base_layers(name)?;
    let mut size = 0;
    for layer in &layers {
        size += match store.layer(&layer.diff_id)? {
            Some(unpacked) => unpacked.content_size(),
            None => match store.blob_size(&layer.blob)? {
                Some(bytes) => bytes,
                None => return Ok(None),
            },
        };
    }
    Ok(Some(ImageRecord {
        manifest: chosen.descriptor.digest,
        manifest_media_type: chosen.descriptor.media_type.clone(),
        manifest_size: chosen.descriptor.size,
        config: chosen.manifest.config.digest,
        created: chosen.config.created.clone(),
        size,
        layers: chosen.config.rootfs.diff_ids.clone(),
    }))
}

/// Bytes of the blobs that are here.
fn content_of(store: &Store, chosen: &Chosen) -> Result<u64, ImageError> {
    let layers = chosen.manifest.layers.iter().map(|layer| layer.digest);
    let documents = [chosen.descriptor.digest, chosen.manifest.config.digest];
    let blobs: BTreeSet<Digest> = layers.chain(documents).collect();
    let mut bytes = 0;
    for digest in &blobs {
        bytes += store.blob_size(digest)?.unwrap_or(0);
    }
    Ok(bytes)
}

/// Tells whether a config is for a platform; relatives that would run there do not count.
pub(crate) fn config_is_for(config: &ImageConfig, wanted: &Platform) -> bool {
    platform::rank(wanted, &DescriptorPlatform::of_config(config)) == Some(0)
}
