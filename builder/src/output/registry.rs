//! Pushing the result of a build.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rbuild_cache::Store;
use rbuild_parser::ImageReference;
use rbuild_registry::{Client, Location, Reference};

use super::assemble::Assembled;
use super::{Finished, OutputError};
use crate::image::bundle::Content;
use crate::image::{Descriptor, ImageError, Outgoing, OutgoingBlob, PushNews};
use crate::image::{location_of, push_image};

/// Pushes an image under all names, or only under its digest.
pub(super) fn push(
    store: &Store,
    client: Option<&Client>,
    finished: &[Finished],
    image: &Assembled,
    names: &[ImageReference],
    by_digest: bool,
    progress: &dyn Fn(&str, u64, Option<u64>),
) -> Result<(), OutputError> {
    let Some(client) = client else {
        let text = "registries are not asked, so nothing can be pushed";
        return Err(OutputError::Refused(text.to_owned()));
    };
    let mut locations = Vec::with_capacity(names.len());
    for name in names {
        let location = location_of(name)?;
        locations.push(if by_digest {
            Location {
                reference: Reference::Digest(image.top.digest),
                ..location
            }
        } else {
            location
        });
    }
    let outgoing = outgoing(store, finished, image)?;
    let layers = outgoing.blobs.iter().filter(|blob| blob.layer);
    let total = layers.map(|blob| blob.descriptor.size).sum();
    let sent = RefCell::new(BTreeMap::new());
    push_image(client, store, &outgoing, &locations, &mut |blob, news| {
        let bytes = match news {
            PushNews::Bytes(bytes) => *bytes,
            PushNews::Done(_) => blob.descriptor.size,
        };
        if blob.layer {
            let mut sent = sent.borrow_mut();
            sent.insert(blob.descriptor.digest, bytes);
            progress("pushing layers", sent.values().sum(), Some(total));
        }
    })?;
    for name in names {
        progress(
            &format!(
                "pushing manifest for {}@{}",
                name.canonical(),
                image.top.digest
            ),
            0,
            None,
        );
    }
    Ok(())
}

/// Sorts the parts of an image into blobs and manifests.
fn outgoing(
    store: &Store,
    finished: &[Finished],
    image: &Assembled,
) -> Result<Outgoing, OutputError> {
    let mut outgoing = Outgoing::default();
    let document = |descriptor: &Descriptor| match image.bundle.blobs.get(&descriptor.digest) {
        Some(Content::Document(bytes)) => Ok((descriptor.clone(), bytes.clone())),
        _ => Err(ImageError::Missing {
            what: "manifest",
            digest: descriptor.digest,
            name: "the result".to_owned(),
        }),
    };
    for (position, one) in image.images.iter().enumerate() {
        if one.manifest.digest != image.top.digest {
            outgoing.documents.push(document(&one.manifest)?);
        }
        let base = finished.get(position);
        for layer in &one.layers {
            let content = image.bundle.blobs.get(&layer.digest);
            let remote = match content {
                Some(Content::Remote { remote, .. }) => Some((**remote).clone()),
                _ => None,
            };
            let from = remote.as_ref().map(|remote| {
                let location = &remote.location;
                (location.host.clone(), location.repository.clone())
            });
            let from_base = base.and_then(|base| {
                let blobs = &mut base.base_blobs.iter();
                let known = blobs.any(|blob| blob.blob == layer.digest);
                base.base_repository.clone().filter(|_| known)
            });
            add(
                &mut outgoing,
                OutgoingBlob {
                    descriptor: layer.clone(),
                    remote,
                    mount_from: from.or(from_base),
                    layer: true,
                },
            );
        }
        // Blobs are pushed from the store.
        if let Some(Content::Document(bytes)) = image.bundle.blobs.get(&one.config) {
            let blob = store.put_blob(bytes)?;
            add(
                &mut outgoing,
                OutgoingBlob {
                    descriptor: Descriptor::new("application/octet-stream", blob.digest, blob.size),
                    remote: None,
                    mount_from: None,
                    layer: false,
                },
            );
        }
    }
    outgoing.documents.push(document(&image.top)?);
    Ok(outgoing)
}

/// Adds a blob, once.
fn add(outgoing: &mut Outgoing, blob: OutgoingBlob) {
    let digest = blob.descriptor.digest;
    if !outgoing
        .blobs
        .iter()
        .any(|known| known.descriptor.digest == digest)
    {
        outgoing.blobs.push(blob);
    }
}
