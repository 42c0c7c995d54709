//! The client: what other parts of the program call.

use std::sync::Arc;

use rbuild_cache::{Digest, Store};

use crate::auth::Auth;
use crate::connections::Connections;
use crate::credentials::Credential;
use crate::document::{Document, IndexEntry};
use crate::endpoint::Schemes;
use crate::error::RegistryError;
use crate::fetch::BlobTap;
use crate::flight::Flights;
use crate::location::{Descriptor, Location, Resolved};
use crate::options::ClientOptions;
use crate::retry::Interrupt;
use crate::search::SearchResult;

/// Speaks with registries. Cheap to clone, usable from all threads; connections and tokens are
/// shared by all clones.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

/// What all clones share.
pub(crate) struct Inner {
    pub(crate) options: Arc<ClientOptions>,
    pub(crate) connections: Connections,
    pub(crate) auth: Arc<Auth>,
    pub(crate) schemes: Arc<Schemes>,
    pub(crate) interrupt: Interrupt,
    /// Blobs that are being downloaded.
    pub(crate) downloads: Flights<Digest>,
    /// Blobs that are being uploaded, by the digest of repository and digest.
    pub(crate) uploads: Arc<Flights<Digest>>,
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

impl Client {
    /// Makes a client. Nothing is read or connected yet.
    pub fn new(options: ClientOptions) -> Client {
        let options = Arc::new(options);
        Client {
            inner: Arc::new(Inner {
                connections: Connections::new(Arc::clone(&options)),
                auth: Arc::default(),
                schemes: Arc::default(),
                interrupt: Interrupt::default(),
                downloads: Flights::default(),
                uploads: Arc::default(),
                options,
            }),
        }
    }

    /// A client with other limits of time and size that knows what this one has found out: tokens, and
    /// which servers speak https. It is interrupted on its own.
    #[must_use]
    pub fn sibling(&self, change: impl FnOnce(&mut ClientOptions)) -> Client {
        let mut options = (*self.inner.options).clone();
        change(&mut options);
        let options = Arc::new(options);
        Client {
            inner: Arc::new(Inner {
                connections: Connections::new(Arc::clone(&options)),
                auth: Arc::clone(&self.inner.auth),
                schemes: Arc::clone(&self.inner.schemes),
                interrupt: Interrupt::default(),
                downloads: Flights::default(),
                uploads: Arc::clone(&self.inner.uploads),
                options,
            }),
        }
    }

    /// Finds out what a location points to now, without downloading it.
    pub fn resolve(&self, location: &Location) -> Result<Resolved, RegistryError> {
        self.inner.resolve(location)
    }

    /// Downloads a manifest or index by its digest.
    pub fn manifest(&self, location: &Location, digest: Digest) -> Result<Document, RegistryError> {
        self.inner.manifest(location, digest)
    }

    /// Downloads what a location points to now, in one request; [`resolve`](Client::resolve) and
    /// [`manifest`](Client::manifest) take two, but the first of them costs nothing where downloads
    /// are counted.
    pub fn manifest_of(&self, location: &Location) -> Result<Document, RegistryError> {
        self.inner.manifest_of(location)
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
        self.inner.manifest_chain(location, digest, choose)
    }

    /// Downloads a blob into the store, unless it is there.
    ///
    /// `progress` is called with the bytes of this blob that are there so far; the number goes
    /// down when a transfer has to start again. Threads that want the same blob at the same time
    /// download it once.
    pub fn fetch_blob(
        &self,
        location: &Location,
        descriptor: &Descriptor,
        store: &Store,
        progress: &dyn Fn(u64),
    ) -> Result<(), RegistryError> {
        self.inner
            .fetch_blob(location, descriptor, store, progress, None)
    }

    /// Does the same, and passes the bytes on while they come.
    ///
    /// The tap hears nothing if the blob is in the store already; who needs it reads it from there.
    pub fn fetch_blob_with(
        &self,
        location: &Location,
        descriptor: &Descriptor,
        store: &Store,
        progress: &dyn Fn(u64),
        tap: &mut dyn BlobTap,
    ) -> Result<(), RegistryError> {
        self.inner
            .fetch_blob(location, descriptor, store, progress, Some(tap))
    }

    /// Tells whether the repository has a blob.
    pub fn has_blob(
        &self,
        location: &Location,
        descriptor: &Descriptor,
    ) -> Result<bool, RegistryError> {
        self.inner.has_blob(location, descriptor)
    }

    /// Finds a blob in the repository, or mounts it there from another repository of the registry;
    /// none if neither can be done. Nothing is sent.
    pub fn find_blob(
        &self,
        location: &Location,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
    ) -> Result<Option<PushOutcome>, RegistryError> {
        self.inner.find_blob(location, descriptor, mount_from)
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
        self.inner
            .push_blob(location, store, descriptor, mount_from, progress)
    }

    /// Puts a manifest or index under the tag or digest of the location, and checks that the
    /// registry has it byte for byte.
    pub fn push_manifest(
        &self,
        location: &Location,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<Digest, RegistryError> {
        self.inner.push_manifest(location, bytes, media_type)
    }

    /// Lists the tags of a repository; the reference of the location does not matter.
    pub fn tags(&self, location: &Location) -> Result<Vec<String>, RegistryError> {
        self.inner.tags(location)
    }

    /// Looks for repositories with a word in their names or descriptions; at most `limit`.
    pub fn search(
        &self,
        host: &str,
        term: &str,
        limit: usize,
    ) -> Result<Vec<SearchResult>, RegistryError> {
        self.inner.search(host, term, limit)
    }

    /// Checks that the registry answers and lets us in with the credentials that we have.
    pub fn ping(&self, host: &str) -> Result<(), RegistryError> {
        self.inner.ping(host)
    }

    /// Checks credentials against a registry without keeping them.
    pub fn login(&self, host: &str, credential: &Credential) -> Result<Login, RegistryError> {
        self.inner.login(host, credential)
    }

    /// Breaks off everything that this client and its clones are doing; nothing works afterwards.
    pub fn interrupt(&self) {
        self.inner.interrupt.set();
        self.inner.connections.close();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
