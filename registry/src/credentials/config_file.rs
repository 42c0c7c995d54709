//! Docker's `config.json` and Podman's `auth.json`: what they know of registries. All else in them
//! is kept as it is.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value, json};

use crate::credentials::{Credential, CredentialError};
use crate::location::same_registry;

/// Largest file that is read, in bytes.
const LARGEST: u64 = 4 << 20;

/// Some tools leave the padding away.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A credentials file.
pub(super) struct ConfigFile {
    path: PathBuf,
    root: Map<String, Value>,
}

impl ConfigFile {
    pub(super) fn empty(path: &Path) -> ConfigFile {
        ConfigFile {
            path: path.to_path_buf(),
            root: Map::new(),
        }
    }

    /// Reads a file; none if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<ConfigFile>, CredentialError> {
        let failed = |source| CredentialError::File {
            action: "read",
            path: path.to_path_buf(),
            source,
        };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(ConfigFile::empty(path)));
        }
        let malformed = |reason: String| CredentialError::Malformed {
            path: path.to_path_buf(),
            reason,
        };
        // The position is told; serde's own text may quote what is there.
        let root: Value = serde_json::from_slice(&bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            malformed(format!("it is not JSON at line {line}, column {column}"))
        })?;
        let Value::Object(root) = root else {
            return Err(malformed("it is not a JSON object".to_owned()));
        };
        for field in ["auths", "credHelpers"] {
            if !matches!(root.get(field), None | Some(Value::Object(_) | Value::Null)) {
                return Err(malformed(format!("`{field}` is not an object")));
            }
        }
        Ok(Some(ConfigFile {
            path: path.to_path_buf(),
            root,
        }))
    }

    /// The helper that keeps the credentials of a registry: its own, or that for all.
    pub(super) fn helper(&self, host: &str) -> Option<String> {
        let own = self
            .object("credHelpers")
            .find(|(key, _)| same_registry(split_key(key).0, host))
            .map(|(_, value)| value);
        own.or_else(|| self.root.get("credsStore"))
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
    }

    /// The credential in the file itself: of all that cover the repository the closest.
    pub(super) fn entry(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        let best = self
            .object("auths")
            .filter_map(|(key, value)| {
                let (own, path) = split_key(key);
                let covers = same_registry(own, host) && covers(path, repository);
                covers.then_some((path.len(), value))
            })
            .max_by_key(|(length, _)| *length);
        match best {
            Some((_, value)) => self.credential(value),
            None => Ok(None),
        }
    }

    /// Sets the entry of a registry; an empty one if there is no credential.
    pub(super) fn set(&mut self, key: &str, credential: Option<&Credential>) {
        let entry = match credential {
            None => json!({}),
            Some(Credential::Password { username, password }) => {
                json!({ "auth": BASE64.encode(format!("{username}:{password}")) })
            }
            Some(Credential::IdentityToken(token)) => json!({ "identitytoken": token }),
            Some(Credential::RegistryToken(token)) => json!({ "registrytoken": token }),
        };
        let auths = self.root.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        auths[key] = entry;
    }

    /// Removes all entries of a registry; false if there is none.
    pub(super) fn remove(&mut self, host: &str) -> bool {
        let Some(Value::Object(auths)) = self.root.get_mut("auths") else {
            return false;
        };
        let before = auths.len();
        auths.retain(|key, _| !same_registry(split_key(key).0, host));
        auths.len() != before
    }

    /// Replaces the file in one go, readable by its owner only.
    pub(super) fn write(&self) -> Result<(), CredentialError> {
        let failed = |source| CredentialError::File {
            action: "write",
            path: self.path.clone(),
            source,
        };
        // Through a symbolic link: dotfiles often are.
        let target = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        if let Some(folder) = target.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(failed)?;
        }
        let mut name = target.clone().into_os_string();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(name);
        let mut text = format!("{:#}", Value::Object(self.root.clone()));
        text.push('\n');
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &target)
        };
        write().map_err(|error| {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&temporary);
            failed(error)
        })
    }

    fn object(&self, field: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.root
            .get(field)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
    }

    fn credential(&self, entry: &Value) -> Result<Option<Credential>, CredentialError> {
        let text = |name: &str| {
            entry
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Credential::RegistryToken(token.to_owned())));
        }
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credential::IdentityToken(token.to_owned())));
        }
        if let Some(auth) = text("auth") {
            let pair = BASE64
                .decode(auth.trim())
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let Some((username, password)) = pair.as_deref().and_then(|pair| pair.split_once(':'))
            else {
                return Err(CredentialError::Malformed {
                    path: self.path.clone(),
                    reason: "an `auth` in it is not base64 of `user:password`".to_owned(),
                });
            };
            return Ok(Some(Credential::Password {
                username: username.to_owned(),
                password: password.trim_matches('\0').to_owned(),
            }));
        }
        Ok(match (text("username"), text("password")) {
            (Some(username), Some(password)) => Some(Credential::Password {
                username: username.to_owned(),
                password: password.to_owned(),
            }),
            _ => None,
        })
    }
}

/// Host and path of a key: `host`, `host/namespace`, `https://host/v1/`.
fn split_key(key: &str) -> (&str, &str) {
    let url = ["https://", "http://"]
        .iter()
        .find_map(|scheme| key.strip_prefix(scheme));
    let (host, path) = url
        .unwrap_or(key)
        .split_once('/')
        .unwrap_or((url.unwrap_or(key), ""));
    // A URL names the whole registry, whatever version of the API its path says.
    let whole = url.is_some() || matches!(path.trim_end_matches('/'), "v1" | "v2");
    (host, if whole { "" } else { path.trim_matches('/') })
}

/// Whether a namespace (empty for all) holds a repository.
fn covers(namespace: &str, repository: &str) -> bool {
    namespace.is_empty()
        || repository
            .strip_prefix(namespace)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
