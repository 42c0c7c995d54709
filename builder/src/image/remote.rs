//! Images in registries.
//!
//! Documents that come from a registry are kept in the store as blobs: the next time the registry is
//! only asked what the name points to. Layers are unpacked while they are downloaded.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rbuild_cache::{Digest, ImageRecord, Store, StoreError};
use rbuild_parser::{ImageReference, Platform};
use rbuild_registry::{BlobTap, Client, Location, Reference};

use super::base::{BaseImage, BaseLayer, Origin};
use super::choose;
use super::document::{Document, Documents};
use super::error::ImageError;
use super::layout;
use super::limits;
use super::manifest::Descriptor;
use super::media;
use super::stored::Stored;

/// Pieces of a layer between the download and the unpacking.
const PIECES: usize = 32;

/// A repository of a registry, and the client to speak with it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The client.
    pub client: Client,
    /// The repository, with the tag or digest that was asked for.
    pub location: Location,
}

/// An image that was found in a registry.
#[derive(Debug, Clone)]
pub struct RemoteImage {
    /// What the name points to: a manifest or an index.
    pub top: Descriptor,
    /// The image for the platform that was asked for.
    pub image: BaseImage,
    /// Digest of its config.
    pub config: Digest,
}

/// Returns where a reference lies; without tag and digest, `latest` is meant.
pub fn location_of(reference: &ImageReference) -> Result<Location, ImageError> {
    let reference = reference.clone().with_default_tag();
    let pointer = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Reference::Digest(
            digest
                .parse()
                .map_err(|error| ImageError::document(reference.familiar(), error))?,
        ),
        (None, tag) => Reference::Tag(tag.unwrap_or("latest").to_owned()),
    };
    Ok(Location {
        host: reference.domain().to_owned(),
        repository: reference.path().to_owned(),
        reference: pointer,
    })
}

/// Finds an image in its registry, for a platform. Layers are not downloaded yet.
pub fn resolve_remote(
    store: &Store,
    client: &Client,
    reference: &ImageReference,
    platform: &Platform,
) -> Result<RemoteImage, ImageError> {
    let remote = Place {
        client: client.clone(),
        location: location_of(reference)?,
    };
    let known = store.image(&reference.canonical())?.is_some();
    let top = if known {
        remote.top(store)?
    } else {
        remote.fetch_top(store)?
    };
    remote.image(store, &reference.familiar(), top, platform)
}

/// Gives an image its name in the store, if all of its layers are there; says whether it was done.
///
/// A name with a digest is left alone: what it means can be found without.
pub fn keep_remote(
    store: &Store,
    reference: &ImageReference,
    found: &RemoteImage,
) -> Result<bool, ImageError> {
    for layer in &found.image.layers {
        if store.layer(&layer.diff_id)?.is_none() {
            return Ok(false);
        }
    }
    if reference.digest().is_none() {
        store_remote(store, reference, found)?;
    }
    Ok(true)
}

/// Gives an image whose layers are there its name; one that is named by its digest is listed
/// without.
pub(crate) fn store_remote(
    store: &Store,
    reference: &ImageReference,
    found: &RemoteImage,
) -> Result<(), ImageError> {
    let mut record = ImageRecord {
        manifest: found.top.digest,
        manifest_media_type: found.top.media_type.clone(),
        manifest_size: found.top.size,
        config: found.config,
        created: found.image.config.created.clone(),
        size: 0,
        layers: found
            .image
            .layers
            .iter()
            .map(|layer| layer.diff_id)
            .collect(),
    };
    for diff_id in &record.layers {
        let layer = store.layer(diff_id)?;
        record.size += layer.map_or(0, |layer| layer.content_size());
    }
    if reference.digest().is_some() {
        return Ok(store.put_image(&record)?);
    }
    let name = reference.canonical();
    let known = store.image(&name)?;
    if let Some(known) = known.filter(|known| known.manifest == record.manifest) {
        // Another platform of the same index: its layers stay listed, so that they are kept.
        let others = known.layers.iter();
        let others = others.filter(|id| !record.layers.contains(id));
        record.layers.extend(others.copied().collect::<Vec<_>>());
    }
    store.tag(&name, &record)?;
    Ok(())
}

impl Place {
    /// What the location points to now.
    ///
    /// What a digest points to never changes, so the registry is not asked if the store has it.
    pub(crate) fn top(&self, store: &Store) -> Result<Descriptor, ImageError> {
        if let Reference::Digest(digest) = &self.location.reference
            && let Ok(bytes) = store.read_blob(digest, limits::DOCUMENT_BYTES)
        {
            let name = format!("manifest {digest}");
            let media_type = match Document::parse(&name, &bytes)? {
                Document::Manifest(_) => media::OCI_MANIFEST,
                Document::Index(_) => media::OCI_INDEX,
            };
            let media_type = document_type(&bytes).unwrap_or_else(|| media_type.to_owned());
            return Ok(Descriptor::new(&media_type, *digest, bytes.len() as u64));
        }
        let found = self.client.resolve(&self.location)?.descriptor;
        Ok(Descriptor::new(&found.media_type, found.digest, found.size))
    }

    /// The same, when it is to be downloaded anyway: that takes one request instead of two.
    fn fetch_top(&self, store: &Store) -> Result<Descriptor, ImageError> {
        if matches!(self.location.reference, Reference::Digest(_)) {
            return self.top(store);
        }
        let document = self.client.manifest_of(&self.location)?;
        store.put_blob(&document.bytes)?;
        let found = document.descriptor();
        Ok(Descriptor::new(&found.media_type, found.digest, found.size))
    }

    /// The image for a platform below a manifest or index.
    pub(crate) fn image(
        &self,
        store: &Store,
        name: &str,
        top: Descriptor,
        platform: &Platform,
    ) -> Result<RemoteImage, ImageError> {
        let source = RemoteDocuments {
            remote: self,
            store,
        };
        let chosen = choose::choose(&source, name, std::slice::from_ref(&top), platform)?;
        let config = chosen.manifest.config.digest;
        let image = chosen.into_base(name.to_owned(), Origin::Registry(self.clone()))?;
        Ok(RemoteImage { top, image, config })
    }

    /// Downloads a blob into the store, unless it is there.
    pub(crate) fn bring_blob(
        &self,
        store: &Store,
        blob: &Descriptor,
        told: &dyn Fn(u64),
    ) -> Result<(), ImageError> {
        let descriptor = registry_descriptor(blob);
        self.client
            .fetch_blob(&self.location, &descriptor, store, told)?;
        Ok(())
    }

    /// Downloads a layer and unpacks it at the same time.
    pub(crate) fn bring_layer(
        &self,
        store: &Store,
        layer: &BaseLayer,
        told: &dyn Fn(u64),
    ) -> Result<(), ImageError> {
        let descriptor = registry_descriptor(&layer.descriptor());
        let (sender, pieces) = sync_channel(PIECES);
        let mut tap = Tap {
            sender: Some(sender),
            heard: 0,
        };
        let (fetched, unpacked) = thread::scope(|scope| {
            let unpacker = scope.spawn(move || {
                store.unpack_stream(Pieces::new(pieces), &layer.blob, &layer.diff_id)
            });
            let fetched =
                self.client
                    .fetch_blob_with(&self.location, &descriptor, store, told, &mut tap);
            if fetched.is_ok() {
                tap.end();
            }
            let heard = tap.heard;
            // Without this the unpacking would wait for more.
            drop(tap);
            let unpacked = unpacker.join();
            (fetched.map(|()| heard), unpacked)
        });
        if fetched? == layer.size
            && let Ok(unpacked) = unpacked
        {
            unpacked?;
            return Ok(());
        }
        // The download began anew on the way, or the blob was there: it is whole now.
        store.unpack(&layer.blob, &layer.diff_id)?;
        Ok(())
    }
}

/// The descriptor in the words of the registry client.
pub(crate) fn registry_descriptor(descriptor: &Descriptor) -> rbuild_registry::Descriptor {
    rbuild_registry::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest,
        size: descriptor.size,
    }
}

/// What a document says itself that it is.
fn document_type(bytes: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    Some(value.get("mediaType")?.as_str()?.to_owned())
}

/// Documents of a registry, kept in the store.
struct RemoteDocuments<'a> {
    remote: &'a Place,
    store: &'a Store,
}

impl Documents for RemoteDocuments<'_> {
    fn bytes(&self, what: &'static str, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let (digest, limit) = (&descriptor.digest, limits::DOCUMENT_BYTES);
        // Another process may just be removing the image that it is of.
        self.store.protect_published(digest)?;
        match self.store.read_blob(digest, limit) {
            Err(StoreError::MissingBlob { .. }) => {}
            other => return Ok(other?),
        }
        if what == "config" {
            let name = self.remote.location.to_string();
            limits::check(&name, "document", descriptor.size, limit)?;
            self.remote.bring_blob(self.store, descriptor, &|_| ())?;
            return Ok(self.store.read_blob(digest, limit)?);
        }
        let document = self
            .remote
            .client
            .manifest(&self.remote.location, *digest)?;
        self.store.put_blob(&document.bytes)?;
        Ok(document.bytes)
    }
}

/// What comes from the download: bytes, or the end.
type Piece = Option<Vec<u8>>;

/// Hands the bytes of a download to the unpacking.
struct Tap {
    /// None after the download began anew, or when nobody listens any more.
    sender: Option<SyncSender<Piece>>,
    /// Bytes handed on.
    heard: u64,
}

impl BlobTap for Tap {
    fn bytes(&mut self, bytes: &[u8]) {
        if let Some(sender) = &self.sender {
            self.heard += bytes.len() as u64;
            if sender.send(Some(bytes.to_vec())).is_err() {
                // The unpacking has an error to tell, or the layer was there.
                self.sender = None;
            }
        } else if self.heard > 0 {
            self.heard += bytes.len() as u64;
        }
    }

    fn restart(&mut self) {
        self.sender = None;
        self.heard = 0;
    }
}

impl Tap {
    fn end(&mut self) {
        if let Some(sender) = self.sender.take() {
            // Whoever does not listen any more has seen enough.
            let _ = sender.send(None);
        }
    }
}

/// The bytes of a download as they come.
struct Pieces {
    receiver: Receiver<Piece>,
    current: Vec<u8>,
    used: usize,
    ended: bool,
}

impl Pieces {
    fn new(receiver: Receiver<Piece>) -> Pieces {
        Pieces {
            receiver,
            current: Vec::new(),
            used: 0,
            ended: false,
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.used == self.current.len() && !self.ended {
            match self.receiver.recv() {
                Ok(Some(piece)) => (self.current, self.used) = (piece, 0),
                Ok(None) => self.ended = true,
                Err(_) => {
                    let text = "the download was broken off";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
            }
        }
        let count = buffer.len().min(self.current.len() - self.used);
        buffer[..count].copy_from_slice(&self.current[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

/// The documents of a place, to read a cache from.
pub(crate) fn cache_documents<'a>(store: &'a Store, origin: &'a Origin) -> Box<dyn Documents + 'a> {
    match origin {
        Origin::Registry(remote) => Box::new(RemoteDocuments { remote, store }),
        Origin::Layout(path) => layout::documents(store, path),
        Origin::Store => Box::new(Stored {
            store,
            name: "the store",
        }),
    }
}
