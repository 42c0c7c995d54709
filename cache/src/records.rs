//! What the store remembers about images and build steps.

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest};

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Digest of the manifest (or index) that the image is known by.
    pub manifest: Digest,
    /// Media type of that document.
    pub manifest_media_type: String,
    /// Its size in bytes.
    pub manifest_size: u64,
    /// Digest of the image config: the image ID.
    pub config: Digest,
    /// Creation time of the config, RFC 3339, as written there.
    pub created: Option<String>,
    /// Unpacked bytes of all layers.
    pub size: u64,
    /// The layers, bottom first.
    pub layers: Vec<DiffId>,
}

/// An image with all names that point to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    /// Canonical names, sorted; empty for a dangling image.
    pub names: Vec<String>,
    /// The image.
    pub record: ImageRecord,
}

/// What a build step produced, found by its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Digest over everything that can change the step's result.
    pub key: Digest,
    /// Identity of the step for explanations: the same step of a later build has the same one,
    /// even if its key differs.
    pub step: String,
    /// What the step is called in the progress display.
    pub name: String,
    /// The layers that came out.
    pub layers: Vec<DiffId>,
    /// The parts of the key in readable form, so that a miss can be told in words.
    pub parts: Vec<(String, String)>,
    /// What else the builder wants to remember.
    pub detail: serde_json::Value,
    /// When the step ended, seconds since 1970.
    pub created_unix: i64,
    /// How long it took.
    pub elapsed_ms: u64,
}
