//! What of a build context the instructions of a Dockerfile can see, what they use, and what the
//! ignore file leaves out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::{FileKind, RootView, Store};
use rbuild_parser::{IgnoreMatcher, IgnoreReason};
use serde::Serialize;

use crate::error::BuildError;
use crate::ops::{CopySource, FileAction, Op, OpGraph};
use crate::request::{BuildRequest, ContextSource};
use crate::resolve::ImageResolver;
use crate::tree::{SourceTree, clean, expand_wildcards, has_wildcard};
use crate::{Prepared, lower::LocalSource};

/// A file of a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContextFile {
    /// Path in the context, without leading slash.
    pub path: String,
    /// Bytes; of an ignored directory those of all files in it.
    pub size: u64,
    /// Files: 1, or as many as an ignored directory has.
    pub files: u64,
    /// The instructions that use it, such as `COPY . /app (line 3)`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
    /// Why it is left out: pattern and line of the ignore file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignored: Option<Ignored>,
}

/// Why a file is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ignored {
    /// The pattern as it is written.
    pub pattern: String,
    /// Its line.
    pub line: u32,
}

/// A context and what becomes of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContextUse {
    /// The directory.
    pub directory: PathBuf,
    /// Name of the ignore file, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_file: Option<String>,
    /// Files that instructions can see.
    pub visible: Vec<ContextFile>,
    /// Files, and whole directories, that are left out.
    pub ignored: Vec<ContextFile>,
}

/// Looks through a context.
///
/// # Errors
///
/// The context is no directory of this machine, it cannot be read, or the Dockerfile has errors.
pub fn context_use(store: &Store, request: &BuildRequest) -> Result<ContextUse, BuildError> {
    let ContextSource::Directory { path, ignore } = &request.context else {
        return Err(BuildError::user(
            "the context is not a directory of this machine",
        ));
    };
    let mut prepared = Prepared::new(request)?;
    let matcher = prepared.ignore.clone();
    let resolver = ImageResolver::new(store, None);
    let (graph, locals, _) = prepared.lower(request, &resolver, true)?;
    let failed = |error: &(dyn std::error::Error + 'static)| {
        BuildError::io(format!("could not read `{}`", path.display()), error)
    };
    let (visible, ignored) = files(path, matcher.as_deref()).map_err(|error| failed(&error))?;
    let mut visible: BTreeMap<String, ContextFile> = visible
        .into_iter()
        .map(|file| (file.path.clone(), file))
        .collect();
    let tree = SourceTree::directory(path, matcher, "context");
    for (source, user) in uses(&graph, &locals) {
        for top in tops(&tree, &source) {
            mark(&mut visible, &top, &user);
        }
    }
    let own = ignore.iter().map(|(name, _)| name.as_str());
    for name in own.chain([request.dockerfile.name.as_str()]) {
        mark(&mut visible, Path::new(name), "the build itself");
    }
    Ok(ContextUse {
        directory: std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()),
        ignore_file: ignore.as_ref().map(|(name, _)| name.clone()),
        visible: visible.into_values().collect(),
        ignored,
    })
}

/// Every path or pattern that an instruction takes from the context, and the instruction.
fn uses(graph: &OpGraph, locals: &[LocalSource]) -> Vec<(String, String)> {
    let mut uses = Vec::new();
    for (id, vertex) in graph.vertices() {
        let Op::File(operation) = &vertex.op else {
            continue;
        };
        let line = vertex.meta.lines.map(|lines| lines.first);
        let name = vertex.meta.name.split_once("] ");
        let name = name.map_or(vertex.meta.name.as_str(), |(_, name)| name);
        let user = match line {
            Some(line) => format!("{name} (line {line})"),
            None => name.to_owned(),
        };
        for action in &operation.actions {
            let FileAction::Copy(copy) = action else {
                continue;
            };
            for source in &copy.sources {
                let CopySource::Path {
                    input: Some(input),
                    path,
                    ..
                } = source
                else {
                    continue;
                };
                let input = graph.vertex(graph.vertex(id).inputs[*input]);
                let context = matches!(
                    input.op,
                    Op::Local(index) if locals.get(index) == Some(&LocalSource::Context)
                );
                if context {
                    uses.push((path.clone(), user.clone()));
                }
            }
        }
    }
    uses
}

/// The files and directories that a source means.
fn tops(tree: &SourceTree, source: &str) -> Vec<PathBuf> {
    if !has_wildcard(source) {
        return vec![clean(source)];
    }
    // A pattern that means nothing is told by the build.
    expand_wildcards(tree, source, true).unwrap_or_default()
}

/// Notes that everything at or below `top` is used.
fn mark(files: &mut BTreeMap<String, ContextFile>, top: &Path, user: &str) {
    let top = top.to_string_lossy();
    let top = top.trim_matches('/');
    for (path, file) in files.iter_mut() {
        let below = top.is_empty()
            || path
                .strip_prefix(top)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if below && !file.used_by.iter().any(|known| known == user) {
            file.used_by.push(user.to_owned());
        }
    }
}

type Lists = (Vec<ContextFile>, Vec<ContextFile>);

/// All files, those that are seen and those that are not.
fn files(path: &Path, matcher: Option<&IgnoreMatcher>) -> Result<Lists, rbuild_cache::ViewError> {
    let view = RootView::of_directory(path);
    let (mut visible, mut ignored) = (Vec::new(), Vec::new());
    let Some(matcher) = matcher else {
        collect(&view, Path::new("/"), &mut |path, size| {
            visible.push(file(path, size, None));
        })?;
        visible.sort_by(|a: &ContextFile, b| a.path.cmp(&b.path));
        return Ok((visible, ignored));
    };
    let mut open = vec![(PathBuf::from("/"), matcher.root())];
    while let Some((directory, state)) = open.pop() {
        for entry in view.read_dir(&directory)? {
            let state = matcher.enter(&state, &entry.name().to_string_lossy());
            let path = text(&entry.path);
            let is_directory = entry.metadata.kind == FileKind::Directory;
            if is_directory && (!state.ignored || state.may_reinclude_below) {
                open.push((entry.path, state));
            } else if state.ignored {
                let mut found = file(&path, entry.metadata.size, matcher.reason(&path));
                if is_directory {
                    (found.size, found.files) = (0, 0);
                    collect(&view, &entry.path, &mut |_, size| {
                        found.size += size;
                        found.files += 1;
                    })?;
                }
                ignored.push(found);
            } else {
                visible.push(file(&path, entry.metadata.size, None));
            }
        }
    }
    ignored.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((visible, ignored))
}

/// Calls `each` for every file below a directory.
fn collect(
    view: &RootView,
    top: &Path,
    each: &mut dyn FnMut(&str, u64),
) -> Result<(), rbuild_cache::ViewError> {
    let mut open = vec![top.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in view.read_dir(&directory)? {
            if entry.metadata.kind == FileKind::Directory {
                open.push(entry.path);
            } else {
                each(&text(&entry.path), entry.metadata.size);
            }
        }
    }
    Ok(())
}

fn file(path: &str, size: u64, reason: Option<IgnoreReason>) -> ContextFile {
    ContextFile {
        path: path.to_owned(),
        size,
        files: 1,
        used_by: Vec::new(),
        ignored: reason.map(|reason| Ignored {
            pattern: reason.pattern,
            line: reason.line,
        }),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// Why one path of a context is left out; none if it is not.
///
/// # Errors
///
/// The ignore file has an error.
pub fn ignore_reason(request: &BuildRequest, path: &str) -> Result<Option<Ignored>, BuildError> {
    let matcher: Option<Arc<IgnoreMatcher>> = crate::locals::context_ignore(request)?;
    Ok(matcher.and_then(|matcher| {
        let reason = matcher.reason(path)?;
        Some(Ignored {
            pattern: reason.pattern,
            line: reason.line,
        })
    }))
}
