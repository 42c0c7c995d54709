//! Who we are, per registry: explicit credentials, Docker's `config.json`, Podman's `auth.json`.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A secret that proves who we are to one registry. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password, or access token in place of one.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// A refresh token (`identitytoken`) that the token server takes.
    IdentityToken(String),
    /// A token (`registrytoken`) that the registry takes as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Password { username, .. } => {
                write!(f, "Password({username:?}, …)")
            }
            Credential::IdentityToken(_) => f.write_str("IdentityToken(…)"),
            Credential::RegistryToken(_) => f.write_str("RegistryToken(…)"),
        }
    }
}

/// A failure of looking up or keeping credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A file could not be read or written.
    #[error("could not {action} the credentials file `{}`", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("the credentials file `{}` cannot be used: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong; never quotes its content.
        reason: String,
    },
    /// A credential helper failed.
    #[error("the credential helper `{program}` failed: {reason}")]
    Helper {
        /// The program.
        program: String,
        /// Why.
        reason: String,
    },
}

/// Where credentials come from.
#[derive(Debug, Clone, Default)]
pub struct CredentialStore {
    explicit: Vec<(String, Credential)>,
    files: Vec<PathBuf>,
}

impl CredentialStore {
    /// Knows nobody.
    pub fn new() -> CredentialStore {
        CredentialStore::default()
    }

    /// Adds a credential for a registry host; it counts before what is in files.
    pub fn with_credential(mut self, host: &str, credential: Credential) -> CredentialStore {
        self.explicit.push((host.to_owned(), credential));
        self
    }

    /// Adds a file in the format of Docker's `config.json` or Podman's `auth.json`, which may be
    /// missing. Files count in the order in which they are added.
    pub fn with_file(mut self, path: impl Into<PathBuf>) -> CredentialStore {
        self.files.push(path.into());
        self
    }
}
