//! Preparing an image of the store to be pushed.
//!
//! An image that came from outside goes out byte for byte. The stored form of an image that was built
//! here has plain layers (see the module `image`): for a registry they are compressed, and the image
//! gets the manifest that says so.

use std::collections::BTreeMap;

use rbuild_cache::{Compression, Digest, ImageRecord, Store};
use rbuild_parser::Platform;

use super::choose;
use super::config::ImageConfig;
use super::document::{self, Document, ReadManifest};
use super::error::ImageError;
use super::limits;
use super::manifest::{Descriptor, Index, Manifest};
use super::media::{self, Family};
use super::push::{Outgoing, OutgoingBlob};
use super::stored::{Stored, descriptor_of, manifest_of};

/// An image of the store that is ready to be pushed.
#[derive(Debug)]
pub struct PreparedPush {
    /// Its parts.
    pub outgoing: Outgoing,
    /// The manifest or index that the name shall point to.
    pub top: Descriptor,
    /// Only one platform of several is in the store.
    pub partial: bool,
}

/// Prepares an image: all of its platforms, or the one that is asked for, or the one that is there.
pub fn prepare_push(
    store: &Store,
    record: &ImageRecord,
    platform: Option<&Platform>,
) -> Result<PreparedPush, ImageError> {
    store.protect_image(record)?;
    let name = record.config.to_string();
    let stored = Stored { store, name: &name };
    let top = descriptor_of(record);
    let mut work = Work {
        store,
        stored: &stored,
        outgoing: Outgoing::default(),
    };
    if let Some(platform) = platform {
        let chosen = choose::choose(&stored, &name, std::slice::from_ref(&top), platform)?;
        let top = work.manifest(&chosen.descriptor)?;
        return Ok(work.finish(top, false));
    }
    let bytes = document::checked(&stored, "manifest", &top)?;
    match Document::parse(&format!("manifest {}", top.digest), &bytes)? {
        Document::Manifest(_) => {
            let top = work.manifest(&top)?;
            Ok(work.finish(top, false))
        }
        Document::Index(_) => match work.index(&top, &bytes, 0) {
            Ok(top) => Ok(work.finish(top, false)),
            // Of an image that was pulled for one platform, the others are not here.
            Err(ImageError::Missing { .. }) => {
                work.outgoing = Outgoing::default();
                let one = manifest_of(store, record)?;
                let top = work.manifest(&one.descriptor)?;
                Ok(work.finish(top, true))
            }
            Err(error) => Err(error),
        },
    }
}

struct Work<'a> {
    store: &'a Store,
    stored: &'a Stored<'a>,
    outgoing: Outgoing,
}

impl Work<'_> {
    fn finish(self, top: Descriptor, partial: bool) -> PreparedPush {
        PreparedPush {
            outgoing: self.outgoing,
            top,
            partial,
        }
    }

    /// Adds an index and all below it; returns what it is called now.
    fn index(
        &mut self,
        descriptor: &Descriptor,
        bytes: &[u8],
        depth: u64,
    ) -> Result<Descriptor, ImageError> {
        let what = format!("index {}", descriptor.digest);
        limits::check(
            &what,
            "nested indexes",
            depth + 1,
            limits::INDEX_DEPTH as u64,
        )?;
        let Document::Index(index) = Document::parse(&what, bytes)? else {
            return Err(ImageError::document(what, "it is a manifest"));
        };
        let mut entries = Vec::with_capacity(index.manifests.len());
        for entry in &index.manifests {
            entries.push(if media::is_index(&entry.media_type) {
                let bytes = document::checked(self.stored, "manifest", entry)?;
                self.index(entry, &bytes, depth + 1)?
            } else {
                self.manifest(entry)?
            });
        }
        if entries == index.manifests {
            self.document(descriptor, bytes.to_vec());
            return Ok(descriptor.clone());
        }
        let mut new = Index::new(family_of(&descriptor.media_type), entries);
        new.annotations = annotations(bytes);
        Ok(self.add(descriptor, new.to_bytes()))
    }

    /// Adds a manifest and its blobs; returns what it is called now.
    fn manifest(&mut self, descriptor: &Descriptor) -> Result<Descriptor, ImageError> {
        let bytes = document::checked(self.stored, "manifest", descriptor)?;
        let what = format!("manifest {}", descriptor.digest);
        let Document::Manifest(manifest) = Document::parse(&what, &bytes)? else {
            return Err(ImageError::document(what, "it is an index"));
        };
        let layers = self.layers(descriptor, &manifest)?;
        for layer in &layers {
            self.blob(layer, true);
        }
        document::checked(self.stored, "config", &manifest.config)?;
        self.blob(&manifest.config, false);
        if layers == manifest.layers {
            self.document(descriptor, bytes);
            return Ok(descriptor.clone());
        }
        let family = family_of(&descriptor.media_type);
        let mut new = Manifest::new(family, manifest.config, layers);
        new.annotations = annotations(&bytes);
        Ok(self.add(descriptor, new.to_bytes()))
    }

    /// The layers as they shall go out: as blobs.
    fn layers(
        &self,
        descriptor: &Descriptor,
        manifest: &ReadManifest,
    ) -> Result<Vec<Descriptor>, ImageError> {
        let family = family_of(&descriptor.media_type);
        let mut config: Option<ImageConfig> = None;
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for (position, layer) in manifest.layers.iter().enumerate() {
            if self.store.has_blob(&layer.digest) {
                layers.push(layer.clone());
                continue;
            }
            if config.is_none() {
                let bytes = document::checked(self.stored, "config", &manifest.config)?;
                config = Some(ImageConfig::from_bytes(&bytes)?);
            }
            let mut diff_ids = config.iter().flat_map(|config| &config.rootfs.diff_ids);
            let missing = || ImageError::Missing {
                what: "layer",
                digest: layer.digest,
                name: self.stored.name.to_owned(),
            };
            let diff_id = diff_ids.nth(position).ok_or_else(missing)?;
            if self.store.layer(diff_id)?.is_none() {
                return Err(missing());
            }
            let made = self.store.layer_blob(diff_id, &Compression::default())?;
            let media_type = family.layer(made.kind);
            layers.push(Descriptor::new(
                media_type,
                made.blob.digest,
                made.blob.size,
            ));
        }
        Ok(layers)
    }

    fn blob(&mut self, descriptor: &Descriptor, layer: bool) {
        let mut known = self.outgoing.blobs.iter();
        if !known.any(|blob| blob.descriptor.digest == descriptor.digest) {
            self.outgoing.blobs.push(OutgoingBlob {
                descriptor: descriptor.clone(),
                remote: None,
                mount_from: None,
                layer,
            });
        }
    }

    /// Adds a document of ours in place of one.
    fn add(&mut self, old: &Descriptor, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            ..old.clone()
        };
        self.document(&descriptor, bytes);
        descriptor
    }

    fn document(&mut self, descriptor: &Descriptor, bytes: Vec<u8>) {
        self.outgoing.documents.push((descriptor.clone(), bytes));
    }
}

fn family_of(media_type: &str) -> Family {
    match media_type {
        media::DOCKER_MANIFEST | media::DOCKER_INDEX => Family::Docker,
        _ => Family::Oci,
    }
}

/// Annotations of a document.
fn annotations(bytes: &[u8]) -> BTreeMap<String, String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let annotations = value.get("annotations").cloned().unwrap_or_default();
    serde_json::from_value(annotations).unwrap_or_default()
}
