//! The documents: `application/vnd.buildkit.cacheconfig.v0`, and what is inlined into images.

use rbuild_cache::{DiffId, Digest};
use serde::{Deserialize, Serialize};

/// Media type of the config of a cache manifest.
pub(super) const CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Field of an image config that holds the records of an inline cache.
pub(crate) const INLINE: &str = "moby.buildkit.cache.v0";
/// Annotation of a layer with its diff ID, in a cache manifest.
pub(super) const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Most layers or records that are read.
pub(super) const MOST_ENTRIES: usize = 100_000;

/// The config of a cache manifest.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct CacheConfig {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<CacheLayer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) records: Vec<CacheRecord>,
}

/// A layer blob.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CacheLayer {
    pub(super) blob: Digest,
    /// Position of the layer below; -1 without one. Go leaves a 0 out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<LayerAnnotations>,
}

/// What is known of a layer blob.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LayerAnnotations {
    #[serde(rename = "mediaType", default)]
    pub(super) media_type: String,
    #[serde(rename = "diffID")]
    pub(super) diff_id: DiffId,
    #[serde(default)]
    pub(super) size: u64,
}

/// A key and what it led to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CacheRecord {
    #[serde(rename = "layers", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) results: Vec<CacheResult>,
    pub(super) digest: Digest,
    /// For each input of the step, the records that it may be the result of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) inputs: Vec<Vec<CacheInput>>,
}

/// A record that another one builds on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheInput {
    /// What of the input is used; BuildKit's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) selector: String,
    /// Position of the record.
    pub(super) link: usize,
}

/// A result: a layer and all below it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CacheResult {
    pub(super) layer: usize,
    #[serde(rename = "createdAt", default, skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field names and the missing zero are BuildKit's.
    #[test]
    fn configs_have_buildkits_form() {
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"layers":[{{"blob":"{digest}","parent":-1}},{{"blob":"{digest}"}}],"records":[{{"layers":[{{"layer":1,"createdAt":"2026-01-02T03:04:05Z"}}],"digest":"{digest}"}}]}}"#
        );
        let config: CacheConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(config.layers[0].parent, -1);
        assert_eq!(config.layers[1].parent, 0);
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
        // Other fields of BuildKit's own records are passed over.
        let foreign = format!(
            r#"{{"records":[{{"digest":"{digest}","inputs":[[{{"link":0}}]],"chains":[{{"layers":[0]}}]}}]}}"#
        );
        let config: CacheConfig = serde_json::from_str(&foreign).unwrap();
        assert!(config.records[0].results.is_empty());
        assert_eq!(config.records[0].inputs[0][0].link, 0);
    }
}
