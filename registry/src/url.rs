//! Absolute http and https URLs, taken apart as far as trust depends on the parts.

use std::fmt;

use crate::location::{check_host, split_port};

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// A server: what credentials and connections belong to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) scheme: Scheme,
    /// Host and, unless it is the scheme's own, port; in lower case.
    pub(crate) authority: String,
}

/// An absolute URL without user information and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Begins with a slash.
    path: String,
    query: Option<String>,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn port(self) -> &'static str {
        match self {
            Scheme::Http => "80",
            Scheme::Https => "443",
        }
    }
}

impl Origin {
    /// The server for `authority` (host, perhaps port), which was checked.
    pub(crate) fn new(scheme: Scheme, authority: &str) -> Origin {
        let authority = match split_port(authority) {
            Some((name, Some(port))) if port == scheme.port() => name,
            _ => authority,
        };
        Origin {
            scheme,
            authority: authority.to_ascii_lowercase(),
        }
    }

    /// The host without port; an IPv6 address without brackets.
    pub(crate) fn host(&self) -> &str {
        let name = split_port(&self.authority).map_or(self.authority.as_str(), |(name, _)| name);
        name.trim_start_matches('[').trim_end_matches(']')
    }

    /// A URL of this server. `path` begins with a slash.
    pub(crate) fn url(&self, path: &str) -> Url {
        Url {
            origin: self.clone(),
            path: path.to_owned(),
            query: None,
        }
    }

    /// Whether the host is this machine by its name or address.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(self.host())
    }
}

/// Whether a host name or address (without port and brackets) means this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

impl Url {
    /// Parses an absolute URL; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Url, &'static str> {
        // Visible ASCII only: nothing that could end a header line or be read in two ways.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('\\') {
            return Err("it has characters that a URL cannot have");
        }
        let (scheme, rest) = text.split_once("://").ok_or("it is not an absolute URL")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err("it is neither http nor https"),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if authority.contains('@') {
            return Err("it has user information");
        }
        check_host(authority).map_err(|_| "it has no valid host")?;
        Ok(Origin::new(scheme, authority).with_tail(tail))
    }

    /// Resolves a reference (absolute, `//host/…`, `/path`, relative, `?query`) against this URL.
    ///
    /// RFC 3986, section 5.2; dot segments are left to the server, since nothing here depends on
    /// paths.
    pub(crate) fn join(&self, reference: &str) -> Result<Url, &'static str> {
        if reference.contains("://") && !reference.starts_with(['/', '?']) {
            return Url::parse(reference);
        }
        if reference.starts_with("//") {
            return Url::parse(&format!("{}:{reference}", self.origin.scheme.name()));
        }
        if !reference.bytes().all(|byte| byte.is_ascii_graphic()) || reference.contains('\\') {
            return Err("it has characters that a URL cannot have");
        }
        let reference = reference.split('#').next().unwrap_or_default();
        if reference.starts_with('/') {
            return Ok(self.origin.clone().with_tail(reference));
        }
        if reference.starts_with('?') || reference.is_empty() {
            let tail = format!("{}{reference}", self.path);
            return Ok(self.origin.clone().with_tail(&tail));
        }
        let folder = &self.path[..=self.path.rfind('/').unwrap_or(0)];
        Ok(self
            .origin
            .clone()
            .with_tail(&format!("{folder}{reference}")))
    }

    /// Adds a query parameter.
    pub(crate) fn with_parameter(mut self, name: &str, value: &str) -> Url {
        let query = self.query.get_or_insert_default();
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(name);
        query.push('=');
        push_encoded(query, value);
        self
    }

    /// The whole text, as it is requested.
    pub(crate) fn request(&self) -> String {
        let mut text = self.to_string();
        if let Some(query) = &self.query {
            text.push('?');
            text.push_str(query);
        }
        text
    }
}

impl Origin {
    fn with_tail(self, tail: &str) -> Url {
        let (path, query) = match tail.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (tail, None),
        };
        Url {
            origin: self,
            path: if path.is_empty() { "/" } else { path }.to_owned(),
            query,
        }
    }
}

/// Percent-encodes everything but unreserved characters (RFC 3986, section 2.3).
pub(crate) fn push_encoded(text: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.authority)
    }
}

/// Without the query, which may hold a signature or a token: fit for messages.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn urls_are_taken_apart_and_put_together() {
        let parsed = url("https://Registry.Example:443/v2/x?a=b#c");
        assert_eq!(parsed.origin.authority, "registry.example");
        assert_eq!(parsed.request(), "https://registry.example/v2/x?a=b");
        assert_eq!(parsed.to_string(), "https://registry.example/v2/x");
        assert_eq!(url("http://h:5000").request(), "http://h:5000/");
        assert_eq!(url("http://[::1]:5000/x").origin.host(), "::1");
        assert_eq!(url("http://h?x").request(), "http://h/?x");
    }

    #[test]
    fn what_could_mislead_is_refused() {
        for bad in [
            "/v2/",
            "ftp://h/",
            "https://user:password@h/",
            "https://h/\r\nHost: evil",
            "https://h\\@evil/",
            "https:///path",
            "https://h:port/",
            "https://h/é",
            "file:///etc/passwd",
            "",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn references_are_resolved() {
        let base = url("https://h:1/v2/a/b?q=1");
        for (reference, expected) in [
            ("http://other/x", "http://other/x"),
            ("//other/x", "https://other/x"),
            ("/v2/c?d=e", "https://h:1/v2/c?d=e"),
            ("c", "https://h:1/v2/a/c"),
            ("?n=2", "https://h:1/v2/a/b?n=2"),
            ("/x?u=http://y", "https://h:1/x?u=http://y"),
        ] {
            assert_eq!(base.join(reference).unwrap().request(), expected);
        }
        assert!(base.join("/a b").is_err());
    }

    #[test]
    fn parameters_are_encoded() {
        let plain = url("http://h/p").with_parameter("digest", "sha256:ab");
        assert_eq!(plain.request(), "http://h/p?digest=sha256%3Aab");
        let more = url("http://h/p?_state=x%3D").with_parameter("a", "b c&d");
        assert_eq!(more.request(), "http://h/p?_state=x%3D&a=b%20c%26d");
    }

    #[test]
    fn loopback_is_told_by_name_and_address() {
        for host in ["localhost", "LOCALHOST", "127.3.2.1", "::1", "x.localhost"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "128.0.0.1", "::2", "10.0.0.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn same_server_is_same_origin() {
        assert_eq!(url("https://h/").origin, url("https://H:443/x").origin);
        assert_ne!(url("https://h/").origin, url("http://h/").origin);
        assert_ne!(url("https://h/").origin, url("https://h:444/").origin);
    }
}
