//! A tree that COPY, ADD and bind mounts read from: a directory of this machine with its ignore
//! rules, or the root file system of a stage.
//!
//! Paths are absolute inside the tree and symlinks never leave it.

mod digest;
mod memo;
mod scan;
mod wildcard;

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rbuild_cache::{FileKind, Follow, LiveDirectory, LiveTree, RootView, ViewEntry, ViewError};
use rbuild_parser::IgnoreMatcher;

use crate::error::BuildError;

pub(crate) use digest::{Content, Entry, content, copied_xattr};
pub(crate) use memo::{FileMemo, copied_xattrs, is_as_scanned};
pub(crate) use wildcard::{expand_wildcards, has_wildcard};

/// A readable tree.
pub(crate) struct SourceTree {
    view: RootView,
    live: Option<Live>,
    ignore: Option<Arc<IgnoreMatcher>>,
    /// Owners become 0:0: files of a build context.
    from_context: bool,
    /// Name for messages.
    label: String,
}

/// A directory of this machine, opened when it is first scanned.
struct Live {
    path: PathBuf,
    tree: OnceLock<LiveTree>,
}

/// A directory of a tree whose entries are known.
pub(crate) enum SourceDirectory<'a> {
    /// Of this machine.
    Live(LiveDirectory),
    /// Of merged layers.
    Merged(&'a RootView),
}

impl SourceDirectory<'_> {
    /// Opens a regular file in it; `top` is where the paths of entries begin.
    pub(crate) fn open(&self, top: &Path, entry: &Entry) -> Result<File, ViewError> {
        match self {
            SourceDirectory::Live(directory) => directory.open(entry.name()),
            SourceDirectory::Merged(view) => view.open(&entry.at(top)),
        }
    }
}

impl SourceTree {
    /// A directory of this machine.
    pub(crate) fn directory(
        path: &Path,
        ignore: Option<Arc<IgnoreMatcher>>,
        label: impl Into<String>,
    ) -> SourceTree {
        let ignore = ignore.filter(|matcher| !matcher.is_empty());
        SourceTree {
            view: RootView::of_directory(path),
            live: Some(Live {
                path: path.to_path_buf(),
                tree: OnceLock::new(),
            }),
            ignore,
            from_context: true,
            label: label.into(),
        }
    }

    /// The root file system of a stage or image.
    pub(crate) fn rootfs(view: RootView, label: impl Into<String>) -> SourceTree {
        SourceTree {
            view,
            live: None,
            ignore: None,
            from_context: false,
            label: label.into(),
        }
    }

    /// The name for messages.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The unfiltered tree.
    pub(crate) fn view(&self) -> &RootView {
        &self.view
    }

    /// The directory behind it, if it is one of this machine.
    fn live(&self) -> Option<Result<&LiveTree, ViewError>> {
        let Live { path, tree } = self.live.as_ref()?;
        if let Some(open) = tree.get() {
            return Some(Ok(open));
        }
        Some(LiveTree::open(path).map(|opened| tree.get_or_init(|| opened)))
    }

    /// Opens a directory of the tree to read the files in it.
    pub(crate) fn open_directory(&self, path: &Path) -> Result<SourceDirectory<'_>, BuildError> {
        let failed = |error: &ViewError| {
            let what = format!("could not read `{}` of {}", path.display(), self.label);
            BuildError::io(what, error)
        };
        let Some(live) = self.live() else {
            return Ok(SourceDirectory::Merged(&self.view));
        };
        let inside = relative(path).as_os_str().as_bytes();
        let opened = live.and_then(|live| live.directory(inside));
        match opened.map_err(|error| failed(&error))? {
            Some(directory) => Ok(SourceDirectory::Live(directory)),
            None => Err(failed(&ViewError::NotFound {
                path: path.to_path_buf(),
            })),
        }
    }

    /// The ignore rules, if there are any.
    fn ignore(&self) -> Option<&IgnoreMatcher> {
        self.ignore.as_deref()
    }

    /// Owner an entry is copied with.
    pub(crate) fn owner(&self, entry: &ViewEntry) -> (u32, u32) {
        if self.from_context {
            (0, 0)
        } else {
            (entry.metadata.uid, entry.metadata.gid)
        }
    }

    /// Looks up a path, symlinks followed (also the last); ignored paths are not there.
    pub(crate) fn find(&self, path: &Path) -> Result<Option<ViewEntry>, ViewError> {
        let found = match self.view.lookup(path, Follow::Last) {
            Ok(found) => found,
            // A dangling chain of links is "not found" for a source.
            Err(ViewError::TooManyLinks { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The link itself may be ignored even where its target is not.
        let Some(entry) = found else { return Ok(None) };
        if self.hidden(path)? || !self.visible(&entry)? {
            return Ok(None);
        }
        Ok(Some(entry))
    }

    fn hidden(&self, path: &Path) -> Result<bool, ViewError> {
        if self.ignore.is_none() {
            return Ok(false);
        }
        match self.view.lookup(path, Follow::None)? {
            Some(entry) => Ok(!self.visible(&entry)?),
            None => Ok(false),
        }
    }

    /// Children of a directory that are not ignored, in byte order.
    pub(crate) fn children(&self, directory: &Path) -> Result<Vec<ViewEntry>, ViewError> {
        let mut entries = self.view.read_dir(directory)?;
        if self.ignore.is_some() {
            let mut kept = Vec::with_capacity(entries.len());
            for entry in entries {
                if self.visible(&entry)? {
                    kept.push(entry);
                }
            }
            entries = kept;
        }
        entries.retain(|entry| entry.metadata.kind != FileKind::Socket);
        Ok(entries)
    }

    /// Not ignored, or the parent of something that is re-included.
    fn visible(&self, entry: &ViewEntry) -> Result<bool, ViewError> {
        let Some(matcher) = &self.ignore else {
            return Ok(true);
        };
        let mut state = matcher.root();
        for component in relative(&entry.path).components() {
            state = matcher.enter(&state, &component.as_os_str().to_string_lossy());
        }
        if !state.ignored {
            return Ok(true);
        }
        if entry.metadata.kind != FileKind::Directory || !state.may_reinclude_below {
            return Ok(false);
        }
        // Depth-first without recursion on the depth of the tree.
        let mut open = vec![(entry.path.clone(), state)];
        while let Some((directory, state)) = open.pop() {
            for child in self.view.read_dir(&directory)? {
                let below = matcher.enter(&state, &child.name().to_string_lossy());
                if !below.ignored {
                    return Ok(true);
                }
                if child.metadata.kind == FileKind::Directory && below.may_reinclude_below {
                    open.push((child.path, below));
                }
            }
        }
        Ok(false)
    }

    /// Whether the ignore rules are why a path cannot be found, and which one.
    pub(crate) fn ignored_by(&self, path: &Path) -> Option<String> {
        let matcher = self.ignore.as_ref()?;
        self.view.lookup(path, Follow::Last).ok().flatten()?;
        let reason = matcher.reason(&relative(path).to_string_lossy())?;
        Some(format!(
            "pattern `{}` on line {}",
            reason.pattern, reason.line
        ))
    }
}

/// The path without its leading slash.
pub(crate) fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// A path of a source: absolute, lexically cleaned, clamped to the root.
pub(crate) fn clean(path: &str) -> PathBuf {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    PathBuf::from(format!("/{}", parts.join("/")))
}
