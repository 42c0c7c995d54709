//! Settings of a client. All of them are values: files and environment are read by the command.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::credentials::CredentialStore;

/// Everything that a [`Client`](crate::Client) needs to know.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Who we are, per registry.
    pub credentials: CredentialStore,
    /// What is special about a registry, by its host (with port, if it has one).
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Where else the repositories of registries are to be had, or that they are not to be asked for.
    pub namespaces: Vec<Namespace>,
    /// What counts for registries that have no settings of their own.
    pub other_registries: Option<RegistryConfig>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// What is too much.
    pub limits: RegistryLimits,
    /// What is too slow.
    pub timeouts: Timeouts,
    /// PEM file of the certificate authorities that are trusted instead of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Proxies between us and the registries.
    pub proxy: Option<ProxyConfig>,
    /// The `User-Agent` that registries see.
    pub user_agent: String,
    /// Who is told about retries and the like.
    pub notify: Option<Notify>,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            credentials: CredentialStore::default(),
            registries: BTreeMap::new(),
            namespaces: Vec::new(),
            other_registries: None,
            retry: RetryPolicy::default(),
            limits: RegistryLimits::default(),
            timeouts: Timeouts::default(),
            ca_bundle: None,
            proxy: None,
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
            notify: None,
        }
    }
}

/// What is special about one registry, or about all below a domain, if its name begins with `*.`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryConfig {
    /// Speak http and never https.
    pub plain_http: bool,
    /// Do not check certificates, and use http if https is not spoken there.
    pub insecure: bool,
    /// PEM files of certificate authorities that are trusted besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// What we identify ourselves with towards the server.
    pub client_certificate: Option<ClientCertificate>,
}

/// A certificate for TLS client authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM file with the certificate chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// What is said of a registry or a part of its repositories. The longest name that fits counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespace {
    /// What it is about: `host`, `host/path` and all below it, or `*.domain` for all hosts below one.
    pub prefix: String,
    /// Asked before the registry itself when pulling, in this order. What follows the prefix in the
    /// name of a repository follows the mirror's own prefix there.
    pub mirrors: Vec<Mirror>,
    /// Asked in place of the registry, for pulling and pushing.
    pub instead: Option<Mirror>,
    /// Nothing may be pulled from it.
    pub blocked: bool,
}

/// Another place that has what a registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Its host, with port if it has one; looked up in [`ClientOptions::registries`], too.
    pub host: String,
    /// Path before the repository, without slashes at its ends; often empty.
    pub prefix: String,
    /// Whether it may say what a tag points to; if not it is only asked for digests.
    pub resolve: bool,
}

/// When and how often something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often in all one thing is tried without getting any further.
    pub tries: u32,
    /// Longest wait before the first repetition; doubles each time. The wait is a random part of it.
    pub first_wait: Duration,
    /// Longest wait before any repetition.
    pub longest_wait: Duration,
    /// Time from the first failure after which nothing more is tried without getting any further.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            tries: 5,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(10),
            budget: Duration::from_mins(2),
        }
    }
}

/// What a registry may not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryLimits {
    /// Bytes of a manifest or index.
    pub manifest_bytes: u64,
    /// Layers of a manifest.
    pub layers: usize,
    /// How deep indexes may be nested; 1 is an index of manifests.
    pub index_depth: usize,
    /// Redirections of one request.
    pub redirects: u32,
    /// Tags of a repository.
    pub tags: usize,
    /// Blobs above this size are sent in pieces of it; 0 sends each in one piece.
    pub upload_chunk: u64,
}

impl Default for RegistryLimits {
    fn default() -> RegistryLimits {
        RegistryLimits {
            manifest_bytes: 16 << 20,
            layers: 5000,
            index_depth: 2,
            redirects: 5,
            tags: 100_000,
            upload_chunk: 0,
        }
    }
}

/// What counts as too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to be made.
    pub connect: Duration,
    /// A transfer that is slower than `stall_bytes` per second for this long is broken off. Also the
    /// longest wait for the beginning of an answer.
    pub stall: Duration,
    /// Bytes per second under which a transfer counts as stalled.
    pub stall_bytes: u64,
    /// For the answer to an upload after its last byte: servers hash and move what they received.
    pub commit: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            stall_bytes: 1000,
            commit: Duration::from_mins(5),
        }
    }
}

/// HTTP proxies. Loopback hosts are never asked for through one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyConfig {
    /// URL of the proxy for `http` registries.
    pub http: Option<String>,
    /// URL of the proxy for `https` registries.
    pub https: Option<String>,
    /// Hosts that are reached directly, in the form of `NO_PROXY`.
    pub no_proxy: String,
}

/// News from a client while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// Something failed and will be tried again.
    Retry {
        /// What is being done, e.g. `download blob sha256:…`.
        doing: String,
        /// Why it failed, with causes.
        cause: String,
        /// Which repetition comes, from 1.
        repetition: u32,
        /// How long until then.
        wait: Duration,
    },
    /// A mirror did not deliver; the next place is asked.
    MirrorFailed {
        /// Host of the mirror.
        mirror: String,
        /// Why, with causes.
        cause: String,
    },
    /// Credentials could not be looked up; it goes on without.
    NoCredentials {
        /// Host of the registry.
        host: String,
        /// Why, with causes.
        cause: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Retry {
                doing, cause, wait, ..
            } => {
                // Causes begin with what was being done.
                let cause = cause.strip_prefix("could not ").unwrap_or(cause);
                let cause = cause.strip_prefix(doing.as_str()).unwrap_or(cause);
                let cause = cause.trim_start_matches(": ");
                let seconds = wait.as_secs_f32();
                write!(
                    f,
                    "could not {doing}: {cause}; trying again in {seconds:.1} s"
                )
            }
            Notice::MirrorFailed { mirror, cause } => {
                write!(
                    f,
                    "mirror `{mirror}` did not deliver, asking the next: {cause}"
                )
            }
            Notice::NoCredentials { host, cause } => {
                write!(f, "going on without credentials for `{host}`: {cause}")
            }
        }
    }
}

/// Receives [`Notice`]s, from any thread.
#[derive(Clone)]
pub struct Notify(pub Arc<dyn Fn(&Notice) + Send + Sync>);

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notify")
    }
}
