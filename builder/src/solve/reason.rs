//! Why a step runs: the miss in words, for who watches and for the report.

use super::SolveContext;
use crate::error::BuildError;
use crate::event::{Event, VertexId};
use crate::key::{CONTENT, Miss, Parts, listing};
use crate::ops::{Op, Vertex};
use crate::tree::Content;

/// Tells why a step was not found.
pub(super) fn tell_reason(
    context: &SolveContext<'_>,
    id: VertexId,
    vertex: &Vertex,
    parts: &Parts,
    contents: &[(String, Content)],
) -> Result<(), BuildError> {
    if vertex.meta.internal {
        return Ok(());
    }
    let step = &vertex.meta.step;
    let records = context
        .store
        .records_by_name(step)
        .map_err(|error| BuildError::io("could not read the build cache", &error))?;
    let files = |part: &str, old: &str| {
        let (_, now) = contents.iter().find(|(name, _)| name == part)?;
        let source = part.strip_prefix(CONTENT)?;
        let digest = old.split(' ').next()?.parse().ok()?;
        listing::compare(context.store, step, part, source, &digest, now)
    };
    let miss = Miss {
        parts,
        arguments: match &vertex.op {
            Op::Exec(exec) => &exec.arguments,
            _ => &[],
        },
        parent: &parent_name(context, vertex),
        previous: records.first(),
        forced: vertex.meta.ignore_cache,
        files: &files,
    };
    let (reason, changes) = miss.reason();
    context.recorder.step(id, |step| {
        step.reason = Some(reason.text.clone());
        step.changes = changes;
    });
    context
        .events
        .event(Event::CacheMiss { vertex: id, reason });
    Ok(())
}

/// What the root file system of a step comes from, in words.
fn parent_name(context: &SolveContext<'_>, vertex: &Vertex) -> String {
    let Some(parent) = vertex.inputs.first() else {
        return "the empty root".to_owned();
    };
    let parent = context.graph.vertex(*parent);
    let name = &parent.meta.name;
    match (&parent.op, name.split_once(']')) {
        (Op::Image(image), _) => format!("base image {}", image.name),
        (_, Some((place, _))) => format!("parent step {place}]"),
        (_, None) => format!("parent step {name}"),
    }
}
