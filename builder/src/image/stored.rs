//! Images of the image store.

use rbuild_cache::{Digest, ImageRecord, Store, StoreError};
use rbuild_parser::{ImageReference, Platform};

use super::base::{BaseImage, Origin};
use super::choose;
use super::config::ImageConfig;
use super::document::{self, Document, Documents};
use super::error::ImageError;
use super::limits;
use super::manifest::Descriptor;
use super::media;

/// Manifest of a stored image: the bytes as they are, and what they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// Digest and size and media type of the manifest.
    pub descriptor: Descriptor,
    /// The manifest itself, byte for byte.
    pub bytes: Vec<u8>,
    /// The config that it lists.
    pub config: Descriptor,
    /// The layers that it lists, bottom first. A layer whose digest is its diff ID need not exist
    /// as a blob: it is made from the unpacked tree.
    pub layers: Vec<Descriptor>,
}

/// Documents that lie in the store.
pub(crate) struct Stored<'a> {
    pub(crate) store: &'a Store,
    /// How messages call the image.
    pub(crate) name: &'a str,
}

impl Documents for Stored<'_> {
    fn bytes(&self, what: &'static str, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        match self
            .store
            .read_blob(&descriptor.digest, limits::DOCUMENT_BYTES)
        {
            Err(StoreError::MissingBlob { digest }) => Err(ImageError::Missing {
                what,
                digest,
                name: self.name.to_owned(),
            }),
            other => Ok(other?),
        }
    }
}

/// Finds an image of the store by name or digest, for a platform; none if there is no such name.
pub fn resolve_stored(
    store: &Store,
    reference: &ImageReference,
    platform: &Platform,
) -> Result<Option<BaseImage>, ImageError> {
    let Some(record) = record_of(store, reference)? else {
        return Ok(None);
    };
    let name = reference.familiar();
    let source = Stored { store, name: &name };
    let chosen = choose::choose(&source, &name, &[descriptor_of(&record)], platform)?;
    Ok(Some(chosen.into_base(name.clone(), Origin::Store)?))
}

/// The record that a name points to; a digest must be that of its manifest.
fn record_of(store: &Store, reference: &ImageReference) -> Result<Option<ImageRecord>, ImageError> {
    let Some(digest) = reference.digest() else {
        return Ok(store.image(&reference.clone().with_default_tag().canonical())?);
    };
    let digest: Digest = digest
        .parse()
        .map_err(|error| ImageError::document(reference.familiar(), error))?;
    let repository = format!("{}/{}:", reference.domain(), reference.path());
    let found = store.image_with_manifest(&digest)?.filter(|entry| {
        entry.names.is_empty() || entry.names.iter().any(|name| name.starts_with(&repository))
    });
    Ok(found.map(|entry| entry.record))
}

/// Descriptor of a record's manifest or index.
pub(crate) fn descriptor_of(record: &ImageRecord) -> Descriptor {
    Descriptor::new(
        &record.manifest_media_type,
        record.manifest,
        record.manifest_size,
    )
}

/// Reads the config of a stored image.
pub fn image_config(store: &Store, record: &ImageRecord) -> Result<ImageConfig, ImageError> {
    let name = record.config.to_string();
    let source = Stored { store, name: &name };
    let bytes = source.bytes("config", &Descriptor::new("", record.config, 0))?;
    ImageConfig::from_bytes(&bytes)
}

/// Reads the manifest of a stored image; of one with several platforms, the one that has the
/// record's config.
pub fn manifest_of(store: &Store, record: &ImageRecord) -> Result<StoredManifest, ImageError> {
    let name = record.config.to_string();
    let source = Stored { store, name: &name };
    let mut open = vec![(descriptor_of(record), 0)];
    while let Some((descriptor, depth)) = open.pop() {
        let bytes = match document::checked(&source, "manifest", &descriptor) {
            // Other platforms need not be complete.
            Err(ImageError::Missing { .. }) if depth > 0 => continue,
            other => other?,
        };
        match Document::parse(&format!("manifest {}", descriptor.digest), &bytes)? {
            Document::Manifest(manifest) if manifest.config.digest == record.config => {
                let (config, layers) = (manifest.config, manifest.layers);
                return Ok(StoredManifest {
                    descriptor,
                    bytes,
                    config,
                    layers,
                });
            }
            Document::Manifest(_) => {}
            Document::Index(index) => {
                limits::check(
                    &name,
                    "nested indexes",
                    depth + 1,
                    limits::INDEX_DEPTH as u64,
                )?;
                let images = index.manifests.into_iter().filter(|entry| {
                    media::is_index(&entry.media_type) || media::is_manifest(&entry.media_type)
                });
                open.extend(images.map(|entry| (entry, depth + 1)));
            }
        }
    }
    Err(ImageError::Missing {
        what: "manifest of config",
        digest: record.config,
        name,
    })
}
