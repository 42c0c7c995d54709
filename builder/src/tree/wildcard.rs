//! Wildcards in COPY sources (language reference, section 5.1).

use std::path::{Path, PathBuf};

use rbuild_cache::{FileKind, ViewError};
use rbuild_parser::glob_match;

use super::{SourceTree, clean};

/// Whether a source path has a wildcard or an escape.
pub(crate) fn has_wildcard(path: &str) -> bool {
    path.contains(['*', '?', '[', '\\'])
}

/// What went wrong with a pattern.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WildcardError {
    /// The tree could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The pattern is malformed.
    #[error("{0}")]
    Pattern(String),
}

/// The entries that a pattern matches, in lexical walk order, as absolute paths.
///
/// Each path component is matched on its own; with `recursive`, the component `**` matches any
/// number of directories, none included (`--parents`). Symlinked directories are not entered by
/// wildcards, only by literal components before the first one.
pub(crate) fn expand_wildcards(
    tree: &SourceTree,
    pattern: &str,
    recursive: bool,
) -> Result<Vec<PathBuf>, WildcardError> {
    let pattern = clean(pattern);
    let components: Vec<String> = pattern
        .to_string_lossy()
        .split('/')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect();
    let literal = components
        .iter()
        .take_while(|part| !has_wildcard(part))
        .count();
    let (fixed, wild) = components.split_at(literal);
    let start = PathBuf::from(format!("/{}", fixed.join("/")));
    let Some(entry) = tree.find(&start)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    if entry.metadata.kind == FileKind::Directory {
        matches_below(tree, &entry.path, &start, wild, recursive, &mut found)?;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn matches_below(
    tree: &SourceTree,
    real: &Path,
    shown: &Path,
    pattern: &[String],
    recursive: bool,
    found: &mut Vec<PathBuf>,
) -> Result<(), WildcardError> {
    // A work list instead of recursion: depth is the tree's, not ours.
    let mut open = vec![(real.to_path_buf(), shown.to_path_buf(), 0_usize)];
    while let Some((real, shown, at)) = open.pop() {
        let Some(part) = pattern.get(at) else {
            continue;
        };
        let any_depth = recursive && part == "**";
        if any_depth {
            open.push((real.clone(), shown.clone(), at + 1));
        }
        for child in tree.children(&real)? {
            let name = child.name().to_string_lossy().into_owned();
            let path = shown.join(child.name());
            let directory = child.metadata.kind == FileKind::Directory;
            if any_depth {
                if directory {
                    open.push((child.path.clone(), path.clone(), at));
                }
                if at + 1 == pattern.len() {
                    found.push(path);
                }
                continue;
            }
            if !glob_match(part, &name).map_err(WildcardError::Pattern)? {
                continue;
            }
            if at + 1 == pattern.len() {
                found.push(path);
            } else if directory {
                open.push((child.path.clone(), path, at + 1));
            }
        }
    }
    Ok(())
}
