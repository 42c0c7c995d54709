//! The client: what other parts of the program call.

use std::sync::Arc;

use rbuild_cache::{Digest, Store};

use crate::credentials::Credential;
use crate::document::{Document, IndexEntry};
use crate::error::RegistryError;
use crate::location::{Descriptor, Location, Resolved};
use crate::options::ClientOptions;

/// Speaks with registries. Cheap to clone, usable from all threads; connections and tokens are
/// shared by all clones.
#[derive(Clone)]
pub struct Client {
    inner: Arc<ClientOptions>,
}

/// How a blob came to be in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushOutcome {
    /// It was there.
    Exists,
    /// It was in another repository of the registry.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// What a successful login gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// What should be kept: what was given, or a refresh token that the registry gave for it.
    pub credential: Credential,
}

fn later() -> RegistryError {
    RegistryError::Setting {
        what: "a registry",
        reason: "not available yet".to_owned(),
    }
}

impl Client {
    /// Makes a client. Nothing is read or connected yet.
    pub fn new(options: ClientOptions) -> Client {
        Client {
            inner: Arc::new(options),
        }
    }

    /// Finds out what a location points to now, without downloading it.
    pub fn resolve(&self, location: &Location) -> Result<Resolved, RegistryError> {
        let _ = (location, &self.inner);
        Err(later())
    }

    /// Downloads a manifest or index by its digest.
    pub fn manifest(&self, location: &Location, digest: Digest) -> Result<Document, RegistryError> {
        let _ = (location, digest);
        Err(later())
    }

    /// Downloads a manifest, going through indexes (at most `index_depth` of them): `choose` gets
    /// the entries of an index and returns the position of the one to follow.
    ///
    /// Returns the documents on the way, the last being the manifest.
    pub fn manifest_chain(
        &self,
        location: &Location,
        digest: Digest,
        choose: &mut dyn FnMut(&[IndexEntry]) -> Option<usize>,
    ) -> Result<Vec<Document>, RegistryError> {
        let _ = (location, digest, choose);
        Err(later())
    }

    /// Downloads a blob into the store, unless it is there.
    ///
    /// `progress` is called with the bytes of this blob that are there so far; the number goes
    /// down when a transfer has to start again.
    pub fn fetch_blob(
        &self,
        location: &Location,
        descriptor: &Descriptor,
        store: &Store,
        progress: &dyn Fn(u64),
    ) -> Result<(), RegistryError> {
        let _ = (location, descriptor, store, progress);
        Err(later())
    }

    /// Brings a blob of the store into the repository.
    ///
    /// `mount_from` is another repository of the same registry that probably has it. `progress` is
    /// called with the bytes that were sent so far; the number goes down when an upload has to go
    /// back.
    pub fn push_blob(
        &self,
        location: &Location,
        store: &Store,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
        progress: &dyn Fn(u64),
    ) -> Result<PushOutcome, RegistryError> {
        let _ = (location, store, descriptor, mount_from, progress);
        Err(later())
    }

    /// Puts a manifest or index under the tag or digest of the location, and checks that the
    /// registry has it byte for byte.
    pub fn push_manifest(
        &self,
        location: &Location,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<Digest, RegistryError> {
        let _ = (location, bytes, media_type);
        Err(later())
    }

    /// Lists the tags of a repository; the reference of the location does not matter.
    pub fn tags(&self, location: &Location) -> Result<Vec<String>, RegistryError> {
        let _ = location;
        Err(later())
    }

    /// Checks that the registry answers and lets us in with the credentials that we have.
    pub fn ping(&self, host: &str) -> Result<(), RegistryError> {
        let _ = host;
        Err(later())
    }

    /// Checks credentials against a registry without keeping them.
    pub fn login(&self, host: &str, credential: &Credential) -> Result<Login, RegistryError> {
        let _ = (host, credential);
        Err(later())
    }

    /// Breaks off everything that this client and its clones are doing; nothing works afterwards.
    pub fn interrupt(&self) {}
}
