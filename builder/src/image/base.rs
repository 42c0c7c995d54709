//! A base image: known by its documents, its layers brought in when someone reads them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use rbuild_cache::{DiffId, Digest, Layer, Store};

use super::config::ImageConfig;
use super::error::ImageError;
use super::layout;
use super::manifest::Descriptor;
use super::remote::Place;

/// Bytes copied at once.
const CHUNK: usize = 1 << 20;
/// Transfers wait more than they compute: this many at once also on small machines.
const LEAST_WORKERS: usize = 4;
/// More at once would only take turns.
const MOST_WORKERS: usize = 8;

/// An image that a stage starts from.
#[derive(Debug, Clone)]
pub struct BaseImage {
    /// How messages call it.
    pub name: String,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its config.
    pub config: ImageConfig,
    /// Its layers, bottom first.
    pub layers: Vec<BaseLayer>,
    /// Where its blobs are found.
    pub origin: Origin,
}

/// One layer of a base image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseLayer {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the blob as the image's manifest lists it.
    pub blob: Digest,
    /// Size of that blob in bytes.
    pub size: u64,
    /// Media type of that blob.
    pub media_type: String,
}

/// Where the blobs of a base image are found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Origin {
    /// In the store already.
    Store,
    /// In this OCI layout directory.
    Layout(PathBuf),
    /// In a registry.
    Registry(Place),
}

impl BaseImage {
    /// Brings all layers into the store as unpacked trees and returns them, bottom first.
    ///
    /// Layers that are there cost a look-up each. Others are fetched where necessary and unpacked,
    /// several at a time; a lock per layer keeps processes from doing the same work twice. Both the
    /// blob's digest and the diff ID are verified. `progress` gets the bytes done and the bytes to
    /// do, from the calling thread.
    pub fn ensure_layers(
        &self,
        store: &Store,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Vec<Layer>, ImageError> {
        let done = RefCell::new(BTreeMap::new());
        let all: Vec<&BaseLayer> = self.layers.iter().collect();
        self.bring_layers(store, &all, &|layer, bytes, total| {
            let mut done = done.borrow_mut();
            done.insert(layer.diff_id, bytes);
            progress(done.values().sum(), total);
        })?;
        self.layers
            .iter()
            .map(|layer| {
                store
                    .layer(&layer.diff_id)?
                    .ok_or_else(|| ImageError::Missing {
                        what: "layer",
                        digest: *layer.diff_id.digest(),
                        name: self.name.clone(),
                    })
            })
            .collect()
    }

    /// Brings some of the layers into the store as unpacked trees, those that are not there.
    ///
    /// `progress` gets a layer, the bytes of its blob that are done, and the bytes of all blobs
    /// that had to be brought, from the calling thread.
    pub fn bring_layers(
        &self,
        store: &Store,
        wanted: &[&BaseLayer],
        progress: &dyn Fn(&BaseLayer, u64, u64),
    ) -> Result<(), ImageError> {
        let mut missing: Vec<&BaseLayer> = Vec::new();
        for layer in wanted {
            let known = missing.iter().any(|other| other.diff_id == layer.diff_id);
            if !known && store.layer(&layer.diff_id)?.is_none() {
                missing.push(layer);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let total = missing.iter().map(|layer| layer.size).sum();
        at_once(
            &missing,
            &|layer, told| self.bring(store, layer, told),
            &mut |index, bytes| progress(missing[index], bytes, total),
        )
    }

    /// Brings in one layer.
    fn bring(
        &self,
        store: &Store,
        layer: &BaseLayer,
        told: &dyn Fn(u64),
    ) -> Result<(), ImageError> {
        let _lock = store.lock(&format!("bring layer {}", layer.diff_id))?;
        if store.layer(&layer.diff_id)?.is_none() {
            if let Origin::Registry(remote) = &self.origin {
                remote.bring_layer(store, layer, told)?;
            } else {
                self.bring_blob(store, layer, told)?;
                store.unpack(&layer.blob, &layer.diff_id)?;
            }
        }
        told(layer.size);
        Ok(())
    }

    /// Brings the blob of one layer into the store, if it is not there.
    pub(crate) fn bring_blob(
        &self,
        store: &Store,
        layer: &BaseLayer,
        told: &dyn Fn(u64),
    ) -> Result<(), ImageError> {
        if store.has_blob(&layer.blob) {
            return Ok(());
        }
        match &self.origin {
            Origin::Store => Err(ImageError::Missing {
                what: "layer",
                digest: layer.blob,
                name: self.name.clone(),
            }),
            Origin::Registry(remote) => remote.bring_blob(store, &layer.descriptor(), told),
            Origin::Layout(directory) => {
                let path = layout::blob_path(directory, &layer.blob);
                let mut file = layout::open_regular(&path)?;
                let actual = file
                    .metadata()
                    .map_err(ImageError::io("read", &path))?
                    .len();
                if actual != layer.size {
                    return Err(ImageError::Size {
                        what: "layer",
                        digest: layer.blob,
                        expected: layer.size,
                        actual,
                    });
                }
                let mut writer = store.blob_writer()?;
                let mut done = 0;
                copy(&mut file, &mut writer, &mut |bytes| {
                    done += bytes;
                    told(done);
                })
                .map_err(ImageError::io("copy", &path))?;
                writer.commit(Some(&layer.blob))?;
                Ok(())
            }
        }
    }
}

impl BaseLayer {
    /// Descriptor of its blob.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.blob, self.size)
    }
}

/// What is done with an item; it tells its news to the function that it is given.
pub(crate) type Action<'a, T, M, E> = dyn Fn(&T, &dyn Fn(M)) -> Result<(), E> + Sync + 'a;

/// What a worker tells.
enum Step<M, E> {
    /// News of the item at this position.
    News(usize, M),
    /// An item failed.
    Failed(E),
}

/// Does something with several items at a time and tells how far it got, from the calling thread.
///
/// After a failure no further item is begun; the first failure is returned.
pub(crate) fn at_once<T: Sync, M: Send, E: Send>(
    items: &[T],
    action: &Action<'_, T, M, E>,
    progress: &mut dyn FnMut(usize, M),
) -> Result<(), E> {
    let workers = thread::available_parallelism()
        .map_or(LEAST_WORKERS, usize::from)
        .clamp(LEAST_WORKERS, MOST_WORKERS);
    with_workers(workers, items, action, progress)
}

/// The same with so many at a time, for what only waits.
pub(crate) fn with_workers<T: Sync, M: Send, E: Send>(
    workers: usize,
    items: &[T],
    action: &Action<'_, T, M, E>,
    progress: &mut dyn FnMut(usize, M),
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel::<Step<M, E>>();
    let mut first_error = None;
    thread::scope(|scope| {
        for _ in 0..workers.min(items.len()) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else {
                        return;
                    };
                    // The receiver outlives all workers.
                    let told = |news| drop(sender.send(Step::News(index, news)));
                    if let Err(error) = action(item, &told) {
                        // Nobody takes another item; those in work are finished.
                        next.store(items.len(), Ordering::Relaxed);
                        let _ = sender.send(Step::Failed(error));
                    }
                }
            });
        }
        drop(sender);
        for step in receiver {
            match step {
                Step::News(index, news) => progress(index, news),
                Step::Failed(error) => first_error = first_error.take().or(Some(error)),
            }
        }
    });
    first_error.map_or(Ok(()), Err)
}

/// Copies a stream and tells after each chunk how many bytes went over.
pub(crate) fn copy(
    from: &mut dyn Read,
    to: &mut dyn Write,
    copied: &mut dyn FnMut(u64),
) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..count])?;
        total += count as u64;
        copied(count as u64);
    }
}
