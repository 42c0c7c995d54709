//! Pulling an image into the store.

use rbuild_cache::Store;
use rbuild_parser::{ImageReference, Platform};
use rbuild_registry::Client;

use super::base::BaseLayer;
use super::error::ImageError;
use super::remote::{RemoteImage, resolve_remote, store_remote};

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
