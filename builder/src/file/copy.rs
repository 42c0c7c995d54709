//! COPY and ADD: sources to destination, to the letter of the language reference, section 5.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use rbuild_cache::{FileKind, Follow, Metadata, ViewEntry};
use rbuild_parser::{ChmodMode, IgnoreMatcher};

use super::archive::is_archive;
use super::missing::{missing_source, not_found};
use super::upper::{NewDirectory, NewFile};
use super::{FileRun, Owner, show, upper_error, view_error};
use crate::error::BuildError;
use crate::key::CONTENT;
use crate::ops::{CopyAction, CopySource};
use crate::tree::{SourceTree, clean, copied_xattr, expand_wildcards, has_wildcard};

/// What applies to every entry of one COPY.
pub(super) struct Rules<'a> {
    pub(super) chown: Option<Owner>,
    pub(super) chmod: Option<ChmodMode>,
    pub(super) exclude: Option<IgnoreMatcher>,
    pub(super) action: &'a CopyAction,
}

impl Rules<'_> {
    /// Octal modes also apply to the parents that are made.
    fn new_parent(&self) -> NewDirectory {
        let (uid, gid) = self.chown.map_or((0, 0), |owner| (owner.uid, owner.gid));
        let mode = match &self.chmod {
            Some(ChmodMode::Octal(mode)) => *mode,
            _ => 0o755,
        };
        NewDirectory {
            mode,
            uid,
            gid,
            epoch: None,
        }
    }

    pub(super) fn metadata(
        &self,
        tree: &SourceTree,
        entry: &ViewEntry,
    ) -> Result<NewFile, BuildError> {
        let xattrs = tree
            .view()
            .xattrs(entry)
            .map_err(|error| view_error(&error))?;
        let kept = xattrs
            .into_iter()
            .filter(|(name, _)| copied_xattr(&name.to_string_lossy()));
        let owner = tree.owner(entry);
        Ok(self.new_file(&entry.metadata, owner, kept.collect()))
    }

    /// Owner and mode as the flags want them, the rest as it is.
    pub(super) fn new_file(
        &self,
        metadata: &Metadata,
        owner: (u32, u32),
        xattrs: Vec<(OsString, Vec<u8>)>,
    ) -> NewFile {
        let (uid, gid) = self.chown.map_or(owner, |owner| (owner.uid, owner.gid));
        let mode = match &self.chmod {
            Some(chmod) if metadata.kind != FileKind::Symlink => {
                chmod.apply(metadata.mode, metadata.kind == FileKind::Directory)
            }
            _ => metadata.mode,
        };
        NewFile {
            mode,
            uid,
            gid,
            mtime: Some(metadata.mtime),
            xattrs,
        }
    }
}

impl FileRun<'_> {
    pub(super) fn copy(&mut self, action: &CopyAction) -> Result<(), BuildError> {
        let rules = Rules {
            chown: match &action.chown {
                Some(spec) => Some(self.owner(spec)?),
                None => None,
            },
            chmod: match &action.chmod {
                Some(mode) => Some(ChmodMode::parse(mode).map_err(BuildError::user)?),
                None => None,
            },
            exclude: match action.exclude.as_slice() {
                [] => None,
                patterns => Some(IgnoreMatcher::from_patterns(patterns).map_err(BuildError::user)?),
            },
            action,
        };
        if action.parents {
            self.destination_directory(&action.destination, &rules)?;
        }
        for source in &action.sources {
            match source {
                CopySource::Inline { name, content } => self.copy_inline(name, content, &rules)?,
                CopySource::Path {
                    input,
                    path,
                    unpack,
                } => {
                    // What a pattern matched may be gone by now.
                    self.as_scanned &= !action.parents && !has_wildcard(path);
                    let tree = input.and_then(|index| self.inputs.get(index)?.as_ref());
                    match tree {
                        Some(tree) => self.copy_path(tree, path, *unpack, &rules)?,
                        None => self.copy_from_nothing(path, &rules)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// A source in the empty file system: only its root exists.
    fn copy_from_nothing(&mut self, path: &str, rules: &Rules<'_>) -> Result<(), BuildError> {
        if clean(path) == Path::new("/") {
            self.destination_directory(&rules.action.destination, rules)?;
            return Ok(());
        }
        if has_wildcard(path) {
            return Ok(());
        }
        Err(not_found("scratch", &clean(path)))
    }

    fn copy_path(
        &mut self,
        tree: &SourceTree,
        path: &str,
        unpack: bool,
        rules: &Rules<'_>,
    ) -> Result<(), BuildError> {
        if rules.action.parents {
            return self.copy_with_parents(tree, path, rules);
        }
        for found in sources_of(tree, path, false)? {
            let Some(entry) = tree.find(&found).map_err(|error| view_error(&error))? else {
                if has_wildcard(path) {
                    // A dangling link that a wildcard met.
                    return Err(not_found(tree.label(), &found));
                }
                return Err(missing_source(tree, &found));
            };
            let part = if has_wildcard(path) {
                found.to_string_lossy().trim_start_matches('/').to_owned()
            } else {
                path.to_owned()
            };
            self.copy_entry(tree, &part, &found, &entry, unpack, rules)?;
        }
        Ok(())
    }

    /// Copies what `source` holds into the root of a plain directory.
    pub(super) fn copy_into_root(
        &mut self,
        tree: &SourceTree,
        source: &str,
    ) -> Result<(), BuildError> {
        let action = CopyAction {
            sources: Vec::new(),
            destination: "/".to_owned(),
            chown: None,
            chmod: None,
            parents: false,
            exclude: Vec::new(),
        };
        let rules = Rules {
            chown: None,
            chmod: None,
            exclude: None,
            action: &action,
        };
        self.copy_path(tree, source, false, &rules)
    }

    /// One source to the destination: contents of a directory, or a file.
    ///
    /// `part` is the source as the key names it.
    fn copy_entry(
        &mut self,
        tree: &SourceTree,
        part: &str,
        shown: &Path,
        entry: &ViewEntry,
        unpack: bool,
        rules: &Rules<'_>,
    ) -> Result<(), BuildError> {
        let destination = rules.action.destination.as_str();
        if entry.metadata.kind == FileKind::Directory {
            let target = self.destination_directory(destination, rules)?;
            let listed = self
                .listed
                .iter()
                .find(|(name, _)| name.strip_prefix(CONTENT) == Some(part));
            self.as_scanned &= listed.is_some() && rules.exclude.is_none();
            return match listed {
                // What is left out is left out by name, with parents that come back: one by one.
                Some((_, content)) if rules.exclude.is_none() => {
                    self.merge_listed(tree, &entry.path, content, &target, rules)
                }
                _ => self.merge(tree, entry, &target, rules),
            };
        }
        self.as_scanned = false;
        if unpack && entry.metadata.kind == FileKind::File && is_archive(tree, entry)? {
            self.unpacked = true;
            return self.unpack(tree, entry, destination, rules);
        }
        let name = shown.file_name().unwrap_or_default();
        let target = self.file_target(destination, Path::new(name), rules)?;
        let new = rules.metadata(tree, entry)?;
        self.place(tree, entry, &target, &new, &mut HashMap::new())
    }

    fn copy_inline(
        &mut self,
        name: &str,
        content: &str,
        rules: &Rules<'_>,
    ) -> Result<(), BuildError> {
        let destination = &rules.action.destination;
        let target = self.file_target(destination, Path::new(name), rules)?;
        let (uid, gid) = rules.chown.map_or((0, 0), |owner| (owner.uid, owner.gid));
        let mode = rules
            .chmod
            .as_ref()
            .map_or(0o644, |chmod| chmod.apply(0o644, false));
        let new = NewFile {
            mode,
            uid,
            gid,
            mtime: None,
            xattrs: Vec::new(),
        };
        self.refuse_directory(&target)?;
        self.upper
            .write_file(&target, &mut Cursor::new(content), &new)
            .map_err(|error| upper_error(&error))
    }

    /// The destination as a directory, made if missing; canonical and in the upper directory.
    pub(super) fn destination_directory(
        &mut self,
        destination: &str,
        rules: &Rules<'_>,
    ) -> Result<PathBuf, BuildError> {
        self.directory_at(destination, rules, |path| {
            format!("cannot copy to non-directory: {path}")
        })
    }

    /// The same, with the words for something else being there.
    fn directory_at(
        &mut self,
        destination: &str,
        rules: &Rules<'_>,
        taken: impl Fn(&str) -> String,
    ) -> Result<PathBuf, BuildError> {
        let resolved = self
            .upper
            .view()
            .resolve(destination)
            .map_err(|error| view_error(&error))?;
        if let Some(entry) = &resolved.entry
            && entry.metadata.kind != FileKind::Directory
        {
            return Err(BuildError::user(taken(&show(&clean(destination))))
                .with_help(format!("{} is not a directory", show(&entry.path))));
        }
        self.upper
            .make_path(&resolved, &rules.new_parent())
            .map_err(|error| upper_error(&error))
    }

    /// Where a file goes: into the destination if that is a directory or ends in `/`, else onto it.
    fn file_target(
        &mut self,
        destination: &str,
        name: &Path,
        rules: &Rules<'_>,
    ) -> Result<PathBuf, BuildError> {
        if destination.ends_with('/') {
            return Ok(self
                .directory_at(destination, rules, |path| {
                    format!("mkdir {path}: not a directory")
                })?
                .join(name));
        }
        let resolved = self
            .upper
            .view()
            .resolve(destination)
            .map_err(|error| view_error(&error))?;
        match &resolved.entry {
            Some(entry) if entry.metadata.kind == FileKind::Directory => {
                let path = entry.path.clone();
                self.upper
                    .copy_up(&path)
                    .map_err(|error| upper_error(&error))?;
                Ok(path.join(name))
            }
            Some(entry) => {
                let path = entry.path.clone();
                let parent = path.parent().unwrap_or(Path::new("/"));
                self.upper
                    .copy_up(parent)
                    .map_err(|error| upper_error(&error))?;
                Ok(path)
            }
            None => {
                let mut parent = resolved.clone();
                let last = parent.missing.pop().unwrap_or_default();
                let made = self
                    .upper
                    .make_path(&parent, &rules.new_parent())
                    .map_err(|error| upper_error(&error))?;
                Ok(made.join(last))
            }
        }
    }

    fn refuse_directory(&self, target: &Path) -> Result<(), BuildError> {
        let existing = self
            .upper
            .view()
            .lookup(target, Follow::None)
            .map_err(|error| view_error(&error))?;
        match existing {
            Some(entry) if entry.metadata.kind == FileKind::Directory => Err(BuildError::user(
                format!("cannot replace to directory {} with file", show(target)),
            )),
            _ => Ok(()),
        }
    }

    /// Merges the content of a source directory into a target directory of the upper.
    pub(super) fn merge(
        &mut self,
        tree: &SourceTree,
        source: &ViewEntry,
        target: &Path,
        rules: &Rules<'_>,
    ) -> Result<(), BuildError> {
        let mut links = HashMap::new();
        let mut open = vec![(source.path.clone(), PathBuf::new())];
        while let Some((directory, inside)) = open.pop() {
            let children = tree
                .children(&directory)
                .map_err(|error| view_error(&error))?;
            for child in children {
                if self.cancel.is_cancelled() {
                    return Err(BuildError::cancelled());
                }
                let below = inside.join(child.name());
                let excluded = rules
                    .exclude
                    .as_ref()
                    .is_some_and(|matcher| matcher.ignored(&below.to_string_lossy()));
                let is_dir = child.metadata.kind == FileKind::Directory;
                if excluded {
                    let reincludes = rules
                        .exclude
                        .as_ref()
                        .is_some_and(IgnoreMatcher::has_negation);
                    if is_dir && reincludes {
                        open.push((child.path.clone(), below));
                    }
                    continue;
                }
                self.fill_skipped_parents(tree, source, target, &below, rules)?;
                let place = target.join(&below);
                let new = rules.metadata(tree, &child)?;
                if is_dir {
                    self.place_directory(&place, &new)?;
                    open.push((child.path.clone(), below));
                } else {
                    self.place(tree, &child, &place, &new, &mut links)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the directories of an excluded parent whose child is taken after all.
    fn fill_skipped_parents(
        &mut self,
        tree: &SourceTree,
        source: &ViewEntry,
        target: &Path,
        below: &Path,
        rules: &Rules<'_>,
    ) -> Result<(), BuildError> {
        if !rules
            .exclude
            .as_ref()
            .is_some_and(IgnoreMatcher::has_negation)
        {
            return Ok(());
        }
        let mut inside = PathBuf::new();
        for component in below.parent().into_iter().flat_map(Path::components) {
            inside.push(component);
            let place = target.join(&inside);
            let known = self
                .upper
                .view()
                .lookup(&place, Follow::None)
                .map_err(|error| view_error(&error))?;
            if known.is_none() {
                let entry = tree
                    .view()
                    .lookup(source.path.join(&inside), Follow::None)
                    .map_err(|error| view_error(&error))?;
                if let Some(entry) = entry {
                    let new = rules.metadata(tree, &entry)?;
                    self.place_directory(&place, &new)?;
                }
            }
        }
        Ok(())
    }

    /// A sub-directory of a copied tree: made, or given the source's owner and mode.
    pub(super) fn place_directory(
        &mut self,
        place: &Path,
        new: &NewFile,
    ) -> Result<(), BuildError> {
        let existing = self
            .upper
            .view()
            .lookup(place, Follow::None)
            .map_err(|error| view_error(&error))?;
        match existing {
            Some(entry) if entry.metadata.kind == FileKind::Directory => {
                self.upper
                    .copy_up(place)
                    .map_err(|error| upper_error(&error))?;
            }
            Some(_) => {
                return Err(BuildError::user(format!(
                    "cannot copy to non-directory: {}",
                    show(place)
                )));
            }
            None => {
                let bare = NewDirectory {
                    mode: new.mode,
                    uid: new.uid,
                    gid: new.gid,
                    epoch: None,
                };
                self.upper
                    .make_directory(place, &bare)
                    .map_err(|error| upper_error(&error))?;
            }
        }
        self.upper
            .change_directory(place, new)
            .map_err(|error| upper_error(&error))
    }

    /// Anything but a directory.
    pub(super) fn place(
        &mut self,
        tree: &SourceTree,
        entry: &ViewEntry,
        place: &Path,
        new: &NewFile,
        links: &mut HashMap<(u64, u64), PathBuf>,
    ) -> Result<(), BuildError> {
        self.refuse_directory(place)?;
        let linked = entry.metadata.nlink > 1 && entry.metadata.kind == FileKind::File;
        if linked && let Some(first) = links.get(&entry.metadata.inode) {
            return self
                .upper
                .hard_link(place, first)
                .map_err(|error| upper_error(&error));
        }
        let done = match entry.metadata.kind {
            FileKind::File => {
                let file = tree.view().open(entry).map_err(|error| {
                    BuildError::io(
                        format!("could not read `{}` of {}", show(&entry.path), tree.label()),
                        &error,
                    )
                })?;
                self.upper.copy_file(place, &file, new, self.cancel)
            }
            FileKind::Symlink => {
                let target = entry.link_target.clone().unwrap_or_default();
                self.upper.symlink(place, &target, new)
            }
            FileKind::Socket => Ok(()),
            // In a layer it would mean a deletion.
            _ if entry.metadata.is_whiteout() => Ok(()),
            _ => self.upper.node(place, &entry.metadata, new),
        };
        done.map_err(|error| upper_error(&error))?;
        if linked {
            links.insert(entry.metadata.inode, place.to_path_buf());
        }
        Ok(())
    }
}

/// The paths a source word means: itself, or what its wildcards match.
pub(super) fn sources_of(
    tree: &SourceTree,
    path: &str,
    recursive: bool,
) -> Result<Vec<PathBuf>, BuildError> {
    if has_wildcard(path) {
        expand_wildcards(tree, path, recursive)
            .map_err(|error| BuildError::io(format!("could not match `{path}`"), &error))
    } else {
        Ok(vec![clean(path)])
    }
}
