//! Who we are, per registry: explicit credentials, Docker's `config.json`, Podman's `auth.json`, and
//! the helper programs that they name.

mod config_file;
mod helper;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use self::config_file::ConfigFile;

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
            Credential::Password { username, .. } => write!(f, "Password({username:?}, …)"),
            Credential::IdentityToken(_) => f.write_str("IdentityToken(…)"),
            Credential::RegistryToken(_) => f.write_str("RegistryToken(…)"),
        }
    }
}

/// A failure of looking up or keeping credentials. Never quotes a secret.
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
        /// What is wrong.
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

    /// Looks up who we are at a registry, for one of its repositories (empty for none in
    /// particular). May start a credential helper.
    pub fn lookup(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        let explicit = self
            .explicit
            .iter()
            .find(|(own, _)| crate::location::same_registry(own, host));
        if let Some((_, credential)) = explicit {
            return Ok(Some(credential.clone()));
        }
        for path in &self.files {
            let Some(file) = ConfigFile::read(path)? else {
                continue;
            };
            if let Some(program) = file.helper(host)
                && let Some(credential) = helper::get(&program, &server_key(host))?
            {
                return Ok(Some(credential));
            }
            if let Some(credential) = file.entry(host, repository)? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }

    /// Keeps a credential in a file, or with the helper that the file names. The file is made if it
    /// is not there, readable by its owner only.
    ///
    /// Returns the helper program that has it now; none if it stands in the file.
    pub fn save(
        path: &Path,
        host: &str,
        credential: &Credential,
    ) -> Result<Option<String>, CredentialError> {
        let mut file = ConfigFile::read(path)?.unwrap_or_else(|| ConfigFile::empty(path));
        let key = server_key(host);
        let program = file.helper(host);
        if let Some(program) = &program {
            helper::store(program, &key, credential)?;
            // Only that there is something, as docker does: `logout` finds it by this.
            file.set(&key, None);
        } else {
            file.set(&key, Some(credential));
        }
        file.write()?;
        Ok(program)
    }

    /// Forgets what a file, or the helper that it names, knows of a registry; false if that was
    /// nothing.
    pub fn erase(path: &Path, host: &str) -> Result<bool, CredentialError> {
        let Some(mut file) = ConfigFile::read(path)? else {
            return Ok(false);
        };
        let mut known = false;
        if let Some(program) = file.helper(host) {
            let key = server_key(host);
            known = helper::get(&program, &key)?.is_some();
            if known {
                helper::erase(&program, &key)?;
            }
        }
        if file.remove(host) {
            file.write()?;
            known = true;
        }
        Ok(known)
    }
}

/// The name under which files and helpers keep a registry.
fn server_key(host: &str) -> String {
    if crate::location::same_registry(host, crate::location::DOCKER_HUB) {
        // What docker has called it since its first version.
        return "https://index.docker.io/v1/".to_owned();
    }
    host.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn password(username: &str, password: &str) -> Credential {
        Credential::Password {
            username: username.to_owned(),
            password: password.to_owned(),
        }
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn secrets_are_not_shown() {
        for credential in [
            password("me", "secret"),
            Credential::IdentityToken("secret".into()),
            Credential::RegistryToken("secret".into()),
        ] {
            let store = CredentialStore::new().with_credential("h", credential);
            assert!(!format!("{store:?}").contains("secret"));
        }
    }

    #[test]
    fn credentials_belong_to_their_host() {
        // user:pass, and two namespaces as podman writes them
        let (_folder, path) = file(
            r#"{"auths":{
                "registry.example":{"auth":"dXNlcjpwYXNz"},
                "other.example/team":{"auth":"dGVhbTp4"},
                "other.example/team/app":{"auth":"YXBwOnk="},
                "https://index.docker.io/v1/":{"auth":"aHViOno="},
                "token.example":{"auth":"bWU6","identitytoken":"refresh"},
                "raw.example":{"registrytoken":"raw"},
                "old.example":{"username":"u","password":"p"},
                "empty.example":{}
            }}"#,
        );
        let store = CredentialStore::new()
            .with_file("/does/not/exist")
            .with_file(&path);
        let find = |host: &str, repository: &str| store.lookup(host, repository).unwrap();
        assert_eq!(
            find("registry.example", "a"),
            Some(password("user", "pass"))
        );
        assert_eq!(find("registry.example:5000", "a"), None);
        assert_eq!(find("xregistry.example", "a"), None);
        assert_eq!(find("other.example", "team/x"), Some(password("team", "x")));
        assert_eq!(
            find("other.example", "team/app"),
            Some(password("app", "y"))
        );
        assert_eq!(find("other.example", "teams"), None);
        assert_eq!(find("docker.io", "library/x"), Some(password("hub", "z")));
        assert_eq!(
            find("token.example", "a"),
            Some(Credential::IdentityToken("refresh".into()))
        );
        assert_eq!(
            find("raw.example", "a"),
            Some(Credential::RegistryToken("raw".into()))
        );
        assert_eq!(find("old.example", "a"), Some(password("u", "p")));
        assert_eq!(find("empty.example", "a"), None);
        let explicit = store
            .clone()
            .with_credential("docker.io", password("a", "b"));
        assert_eq!(
            explicit.lookup("registry-1.docker.io", "x").unwrap(),
            Some(password("a", "b"))
        );
    }

    #[test]
    fn bad_files_are_told_without_quoting_them() {
        for bad in [
            "secret",
            r#"{"auths":["secret"]}"#,
            r#"{"auths":{"h":{"auth":"secret!"}}}"#,
        ] {
            let (_folder, path) = file(bad);
            let error = CredentialStore::new()
                .with_file(&path)
                .lookup("h", "x")
                .unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_was_saved_is_found_and_the_rest_of_the_file_stays() {
        let (folder, path) = file(r#"{"auths":{"a.example":{"auth":"dTpw"}},"proxies":{"x":1}}"#);
        let secret = password("me", "p:w");
        assert_eq!(
            CredentialStore::save(&path, "b.example", &secret).unwrap(),
            None
        );
        let store = CredentialStore::new().with_file(&path);
        assert_eq!(store.lookup("b.example", "").unwrap(), Some(secret));
        assert_eq!(
            store.lookup("a.example", "").unwrap(),
            Some(password("u", "p"))
        );
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("proxies"), "{text}");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(CredentialStore::erase(&path, "b.example").unwrap());
        assert!(!CredentialStore::erase(&path, "b.example").unwrap());
        assert_eq!(store.lookup("b.example", "").unwrap(), None);
        let fresh = folder.path().join("new/auth.json");
        let token = Credential::IdentityToken("t".into());
        CredentialStore::save(&fresh, "docker.io", &token).unwrap();
        let store = CredentialStore::new().with_file(&fresh);
        assert_eq!(store.lookup("docker.io", "").unwrap(), Some(token));
    }

    /// A helper that keeps one secret in a file beside it.
    fn fake_helper(folder: &Path) -> String {
        let program = folder.join("docker-credential-fake");
        let script = format!(
            "#!/bin/sh\nread server || true\ncase \"$1\" in\n\
             get) [ \"$server\" = known.example ] || {{ echo credentials not found in native \
             keychain; exit 1; }}; echo '{{\"ServerURL\":\"x\",\"Username\":\"hu\",\"Secret\":\"hs\"}}';;\n\
             *) echo \"$1 $server\" >> {}/log;;\nesac\n",
            folder.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program.display().to_string()
    }

    #[test]
    fn helpers_are_asked() {
        let folder = tempfile::tempdir().unwrap();
        let program = fake_helper(folder.path());
        let get = |server: &str| helper::get_from(&program, server).unwrap();
        assert_eq!(get("known.example"), Some(password("hu", "hs")));
        assert_eq!(get("unknown.example"), None);
    }

    #[test]
    fn a_missing_helper_is_an_error_that_names_it() {
        let (_folder, path) = file(r#"{"credHelpers":{"h.example":"rbuild-test-not-there"}}"#);
        let store = CredentialStore::new().with_file(&path);
        let error = store.lookup("h.example", "").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("docker-credential-rbuild-test-not-there")
        );
        assert_eq!(store.lookup("other.example", "").unwrap(), None);
        let (_folder, path) = file(r#"{"credsStore":"../../bin/sh"}"#);
        let error = CredentialStore::new()
            .with_file(&path)
            .lookup("h", "")
            .unwrap_err();
        assert!(matches!(error, CredentialError::Helper { .. }), "{error}");
    }
}
