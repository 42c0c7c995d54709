//! Reading caches at the beginning of a build.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rbuild_cache::{DiffId, Digest, Store};
use rbuild_parser::{ImageReference, Platform};
use rbuild_registry::Client;

use super::config::{CONFIG, CacheConfig, CacheRecord, INLINE, MOST_ENTRIES, UNCOMPRESSED};
use super::records::expired;
use super::{FIRST_VERTEX, Lost};
use crate::error::chain;
use crate::event::{Event, EventSink, VertexId, Warning};
use crate::image::document::{Document, ReadManifest};
use crate::image::{
    BaseImage, BaseLayer, Descriptor, ImageConfig, ImageError, Origin, Place, base64_decode,
    cache_documents, location_of,
};
use crate::request::{CacheSource, SourcePlace};

/// What the caches know.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    /// By key; the cache that was named first comes first.
    records: HashMap<Digest, Vec<Hit>>,
    /// Keys by their result.
    keys: HashMap<DiffId, Vec<Digest>>,
}

/// A result in a cache.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    /// The cache as an image that has the layer.
    pub(crate) image: Arc<BaseImage>,
    /// Its vertex.
    pub(crate) vertex: VertexId,
    /// The layer.
    pub(crate) diff_id: DiffId,
    /// When it was made.
    pub(crate) created: Option<String>,
    /// All keys that lead to it.
    pub(crate) keys: Vec<Digest>,
}

impl Imports {
    /// Nothing was imported.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The result of a key, in a cache that is not lost.
    pub(crate) fn find(&self, key: &Digest, lost: &Lost) -> Option<Hit> {
        let mut hits = self.records.get(key)?.iter();
        let mut hit = hits.find(|hit| !lost.has(hit.vertex))?.clone();
        hit.keys = self.keys.get(&hit.diff_id).cloned().unwrap_or_default();
        Some(hit)
    }

    fn add(
        &mut self,
        image: BaseImage,
        number: usize,
        records: &[CacheRecord],
        max_age: Option<Duration>,
    ) {
        let image = Arc::new(image);
        let vertex = VertexId(FIRST_VERTEX + number as u32);
        for record in records {
            for result in &record.results {
                let Some(layer) = image.layers.get(result.layer) else {
                    continue;
                };
                if expired(result.created.as_deref(), max_age) {
                    continue;
                }
                self.keys
                    .entry(layer.diff_id)
                    .or_default()
                    .push(record.digest);
                let hit = Hit {
                    image: Arc::clone(&image),
                    vertex,
                    diff_id: layer.diff_id,
                    created: result.created.clone(),
                    keys: Vec::new(),
                };
                self.records.entry(record.digest).or_default().push(hit);
            }
        }
    }
}

/// Reads all caches at once. One that cannot be read is told, and the build goes on.
pub(crate) fn import(
    store: &Store,
    client: Option<&Client>,
    sources: &[CacheSource],
    platforms: &[Platform],
    events: &dyn EventSink,
) -> Imports {
    let read = |number: usize, source: &CacheSource| {
        let vertex = VertexId(FIRST_VERTEX + (sources.len() + number) as u32);
        // Records are looked up step by step.
        if matches!(source.place, SourcePlace::Records(_)) {
            return None;
        }
        let name = format!("importing cache manifest from {}", source.place);
        let start = Instant::now();
        events.event(Event::Started {
            vertex,
            name: name.clone(),
        });
        match read_source(store, client, &source.place, platforms) {
            Ok(found) => {
                let elapsed = start.elapsed();
                events.event(Event::Finished {
                    vertex,
                    elapsed,
                    layer: None,
                });
                Some(found)
            }
            Err(error) => {
                let message = chain(&error).join(": ");
                events.event(Event::Failed {
                    vertex,
                    message: message.clone(),
                });
                events.event(Event::Warning(Warning {
                    rule: None,
                    message: format!("{name}: {message}"),
                    line: None,
                    url: None,
                    help: None,
                }));
                None
            }
        }
    };
    let found: Vec<_> = thread::scope(|scope| {
        let readers: Vec<_> = sources
            .iter()
            .enumerate()
            .map(|(number, source)| scope.spawn(move || read(number, source)))
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().ok().flatten())
            .collect()
    });
    let mut imports = Imports::default();
    for (number, found) in found.into_iter().enumerate() {
        for (image, records) in found.unwrap_or_default() {
            imports.add(image, number, &records, sources[number].max_age);
        }
    }
    imports
}

type Found = Vec<(BaseImage, Vec<CacheRecord>)>;

fn read_source(
    store: &Store,
    client: Option<&Client>,
    source: &SourcePlace,
    platforms: &[Platform],
) -> Result<Found, ImageError> {
    let (origin, top) = match source {
        SourcePlace::Registry(reference) => at_registry(store, client, reference)?,
        // Not read as a whole.
        SourcePlace::Records(_) => return Ok(Vec::new()),
        SourcePlace::Local { path, tag, digest } => {
            let top = crate::image::layout::find(store, path, tag.as_deref(), digest.as_ref())?;
            (Origin::Layout(path.clone()), top)
        }
    };
    let documents = cache_documents(store, &origin);
    let name = source.to_string();
    let read = |what, descriptor: &Descriptor| {
        crate::image::document::checked(documents.as_ref(), what, descriptor)
    };
    let bytes = read("manifest", &top)?;
    let manifests = match Document::parse(&name, &bytes)? {
        Document::Manifest(manifest) => vec![(top.digest, *manifest)],
        Document::Index(index) => {
            // BuildKit's older form: an index whose entries are the blobs and the config.
            if let Some(config) = index.manifests.iter().find(|one| one.media_type == CONFIG) {
                let layers = index
                    .manifests
                    .iter()
                    .filter(|one| one.media_type != CONFIG);
                let manifest = ReadManifest {
                    config: config.clone(),
                    layers: layers.cloned().collect(),
                };
                vec![(top.digest, manifest)]
            } else {
                let wanted = index
                    .manifests
                    .iter()
                    .filter(|entry| fits(entry, platforms));
                let mut manifests = Vec::new();
                for entry in wanted {
                    let bytes = read("manifest", entry)?;
                    if let Document::Manifest(manifest) = Document::parse(&name, &bytes)? {
                        manifests.push((entry.digest, *manifest));
                    }
                }
                manifests
            }
        }
    };
    let mut found = Vec::new();
    for (digest, manifest) in manifests {
        let bytes = read("config", &manifest.config)?;
        let (layers, records) = if manifest.config.media_type == CONFIG {
            own_cache(&name, &manifest, &bytes)?
        } else {
            inline_cache(&name, &manifest, &bytes)?
        };
        let image = BaseImage {
            name: name.clone(),
            manifest: digest,
            config: ImageConfig::default(),
            layers,
            origin: origin.clone(),
        };
        found.push((image, records));
    }
    Ok(found)
}

fn at_registry(
    store: &Store,
    client: Option<&Client>,
    reference: &ImageReference,
) -> Result<(Origin, Descriptor), ImageError> {
    let Some(client) = client else {
        return Err(ImageError::document(
            reference.familiar(),
            "registries are not asked",
        ));
    };
    let place = Place {
        client: client.clone(),
        location: location_of(reference)?,
    };
    let top = place.top(store)?;
    Ok((Origin::Registry(place), top))
}

/// Whether an entry of an index is for a platform that is built.
fn fits(entry: &Descriptor, platforms: &[Platform]) -> bool {
    let Some(platform) = &entry.platform else {
        return true;
    };
    let host = [Platform::host()];
    let platforms = if platforms.is_empty() {
        &host[..]
    } else {
        platforms
    };
    platforms
        .iter()
        .any(|wanted| wanted.os == platform.os && wanted.architecture == platform.architecture)
}

type Read = (Vec<BaseLayer>, Vec<CacheRecord>);

/// A manifest that is nothing but a cache.
fn own_cache(name: &str, manifest: &ReadManifest, bytes: &[u8]) -> Result<Read, ImageError> {
    let refuse = |reason: String| ImageError::document(name, reason);
    let config: CacheConfig =
        serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
    if config.layers.len().max(config.records.len()) > MOST_ENTRIES {
        return Err(refuse(format!("it has more than {MOST_ENTRIES} entries")));
    }
    let mut layers = Vec::with_capacity(config.layers.len());
    for layer in &config.layers {
        let listed = manifest
            .layers
            .iter()
            .find(|listed| listed.digest == layer.blob);
        let listed = listed.ok_or_else(|| refuse(format!("it lacks blob {}", layer.blob)))?;
        let annotated = listed.annotations.get(UNCOMPRESSED);
        let diff_id = match (&layer.annotations, annotated) {
            (Some(own), _) => own.diff_id,
            (None, Some(text)) => text
                .parse::<Digest>()
                .map(DiffId::from_digest)
                .map_err(|error| refuse(error.to_string()))?,
            (None, None) => return Err(refuse(format!("blob {} has no diff ID", layer.blob))),
        };
        layers.push(BaseLayer {
            diff_id,
            blob: listed.digest,
            size: listed.size,
            media_type: listed.media_type.clone(),
        });
    }
    Ok((layers, config.records))
}

/// An image with the records of a cache in its config.
fn inline_cache(name: &str, manifest: &ReadManifest, bytes: &[u8]) -> Result<Read, ImageError> {
    let refuse = |reason: String| ImageError::document(name, reason);
    let config = ImageConfig::from_bytes(bytes)?;
    let Some(text) = config.extra.get(INLINE).and_then(|value| value.as_str()) else {
        return Ok((Vec::new(), Vec::new()));
    };
    let bytes = base64_decode(text).ok_or_else(|| refuse(format!("`{INLINE}` is no base64")))?;
    let records: Vec<CacheRecord> =
        serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    let pairs = manifest.layers.iter().zip(&config.rootfs.diff_ids);
    let layers = pairs
        .map(|(layer, diff_id)| BaseLayer {
            diff_id: *diff_id,
            blob: layer.digest,
            size: layer.size,
            media_type: layer.media_type.clone(),
        })
        .collect();
    Ok((layers, records))
}
