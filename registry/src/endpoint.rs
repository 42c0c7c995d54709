//! The servers that stand behind a registry's name: itself and its mirrors, and how each is spoken
//! to.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ureq::http::Method;

use crate::client::Inner;
use crate::error::{RegistryError, TransportError};
use crate::location::{Location, api_host, check_host, check_repository, same_registry};
use crate::options::{Mirror, Namespace, RetryPolicy};
use crate::retry::Attempts;
use crate::transport::Request;
use crate::url::{Origin, Scheme, Url, is_loopback};

/// Longest wait for an answer while finding out whether https is spoken.
const PROBE: std::time::Duration = std::time::Duration::from_secs(10);

/// A mirror is tried less often: there is another place to ask.
const MIRROR_TRIES: u32 = 2;

/// A server of a registry.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) origin: Origin,
    /// The name by which its credentials are known.
    pub(crate) host: String,
    /// Path before repositories, without slashes at its ends.
    prefix: String,
    /// The path that this one stands for, when it is in place of a part of a registry.
    stands_for: String,
    /// The registry whose repositories are asked for, if that is another one.
    registry: Option<String>,
    /// Whether there is another place to ask.
    mirror: bool,
}

/// What the settings say of a repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule<'a> {
    pub(crate) namespace: &'a Namespace,
    /// The part of the repository's path that the prefix of the namespace names.
    path: &'a str,
}

/// Which schemes hosts speak, as far as that had to be found out.
#[derive(Debug, Default)]
pub(crate) struct Schemes {
    known: Mutex<HashMap<String, Scheme>>,
    /// Held while finding out, so that threads that start together ask once.
    probing: Mutex<()>,
}

impl Endpoint {
    /// A URL of the API below `/v2/`; `rest` begins without a slash.
    pub(crate) fn api(&self, rest: &str) -> Url {
        self.origin.url(&format!("/v2/{rest}"))
    }

    /// A URL in a repository; `rest` begins without a slash.
    pub(crate) fn repository(&self, repository: &str, rest: &str) -> Url {
        let name = self.repository_name(repository);
        let url = self.origin.url(&format!("/v2/{name}/{rest}"));
        match &self.registry {
            // Caches that serve several registries learn from this which one is meant.
            Some(registry) => url.with_parameter("ns", registry),
            None => url,
        }
    }

    /// The name of a repository on this server.
    pub(crate) fn repository_name(&self, repository: &str) -> String {
        let rest = below(repository, &self.stands_for).unwrap_or(repository);
        match (self.prefix.as_str(), rest) {
            ("", rest) => rest.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, rest) => format!("{prefix}/{rest}"),
        }
    }

    /// The repository that a blob may be mounted from: what is named elsewhere is not looked for here.
    pub(crate) fn mount_from<'a>(&self, from: Option<&'a str>) -> Option<&'a str> {
        from.filter(|_| self.prefix.is_empty() && self.stands_for.is_empty())
    }

    /// How often things are tried here.
    pub(crate) fn policy(&self, policy: RetryPolicy) -> RetryPolicy {
        if !self.mirror {
            return policy;
        }
        RetryPolicy {
            tries: policy.tries.min(MIRROR_TRIES),
            ..policy
        }
    }
}

/// What follows a path in the path of a repository; none if it does not lie there.
fn below<'a>(repository: &'a str, path: &str) -> Option<&'a str> {
    match repository.strip_prefix(path)? {
        rest if path.is_empty() || rest.is_empty() => Some(rest),
        rest => rest.strip_prefix('/'),
    }
}

impl Namespace {
    /// The part of the repository's path that the prefix names; none if it is about something else.
    fn fits<'a>(&'a self, host: &str, repository: &str) -> Option<&'a str> {
        let (own, path) = self.prefix.split_once('/').unwrap_or((&self.prefix, ""));
        let domain = own.strip_prefix('*').filter(|own| own.starts_with('.'));
        let same = match domain {
            Some(domain) => host.ends_with(domain) && host.len() > domain.len(),
            None => same_registry(own, host),
        };
        (same && below(repository, path).is_some()).then_some(path)
    }
}

impl Inner {
    /// What counts for a repository.
    pub(crate) fn rule(&self, location: &Location) -> Option<Rule<'_>> {
        let namespaces = self.options.namespaces.iter();
        let fitting = namespaces.filter_map(|namespace| {
            let path = namespace.fits(&location.host, &location.repository)?;
            Some(Rule { namespace, path })
        });
        // Of several for one name the first counts.
        fitting.reduce(|best, rule| {
            let length = |rule: &Rule<'_>| rule.namespace.prefix.len();
            if length(&rule) > length(&best) {
                rule
            } else {
                best
            }
        })
    }

    /// The registry of a repository, or what the settings put in its place.
    pub(crate) fn origin_endpoint(&self, location: &Location) -> Result<Endpoint, RegistryError> {
        let rule = self.rule(location);
        match rule.and_then(|rule| rule.namespace.instead.as_ref()) {
            // A path of the own host is another place, the host itself under another name is not.
            Some(place)
                if !place.prefix.is_empty() || !same_registry(&place.host, &location.host) =>
            {
                Ok(Endpoint {
                    mirror: false,
                    ..self.mirror_endpoint(place, rule, location)?
                })
            }
            _ => self.host_endpoint(&location.host),
        }
    }

    /// A registry by its name.
    pub(crate) fn host_endpoint(&self, host: &str) -> Result<Endpoint, RegistryError> {
        check_host(host)?;
        let server = api_host(host);
        Ok(Endpoint {
            origin: Origin::new(self.scheme(server)?, server),
            host: host.to_owned(),
            prefix: String::new(),
            stands_for: String::new(),
            registry: None,
            mirror: false,
        })
    }

    /// A mirror that a rule gives for a repository.
    pub(crate) fn mirror_endpoint(
        &self,
        mirror: &Mirror,
        rule: Option<Rule<'_>>,
        location: &Location,
    ) -> Result<Endpoint, RegistryError> {
        check_host(&mirror.host)?;
        if !mirror.prefix.is_empty() {
            check_repository(&mirror.prefix)?;
        }
        let server = api_host(&mirror.host);
        Ok(Endpoint {
            origin: Origin::new(self.scheme(server)?, server),
            host: mirror.host.clone(),
            prefix: mirror.prefix.clone(),
            stands_for: rule.map_or_else(String::new, |rule| rule.path.to_owned()),
            registry: Some(location.host.clone()),
            mirror: true,
        })
    }

    /// Which scheme a host speaks: https, unless the settings say otherwise or it is this machine.
    fn scheme(&self, host: &str) -> Result<Scheme, RegistryError> {
        let config = self.connections.config(host);
        if config.is_some_and(|config| config.plain_http) {
            return Ok(Scheme::Http);
        }
        let may_be_plain = config.is_some_and(|config| config.insecure)
            || is_loopback(Origin::new(Scheme::Https, host).host());
        if !may_be_plain {
            return Ok(Scheme::Https);
        }
        let known = |schemes: &HashMap<String, Scheme>| schemes.get(host).copied();
        let schemes = &self.schemes.known;
        let look = || known(&schemes.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(scheme) = look() {
            return Ok(scheme);
        }
        let probing = self.schemes.probing.lock();
        let _probing = probing.unwrap_or_else(PoisonError::into_inner);
        if let Some(scheme) = look() {
            return Ok(scheme);
        }
        let doing = format!("connect to `{host}`");
        let mut attempts = Attempts::new(
            self.options.retry,
            &self.interrupt,
            self.options.notify.as_ref(),
            &doing,
        );
        loop {
            match self.probe(host, &doing) {
                Ok(scheme) => {
                    let mut schemes = schemes.lock().unwrap_or_else(PoisonError::into_inner);
                    schemes.insert(host.to_owned(), scheme);
                    return Ok(scheme);
                }
                Err(error) => attempts.again(error)?,
            }
        }
    }

    /// Asks over https and, if that is not spoken there, over http. No credentials are sent.
    fn probe(&self, host: &str, doing: &str) -> Result<Scheme, RegistryError> {
        let ask = |scheme| {
            let url = Origin::new(scheme, host).url("/v2/");
            let request = Request::new(doing, Method::GET, url).patience(PROBE);
            self.exchange(&request, None).map(|answer| answer.status)
        };
        let Err(over_tls) = ask(Scheme::Https) else {
            return Ok(Scheme::Https);
        };
        // Who has a certificate speaks TLS: a bad one must not lead to no protection at all.
        let speaks_tls = matches!(
            over_tls,
            RegistryError::Connection {
                source: TransportError::Certificate(_),
                ..
            } | RegistryError::Redirect { .. }
        );
        if speaks_tls || matches!(over_tls, RegistryError::Interrupted { .. }) {
            return Err(over_tls);
        }
        match ask(Scheme::Http) {
            // What TLS servers say to http: https only failed by chance.
            Ok(400) => Err(over_tls),
            Ok(_) => Ok(Scheme::Http),
            Err(error) => Err(error),
        }
    }
}
