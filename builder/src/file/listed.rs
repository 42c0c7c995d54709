//! Copies a directory whose entries are known from its digest.
//!
//! Names that the target does not have need no look-up each: they are made by descriptor, on all
//! cores, a directory a task. A file that is as it was when the step last ran is linked from that
//! layer instead of being written again; layers never change, so they may share files. Of a large
//! source with few changes what stayed is not even linked (`left`).

mod left;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rbuild_cache::{FileKind, Layer, LiveDirectory};
use rustix::fs::{AtFlags, Mode, futimens, linkat, mkdirat};

use self::left::Left;
use super::copy::Rules;
use super::upper::{
    NewFile, Place, Upper, UpperError, failed, set_owner_and_mode, set_xattrs, times,
};
use super::{FileRun, upper_error, view_error};
use crate::cancel::Cancel;
use crate::error::BuildError;
use crate::tree::{Content, Entry, SourceDirectory, SourceTree, copied_xattrs, is_as_scanned};

/// Largest file that is copied through a buffer.
const SMALL: usize = 64 << 10;

/// What a copy may take from the layer that the same step made when it last ran.
pub(crate) struct Reuse {
    /// That layer.
    pub(crate) layer: Layer,
    /// Where the copy went then: canonical, absolute.
    pub(crate) target: PathBuf,
    /// For each entry of the source whether it is the same as then.
    pub(crate) unchanged: Vec<bool>,
    /// Every entry of then is there now.
    pub(crate) nothing_gone: bool,
}

/// First names of files with several.
pub(super) type Links = HashMap<(u64, u64), PathBuf>;

/// The entries of a source by directory; the first list is that of the source itself.
struct Index {
    lists: Vec<Vec<usize>>,
    /// The list of a directory's children, by the directory's place in the entries.
    of: HashMap<usize, usize>,
}

impl Index {
    /// Indexes the entries that are not to be left out.
    fn new(entries: &[Entry], left: Option<&Left>) -> Index {
        let mut index = Index {
            lists: vec![Vec::new()],
            of: HashMap::new(),
        };
        let mut known: HashMap<&[u8], usize> = HashMap::from([(&b""[..], 0)]);
        for (place, entry) in entries.iter().enumerate() {
            if left.is_some_and(|left| left.is_out(place)) {
                continue;
            }
            let slash = entry.path.iter().rposition(|byte| *byte == b'/');
            let parent = &entry.path[..slash.unwrap_or(0)];
            // In byte order a directory stands before what is in it.
            let list = known.get(parent).copied().unwrap_or(0);
            index.lists[list].push(place);
            if entry.is_directory() {
                known.insert(&entry.path, index.lists.len());
                index.of.insert(place, index.lists.len());
                index.lists.push(Vec::new());
            }
        }
        index
    }

    fn children_of(&self, place: usize) -> usize {
        self.of.get(&place).copied().unwrap_or(0)
    }
}

/// Some new names in one directory of the upper.
struct Task {
    /// Path of the directory below the source.
    inside: Vec<u8>,
    entries: Vec<usize>,
}

impl FileRun<'_> {
    /// Merges the listed content of the source directory `top` into a directory of the upper.
    pub(super) fn merge_listed(
        &mut self,
        tree: &SourceTree,
        top: &Path,
        content: &Content,
        target: &Path,
        rules: &Rules<'_>,
    ) -> Result<(), BuildError> {
        let entries = &content.entries;
        let reuse = self.reuse.filter(|reuse| reuse.target == target);
        let left = match reuse.filter(|_| self.may_leave) {
            Some(reuse) => self.left(reuse, entries, target, rules)?,
            None => None,
        };
        self.left = left.as_ref().map(Left::count);
        if let (Some(reuse), Some(_)) = (reuse, &left) {
            self.keep_times(reuse, target)?;
        }
        let index = Index::new(entries, left.as_ref());
        let mut links = Links::new();
        let mut tasks = Vec::new();
        // Directories that are there already are gone through by name.
        let mut met = vec![(Vec::new(), 0)];
        while let Some((inside, list)) = met.pop() {
            let place = target.join(OsStr::from_bytes(&inside));
            let present: HashSet<_> = self
                .upper
                .view()
                .names_in(&place)
                .map_err(|error| view_error(&error))?
                .into_iter()
                .collect();
            let mut new = Vec::new();
            for &number in &index.lists[list] {
                let entry = &entries[number];
                if !present.contains(entry.name()) {
                    new.push(number);
                    continue;
                }
                if self.cancel.is_cancelled() {
                    return Err(BuildError::cancelled());
                }
                let shown = entry.at(top);
                let new = rules.metadata(tree, &shown)?;
                let place = target.join(OsStr::from_bytes(&entry.path));
                if entry.is_directory() {
                    self.place_directory(&place, &new)?;
                    met.push((entry.path.clone(), index.children_of(number)));
                } else {
                    self.as_scanned = false;
                    self.place(tree, &shown, &place, &new, &mut links)?;
                }
            }
            if !new.is_empty() {
                tasks.push(Task {
                    inside,
                    entries: new,
                });
            }
        }
        self.target = Some(target.to_path_buf());
        let copy = ListedCopy {
            tree,
            top,
            entries,
            began: content.began,
            as_scanned: AtomicBool::new(true),
            index: &index,
            target,
            rules,
            upper: &self.upper,
            cancel: self.cancel,
            reuse,
            taken: Mutex::default(),
            links: Mutex::new(links),
            directories: Mutex::default(),
            error: Mutex::default(),
        };
        self.as_scanned &= copy.run(tasks)?;
        Ok(())
    }
}

/// Makes what is new, on all cores.
struct ListedCopy<'a> {
    tree: &'a SourceTree,
    /// The source directory.
    top: &'a Path,
    entries: &'a [Entry],
    /// When the list was begun.
    began: i128,
    /// No file was found changed since then.
    as_scanned: AtomicBool,
    index: &'a Index,
    target: &'a Path,
    rules: &'a Rules<'a>,
    upper: &'a Upper,
    cancel: &'a Cancel,
    reuse: Option<&'a Reuse>,
    /// Files of the old layer that were linked: two names may not become one file by that.
    taken: Mutex<HashSet<(u64, u64)>>,
    links: Mutex<Links>,
    /// Modes and times of new directories, for when nothing is made in them any more.
    directories: Mutex<Vec<(PathBuf, NewFile)>>,
    error: Mutex<Option<BuildError>>,
}

/// One directory while its new names are made.
struct Here<'a> {
    fd: OwnedFd,
    source: SourceDirectory<'a>,
    /// The same directory in the trees of the layer that may be taken from, topmost first.
    old: Vec<LiveDirectory>,
    buffer: Vec<u8>,
}

impl ListedCopy<'_> {
    /// Tells whether all files were as the list has them.
    fn run(self, tasks: Vec<Task>) -> Result<bool, BuildError> {
        rayon::scope(|scope| {
            for task in tasks {
                self.spawn(scope, task);
            }
        });
        if let Some(error) = self
            .error
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            return Err(error);
        }
        let mut made = self
            .directories
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        // What is in a directory first: a new mode may close it, and a time would not last.
        made.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        for (path, new) in made {
            finish_directory(self.upper, &path, &new).map_err(|error| upper_error(&error))?;
        }
        Ok(self.as_scanned.into_inner())
    }

    fn spawn<'s>(&'s self, scope: &rayon::Scope<'s>, task: Task) {
        scope.spawn(move |scope| {
            if lock(&self.error).is_some() {
                return;
            }
            match self.fill(&task) {
                Ok(below) => {
                    for task in below {
                        self.spawn(scope, task);
                    }
                }
                Err(error) => {
                    lock(&self.error).get_or_insert(error);
                }
            }
        });
    }

    /// Makes the names of one task; returns the tasks of the directories among them.
    fn fill(&self, task: &Task) -> Result<Vec<Task>, BuildError> {
        let inside = OsStr::from_bytes(&task.inside);
        let place = self.target.join(inside);
        let mut old = Vec::new();
        if let Some(reuse) = self.reuse {
            for tree in std::iter::once(&reuse.layer).chain(reuse.layer.under()) {
                let found = tree.own_directory(&place);
                old.extend(found.map_err(|error| view_error(&error))?);
            }
        }
        let mut here = Here {
            fd: self
                .upper
                .directory(&place)
                .map_err(|error| upper_error(&error))?,
            source: self.tree.open_directory(&self.top.join(inside))?,
            old,
            buffer: vec![0; SMALL + 1],
        };
        let mut below = Vec::new();
        for &number in &task.entries {
            if self.cancel.is_cancelled() {
                return Err(BuildError::cancelled());
            }
            let entry = &self.entries[number];
            let path = self.target.join(OsStr::from_bytes(&entry.path));
            if entry.is_directory() {
                self.make_directory(&here, entry, path)?;
                below.push(Task {
                    inside: entry.path.clone(),
                    entries: self.index.lists[self.index.children_of(number)].clone(),
                });
            } else {
                self.make(&mut here, number, &path)?;
            }
        }
        Ok(below)
    }

    fn make_directory(
        &self,
        here: &Here<'_>,
        entry: &Entry,
        path: PathBuf,
    ) -> Result<(), BuildError> {
        mkdirat(&here.fd, entry.name(), Mode::from_raw_mode(0o700))
            .map_err(|error| upper_error(&failed("make the directory", &path, error)))?;
        let xattrs = entry.xattrs.iter();
        let xattrs =
            xattrs.map(|(name, value)| (OsStr::from_bytes(name).to_owned(), value.clone()));
        let new = self
            .rules
            .new_file(&entry.metadata, entry.owner, xattrs.collect());
        lock(&self.directories).push((path, new));
        Ok(())
    }

    fn make(&self, here: &mut Here<'_>, number: usize, path: &Path) -> Result<(), BuildError> {
        let entry = &self.entries[number];
        let mut new = self
            .rules
            .new_file(&entry.metadata, entry.owner, Vec::new());
        let name = OsStr::from_bytes(entry.name());
        match entry.metadata.kind {
            FileKind::File if entry.metadata.nlink > 1 => {
                // Held over the copy, so that nobody links to half a file.
                let mut links = lock(&self.links);
                if let Some(first) = links.get(&entry.metadata.inode) {
                    return self.link(here, name, first, path);
                }
                self.copy(here, entry, path, &mut new)?;
                links.insert(entry.metadata.inode, path.to_path_buf());
                Ok(())
            }
            FileKind::File => {
                if self.take_over(here, number, &new)? {
                    return Ok(());
                }
                self.copy(here, entry, path, &mut new)
            }
            FileKind::Symlink => {
                let target = entry.link_target.clone().unwrap_or_default();
                Place::new(&here.fd, name, path)
                    .symlink(&target, &new)
                    .map_err(|error| upper_error(&error))
            }
            // In a layer it would mean a deletion.
            _ if entry.metadata.is_whiteout() => Ok(()),
            _ => Place::new(&here.fd, name, path)
                .node(&entry.metadata, &new)
                .map_err(|error| upper_error(&error)),
        }
    }

    fn copy(
        &self,
        here: &mut Here<'_>,
        entry: &Entry,
        path: &Path,
        new: &mut NewFile,
    ) -> Result<(), BuildError> {
        let unreadable = |error: &(dyn std::error::Error + 'static)| {
            let shown = entry.at(self.top).path;
            BuildError::io(
                format!(
                    "could not read `{}` of {}",
                    shown.display(),
                    self.tree.label()
                ),
                error,
            )
        };
        let file = here
            .source
            .open(self.top, entry)
            .map_err(|error| unreadable(&error))?;
        new.xattrs = copied_xattrs(&file)
            .map_err(|error| unreadable(&error))?
            .into_iter()
            .map(|(name, value)| (OsStr::from_bytes(&name).to_owned(), value))
            .collect();
        let place = Place::new(&here.fd, OsStr::from_bytes(entry.name()), path);
        let done = if entry.metadata.size <= SMALL as u64 {
            place.copy_small(&file, entry.metadata.size, &mut here.buffer, new)
        } else {
            place.copy(&file, new, self.cancel)
        };
        // Looked at when all of it has been read.
        if !is_as_scanned(&file, &entry.metadata, self.began) {
            self.as_scanned.store(false, Ordering::Relaxed);
        }
        done.map_err(|error| upper_error(&error))
    }

    fn link(
        &self,
        here: &Here<'_>,
        name: &OsStr,
        first: &Path,
        path: &Path,
    ) -> Result<(), BuildError> {
        let linked = || {
            let (Some(parent), Some(old)) = (first.parent(), first.file_name()) else {
                return Ok(());
            };
            let parent = self.upper.directory(parent)?;
            linkat(&parent, old, &here.fd, name, AtFlags::empty())
                .map_err(|error| failed("create the hard link", path, error))
        };
        linked().map_err(|error| upper_error(&error))
    }

    /// Links the file of the old layer if it is the one that would be written; tells whether.
    fn take_over(&self, here: &Here<'_>, number: usize, new: &NewFile) -> Result<bool, BuildError> {
        let Some(reuse) = self.reuse else {
            return Ok(false);
        };
        if !reuse.unchanged.get(number).copied().unwrap_or(false) {
            return Ok(false);
        }
        let entry = &self.entries[number];
        let name = entry.name();
        let mut found = None;
        for old in &here.old {
            let there = old.metadata(name).map_err(|error| view_error(&error))?;
            if let Some(there) = there {
                found = Some((old, there));
                break;
            }
        }
        let Some((old, found)) = found else {
            return Ok(false);
        };
        let same = found.kind == FileKind::File
            && found.size == entry.metadata.size
            && (found.mode, found.uid, found.gid) == (new.mode & 0o7777, new.uid, new.gid)
            && Some(found.mtime) == new.mtime;
        if !same || !lock(&self.taken).insert(found.inode) {
            return Ok(false);
        }
        // Too many links, a file system without any, a user who may not: then it is copied.
        Ok(linkat(old.as_fd(), name, &here.fd, name, AtFlags::empty()).is_ok())
    }
}

/// Gives a directory that was made owner, attributes, mode and time.
fn finish_directory(upper: &Upper, path: &Path, new: &NewFile) -> Result<(), UpperError> {
    let directory = upper.directory(path)?;
    set_xattrs(directory.as_fd(), path, &new.xattrs)?;
    set_owner_and_mode(&directory, path, new.uid, new.gid, new.mode)?;
    match new.mtime {
        Some(time) => futimens(&directory, &times(time))
            .map_err(|error| failed("set the time of", path, error)),
        None => Ok(()),
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking task has put in is whole.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
