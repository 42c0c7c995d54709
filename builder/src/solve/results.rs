//! Results that are there already: from this store's records, or from a cache of other builds.

use std::sync::Arc;

use jiff::Timestamp;
use rbuild_cache::{BuildRecord, Digest, Layer, StoreError};

use super::ahead::Foreknown;
use super::{LayerRef, SolveContext, Value, VertexOutput, foreseen};
use crate::error::BuildError;
use crate::event::{Event, VertexId};
use crate::key::Parts;
use crate::ops::Vertex;
use crate::remote_cache::Hit;
use crate::report::StepState;

impl VertexOutput {
    pub(super) fn known_as(mut self, keys: Vec<Digest>) -> VertexOutput {
        self.keys = keys;
        self
    }
}

/// The result of a key in a cache of other builds.
pub(super) fn imported(context: &SolveContext<'_>, vertex: &Vertex, key: &Digest) -> Option<Hit> {
    if vertex.meta.ignore_cache {
        return None;
    }
    if let Some(hit) = context.imports.find(key, context.lost) {
        return Some(hit);
    }
    let all = || foreseen(context).iter().flatten().copied().collect();
    context.records.find(context.events, &[*key], all)
}

/// Takes a result from a cache of other builds. Its layer is not fetched before someone reads it.
pub(super) fn taken(
    context: &SolveContext<'_>,
    id: VertexId,
    vertex: &Vertex,
    mut layers: Vec<LayerRef>,
    hit: &Hit,
) -> VertexOutput {
    if !vertex.meta.internal {
        context.events.event(Event::Cached {
            vertex: id,
            name: vertex.meta.name.clone(),
        });
    }
    context.recorder.step(id, |step| {
        step.state = StepState::Hit;
        step.layer = Some(hit.diff_id.to_string());
    });
    context.recorder.result(id, &hit.diff_id);
    layers.push(LayerRef {
        diff_id: hit.diff_id,
        origin: Some((Arc::clone(&hit.image), hit.vertex)),
    });
    VertexOutput {
        value: Value::Rootfs(layers),
        keys: hit.keys.clone(),
        created: hit.created.clone(),
        cached: true,
    }
}

/// What is kept of a step that ran.
pub(super) fn record(
    vertex: &Vertex,
    parts: &Parts,
    layer: &Layer,
    elapsed: std::time::Duration,
) -> BuildRecord {
    let created = Timestamp::now();
    BuildRecord {
        key: parts.digest(),
        step: vertex.meta.step.clone(),
        name: vertex.meta.name.clone(),
        layers: vec![*layer.diff_id()],
        parts: parts.to_stored(),
        detail: serde_json::json!({ "created": created.to_string() }),
        created_unix: created.as_second(),
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The result of a key, if it may be used and its layer is still there.
pub(super) fn look_up(
    context: &SolveContext<'_>,
    vertex: &Vertex,
    key: &Digest,
) -> Result<Option<BuildRecord>, BuildError> {
    if vertex.meta.ignore_cache {
        return Ok(None);
    }
    let ahead = context.ahead.get();
    let record = match ahead.map_or(Foreknown::Unknown, |ahead| ahead.get(key)) {
        Foreknown::Miss => return Ok(None),
        Foreknown::Hit(record) => context.store.record_of(context.lease, record.clone()),
        Foreknown::Unknown => context.store.record_for(context.lease, key),
    };
    if_whole(context, record)
}

/// The same, not as it was before the first step but as it is now.
pub(super) fn look_up_again(
    context: &SolveContext<'_>,
    vertex: &Vertex,
    key: &Digest,
) -> Result<Option<BuildRecord>, BuildError> {
    if vertex.meta.ignore_cache {
        return Ok(None);
    }
    if_whole(context, context.store.record_for(context.lease, key))
}

/// The record, if its layers are unpacked.
fn if_whole(
    context: &SolveContext<'_>,
    record: Result<Option<BuildRecord>, StoreError>,
) -> Result<Option<BuildRecord>, BuildError> {
    let record =
        record.map_err(|error| BuildError::io("could not read the build cache", &error))?;
    let Some(record) = record else {
        return Ok(None);
    };
    for diff_id in &record.layers {
        let layer = context
            .store
            .layer(diff_id)
            .map_err(|error| BuildError::io("could not open a layer", &error))?;
        if layer.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(record))
}

pub(super) fn cached(
    context: &SolveContext<'_>,
    id: VertexId,
    vertex: &Vertex,
    below: Vec<LayerRef>,
    record: &BuildRecord,
) -> VertexOutput {
    if !vertex.meta.internal {
        context.events.event(Event::Cached {
            vertex: id,
            name: vertex.meta.name.clone(),
        });
        let size = record.layers.iter().try_fold(0, |size, layer| {
            let layer = context.store.layer(layer).ok().flatten()?;
            Some(size + layer.content_size())
        });
        context.recorder.step(id, |step| {
            step.state = StepState::Hit;
            step.elapsed_ms = Some(record.elapsed_ms);
            step.layer = record.layers.first().map(ToString::to_string);
            step.size = size;
        });
        if let Some(layer) = record.layers.first() {
            context.recorder.result(id, layer);
        }
    }
    output(below, record, true)
}

pub(super) fn output(
    mut layers: Vec<LayerRef>,
    record: &BuildRecord,
    cached: bool,
) -> VertexOutput {
    layers.extend(record.layers.iter().map(|diff_id| LayerRef {
        diff_id: *diff_id,
        origin: None,
    }));
    let exact = record
        .detail
        .get("created")
        .and_then(serde_json::Value::as_str);
    let created = exact.map_or_else(
        || {
            Timestamp::from_second(record.created_unix)
                .unwrap_or(Timestamp::UNIX_EPOCH)
                .to_string()
        },
        str::to_owned,
    );
    VertexOutput {
        value: Value::Rootfs(layers),
        keys: Vec::new(),
        created: Some(created),
        cached,
    }
}
