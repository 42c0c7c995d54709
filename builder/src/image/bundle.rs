//! What an image archive or layout directory holds: blobs by digest, and what leads to them.
//!
//! A bundle is put together first and written afterwards, so that every size is known when its tar
//! header is written and nothing but documents is held in memory.

use std::collections::BTreeMap;
use std::io::{self, Write};

use rbuild_cache::tar_write::{PaxWriter, TarHeader, TarKind};
use rbuild_cache::{DiffId, Digest, Store};
use rbuild_parser::ImageReference;
use serde::Serialize;

use super::base::copy;
use super::error::ImageError;
use super::json;
use super::manifest::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, Index};
use super::media::Family;
use super::remote::Place;

/// The file that marks a directory or archive as an OCI layout.
pub(crate) const LAYOUT_MARK: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Mode of blobs: nobody changes content that is named by its digest.
const BLOB_MODE: u32 = 0o444;

/// Where the bytes of a blob come from.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A document of ours.
    Document(Vec<u8>),
    /// A blob of the store, of this size.
    Blob { size: u64 },
    /// A blob of a registry that the store does not have, of this size.
    Remote { size: u64, remote: Box<Place> },
    /// The uncompressed tar of an unpacked layer, of this size.
    LayerTar { diff_id: DiffId, size: u64 },
}

/// An image in the form that `docker load` knows without an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DockerImage {
    /// Digest of the config.
    pub(crate) config: Digest,
    /// Familiar names with tag.
    pub(crate) names: Vec<String>,
    /// Digests of the layers as they are in the archive, bottom first.
    pub(crate) layers: Vec<Digest>,
}

/// Content of an archive or layout.
#[derive(Debug, Default)]
pub(crate) struct Bundle {
    /// Every blob once.
    pub(crate) blobs: BTreeMap<Digest, Content>,
    /// Entries of `index.json`.
    pub(crate) entries: Vec<Descriptor>,
    /// Entries of `manifest.json`; none leaves the file out.
    pub(crate) docker: Option<Vec<DockerImage>>,
}

/// One element of Docker's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    /// `null` when there are none, as Docker writes it.
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Content {
    /// Size in bytes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Content::Document(bytes) => bytes.len() as u64,
            Content::Blob { size }
            | Content::Remote { size, .. }
            | Content::LayerTar { size, .. } => *size,
        }
    }

    /// Writes the bytes; `copied` hears of progress.
    pub(crate) fn write(
        &self,
        store: &Store,
        digest: &Digest,
        out: &mut dyn Write,
        copied: &mut dyn FnMut(u64),
    ) -> Result<(), ImageError> {
        match self {
            Content::Document(bytes) => {
                out.write_all(bytes)
                    .map_err(ImageError::stream("write a document"))?;
                copied(bytes.len() as u64);
            }
            Content::Blob { .. } => {
                let mut file = store.open_blob(digest)?;
                copy(&mut file, out, copied).map_err(ImageError::stream("copy a blob"))?;
            }
            Content::Remote { remote, size } => {
                remote.bring_blob(store, &Descriptor::new("", *digest, *size), &|_| ())?;
                return Content::Blob { size: *size }.write(store, digest, out, copied);
            }
            // Verified by the store while it passes.
            Content::LayerTar { diff_id, .. } => {
                store.layer_tar(diff_id, &mut Counted { out, copied }, None)?;
            }
        }
        Ok(())
    }
}

/// Passes bytes on and tells how many.
struct Counted<'a> {
    out: &'a mut dyn Write,
    copied: &'a mut dyn FnMut(u64),
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.out.write(bytes)?;
        (self.copied)(taken as u64);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Bundle {
    /// Adds a document and returns its digest.
    pub(crate) fn add_document(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, Content::Document(bytes));
        digest
    }

    /// Bytes of all blobs.
    pub(crate) fn size(&self) -> u64 {
        self.blobs.values().map(Content::size).sum()
    }

    /// The `index.json`.
    pub(crate) fn index_json(&self) -> Vec<u8> {
        Index::new(Family::Oci, self.entries.clone()).to_compact_bytes()
    }

    /// The `manifest.json`, if there shall be one.
    pub(crate) fn manifest_json(&self) -> Option<Vec<u8>> {
        let place = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let entries: Vec<DockerEntry> = self
            .docker
            .as_ref()?
            .iter()
            .map(|image| DockerEntry {
                config: place(&image.config),
                repo_tags: (!image.names.is_empty()).then(|| image.names.clone()),
                layers: image.layers.iter().map(place).collect(),
            })
            .collect();
        Some(json::compact(&entries))
    }

    /// Writes all as one tar: sorted, owned by root, time 0, so that the same bundle is the same
    /// archive. `progress` gets the blob bytes written so far.
    pub(crate) fn write_tar(
        &self,
        store: &Store,
        out: &mut dyn Write,
        progress: &dyn Fn(u64),
    ) -> Result<(), ImageError> {
        let failed = || ImageError::stream("write the archive");
        let mut tar = PaxWriter::new(out);
        for directory in ["blobs/", "blobs/sha256/"] {
            let mut header = TarHeader::new(TarKind::Directory, directory);
            header.mode = 0o755;
            tar.entry(&header).map_err(failed())?;
        }
        let mut done = 0;
        for (digest, content) in &self.blobs {
            let path = format!("blobs/sha256/{}", digest.hex());
            tar.entry(&file_header(path, BLOB_MODE, content.size()))
                .map_err(failed())?;
            content.write(store, digest, &mut tar, &mut |bytes| {
                done += bytes;
                progress(done);
            })?;
        }
        let mut last = vec![("index.json", self.index_json())];
        last.extend(self.manifest_json().map(|bytes| ("manifest.json", bytes)));
        last.push(("oci-layout", LAYOUT_MARK.to_vec()));
        for (name, bytes) in last {
            tar.entry(&file_header(name, 0o644, bytes.len() as u64))
                .map_err(failed())?;
            tar.write_all(&bytes).map_err(failed())?;
        }
        tar.finish().map_err(failed())?;
        Ok(())
    }
}

fn file_header(path: impl Into<Vec<u8>>, mode: u32, size: u64) -> TarHeader {
    let mut header = TarHeader::new(TarKind::File, path);
    header.mode = mode;
    header.size = size;
    header
}

/// The entry of an image in `index.json` under a name, with the annotations that containerd,
/// docker, podman and skopeo look for.
pub(crate) fn named_entry(entry: &Descriptor, name: &ImageReference) -> Descriptor {
    let name = name.clone().with_default_tag();
    let mut entry = entry.clone();
    entry
        .annotations
        .insert(ANNOTATION_IMAGE_NAME.to_owned(), name.canonical());
    if let Some(version) = name.tag().or(name.digest()) {
        entry
            .annotations
            .insert(ANNOTATION_REF_NAME.to_owned(), version.to_owned());
    }
    entry
}
