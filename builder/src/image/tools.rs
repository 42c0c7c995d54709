//! Looking at images in registries, and putting several together under one name.

use rbuild_cache::{Digest, Store};
use rbuild_parser::ImageReference;
use rbuild_registry::{Client, Location};

use super::document::{Document, ReadManifest};
use super::error::ImageError;
use super::manifest::{Descriptor, DescriptorPlatform, Index};
use super::media::{self, Family};
use super::push::{Outgoing, OutgoingBlob, push_image};
use super::remote::{Place, location_of};
use super::{ImageConfig, limits};

/// A manifest or index in a registry.
#[derive(Debug, Clone)]
pub struct RemoteDocument {
    /// What it is.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Entries, if it is an index.
    pub entries: Option<Vec<Descriptor>>,
}

/// Downloads what a name points to.
pub fn remote_document(
    client: &Client,
    reference: &ImageReference,
) -> Result<RemoteDocument, ImageError> {
    let location = location_of(reference)?;
    let digest = client.resolve(&location)?.descriptor.digest;
    document_at(client, &location, digest)
}

fn document_at(
    client: &Client,
    location: &Location,
    digest: Digest,
) -> Result<RemoteDocument, ImageError> {
    let found = client.manifest(location, digest)?;
    let size = found.bytes.len() as u64;
    let entries = match Document::parse(&location.to_string(), &found.bytes)? {
        Document::Index(index) => Some(index.manifests),
        Document::Manifest(_) => None,
    };
    Ok(RemoteDocument {
        descriptor: Descriptor::new(found.media_type, digest, size),
        bytes: found.bytes,
        entries,
    })
}

/// An index made of several images of registries, and all that it needs.
#[derive(Debug)]
pub struct Combined {
    /// The index, or the one manifest there is.
    pub top: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    outgoing: Outgoing,
}

/// An image that goes into an index.
#[derive(Debug, Clone)]
pub struct Part<F> {
    /// Its name.
    pub name: ImageReference,
    /// What is changed of its platform.
    pub change: F,
}

impl Combined {
    /// Puts images together: the manifests of indexes, and single ones under their platform. Of two
    /// for the same platform the later one counts. One source alone is taken as it is.
    pub fn new(
        store: &Store,
        client: &Client,
        sources: &[ImageReference],
    ) -> Result<Combined, ImageError> {
        let parts: Vec<Part<fn(&mut DescriptorPlatform)>> = sources
            .iter()
            .map(|name| Part {
                name: name.clone(),
                change: (|_| ()) as fn(&mut DescriptorPlatform),
            })
            .collect();
        Combined::of_parts(store, client, &parts, false)
    }

    /// The same with changes of platforms; with `index`, one source alone gives an index, too.
    pub fn of_parts<F: Fn(&mut DescriptorPlatform)>(
        store: &Store,
        client: &Client,
        sources: &[Part<F>],
        index: bool,
    ) -> Result<Combined, ImageError> {
        let mut outgoing = Outgoing::default();
        let mut entries: Vec<Descriptor> = Vec::new();
        let mut only = None;
        for source in sources {
            let place = Place {
                client: client.clone(),
                location: location_of(&source.name)?,
            };
            let found = remote_document(client, &source.name)?;
            only = Some((found.descriptor.clone(), found.bytes.clone()));
            let fresh = match found.entries {
                Some(fresh) => fresh,
                None => vec![found.descriptor],
            };
            for mut entry in fresh {
                let platform = add(store, &place, &entry, &mut outgoing)?;
                entry.platform = entry.platform.or(platform);
                entry.platform.iter_mut().for_each(&source.change);
                let image = |entry: &Descriptor| {
                    let platform = entry.platform.clone();
                    platform.filter(|platform| platform.os != "unknown")
                };
                if image(&entry).is_some() {
                    entries.retain(|known| image(known) != image(&entry));
                }
                entries.push(entry);
            }
        }
        let (top, bytes) = match only {
            Some(only) if sources.len() == 1 && !index => only,
            _ => {
                let docker = |entry: &Descriptor| entry.media_type == media::DOCKER_MANIFEST;
                let family = if !entries.is_empty() && entries.iter().all(docker) {
                    Family::Docker
                } else {
                    Family::Oci
                };
                let bytes = Index::new(family, entries).to_bytes();
                let digest = Digest::of(&bytes);
                (
                    Descriptor::new(family.index(), digest, bytes.len() as u64),
                    bytes,
                )
            }
        };
        outgoing
            .documents
            .retain(|(known, _)| known.digest != top.digest);
        outgoing.documents.push((top.clone(), bytes.clone()));
        Ok(Combined {
            top,
            bytes,
            outgoing,
        })
    }

    /// Pushes it under all names; what a registry lacks is mounted or copied.
    pub fn push(
        &self,
        store: &Store,
        client: &Client,
        names: &[ImageReference],
    ) -> Result<(), ImageError> {
        let locations = names
            .iter()
            .map(location_of)
            .collect::<Result<Vec<_>, _>>()?;
        push_image(client, store, &self.outgoing, &locations, &mut |_, _| ())
    }
}

/// Adds a manifest and its blobs; returns its platform.
fn add(
    store: &Store,
    place: &Place,
    entry: &Descriptor,
    outgoing: &mut Outgoing,
) -> Result<Option<DescriptorPlatform>, ImageError> {
    let document = document_at(&place.client, &place.location, entry.digest)?;
    let name = format!("manifest {}", entry.digest);
    let Document::Manifest(manifest) = Document::parse(&name, &document.bytes)? else {
        return Err(ImageError::document(name, "an index within an index"));
    };
    outgoing
        .documents
        .push((document.descriptor, document.bytes));
    let ReadManifest { config, layers } = *manifest;
    let mut platform = None;
    if entry.platform.is_none() && media::is_config(&config.media_type) {
        limits::check(&name, "document", config.size, limits::DOCUMENT_BYTES)?;
        place.bring_blob(store, &config, &|_| ())?;
        let bytes = store.read_blob(&config.digest, limits::DOCUMENT_BYTES)?;
        platform = Some(DescriptorPlatform::of_config(&ImageConfig::from_bytes(
            &bytes,
        )?));
    }
    for descriptor in layers.into_iter().chain([config]) {
        let mut known = outgoing.blobs.iter();
        if !known.any(|blob| blob.descriptor.digest == descriptor.digest) {
            let location = &place.location;
            outgoing.blobs.push(OutgoingBlob {
                descriptor,
                remote: Some(place.clone()),
                mount_from: Some((location.host.clone(), location.repository.clone())),
                layer: true,
            });
        }
    }
    Ok(platform)
}
