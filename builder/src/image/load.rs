//! Loading images from archives: OCI layouts as tar, `docker save`, `podman save`, `skopeo copy`.
//!
//! The archive is a stream, so its files go into the store as blobs while they pass, and the documents
//! that say what they mean are looked at afterwards. Blobs that turn out to be of no use are garbage.
//! An OCI layout keeps its manifests byte for byte; an archive that has only Docker's `manifest.json`
//! gets a manifest of ours over the layers as they came.

use std::collections::BTreeMap;
use std::io::Read;

use rbuild_cache::{
    BlobInfo, CompressionKind, DiffId, Digest, ImageRecord, Lease, Store, detect_and_decompress,
};
use rbuild_parser::{ImageReference, Platform};
use serde::Deserialize;

use super::archive::{ArchiveReader, Entry, EntryKind};
use super::base::{BaseImage, BaseLayer, Origin, copy};
use super::choose;
use super::config::ImageConfig;
use super::document::Document;
use super::error::ImageError;
use super::limits;
use super::manifest::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, Manifest};
use super::media::Family;
use super::pump::pump;
use super::stored::Stored;
use super::variants::config_is_for;

/// An image that came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Canonical names that it got; empty if the archive gives it none.
    pub names: Vec<String>,
    /// The image ID: digest of its config.
    pub id: Digest,
}

/// Loads all images of an archive: stores, verifies and unpacks them, then gives them their names.
///
/// The archive may be plain or compressed (gzip, zstd, xz, bzip2). Of an image for several platforms
/// the one for this machine is unpacked, or whichever the archive has, and all are kept; with
/// `platform` only the one for that.
///
/// # Errors
///
/// Nothing gets a name if any image of the archive is damaged or incomplete.
pub fn load_archive(
    store: &Store,
    reader: &mut dyn Read,
    platform: Option<&Platform>,
) -> Result<Vec<Loaded>, ImageError> {
    store.expect_name();
    let lease = store.lease()?;
    let files = pump(reader, |stream| Files::read(store, &lease, stream))?;
    let images = files.images(store, platform)?;
    let mut loaded: Vec<Loaded> = Vec::new();
    for image in images {
        if image.names.is_empty() {
            store.put_image(&image.record)?;
        }
        for name in &image.names {
            store.tag(name, &image.record)?;
        }
        let id = image.record.config;
        match loaded.iter_mut().find(|known| known.id == id) {
            Some(known) => known.names.extend(image.names),
            None => loaded.push(Loaded {
                names: image.names,
                id,
            }),
        }
    }
    Ok(loaded)
}

/// An image that is complete in the store and waits for its names.
struct Complete {
    names: Vec<String>,
    record: ImageRecord,
}

/// What the archive held.
#[derive(Default)]
struct Files {
    /// Blobs by their names in the archive.
    blobs: BTreeMap<String, BlobInfo>,
    /// Links by their names in the archive, with the resolved name of what they point to.
    links: BTreeMap<String, String>,
    /// The `index.json` of an OCI layout.
    index: Option<Vec<u8>>,
    /// Docker's `manifest.json`.
    docker: Option<Vec<u8>>,
}

/// One element of Docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Files {
    /// Takes the files of the archive into the store.
    fn read(
        store: &Store,
        lease: &Lease,
        stream: &mut (dyn Read + Send),
    ) -> Result<Files, ImageError> {
        let (_, plain) =
            detect_and_decompress(stream).map_err(ImageError::stream("read the archive"))?;
        let mut archive = ArchiveReader::new(plain);
        let mut files = Files::default();
        while let Some(entry) = archive.next()? {
            let path = clean(&entry.path)?;
            match &entry.kind {
                EntryKind::File => files.file(store, lease, path, &entry, &mut archive)?,
                EntryKind::Symlink(target) => {
                    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                    files
                        .links
                        .insert(path.clone(), clean(&format!("{parent}/{target}"))?);
                }
                EntryKind::HardLink(target) => {
                    files.links.insert(path, clean(target)?);
                }
                EntryKind::Other => {}
            }
        }
        archive.finish()?;
        Ok(files)
    }

    fn file(
        &mut self,
        store: &Store,
        lease: &Lease,
        path: String,
        entry: &Entry,
        data: &mut dyn Read,
    ) -> Result<(), ImageError> {
        match path.as_str() {
            "index.json" => self.index = Some(small(&path, entry.size, data)?),
            "manifest.json" => self.docker = Some(small(&path, entry.size, data)?),
            // Nothing in these that is not said elsewhere.
            "oci-layout" | "repositories" => {}
            _ if path.ends_with("/VERSION") || path.ends_with("/json") => {}
            _ => {
                let expected = expected_digest(&path)?;
                let mut writer = store.blob_writer()?;
                copy(data, &mut writer, &mut |_| ()).map_err(ImageError::stream(
                    "copy a file of the archive into the store",
                ))?;
                let blob = writer.commit(expected.as_ref())?;
                lease.protect(&blob.digest)?;
                self.links.remove(&path);
                self.blobs.insert(path, blob);
            }
        }
        Ok(())
    }

    /// The blob under a name of the archive, links followed.
    fn blob(&self, name: &str) -> Result<&BlobInfo, ImageError> {
        let mut path = clean(name)?;
        // Docker links a layer to the same one of another image; more than a few steps is a loop.
        for _ in 0..8 {
            if let Some(blob) = self.blobs.get(&path) {
                return Ok(blob);
            }
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        let name = name.escape_debug();
        Err(ImageError::document(
            "archive",
            format!("`{name}` is missing in it"),
        ))
    }

    /// Completes every image that the documents of the archive name.
    fn images(
        &self,
        store: &Store,
        platform: Option<&Platform>,
    ) -> Result<Vec<Complete>, ImageError> {
        let docker: Vec<DockerEntry> = match &self.docker {
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|error| ImageError::document("manifest.json of the archive", error))?,
            None => Vec::new(),
        };
        limits::check(
            "archive",
            "images",
            docker.len() as u64,
            limits::INDEX_ENTRIES,
        )?;
        let index = match &self.index {
            Some(bytes) => match Document::parse("index.json of the archive", bytes)? {
                Document::Index(index) => index.manifests,
                Document::Manifest(_) => {
                    return Err(ImageError::document(
                        "index.json of the archive",
                        "not an index",
                    ));
                }
            },
            None => Vec::new(),
        };
        if index.is_empty() && docker.is_empty() {
            return Err(ImageError::document(
                "archive",
                "it holds no image: neither index.json nor manifest.json lists one",
            ));
        }
        if index.is_empty() {
            return docker
                .iter()
                .map(|entry| self.docker_image(store, entry, platform))
                .collect();
        }
        index
            .iter()
            .map(|entry| self.layout_image(store, entry, &docker, platform))
            .collect()
    }

    /// Completes an image of an OCI layout.
    fn layout_image(
        &self,
        store: &Store,
        entry: &Descriptor,
        docker: &[DockerEntry],
        platform: Option<&Platform>,
    ) -> Result<Complete, ImageError> {
        let mut names = Vec::new();
        for key in [ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME] {
            // A version alone is no name.
            let text = entry
                .annotations
                .get(key)
                .filter(|text| text.contains([':', '/']));
            if let Some(name) = text.and_then(|text| ImageReference::parse(text).ok()) {
                names.push(name.with_default_tag().canonical());
            }
        }
        let shown = names
            .first()
            .cloned()
            .unwrap_or_else(|| entry.digest.to_string());
        let source = Stored {
            store,
            name: &shown,
        };
        let host = Platform::host();
        let wanted = platform.unwrap_or(&host);
        let chosen = choose::choose_present(&source, &shown, entry, wanted)?;
        refuse_other(&chosen.config, platform)?;
        let top = match platform {
            Some(_) => chosen.descriptor.clone(),
            None => entry.clone(),
        };
        let config = chosen.manifest.config.digest;
        if names.is_empty() {
            for image in docker {
                if self.blob(&image.config)?.digest == config {
                    names.extend(canonical_names(image)?);
                }
            }
        }
        names.sort();
        names.dedup();
        let base = chosen.into_base(shown, Origin::Store)?;
        for layer in &base.layers {
            // One that is not there at all is told when it is needed.
            if let Some(actual) = store.blob_size(&layer.blob)?
                && actual != layer.size
            {
                return Err(ImageError::Size {
                    what: "layer",
                    digest: layer.blob,
                    expected: layer.size,
                    actual,
                });
            }
        }
        let record = complete(store, &base, &top, config)?;
        Ok(Complete { names, record })
    }

    /// Completes an image that only Docker's `manifest.json` describes.
    fn docker_image(
        &self,
        store: &Store,
        entry: &DockerEntry,
        platform: Option<&Platform>,
    ) -> Result<Complete, ImageError> {
        let names = canonical_names(entry)?;
        let config_blob = self.blob(&entry.config)?;
        let shown = names
            .first()
            .cloned()
            .unwrap_or_else(|| config_blob.digest.to_string());
        let config = store.read_blob(&config_blob.digest, limits::DOCUMENT_BYTES)?;
        let config = ImageConfig::from_bytes(&config)?;
        refuse_other(&config, platform)?;
        let files = entry.layers.as_deref().unwrap_or_default();
        let diff_ids = &config.rootfs.diff_ids;
        if files.len() != diff_ids.len() {
            let (layers, diff_ids) = (files.len(), diff_ids.len());
            return Err(ImageError::LayerCount {
                name: shown,
                layers,
                diff_ids,
            });
        }
        let layers = files
            .iter()
            .zip(diff_ids)
            .map(|(file, diff_id)| base_layer(store, *self.blob(file)?, *diff_id))
            .collect::<Result<Vec<_>, ImageError>>()?;
        let descriptors = layers
            .iter()
            .map(|layer| Descriptor::new(&layer.media_type, layer.blob, layer.size))
            .collect();
        let (digest, size) = (config_blob.digest, config_blob.size);
        let described = Descriptor::new(Family::Docker.config(), digest, size);
        let manifest =
            store.put_blob(&Manifest::new(Family::Docker, described, descriptors).to_bytes())?;
        let top = Descriptor::new(Family::Docker.manifest(), manifest.digest, manifest.size);
        let base = BaseImage {
            name: shown,
            manifest: manifest.digest,
            config,
            layers,
            origin: Origin::Store,
        };
        let record = complete(store, &base, &top, digest)?;
        Ok(Complete { names, record })
    }
}

/// Refuses an image that is not for the platform that was asked for.
fn refuse_other(config: &ImageConfig, platform: Option<&Platform>) -> Result<(), ImageError> {
    match platform {
        Some(wanted) if !config_is_for(config, wanted) => Err(ImageError::OtherPlatform {
            wanted: wanted.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Unpacks the layers, which verifies them, and makes the record.
fn complete(
    store: &Store,
    base: &BaseImage,
    top: &Descriptor,
    config: Digest,
) -> Result<ImageRecord, ImageError> {
    let layers = base.ensure_layers(store, &|_, _| ())?;
    Ok(ImageRecord {
        manifest: top.digest,
        manifest_media_type: top.media_type.clone(),
        manifest_size: top.size,
        config,
        created: base.config.created.clone(),
        size: layers.iter().map(rbuild_cache::Layer::content_size).sum(),
        layers: layers.iter().map(|layer| *layer.diff_id()).collect(),
    })
}

/// Describes a layer file of Docker's by what it holds.
fn base_layer(store: &Store, blob: BlobInfo, diff_id: DiffId) -> Result<BaseLayer, ImageError> {
    let mut magic = [0; 4];
    let mut filled = 0;
    let mut file = store.open_blob(&blob.digest)?;
    while filled < magic.len() {
        match file
            .read(&mut magic[filled..])
            .map_err(ImageError::stream("read a layer"))?
        {
            0 => break,
            count => filled += count,
        }
    }
    let kind = match magic {
        [0x1f, 0x8b, ..] => CompressionKind::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => CompressionKind::Zstd,
        _ => CompressionKind::Uncompressed,
    };
    Ok(BaseLayer {
        diff_id,
        blob: blob.digest,
        size: blob.size,
        media_type: Family::Docker.layer(kind),
    })
}

/// The names that `manifest.json` gives an image, in full.
fn canonical_names(entry: &DockerEntry) -> Result<Vec<String>, ImageError> {
    let texts = entry.repo_tags.iter().flatten();
    texts
        .map(|text| {
            ImageReference::parse(text)
                .map(|name| name.with_default_tag().canonical())
                .map_err(|error| ImageError::document("manifest.json of the archive", error))
        })
        .collect()
}

/// Reads a document of the archive.
fn small(path: &str, size: u64, data: &mut dyn Read) -> Result<Vec<u8>, ImageError> {
    limits::check(
        &format!("{path} of the archive"),
        "document",
        size,
        limits::DOCUMENT_BYTES,
    )?;
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes)
        .map_err(ImageError::stream("read the archive"))?;
    Ok(bytes)
}

/// The digest that a blob of a layout must have by its name.
fn expected_digest(path: &str) -> Result<Option<Digest>, ImageError> {
    let Some(hex) = path.strip_prefix("blobs/sha256/") else {
        return Ok(None);
    };
    Digest::from_hex(hex)
        .map(Some)
        .map_err(|error| ImageError::document("archive", error))
}

/// Brings a name of the archive into one form; it cannot lead out.
fn clean(path: &str) -> Result<String, ImageError> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_some() => {}
            ".." => {
                let reason = format!("the name `{}` leads out of it", path.escape_debug());
                return Err(ImageError::document("archive", reason));
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}
