//! Making an image of what a container changed.

use jiff::Timestamp;
use rbuild_cache::{CompressionKind, ImageRecord, Layer, Store};

use super::changes;
use super::config::{ContainerConfig, History};
use super::error::ImageError;
use super::import::put_documents;
use super::manifest::Descriptor;
use super::media::{self, Family};
use super::stored::{image_config, manifest_of};

/// What the new image has beyond its base.
#[derive(Debug)]
pub struct Commit<'a> {
    /// The image that the container was made of.
    pub base: &'a ImageRecord,
    /// What the container changed.
    pub layer: &'a Layer,
    /// The settings that the container was started with.
    pub config: ContainerConfig,
    /// Dockerfile instructions that change them, one each.
    pub changes: &'a [String],
    /// Who made it.
    pub author: Option<&'a str>,
    /// Remark for the history.
    pub message: Option<&'a str>,
    /// The command that the container ran.
    pub created_by: String,
}

/// Makes the image: the layers of the base and one more. It is in the store, without a name, when this
/// returns.
///
/// # Errors
///
/// A change is none, or a document cannot be read or written.
pub fn commit_container(store: &Store, commit: Commit<'_>) -> Result<ImageRecord, ImageError> {
    let mut config = image_config(store, commit.base)?;
    config.config = commit.config;
    changes::apply(&mut config.config, commit.changes)?;
    let lease = store.lease()?;
    lease.protect_layer(commit.layer.diff_id())?;
    let created = Timestamp::now().to_string();
    config.created = Some(created.clone());
    if let Some(author) = commit.author {
        config.author = Some(author.to_owned());
    }
    config.history.push(History {
        created: Some(created),
        created_by: commit.created_by,
        author: commit.author.map(str::to_owned),
        comment: commit.message.map(str::to_owned),
        ..History::default()
    });
    config.rootfs.diff_ids.push(*commit.layer.diff_id());
    let base = manifest_of(store, commit.base)?;
    let family = if media::is_docker(&base.descriptor.media_type) {
        Family::Docker
    } else {
        Family::Oci
    };
    let layer = commit.layer;
    let media_type = family.layer(CompressionKind::Uncompressed);
    let mut layers = base.layers;
    layers.push(Descriptor::new(
        media_type,
        *layer.diff_id().digest(),
        layer.size(),
    ));
    let size = commit.base.size + layer.content_size();
    let record = put_documents(store, family, &config, layers, size)?;
    store.put_image(&record)?;
    Ok(record)
}
