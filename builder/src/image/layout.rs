//! OCI layout directories as a source of base images.
//!
//! Format: OCI image specification, "Image Layout". Nothing in a layout is trusted: documents are
//! read with limits and checked against the digests that lead to them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rbuild_cache::{Digest, Store, StoreError};
use rbuild_parser::{ImageReference, Platform};
use rustix::fs::{Mode, OFlags};

use super::base::{BaseImage, Origin};
use super::choose;
use super::document::{Document, Documents};
use super::error::ImageError;
use super::limits;
use super::manifest::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor};
use super::media;

/// Finds an image in an OCI layout directory, for a platform.
///
/// A tag is compared with the annotations `org.opencontainers.image.ref.name` and
/// `io.containerd.image.name`. Without tag and digest the only image is meant, else the one tagged
/// `latest`. Layers are not read yet. Documents that the layout lacks are taken from the store.
pub fn resolve_layout(
    store: &Store,
    path: &Path,
    tag: Option<&str>,
    digest: Option<&Digest>,
    platform: &Platform,
) -> Result<BaseImage, ImageError> {
    let layout = Layout { path, store };
    let index = layout.index()?;
    let name = match (tag, digest) {
        (_, Some(digest)) => format!("{}@{digest}", path.display()),
        (Some(tag), None) => format!("{}:{tag}", path.display()),
        (None, None) => path.display().to_string(),
    };
    let start = match digest {
        Some(digest) => vec![layout.by_digest(&index, digest)?],
        None => by_tag(&index, path, tag)?,
    };
    let chosen = choose::choose(&layout, &name, &start, platform)?;
    chosen.into_base(name, Origin::Layout(path.to_path_buf()))
}

/// Finds the one entry of a layout that a tag or digest names; without both, `latest` or the only one.
pub(crate) fn find(
    store: &Store,
    path: &Path,
    tag: Option<&str>,
    digest: Option<&Digest>,
) -> Result<Descriptor, ImageError> {
    let layout = Layout { path, store };
    let index = layout.index()?;
    if let Some(digest) = digest {
        return layout.by_digest(&index, digest);
    }
    let found = by_tag(&index, path, tag)?;
    let wanted = || format!("tagged {}", tag.unwrap_or("latest"));
    found
        .into_iter()
        .next()
        .ok_or_else(|| not_found(&index, path, wanted()))
}

/// The documents of a layout.
pub(crate) fn documents<'a>(store: &'a Store, path: &'a Path) -> Box<dyn Documents + 'a> {
    Box::new(Layout { path, store })
}

/// Path of a blob in a layout.
pub(crate) fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

/// Opens a file for reading if it is a regular one.
///
/// `O_NONBLOCK` keeps a pipe in its place from blocking us for ever.
pub(crate) fn open_regular(path: &Path) -> Result<File, ImageError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(
        rustix::fs::open(path, flags, Mode::empty()).map_err(ImageError::io("open", path))?,
    );
    if !file
        .metadata()
        .map_err(ImageError::io("read", path))?
        .is_file()
    {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(ImageError::Io {
            action: "read",
            path: path.to_path_buf(),
            source,
        });
    }
    Ok(file)
}

/// Reads a regular file of at most 16 MB.
pub(crate) fn read_document(path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    open_regular(path)?
        .take(limits::DOCUMENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(ImageError::io("read", path))?;
    let what = path.display().to_string();
    limits::check(
        &what,
        "document",
        bytes.len() as u64,
        limits::DOCUMENT_BYTES,
    )?;
    Ok(bytes)
}

/// A layout that is being looked at.
struct Layout<'a> {
    path: &'a Path,
    store: &'a Store,
}

impl Documents for Layout<'_> {
    fn bytes(&self, what: &'static str, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let not_found = match read_document(&blob_path(self.path, &descriptor.digest)) {
            Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                ImageError::Missing {
                    what,
                    digest: descriptor.digest,
                    name: self.path.display().to_string(),
                }
            }
            other => return other,
        };
        match self
            .store
            .read_blob(&descriptor.digest, limits::DOCUMENT_BYTES)
        {
            Ok(bytes) => Ok(bytes),
            Err(StoreError::MissingBlob { .. }) => Err(not_found),
            Err(error) => Err(error.into()),
        }
    }
}

impl Layout<'_> {
    /// Entries of `index.json`.
    fn index(&self) -> Result<Vec<Descriptor>, ImageError> {
        let path = self.path.join("index.json");
        let bytes = match read_document(&path) {
            Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::document(
                    format!("OCI layout `{}`", self.path.display()),
                    "it has no index.json",
                ));
            }
            other => other?,
        };
        let what = format!("`{}`", path.display());
        match Document::parse(&what, &bytes)? {
            Document::Index(index) => Ok(index.manifests),
            Document::Manifest(_) => Err(ImageError::document(what, "it is not an index")),
        }
    }

    /// The entry with that digest, else any document of the layout with it.
    fn by_digest(&self, index: &[Descriptor], digest: &Digest) -> Result<Descriptor, ImageError> {
        if let Some(entry) = index.iter().find(|entry| entry.digest == *digest) {
            return Ok(entry.clone());
        }
        let probe = Descriptor::new("", *digest, 0);
        let bytes = match self.bytes("manifest", &probe) {
            Err(ImageError::Missing { .. }) => {
                return Err(not_found(index, self.path, format!("with digest {digest}")));
            }
            other => other?,
        };
        let kind = match Document::parse(&format!("manifest {digest}"), &bytes)? {
            Document::Manifest(_) => media::OCI_MANIFEST,
            Document::Index(_) => media::OCI_INDEX,
        };
        Ok(Descriptor::new(kind, *digest, bytes.len() as u64))
    }
}

/// The entries that a tag names; several are the platforms of one image.
fn by_tag(
    index: &[Descriptor],
    path: &Path,
    tag: Option<&str>,
) -> Result<Vec<Descriptor>, ImageError> {
    let named = |tag: &str| -> Vec<Descriptor> {
        index
            .iter()
            .filter(|entry| has_tag(entry, tag))
            .cloned()
            .collect()
    };
    match tag {
        Some(tag) => match named(tag) {
            found if found.is_empty() => Err(not_found(index, path, format!("tagged {tag}"))),
            found => Ok(found),
        },
        None if index.len() == 1 => Ok(index.to_vec()),
        None => match named("latest") {
            found if !found.is_empty() => Ok(found),
            // Entries without any tag are the platforms of one image.
            _ if !index.is_empty() && index.iter().all(|entry| tags(entry).is_empty()) => {
                Ok(index.to_vec())
            }
            _ => Err(not_found(index, path, "tagged latest".to_owned())),
        },
    }
}

fn not_found(index: &[Descriptor], path: &Path, wanted: String) -> ImageError {
    let available = index
        .iter()
        .map(|entry| {
            tags(entry)
                .first()
                .map_or(entry.digest.to_string(), ToString::to_string)
        })
        .collect();
    ImageError::NotFound {
        wanted,
        place: path.display().to_string(),
        available,
    }
}

/// Annotations of an entry that may hold its tag.
fn tags(entry: &Descriptor) -> Vec<&str> {
    [ANNOTATION_REF_NAME, ANNOTATION_IMAGE_NAME]
        .iter()
        .filter_map(|key| entry.annotations.get(*key).map(String::as_str))
        .collect()
}

/// Tells whether an annotation is the tag itself or a name with that tag.
fn has_tag(entry: &Descriptor, tag: &str) -> bool {
    tags(entry).into_iter().any(|text| {
        text == tag
            || text.contains([':', '/'])
                && ImageReference::parse(text)
                    .is_ok_and(|reference| reference.with_default_tag().tag() == Some(tag))
    })
}
