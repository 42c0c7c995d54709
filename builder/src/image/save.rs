//! Saving images of the store as an archive.

use std::io::Write;

use rbuild_cache::{ImageRecord, Store};
use rbuild_parser::ImageReference;

use super::error::ImageError;

/// An image to save.
#[derive(Debug, Clone)]
pub struct SaveItem {
    /// Name to give it in the archive.
    pub name: Option<ImageReference>,
    /// The image.
    pub record: ImageRecord,
}

/// Saves images as one tar.
pub fn save_archive(
    _store: &Store,
    _images: &[SaveItem],
    _out: &mut dyn Write,
) -> Result<(), ImageError> {
    Err(ImageError::document(
        "images",
        "saving is not available yet",
    ))
}
