//! `COPY --parents`: sources keep their paths below the destination (section 5.3).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rbuild_cache::{FileKind, Follow};

use super::copy::{Rules, sources_of};
use super::missing::missing_source;
use super::{FileRun, view_error};
use crate::error::BuildError;
use crate::tree::{SourceTree, clean};

impl FileRun<'_> {
    /// `--parents`: the path of each source, from the pivot `/./` on, is kept below the destination.
    pub(super) fn copy_with_parents(
        &mut self,
        tree: &SourceTree,
        path: &str,
        rules: &Rules<'_>,
    ) -> Result<(), BuildError> {
        let (pivot, pattern) = match path.split_once("/./") {
            Some((pivot, rest)) => (clean(pivot), format!("{pivot}/{rest}")),
            None => (PathBuf::from("/"), path.to_owned()),
        };
        let destination = self.destination_directory(&rules.action.destination, rules)?;
        for found in sources_of(tree, &pattern, true)? {
            let Some(entry) = tree
                .view()
                .lookup(&found, Follow::None)
                .map_err(|error| view_error(&error))?
                .filter(|_| matches!(tree.find(&found), Ok(Some(_))))
            else {
                return Err(missing_source(tree, &found));
            };
            let kept = found.strip_prefix(&pivot).unwrap_or(&found).to_path_buf();
            self.keep_parents(tree, &pivot, &kept, &destination, rules)?;
            let place = destination.join(&kept);
            let new = rules.metadata(tree, &entry)?;
            if entry.metadata.kind == FileKind::Directory {
                if kept.as_os_str().is_empty() {
                    self.merge(tree, &entry, &destination, rules)?;
                } else {
                    self.place_directory(&place, &new)?;
                    self.merge(tree, &entry, &place, rules)?;
                }
            } else {
                self.place(tree, &entry, &place, &new, &mut HashMap::new())?;
            }
        }
        Ok(())
    }

    fn keep_parents(
        &mut self,
        tree: &SourceTree,
        pivot: &Path,
        kept: &Path,
        destination: &Path,
        rules: &Rules<'_>,
    ) -> Result<(), BuildError> {
        let mut inside = PathBuf::new();
        for component in kept.parent().into_iter().flat_map(Path::components) {
            inside.push(component);
            let entry = tree
                .view()
                .lookup(pivot.join(&inside), Follow::Last)
                .map_err(|error| view_error(&error))?;
            let Some(entry) = entry else {
                return Err(missing_source(tree, &pivot.join(&inside)));
            };
            let new = rules.metadata(tree, &entry)?;
            self.place_directory(&destination.join(&inside), &new)?;
        }
        Ok(())
    }
}
