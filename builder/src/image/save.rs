//! Saving images of the store as an archive.
//!
//! One tar is both an OCI layout and what `docker load` knew before there were layouts, as Docker has
//! written it since version 25. Manifests are the stored ones, byte for byte, so nothing is compressed
//! here: layers that were built appear as plain tars (see the module `image`).

use std::io::Write;

use rbuild_cache::{DiffId, Digest, ImageRecord, Store};
use rbuild_parser::ImageReference;

use super::bundle::{Bundle, Content, DockerImage, named_entry};
use super::config::ImageConfig;
use super::document::{self, Document, ReadManifest};
use super::error::ImageError;
use super::limits;
use super::manifest::Descriptor;
use super::media;
use super::stored::{Stored, descriptor_of, manifest_of};

/// An image to save.
#[derive(Debug, Clone)]
pub struct SaveItem {
    /// Name to give it in the archive.
    pub name: Option<ImageReference>,
    /// The image.
    pub record: ImageRecord,
}

/// Saves images as one tar; the same image may be given several times under different names.
///
/// Of an image for several platforms all that is in the store is saved.
///
/// # Errors
///
/// [`ImageError::Missing`] when an image is not complete; then nothing was written yet.
pub fn save_archive(
    store: &Store,
    images: &[SaveItem],
    out: &mut dyn Write,
) -> Result<(), ImageError> {
    let mut bundle = Bundle::default();
    let mut docker: Vec<DockerImage> = Vec::new();
    for image in images {
        store.protect_image(&image.record)?;
        let name = image.name.clone().map(ImageReference::with_default_tag);
        let shown = name
            .as_ref()
            .map_or_else(|| image.record.config.to_string(), ImageReference::familiar);
        let top = descriptor_of(&image.record);
        let collector = Collector {
            store,
            name: &shown,
        };
        collector.collect(&top, 0, &image.record, &mut bundle)?;
        let entry = name
            .as_ref()
            .map_or_else(|| top.clone(), |name| named_entry(&top, name));
        if !bundle.entries.contains(&entry) {
            bundle.entries.push(entry);
        }
        add_docker(store, &image.record, name.as_ref(), &mut docker)?;
    }
    bundle.docker = Some(docker);
    bundle.write_tar(store, out, &|_| ())
}

/// Lists an image in Docker's `manifest.json`, once with all its names.
fn add_docker(
    store: &Store,
    record: &ImageRecord,
    name: Option<&ImageReference>,
    docker: &mut Vec<DockerImage>,
) -> Result<(), ImageError> {
    let manifest = manifest_of(store, record)?;
    let layers: Vec<Digest> = manifest.layers.iter().map(|layer| layer.digest).collect();
    let position = docker
        .iter()
        .position(|known| known.config == record.config);
    let position = position.unwrap_or_else(|| {
        docker.push(DockerImage {
            config: record.config,
            names: Vec::new(),
            layers,
        });
        docker.len() - 1
    });
    let names = &mut docker[position].names;
    if let Some(name) = name.map(ImageReference::familiar)
        && !names.contains(&name)
    {
        names.push(name);
    }
    Ok(())
}

/// Collects what belongs to one image.
struct Collector<'a> {
    store: &'a Store,
    name: &'a str,
}

impl Collector<'_> {
    /// Adds a manifest or index and all below it.
    fn collect(
        &self,
        descriptor: &Descriptor,
        depth: usize,
        record: &ImageRecord,
        bundle: &mut Bundle,
    ) -> Result<(), ImageError> {
        let source = Stored {
            store: self.store,
            name: self.name,
        };
        let bytes = document::checked(&source, "manifest", descriptor)?;
        let what = format!("manifest {} of {}", descriptor.digest, self.name);
        match Document::parse(&what, &bytes)? {
            Document::Manifest(manifest) => self.add_image(&manifest, bundle)?,
            Document::Index(index) => {
                let allowed = limits::INDEX_DEPTH as u64;
                limits::check(self.name, "nested indexes", depth as u64 + 1, allowed)?;
                for entry in &index.manifests {
                    self.collect_one_of_many(entry, depth + 1, record, bundle)?;
                }
            }
        }
        bundle
            .blobs
            .insert(descriptor.digest, Content::Document(bytes));
        Ok(())
    }

    /// Adds one entry of an index; one that is not complete is left out, unless it is the platform
    /// that the store unpacked.
    fn collect_one_of_many(
        &self,
        entry: &Descriptor,
        depth: usize,
        record: &ImageRecord,
        bundle: &mut Bundle,
    ) -> Result<(), ImageError> {
        if !media::is_index(&entry.media_type) && !media::is_manifest(&entry.media_type) {
            return Ok(());
        }
        let mut part = Bundle::default();
        match self.collect(entry, depth, record, &mut part) {
            Ok(()) => bundle.blobs.append(&mut part.blobs),
            Err(ImageError::Missing { .. }) if !part.blobs.contains_key(&record.config) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Adds config and layers of an image.
    fn add_image(&self, manifest: &ReadManifest, bundle: &mut Bundle) -> Result<(), ImageError> {
        let source = Stored {
            store: self.store,
            name: self.name,
        };
        let bytes = document::checked(&source, "config", &manifest.config)?;
        // Attestations beside images have configs and layers of other kinds.
        let diff_ids = if media::is_config(&manifest.config.media_type) {
            ImageConfig::from_bytes(&bytes)?.rootfs.diff_ids
        } else {
            Vec::new()
        };
        bundle
            .blobs
            .insert(manifest.config.digest, Content::Document(bytes));
        for (position, layer) in manifest.layers.iter().enumerate() {
            let content = self.layer(layer, diff_ids.get(position))?;
            bundle.blobs.insert(layer.digest, content);
        }
        Ok(())
    }

    /// Where the bytes of a layer come from.
    fn layer(&self, layer: &Descriptor, diff_id: Option<&DiffId>) -> Result<Content, ImageError> {
        match (self.store.blob_size(&layer.digest)?, diff_id) {
            (Some(size), _) if size == layer.size => Ok(Content::Blob { size }),
            (Some(actual), _) => Err(ImageError::Size {
                what: "layer",
                digest: layer.digest,
                expected: layer.size,
                actual,
            }),
            (None, Some(diff_id))
                if *diff_id.digest() == layer.digest && self.store.has_layer(diff_id)? =>
            {
                Ok(Content::LayerTar {
                    diff_id: *diff_id,
                    size: layer.size,
                })
            }
            (None, _) => Err(ImageError::Missing {
                what: "layer",
                digest: layer.digest,
                name: self.name.to_owned(),
            }),
        }
    }
}
