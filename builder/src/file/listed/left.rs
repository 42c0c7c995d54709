//! What a copy need not make at all, since it lies in the layer of the last run and nothing has changed:
//! the new layer then lies over the tree of that one.
//!
//! Only asked when it is worth it: of many files, of which few have changed and none is gone. What is
//! decided here is counted again when the layer is made; a layer that is not exactly what was asked for
//! is made whole.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rayon::prelude::*;
use rbuild_cache::{FileKind, Layer, LiveDirectory, Metadata, metadata_of};

use super::super::copy::Rules;
use super::super::upper::NewFile;
use super::super::{FileRun, upper_error, view_error};
use super::{Index, Reuse};
use crate::error::BuildError;
use crate::tree::Entry;

/// With fewer entries a layer is made whole: that takes no time.
const FEWEST: usize = 256;

/// One in so many may be new; with more a layer is made whole, for the next ones to lie over.
const NEW: usize = 4;

/// Which entries of a source are left where they are.
pub(super) struct Left {
    out: Vec<bool>,
}

impl Left {
    /// Whether an entry is left where it is.
    pub(super) fn is_out(&self, place: usize) -> bool {
        self.out[place]
    }

    /// How many are.
    pub(super) fn count(&self) -> u64 {
        self.out.iter().filter(|out| **out).count() as u64
    }
}

impl FileRun<'_> {
    /// The entries that the old layer has already; none if the layer has to be made whole.
    pub(super) fn left(
        &self,
        reuse: &Reuse,
        entries: &[Entry],
        target: &Path,
        rules: &Rules<'_>,
    ) -> Result<Option<Left>, BuildError> {
        let has_links = |entry: &Entry| !entry.is_directory() && entry.metadata.nlink > 1;
        let few = |new: usize| new <= entries.len() / NEW;
        let changed = reuse.unchanged.iter().filter(|same| !**same).count();
        if !reuse.nothing_gone
            || entries.len() < FEWEST
            || !few(changed)
            || entries.iter().any(has_links)
            || self.meets_something(entries, target)?
        {
            return Ok(None);
        }
        let old = Old::of(&reuse.layer);
        let index = Index::new(entries, None);
        let mut lists: Vec<(&[u8], usize)> = vec![(b"", 0)];
        lists.extend(
            index
                .of
                .iter()
                .map(|(place, list)| (entries[*place].path.as_slice(), *list)),
        );
        let found = lists
            .into_par_iter()
            .map(|(inside, list)| {
                let here = old.open(&target.join(OsStr::from_bytes(inside)))?;
                let mut same = Vec::new();
                for &place in &index.lists[list] {
                    if self.cancel.is_cancelled() {
                        return Err(BuildError::cancelled());
                    }
                    let entry = &entries[place];
                    let new = rules.new_file(&entry.metadata, entry.owner, Vec::new());
                    if reuse.unchanged[place] && here.has(entry, &new)? {
                        same.push(place);
                    }
                }
                Ok(same)
            })
            .collect::<Result<Vec<Vec<usize>>, BuildError>>()?;
        let mut out = vec![false; entries.len()];
        for place in found.into_iter().flatten() {
            out[place] = true;
        }
        keep_the_way(entries, &mut out);
        let left = Left { out };
        Ok(few(entries.len() - left.count() as usize).then_some(left))
    }

    /// Lets the directories that the copy itself has made, for the source to be in, keep the times that
    /// they have in the old layer: nothing is made anew in them, or they get the time of the source.
    ///
    /// Otherwise every version would differ from the one before in its first entry.
    pub(super) fn keep_times(&mut self, reuse: &Reuse, target: &Path) -> Result<(), BuildError> {
        let old = Old::of(&reuse.layer);
        for path in target.ancestors().filter(|path| path.parent().is_some()) {
            let here = old.open(path)?;
            let Some(before) = here.over.or(here.under) else {
                continue;
            };
            let was = before.metadata(b"").map_err(|error| view_error(&error))?;
            let now = self
                .upper
                .directory(path)
                .map_err(|error| upper_error(&error))?;
            let now = metadata_of(&File::from(now)).map_err(|error| {
                BuildError::io(format!("could not look at `{}`", path.display()), &error)
            })?;
            if let Some(was) = was
                && !self.upper.has_directory_time(path)
                && (was.mode, was.uid, was.gid) == (now.mode, now.uid, now.gid)
            {
                self.upper.set_directory_time(path, was.mtime);
            }
        }
        Ok(())
    }

    /// Whether some name of the source is in the target already.
    fn meets_something(&self, entries: &[Entry], target: &Path) -> Result<bool, BuildError> {
        let present = self
            .upper
            .view()
            .names_in(target)
            .map_err(|error| view_error(&error))?;
        let is_top = |entry: &&Entry| !entry.path.contains(&b'/');
        Ok(entries
            .iter()
            .filter(is_top)
            .any(|entry| present.iter().any(|name| name == entry.name())))
    }
}

/// What is made needs the directories that it is in.
fn keep_the_way(entries: &[Entry], out: &mut [bool]) {
    let directories: HashMap<&[u8], usize> = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.is_directory())
        .map(|(place, entry)| (entry.path.as_slice(), place))
        .collect();
    // In byte order a directory stands before what is in it.
    for place in (0..entries.len()).rev() {
        let path = entries[place].path.as_slice();
        let slash = path.iter().rposition(|byte| *byte == b'/');
        if let (false, Some(slash)) = (out[place], slash)
            && let Some(parent) = directories.get(&path[..slash])
        {
            out[*parent] = false;
        }
    }
}

/// The trees of the old layer.
struct Old<'a> {
    /// What the new layer would lie over.
    under: &'a Layer,
    /// What lies over that in the old layer.
    over: Option<&'a Layer>,
}

/// A directory in them.
struct OldDirectory {
    under: Option<LiveDirectory>,
    over: Option<LiveDirectory>,
}

impl<'a> Old<'a> {
    fn of(layer: &'a Layer) -> Old<'a> {
        match layer.under() {
            Some(under) => Old {
                under,
                over: Some(layer),
            },
            None => Old {
                under: layer,
                over: None,
            },
        }
    }

    fn open(&self, path: &Path) -> Result<OldDirectory, BuildError> {
        let open = |layer: &Layer| {
            layer
                .own_directory(path)
                .map_err(|error| view_error(&error))
        };
        Ok(OldDirectory {
            under: open(self.under)?,
            over: self.over.map(open).transpose()?.flatten(),
        })
    }
}

impl OldDirectory {
    /// Whether the lower tree has an entry as it would be made now, and shows it.
    fn has(&self, entry: &Entry, new: &NewFile) -> Result<bool, BuildError> {
        let look = |directory: &Option<LiveDirectory>| match directory {
            Some(directory) => directory
                .metadata(entry.name())
                .map_err(|error| view_error(&error)),
            None => Ok(None),
        };
        if look(&self.over)?.is_some() {
            return Ok(false);
        }
        Ok(look(&self.under)?.is_some_and(|found| is_as_made(&found, entry, new)))
    }
}

fn is_as_made(found: &Metadata, entry: &Entry, new: &NewFile) -> bool {
    let kind = entry.metadata.kind;
    let same = found.kind == kind
        && (found.uid, found.gid) == (new.uid, new.gid)
        && Some(found.mtime) == new.mtime;
    match kind {
        FileKind::Symlink => same,
        FileKind::Directory => same && found.mode == new.mode & 0o7777,
        FileKind::File => {
            same && found.mode == new.mode & 0o7777 && found.size == entry.metadata.size
        }
        _ => false,
    }
}
