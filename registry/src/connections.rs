//! Connections to servers: one agent (a pool with its TLS settings and proxy) per kind of server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ureq::Agent;

use crate::error::{RegistryError, TransportError};
use crate::location::same_registry;
use crate::options::{ClientOptions, RegistryConfig};
use crate::resolver::FileResolver;
use crate::tls;
use crate::url::{Origin, Scheme};

/// Idle connections that are kept per server: as many layers as anyone moves at a time.
const IDLE: usize = 16;

/// Size of the buffers of a connection in bytes: a TLS record or four fit.
const BUFFER: usize = 64 << 10;

/// Makes and keeps agents.
pub(crate) struct Connections {
    options: Arc<ClientOptions>,
    agents: Mutex<Agents>,
}

#[derive(Default)]
struct Agents {
    by_kind: HashMap<Kind, Agent>,
    closed: bool,
}

/// Servers with the same kind share an agent.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    /// The server's host, if there are settings for it.
    host: Option<String>,
    scheme: Scheme,
    proxied: bool,
}

impl Connections {
    pub(crate) fn new(options: Arc<ClientOptions>) -> Connections {
        Connections {
            options,
            agents: Mutex::default(),
        }
    }

    /// The settings of a host, by its own or its registry's name.
    pub(crate) fn config(&self, host: &str) -> Option<&RegistryConfig> {
        let registries = &self.options.registries;
        registries
            .get(host)
            .or_else(|| {
                registries
                    .iter()
                    .find(|(name, _)| same_registry(name, host))
                    .map(|(_, config)| config)
            })
            .or_else(|| {
                let domain = |name: &&String| {
                    name.strip_prefix('*')
                        .is_some_and(|domain| domain.starts_with('.') && host.ends_with(domain))
                };
                let names = registries.keys().filter(domain);
                names
                    .max_by_key(|name| name.len())
                    .and_then(|name| registries.get(name))
            })
            .or(self.options.other_registries.as_ref())
    }

    /// The agent that speaks with a server.
    pub(crate) fn agent(&self, origin: &Origin) -> Result<Agent, RegistryError> {
        let config = self.config(&origin.authority);
        let proxy = self.proxy(origin);
        let kind = Kind {
            host: config.map(|_| origin.authority.clone()),
            scheme: origin.scheme,
            proxied: proxy.is_some(),
        };
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if agents.closed {
            return Err(RegistryError::Interrupted {
                doing: format!("connect to `{origin}`"),
            });
        }
        if let Some(agent) = agents.by_kind.get(&kind) {
            return Ok(agent.clone());
        }
        let agent = self.make(origin.scheme, config, proxy)?;
        agents.by_kind.insert(kind, agent.clone());
        Ok(agent)
    }

    /// Closes all connections, also those in use; no new ones are made.
    pub(crate) fn close(&self) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.closed = true;
        for (_, agent) in agents.by_kind.drain() {
            agent.shutdown();
        }
    }

    fn make(
        &self,
        scheme: Scheme,
        config: Option<&RegistryConfig>,
        proxy: Option<&str>,
    ) -> Result<Agent, RegistryError> {
        let timeouts = &self.options.timeouts;
        let mut builder = Agent::config_builder()
            .http_status_as_error(false)
            // Redirections are followed by us: credentials must not travel with them.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy.map(make_proxy).transpose()?)
            .user_agent(self.options.user_agent.as_str())
            // Blobs are hashed as they are; a transport encoding would only be in the way.
            .accept_encoding("identity")
            .timeout_connect(Some(timeouts.connect))
            .timeout_per_read(Some(timeouts.stall))
            .timeout_per_write(Some(timeouts.stall))
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_idle_connections(4 * IDLE)
            .max_idle_connections_per_host(IDLE);
        if scheme == Scheme::Https {
            builder = builder.tls_config(tls::config(&self.options, config)?);
        }
        Ok(Agent::with_parts(
            builder.build(),
            ureq::unversioned::transport::DefaultConnector::default(),
            FileResolver::system(),
        ))
    }

    /// The proxy for a server, if there is one between.
    fn proxy(&self, origin: &Origin) -> Option<&str> {
        let settings = self.options.proxy.as_ref()?;
        if origin.is_loopback() || bypasses(&settings.no_proxy, origin) {
            return None;
        }
        match origin.scheme {
            Scheme::Http => settings.http.as_deref(),
            Scheme::Https => settings.https.as_deref(),
        }
        .filter(|proxy| !proxy.is_empty())
    }
}

fn make_proxy(text: &str) -> Result<ureq::Proxy, RegistryError> {
    let refuse = |reason: &str| RegistryError::Setting {
        what: "the proxy",
        reason: reason.to_owned(),
    };
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    if !matches!(scheme, None | Some("http" | "https")) {
        return Err(refuse("only http and https proxies are supported"));
    }
    // The text may hold a password: it is not quoted.
    ureq::Proxy::new(text).map_err(|_| refuse("it is not a valid URL"))
}

/// Whether `NO_PROXY` says that a server is reached directly.
///
/// A name stands for itself and everything below it, `.name` only for what is below, `*` for all;
/// addresses and networks (`10.0.0.0/8`) are compared as such; a port restricts any of them.
fn bypasses(no_proxy: &str, origin: &Origin) -> bool {
    let host = origin.host();
    let port = origin
        .authority
        .strip_prefix(host)
        .and_then(|rest| rest.strip_prefix(':'));
    no_proxy
        .split([',', ' '])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            let (pattern, wanted) = match entry.rsplit_once(':') {
                Some((pattern, wanted))
                    if !pattern.contains(':') && wanted.bytes().all(|b| b.is_ascii_digit()) =>
                {
                    (pattern, Some(wanted))
                }
                _ => (entry, None),
            };
            matches_host(&pattern.to_ascii_lowercase(), host)
                && (wanted.is_none() || wanted == port)
        })
}

fn matches_host(pattern: &str, host: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        return match pattern.split_once('/') {
            Some((network, bits)) => in_network(address, network, bits),
            None => pattern
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|own| own == address),
        };
    }
    let pattern = pattern.strip_prefix('*').unwrap_or(pattern);
    match pattern.strip_prefix('.') {
        Some(_) => host.ends_with(pattern),
        None => {
            host == pattern
                || host
                    .strip_suffix(pattern)
                    .is_some_and(|rest| rest.ends_with('.'))
        }
    }
}

fn in_network(address: std::net::IpAddr, network: &str, bits: &str) -> bool {
    use std::net::IpAddr::{V4, V6};
    let (Ok(network), Ok(bits)) = (network.parse::<std::net::IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let (address, network, width) = match (address, network) {
        (V4(address), V4(network)) => (
            u128::from(address.to_bits()),
            u128::from(network.to_bits()),
            32,
        ),
        (V6(address), V6(network)) => (address.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    let Some(host_bits) = u32::checked_sub(width, bits) else {
        return false;
    };
    // All 128 bits are host bits in `::/0`: a shift by the full width is not defined.
    let prefix = |bits: u128| bits.checked_shr(host_bits).unwrap_or(0);
    prefix(address) == prefix(network)
}

/// Says what broke in our own words.
pub(crate) fn transport_error(error: ureq::Error) -> TransportError {
    match error {
        ureq::Error::Io(error) => io_error(error),
        ureq::Error::HostNotFound => TransportError::UnknownHost,
        ureq::Error::Rustls(error) => tls_error(&error),
        ureq::Error::Tls(text) => TransportError::Tls(text.to_owned()),
        ureq::Error::ConnectProxyFailed(text) => TransportError::Proxy(text),
        ureq::Error::Timeout(what) => TransportError::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("timed out ({what})"),
        )),
        other => TransportError::Http(other.to_string()),
    }
}

fn io_error(error: std::io::Error) -> TransportError {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(error) => tls_error(error),
        None => TransportError::Io(error),
    }
}

fn tls_error(error: &rustls::Error) -> TransportError {
    match error {
        rustls::Error::InvalidCertificate(reason) => {
            TransportError::Certificate(reason.to_string())
        }
        other => TransportError::Tls(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_follows_the_usual_rules() {
        let bypassed = |list: &str, host: &str| bypasses(list, &Origin::new(Scheme::Https, host));
        for (list, host) in [
            ("example.com", "example.com"),
            ("example.com", "Sub.Example.com"),
            (".example.com", "sub.example.com"),
            ("*.example.com", "sub.example.com"),
            ("*", "anything"),
            ("a, b ,c", "b"),
            ("10.0.0.0/8", "10.1.2.3:5000"),
            ("10.1.2.3", "10.1.2.3"),
            ("example.com:5000", "example.com:5000"),
            ("fd00::/8", "[fd00::1]"),
            ("0.0.0.0/0", "1.2.3.4"),
        ] {
            assert!(bypassed(list, host), "{list} should cover {host}");
        }
        for (list, host) in [
            ("", "example.com"),
            ("example.com", "notexample.com"),
            (".example.com", "example.com"),
            ("10.0.0.0/8", "11.1.2.3"),
            ("10.0.0.0/99", "10.1.2.3"),
            ("example.com:5000", "example.com:5001"),
            ("example.com:5000", "example.com"),
        ] {
            assert!(!bypassed(list, host), "{list} should not cover {host}");
        }
    }

    #[test]
    fn proxies_that_cannot_be_used_are_refused() {
        assert!(make_proxy("http://user:secret@proxy:3128").is_ok());
        assert!(make_proxy("proxy:3128").is_ok());
        let error = make_proxy("socks5://user:secret@proxy").unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }
}
