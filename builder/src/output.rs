//! Writing the result of a build: image store, archives, layouts, file trees.

mod error;

use rbuild_cache::{DiffId, Digest, Store};
use rbuild_parser::Platform;

use crate::image::{BaseLayer, ImageConfig};
use crate::request::BuildRequest;

pub use error::OutputError;

/// The result of a build for one platform.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The platform.
    pub platform: Platform,
    /// The config, with `rootfs.diff_ids` filled.
    pub config: ImageConfig,
    /// The layers, bottom first.
    pub layers: Vec<DiffId>,
    /// Index of the first layer that does not come from the base image.
    pub new_layers_from: usize,
    /// Blobs of the base image's layers, bottom first; used as they are unless compression is
    /// forced.
    pub base_blobs: Vec<BaseLayer>,
    /// `SOURCE_DATE_EPOCH`, if the build has one; seconds since 1970.
    pub source_date_epoch: Option<i64>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The image ID: digest of the config (of the first platform).
    pub image_id: Digest,
    /// Digest of the manifest, or of the index of several platforms.
    pub manifest: Digest,
    /// Size of that document in bytes.
    pub manifest_size: u64,
    /// Media type of that document.
    pub media_type: String,
    /// Familiar names under which the image was stored or archived.
    pub names: Vec<String>,
}

/// Checks the outputs before any work is done.
pub fn validate_outputs(
    _request: &BuildRequest,
    _stdout_is_terminal: bool,
) -> Result<(), OutputError> {
    Ok(())
}

/// Writes the result to all outputs of the request.
pub fn write_outputs(
    _store: &Store,
    _request: &BuildRequest,
    _finished: &[Finished],
    _progress: &dyn Fn(&str, u64, Option<u64>),
) -> Result<Written, OutputError> {
    Err(OutputError::Refused("outputs are not available yet".to_owned()))
}
