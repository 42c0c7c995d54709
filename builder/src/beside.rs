//! Work beside the steps: what goes to registries is compressed and sent as soon as it is there.
//!
//! A layer that will be in the result is pushed when its step has ended, while later steps still
//! run; so is the record of a step. Nothing here fails a build: a push that did not succeed early is
//! done again at the end, and told there; a cache that cannot be written is a warning.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rbuild_cache::Compression;
use rbuild_parser::ImageReference;
use rbuild_registry::Location;

use crate::event::{Event, VertexId};
use crate::image::push::push_blob;
use crate::image::{ImageError, PushNews, location_of};
use crate::ops::{FileOp, Op, OpGraph};
use crate::output::{OutputError, names_of};
use crate::remote_cache::{RecordTarget, layer_blob, record_targets, send_step};
use crate::request::{BuildRequest, Output, OutputKind};
use crate::solve::{LayerRef, SolveContext, VertexOutput, foreseen};

/// How many layers are compressed and sent at a time: each uses all cores for the one, and waits
/// for the other.
const WORKERS: usize = 4;

/// The vertex under which outputs are written.
pub(crate) fn export_vertex(graph: &OpGraph) -> VertexId {
    VertexId(graph.len() as u32)
}

/// The queue of this work.
pub(crate) struct Beside {
    /// Vertices whose layers are in the result.
    in_result: BTreeSet<VertexId>,
    pushes: Vec<Push>,
    records: Vec<RecordTarget>,
    state: Mutex<State>,
    changed: Condvar,
}

/// An output that wants compressed layers.
struct Push {
    compression: Compression,
    /// Where they go; none for archives.
    locations: Vec<Location>,
    /// It failed; the end of the build will tell.
    failed: AtomicBool,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(VertexId, VertexOutput)>,
    running: usize,
    closed: bool,
}

impl Beside {
    /// What a request wants sent.
    pub(crate) fn new(
        request: &BuildRequest,
        graph: &OpGraph,
        roots: impl Iterator<Item = VertexId>,
        rewritten: bool,
    ) -> Result<Beside, ImageError> {
        let mut pushes = Vec::new();
        for output in &request.outputs {
            pushes.extend(push_of(request, output, rewritten)?);
        }
        Ok(Beside {
            in_result: in_result(graph, roots),
            pushes,
            records: record_targets(&request.cache_to)?,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// How many threads should call [`work`](Beside::work).
    pub(crate) fn workers(&self) -> usize {
        if self.pushes.is_empty() && self.records.is_empty() {
            0
        } else {
            WORKERS
        }
    }

    /// A vertex has a result.
    pub(crate) fn finished(&self, id: VertexId, output: &VertexOutput) {
        let sent = !self.pushes.is_empty() && self.in_result.contains(&id);
        let kept = !output.keys.is_empty() && self.records.iter().any(|one| self.keeps(one, id));
        if !output.layers().is_empty() && (sent || kept) {
            self.lock().jobs.push_back((id, output.clone()));
            self.changed.notify_all();
        }
    }

    /// Whether a target takes the record of a vertex.
    fn keeps(&self, target: &RecordTarget, id: VertexId) -> bool {
        target.all || self.in_result.contains(&id)
    }

    /// Does what there is to do until the queue is closed and empty, or the build is cancelled.
    pub(crate) fn work(&self, context: &SolveContext<'_>) {
        let mut state = self.lock();
        loop {
            if context.cancel.is_cancelled() {
                state.jobs.clear();
            }
            if let Some((id, output)) = state.jobs.pop_front() {
                state.running += 1;
                drop(state);
                self.send(context, id, &output);
                state = self.lock();
                state.running -= 1;
                self.changed.notify_all();
            } else if state.closed {
                return;
            } else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Whether layers go to a registry early.
    pub(crate) fn pushes(&self) -> bool {
        self.pushes.iter().any(|push| !push.locations.is_empty())
    }

    /// Waits until all that was handed in is done.
    pub(crate) fn wait(&self) {
        let state = self.lock();
        let busy = |state: &mut State| !state.jobs.is_empty() || state.running > 0;
        drop(
            self.changed
                .wait_while(state, busy)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Waits, and tells why the records of a target were not written, if they were not.
    pub(crate) fn wait_for_records(&self, number: usize) -> Option<OutputError> {
        self.wait();
        let target = self.records.iter().find(|one| one.number == number)?;
        let mut failed = target.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.take()
    }

    /// Where the records of a target go.
    pub(crate) fn record_place(&self, number: usize) -> Option<&Location> {
        let target = self.records.iter().find(|one| one.number == number)?;
        Some(&target.location)
    }

    /// Nothing more comes. The value that this returns does it on drop, however the build ends.
    pub(crate) fn closing(&self) -> Closing<'_> {
        Closing(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, context: &SolveContext<'_>, id: VertexId, output: &VertexOutput) {
        if self.in_result.contains(&id) {
            let own = matches!(context.graph.vertex(id).op, Op::Exec(_) | Op::File(_));
            let layers = output.layers();
            // What lies below has been sent when it was ready.
            let layers = if own {
                &layers[layers.len().saturating_sub(1)..]
            } else {
                layers
            };
            for push in &self.pushes {
                for layer in layers {
                    push.layer(context, layer);
                }
            }
        }
        for target in self.records.iter().filter(|one| self.keeps(one, id)) {
            if !output.keys.is_empty() {
                send_record(context, target, id, output);
            }
        }
    }
}

/// Closes a queue on drop.
#[must_use = "the queue is closed when it is dropped"]
pub(crate) struct Closing<'b>(&'b Beside);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

fn push_of(
    request: &BuildRequest,
    output: &Output,
    rewritten: bool,
) -> Result<Option<Push>, ImageError> {
    let mut locations: Vec<Location> = Vec::new();
    match &output.kind {
        OutputKind::Registry { names, .. } => {
            for name in names_of(request, names) {
                let place = repository_of(&name)?;
                if !locations.contains(&place) {
                    locations.push(place);
                }
            }
        }
        OutputKind::Oci(_) | OutputKind::Docker(_) => {}
        _ => return Ok(None),
    }
    // Layers whose times are changed at the end, or that are merged there, are other layers.
    if output.options.rewrite_timestamp && rewritten || request.squash.is_some() {
        return Ok(None);
    }
    Ok(Some(Push {
        compression: output.options.compression.clone().unwrap_or_default(),
        locations,
        failed: AtomicBool::new(false),
    }))
}

/// The repository of a name; what it points to there does not matter.
fn repository_of(name: &ImageReference) -> Result<Location, ImageError> {
    Ok(Location {
        reference: rbuild_registry::Reference::Tag("latest".to_owned()),
        ..location_of(name)?
    })
}

impl Push {
    /// Compresses a layer and sends it everywhere.
    fn layer(&self, context: &SolveContext<'_>, layer: &LayerRef) {
        if self.failed.load(Ordering::Relaxed) || context.cancel.is_cancelled() {
            return;
        }
        if let Err(error) = self.try_layer(context, layer) {
            tracing::debug!(%error, layer = %layer.diff_id, "a layer was not sent early");
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    fn try_layer(&self, context: &SolveContext<'_>, layer: &LayerRef) -> Result<(), OutputError> {
        let absent = context.store.layer(&layer.diff_id)?.is_none();
        // What an archive needs of it is brought at the end, by who shows how far that is.
        if absent && (self.locations.is_empty() || self.compression.force) {
            return Ok(());
        }
        let blob = layer_blob(context.store, layer, &self.compression)?;
        let Some(client) = context.client else {
            return Ok(());
        };
        let mut outgoing = blob.outgoing();
        if outgoing.mount_from.is_none()
            && let Some((image, _)) = &layer.origin
            && let Ok(name) = ImageReference::parse(&image.name)
        {
            let from = (name.domain().to_owned(), name.path().to_owned());
            outgoing.mount_from = Some(from);
        }
        // Shown as soon as somebody waits for it.
        let told = |news| {
            let current = match news {
                PushNews::Bytes(bytes) => bytes,
                PushNews::Done(_) => blob.descriptor.size,
            };
            context.events.event(Event::Progress {
                vertex: export_vertex(context.graph),
                what: blob.descriptor.digest.to_string(),
                current,
                total: Some(blob.descriptor.size),
            });
        };
        for location in &self.locations {
            push_blob(client, context.store, &outgoing, location, None, &told)?;
        }
        Ok(())
    }
}

fn send_record(
    context: &SolveContext<'_>,
    target: &RecordTarget,
    id: VertexId,
    output: &VertexOutput,
) {
    let failed = || target.failed.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(client) = context.cache_client else {
        return;
    };
    if failed().is_some() || context.cancel.is_cancelled() {
        return;
    }
    let name = &context.graph.vertex(id).meta.name;
    let foreseen = foreseen(context)[id.0 as usize];
    if let Err(error) = send_step(client, context.store, target, name, output, foreseen) {
        failed().get_or_insert(error);
    }
}

/// The vertices that add layers to the results: the roots and what they build on.
fn in_result(graph: &OpGraph, roots: impl Iterator<Item = VertexId>) -> BTreeSet<VertexId> {
    let mut found = BTreeSet::new();
    let mut open: Vec<VertexId> = roots.collect();
    while let Some(id) = open.pop() {
        if !found.insert(id) {
            continue;
        }
        let vertex = graph.vertex(id);
        match &vertex.op {
            Op::Exec(_)
            | Op::File(FileOp {
                detached: false, ..
            }) => {
                open.extend(vertex.inputs.first());
            }
            Op::Merge => open.extend(&vertex.inputs),
            _ => {}
        }
    }
    found
}
