//! Mount points that steps of a build have in common: `/etc/hosts` and the like are missing in most of them, and
//! to make them takes more system calls than all else that is prepared for a short command.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::{RootView, ScaffoldTarget, Scratch, Store, scaffold};

use super::sub_directory;
use crate::error::BuildError;

/// What was made for steps of this build.
#[derive(Default)]
pub(crate) struct Scaffolds(Mutex<VecDeque<Arc<Shared>>>);

/// A layer of mount points that several steps stack on their roots. Nobody writes to it.
pub(crate) struct Shared {
    circumstances: Circumstances,
    path: PathBuf,
    _scratch: Scratch,
}

/// All that the content of such a layer depends on.
#[derive(PartialEq, Eq)]
struct Circumstances {
    targets: Vec<ScaffoldTarget>,
    /// The layers that have anything where targets begin.
    layers: Vec<PathBuf>,
}

impl Shared {
    /// The layer.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Scaffolds {
    /// More roots are seldom worked on at the same time.
    const MOST: usize = 4;

    /// Returns a layer for these targets over `lowers` (of sealed layers), in `view`; none if a target is not
    /// where its name says.
    pub(crate) fn of(
        &self,
        store: &Store,
        view: &RootView,
        lowers: &[PathBuf],
        targets: &[ScaffoldTarget],
    ) -> Result<Option<Arc<Shared>>, BuildError> {
        let Some(circumstances) = Circumstances::of(lowers, targets) else {
            return Ok(None);
        };
        let known = |list: &VecDeque<Arc<Shared>>| {
            let mut all = list.iter();
            all.find(|shared| shared.circumstances == circumstances)
                .cloned()
        };
        if let Some(shared) = known(&self.lock()) {
            return Ok(Some(shared));
        }
        let failed = |error| BuildError::io("could not prepare the mount targets", &error);
        let scratch = store.scratch().map_err(failed)?;
        let path = sub_directory(&scratch, "scaffold")?;
        let resolved = scaffold(view, targets, &path).map_err(failed)?;
        let straight = targets.iter().map(|target| &target.path).eq(&resolved);
        if !straight {
            return Ok(None);
        }
        let shared = Arc::new(Shared {
            circumstances,
            path,
            _scratch: scratch,
        });
        let mut list = self.lock();
        list.truncate(Self::MOST - 1);
        list.push_front(Arc::clone(&shared));
        Ok(Some(shared))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Shared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Circumstances {
    fn of(lowers: &[PathBuf], targets: &[ScaffoldTarget]) -> Option<Self> {
        let mut names: Vec<&OsStr> = Vec::new();
        for target in targets {
            let name = first_name(&target.path)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let takes_part = |layer: &&PathBuf| names.iter().any(|name| is_there(&layer.join(name)));
        Some(Self {
            layers: lowers.iter().filter(takes_part).cloned().collect(),
            targets: targets.to_vec(),
        })
    }
}

/// The first name of an absolute path without detours.
fn first_name(path: &Path) -> Option<&OsStr> {
    let mut parts = path.components();
    let root = parts.next();
    let names: Option<Vec<&OsStr>> = parts
        .map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    match root {
        Some(Component::RootDir) => names?.first().copied(),
        _ => None,
    }
}

/// Whether a layer has anything of that name; what cannot be looked at is taken to be there.
fn is_there(path: &Path) -> bool {
    let looked = path.symlink_metadata();
    !looked.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rbuild_cache::TargetKind;

    use super::*;

    fn target(path: &str) -> ScaffoldTarget {
        ScaffoldTarget {
            path: path.into(),
            kind: TargetKind::File,
        }
    }

    #[test]
    fn layers_that_have_nothing_where_targets_begin_do_not_matter() {
        let place = tempfile::tempdir().unwrap();
        let layer = |name: &str, content: &str| {
            let path = place.path().join(name);
            fs::create_dir_all(path.join(content)).unwrap();
            path
        };
        let (base, other, more) = (layer("a", "etc"), layer("b", "usr"), layer("c", "etc/x"));
        let targets = [target("/etc/hosts")];
        let of = |lowers: &[&PathBuf]| {
            let lowers: Vec<PathBuf> = lowers.iter().copied().cloned().collect();
            Circumstances::of(&lowers, &targets).unwrap()
        };
        assert!(of(&[&base]) == of(&[&other, &base]));
        assert!(of(&[&base]) != of(&[&more, &base]));
        assert!(of(&[&more, &base]) != of(&[&base, &more]));
        let lowers = [base];
        let same =
            |path: &str| Circumstances::of(&lowers, &[target(path)]) == Some(of(&[&lowers[0]]));
        assert!(same("/etc/hosts"));
        assert!(!same("/etc/resolv.conf"));
        assert!(Circumstances::of(&lowers, &[target("/usr/../etc/hosts")]).is_none());
        assert!(Circumstances::of(&lowers, &[target("etc/hosts")]).is_none());
        assert!(Circumstances::of(&lowers, &[target("/")]).is_none());
    }
}
