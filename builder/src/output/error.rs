//! What can go wrong while writing the result of a build.

use std::io;
use std::path::{Path, PathBuf};

use rbuild_cache::{StoreError, ViewError};

use crate::image::ImageError;

/// A failure of an output.
///
/// Texts do not repeat their source: print the whole chain, then [`hints`](OutputError::hints).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The request cannot be met; nothing was done.
    #[error("{0}")]
    Refused(String),
    /// A system call on a path failed.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Standard output does not take any more.
    #[error("could not write to standard output")]
    Stdout {
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Reading or writing an image failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Looking at the file tree of the result failed.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl OutputError {
    /// What a user can do about it; print as `hint:` lines after the causes.
    pub fn hints(&self) -> Vec<String> {
        match self {
            OutputError::Io { path, source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    let place = path.parent().unwrap_or(path).display();
                    vec![format!(
                        "free some space in `{place}` or choose another `dest`"
                    )]
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    vec!["choose a `dest` that you may write to".to_owned()]
                }
                _ => Vec::new(),
            },
            OutputError::Image(error) => error.hints(),
            _ => Vec::new(),
        }
    }

    /// Makes an [`Io`](OutputError::Io) error; for `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> OutputError {
        let path = path.to_path_buf();
        move |source| OutputError::Io {
            action,
            path,
            source: source.into(),
        }
    }
}
