//! What a copy may take from the layer that the same step made when it last ran.

use std::path::{Path, PathBuf};

use rbuild_cache::BuildRecord;

use super::{SolveContext, protect};
use crate::error::BuildError;
use crate::file::Reuse;
use crate::key::{CONTENT, PARENT, Parts, listing};
use crate::ops::{CopySource, FileAction, FileOp, Op, Vertex};
use crate::tree::Content;

/// Name of the target in the detail of a record.
const TARGET: &str = "target";

/// Keeps where the files went.
pub(super) fn note(record: &mut BuildRecord, target: Option<&Path>) {
    if let (Some(target), Some(detail)) =
        (target.and_then(Path::to_str), record.detail.as_object_mut())
    {
        detail.insert(TARGET.to_owned(), target.into());
    }
}

/// Looks for the step's last result, if that was made of one source in the same way.
pub(super) fn find(
    context: &SolveContext<'_>,
    vertex: &Vertex,
    parts: &Parts,
    contents: &[(String, Content)],
) -> Result<Option<Reuse>, BuildError> {
    let [(part, content)] = contents else {
        return Ok(None);
    };
    if vertex.meta.ignore_cache || !copies_one_path(&vertex.op) {
        return Ok(None);
    }
    let records = context
        .store
        .records_by_name(&vertex.meta.step)
        .map_err(|error| BuildError::io("could not read the build cache", &error))?;
    let Some(record) = records.first() else {
        return Ok(None);
    };
    let target = record
        .detail
        .get(TARGET)
        .and_then(serde_json::Value::as_str);
    let (Some(target), [diff_id]) = (target, record.layers.as_slice()) else {
        return Ok(None);
    };
    if how(&record.parts).ne(how(&parts.to_stored())) {
        return Ok(None);
    }
    let old = record.parts.iter().find(|(name, _)| name == part);
    let old = old.and_then(|(_, value)| value.split(' ').next());
    let unchanged = old.and_then(|digest| {
        listing::unchanged(context.store, &vertex.meta.step, part, digest, content)
    });
    let Some(unchanged) = unchanged else {
        return Ok(None);
    };
    protect(context, [diff_id].into_iter())?;
    let layer = context
        .store
        .layer(diff_id)
        .map_err(|error| BuildError::io("could not open a layer", &error))?;
    Ok(layer.map(|layer| Reuse {
        layer,
        target: PathBuf::from(target),
        unchanged: unchanged.entries,
        nothing_gone: unchanged.nothing_gone,
    }))
}

/// With several sources a name may come from any of them.
fn copies_one_path(op: &Op) -> bool {
    // With fixed times the files are given theirs in place, and shared ones have others.
    let Op::File(FileOp {
        actions,
        times: None,
        ..
    }) = op
    else {
        return false;
    };
    let [FileAction::Copy(copy)] = actions.as_slice() else {
        return false;
    };
    !copy.parents && matches!(copy.sources.as_slice(), [CopySource::Path { .. }])
}

/// The parts of a key that say how files are copied, not which and onto what.
fn how(parts: &[(String, String)]) -> impl Iterator<Item = &(String, String)> {
    parts
        .iter()
        .filter(|(name, _)| name != PARENT && !name.starts_with(CONTENT))
}
