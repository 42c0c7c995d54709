//! `rbuild diff CONTAINER`: what a container changed in its file system.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rbuild_builder::overlay_view;
use rbuild_cache::{FileKind, Follow, RootView, ViewEntry};
use rbuild_runtime::container::Container;

use super::export::merged;
use crate::failure::Failure;
use crate::ui::{self, control::visible};

/// Prints `A`dded, `C`hanged and `D`eleted paths, as Docker does: with the directories above them, and
/// without what is mounted.
pub(crate) fn run(container: &Container) -> Result<(), Failure> {
    let root = &container.config.sandbox.root;
    let Some(upper) = &root.upper else {
        return Ok(());
    };
    let mut changes = Changes {
        below: overlay_view(&root.lowers, None),
        upper: RootView::of_directory(&upper.upper),
        merged: merged(container),
        found: Vec::new(),
    };
    changes.directory(Path::new("/"), true)?;
    changes.found.sort_by(|a, b| a.1.cmp(&b.1));
    let mut lines = String::new();
    for (kind, path) in &changes.found {
        let _ = writeln!(lines, "{kind} {}", visible(&path.to_string_lossy()));
    }
    ui::print(&lines)
}

struct Changes {
    below: RootView,
    upper: RootView,
    merged: RootView,
    found: Vec<(char, PathBuf)>,
}

impl Changes {
    /// Lists what changed in a directory of the upper tree; says whether anything did.
    fn directory(&mut self, path: &Path, was_there: bool) -> Result<bool, Failure> {
        let before = self.found.len();
        if was_there {
            let now: BTreeSet<PathBuf> = self
                .merged
                .read_dir(path)?
                .into_iter()
                .map(|entry| entry.path)
                .collect();
            for entry in self.below.read_dir(path)? {
                if !now.contains(&entry.path) {
                    self.found.push(('D', entry.path));
                }
            }
        }
        for name in self.upper.names_in(path)? {
            let path = path.join(OsStr::from_bytes(&name));
            // One that has vanished since, on a container that runs, is no change.
            if let Some(entry) = self.upper.lookup(&path, Follow::None)? {
                self.entry(&path, &entry, was_there)?;
            }
        }
        Ok(self.found.len() > before)
    }

    fn entry(&mut self, path: &Path, entry: &ViewEntry, above: bool) -> Result<(), Failure> {
        let metadata = &entry.metadata;
        if metadata.kind == FileKind::CharDevice && metadata.rdev == (0, 0) {
            return Ok(());
        }
        let old = if above {
            self.below.lookup(path, Follow::None)?
        } else {
            None
        };
        let Some(old) = old else {
            self.found.push(('A', path.to_path_buf()));
            if entry.is_directory() {
                self.directory(path, false)?;
            }
            return Ok(());
        };
        let inside = entry.is_directory() && self.directory(path, old.is_directory())?;
        let same = entry.is_directory()
            && old.is_directory()
            && (metadata.mode, metadata.uid, metadata.gid, metadata.mtime)
                == (
                    old.metadata.mode,
                    old.metadata.uid,
                    old.metadata.gid,
                    old.metadata.mtime,
                );
        if inside || !same {
            self.found.push(('C', path.to_path_buf()));
        }
        Ok(())
    }
}
