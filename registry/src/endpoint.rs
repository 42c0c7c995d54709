//! The servers that stand behind a registry's name: itself and its mirrors, and how each is spoken
//! to.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ureq::http::Method;

use crate::client::Inner;
use crate::error::{RegistryError, TransportError};
use crate::location::{api_host, check_host, check_repository};
use crate::options::{Mirror, RetryPolicy};
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
    /// The registry that it mirrors.
    pub(crate) mirrors: Option<String>,
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
        match &self.mirrors {
            // Caches that serve several registries learn from this which one is meant.
            Some(registry) => url.with_parameter("ns", registry),
            None => url,
        }
    }

    /// The name of a repository on this server.
    pub(crate) fn repository_name(&self, repository: &str) -> String {
        if self.prefix.is_empty() {
            repository.to_owned()
        } else {
            format!("{}/{repository}", self.prefix)
        }
    }

    /// How often things are tried here.
    pub(crate) fn policy(&self, policy: RetryPolicy) -> RetryPolicy {
        match self.mirrors {
            Some(_) => RetryPolicy {
                tries: policy.tries.min(MIRROR_TRIES),
                ..policy
            },
            None => policy,
        }
    }
}

impl Inner {
    /// The registry itself.
    pub(crate) fn origin_endpoint(&self, host: &str) -> Result<Endpoint, RegistryError> {
        check_host(host)?;
        let server = api_host(host);
        Ok(Endpoint {
            origin: Origin::new(self.scheme(server)?, server),
            host: host.to_owned(),
            prefix: String::new(),
            mirrors: None,
        })
    }

    /// The mirrors of a registry, those that may resolve tags only if `tags`.
    pub(crate) fn mirrors(&self, host: &str, tags: bool) -> Vec<Mirror> {
        self.connections
            .config(host)
            .map(|config| config.mirrors.clone())
            .unwrap_or_default()
            .into_iter()
            .filter(|mirror| mirror.resolve || !tags)
            .collect()
    }

    pub(crate) fn mirror_endpoint(
        &self,
        mirror: &Mirror,
        host: &str,
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
            mirrors: Some(host.to_owned()),
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
