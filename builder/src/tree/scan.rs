//! Reading a directory of this machine: ignore rules first, then one `stat` an entry, on all cores.
//!
//! Directories are tasks of a pool, so that the depth of the tree is no depth of the stack. What the
//! ignore rules leave out is not looked at, and a directory is not opened unless something in it
//! can be taken back.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use rbuild_cache::{FileKind, LiveDirectory, LiveName, LiveTree, Metadata};
use rbuild_parser::{IgnoreMatcher, MatchState};

use super::FileMemo;
use super::digest::{DigestError, Entry};
use super::memo::copied_xattrs;

/// Names of one directory that one task looks at.
const BATCH: usize = 256;

/// A scan of one directory.
pub(super) struct Scan<'a> {
    /// The tree.
    pub(super) tree: &'a LiveTree,
    /// The ignore rules.
    pub(super) ignore: Option<&'a IgnoreMatcher>,
    /// Known digests.
    pub(super) memo: &'a FileMemo,
}

/// A directory to be read.
struct Pending {
    /// Path below the root of the tree.
    path: Vec<u8>,
    /// Path below the directory that the scan began with; empty for that directory.
    shown: Vec<u8>,
    /// Where the ignore rules stand.
    state: Option<MatchState>,
    /// None for the directory that the scan began with.
    metadata: Option<Metadata>,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    items: Vec<Entry>,
    /// Directories that are only there if something below them is.
    provisional: HashSet<Vec<u8>>,
    error: Option<DigestError>,
}

impl Scan<'_> {
    /// Everything below `top`, in no order.
    pub(super) fn run(&self, top: &Path) -> Result<Vec<Entry>, DigestError> {
        let path = top.as_os_str().as_bytes();
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let first = Pending {
            path: path.to_vec(),
            shown: Vec::new(),
            state: self.ignore.map(|matcher| {
                path.split(|byte| *byte == b'/')
                    .filter(|part| !part.is_empty())
                    .fold(matcher.root(), |state, name| {
                        matcher.enter(&state, &String::from_utf8_lossy(name))
                    })
            }),
            metadata: None,
        };
        let found = Mutex::default();
        rayon::scope(|scope| self.spawn(scope, first, &found));
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        match found.error {
            Some(error) => Err(error),
            None => Ok(without_empty(found)),
        }
    }

    fn spawn<'s>(&'s self, scope: &rayon::Scope<'s>, directory: Pending, found: &'s Mutex<Found>) {
        scope.spawn(move |scope| match self.read(&directory) {
            Ok((mut here, below)) => {
                let mut all = lock(found);
                if all.error.is_some() {
                    return;
                }
                all.items.append(&mut here.items);
                all.provisional.extend(here.provisional);
                drop(all);
                for directory in below {
                    self.spawn(scope, directory, found);
                }
            }
            Err(error) => {
                lock(found).error.get_or_insert(error);
            }
        });
    }

    /// Reads one directory: itself and its entries, and the directories among them.
    fn read(&self, pending: &Pending) -> Result<(Found, Vec<Pending>), DigestError> {
        let mut here = Found::default();
        let Some(directory) = self.tree.directory(&pending.path)? else {
            // Gone since its parent was listed.
            return Ok((here, Vec::new()));
        };
        if let Some(metadata) = pending.metadata {
            if pending.state.as_ref().is_some_and(|state| state.ignored) {
                here.provisional.insert(pending.shown.clone());
            }
            here.items
                .push(directory_item(&directory, pending.shown.clone(), metadata)?);
        }
        let names = directory.names()?;
        let batches: Vec<(Vec<Entry>, Vec<Pending>)> = names
            .par_chunks(BATCH)
            .map(|names| self.look_at(&directory, pending, names))
            .collect::<Result<_, _>>()?;
        let mut below = Vec::new();
        for (mut items, mut directories) in batches {
            here.items.append(&mut items);
            below.append(&mut directories);
        }
        Ok((here, below))
    }

    fn look_at(
        &self,
        directory: &LiveDirectory,
        parent: &Pending,
        names: &[LiveName],
    ) -> Result<(Vec<Entry>, Vec<Pending>), DigestError> {
        let mut items = Vec::with_capacity(names.len());
        let mut below = Vec::new();
        for LiveName { name, is_directory } in names {
            let state = match (self.ignore, &parent.state) {
                (Some(matcher), Some(state)) => {
                    Some(matcher.enter(state, &String::from_utf8_lossy(name)))
                }
                _ => None,
            };
            let ignored = state.as_ref().is_some_and(|state| state.ignored);
            let closed = state
                .as_ref()
                .is_some_and(|state| !state.may_reinclude_below);
            if ignored && (closed || *is_directory == Some(false)) {
                continue;
            }
            let Some(metadata) = directory.metadata(name)? else {
                continue;
            };
            if metadata.kind == FileKind::Directory {
                below.push(Pending {
                    path: joined(&parent.path, name),
                    shown: joined(&parent.shown, name),
                    state,
                    metadata: Some(metadata),
                });
            } else if !ignored && metadata.kind != FileKind::Socket {
                let path = joined(&parent.shown, name);
                items.push(self.item(directory, name, path, metadata)?);
            }
        }
        Ok((items, below))
    }

    fn item(
        &self,
        directory: &LiveDirectory,
        name: &[u8],
        path: Vec<u8>,
        metadata: Metadata,
    ) -> Result<Entry, DigestError> {
        let mut item = Entry::new(path, metadata, (0, 0));
        match metadata.kind {
            FileKind::File => {
                item.content = Some(
                    self.memo
                        .digest(&metadata, || {
                            directory.open(name).map_err(DigestError::from)
                        })
                        .map_err(|error| error.at(&directory.path(name)))?,
                );
            }
            FileKind::Symlink => item.link_target = Some(directory.link_target(name)?),
            _ => {}
        }
        Ok(item)
    }
}

fn directory_item(
    directory: &LiveDirectory,
    path: Vec<u8>,
    metadata: Metadata,
) -> Result<Entry, DigestError> {
    let mut item = Entry::new(path, metadata, (0, 0));
    item.xattrs = copied_xattrs(directory)
        .map_err(|error| DigestError::from(error).at(&directory.path(b"")))?;
    Ok(item)
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    [directory, b"/", name].concat()
}

fn lock(found: &Mutex<Found>) -> std::sync::MutexGuard<'_, Found> {
    // What a panicking task has added is whole.
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves out ignored directories below which nothing was taken back.
fn without_empty(found: Found) -> Vec<Entry> {
    let Found {
        mut items,
        provisional,
        ..
    } = found;
    if provisional.is_empty() {
        return items;
    }
    let mut wanted: HashSet<&[u8]> = HashSet::new();
    for item in &items {
        if provisional.contains(&item.path) {
            continue;
        }
        let mut path = item.path.as_slice();
        while let Some(slash) = path.iter().rposition(|byte| *byte == b'/') {
            path = &path[..slash];
            if !wanted.insert(path) {
                break;
            }
        }
    }
    let gone: HashSet<Vec<u8>> = provisional
        .iter()
        .filter(|path| !wanted.contains(path.as_slice()))
        .cloned()
        .collect();
    items.retain(|item| !gone.contains(&item.path));
    items
}
