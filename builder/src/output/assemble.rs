//! Putting the documents of an image together: config, manifest and, for several platforms, index.

use std::time::{SystemTime, UNIX_EPOCH};

use rbuild_cache::{
    BuildRecord, CompressionKind, DiffId, Digest, Hasher, ImageRecord, RewriteTimestamps, Store,
};

use super::{Finished, OutputError};
use crate::image::bundle::{Bundle, Content, DockerImage};
use crate::image::manifest::ANNOTATION_CREATED;
use crate::image::media::{self, Family};
use crate::image::{BaseLayer, Descriptor, DescriptorPlatform, ImageError, Index, Manifest};
use crate::request::OutputOptions;

/// In which form the layers are described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As compressed blobs, made now where they are not there: for archives and registries.
    Distributed,
    /// As what the store has anyway: for the image store. See the module `image`.
    Stored,
}

/// An image put together.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// The manifest, or the index of several platforms.
    pub(crate) top: Descriptor,
    /// Every blob; without entries.
    pub(crate) bundle: Bundle,
    /// One image per platform.
    pub(crate) images: Vec<AssembledImage>,
}

/// The image of one platform.
#[derive(Debug)]
pub(crate) struct AssembledImage {
    /// Its manifest.
    pub(crate) manifest: Descriptor,
    /// Digest of the config.
    pub(crate) config: Digest,
    /// Creation time of the config.
    pub(crate) created: Option<String>,
    /// The layers, bottom first.
    pub(crate) diff_ids: Vec<DiffId>,
    /// The layers as the manifest lists them.
    pub(crate) layers: Vec<Descriptor>,
}

/// Puts the image together, making blobs of layers where the form wants them.
pub(crate) fn assemble(
    store: &Store,
    finished: &[Finished],
    options: &OutputOptions,
    form: Form,
    progress: &dyn Fn(&str, u64, Option<u64>),
) -> Result<Assembled, OutputError> {
    let family = if options.docker_media_types {
        Family::Docker
    } else {
        Family::Oci
    };
    let work = Work {
        store,
        options,
        form,
        family,
    };
    if form == Form::Distributed {
        progress("exporting layers", 0, None);
    }
    let mut bundle = Bundle::default();
    let mut images = Vec::new();
    let mut entries = Vec::new();
    for one in finished {
        let (entry, image) = work.image(one, &mut bundle)?;
        entries.push(entry);
        images.push(image);
    }
    let top = match (entries.len(), entries.pop()) {
        (1, Some(entry)) => entry,
        (_, Some(last)) => {
            entries.push(last);
            let mut index = Index::new(family, entries);
            index.annotations = options.index_annotations.clone();
            let bytes = index.to_bytes();
            let size = bytes.len() as u64;
            Descriptor::new(family.index(), bundle.add_document(bytes), size)
        }
        (_, None) => return Err(OutputError::Refused("the build has no result".to_owned())),
    };
    Ok(Assembled {
        top,
        bundle,
        images,
    })
}

impl Assembled {
    /// The entry of the image in an `index.json`, without a name.
    ///
    /// It tells when the image was made: not the time of writing, so that an archive of the same
    /// image has the same bytes.
    pub(crate) fn entry(&self) -> Descriptor {
        let mut entry = self.top.clone();
        if let Some(created) = self.images.first().and_then(|image| image.created.clone()) {
            entry
                .annotations
                .insert(ANNOTATION_CREATED.to_owned(), created);
        }
        entry
    }

    /// The images in the form of Docker's `manifest.json`.
    pub(crate) fn docker_images(&self, names: &[String]) -> Vec<DockerImage> {
        self.images
            .iter()
            .map(|image| DockerImage {
                config: image.config,
                names: names.to_vec(),
                layers: image.layers.iter().map(|layer| layer.digest).collect(),
            })
            .collect()
    }

    /// The record for the image store: that of the platform given by its position.
    pub(crate) fn record(&self, store: &Store, main: usize) -> Result<ImageRecord, OutputError> {
        let image = &self.images[main];
        // Layers of the other platforms are listed behind, so that the store keeps them.
        let mut layers = image.diff_ids.clone();
        for other in self.images.iter().flat_map(|image| &image.diff_ids) {
            if !image.diff_ids.contains(other) && !layers.contains(other) {
                layers.push(*other);
            }
        }
        let mut size = 0;
        for diff_id in &image.diff_ids {
            size += store
                .layer(diff_id)?
                .map_or(0, |layer| layer.content_size());
        }
        Ok(ImageRecord {
            manifest: self.top.digest,
            manifest_media_type: self.top.media_type.clone(),
            manifest_size: self.top.size,
            config: image.config,
            created: image.created.clone(),
            size,
            layers,
        })
    }
}

/// What all platforms of one output share.
struct Work<'a> {
    store: &'a Store,
    options: &'a OutputOptions,
    form: Form,
    family: Family,
}

/// One layer ready for a manifest.
struct ReadyLayer {
    diff_id: DiffId,
    descriptor: Descriptor,
    content: Content,
}

impl Work<'_> {
    /// Adds the documents and layers of one platform to the bundle.
    fn image(
        &self,
        finished: &Finished,
        bundle: &mut Bundle,
    ) -> Result<(Descriptor, AssembledImage), OutputError> {
        check(finished)?;
        let mut config = finished.config.clone();
        let (mut diff_ids, mut layers) = (Vec::new(), Vec::new());
        for (position, diff_id) in finished.layers.iter().enumerate() {
            let base = finished.base_blobs.get(position);
            let base = base.filter(|_| position < finished.new_layers_from);
            let ready = match base {
                Some(base) => self.base_layer(finished, base)?,
                None => self.new_layer(finished, diff_id)?,
            };
            diff_ids.push(ready.diff_id);
            bundle.blobs.insert(ready.descriptor.digest, ready.content);
            layers.push(ready.descriptor);
        }
        config.rootfs.diff_ids.clone_from(&diff_ids);
        let bytes = config.to_bytes();
        let size = bytes.len() as u64;
        let digest = bundle.add_document(bytes);
        let descriptor = Descriptor::new(self.family.config(), digest, size);
        let entry = self.manifest(finished, descriptor, &layers, bundle);
        let image = AssembledImage {
            manifest: entry.clone(),
            config: digest,
            created: config.created,
            diff_ids,
            layers,
        };
        Ok((entry, image))
    }

    /// Adds the manifest and describes it for an index.
    fn manifest(
        &self,
        finished: &Finished,
        config: Descriptor,
        layers: &[Descriptor],
        bundle: &mut Bundle,
    ) -> Descriptor {
        let mut manifest = Manifest::new(self.family, config, layers.to_vec());
        manifest.annotations = self.options.annotations.clone();
        let bytes = manifest.to_bytes();
        let size = bytes.len() as u64;
        let mut entry = Descriptor::new(self.family.manifest(), bundle.add_document(bytes), size);
        entry.annotations = self.options.descriptor_annotations.clone();
        entry.platform = Some(DescriptorPlatform {
            architecture: finished.platform.architecture.clone(),
            os: finished.platform.os.clone(),
            os_version: finished.platform.os_version.clone(),
            os_features: finished.platform.os_features.clone(),
            variant: finished.platform.variant.clone(),
        });
        entry
    }

    /// A layer of the base image: the very blob of the base, unless it has to be another one.
    fn base_layer(&self, finished: &Finished, base: &BaseLayer) -> Result<ReadyLayer, OutputError> {
        if let Some(ready) = self.remote_layer(finished, &base.diff_id)? {
            return Ok(ready);
        }
        let kind = media::layer_kind(&base.media_type).ok_or_else(|| {
            ImageError::document(
                format!("layer {}", base.blob),
                format!("its media type `{}` is not supported", base.media_type),
            )
        })?;
        let wanted = self.options.compression.clone().unwrap_or_default();
        let forced = self.form == Form::Distributed && wanted.force && wanted.kind != kind;
        if !forced && self.store.has_blob(&base.blob) {
            return Ok(ReadyLayer {
                diff_id: base.diff_id,
                descriptor: Descriptor::new(self.family.layer(kind), base.blob, base.size),
                content: Content::Blob { size: base.size },
            });
        }
        self.own_layer(&base.diff_id, false)
    }

    /// A layer that was built here, with its times clamped if that was asked for.
    fn new_layer(&self, finished: &Finished, diff_id: &DiffId) -> Result<ReadyLayer, OutputError> {
        if !self.options.own_blobs
            && let Some(ready) = self.remote_layer(finished, diff_id)?
        {
            return Ok(ready);
        }
        match finished
            .source_date_epoch
            .filter(|_| self.options.rewrite_timestamp)
        {
            None => self.own_layer(diff_id, false),
            Some(epoch) => {
                let rewritten = rewrite(self.store, diff_id, epoch)?;
                // The plain tar that the rewriting left in the store shall not be taken for the
                // layer's compressed blob.
                self.own_layer(&rewritten, rewritten != *diff_id)
            }
        }
    }

    /// A layer that is only in a registry: described as it is there.
    fn remote_layer(
        &self,
        finished: &Finished,
        diff_id: &DiffId,
    ) -> Result<Option<ReadyLayer>, OutputError> {
        let Some((layer, remote)) = finished.elsewhere.get(diff_id) else {
            return Ok(None);
        };
        if self.store.layer(diff_id)?.is_some() || self.store.has_blob(&layer.blob) {
            return Ok(None);
        }
        let Some(kind) = media::layer_kind(&layer.media_type) else {
            return Ok(None);
        };
        Ok(Some(ReadyLayer {
            diff_id: *diff_id,
            descriptor: Descriptor::new(self.family.layer(kind), layer.blob, layer.size),
            content: Content::Remote {
                size: layer.size,
                remote: Box::new(remote.clone()),
            },
        }))
    }

    /// A layer described from its unpacked tree.
    fn own_layer(&self, diff_id: &DiffId, force: bool) -> Result<ReadyLayer, OutputError> {
        if self.form == Form::Stored {
            let layer = self.store.layer(diff_id)?.ok_or_else(|| missing(diff_id))?;
            let (digest, size) = (*diff_id.digest(), layer.size());
            let media_type = self.family.layer(CompressionKind::Uncompressed);
            return Ok(ReadyLayer {
                diff_id: *diff_id,
                descriptor: Descriptor::new(media_type, digest, size),
                content: Content::LayerTar {
                    diff_id: *diff_id,
                    size,
                },
            });
        }
        let mut compression = self.options.compression.clone().unwrap_or_default();
        compression.force |= force || self.options.own_blobs;
        if self.options.own_blobs {
            // A level is only known of blobs that were made here.
            compression.level = compression.effective_level();
        }
        let made = self.store.layer_blob(diff_id, &compression)?;
        Ok(ReadyLayer {
            diff_id: *diff_id,
            descriptor: Descriptor::new(
                self.family.layer(made.kind),
                made.blob.digest,
                made.blob.size,
            ),
            content: Content::Blob {
                size: made.blob.size,
            },
        })
    }
}

/// Refuses a result that contradicts itself: an error of ours, not of the user.
fn check(finished: &Finished) -> Result<(), OutputError> {
    let bases = finished.base_blobs.len();
    let consistent = finished.config.rootfs.diff_ids == finished.layers
        && bases <= finished.layers.len()
        && finished.new_layers_from <= finished.layers.len()
        && finished
            .base_blobs
            .iter()
            .zip(&finished.layers)
            .all(|(blob, id)| blob.diff_id == *id);
    if consistent {
        return Ok(());
    }
    Err(OutputError::Refused(format!(
        "the result for {} contradicts itself: {} layers, {} diff IDs, {bases} of a base",
        finished.platform,
        finished.layers.len(),
        finished.config.rootfs.diff_ids.len(),
    )))
}

fn missing(diff_id: &DiffId) -> ImageError {
    ImageError::Missing {
        what: "layer",
        digest: *diff_id.digest(),
        name: "the result".to_owned(),
    }
}

/// Makes the layer whose file times are at most `epoch`; remembered, so done once.
fn rewrite(store: &Store, diff_id: &DiffId, epoch: i64) -> Result<DiffId, OutputError> {
    let mut hasher = Hasher::new();
    hasher.update(b"rbuild rewrite-timestamp 1\n");
    hasher.update(diff_id.digest().as_bytes());
    hasher.update(&epoch.to_le_bytes());
    let key = hasher.finish();
    let _lock = store.lock(&format!("rewrite layer {diff_id} {epoch}"))?;
    if let Some(record) = store.record(&key)?
        && let [rewritten] = record.layers[..]
    {
        return Ok(rewritten);
    }
    let mut writer = store.blob_writer()?;
    let rewritten = store.layer_tar(diff_id, &mut writer, Some(RewriteTimestamps { epoch }))?;
    if rewritten != *diff_id {
        let blob = writer.commit(Some(rewritten.digest()))?;
        store.unpack(&blob.digest, &rewritten)?;
    }
    store.put_record(&BuildRecord {
        key,
        step: format!("rewrite-timestamp {diff_id}"),
        name: format!("rewriting layer {diff_id}"),
        layers: vec![rewritten],
        parts: vec![
            ("layer".to_owned(), diff_id.to_string()),
            ("epoch".to_owned(), epoch.to_string()),
        ],
        detail: serde_json::Value::Null,
        created_unix: now_unix(),
        elapsed_ms: 0,
    })?;
    Ok(rewritten)
}

/// Now in seconds; only for the order of records.
fn now_unix() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}
