//! `--squash`: several layers put together into one.
//!
//! The layer holds what the merged tree of the layers shows, and a deletion for everything that is in
//! the layers below and not in the result. It is remembered under the layers that it was made of.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rbuild_cache::{BuildRecord, DiffId, FileKind, Follow, Hasher, Layer, RootView, WalkAction};

use crate::error::BuildError;
use crate::file::{commit_options, fill_layer};
use crate::image::History;
use crate::output::Finished;
use crate::request::Squash;
use crate::solve::SolveContext;
use crate::tree::SourceTree;

/// Puts the layers of a result together; its history tells so.
pub(super) fn squash(
    context: &SolveContext<'_>,
    finished: &mut Finished,
    which: Squash,
) -> Result<(), BuildError> {
    let first = match which {
        Squash::New => finished.new_layers_from.min(finished.layers.len()),
        Squash::All => 0,
    };
    if finished.layers.len() - first < 2 {
        return Ok(());
    }
    let made = squashed(context, &finished.layers, first)?;
    finished.layers.truncate(first);
    finished.layers.push(made);
    finished.config.rootfs.diff_ids.clone_from(&finished.layers);
    finished.base_blobs.truncate(first);
    finished.new_layers_from = first;
    fold_history(&mut finished.config.history, first);
    Ok(())
}

/// Entries of layers that are no more become entries without one; the last one has the new layer.
fn fold_history(history: &mut [History], kept: usize) {
    let with_layer = history.iter_mut().filter(|entry| !entry.empty_layer);
    let mut folded: Vec<&mut History> = with_layer.skip(kept).collect();
    folded.pop();
    for entry in folded {
        entry.empty_layer = true;
    }
}

/// The layer that the layers from `first` on give together.
fn squashed(
    context: &SolveContext<'_>,
    layers: &[DiffId],
    first: usize,
) -> Result<DiffId, BuildError> {
    let store = context.store;
    let failed = |error: &(dyn std::error::Error + 'static)| {
        BuildError::io("could not put the layers of the image together", error)
    };
    let key = {
        let mut hasher = Hasher::new();
        hasher.update(b"rbuild squash 1\n");
        hasher.update(&(first as u64).to_le_bytes());
        for layer in layers {
            hasher.update(layer.digest().as_bytes());
        }
        hasher.finish()
    };
    let known = store.record(&key).map_err(|error| failed(&error))?;
    if let Some([known]) = known.as_ref().map(|record| &record.layers[..]) {
        let protected = context.lease.protect_layer(known);
        protected.map_err(|error| failed(&error))?;
        if store
            .layer(known)
            .map_err(|error| failed(&error))?
            .is_some()
        {
            return Ok(*known);
        }
    }
    let mut opened = Vec::with_capacity(layers.len());
    for layer in layers {
        let found = store.layer(layer).map_err(|error| failed(&error))?;
        opened.push(found.ok_or_else(|| {
            BuildError::user(format!("layer {layer} is not in the store"))
                .with_help("run the build again with --no-cache")
        })?);
    }
    let layer = merge(context, &opened, first)?;
    let made = *layer.diff_id();
    let protected = context.lease.protect_layer(&made);
    protected.map_err(|error| failed(&error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let record = BuildRecord {
        key,
        step: format!("squash {made}"),
        name: format!("putting {} layers together", layers.len() - first),
        layers: vec![made],
        parts: layers
            .iter()
            .map(|layer| ("layer".to_owned(), layer.to_string()))
            .collect(),
        detail: serde_json::Value::Null,
        created_unix: now.map_or(0, |since| since.as_secs() as i64),
        elapsed_ms: 0,
    };
    store.put_record(&record).map_err(|error| failed(&error))?;
    Ok(made)
}

fn merge(context: &SolveContext<'_>, layers: &[Layer], first: usize) -> Result<Layer, BuildError> {
    let (below, above) = layers.split_at(first);
    let draft = context
        .store
        .draft_on(if below.is_empty() { above } else { below })
        .map_err(|error| BuildError::io("could not prepare a new layer", &error))?;
    let gone = deletions(&RootView::new(below), above, &RootView::new(layers))?;
    let tree = SourceTree::rootfs(RootView::new(above), "the layers");
    fill_layer(draft.upper(), &tree, &gone, context.cancel)?;
    draft
        .commit(below, &commit_options(context.cancel, None))
        .map_err(|error| BuildError::io("could not store the new layer", &error))
}

/// Paths of `below` that are not in `result`, below directories that are.
///
/// A layer names the parents of everything in it, deletions too: only directories of the layers
/// above can have lost anything.
fn deletions(
    below: &RootView,
    above: &[Layer],
    result: &RootView,
) -> Result<Vec<PathBuf>, BuildError> {
    let failed =
        |error: &(dyn std::error::Error + 'static)| BuildError::io("could not read a layer", error);
    let mut gone = Vec::new();
    let mut look = |directory: &Path| -> Result<(), rbuild_cache::ViewError> {
        let old = below.lookup(directory, Follow::None)?;
        if old.is_none_or(|old| old.metadata.kind != FileKind::Directory) {
            return Ok(());
        }
        for child in below.read_dir(directory)? {
            let path = directory.join(child.name());
            if result.lookup(&path, Follow::None)?.is_none() {
                gone.push(path);
            }
        }
        Ok(())
    };
    look(Path::new("/")).map_err(|error| failed(&error))?;
    RootView::new(above)
        .walk(Path::new("/"), &mut |path, entry| {
            if entry.metadata.kind == FileKind::Directory {
                look(&Path::new("/").join(path))?;
            }
            Ok::<_, rbuild_cache::ViewError>(WalkAction::Continue)
        })
        .map_err(|error| failed(&error))?;
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entry_has_the_layer() {
        let entry = |empty_layer| History {
            empty_layer,
            ..History::default()
        };
        let mut history = [
            entry(false),
            entry(true),
            entry(false),
            entry(false),
            entry(true),
        ];
        fold_history(&mut history, 1);
        let empty: Vec<bool> = history.iter().map(|entry| entry.empty_layer).collect();
        assert_eq!(empty, [false, true, true, false, true]);
    }
}
