//! Runs a graph: look up, execute, commit, in parallel, the longest remaining path first.
//!
//! A vertex runs when its inputs are ready. Identical vertices are one vertex in the graph; across
//! processes a lock named by the key keeps two from doing the same work. The first failure stops
//! what runs and leaves what waits.

mod ahead;
mod chain;
mod findings;
mod foresee;
mod images;
mod keys;
mod reason;
mod results;
mod reuse;
mod schedule;
mod vertex;

use std::sync::{Arc, Mutex, OnceLock};

use rbuild_cache::{Collector, DiffId, Digest, Layer, Lease, RootView, Scratch, Store};
use rbuild_parser::LintFinding;
use rbuild_registry::Client;
use rbuild_runtime::Runtime;

use crate::beside::Beside;
use crate::cancel::Cancel;
use crate::error::{BuildError, SourceFile};
use crate::event::{Event, EventSink, VertexId, Warning};
use crate::exec::Scaffolds;
use crate::image::BaseImage;
use crate::locals::Locals;
use crate::ops::OpGraph;
use crate::remote_cache::{Imports, Lost, MountSources, Records, is_cache};
use crate::report::Recorder;
use crate::request::BuildRequest;
use crate::source::Remote;

pub(crate) use ahead::Ahead;
pub(crate) use chain::Chains;
pub(crate) use foresee::foreseen;
pub(crate) use schedule::solve;

/// What running needs.
pub(crate) struct SolveContext<'a> {
    /// The store.
    pub store: &'a Store,
    /// Speaks with registries; none where they are not to be asked.
    pub client: Option<&'a Client>,
    /// Keeps what this build uses from being pruned meanwhile.
    pub lease: &'a Lease,
    /// The same for caches; gives up sooner.
    pub cache_client: Option<&'a Client>,
    /// What other builds have found out, read before.
    pub imports: &'a Imports,
    /// What other builds have found out, to be asked.
    pub records: &'a Records,
    /// What new cache mounts are filled from.
    pub mounts: &'a MountSources,
    /// The caches that do not deliver.
    pub lost: &'a Lost,
    /// Sends results while the build goes on.
    pub beside: &'a Beside,
    /// Identities of root file systems.
    pub chains: Chains,
    /// What the store knew before the first step.
    pub ahead: OnceLock<Ahead>,
    /// Keys that need no results; see [`foreseen`].
    pub foreseen: OnceLock<Vec<Option<Digest>>>,
    /// Starts sandboxes; none on hosts where nothing can run.
    pub runtime: Option<&'a Runtime>,
    /// How sources outside this machine are reached.
    pub remote: &'a Remote,
    /// Flags.
    pub request: &'a BuildRequest,
    /// The graph.
    pub graph: &'a OpGraph,
    /// Directories of this machine that the graph reads.
    pub locals: &'a Locals,
    /// For locations in errors.
    pub file: &'a SourceFile,
    /// Receives events.
    pub events: &'a dyn EventSink,
    /// Stops everything.
    pub cancel: &'a Cancel,
    /// Where cache mounts live that are thrown away with the build; none for those of the store.
    pub own_mounts: Option<&'a Scratch>,
    /// Mount points that steps have in common.
    pub scaffolds: &'a Scaffolds,
    /// Collects the report.
    pub recorder: &'a Recorder,
    /// Keeps the store within its bounds.
    pub collector: &'a Collector,
    /// Findings of build checks that only the files can show.
    pub findings: &'a Mutex<Vec<LintFinding>>,
}

/// A layer of a result, not necessarily on disk yet.
#[derive(Debug, Clone)]
pub(crate) struct LayerRef {
    /// Its identity.
    pub diff_id: DiffId,
    /// The image it comes from and that image's vertex, when the store may not have it.
    pub origin: Option<LayerOrigin>,
}

/// An image that has a layer, and that image's vertex.
pub(crate) type LayerOrigin = (Arc<BaseImage>, VertexId);

/// What a vertex gives.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// A root file system, bottom layer first.
    Rootfs(Vec<LayerRef>),
    /// A directory of this machine.
    Local(usize),
}

/// Result of a vertex.
#[derive(Debug, Clone)]
pub(crate) struct VertexOutput {
    /// The value.
    pub value: Value,
    /// The keys under which it is known; none for what has no key.
    pub keys: Vec<Digest>,
    /// When its layer was made (RFC 3339), for vertices that make one.
    pub created: Option<String>,
    /// It was known before.
    pub cached: bool,
}

impl VertexOutput {
    /// The layers of a root file system; none of a directory.
    pub(crate) fn layers(&self) -> &[LayerRef] {
        match &self.value {
            Value::Rootfs(layers) => layers,
            Value::Local(_) => &[],
        }
    }
}

/// Makes sure that layers are unpacked in the store.
pub(crate) fn materialize(
    context: &SolveContext<'_>,
    layers: &[LayerRef],
) -> Result<Vec<Layer>, BuildError> {
    let find = |layer: &LayerRef| {
        context
            .store
            .layer(&layer.diff_id)
            .map_err(|error| BuildError::io("could not open a layer", &error))
    };
    // Before looking whether they are there, so that what is found stays.
    protect(context, layers.iter().map(|layer| &layer.diff_id))?;
    // What one image is to bring, for each image: several layers come in at once.
    // A cache counts as one.
    let mut missing: Vec<(LayerOrigin, Vec<DiffId>)> = Vec::new();
    for layer in layers {
        let Some(origin) = &layer.origin else {
            continue;
        };
        if find(layer)?.is_none() {
            let same = |other: &LayerOrigin| {
                other.1 == origin.1 && (is_cache(origin.1) || Arc::ptr_eq(&other.0, &origin.0))
            };
            match missing.iter_mut().find(|(other, _)| same(other)) {
                Some((known, wanted)) => {
                    if !Arc::ptr_eq(&known.0, &origin.0) {
                        known.0 = Arc::new(both(&known.0, &origin.0));
                    }
                    wanted.push(layer.diff_id);
                }
                None => missing.push((origin.clone(), vec![layer.diff_id])),
            }
        }
    }
    for ((image, vertex), wanted) in missing {
        images::load_layers(context, &image, vertex, &wanted)?;
    }
    let mut ready = Vec::with_capacity(layers.len());
    for layer in layers {
        ready.push(find(layer)?.ok_or_else(|| not_there(layer))?);
    }
    Ok(ready)
}

/// Removes build cache if the store is larger than it may be.
///
/// A build does not fail for it: what is in the way of the build itself shows in the build.
fn make_room(context: &SolveContext<'_>) {
    match context.collector.make_room(context.store) {
        Ok(Some(room)) if room.missing > 0 => {
            context.events.event(Event::Warning(Warning {
                rule: None,
                message: format!(
                    "the store is {} bytes over its bounds, and all that is left in it is needed",
                    room.missing
                ),
                line: None,
                url: None,
                help: Some(
                    "remove images with `rbuild rmi`, or set other bounds (RBUILD_MAX_USED_SPACE, \
                     RBUILD_MIN_FREE_SPACE)"
                        .to_owned(),
                ),
            }));
        }
        Ok(Some(room)) => {
            let bytes = room.removed.reclaimed;
            tracing::debug!(
                bytes,
                "removed build cache to keep the store within its bounds"
            );
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "the store could not be kept within its bounds"),
    }
}

/// Two pieces of one cache as one image.
fn both(one: &BaseImage, other: &BaseImage) -> BaseImage {
    let mut both = one.clone();
    both.layers.extend(other.layers.iter().cloned());
    both
}

/// Keeps layers from being pruned until the build ends.
fn protect<'l>(
    context: &SolveContext<'_>,
    layers: impl Iterator<Item = &'l DiffId>,
) -> Result<(), BuildError> {
    let digests: Vec<Digest> = layers.map(|diff_id| *diff_id.digest()).collect();
    context
        .lease
        .protect_all(&digests)
        .map_err(|error| BuildError::io("could not keep layers from being pruned", &error))
}

fn not_there(layer: &LayerRef) -> BuildError {
    BuildError::new(
        crate::error::BuildErrorKind::Io,
        format!("layer {} is not in the store", layer.diff_id),
    )
    .with_help("run the build again with --no-cache, or check the store with `rbuild fsck`")
}

/// The merged tree of a root file system.
fn view_of(context: &SolveContext<'_>, layers: &[LayerRef]) -> Result<RootView, BuildError> {
    Ok(RootView::new(&materialize(context, layers)?))
}
