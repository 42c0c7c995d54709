//! Build checks that need the files: told on every build, whether the step is cached or not.

use std::path::Path;
use std::sync::PoisonError;

use rbuild_cache::{FileKind, Follow};
use rbuild_parser::lint::rules;

use super::keys::tree_of;
use super::{SolveContext, VertexOutput, view_of};
use crate::error::BuildError;
use crate::file::resolve_owner;
use crate::ops::{CopyAction, CopySource, FileAction, Op, Vertex};
use crate::tree::{clean, expand_wildcards, has_wildcard};

/// Looks at the copies of a vertex.
pub(super) fn collect(
    context: &SolveContext<'_>,
    vertex: &Vertex,
    inputs: &[VertexOutput],
) -> Result<(), BuildError> {
    let (Op::File(file), Some(instruction)) = (&vertex.op, &vertex.meta.instruction) else {
        return Ok(());
    };
    let mut found = Vec::new();
    for action in &file.actions {
        let FileAction::Copy(copy) = action else {
            continue;
        };
        let mut files = 0;
        for source in &copy.sources {
            let matches = count_files(context, copy, source, inputs)?;
            files += matches.files;
            if let CopySource::Path { path, .. } = source
                && matches.nothing
            {
                found.push(rules::wildcard_without_match(instruction, path));
            }
        }
        let root = if file.detached { None } else { inputs.first() };
        let to_one = files > 1 && !copy.parents && !copy.destination.ends_with('/');
        if to_one && !is_directory(context, root, &copy.destination)? {
            found.push(rules::several_files_to_one(instruction, &copy.destination));
        }
        if let (Some(chown), Some(root)) = (&copy.chown, root)
            && chown.contains(|c: char| c.is_alphabetic())
            && resolve_owner(&view_of(context, root.layers())?, chown, false)?.unknown_name
        {
            found.push(rules::unknown_owner(instruction, chown));
        }
    }
    let mut all = context
        .findings
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    all.extend(found);
    Ok(())
}

/// What a source stands for.
struct Matches {
    /// Files, not directories.
    files: usize,
    /// A wildcard that met nothing.
    nothing: bool,
}

fn count_files(
    context: &SolveContext<'_>,
    copy: &CopyAction,
    source: &CopySource,
    inputs: &[VertexOutput],
) -> Result<Matches, BuildError> {
    let CopySource::Path {
        input: Some(input),
        path,
        ..
    } = source
    else {
        let files = usize::from(matches!(source, CopySource::Inline { .. }));
        return Ok(Matches {
            files,
            nothing: false,
        });
    };
    // One plain source cannot be several files; most copies end here.
    let wild = has_wildcard(path);
    if !wild && copy.sources.len() == 1 {
        return Ok(Matches {
            files: 1,
            nothing: false,
        });
    }
    let tree = tree_of(context, inputs.get(*input))?;
    let failed = |error: &(dyn std::error::Error + 'static)| {
        BuildError::io(format!("could not match `{path}`"), error)
    };
    let paths = if wild {
        expand_wildcards(&tree, path, copy.parents).map_err(|error| failed(&error))?
    } else {
        vec![clean(path)]
    };
    let mut files = 0;
    for path in &paths {
        let entry = tree.find(path).map_err(|error| failed(&error))?;
        files += usize::from(entry.is_some_and(|e| e.metadata.kind != FileKind::Directory));
    }
    Ok(Matches {
        files,
        nothing: paths.is_empty(),
    })
}

fn is_directory(
    context: &SolveContext<'_>,
    root: Option<&VertexOutput>,
    destination: &str,
) -> Result<bool, BuildError> {
    let Some(root) = root else { return Ok(false) };
    let entry = view_of(context, root.layers())?
        .lookup(Path::new(destination), Follow::Last)
        .map_err(|error| BuildError::io(format!("could not look up `{destination}`"), &error))?;
    Ok(entry.is_some_and(|entry| entry.metadata.kind == FileKind::Directory))
}
