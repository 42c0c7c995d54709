//! What can go wrong with images.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use rbuild_cache::{Digest, StoreError, ViewError};
use rbuild_registry::RegistryError;

/// A failure while reading, storing, loading or saving an image.
///
/// Texts do not repeat their source: print the whole chain, then [`hints`](ImageError::hints).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
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
    /// A stream could not be read or written.
    #[error("could not {action}")]
    Stream {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A document (manifest, index, config, layout) is not what it should be.
    #[error("could not read {what}: {reason}")]
    Document {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something is larger than we accept.
    #[error("{what} is over the limit `{limit}`: {seen} > {allowed}")]
    Limit {
        /// What is over the limit.
        what: String,
        /// Name of the limit.
        limit: &'static str,
        /// The value that was seen.
        seen: u64,
        /// The value that is allowed.
        allowed: u64,
    },
    /// An archive has no image for the platform that was asked for.
    #[error("requested platform ({wanted}) not found: the archive has other platforms only")]
    OtherPlatform {
        /// The platform that was asked for.
        wanted: String,
    },
    /// Content does not have the size that its descriptor gives.
    #[error("{what} {digest} has {actual} bytes, its descriptor says {expected}")]
    Size {
        /// What was checked, for example `layer`.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// The size in the descriptor.
        expected: u64,
        /// The size that was found.
        actual: u64,
    },
    /// Content does not have the digest under which it is found.
    #[error("{what} is corrupt: expected {expected}, its content hashes to {actual}")]
    Corrupt {
        /// What was checked.
        what: String,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest that was found.
        actual: Digest,
    },
    /// A manifest of something else than a container image.
    #[error("manifest {manifest} is not that of an image: its config is `{media_type}`")]
    NotAnImage {
        /// Digest of the manifest.
        manifest: Digest,
        /// Media type of its config.
        media_type: String,
    },
    /// The number of layers in the manifest and of diff IDs in the config differ.
    #[error("{name}: the manifest lists {layers} layers, the config {diff_ids} diff IDs")]
    LayerCount {
        /// The image.
        name: String,
        /// Layers of the manifest.
        layers: usize,
        /// Diff IDs of the config.
        diff_ids: usize,
    },
    /// A layout or an archive has no image of that name.
    #[error("no image {wanted} in `{place}`")]
    NotFound {
        /// What was asked for, for example `tagged v1`.
        wanted: String,
        /// Where it was looked for.
        place: String,
        /// What is there instead.
        available: Vec<String>,
    },
    /// An index has no image for the platform.
    #[error("no match for platform in manifest: {name} has no image for {platform}")]
    NoPlatform {
        /// The image.
        name: String,
        /// The platform that was asked for.
        platform: String,
        /// The platforms that are there.
        available: Vec<String>,
    },
    /// Content that the image needs is not there.
    #[error("{what} {digest} of {name} is missing")]
    Missing {
        /// What is missing, for example `layer`.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// The image.
        name: String,
    },
    /// A change given to `import` cannot be applied.
    #[error("change `{change}`: {reason}")]
    Change {
        /// The instruction as given.
        change: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A blob that was to be taken from another place could not be had there.
    #[error("blob {digest} is not in the store, and the place that has it does not deliver")]
    Elsewhere {
        /// Its digest.
        digest: Digest,
        /// Why not.
        #[source]
        source: Box<ImageError>,
    },
    /// A registry failed, or the way there.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Looking at a file tree failed.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl ImageError {
    /// What a user can do about it; print as `hint:` lines after the causes.
    pub fn hints(&self) -> Vec<String> {
        match self {
            ImageError::NotFound { available, .. } | ImageError::NoPlatform { available, .. }
                if !available.is_empty() =>
            {
                vec![format!("available: {}", available.join(", "))]
            }
            ImageError::NotFound { .. } => vec!["it holds no image at all".to_owned()],
            ImageError::Registry(error) => error.hint().into_iter().collect(),
            ImageError::Elsewhere { source, .. } => source.hints(),
            ImageError::Missing { .. } => {
                vec!["build, load or pull the image again to complete it".to_owned()]
            }
            ImageError::Io { source, .. } | ImageError::Stream { source, .. }
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                vec!["free some space, for example with `rbuild prune`".to_owned()]
            }
            _ => Vec::new(),
        }
    }

    /// Whether it only says that the user has broken it off.
    pub fn is_interrupted(&self) -> bool {
        match self {
            ImageError::Registry(RegistryError::Interrupted { .. }) => true,
            ImageError::Elsewhere { source, .. } => source.is_interrupted(),
            _ => false,
        }
    }

    /// Makes an [`Io`](ImageError::Io) error; for `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> ImageError {
        let path = path.to_path_buf();
        move |source| ImageError::Io {
            action,
            path,
            source: source.into(),
        }
    }

    /// Makes a [`Stream`](ImageError::Stream) error; for `map_err`.
    pub(crate) fn stream<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> ImageError {
        move |source| ImageError::Stream {
            action,
            source: source.into(),
        }
    }

    /// Makes a [`Document`](ImageError::Document) error.
    pub(crate) fn document(what: impl Into<String>, reason: impl fmt::Display) -> ImageError {
        ImageError::Document {
            what: what.into(),
            reason: reason.to_string(),
        }
    }
}
