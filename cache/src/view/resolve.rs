//! Resolving paths inside the root: symlinks, `..` and what is missing.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::{Follow, MAX_LINKS, Resolved, RootView, ViewEntry, absolute, join, split};
use crate::entry::FileKind;
use crate::error::ViewError;

/// Where a resolution ended.
enum End {
    /// At an entry.
    Entry(ViewEntry),
    /// Below this canonical directory, with these components missing.
    Missing(Vec<u8>, Vec<Vec<u8>>),
    /// At something that is no directory but has more components after it.
    NotADirectory(Vec<u8>),
}

impl RootView {
    /// Looks a path up; `..` and absolute link targets stay inside the root.
    ///
    /// A path that leads through something that is no directory names nothing.
    pub fn lookup(
        &self,
        path: impl AsRef<Path>,
        follow: Follow,
    ) -> Result<Option<ViewEntry>, ViewError> {
        match self.end_of(path.as_ref(), follow)? {
            End::Entry(entry) => Ok(Some(entry)),
            End::Missing(..) | End::NotADirectory(_) => Ok(None),
        }
    }

    /// Resolves as much of a path as exists, following all symlinks, also a last one.
    ///
    /// Below what is missing, `..` takes back the component before it. A path that leads through
    /// something that is no directory is an error.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<Resolved, ViewError> {
        match self.end_of(path.as_ref(), Follow::Last)? {
            End::Entry(entry) => Ok(Resolved {
                path: entry.path.clone(),
                missing: Vec::new(),
                entry: Some(entry),
            }),
            End::Missing(path, missing) => Ok(Resolved {
                path: absolute(&path),
                missing: missing.into_iter().map(OsString::from_vec).collect(),
                entry: None,
            }),
            End::NotADirectory(path) => Err(ViewError::NotADirectory {
                path: absolute(&path),
            }),
        }
    }

    fn end_of(&self, path: &Path, follow: Follow) -> Result<End, ViewError> {
        let mut todo: VecDeque<Vec<u8>> = components(path.as_os_str().as_bytes()).collect();
        // A trailing slash asks for a directory, so a symlink there is followed.
        let follow = match path.as_os_str().as_bytes().last() {
            Some(b'/') => Follow::Last,
            _ => follow,
        };
        let mut here: Vec<u8> = Vec::new();
        let mut missing: Vec<Vec<u8>> = Vec::new();
        let mut entry = None;
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                if missing.pop().is_none() {
                    here = split(&here).0.to_vec();
                    entry = None;
                }
                continue;
            }
            if !missing.is_empty() {
                missing.push(name);
                continue;
            }
            let Some(directory) = self.directory(&here)? else {
                return Ok(End::NotADirectory(here));
            };
            let Some(found) = self.child(&directory, &name)? else {
                missing.push(name);
                continue;
            };
            match &found.link_target {
                Some(target) if !todo.is_empty() || follow == Follow::Last => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ViewError::TooManyLinks {
                            path: path.to_path_buf(),
                        });
                    }
                    if target.as_bytes().first() == Some(&b'/') {
                        here.clear();
                        entry = None;
                    }
                    for part in components(target.as_bytes())
                        .collect::<Vec<_>>()
                        .into_iter()
                        .rev()
                    {
                        todo.push_front(part);
                    }
                }
                _ => {
                    if !todo.is_empty() && found.metadata.kind != FileKind::Directory {
                        return Ok(End::NotADirectory(join(&here, &name)));
                    }
                    here = join(&here, &name);
                    entry = Some(found);
                }
            }
        }
        if !missing.is_empty() {
            return Ok(End::Missing(here, missing));
        }
        match entry {
            Some(entry) => Ok(End::Entry(entry)),
            None => self.canonical_entry(&here).map(End::Entry),
        }
    }

    /// The entry of a canonical directory path that is known to exist.
    fn canonical_entry(&self, path: &[u8]) -> Result<ViewEntry, ViewError> {
        if path.is_empty() {
            return self.root_entry();
        }
        let (parent, name) = split(path);
        let found = match self.directory(parent)? {
            Some(directory) => self.child(&directory, name)?,
            None => None,
        };
        found.ok_or_else(|| ViewError::NotFound {
            path: absolute(path),
        })
    }
}

/// The components of a path, empty ones and `.` left out.
fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
}
