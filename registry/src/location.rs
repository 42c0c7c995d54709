//! Where something lies: registry host, repository, tag or digest; and what lies there.

use std::fmt;

use rbuild_cache::Digest;
use serde::{Deserialize, Serialize};

/// The name that users know Docker Hub by.
pub(crate) const DOCKER_HUB: &str = "docker.io";

/// The host that serves Docker Hub's registry.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// Longest host name with port that is accepted.
const HOST_LENGTH: usize = 262;

/// Longest repository path that is accepted, as in the OCI distribution specification.
const REPOSITORY_LENGTH: usize = 255;

/// Longest tag, as in the OCI distribution specification.
const TAG_LENGTH: usize = 128;

/// An image, or another artifact, in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    /// Host and perhaps port, as in image names: `docker.io`, `localhost:5000`.
    pub host: String,
    /// Path of the repository, e.g. `library/alpine`.
    pub repository: String,
    /// Tag or digest.
    pub reference: Reference,
}

/// What a name points to inside its repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A name that may move.
    Tag(String),
    /// Exactly this manifest.
    Digest(Digest),
}

/// Type, digest and size of some content. OCI image specification, "Content Descriptors".
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
}

/// What a name points to now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The manifest or index.
    pub descriptor: Descriptor,
}

/// Why a location cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {part} `{}`", text.escape_default())]
pub struct NameError {
    /// Which part of the name: `registry host`, `repository` or `tag`.
    pub part: &'static str,
    /// The text.
    pub text: String,
}

impl Location {
    /// Checks that the parts can stand in a URL and mean there what they say.
    pub(crate) fn check(&self) -> Result<(), NameError> {
        check_host(&self.host)?;
        check_repository(&self.repository)?;
        if let Reference::Tag(tag) = &self.reference {
            check_tag(tag)?;
        }
        Ok(())
    }

    /// The same repository with another reference.
    pub(crate) fn with_digest(&self, digest: Digest) -> Location {
        Location {
            reference: Reference::Digest(digest),
            ..self.clone()
        }
    }
}

/// Returns the host that serves the registry with this name.
pub(crate) fn api_host(host: &str) -> &str {
    match host {
        DOCKER_HUB | "index.docker.io" => DOCKER_HUB_API,
        other => other,
    }
}

/// Whether both names stand for Docker Hub or are the same.
pub(crate) fn same_registry(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || api_host(one).eq_ignore_ascii_case(api_host(other))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        match &self.reference {
            Reference::Tag(tag) => write!(f, ":{tag}"),
            Reference::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => f.write_str(tag),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Checks a host with or without port: a name, an IPv4 address or an IPv6 address in brackets.
pub(crate) fn check_host(host: &str) -> Result<(), NameError> {
    let refuse = || NameError {
        part: "registry host",
        text: host.to_owned(),
    };
    if host.is_empty() || host.len() > HOST_LENGTH {
        return Err(refuse());
    }
    let (name, port) = split_port(host).ok_or_else(refuse)?;
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(refuse());
    }
    let legal = match name.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            !name.is_empty()
                && !name.starts_with(['-', '.'])
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        }
    };
    if legal { Ok(()) } else { Err(refuse()) }
}

/// Splits `host:port`; the brackets of an IPv6 address stay. None if it cannot be split.
pub(crate) fn split_port(host: &str) -> Option<(&str, Option<&str>)> {
    if host.starts_with('[') {
        let end = host.find(']')? + 1;
        return match host[end..].strip_prefix(':') {
            Some(port) => Some((&host[..end], Some(port))),
            None if end == host.len() => Some((host, None)),
            None => None,
        };
    }
    match host.split_once(':') {
        Some((name, port)) => Some((name, Some(port))),
        None => Some((host, None)),
    }
}

/// Checks a repository path: lower-case components joined by single `.`, `_`, `__` or dashes.
pub(crate) fn check_repository(repository: &str) -> Result<(), NameError> {
    let legal = !repository.is_empty()
        && repository.len() <= REPOSITORY_LENGTH
        && repository.split('/').all(legal_component);
    if legal {
        return Ok(());
    }
    Err(NameError {
        part: "repository",
        text: repository.to_owned(),
    })
}

fn legal_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alphanumeric(*first)
        && alphanumeric(*last)
        && component
            .split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit())
            .all(|separator| {
                matches!(separator, "" | "." | "_" | "__")
                    || separator.bytes().all(|byte| byte == b'-')
            })
}

/// Checks a tag: `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
pub(crate) fn check_tag(tag: &str) -> Result<(), NameError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let legal = tag.len() <= TAG_LENGTH
        && tag.bytes().next().is_some_and(word)
        && tag
            .bytes()
            .all(|byte| word(byte) || matches!(byte, b'.' | b'-'));
    if legal {
        return Ok(());
    }
    Err(NameError {
        part: "tag",
        text: tag.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_addresses_with_or_without_port() {
        for good in [
            "docker.io",
            "localhost:5000",
            "127.0.0.1:80",
            "[::1]:5000",
            "[::1]",
            "my_host",
        ] {
            assert_eq!(check_host(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a b",
            "user@host",
            "host/path",
            "host:port",
            "host:70000",
            "::1",
            "[::1",
            "[::1]x",
            "[evil]",
            "-x",
            "a?b",
            "a#b",
            "h\r\nx",
            "a%2fb",
        ] {
            assert!(check_host(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn repositories_cannot_leave_their_place_in_the_url() {
        for good in ["library/alpine", "a", "a.b_c__d---e/f1", "x/y/z/0"] {
            assert_eq!(check_repository(good), Ok(()), "{good}");
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "..", "a/../b", "A", "a..b", "a___b", "a._b", "-a", "a-",
            "a?b", "a b", "a%2e", "é",
        ] {
            assert!(check_repository(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn tags_follow_the_specification() {
        let long = "x".repeat(128);
        for good in ["latest", "_x", "1.2-3", long.as_str()] {
            assert_eq!(check_tag(good), Ok(()), "{good}");
        }
        let too_long = "x".repeat(129);
        for bad in ["", ".x", "-x", "a/b", "a:b", "a b", "é", too_long.as_str()] {
            assert!(check_tag(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn docker_hub_is_served_elsewhere() {
        assert_eq!(api_host("docker.io"), "registry-1.docker.io");
        assert_eq!(api_host("ghcr.io"), "ghcr.io");
        assert!(same_registry("docker.io", "registry-1.docker.io"));
        assert!(!same_registry("docker.io", "docker.example"));
    }
}
