//! A base image: known by its documents, its layers brought in when someone reads them.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use rbuild_cache::{DiffId, Digest, Layer, Store};

use super::config::ImageConfig;
use super::error::ImageError;
use super::layout;

/// Bytes copied at once.
const CHUNK: usize = 1 << 20;

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
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// In the store already.
    Store,
    /// In this OCI layout directory.
    Layout(PathBuf),
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
        let mut missing: Vec<&BaseLayer> = Vec::new();
        for layer in &self.layers {
            let known = missing.iter().any(|other| other.diff_id == layer.diff_id);
            if !known && store.layer(&layer.diff_id)?.is_none() {
                missing.push(layer);
            }
        }
        if !missing.is_empty() {
            self.bring_all(store, &missing, progress)?;
        }
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

    /// Brings in several layers at a time and tells how far it got.
    fn bring_all(
        &self,
        store: &Store,
        missing: &[&BaseLayer],
        progress: &dyn Fn(u64, u64),
    ) -> Result<(), ImageError> {
        let total = missing.iter().map(|layer| layer.size).sum();
        let workers = thread::available_parallelism()
            .map_or(2, usize::from)
            .clamp(2, 6);
        let next = AtomicUsize::new(0);
        let (sender, receiver) = mpsc::channel::<Step>();
        let mut first_error = None;
        thread::scope(|scope| {
            for _ in 0..workers.min(missing.len()) {
                let (sender, next) = (sender.clone(), &next);
                scope.spawn(move || {
                    while let Some(layer) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.bring(store, layer, &sender) {
                            // Nobody takes another layer; those in work are finished.
                            next.store(missing.len(), Ordering::Relaxed);
                            // The receiver outlives all workers.
                            let _ = sender.send(Step::Failed(error));
                        }
                    }
                });
            }
            drop(sender);
            let mut done = 0;
            for step in receiver {
                match step {
                    Step::Bytes(bytes) => {
                        done += bytes;
                        progress(done, total);
                    }
                    Step::Failed(error) => first_error = first_error.take().or(Some(error)),
                }
            }
        });
        first_error.map_or(Ok(()), Err)
    }

    /// Brings in one layer.
    fn bring(
        &self,
        store: &Store,
        layer: &BaseLayer,
        steps: &Sender<Step>,
    ) -> Result<(), ImageError> {
        let _lock = store.lock(&format!("bring layer {}", layer.diff_id))?;
        if store.layer(&layer.diff_id)?.is_some() {
            let _ = steps.send(Step::Bytes(layer.size));
            return Ok(());
        }
        let mut told = 0;
        self.bring_blob(store, layer, &mut |bytes| {
            told += bytes;
            let _ = steps.send(Step::Bytes(bytes));
        })?;
        store.unpack(&layer.blob, &layer.diff_id)?;
        let _ = steps.send(Step::Bytes(layer.size.saturating_sub(told)));
        Ok(())
    }

    /// Brings the blob of one layer into the store, if it is not there.
    fn bring_blob(
        &self,
        store: &Store,
        layer: &BaseLayer,
        copied: &mut dyn FnMut(u64),
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
                copy(&mut file, &mut writer, copied).map_err(ImageError::io("copy", &path))?;
                writer.commit(Some(&layer.blob))?;
                Ok(())
            }
        }
    }
}

/// What a worker tells.
enum Step {
    /// So many more bytes are done.
    Bytes(u64),
    /// A layer could not be brought in.
    Failed(ImageError),
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
