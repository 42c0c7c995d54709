//! What can go wrong with a registry.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rbuild_cache::{Digest, StoreError};

use crate::credentials::CredentialError;
use crate::document::DocumentError;
use crate::location::NameError;

/// A failure of the registry client.
///
/// Texts do not repeat their source: print the whole chain. URLs are given without their query,
/// which may carry a signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A name cannot be asked for.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The settings say that nothing may be pulled from there.
    #[error("pulling {name} is forbidden: `{prefix}` is blocked")]
    Blocked {
        /// What was asked for.
        name: String,
        /// What is blocked.
        prefix: String,
    },
    /// A setting cannot be used.
    #[error("could not use {what}: {reason}")]
    Setting {
        /// Which setting, e.g. `the proxy` or `the certificate authority`.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// A file of the settings cannot be read.
    #[error("could not read {what} `{}`", path.display())]
    SettingFile {
        /// Which setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No connection was made, or it broke.
    #[error("could not {doing}{}", whose_connection(doing, host))]
    Connection {
        /// What was being done.
        doing: String,
        /// With whom.
        host: String,
        /// Why it failed.
        #[source]
        source: TransportError,
    },
    /// A transfer became too slow.
    #[error(
        "could not {doing}: `{host}` sent or took less than {bytes_per_second} bytes a second for {} s",
        window.as_secs_f32()
    )]
    Stalled {
        /// What was being done.
        doing: String,
        /// With whom.
        host: String,
        /// The least that was expected.
        bytes_per_second: u64,
        /// For how long.
        window: Duration,
    },
    /// The registry answered with an error.
    #[error("could not {doing}: `{host}` answered {status}{}", said(errors))]
    Status {
        /// What was being done.
        doing: String,
        /// Who answered.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said about it.
        errors: Vec<ServerError>,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// What was asked for is not there.
    #[error("could not {doing}: not found in `{host}`{}", said(errors))]
    NotFound {
        /// What was being done.
        doing: String,
        /// Who was asked.
        host: String,
        /// What the registry said about it.
        errors: Vec<ServerError>,
    },
    /// The registry wants credentials, or other ones.
    #[error("could not {doing}: `{host}` refused {}{}", whom(*with_credentials), said(errors))]
    Unauthorized {
        /// What was being done.
        doing: String,
        /// Who refused.
        host: String,
        /// The HTTP status: 401, 403, or the 400 of a token server.
        status: u16,
        /// Whether credentials were given to it.
        with_credentials: bool,
        /// What the registry said about it.
        errors: Vec<ServerError>,
    },
    /// Content does not have the digest that it should have.
    #[error("{what} from `{host}` is corrupt: expected {expected}, its content hashes to {actual}")]
    DigestMismatch {
        /// What was checked.
        what: String,
        /// Where it came from.
        host: String,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest that was found.
        actual: Digest,
    },
    /// Content does not have the size that its descriptor gives.
    #[error("{what} from `{host}` has {actual} bytes, its descriptor says {expected}")]
    SizeMismatch {
        /// What was checked.
        what: String,
        /// Where it came from.
        host: String,
        /// The size in the descriptor.
        expected: u64,
        /// The size that was found; more than `expected` if reading stopped there.
        actual: u64,
    },
    /// A manifest or index is refused.
    #[error("{what} is refused")]
    Document {
        /// Which document.
        what: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// A redirection is not followed.
    #[error("could not {doing}: redirection from `{from}` is not followed: {reason}")]
    Redirect {
        /// What was being done.
        doing: String,
        /// The URL that redirected.
        from: String,
        /// Why it is not followed.
        reason: String,
    },
    /// An answer breaks the protocol.
    #[error("could not {doing}: bad answer from `{host}`: {reason}")]
    Protocol {
        /// What was being done.
        doing: String,
        /// Who answered.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An answer is over a limit.
    #[error("could not {doing}: {what} is over the limit of {limit}")]
    Limit {
        /// What was being done.
        doing: String,
        /// What is too large or too many.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A web address cannot be used.
    #[error("`{address}` cannot be asked for: {reason}")]
    Address {
        /// The address, without credentials.
        address: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file is larger than what may be downloaded.
    #[error(
        "could not {doing}: it is over the limit of {limit} bytes for one download ({seen} so far)"
    )]
    TooLarge {
        /// What was being done.
        doing: String,
        /// The limit in bytes.
        limit: u64,
        /// The size that was announced or reached.
        seen: u64,
    },
    /// What was downloaded could not be written.
    #[error("could not {doing}: writing it failed")]
    Sink {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Credentials could not be looked up.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Reading a blob that is to be sent failed.
    #[error("could not read blob {digest} of the store")]
    BlobRead {
        /// The blob.
        digest: Digest,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It was tried again until tries or time were used up.
    #[error("gave up after {tries} tries in {:.1} s", elapsed.as_secs_f32())]
    GaveUp {
        /// How often it was tried without getting any further.
        tries: u32,
        /// How long.
        elapsed: Duration,
        /// The last failure.
        #[source]
        source: Box<RegistryError>,
    },
    /// The client was [interrupted](crate::Client::interrupt).
    #[error("could not {doing}: interrupted")]
    Interrupted {
        /// What was being done.
        doing: String,
    },
}

/// One error in the body of an answer: OCI distribution specification, "Error Codes".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// The code, e.g. `MANIFEST_UNKNOWN`; empty if the registry gave none.
    pub code: String,
    /// The message, with control characters escaped.
    pub message: String,
}

/// Why there is no connection, or why it broke.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The name has no address.
    #[error("the host name could not be resolved")]
    UnknownHost,
    /// The server's certificate is not trusted, or not valid for this host.
    #[error("the certificate of the server is not accepted: {0}")]
    Certificate(String),
    /// TLS broke off.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is not HTTP, or ended too early.
    #[error("the answer is not valid HTTP: {0}")]
    Http(String),
    /// The proxy refused.
    #[error("the proxy refused: {0}")]
    Proxy(String),
}

/// Whether and when something that failed should be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// It will fail in the same way.
    Never,
    /// After a while.
    Soon,
    /// When this time has passed: the registry said so.
    After(Duration),
}

impl RegistryError {
    /// Whether trying the same again may help.
    pub(crate) fn again(&self) -> Again {
        match self {
            RegistryError::Connection { source, .. } => match source {
                TransportError::Certificate(_) | TransportError::UnknownHost => Again::Never,
                _ => Again::Soon,
            },
            RegistryError::Stalled { .. } => Again::Soon,
            RegistryError::Status {
                status: 408 | 425 | 429 | 500 | 502 | 503 | 504,
                retry_after,
                ..
            } => retry_after.map_or(Again::Soon, Again::After),
            _ => Again::Never,
        }
    }

    /// The client was interrupted while it did this.
    pub(crate) fn interrupted(doing: &str) -> RegistryError {
        RegistryError::Interrupted {
            doing: doing.to_owned(),
        }
    }

    /// Whether what came is not what was asked for, so that another source may help.
    pub(crate) fn is_mismatch(&self) -> bool {
        matches!(
            self,
            RegistryError::DigestMismatch { .. } | RegistryError::SizeMismatch { .. }
        )
    }

    /// Returns the HTTP status that the server refused with, if that is what went wrong.
    pub fn status(&self) -> Option<u16> {
        match self {
            RegistryError::Status { status, .. } | RegistryError::Unauthorized { status, .. } => {
                Some(*status)
            }
            RegistryError::NotFound { .. } => Some(404),
            RegistryError::GaveUp { source, .. } => source.status(),
            _ => None,
        }
    }

    /// Whether the registry says that it does not have it.
    pub fn is_not_found(&self) -> bool {
        match self {
            RegistryError::NotFound { .. } => true,
            RegistryError::GaveUp { source, .. } => source.is_not_found(),
            _ => false,
        }
    }

    /// Returns what a user can do about it, none if nothing comes to mind.
    pub fn hint(&self) -> Option<String> {
        match self {
            RegistryError::GaveUp { source, .. } => source.hint(),
            RegistryError::Unauthorized {
                host,
                with_credentials,
                ..
            } => Some(if *with_credentials {
                format!(
                    "check that the repository exists and that this account may use it, or log in \
                     again: rbuild login {host}"
                )
            } else {
                format!("check that the repository exists, or log in: rbuild login {host}")
            }),
            RegistryError::Blocked { prefix, .. } => Some(format!(
                "the settings of registries (`registries.conf`) have `blocked = true` for `{prefix}`"
            )),
            RegistryError::Connection {
                host,
                source: TransportError::Certificate(_),
                ..
            } => Some(format!(
                "give the certificate authority of `{host}`, or mark this registry as insecure"
            )),
            RegistryError::Connection {
                host,
                source: TransportError::UnknownHost,
                ..
            } => Some(format!(
                "check the name `{host}`, and this machine's connection and name servers"
            )),
            RegistryError::Status { status: 429, .. } => {
                Some("wait a while, or log in: many registries limit anonymous pulls".to_owned())
            }
            _ => None,
        }
    }
}

fn said(errors: &[ServerError]) -> String {
    let mut text = String::new();
    for error in errors {
        text.push_str(if text.is_empty() { ": " } else { "; " });
        text.push_str(&error.to_string());
    }
    text
}

fn whom(with_credentials: bool) -> &'static str {
    if with_credentials {
        "the credentials"
    } else {
        "access without credentials"
    }
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code.is_empty(), self.message.is_empty()) {
            (true, _) => f.write_str(&self.message),
            (false, true) => f.write_str(&self.code),
            (false, false) => write!(f, "{} ({})", self.message, self.code),
        }
    }
}

/// Names the host of a broken connection, unless what was being done names it.
fn whose_connection(doing: &str, host: &str) -> String {
    if doing.contains(host) {
        String::new()
    } else {
        format!(": the connection to `{host}` failed")
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = plain(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&plain(&cause.to_string()));
        source = cause.source();
    }
    text
}

/// A system error as our own texts: without its number and its capital.
fn plain(text: &str) -> String {
    let Some((system, _)) = text.rsplit_once(" (os error ") else {
        return text.to_owned();
    };
    let mut letters = system.chars();
    let first = letters.next().into_iter().flat_map(char::to_lowercase);
    first.chain(letters).collect()
}
