//! Images: their documents, where they come from, and how they get into and out of the store.
//!
//! Documents that we write are hashed, so they come from own structs with a fixed order; foreign
//! ones are read with limits, checked against digest and size, and kept byte for byte.
//!
//! # The stored form of an image
//!
//! Storing an image must cost no compression. So the manifest in the image store describes each
//! layer as what is there: a layer of a foreign base by the blob that came with it, a layer that was
//! built here by its *uncompressed* tar, whose digest is the diff ID and whose bytes can be made from
//! the unpacked tree at any time. Archives that are saved from the store therefore carry the very
//! manifest that the store knows; compressed blobs are made when an image is exported with a
//! compression or pushed, and then get a manifest of their own. The image ID, the digest of the
//! config, is the same in all forms.

mod archive;
pub(crate) mod base;
pub(crate) mod bundle;
mod changes;
mod choose;
mod commit;
mod config;
pub(crate) mod document;
mod error;
mod import;
pub(crate) mod json;
pub(crate) mod layout;
pub(crate) mod limits;
mod load;
pub(crate) mod manifest;
pub(crate) mod media;
mod outgoing;
mod platform;
mod pull;
pub(crate) mod pump;
pub(crate) mod push;
pub(crate) mod remote;
mod save;
pub(crate) mod stored;
mod tools;
mod variants;

#[cfg(test)]
mod tests;

use base64::Engine as _;

pub use base::{BaseImage, BaseLayer, Origin};
pub use commit::{Commit, commit_container};
pub use config::{ContainerConfig, HealthConfig, History, ImageConfig, RootFs};
pub use error::ImageError;
pub use import::import_rootfs;
pub use layout::resolve_layout;
pub use load::{Loaded, load_archive};
pub use manifest::{Descriptor, DescriptorPlatform, Index, Manifest};
pub use outgoing::{PreparedPush, prepare_push};
pub use pull::{PullNews, pull_all_platforms, pull_image};
pub use push::{Outgoing, OutgoingBlob, PushNews, push_image};
pub(crate) use remote::cache_documents;
pub use remote::{Place, RemoteImage, keep_remote, location_of, resolve_remote};
pub use save::{SaveItem, save_archive};
pub use stored::{StoredManifest, image_config, manifest_of, resolve_stored};
pub use tools::{Combined, Part, RemoteDocument, remote_document};
pub use variants::{Variant, variants};

/// Standard base64 with padding.
pub(crate) fn base64_encode(bytes: &[u8]) -> String {
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

/// Reads standard base64; none if it is something else.
pub(crate) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    base64::prelude::BASE64_STANDARD.decode(text).ok()
}
