//! Reads OCI image layouts with nothing of rbuild's own code.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::tree::{Entry, Tree, apply_layer, read_tar};

/// One image of a layout, verified and read whole.
pub(crate) struct Image {
    /// `index.json`.
    pub(crate) index: Value,
    /// The nested index, when the layout's entry is one.
    pub(crate) nested: Option<Value>,
    /// The manifest, of the first platform if there are several.
    pub(crate) manifest: Value,
    /// Its bytes.
    pub(crate) manifest_bytes: Vec<u8>,
    /// The image config.
    pub(crate) config: Value,
    /// Its bytes.
    pub(crate) config_bytes: Vec<u8>,
    /// Members of each layer, bottom first, in the order of the tar.
    pub(crate) layers: Vec<Vec<(String, Entry)>>,
    /// Uncompressed tars of the layers.
    pub(crate) layer_tars: Vec<Vec<u8>>,
    /// All layers merged.
    pub(crate) tree: Tree,
}

/// Reads the only entry of a layout directory; digests, sizes and diff IDs are verified.
pub(crate) fn read(layout: &Path) -> Image {
    assert_eq!(
        json(&fs::read(layout.join("oci-layout")).unwrap())["imageLayoutVersion"],
        "1.0.0",
        "oci-layout file"
    );
    let index = json(&fs::read(layout.join("index.json")).unwrap());
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(
        entries.len(),
        1,
        "entries of {}",
        layout.join("index.json").display()
    );
    read_entry(layout, index.clone(), &entries[0])
}

fn read_entry(layout: &Path, index: Value, entry: &Value) -> Image {
    let mut manifest_bytes = blob(layout, entry);
    let mut manifest = json(&manifest_bytes);
    let mut nested = None;
    if let Some(inner) = manifest.get("manifests") {
        manifest_bytes = blob(layout, &inner[0]);
        nested = Some(std::mem::replace(&mut manifest, json(&manifest_bytes)));
    }
    let config_bytes = blob(layout, &manifest["config"]);
    let config = json(&config_bytes);
    let empty = Vec::new();
    let descriptors = manifest["layers"].as_array().unwrap_or(&empty);
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap_or(&empty);
    assert_eq!(descriptors.len(), diff_ids.len(), "layers and diff IDs");
    let (mut layers, mut layer_tars, mut tree) = (Vec::new(), Vec::new(), Tree::new());
    for (descriptor, diff_id) in descriptors.iter().zip(diff_ids) {
        let tar = decompress(&descriptor["mediaType"], blob(layout, descriptor));
        assert_eq!(sha256(&tar), diff_id.as_str().unwrap(), "diff ID");
        let members = read_tar(tar.as_slice());
        apply_layer(&mut tree, &members);
        layers.push(members);
        layer_tars.push(tar);
    }
    Image {
        index,
        nested,
        manifest,
        manifest_bytes,
        config,
        config_bytes,
        layers,
        layer_tars,
        tree,
    }
}

/// Reads the blob of a descriptor and verifies size and digest.
fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap();
    let path = layout.join("blobs").join(digest.replace(':', "/"));
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(
        descriptor["size"].as_u64(),
        Some(bytes.len() as u64),
        "size of {digest}"
    );
    assert_eq!(sha256(&bytes), digest, "content of {}", path.display());
    bytes
}

fn decompress(media_type: &Value, bytes: Vec<u8>) -> Vec<u8> {
    let media_type = media_type.as_str().unwrap();
    if media_type.ends_with("gzip") {
        let mut tar = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes.as_slice())
            .read_to_end(&mut tar)
            .unwrap();
        tar
    } else if media_type.ends_with("zstd") {
        zstd::decode_all(bytes.as_slice()).unwrap()
    } else {
        bytes
    }
}

/// `sha256:…` of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes)
        .iter()
        .fold("sha256:".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}
