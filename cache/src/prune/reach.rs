//! What an image needs: everything that its manifest names, directly or through an index.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::digest::Digest;
use crate::error::StoreError;
use crate::records::ImageRecord;
use crate::store::Store;

/// Largest manifest that is read.
const MANIFEST_LIMIT: u64 = 16 << 20;

/// How deep an index may name another index.
const MAX_DEPTH: usize = 4;

/// What counts of a manifest or index; all other fields are somebody else's.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

/// Every digest that the image needs, its own included.
///
/// A manifest that is missing or cannot be read keeps nothing but itself; `fsck` tells.
pub(crate) fn references(
    store: &Store,
    image: &ImageRecord,
) -> Result<BTreeSet<Digest>, StoreError> {
    let mut found = BTreeSet::from([image.manifest, image.config]);
    found.extend(image.layers.iter().map(|layer| *layer.digest()));
    let mut documents = vec![(image.manifest, 0)];
    while let Some((digest, depth)) = documents.pop() {
        let bytes = match store.read_blob(&digest, MANIFEST_LIMIT) {
            Ok(bytes) => bytes,
            Err(StoreError::MissingBlob { .. } | StoreError::Corrupt { .. }) => continue,
            Err(error) => return Err(error),
        };
        let Ok(document) = serde_json::from_slice::<Document>(&bytes) else {
            continue;
        };
        // Digests of other algorithms are not in this store.
        let blobs = document
            .layers
            .unwrap_or_default()
            .into_iter()
            .chain(document.config);
        found.extend(blobs.filter_map(|blob| blob.digest.parse::<Digest>().ok()));
        for manifest in document.manifests.unwrap_or_default() {
            let Ok(digest) = manifest.digest.parse() else {
                continue;
            };
            if found.insert(digest) && depth < MAX_DEPTH {
                documents.push((digest, depth + 1));
            }
        }
    }
    Ok(found)
}
