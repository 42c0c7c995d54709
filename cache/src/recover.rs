//! What is done once after each boot: find what a power cut may have damaged.
//!
//! Blobs and seals that are not marked as flushed by their mode, 0444, were published but not flushed by
//! anyone. If the machine has booted since, their names may be there without their bytes. Each is
//! checked here, under a lock, before any command uses the store in this boot. Layers that came
//! from outside cannot be checked against their diff ID; they are dropped and unpacked again when
//! they are needed.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::{CWD, Mode};

use crate::digest::{DiffId, Digest, DigestWriter};
use crate::error::StoreError;
use crate::flush;
use crate::layout::Layout;
use crate::lock::{Hold, StoreLock};
use crate::remove::remove_tree;
use crate::session;
use crate::store::Durability;
use crate::sys;
use crate::tar_write::PaxWriter;
use crate::tree::Seal;
use crate::tree_tar::{self, Content};

/// Makes the store sound if it was last used in another boot.
pub(crate) fn after_boot(
    layout: &Layout,
    durability: Durability,
    warnings: &mut Vec<String>,
) -> Result<(), StoreError> {
    if is_current(layout)? {
        return Ok(());
    }
    let _lock = StoreLock::wait(&layout.named_lock("recover"), Hold::Exclusive)?;
    if is_current(layout)? {
        return Ok(());
    }
    let blobs = check_blobs(layout, warnings)?;
    let seals = check_trees(layout, warnings)?;
    crate::stack::keep::remove_all(layout)?;
    if durability == Durability::Full && !(blobs.is_empty() && seals.is_empty()) {
        flush::everything(layout)?;
        let seals = seals.iter().map(|seal| layout.seal(&seal.diff_id));
        for path in blobs.into_iter().chain(seals) {
            flush::mark(&path).map_err(StoreError::io("set the mode of", &path))?;
        }
    }
    let (mut file, temporary) = session::temporary_file(layout)?;
    file.write_all(session::boot_id().as_bytes())
        .map_err(StoreError::io("write", &temporary))?;
    std::fs::rename(&temporary, layout.boot()).map_err(StoreError::io("write", &layout.boot()))
}

fn is_current(layout: &Layout) -> Result<bool, StoreError> {
    let path = layout.boot();
    match std::fs::read(&path) {
        Ok(boot) => Ok(boot == session::boot_id().as_bytes()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("read", &path)(error)),
    }
}

/// Every blob in the store with its path; names that are no digests are left alone.
pub(crate) fn list_blobs(layout: &Layout) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
    let mut blobs = Vec::new();
    for directory in list(&layout.blobs())? {
        if !directory.is_dir() {
            continue;
        }
        for path in list(&directory)? {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if let Ok(digest) = Digest::from_hex(name) {
                blobs.push((digest, path));
            }
        }
    }
    Ok(blobs)
}

/// Every layer that has a tree or a seal.
pub(crate) fn list_trees(layout: &Layout) -> Result<Vec<DiffId>, StoreError> {
    let mut trees = Vec::new();
    for path in list(&layout.trees())? {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let hex = name.strip_suffix(".seal").unwrap_or(name);
        if let Ok(digest) = Digest::from_hex(hex) {
            trees.push(DiffId::from_digest(digest));
        }
    }
    trees.sort_unstable();
    trees.dedup();
    Ok(trees)
}

/// Paths in a directory, sorted; none if it is not there.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list the directory", directory)(error)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(StoreError::io("list the directory", directory))?;
    paths.sort_unstable();
    Ok(paths)
}

/// Hashes a file.
pub(crate) fn hash_file(path: &Path) -> Result<Digest, StoreError> {
    let mut file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut writer = DigestWriter::new(std::io::sink());
    std::io::copy(
        &mut std::io::BufReader::with_capacity(256 << 10, &mut file),
        &mut writer,
    )
    .map_err(StoreError::io("read", path))?;
    Ok(writer.finish().1)
}

/// Removes unflushed blobs that are damaged; returns the others.
fn check_blobs(layout: &Layout, warnings: &mut Vec<String>) -> Result<Vec<PathBuf>, StoreError> {
    let suspects: Vec<(Digest, PathBuf)> = list_blobs(layout)?
        .into_iter()
        .filter(|(_, path)| {
            std::fs::symlink_metadata(path).is_ok_and(|found| !flush::is_marked(&found))
        })
        .collect();
    let checked: Vec<(Digest, PathBuf, Result<Digest, StoreError>)> = suspects
        .into_par_iter()
        .map(|(digest, path)| {
            let actual = hash_file(&path);
            (digest, path, actual)
        })
        .collect();
    let mut sound = Vec::new();
    for (digest, path, actual) in checked {
        if actual.is_ok_and(|actual| actual == digest) {
            sound.push(path);
            continue;
        }
        std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        warnings.push(format!(
            "blob {digest} did not survive the last shutdown and is removed"
        ));
    }
    Ok(sound)
}

/// Computes the diff ID that the tree of a seal gives now, with what it lies over.
pub(crate) fn hash_tree(layout: &Layout, seal: &Seal) -> Result<DiffId, StoreError> {
    let trees = std::iter::once(seal.diff_id).chain(seal.over.map(|over| over.layer));
    let open = |diff_id: DiffId| {
        let path = layout.tree(&diff_id);
        rustix::fs::openat(CWD, &path, sys::DIRECTORY, Mode::empty())
            .map_err(StoreError::io("open", &path))
    };
    let roots = trees.map(open).collect::<Result<Vec<_>, _>>()?;
    let roots: Vec<&OwnedFd> = roots.iter().collect();
    let mut out = PaxWriter::new(DigestWriter::new(std::io::sink()));
    tree_tar::write_tree(&roots, &mut out, Content::Full, None)?;
    let out = out.finish().map_err(StoreError::stream("hash the layer"))?;
    Ok(DiffId::from_digest(out.finish().1))
}

/// Every layer that has a tree or a seal, those that lie over others after them.
pub(crate) fn lowest_first(layout: &Layout) -> Result<Vec<(DiffId, Option<Seal>)>, StoreError> {
    let mut seals = list_trees(layout)?
        .into_iter()
        .map(|diff_id| Ok((diff_id, Seal::read(layout, &diff_id)?)))
        .collect::<Result<Vec<_>, StoreError>>()?;
    seals.sort_by_key(|(_, seal)| seal.as_ref().is_some_and(|seal| seal.over.is_some()));
    Ok(seals)
}

/// Whether the tree that a tree needs below it is there.
pub(crate) fn lies_on_something(layout: &Layout, seal: &Seal) -> Result<bool, StoreError> {
    let Some(over) = &seal.over else {
        return Ok(true);
    };
    let under = Seal::read(layout, &over.layer)?;
    Ok(under.is_some_and(|under| under.over.is_none()) && layout.tree(&over.layer).is_dir())
}

/// Removes unflushed trees that are damaged or cannot be checked; returns the other seals.
fn check_trees(layout: &Layout, warnings: &mut Vec<String>) -> Result<Vec<Seal>, StoreError> {
    let mut sound = Vec::new();
    for (diff_id, seal) in lowest_first(layout)? {
        let keep = match &seal {
            Some(seal) if !lies_on_something(layout, seal)? => false,
            Some(seal) if seal.durable || seal.boot == session::boot_id() => continue,
            Some(seal) => {
                seal.canonical && hash_tree(layout, seal).is_ok_and(|found| found == diff_id)
            }
            None => false,
        };
        match seal {
            Some(seal) if keep => sound.push(seal),
            seal => {
                remove_layer(layout, &diff_id)?;
                if seal.is_some_and(|seal| seal.canonical) {
                    warnings.push(format!(
                        "layer {diff_id} did not survive the last shutdown and is removed"
                    ));
                }
            }
        }
    }
    Ok(sound)
}

/// Removes a tree: the seal first, so that nobody takes what is left of it for a layer.
pub(crate) fn remove_layer(layout: &Layout, diff_id: &DiffId) -> Result<(), StoreError> {
    let seal = layout.seal(diff_id);
    match std::fs::remove_file(&seal) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::io("remove", &seal)(error));
        }
        _ => {}
    }
    remove_tree(&layout.tree(diff_id))
}
