//! Sources that are not there: the message, and what probably went wrong.

use std::path::Path;

use rbuild_cache::Follow;

use super::show;
use crate::error::BuildError;
use crate::tree::SourceTree;

/// `BuildKit`'s words for a source that is not there.
pub(crate) fn not_found(label: &str, path: &Path) -> BuildError {
    BuildError::user(format!(
        "failed to compute cache key: failed to calculate checksum of ref {}: {:?}: not found",
        label.replace(char::is_whitespace, "_"),
        show(path)
    ))
}

/// The same, with what probably went wrong: ignore rules, a dangling link, a similar name.
pub(crate) fn missing_source(tree: &SourceTree, path: &Path) -> BuildError {
    let mut error = not_found(tree.label(), path);
    if let Some(rule) = tree.ignored_by(path) {
        return error.with_help(format!(
            "{} exists but is left out by {rule} of the ignore file: change that line, or add `!{}` below \
             it",
            show(path),
            show(path.strip_prefix("/").unwrap_or(path))
        ));
    }
    if let Ok(Some(entry)) = tree.view().lookup(path, Follow::None)
        && let Some(target) = entry.link_target
    {
        return error.with_help(format!(
            "{} is a symlink to {}, which is not in {}",
            show(path),
            target.to_string_lossy(),
            tree.label()
        ));
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let wanted = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if let Ok(children) = tree.children(parent) {
        let names: Vec<String> = children
            .iter()
            .map(|child| child.name().to_string_lossy().into_owned())
            .collect();
        if let Some(close) = rbuild_parser::closest(&wanted, names.iter().map(String::as_str)) {
            error = error.with_help(format!("did you mean {}?", show(&parent.join(close))));
        }
    }
    error
}
