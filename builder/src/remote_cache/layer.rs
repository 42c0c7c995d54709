//! The blob of a layer that a step gave.

use rbuild_cache::{Compression, DiffId, Store};

use super::config::UNCOMPRESSED;
use crate::image::media::Family;
use crate::image::{BaseLayer, Descriptor, Origin, OutgoingBlob, Place};
use crate::output::OutputError;
use crate::solve::LayerRef;

/// A layer as a blob.
#[derive(Debug, Clone)]
pub(crate) struct LayerBlob {
    /// Its descriptor, with the diff ID as an annotation.
    pub(crate) descriptor: Descriptor,
    /// The layer.
    pub(crate) diff_id: DiffId,
    /// The registry that has it, when the store has not.
    pub(crate) place: Option<Place>,
}

impl LayerBlob {
    /// As it is pushed.
    pub(crate) fn outgoing(&self) -> OutgoingBlob {
        let mount_from = self.place.as_ref().map(|place| {
            let location = &place.location;
            (location.host.clone(), location.repository.clone())
        });
        OutgoingBlob {
            descriptor: self.descriptor.clone(),
            remote: self.place.clone(),
            mount_from,
            layer: true,
        }
    }
}

/// The blob of a layer, made if need be; one that only a registry has stays there for now.
pub(crate) fn layer_blob(
    store: &Store,
    layer: &LayerRef,
    compression: &Compression,
) -> Result<LayerBlob, OutputError> {
    let diff_id = layer.diff_id;
    let elsewhere = layer.origin.as_ref().and_then(|(image, _)| {
        let mut layers = image.layers.iter();
        let known = layers.find(|known| known.diff_id == diff_id)?;
        match &image.origin {
            Origin::Registry(place) => Some((known.clone(), Some(place.clone()))),
            _ => Some((known.clone(), None)),
        }
    });
    let (known, place): (BaseLayer, _) = match elsewhere {
        Some((known, place)) if store.layer(&diff_id)?.is_none() => {
            if place.is_none()
                && let Some((image, _)) = &layer.origin
            {
                image.bring_blob(store, &known, &|_| ())?;
            }
            (known, place)
        }
        _ => {
            let made = store.layer_blob(&diff_id, compression)?;
            let known = BaseLayer {
                diff_id,
                blob: made.blob.digest,
                size: made.blob.size,
                media_type: Family::Oci.layer(made.kind),
            };
            (known, None)
        }
    };
    let mut descriptor = known.descriptor();
    let annotation = (UNCOMPRESSED.to_owned(), diff_id.to_string());
    descriptor.annotations.extend([annotation]);
    Ok(LayerBlob {
        descriptor,
        diff_id,
        place,
    })
}
