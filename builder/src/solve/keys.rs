//! The key of a vertex whose inputs are known: its own parts and the identity of what it reads.

use std::path::Path;

use rbuild_cache::{Follow, RootView};
use rbuild_parser::IgnoreMatcher;

use super::{SolveContext, Value, VertexOutput, view_of};
use crate::error::BuildError;
use crate::file::{missing_source, not_found};
use crate::key::{CONTENT, PARENT, Parts};
use crate::ops::{CopyAction, CopySource, ExecMountKind, FileAction, Op, Vertex};
use crate::tree::{Content, SourceTree, clean, content, expand_wildcards, has_wildcard};

/// A key and the files that it stands for.
pub(super) struct Key {
    /// The parts.
    pub(super) parts: Parts,
    /// The content of each source, by the name of its part.
    pub(super) contents: Vec<(String, Content)>,
}

impl Key {
    fn push_content(&mut self, name: String, (digest, content): (String, Content)) {
        self.parts.push(name.clone(), digest);
        self.contents.push((name, content));
    }
}

/// All parts of a vertex's key. Reads the copied files, so it is where a missing source is found.
pub(super) fn key(
    context: &SolveContext<'_>,
    vertex: &Vertex,
    inputs: &[VertexOutput],
) -> Result<Key, BuildError> {
    all_parts(context, vertex, inputs, false)
}

/// The parts of the early key: other root file systems stand in it by their layers, so that none of
/// them is read. The same as [`key`] if there is none.
pub(super) fn early_parts(
    context: &SolveContext<'_>,
    vertex: &Vertex,
    inputs: &[VertexOutput],
) -> Result<Key, BuildError> {
    all_parts(context, vertex, inputs, true)
}

/// The identity of an input that is a root file system.
fn layers_of(context: &SolveContext<'_>, input: Option<&VertexOutput>) -> Option<String> {
    match &input?.value {
        Value::Rootfs(layers) => Some(format!("layers {}", context.chains.identity(layers))),
        Value::Local(_) => None,
    }
}

fn all_parts(
    context: &SolveContext<'_>,
    vertex: &Vertex,
    inputs: &[VertexOutput],
    early: bool,
) -> Result<Key, BuildError> {
    let mut key = Key {
        parts: vertex.op.parts(),
        contents: Vec::new(),
    };
    match &vertex.op {
        Op::Exec(exec) => {
            key.parts.push(PARENT, identity(context, inputs.first()));
            for mount in &exec.mounts {
                let read = match &mount.kind {
                    ExecMountKind::Bind {
                        input: Some(input),
                        source,
                    }
                    | ExecMountKind::Cache {
                        seed: Some((input, source)),
                        ..
                    } => Some((*input, source)),
                    _ => None,
                };
                if let Some((input, source)) = read {
                    if early && let Some(layers) = layers_of(context, inputs.get(input)) {
                        let name = format!("{CONTENT}{source} at {}", mount.target);
                        key.parts.push(name, layers);
                        continue;
                    }
                    let tree = tree_of(context, inputs.get(input))?;
                    let digest = path_digest(context, &tree, source, None)?;
                    key.push_content(format!("{CONTENT}{source} at {}", mount.target), digest);
                }
            }
        }
        Op::File(file) => {
            if !file.detached {
                key.parts.push(PARENT, identity(context, inputs.first()));
            }
            for action in &file.actions {
                if let FileAction::Copy(copy) = action {
                    copy_parts(context, copy, inputs, early, &mut key)?;
                }
            }
        }
        Op::Image(_) | Op::Local(_) | Op::Http(_) | Op::Git(_) | Op::Merge => {}
    }
    Ok(key)
}

fn identity(context: &SolveContext<'_>, input: Option<&VertexOutput>) -> String {
    input.map_or_else(String::new, |input| context.chains.identity(input.layers()))
}

/// The tree behind an input.
pub(super) fn tree_of(
    context: &SolveContext<'_>,
    input: Option<&VertexOutput>,
) -> Result<SourceTree, BuildError> {
    match input.map(|input| &input.value) {
        Some(Value::Local(index)) => context.locals.tree(*index),
        Some(Value::Rootfs(layers)) => Ok(SourceTree::rootfs(
            view_of(context, layers)?,
            "source-stage",
        )),
        None => Ok(SourceTree::rootfs(RootView::new(&[]), "scratch")),
    }
}

fn copy_parts(
    context: &SolveContext<'_>,
    copy: &CopyAction,
    inputs: &[VertexOutput],
    early: bool,
    key: &mut Key,
) -> Result<(), BuildError> {
    let exclude = match copy.exclude.as_slice() {
        [] => None,
        patterns => Some(IgnoreMatcher::from_patterns(patterns).map_err(BuildError::user)?),
    };
    for source in &copy.sources {
        let CopySource::Path { input, path, .. } = source else {
            continue;
        };
        let Some(input) = input else {
            if clean(path) != Path::new("/") && !has_wildcard(path) {
                return Err(not_found("scratch", &clean(path)));
            }
            continue;
        };
        if early && let Some(layers) = layers_of(context, inputs.get(*input)) {
            key.parts.push(format!("{CONTENT}{path}"), layers);
            continue;
        }
        let tree = tree_of(context, inputs.get(*input))?;
        if has_wildcard(path) {
            let found = expand_wildcards(&tree, path, copy.parents)
                .map_err(|error| BuildError::io(format!("could not match `{path}`"), &error))?;
            for path in found {
                let shown = path.to_string_lossy().into_owned();
                let digest = path_digest(context, &tree, &shown, exclude.as_ref())?;
                key.push_content(
                    format!("{CONTENT}{}", shown.trim_start_matches('/')),
                    digest,
                );
            }
        } else {
            let digest = path_digest(context, &tree, path, exclude.as_ref())?;
            key.push_content(format!("{CONTENT}{path}"), digest);
        }
    }
    Ok(())
}

/// Content digest of one path, or the error that it is not there.
fn path_digest(
    context: &SolveContext<'_>,
    tree: &SourceTree,
    path: &str,
    exclude: Option<&IgnoreMatcher>,
) -> Result<(String, Content), BuildError> {
    let path = clean(path);
    let failed = |error: &(dyn std::error::Error + 'static)| {
        BuildError::io(
            format!("could not read `{}` of {}", path.display(), tree.label()),
            error,
        )
    };
    let Some(entry) = tree.find(&path).map_err(|error| failed(&error))? else {
        return Err(missing_source(tree, &path));
    };
    // What the name itself is counts for `--parents`, which keeps a link as a link.
    let own = tree
        .view()
        .lookup(&path, Follow::None)
        .map_err(|error| failed(&error))?;
    let link = own.and_then(|own| own.link_target).unwrap_or_default();
    let content =
        content(tree, &entry, exclude, context.locals.memo()).map_err(|error| failed(&error))?;
    let text = format!(
        "{} {:?} {}",
        content.digest,
        entry.metadata.kind,
        link.to_string_lossy()
    );
    Ok((text, content))
}
