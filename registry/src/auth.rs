//! Authorization: which header a server wants, and the tokens that we hold.
//!
//! Basic credentials and tokens are kept per origin, so they can go nowhere else. A token server is
//! believed only as far as the registry is: over https it must be https, too.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::challenge::Challenge;
use crate::client::Inner;
use crate::credentials::Credential;
use crate::endpoint::Endpoint;
use crate::error::{RegistryError, chain};
use crate::options::Notice;
use crate::url::Origin;

/// A token that is about to expire is not used any more.
const MARGIN: Duration = Duration::from_secs(5);

/// What we want to do: token scopes such as `repository:library/alpine:pull`, sorted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Scope {
    /// The repository that credentials are looked up for.
    pub(crate) repository: String,
    scopes: Vec<String>,
}

/// What a server refused, and what it wants instead.
pub(crate) struct Rejected<'r> {
    pub(crate) challenge: &'r Challenge,
    /// The header that was sent.
    pub(crate) authorization: Option<&'r str>,
}

/// A token and how long it may be used.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) expires: Instant,
}

/// What all threads know about authorization.
#[derive(Default)]
pub(crate) struct Auth {
    known: Mutex<Known>,
    /// Told when a token has come, or has not.
    arrived: Condvar,
}

#[derive(Default)]
struct Known {
    challenges: HashMap<Origin, Challenge>,
    credentials: HashMap<(String, String), Option<Credential>>,
    tokens: HashMap<(Origin, Scope), Slot>,
}

enum Slot {
    /// Some thread is fetching it.
    Coming,
    Here(Token),
}

impl Scope {
    /// For reading a repository.
    pub(crate) fn pull(repository: &str) -> Scope {
        Scope {
            repository: repository.to_owned(),
            scopes: vec![format!("repository:{repository}:pull")],
        }
    }

    /// For writing to a repository, and mounting blobs from another one.
    pub(crate) fn push(repository: &str, mount_from: Option<&str>) -> Scope {
        let mut scopes = vec![format!("repository:{repository}:pull,push")];
        scopes.extend(mount_from.map(|from| format!("repository:{from}:pull")));
        scopes.sort();
        Scope {
            repository: repository.to_owned(),
            scopes,
        }
    }

    /// For listing the repositories of a registry.
    pub(crate) fn catalog() -> Scope {
        Scope {
            repository: String::new(),
            scopes: vec!["registry:catalog:*".to_owned()],
        }
    }

    /// What is asked of the token server: our own scopes and what the registry adds to them.
    fn with_wanted(&self, wanted: Option<&str>) -> Vec<String> {
        let mut scopes = self.scopes.clone();
        for scope in wanted.unwrap_or_default().split_ascii_whitespace() {
            if !covered(&scopes, scope) {
                scopes.push(scope.to_owned());
            }
        }
        scopes
    }
}

/// Whether one of the scopes has all actions of another.
fn covered(scopes: &[String], wanted: &str) -> bool {
    let Some((resource, actions)) = wanted.rsplit_once(':') else {
        return scopes.iter().any(|scope| scope == wanted);
    };
    scopes.iter().any(|scope| {
        scope.rsplit_once(':').is_some_and(|(own, allowed)| {
            own == resource
                && actions
                    .split(',')
                    .all(|action| allowed.split(',').any(|allowed| allowed == action))
        })
    })
}

/// Ends the fetching of a token however it ends, so that nobody waits for ever.
struct Fetching<'a> {
    auth: &'a Auth,
    key: (Origin, Scope),
    token: Option<Token>,
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        let mut known = self.auth.lock();
        match self.token.take() {
            Some(token) => known.tokens.insert(self.key.clone(), Slot::Here(token)),
            None => known.tokens.remove(&self.key),
        };
        drop(known);
        self.auth.arrived.notify_all();
    }
}

impl Auth {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The header for a request, as far as it is known what the server wants.
    pub(crate) fn authorization(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        doing: &str,
    ) -> Result<Option<String>, RegistryError> {
        let challenge = self.auth.lock().challenges.get(&endpoint.origin).cloned();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(self
                .credential(endpoint, scope)
                .and_then(|credential| basic_header(&credential))),
            Some(challenge @ Challenge::Bearer { .. }) => {
                let token = self.token(endpoint, scope, &challenge, None, doing)?;
                Ok(Some(bearer_header(&token.text)))
            }
        }
    }

    /// After a refusal: learns what the server wants, and tells whether there is now another header
    /// to try.
    pub(crate) fn renew_authorization(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        rejected: &Rejected<'_>,
        doing: &str,
    ) -> Result<bool, RegistryError> {
        let challenge = rejected.challenge;
        self.auth
            .lock()
            .challenges
            .insert(endpoint.origin.clone(), challenge.without_scope());
        let next = match challenge {
            Challenge::Basic => self
                .credential(endpoint, scope)
                .and_then(|credential| basic_header(&credential)),
            Challenge::Bearer { .. } => {
                let refused = rejected
                    .authorization
                    .and_then(|header| header.strip_prefix("Bearer "));
                let token = self.token(endpoint, scope, challenge, refused, doing)?;
                Some(bearer_header(&token.text))
            }
        };
        Ok(next.is_some() && next.as_deref() != rejected.authorization)
    }

    /// The token for a scope: the one that is there, unless it is `refused` or expires; else a new
    /// one, fetched by one thread for all.
    fn token(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        challenge: &Challenge,
        refused: Option<&str>,
        doing: &str,
    ) -> Result<Token, RegistryError> {
        let key = (endpoint.origin.clone(), scope.clone());
        let mut known = self.auth.lock();
        loop {
            match known.tokens.get(&key) {
                Some(Slot::Here(token))
                    if refused != Some(token.text.as_str())
                        && token.expires > Instant::now() + MARGIN =>
                {
                    return Ok(token.clone());
                }
                Some(Slot::Coming) => {
                    known = self
                        .auth
                        .arrived
                        .wait(known)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                _ => break,
            }
        }
        known.tokens.insert(key.clone(), Slot::Coming);
        drop(known);
        let mut fetching = Fetching {
            auth: &self.auth,
            key,
            token: None,
        };
        let credential = self.credential(endpoint, scope);
        let scopes = scope.with_wanted(wanted_scope(challenge));
        let token = self.fetch_token(endpoint, challenge, &scopes, credential.as_ref(), doing)?;
        fetching.token = Some(token.clone());
        Ok(token)
    }

    /// Who we are at a server. Not being able to find out is told, and means: nobody.
    pub(crate) fn credential(&self, endpoint: &Endpoint, scope: &Scope) -> Option<Credential> {
        let key = (endpoint.host.clone(), scope.repository.clone());
        if let Some(credential) = self.auth.lock().credentials.get(&key) {
            return credential.clone();
        }
        // A helper program may take its time: no lock is held meanwhile.
        let found = match self.options.credentials.lookup(&key.0, &key.1) {
            Ok(found) => found,
            Err(error) => {
                if let Some(notify) = &self.options.notify {
                    notify.0(&Notice::NoCredentials {
                        host: endpoint.host.clone(),
                        cause: chain(&error),
                    });
                }
                None
            }
        };
        self.auth.lock().credentials.insert(key, found.clone());
        found
    }

    /// Whether credentials were used for a scope.
    pub(crate) fn has_credential(&self, endpoint: &Endpoint, scope: &Scope) -> bool {
        let key = (endpoint.host.clone(), scope.repository.clone());
        matches!(self.auth.lock().credentials.get(&key), Some(Some(_)))
    }
}

fn wanted_scope(challenge: &Challenge) -> Option<&str> {
    match challenge {
        Challenge::Bearer { scope, .. } => scope.as_deref(),
        Challenge::Basic => None,
    }
}

/// The header for a server that wants name and password; tokens are of no use there.
pub(crate) fn basic_header(credential: &Credential) -> Option<String> {
    match credential {
        Credential::Password { username, password } => {
            let pair = STANDARD.encode(format!("{username}:{password}"));
            Some(format!("Basic {pair}"))
        }
        Credential::RegistryToken(token) => Some(bearer_header(token)),
        Credential::IdentityToken(_) => None,
    }
}

pub(crate) fn bearer_header(token: &str) -> String {
    format!("Bearer {token}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_joined_without_repetition() {
        let push = Scope::push("a/b", Some("c"));
        assert_eq!(
            push.with_wanted(Some("repository:a/b:pull registry:catalog:*")),
            [
                "repository:a/b:pull,push",
                "repository:c:pull",
                "registry:catalog:*"
            ]
        );
        let pull = Scope::pull("a");
        assert_eq!(
            pull.with_wanted(Some("repository:a:pull,push")),
            ["repository:a:pull", "repository:a:pull,push"]
        );
        assert_eq!(pull.with_wanted(None), ["repository:a:pull"]);
    }

    #[test]
    fn basic_header_is_the_one_of_the_standard() {
        let credential = Credential::Password {
            username: "Aladdin".to_owned(),
            password: "open sesame".to_owned(),
        };
        assert_eq!(
            basic_header(&credential).unwrap(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert_eq!(basic_header(&Credential::IdentityToken("x".into())), None);
    }
}
