//! Making an image of a root file system tar.

use std::io::Read;
use std::path::Path;

use jiff::Timestamp;
use rbuild_cache::{
    CommitOptions, CompressionKind, ExtractOptions, ImageRecord, Layer, Limits, Store,
    detect_and_decompress, extract,
};
use rbuild_parser::Platform;

use super::changes;
use super::config::{History, ImageConfig, RootFs};
use super::error::ImageError;
use super::manifest::{Descriptor, Manifest};
use super::media::Family;
use super::pump::pump;

/// Makes an image of one layer from a tar, plain or compressed (gzip, zstd, xz, bzip2).
///
/// The tar is unpacked and the layer is made from the files, so that it has the form of every layer
/// that is built here. `changes` are Dockerfile instructions that only set the config. The image is
/// in the store, without a name, when this returns.
pub fn import_rootfs(
    store: &Store,
    reader: &mut dyn Read,
    changes: &[String],
    message: Option<&str>,
    platform: &Platform,
) -> Result<ImageRecord, ImageError> {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    // Before the archive is read: a typing error shall not cost a minute.
    changes::apply(&mut config.config, changes)?;
    let lease = store.lease()?;
    let layer = pump(reader, |stream| unpack(store, stream))?;
    lease.protect_layer(layer.diff_id())?;
    let created = Timestamp::now().to_string();
    config.created = Some(created.clone());
    config.history.push(History {
        created: Some(created),
        comment: Some(message.unwrap_or("Imported from -").to_owned()),
        ..History::default()
    });
    config.rootfs = RootFs {
        diff_ids: vec![*layer.diff_id()],
    };
    let family = Family::Oci;
    let media_type = family.layer(CompressionKind::Uncompressed);
    let only = Descriptor::new(media_type, *layer.diff_id().digest(), layer.size());
    let record = put_documents(store, family, &config, vec![only], layer.content_size())?;
    store.put_image(&record)?;
    Ok(record)
}

/// Unpacks the archive into a layer of its own.
fn unpack(store: &Store, stream: &mut (dyn Read + Send)) -> Result<Layer, ImageError> {
    let (_, mut plain) =
        detect_and_decompress(stream).map_err(ImageError::stream("read the archive"))?;
    let draft = store.draft()?;
    let options = ExtractOptions {
        view: None,
        upper: draft.upper(),
        into: Path::new("/"),
        chown: None,
        limits: Limits::default(),
    };
    extract(&mut plain, &options)?;
    Ok(draft.commit(&[], &CommitOptions::default())?)
}

/// Stores config and manifest; `size` is that of the unpacked layers.
pub(super) fn put_documents(
    store: &Store,
    family: Family,
    config: &ImageConfig,
    layers: Vec<Descriptor>,
    size: u64,
) -> Result<ImageRecord, ImageError> {
    let stored = store.put_blob(&config.to_bytes())?;
    let described = Descriptor::new(family.config(), stored.digest, stored.size);
    let manifest = store.put_blob(&Manifest::new(family, described, layers).to_bytes())?;
    Ok(ImageRecord {
        manifest: manifest.digest,
        manifest_media_type: family.manifest().to_owned(),
        manifest_size: manifest.size,
        config: stored.digest,
        created: config.created.clone(),
        size,
        layers: config.rootfs.diff_ids.clone(),
    })
}
