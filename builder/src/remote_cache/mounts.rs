//! Cache mounts that travel between machines.
//!
//! A mount is an artifact in a repository of records, under a tag `mount-` and the digest of its id.
//! Its content, as a tar, is cut into chunks where the content says so (`chunk.rs`); each chunk,
//! compressed, is a blob, so only chunks that are new are sent and fetched. The config lists the
//! chunks in their order, since a manifest should name each blob once.
//!
//! A mount is fetched when a step finds it new, and written at the end of a build in which a step
//! has used it.

mod chunk;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rbuild_cache::{Digest, ExtractOptions, Limits, Store, extract, pack};
use rbuild_registry::{Client, Location, Reference};
use serde::{Deserialize, Serialize};

use self::chunk::{Chunker, LARGEST};
use super::artifact::{Artifact, Part};
use super::records::expired;
use crate::error::chain;
use crate::event::{Event, EventSink, VertexId, Warning};
use crate::image::base::at_once;
use crate::image::manifest::ANNOTATION_CREATED;
use crate::image::media::OCI_MANIFEST;
use crate::image::push::push_blob;
use crate::image::{Descriptor, ImageError, OutgoingBlob, Place, json, limits, location_of};
use crate::ops::{ExecMountKind, Op};
use crate::output::OutputError;
use crate::request::{CacheSource, SourcePlace};
use crate::solve::{SolveContext, VertexOutput};

/// Type of the artifact.
const ARTIFACT: &str = "application/vnd.rbuild.mount.v1+json";
/// Media type of its config.
const ORDER: &str = "application/vnd.rbuild.mount.order.v1+json";
/// Media type of a chunk.
const CHUNK: &str = "application/vnd.rbuild.mount.chunk.v1+zstd";
/// Level of the compression of chunks.
const LEVEL: i32 = 3;
/// Most chunks of a mount: 20 GiB or more.
const MOST_CHUNKS: usize = 20_000;

/// The config: which blob comes when.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// Positions among the blobs of the manifest.
    chunks: Vec<usize>,
}

/// Where new cache mounts are filled from.
#[derive(Debug, Default)]
pub(crate) struct MountSources {
    sources: Vec<(Place, CacheSource)>,
    /// The mounts that could not be fetched: what this build makes of them is not worth keeping.
    failed: Mutex<BTreeSet<String>>,
}

impl MountSources {
    /// The sources of a request that have mounts.
    pub(crate) fn new(
        client: Option<&Client>,
        sources: &[CacheSource],
    ) -> Result<MountSources, ImageError> {
        let mut found = MountSources::default();
        for source in sources.iter().filter(|source| source.mounts) {
            if let (SourcePlace::Records(name), Some(client)) = (&source.place, client) {
                let place = Place {
                    client: patient(client),
                    location: location_of(name)?,
                };
                found.sources.push((place, source.clone()));
            }
        }
        Ok(found)
    }

    /// Fills a new cache mount; says whether there was something to fill it with. What fails is told,
    /// and leaves the directory empty.
    pub(crate) fn fill(
        &self,
        store: &Store,
        events: &dyn EventSink,
        vertex: VertexId,
        id: &str,
        directory: &Path,
    ) -> bool {
        for (place, source) in &self.sources {
            let progress = |current, total| {
                events.event(Event::Progress {
                    vertex,
                    what: format!("fetching cache mount {}", shown(id)),
                    current,
                    total: Some(total),
                });
            };
            match fetch(store, place, source, id, directory, &progress) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    self.failed().insert(id.to_owned());
                    let what = format!("the cache mount {} begins empty", shown(id));
                    events.event(warning(format!("{what}: {}", chain(&error).join(": "))));
                    if let Err(error) = empty(directory) {
                        tracing::warn!(%error, "a cache mount could not be emptied");
                    }
                }
            }
        }
        false
    }

    fn failed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a user has called a mount.
fn shown(id: &str) -> &str {
    id.split(' ').next().unwrap_or(id).trim_start_matches('/')
}

fn warning(message: String) -> Event {
    Event::Warning(Warning {
        rule: None,
        message,
        line: None,
        url: None,
        help: None,
    })
}

fn empty(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A client that takes manifests with as many blobs as a mount may have.
fn patient(client: &Client) -> Client {
    client.sibling(|options| options.limits.layers = MOST_CHUNKS)
}

fn place_of(place: &Location, id: &str) -> Location {
    let tag = format!("mount-{}", Digest::of(id.as_bytes()).hex());
    Location {
        reference: Reference::Tag(tag),
        ..place.clone()
    }
}

/// The artifact of a mount, if there is one.
fn read(client: &Client, location: &Location) -> Result<Option<Artifact>, ImageError> {
    let document = match client.manifest_of(location) {
        Err(error) if error.is_not_found() => return Ok(None),
        other => other?,
    };
    let found = Artifact::parse(&location.to_string(), ARTIFACT, &document.bytes)?;
    Ok(Some(found))
}

/// Fetches a mount into an empty directory; false if the repository has none.
fn fetch(
    store: &Store,
    place: &Place,
    source: &CacheSource,
    id: &str,
    directory: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<bool, ImageError> {
    let location = place_of(&place.location, id);
    let Some(found) = read(&place.client, &location)? else {
        return Ok(false);
    };
    let created = found.annotations.get(ANNOTATION_CREATED);
    if expired(created.map(String::as_str), source.max_age) {
        return Ok(false);
    }
    let what = location.to_string();
    limits::check(&what, "document", found.config.size, limits::DOCUMENT_BYTES)?;
    place.bring_blob(store, &found.config.descriptor(), &|_| ())?;
    let order = store.read_blob(&found.config.digest, limits::DOCUMENT_BYTES)?;
    let order: Order =
        serde_json::from_slice(&order).map_err(|error| ImageError::document(&what, error))?;
    let parts = order
        .chunks
        .iter()
        .map(|position| found.layers.get(*position));
    let parts: Option<Vec<&Part>> = parts.collect();
    let parts = parts.ok_or_else(|| ImageError::document(&what, "it lacks a chunk"))?;
    let total = found.layers.iter().map(|part| part.size).sum();
    let mut done = BTreeMap::new();
    at_once(
        &found.layers,
        &|part, told| place.bring_blob(store, &part.descriptor(), &|bytes| told(bytes)),
        &mut |index, bytes| {
            done.insert(index, bytes);
            progress(done.values().sum(), total);
        },
    )?;
    let mut tar = Chunks {
        store,
        left: parts.into_iter(),
        current: io::Cursor::default(),
    };
    let options = ExtractOptions {
        view: None,
        upper: directory,
        into: Path::new("/"),
        chown: None,
        limits: Limits::default(),
    };
    extract(&mut tar, &options)?;
    Ok(true)
}

/// The tar that chunks make.
struct Chunks<'a, I> {
    store: &'a Store,
    left: I,
    current: io::Cursor<Vec<u8>>,
}

impl<'a, I: Iterator<Item = &'a Part>> Read for Chunks<'a, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(part) = self.left.next() else {
                return Ok(0);
            };
            let most = 2 * LARGEST as u64;
            let blob = self.store.read_blob(&part.digest, most);
            let blob = blob.map_err(io::Error::other)?;
            // Whatever a chunk says, it does not become larger than chunks are.
            self.current = io::Cursor::new(zstd::bulk::decompress(&blob, LARGEST)?);
        }
    }
}

/// Writes the cache mounts that steps of this build have used.
pub(crate) fn save_mounts(
    context: &SolveContext<'_>,
    outputs: &[Option<VertexOutput>],
    target: &Location,
    vertex: VertexId,
) -> Result<(), OutputError> {
    let Some(client) = context.cache_client else {
        return Ok(());
    };
    let mut ids = BTreeSet::new();
    for (id, step) in context.graph.vertices() {
        let ran = outputs.get(id.0 as usize).and_then(Option::as_ref);
        if let (Op::Exec(exec), true) = (&step.op, ran.is_some_and(|output| !output.cached)) {
            ids.extend(exec.mounts.iter().filter_map(|mount| match &mount.kind {
                ExecMountKind::Cache { id, .. } if !mount.readonly => Some(id),
                _ => None,
            }));
        }
    }
    let client = patient(client);
    let failed = context.mounts.failed().clone();
    for id in ids.into_iter().filter(|id| !failed.contains(*id)) {
        let _lock = context.store.lock(&format!("cache mount {id}"))?;
        let mount = context.store.cache_mount(id)?;
        let progress = |current| {
            context.events.event(Event::Progress {
                vertex,
                what: format!("writing cache mount {}", shown(id)),
                current,
                total: None,
            });
        };
        save(context.store, &client, target, id, &mount.path, &progress)?;
    }
    Ok(())
}

/// Writes one mount: chunks that the registry has not seen in it, their order, the manifest.
fn save(
    store: &Store,
    client: &Client,
    target: &Location,
    id: &str,
    directory: &Path,
    progress: &dyn Fn(u64),
) -> Result<(), OutputError> {
    let location = place_of(target, id);
    let before = read(client, &location)?;
    let known = before.iter().flat_map(|before| &before.layers);
    let known: BTreeSet<Digest> = known.map(|part| part.digest).collect();
    let mut parts: Vec<Part> = Vec::new();
    let mut positions: BTreeMap<Digest, usize> = BTreeMap::new();
    let mut order = Order { chunks: Vec::new() };
    let mut failure = None;
    let mut done = 0;
    let mut chunker = Chunker::new(|chunk: &[u8]| {
        let mut add = || -> Result<(), OutputError> {
            let failed = |source| ImageError::stream("compress a cache mount")(source);
            let bytes = zstd::bulk::compress(chunk, LEVEL).map_err(failed)?;
            let digest = Digest::of(&bytes);
            if let Some(position) = positions.get(&digest) {
                order.chunks.push(*position);
                return Ok(());
            }
            let described = Descriptor::new(CHUNK, digest, bytes.len() as u64);
            if !known.contains(&digest) {
                send(store, client, target, &described, &bytes)?;
            }
            positions.insert(digest, parts.len());
            order.chunks.push(parts.len());
            parts.push(described.into());
            limits::check(id, "chunks", parts.len() as u64, MOST_CHUNKS as u64)?;
            done += chunk.len() as u64;
            progress(done);
            Ok(())
        };
        add().map_err(|error| {
            failure = Some(error);
            io::Error::other("the cache mount could not be written")
        })
    });
    let packed = pack(directory, &mut chunker).map_err(OutputError::from);
    let ended = packed.and_then(|()| {
        let failed = ImageError::stream("write a cache mount");
        Ok(chunker.finish().map_err(failed)?)
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    ended?;
    let order = json::compact(&order);
    let config = Descriptor::new(ORDER, Digest::of(&order), order.len() as u64);
    if before.is_some_and(|before| before.config.descriptor() == config && before.layers == parts) {
        return Ok(());
    }
    send(store, client, target, &config, &order)?;
    let mut artifact = Artifact::new(ARTIFACT, config, parts);
    let created = (ANNOTATION_CREATED.to_owned(), Timestamp::now().to_string());
    artifact.annotations.extend([created]);
    client
        .push_manifest(&location, &artifact.to_bytes(), OCI_MANIFEST)
        .map_err(ImageError::from)?;
    Ok(())
}

fn send(
    store: &Store,
    client: &Client,
    target: &Location,
    described: &Descriptor,
    bytes: &[u8],
) -> Result<(), OutputError> {
    store.put_blob(bytes)?;
    let blob = OutgoingBlob {
        descriptor: described.clone(),
        remote: None,
        mount_from: None,
        layer: false,
    };
    Ok(push_blob(client, store, &blob, target, None, &|_| ())?)
}
