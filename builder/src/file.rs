//! Runs `File` operations: COPY, ADD and WORKDIR straight into the upper directory of a draft.
//!
//! No mount is needed: [`RootView`] says what is below, and everything is written by descriptor
//! into the upper directory, with the metadata of existing parents repeated there, as overlayfs
//! itself would do on copy-up.

mod archive;
mod copy;
mod listed;
mod missing;
mod owner;
mod parents;
mod upper;

use std::path::{Path, PathBuf};

use rbuild_cache::{CommitOptions, FileKind, Layer, RootView, Store, ViewError, owners};

use crate::cancel::Cancel;
use crate::error::BuildError;
use crate::ops::{FileAction, FileOp};
use crate::tree::{Content, SourceTree};

pub(crate) use listed::Reuse;
pub(crate) use missing::{missing_source, not_found};
pub(crate) use owner::{Owner, resolve_owner};
pub(crate) use upper::UpperError;
use upper::{NewDirectory, Upper};

/// What the actions read.
pub(crate) struct Sources<'a> {
    /// Source trees in the order of the vertex's inputs; the root's place is `None`.
    pub(crate) trees: &'a [Option<SourceTree>],
    /// What is in them, by the names of the key's parts.
    pub(crate) contents: &'a [(String, Content)],
    /// What may be taken from the step's last result.
    pub(crate) reuse: Option<&'a Reuse>,
}

/// A layer that was made, and the directory that a source was merged into, if it was one.
pub(crate) struct Made {
    pub(crate) layer: Layer,
    pub(crate) target: Option<PathBuf>,
    /// Whether all of it is known to be what the key was made of; otherwise nobody has looked.
    pub(crate) as_scanned: bool,
}

/// Executes the actions over `parents` (bottom first) and commits the layer.
pub(crate) fn execute(
    store: &Store,
    operation: &FileOp,
    parents: &[Layer],
    sources: &Sources<'_>,
    cancel: &Cancel,
) -> Result<Made, BuildError> {
    let once = |may_leave| execute_once(store, operation, parents, sources, cancel, may_leave);
    if let Some(made) = once(true)? {
        return Ok(made);
    }
    once(false)?.ok_or_else(|| BuildError::user("the copy made no layer"))
}

/// None if what was left in the layer of the last run is not what belongs into this one.
fn execute_once(
    store: &Store,
    operation: &FileOp,
    parents: &[Layer],
    sources: &Sources<'_>,
    cancel: &Cancel,
    may_leave: bool,
) -> Result<Option<Made>, BuildError> {
    let draft = store
        .draft_on(parents)
        .map_err(|error| BuildError::io("could not prepare a new layer", &error))?;
    let view = RootView::new(parents).with_upper(draft.upper());
    let upper = Upper::open(draft.upper(), view)
        .map_err(|error| BuildError::io("could not prepare a new layer", &error))?;
    let mut run = FileRun {
        upper,
        upper_path: draft.upper().to_path_buf(),
        empty_root: parents.is_empty(),
        inputs: sources.trees,
        listed: sources.contents,
        reuse: sources.reuse,
        may_leave,
        left: None,
        target: None,
        as_scanned: true,
        unpacked: false,
        cancel,
    };
    for action in &operation.actions {
        match action {
            FileAction::MakeDirectory { path, owner, epoch } => {
                run.make_directory(path, owner, *epoch)?;
            }
            FileAction::Copy(copy) => run.copy(copy)?,
        }
    }
    run.upper.finish().map_err(|error| upper_error(&error))?;
    let options = CommitOptions {
        written_here: !run.unpacked,
        versions: run.target.is_some(),
        ..commit_options(cancel, operation.times)
    };
    let layer = match (run.left, run.reuse) {
        (Some(left), Some(reuse)) => draft.commit_over(&reuse.layer, left, parents, &options),
        _ => draft.commit(parents, &options).map(Some),
    };
    let layer = layer.map_err(|error| BuildError::io("could not store the new layer", &error))?;
    Ok(layer.map(|layer| Made {
        layer,
        target: run.target,
        as_scanned: run.as_scanned,
    }))
}

/// Stops with the build; gives everything one time if there is one.
pub(crate) fn commit_options(cancel: &Cancel, times: Option<i64>) -> CommitOptions {
    CommitOptions {
        times,
        stop: Some(cancel.flag()),
        ..CommitOptions::default()
    }
}

struct FileRun<'a> {
    upper: Upper,
    upper_path: PathBuf,
    /// The stage has nothing in it yet, so there is no passwd file to look in.
    empty_root: bool,
    inputs: &'a [Option<SourceTree>],
    listed: &'a [(String, Content)],
    reuse: Option<&'a Reuse>,
    /// The layer may lie over that of the last run.
    may_leave: bool,
    /// It does: so many entries were left there.
    left: Option<u64>,
    /// Where the last directory was merged.
    target: Option<PathBuf>,
    /// Nothing was copied but by the list that the key was made of, and no file has changed since.
    as_scanned: bool,
    /// An archive was unpacked, which may hold anything.
    unpacked: bool,
    cancel: &'a Cancel,
}

impl FileRun<'_> {
    fn make_directory(
        &mut self,
        path: &str,
        owner: &str,
        epoch: Option<i64>,
    ) -> Result<(), BuildError> {
        let owner = self.owner(owner)?;
        let (uid, gid) = (owner.uid, owner.gid);
        let resolved = self
            .upper
            .view()
            .resolve(path)
            .map_err(|error| view_error(&error))?;
        if resolved.missing.is_empty() {
            return match resolved.entry {
                Some(entry) if entry.metadata.kind != FileKind::Directory => {
                    Err(BuildError::user(format!("mkdir {path}: not a directory")))
                }
                _ => Ok(()),
            };
        }
        let new = NewDirectory {
            mode: 0o755,
            uid,
            gid,
            epoch,
        };
        self.upper
            .make_path(&resolved, &new)
            .map_err(|error| upper_error(&error))?;
        Ok(())
    }

    fn owner(&self, spec: &str) -> Result<Owner, BuildError> {
        resolve_owner(self.upper.view(), spec, self.empty_root)
    }
}

/// A view error in the words that `BuildKit` uses where it has some.
fn view_error(error: &ViewError) -> BuildError {
    match error {
        ViewError::TooManyLinks { .. } => {
            BuildError::user("too many links").with_help(error.to_string())
        }
        ViewError::NotADirectory { path } => {
            BuildError::user(format!("mkdir {}: not a directory", path.display()))
        }
        error => BuildError::io("could not read the file tree", error),
    }
}

fn upper_error(error: &UpperError) -> BuildError {
    match error {
        UpperError::NotDirectory { path } => {
            BuildError::user(format!("mkdir {}: not a directory", path.display()))
        }
        UpperError::View(error) => view_error(error),
        error => BuildError::io("could not write the new layer", error),
    }
}

/// Makes directories in the upper directory of a draft.
pub(crate) struct PathMaker {
    upper: Upper,
}

impl PathMaker {
    /// Opens the upper directory below its merged view.
    pub(crate) fn open(path: &Path, view: RootView) -> Result<PathMaker, UpperError> {
        Ok(PathMaker {
            upper: Upper::open(path, view)?,
        })
    }

    /// The merged view.
    pub(crate) fn view(&self) -> &RootView {
        self.upper.view()
    }

    /// Makes a directory with its parents, owned by root, mode 0755, unless something is there.
    pub(crate) fn make(&mut self, path: &str) -> Result<(), UpperError> {
        let resolved = self.upper.view().resolve(path)?;
        if !resolved.missing.is_empty() {
            let new = NewDirectory {
                mode: 0o755,
                uid: 0,
                gid: 0,
                epoch: None,
            };
            self.upper.make_path(&resolved, &new)?;
        }
        Ok(())
    }

    /// Sets the remembered times of copied-up parents.
    pub(crate) fn finish(&mut self) -> Result<(), UpperError> {
        self.upper.finish()
    }
}

/// An error of the upper directory as a build error.
pub(crate) fn upper_build_error(error: &UpperError) -> BuildError {
    upper_error(error)
}

/// Copies the content of `source` in `tree` into a plain directory.
pub(crate) fn fill_directory(
    directory: &Path,
    tree: &SourceTree,
    source: &str,
    cancel: &Cancel,
) -> Result<(), BuildError> {
    let upper = Upper::open(directory, RootView::of_directory(directory))
        .map_err(|error| upper_error(&error))?;
    let mut run = FileRun {
        upper,
        upper_path: directory.to_path_buf(),
        empty_root: true,
        inputs: &[],
        listed: &[],
        reuse: None,
        may_leave: false,
        left: None,
        target: None,
        as_scanned: false,
        unpacked: false,
        cancel,
    };
    run.copy_into_root(tree, source)?;
    run.upper.finish().map_err(|error| upper_error(&error))
}

/// Copies a whole tree into the upper directory of a draft, and marks paths as deleted.
pub(crate) fn fill_layer(
    directory: &Path,
    tree: &SourceTree,
    deleted: &[PathBuf],
    cancel: &Cancel,
) -> Result<(), BuildError> {
    fill_directory(directory, tree, "/", cancel)?;
    let mut upper = Upper::open(directory, RootView::of_directory(directory))
        .map_err(|error| upper_error(&error))?;
    for path in deleted {
        upper.whiteout(path).map_err(|error| upper_error(&error))?;
    }
    Ok(())
}

/// Sets owner and mode of a directory of the store, or of a socket.
pub(crate) fn set_directory(
    path: &Path,
    mode: u32,
    uid: u32,
    gid: u32,
) -> Result<(), std::io::Error> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    if std::fs::symlink_metadata(path)?.file_type().is_socket() {
        if !owners::are_recorded() {
            std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
        }
        return std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    }
    owners::set(std::fs::File::open(path)?, uid, gid, mode)
}

/// Shows a container path in messages.
fn show(path: &Path) -> String {
    path.display().to_string()
}
