//! Writes small OCI image layouts with nothing of rbuild's own code.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::layout::sha256;

/// The architecture of this machine as image configs name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes a layout with one image of the given layers (plain tars, gzip-compressed on the way).
///
/// `config` is the `config` object and `history` the `history` list of the image config.
pub(crate) fn write(directory: &Path, layers: &[Vec<u8>], config: &Value, history: &Value) {
    fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    let mut descriptors = Vec::new();
    for tar in layers {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(tar).unwrap();
        let blob = encoder.finish().unwrap();
        descriptors.push(put(
            directory,
            "application/vnd.oci.image.layer.v1.tar+gzip",
            &blob,
        ));
    }
    let diff_ids: Vec<_> = layers.iter().map(|tar| sha256(tar)).collect();
    let config = json!({
        "architecture": architecture(),
        "config": config,
        "created": "2024-01-01T00:00:00Z",
        "history": history,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = put(
        directory,
        "application/vnd.oci.image.config.v1+json",
        &serde_json::to_vec(&config).unwrap(),
    );
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors,
    });
    let mut manifest = put(
        directory,
        media_type,
        &serde_json::to_vec(&manifest).unwrap(),
    );
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    manifest["platform"] = json!({"architecture": architecture(), "os": "linux"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(
        directory.join("index.json"),
        serde_json::to_vec(&index).unwrap(),
    )
    .unwrap();
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}

/// Writes a blob and returns its descriptor.
fn put(directory: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let digest = sha256(bytes);
    fs::write(
        directory.join("blobs").join(digest.replace(':', "/")),
        bytes,
    )
    .unwrap();
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}
