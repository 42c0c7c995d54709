//! What is in the layers of an image, file by file, without mounting anything.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rbuild_builder::image::ImageConfig;
use rbuild_cache::{FileKind, Layer, Lease, RootView, Store, ViewEntry, ViewError, WalkAction};

use crate::commands::lookup::Found;
use crate::container;
use crate::failure::Failure;

/// An image whose layers are unpacked, and stay so.
pub(crate) struct Unpacked {
    /// Its config.
    pub(crate) config: ImageConfig,
    /// Its layers, bottom first.
    pub(crate) layers: Vec<Layer>,
    _lease: Lease,
}

impl Unpacked {
    /// Unpacks the layers that are not.
    pub(crate) fn new(store: &Store, found: &Found) -> Result<Unpacked, Failure> {
        let lease = container::protect(store, found)?;
        let (config, layers) = container::unpack(store, found)?;
        Ok(Unpacked {
            config,
            layers,
            _lease: lease,
        })
    }

    /// The instruction that made each layer, bottom first; empty where that is not known.
    pub(crate) fn instructions(&self) -> Vec<String> {
        let made = self
            .config
            .history
            .iter()
            .filter(|entry| !entry.empty_layer);
        // An imported layer has no instruction, but a word about where it came from.
        let words = made.map(|entry| match entry.created_by.as_str() {
            "" => entry.comment.clone().unwrap_or_default(),
            text => text.to_owned(),
        });
        let mut texts: Vec<String> = words.collect();
        texts.resize(self.layers.len(), String::new());
        texts
    }
}

/// Every entry of a merged tree by its path, directories included.
pub(crate) fn entries(view: &RootView) -> Result<BTreeMap<PathBuf, ViewEntry>, ViewError> {
    let mut found = BTreeMap::new();
    view.walk("/".as_ref(), &mut |path, entry| {
        if !path.as_os_str().is_empty() {
            found.insert(path.to_path_buf(), entry.clone());
        }
        Ok::<_, ViewError>(WalkAction::Continue)
    })?;
    Ok(found)
}

/// Bytes of content of an entry.
pub(crate) fn content(entry: &ViewEntry) -> u64 {
    if entry.metadata.kind == FileKind::File {
        entry.metadata.size
    } else {
        0
    }
}
