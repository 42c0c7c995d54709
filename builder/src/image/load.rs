//! Loading images from archives.

use std::io::Read;

use rbuild_cache::{Digest, Store};

use super::error::ImageError;

/// An image that came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Canonical names that it got; empty if the archive gives it none.
    pub names: Vec<String>,
    /// The image ID: digest of its config.
    pub id: Digest,
}

/// Loads all images of an archive.
pub fn load_archive(_store: &Store, _reader: &mut dyn Read) -> Result<Vec<Loaded>, ImageError> {
    Err(ImageError::document(
        "archive",
        "loading is not available yet",
    ))
}
