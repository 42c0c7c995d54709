//! Writing records, while the build goes on.

use std::sync::Mutex;

use rbuild_cache::{Compression, Digest, Store};
use rbuild_registry::{Client, Location, Reference};

use super::document::{StepRecord, tag};
use crate::image::media::OCI_MANIFEST;
use crate::image::push::push_blob;
use crate::image::{BaseLayer, ImageError, OutgoingBlob, location_of};
use crate::output::OutputError;
use crate::remote_cache::artifact::{EMPTY, empty};
use crate::remote_cache::layer::layer_blob;
use crate::request::{CachePlace, CacheTarget};
use crate::solve::VertexOutput;

/// A repository that records are written to.
#[derive(Debug)]
pub(crate) struct RecordTarget {
    /// Position in the request's `cache_to`.
    pub(crate) number: usize,
    /// The steps of all stages, not only those that the image is made of.
    pub(crate) all: bool,
    pub(crate) location: Location,
    compression: Compression,
    max_layer: Option<u64>,
    /// Why nothing more is written.
    pub(crate) failed: Mutex<Option<OutputError>>,
}

/// The repositories for records among the targets of a request.
pub(crate) fn record_targets(targets: &[CacheTarget]) -> Result<Vec<RecordTarget>, ImageError> {
    let mut found = Vec::new();
    for (number, target) in targets.iter().enumerate() {
        if let CachePlace::Records(reference) = &target.place {
            found.push(RecordTarget {
                number,
                all: target.all,
                location: location_of(reference)?,
                compression: target.compression.clone().unwrap_or_default(),
                max_layer: target.max_layer,
                failed: Mutex::default(),
            });
        }
    }
    Ok(found)
}

/// Writes the record of a step, if it is not there: its layer, the manifest, then the tags.
pub(crate) fn send_step(
    client: &Client,
    store: &Store,
    target: &RecordTarget,
    name: &str,
    output: &VertexOutput,
    foreseen: Option<Digest>,
) -> Result<(), OutputError> {
    let Some(layer) = output.layers().last() else {
        return Ok(());
    };
    let mut keys: Vec<Digest> = output.keys.clone();
    keys.extend(foreseen.filter(|key| !keys.contains(key)));
    let place = |reference| Location {
        reference,
        ..target.location.clone()
    };
    let mut tags = Vec::with_capacity(keys.len());
    for key in &keys {
        let place = place(Reference::Tag(tag(key)));
        // What has just been made cannot be there.
        if !output.cached || !is_there(client, &place)? {
            tags.push(place);
        }
    }
    if tags.is_empty() {
        return Ok(());
    }
    let blob = layer_blob(store, layer, &target.compression)?;
    if target
        .max_layer
        .is_some_and(|most| blob.descriptor.size > most)
    {
        return Ok(());
    }
    let record = StepRecord {
        keys,
        created: output.created.clone(),
        name: name.to_owned(),
        layer: BaseLayer {
            diff_id: blob.diff_id,
            blob: blob.descriptor.digest,
            size: blob.descriptor.size,
            media_type: blob.descriptor.media_type.clone(),
        },
    };
    push_blob(
        client,
        store,
        &blob.outgoing(),
        &target.location,
        None,
        &|_| (),
    )?;
    store.put_blob(EMPTY)?;
    let config = OutgoingBlob {
        descriptor: empty(),
        remote: None,
        mount_from: None,
        layer: false,
    };
    push_blob(client, store, &config, &target.location, None, &|_| ())?;
    let bytes = record.to_bytes();
    let digest = place(Reference::Digest(Digest::of(&bytes)));
    for place in [digest].iter().chain(&tags) {
        client
            .push_manifest(place, &bytes, OCI_MANIFEST)
            .map_err(ImageError::from)?;
    }
    Ok(())
}

fn is_there(client: &Client, place: &Location) -> Result<bool, ImageError> {
    match client.resolve(place) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}
