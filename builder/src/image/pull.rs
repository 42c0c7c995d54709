//! Pulling an image into the store.

use rbuild_cache::Store;
use rbuild_parser::{ImageReference, Platform};
use rbuild_registry::Client;

use super::base::BaseLayer;
use super::document::Document;
use super::error::ImageError;
use super::manifest::{Descriptor, DescriptorPlatform};
use super::remote::{Place, RemoteImage, location_of, resolve_remote, store_remote};
use super::tools::remote_document;

/// What is heard of a pull.
#[derive(Debug)]
pub enum PullNews<'a> {
    /// The image was found.
    Found(&'a RemoteImage),
    /// A layer was there.
    Exists(&'a BaseLayer),
    /// So many bytes of the layer's blob are there.
    Bytes(&'a BaseLayer, u64),
}

/// Downloads an image, unpacks it and gives it its name; says whether anything changed.
pub fn pull_image(
    store: &Store,
    client: &Client,
    reference: &ImageReference,
    platform: &Platform,
    news: &dyn Fn(&PullNews<'_>),
) -> Result<(RemoteImage, bool), ImageError> {
    let known = store.image(&reference.canonical())?;
    let found = resolve_remote(store, client, reference, platform)?;
    news(&PullNews::Found(&found));
    store.expect_name();
    let lease = store.lease()?;
    let mut protected = vec![found.top.digest, found.image.manifest, found.config];
    for layer in &found.image.layers {
        protected.extend([layer.blob, *layer.diff_id.digest()]);
    }
    lease.protect_all(&protected)?;
    let mut missing = Vec::new();
    for layer in &found.image.layers {
        if store.layer(&layer.diff_id)?.is_some() {
            news(&PullNews::Exists(layer));
        } else {
            missing.push(layer);
        }
    }
    let bytes = |layer: &BaseLayer, bytes: u64, _: u64| {
        let layer = missing.iter().find(|other| other.diff_id == layer.diff_id);
        if let Some(layer) = layer {
            news(&PullNews::Bytes(layer, bytes));
        }
    };
    found.image.bring_layers(store, &missing, &bytes)?;
    store_remote(store, reference, &found)?;
    let same = known.is_some_and(|known| known.manifest == found.top.digest);
    let changed = !same || !missing.is_empty();
    Ok((found, changed))
}

/// Does the same for all platforms of an index, this one last, and for what lies beside them, such as
/// attestations: the image can then be pushed on and saved whole.
pub fn pull_all_platforms(
    store: &Store,
    client: &Client,
    reference: &ImageReference,
    platform: &Platform,
    news: &dyn Fn(&PullNews<'_>),
) -> Result<(RemoteImage, bool), ImageError> {
    let top = remote_document(client, reference)?;
    let mut platforms = Vec::new();
    for entry in top.entries.iter().flatten() {
        let text = entry.platform.as_ref().map(DescriptorPlatform::text);
        match text.and_then(|text| Platform::parse(&text).ok()) {
            Some(own) if own.os != "unknown" => platforms.push(own),
            _ => bring_beside(store, client, reference, entry)?,
        }
    }
    // The image is shown as that of the platform that comes last.
    platforms.sort_by_key(|own| own == platform);
    let last = platforms.pop().unwrap_or_else(|| platform.clone());
    let mut changed = false;
    for own in &platforms {
        changed |= pull_image(store, client, reference, own, news)?.1;
    }
    let (found, more) = pull_image(store, client, reference, &last, news)?;
    Ok((found, changed | more))
}

/// Brings a manifest that is no image, and its blobs, into the store.
fn bring_beside(
    store: &Store,
    client: &Client,
    reference: &ImageReference,
    entry: &Descriptor,
) -> Result<(), ImageError> {
    let place = Place {
        client: client.clone(),
        location: location_of(reference)?,
    };
    let document = client.manifest(&place.location, entry.digest)?;
    let name = format!("manifest {}", entry.digest);
    if let Document::Manifest(manifest) = Document::parse(&name, &document.bytes)? {
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            place.bring_blob(store, blob, &|_| ())?;
        }
    }
    store.put_blob(&document.bytes)?;
    Ok(())
}
