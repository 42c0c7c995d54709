//! Pushing images: blobs several at a time, then the manifests, the name last.

use rbuild_cache::Store;
use rbuild_registry::{Client, Location, PushOutcome, Reference};

use super::base::at_once;
use super::error::ImageError;
use super::manifest::Descriptor;
use super::remote::{Place, registry_descriptor};

/// An image that is ready to be pushed.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Layers and configs.
    pub blobs: Vec<OutgoingBlob>,
    /// Manifests and indexes, the one that the name shall point to last.
    pub documents: Vec<(Descriptor, Vec<u8>)>,
}

/// A blob to push.
#[derive(Debug, Clone)]
pub struct OutgoingBlob {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Another place that has it, for one that is not in the store.
    pub remote: Option<Place>,
    /// Registry host and repository that probably have it.
    pub mount_from: Option<(String, String)>,
    /// It is a layer, no config.
    pub layer: bool,
}

/// What is heard of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushNews {
    /// So many bytes of the blob have been sent.
    Bytes(u64),
    /// The blob is in the repository.
    Done(PushOutcome),
}

/// Pushes an image to all of these places, of which several may be in the same repository.
///
/// `progress` hears of each blob, once per repository, from the calling thread.
pub fn push_image(
    client: &Client,
    store: &Store,
    image: &Outgoing,
    locations: &[Location],
    progress: &mut dyn FnMut(&OutgoingBlob, &PushNews),
) -> Result<(), ImageError> {
    let mut done: Vec<&Location> = Vec::new();
    for location in locations {
        let same = |other: &&Location| {
            other.host == location.host && other.repository == location.repository
        };
        if !done.iter().any(same) {
            // What the first repository of a host has got need not be sent again to the second.
            let sibling = done.iter().find(|other| other.host == location.host);
            at_once(
                &image.blobs,
                &|blob, told| push_blob(client, store, blob, location, sibling.copied(), told),
                &mut |index, news| progress(&image.blobs[index], &news),
            )?;
            if let Some((_, below)) = image.documents.split_last() {
                for (descriptor, bytes) in below {
                    let place = Location {
                        reference: Reference::Digest(descriptor.digest),
                        ..location.clone()
                    };
                    client.push_manifest(&place, bytes, &descriptor.media_type)?;
                }
            }
            done.push(location);
        }
        if let Some((descriptor, bytes)) = image.documents.last() {
            client.push_manifest(location, bytes, &descriptor.media_type)?;
        }
    }
    Ok(())
}

/// Brings one blob into a repository, by the cheapest way.
pub(crate) fn push_blob(
    client: &Client,
    store: &Store,
    blob: &OutgoingBlob,
    location: &Location,
    sibling: Option<&Location>,
    told: &dyn Fn(PushNews),
) -> Result<(), ImageError> {
    let descriptor = registry_descriptor(&blob.descriptor);
    let mount_from = match (&blob.mount_from, sibling) {
        (Some((host, repository)), _) if *host == location.host => Some(repository.as_str()),
        (_, Some(sibling)) => Some(sibling.repository.as_str()),
        _ => None,
    };
    if !store.has_blob(&descriptor.digest)
        && let Some(remote) = &blob.remote
    {
        let found = client.find_blob(location, &descriptor, mount_from)?;
        if let Some(outcome) = found {
            told(PushNews::Done(outcome));
            return Ok(());
        }
        let brought = remote.bring_blob(store, &blob.descriptor, &|_| ());
        brought.map_err(|error| ImageError::Elsewhere {
            digest: descriptor.digest,
            source: Box::new(error),
        })?;
    }
    let sent = |bytes| told(PushNews::Bytes(bytes));
    let outcome = client.push_blob(location, store, &descriptor, mount_from, &sent)?;
    told(PushNews::Done(outcome));
    Ok(())
}
