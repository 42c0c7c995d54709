//! Leases: what living processes use and nobody may remove.
//!
//! A lease is a file below `leases/` that its owner keeps locked, with one digest a line. Its owner
//! adds lines under a shared hold on `locks/gc`; pruning decides and moves its victims away under
//! an exclusive one. So after [`protect`](Lease::protect) returns, what is there stays there; look
//! for it afterwards, not before.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::digest::{DiffId, Digest};
use crate::error::StoreError;
use crate::layout::Layout;
use crate::lock::{Hold, StoreLock};
use crate::prune::references;
use crate::records::ImageRecord;
use crate::session;
use crate::store::Store;

/// Protects what a running process uses from [`prune`](Store::prune), until it is dropped or the
/// process dies.
#[must_use = "a lease protects nothing once it is dropped"]
pub struct Lease {
    store: Store,
    file: LeaseFile,
    protected: Mutex<BTreeSet<Digest>>,
}

impl Lease {
    /// Protects a blob or layer with this digest.
    pub fn protect(&self, digest: &Digest) -> Result<(), StoreError> {
        self.protect_all(&[*digest])
    }

    /// Protects a layer: its tree and its blobs.
    pub fn protect_layer(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        self.protect(diff_id.digest())
    }

    /// Protects the directory of a cache mount.
    pub fn protect_cache_mount(&self, id: &str) -> Result<(), StoreError> {
        self.protect(&Digest::of(id.as_bytes()))
    }

    /// Protects several blobs and layers at once.
    pub fn protect_all(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let mut protected = self
            .protected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let new: Vec<Digest> = digests
            .iter()
            .copied()
            .filter(|digest| !protected.contains(digest))
            .collect();
        self.file.add(self.store.layout(), &new)?;
        self.store.held().add(&new);
        protected.extend(new);
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let protected = self.protected.get_mut();
        let protected = protected.unwrap_or_else(PoisonError::into_inner);
        self.store.held().remove(&*protected);
    }
}

/// The file of a lease; dropping it ends the lease.
struct LeaseFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl LeaseFile {
    fn new(layout: &Layout) -> Result<LeaseFile, StoreError> {
        let (file, path) = session::owned_file(layout, &layout.leases())?;
        let file = Mutex::new(file);
        Ok(LeaseFile { path, file })
    }

    fn add(&self, layout: &Layout, digests: &[Digest]) -> Result<(), StoreError> {
        if digests.is_empty() {
            return Ok(());
        }
        let mut lines = String::with_capacity(65 * digests.len());
        for digest in digests {
            lines.push_str(&digest.hex());
            lines.push('\n');
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _hold = hold(layout, Hold::Shared)?;
        file.write_all(lines.as_bytes())
            .map_err(StoreError::io("write", &self.path))
    }
}

impl Drop for LeaseFile {
    fn drop(&mut self) {
        // What stays behind is collected by the next command that opens the store.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The lease that every open store has on what it publishes.
///
/// A blob or layer that somebody makes may be there already, as build cache that another process is
/// just pruning. So it is protected *before* it is published or found to be there; whoever made it
/// then has all the time to refer to it.
#[derive(Default)]
pub(crate) struct Published(Mutex<Option<(LeaseFile, BTreeSet<Digest>)>>);

impl Published {
    /// Protects what is about to be published.
    pub(crate) fn protect(&self, layout: &Layout, digests: &[Digest]) -> Result<(), StoreError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, known) = match state.take() {
            Some(lease) => state.insert(lease),
            None => state.insert((LeaseFile::new(layout)?, BTreeSet::new())),
        };
        let new: Vec<Digest> = digests
            .iter()
            .copied()
            .filter(|digest| !known.contains(digest))
            .collect();
        file.add(layout, &new)?;
        known.extend(new);
        Ok(())
    }

    /// Ends the lease.
    fn release(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Store {
    /// Starts a lease that protects nothing yet.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        Ok(Lease {
            store: self.clone(),
            file: LeaseFile::new(self.layout())?,
            protected: Mutex::default(),
        })
    }

    /// Keeps all that an image needs from being pruned as if it had been published through this store;
    /// what is there afterwards stays there.
    pub fn protect_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        let needed: Vec<Digest> = references(self, image)?.into_iter().collect();
        self.published().protect(self.layout(), &needed)
    }

    /// Keeps layers and their blobs in the same way.
    pub fn protect_layers(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        let needed: Vec<Digest> = layers.iter().map(|layer| *layer.digest()).collect();
        self.published().protect(self.layout(), &needed)
    }

    /// Has what was published through this store up to now stay only if something refers to it.
    ///
    /// Until then, or until the store is dropped, nobody prunes it: between making a layer and
    /// referring to it is time for a `prune` of somebody else.
    pub fn release_published(&self) {
        self.published().release();
    }
}

/// Takes the lock that keeps pruning and leases apart.
pub(crate) fn hold(layout: &Layout, hold: Hold) -> Result<StoreLock, StoreError> {
    StoreLock::wait(&layout.named_lock("gc"), hold)
}

/// Everything that any lease protects; to be called under an exclusive [`hold`].
///
/// Leases of dead processes count too: they are removed when a store is opened, and until then it
/// is harmless to keep what they name.
pub(crate) fn protected(layout: &Layout) -> Result<BTreeSet<Digest>, StoreError> {
    let mut digests = BTreeSet::new();
    for path in crate::recover::list(&layout.leases())? {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StoreError::io("read the lease", &path)(error)),
        };
        for line in BufReader::new(file).lines() {
            let line = line.map_err(StoreError::io("read the lease", &path))?;
            digests.extend(Digest::from_hex(&line).ok());
        }
    }
    Ok(digests)
}
