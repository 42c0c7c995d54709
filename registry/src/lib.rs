//! The OCI distribution client: pull and push of manifests and blobs, with authentication, mirrors,
//! retries and resumption. Follows the OCI distribution specification 1.1 and, where registries
//! still live by it, the Docker registry HTTP API v2 and its token authentication.
//!
//! What comes from a registry is believed only after its digest and size were checked while the
//! bytes passed; credentials go to the host that they belong to and to nobody else. Nothing here
//! prints or reads the environment: settings come in as [`ClientOptions`], news about retries and
//! the like go out through [`ClientOptions::notify`].

mod answer;
mod auth;
mod challenge;
mod client;
mod connections;
mod credentials;
mod document;
mod endpoint;
mod error;
mod fetch;
mod flight;
mod location;
mod login;
mod options;
mod pace;
mod payload;
mod publish;
mod pull;
mod push;
mod resolver;
mod retry;
mod search;
mod session;
mod tls;
mod token;
mod transport;
mod url;
mod web;

pub use client::{Client, Login, PushOutcome};
pub use credentials::{Credential, CredentialError, CredentialStore};
pub use document::{Contents, Document, DocumentError, IndexEntry, PlatformFields};
pub use error::{RegistryError, ServerError, TransportError};
pub use fetch::BlobTap;
pub use location::{Descriptor, Location, NameError, Reference, Resolved};
pub use options::{
    ClientCertificate, ClientOptions, Mirror, Namespace, Notice, Notify, ProxyConfig,
    RegistryConfig, RegistryLimits, RetryPolicy, Timeouts,
};
pub use search::SearchResult;
pub use web::{WebAnswer, WebRequest, WebSink};
