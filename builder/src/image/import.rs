//! Making an image of a root file system tar.

use std::io::Read;

use rbuild_cache::{ImageRecord, Store};
use rbuild_parser::Platform;

use super::error::ImageError;

/// Makes an image of one layer from a tar.
pub fn import_rootfs(
    _store: &Store,
    _reader: &mut dyn Read,
    _changes: &[String],
    _message: Option<&str>,
    _platform: &Platform,
) -> Result<ImageRecord, ImageError> {
    Err(ImageError::document(
        "archive",
        "importing is not available yet",
    ))
}
