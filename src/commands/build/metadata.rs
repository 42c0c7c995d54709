//! `--iidfile` and `--metadata-file`.

use std::path::Path;

use rbuild_builder::{BuildRequest, BuildResult};
use rbuild_parser::ImageReference;
use serde_json::json;

use crate::failure::Failure;
use crate::outfile;

/// Removes the ID of an earlier build, which would be taken for this one's if it failed.
pub(super) fn remove_stale(path: &Path) -> Result<(), Failure> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => std::fs::remove_file(path).map_err(|error| {
            Failure::new(format!("could not remove the old `{}`", path.display())).because(&error)
        }),
        _ => Ok(()),
    }
}

/// Writes the image ID.
pub(super) fn write_id(path: &Path, result: &BuildResult) -> Result<(), Failure> {
    write(path, result.image_id.to_string().as_bytes())
}

/// Writes the digits of the image ID.
pub(super) fn write_raw_id(path: &Path, result: &BuildResult) -> Result<(), Failure> {
    write(path, result.image_id.hex().as_bytes())
}

/// Writes what buildx writes about a result.
pub(super) fn write_metadata(
    path: &Path,
    request: &BuildRequest,
    result: &BuildResult,
) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(&document(request, result))?;
    text.push('\n');
    write(path, text.as_bytes())
}

fn document(request: &BuildRequest, result: &BuildResult) -> serde_json::Value {
    let mut document = json!({
        "containerimage.config.digest": result.image_id.to_string(),
        "containerimage.digest": result.manifest.to_string(),
        "containerimage.descriptor": {
            "mediaType": result.media_type,
            "digest": result.manifest.to_string(),
            "size": result.manifest_size,
        },
    });
    let names: Vec<String> = request.tags.iter().map(ImageReference::canonical).collect();
    if !names.is_empty() {
        document["image.name"] = names.join(",").into();
    }
    document
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    outfile::write(path, bytes).map_err(|error| {
        Failure::new(format!("could not write `{}`", path.display())).because(&error)
    })
}
