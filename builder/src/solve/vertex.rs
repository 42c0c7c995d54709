//! One vertex: key, look-up, execution, commit.

use std::time::Instant;

use rbuild_cache::{BuildRecord, Layer};

use super::images::image_output;
use super::keys::{Key, early_parts, key, tree_of};
use super::reason::tell_reason;
use super::results::{cached, imported, look_up, look_up_again, output, record, taken};
use super::{LayerRef, SolveContext, Value, VertexOutput, make_room, materialize, protect};
use super::{findings, reuse};
use crate::error::{BuildError, BuildErrorKind};
use crate::event::{Event, VertexId, Warning};
use crate::exec::{self, ExecContext};
use crate::file::{self, Made, Reuse, Sources};
use crate::key::{Parts, listing};
use crate::ops::{ExecOp, FileOp, Op, Setting, Vertex};
use crate::recipe::{Recipe, Work};
use crate::report::StepState;
use crate::source::{self, Fetched, SourceContext};
use crate::tree::Content;
use crate::turn::turn;

/// Runs a vertex or finds its result.
pub(super) fn run_vertex(
    context: &SolveContext<'_>,
    id: VertexId,
    inputs: &[VertexOutput],
) -> Result<VertexOutput, BuildError> {
    let vertex = context.graph.vertex(id);
    let began = context.recorder.now();
    let result = match &vertex.op {
        Op::Image(image) => image_output(context, id, vertex, image),
        Op::Local(index) => Ok(plain(Value::Local(*index))),
        Op::Http(source) => {
            source::http::fetch(&source_context(context, id, vertex), source).map(fetched)
        }
        Op::Git(source) => {
            source::git::fetch(&source_context(context, id, vertex), source).map(fetched)
        }
        Op::Merge => {
            let layers = inputs.iter().flat_map(|input| input.layers().to_vec());
            Ok(plain(Value::Rootfs(layers.collect())))
        }
        Op::Exec(_) | Op::File(_) => keyed(context, id, vertex, inputs),
    };
    let span = (began, context.recorder.now());
    context.recorder.step(id, |step| step.span_ms = Some(span));
    if let (Op::Http(_) | Op::Git(_), Ok(VertexOutput { cached: false, .. })) =
        (&vertex.op, &result)
    {
        context.recorder.transfer(id, &vertex.meta.name, span);
    }
    result.map_err(|error| {
        // What was stopped half-way is not what went wrong.
        if context.cancel.is_cancelled() && error.kind == BuildErrorKind::Io {
            return BuildError::cancelled().on(id);
        }
        let error = error.on(id);
        match vertex.meta.lines {
            Some(lines) => error.at(&context.file.location(lines, None)),
            None => error,
        }
    })
}

fn source_context<'a>(
    context: &'a SolveContext<'a>,
    id: VertexId,
    vertex: &'a Vertex,
) -> SourceContext<'a> {
    SourceContext {
        store: context.store,
        lease: context.lease,
        remote: context.remote,
        secrets: &context.request.secrets,
        ssh: &context.request.ssh,
        events: context.events,
        cancel: context.cancel,
        vertex: id,
        name: &vertex.meta.name,
    }
}

fn fetched(source: Fetched) -> VertexOutput {
    VertexOutput {
        value: Value::Rootfs(vec![LayerRef {
            diff_id: source.layer,
            origin: None,
        }]),
        keys: Vec::new(),
        created: Some(source.created),
        cached: source.cached,
    }
}

/// A value that needs no key.
pub(super) fn plain(value: Value) -> VertexOutput {
    VertexOutput {
        value,
        keys: Vec::new(),
        created: None,
        cached: true,
    }
}

/// A vertex with a result that is worth remembering.
fn keyed(
    context: &SolveContext<'_>,
    id: VertexId,
    vertex: &Vertex,
    inputs: &[VertexOutput],
) -> Result<VertexOutput, BuildError> {
    let below = base_layers(&vertex.op, inputs);
    if let Some(recipe) = recipe(vertex, inputs, &below) {
        context.recorder.recipe(id, recipe);
    }
    let mut keys = Vec::new();
    let caches = !context.imports.is_empty() || !context.records.is_empty();
    if caches || !context.request.cache_to.is_empty() {
        let early = early_parts(context, vertex, inputs)?.parts.digest();
        // Where the early key is the key, the store may know the result, and nobody need be asked.
        if look_up(context, vertex, &early)?.is_none()
            && let Some(hit) = imported(context, vertex, &early)
        {
            return Ok(taken(context, id, vertex, below, &hit));
        }
        keys.push(early);
    }
    let Key { parts, contents } = key(context, vertex, inputs)?;
    findings::collect(context, vertex, inputs)?;
    let key = parts.digest();
    keys.retain(|early| *early != key);
    keys.push(key);
    context
        .recorder
        .step(id, |step| step.key = Some(key.to_string()));
    if let Some(record) = look_up(context, vertex, &key)? {
        return Ok(cached(context, id, vertex, below, &record).known_as(keys));
    }
    if let Some(hit) = imported(context, vertex, &key) {
        return Ok(taken(context, id, vertex, below, &hit));
    }
    let started = || {
        context.events.event(Event::Started {
            vertex: id,
            name: vertex.meta.name.clone(),
        });
    };
    let mut waited = false;
    // Whoever comes second finds the result of whoever came first.
    let _lock = turn(
        context.store,
        context.cancel,
        &format!("step {key}"),
        || {
            waited = true;
            started();
            let what = "waiting for another build that runs the same step".to_owned();
            context.events.event(Event::Waiting { vertex: id, what });
        },
    )?;
    if let Some(record) = look_up_again(context, vertex, &key)? {
        return Ok(cached(context, id, vertex, below, &record).known_as(keys));
    }
    if !waited {
        started();
    }
    tell_reason(context, id, vertex, &parts, &contents)?;
    if context.cancel.is_cancelled() {
        return Err(BuildError::cancelled());
    }
    let key = Key { parts, contents };
    let record = run_and_keep(context, id, vertex, inputs, &below, &key)?;
    Ok(output(below, &record, false).known_as(keys))
}

/// Runs a step and remembers its result.
fn run_and_keep(
    context: &SolveContext<'_>,
    id: VertexId,
    vertex: &Vertex,
    inputs: &[VertexOutput],
    below: &[LayerRef],
    Key { parts, contents }: &Key,
) -> Result<BuildRecord, BuildError> {
    make_room(context);
    let start = Instant::now();
    let reuse = reuse::find(context, vertex, parts, contents)?;
    let sources = (contents.as_slice(), reuse.as_ref());
    let made = execute(context, id, vertex, inputs, below, sources)?;
    let Made {
        layer,
        target,
        as_scanned,
    } = made;
    let elapsed = start.elapsed();
    let mut record = record(vertex, parts, &layer, elapsed);
    reuse::note(&mut record, target.as_deref());
    if target.is_some() {
        let old = reuse.as_ref().map(|reuse| reuse.layer.diff_id());
        context.store.note_version(layer.diff_id(), old);
    }
    // Before its record makes it a part of the cache, which `prune -a` empties.
    protect(context, [layer.diff_id()].into_iter())?;
    if as_scanned || stayed_the_same(context, vertex, inputs, parts) {
        context
            .store
            .put_record(&record)
            .map_err(|error| BuildError::io("could not remember a build step", &error))?;
        for (part, content) in contents {
            // Without it the next miss is told less exactly, and that is all.
            if let Err(error) = listing::keep(context.store, &vertex.meta.step, part, content) {
                tracing::debug!(%error, "the files of a step were not listed");
            }
        }
    }
    make_room(context);
    context.recorder.step(id, |step| {
        step.state = StepState::Ran;
        step.elapsed_ms = Some(record.elapsed_ms);
        step.layer = Some(layer.diff_id().to_string());
        step.size = Some(layer.content_size());
    });
    context.recorder.result(id, layer.diff_id());
    let layer = Some(*layer.diff_id());
    context.events.event(Event::Finished {
        vertex: id,
        elapsed,
        layer,
    });
    Ok(record)
}

/// How a step can be looked into afterwards.
fn recipe(vertex: &Vertex, inputs: &[VertexOutput], below: &[LayerRef]) -> Option<Recipe> {
    let ids = |layers: &[LayerRef]| layers.iter().map(|layer| layer.diff_id).collect();
    let work = match (&vertex.op, &vertex.meta.setting) {
        (Op::Exec(exec), _) => Work::Command(exec.clone()),
        (_, Some(setting)) => Work::Files(Setting::clone(setting)),
        _ => return None,
    };
    Some(Recipe {
        below: ids(below),
        inputs: inputs.iter().map(|input| ids(input.layers())).collect(),
        layer: None,
        work,
    })
}

/// Whether what was copied is still what the key was made of; otherwise the result is used, but not
/// remembered: the next build would find it for files that it was not made of.
fn stayed_the_same(
    context: &SolveContext<'_>,
    vertex: &Vertex,
    inputs: &[VertexOutput],
    before: &Parts,
) -> bool {
    let reads_local = inputs
        .iter()
        .any(|input| matches!(input.value, Value::Local(_)));
    if !reads_local || key(context, vertex, inputs).is_ok_and(|after| after.parts == *before) {
        return true;
    }
    context.events.event(Event::Warning(Warning {
        rule: None,
        message: format!(
            "files changed while they were copied, so the step is not cached: {}",
            vertex.meta.name
        ),
        line: vertex.meta.lines.map(|lines| lines.first),
        url: None,
        help: None,
    }));
    false
}

/// The layers that the new layer goes on top of; none for a detached copy.
pub(super) fn base_layers(op: &Op, inputs: &[VertexOutput]) -> Vec<LayerRef> {
    match op {
        Op::File(FileOp { detached: true, .. }) => Vec::new(),
        _ => inputs
            .first()
            .map(|input| input.layers().to_vec())
            .unwrap_or_default(),
    }
}

fn execute(
    context: &SolveContext<'_>,
    id: VertexId,
    vertex: &Vertex,
    inputs: &[VertexOutput],
    below: &[LayerRef],
    (contents, reuse): (&[(String, Content)], Option<&Reuse>),
) -> Result<Made, BuildError> {
    let parents = materialize(context, below)?;
    match &vertex.op {
        Op::Exec(exec) => Ok(Made {
            layer: run_command(context, id, exec, inputs, &parents)?,
            target: None,
            as_scanned: false,
        }),
        Op::File(operation) => {
            let mut trees = Vec::with_capacity(inputs.len());
            for (index, input) in inputs.iter().enumerate() {
                let is_root = index == 0 && !operation.detached;
                trees.push(if is_root {
                    None
                } else {
                    Some(tree_of(context, Some(input))?)
                });
            }
            let sources = Sources {
                trees: &trees,
                contents,
                reuse,
            };
            file::execute(context.store, operation, &parents, &sources, context.cancel)
        }
        _ => Err(BuildError::user("this operation makes no layer")),
    }
}

/// Whether there are commands behind a vertex: inputs have smaller numbers than what uses them.
fn is_followed(context: &SolveContext<'_>, id: VertexId) -> bool {
    let mut later = context.graph.vertices().filter(|(other, _)| *other > id);
    later.any(|(_, vertex)| matches!(vertex.op, Op::Exec(_)))
}

fn run_command(
    context: &SolveContext<'_>,
    id: VertexId,
    exec: &ExecOp,
    inputs: &[VertexOutput],
    parents: &[Layer],
) -> Result<Layer, BuildError> {
    let Some(runtime) = context.runtime else {
        let message = "this build has a RUN step, and commands cannot be run here";
        return Err(BuildError::new(BuildErrorKind::Host, message)
            .with_help("`rbuild info` tells what this host allows"));
    };
    // Input 0 is the root, which is unpacked already.
    let mut trees = vec![Vec::new()];
    for input in inputs.iter().skip(1) {
        trees.push(materialize(context, input.layers())?);
    }
    let exec_context = ExecContext {
        store: context.store,
        lease: context.lease,
        runtime,
        secrets: &context.request.secrets,
        ssh: &context.request.ssh,
        limits: &context.request.limits,
        events: context.events,
        cancel: context.cancel,
        own_mounts: context.own_mounts,
        scaffolds: Some(context.scaffolds),
        mounts: Some(context.mounts),
        vertex: id,
        followed: is_followed(context, id),
        recorder: Some(context.recorder),
    };
    exec::execute(&exec_context, exec, parents, &trees)
}
