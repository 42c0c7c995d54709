//! References to images.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while_m_n, take_while1};
use nom::character::complete::{char, digit1};
use nom::combinator::{all_consuming, map, opt, recognize, verify};
use nom::multi::{many0_count, separated_list1};
use nom::sequence::{delimited, pair, preceded};
use nom::{IResult, Parser};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// Longest path of a repository.
const MAX_PATH: usize = 255;

const INVALID: &str = "invalid reference format";

/// A normalised reference to an image, `domain/path[:tag][@digest]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageReference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageReference {
    /// Parses a reference and fills in `docker.io` and `library/`. The error is `BuildKit`'s text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if is_identifier(text) {
            return Err(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            ));
        }
        let (domain, remainder) = split_domain(text);
        let name = remainder.split(':').next().unwrap_or_default();
        if name.to_lowercase() != name {
            return Err(format!(
                "{INVALID}: repository name ({name}) must be lowercase"
            ));
        }
        let (_, (path, tag, digest)) = all_consuming(named)
            .parse(&remainder)
            .map_err(|_| INVALID.to_owned())?;
        if all_consuming(host).parse(domain).is_err() {
            return Err(INVALID.to_owned());
        }
        if path.len() > MAX_PATH {
            return Err(format!(
                "repository name must not be more than {MAX_PATH} characters"
            ));
        }
        if let Some(digest) = digest {
            check_digest(digest)?;
        }
        Ok(Self {
            domain: domain.to_owned(),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// Returns the registry, such as `docker.io` or `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the repository without the registry, such as `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the tag, when there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, when there is one, as `sha256:…`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Returns the short form: `alpine`, `alpine:3`, `quay.io/a/b@sha256:…`.
    pub fn familiar(&self) -> String {
        let full = format!("{}/{}", self.domain, self.path);
        let short = match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(name) if !name.contains('/') => name,
            _ => self.path.as_str(),
        };
        // A name that would be read as something else keeps its registry.
        let same = self.domain == DEFAULT_DOMAIN
            && split_domain(short) == (DEFAULT_DOMAIN, self.path.clone())
            && !is_identifier(short);
        let name = if same { short.to_owned() } else { full };
        name + &self.suffix()
    }

    /// Returns the full form; the tag is `latest` when there is neither a tag nor a digest:
    /// `docker.io/library/alpine:latest`.
    pub fn canonical(&self) -> String {
        let reference = self.clone().with_default_tag();
        format!(
            "{}/{}{}",
            reference.domain,
            reference.path,
            reference.suffix()
        )
    }

    /// Adds the tag `latest` when there is neither a tag nor a digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    fn suffix(&self) -> String {
        let tag = self
            .tag
            .as_ref()
            .map(|tag| format!(":{tag}"))
            .unwrap_or_default();
        let digest = self
            .digest
            .as_ref()
            .map(|digest| format!("@{digest}"))
            .unwrap_or_default();
        tag + &digest
    }
}

/// Splits off the registry. The first part is one when it can be no part of a Docker Hub name.
fn split_domain(text: &str) -> (&str, String) {
    let Some((first, rest)) = text.split_once('/') else {
        return (DEFAULT_DOMAIN, format!("{OFFICIAL_PREFIX}{text}"));
    };
    let (domain, remainder) = match first {
        LEGACY_DOMAIN | DEFAULT_DOMAIN => (DEFAULT_DOMAIN, rest),
        "localhost" => (first, rest),
        _ if first.contains(['.', ':']) || first.to_lowercase() != first => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    };
    // `docker.io/alpine` is an official image too.
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain, format!("{OFFICIAL_PREFIX}{remainder}"));
    }
    (domain, remainder.to_owned())
}

type Named<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

fn named(input: &str) -> IResult<&str, Named<'_>> {
    (
        recognize(separated_list1(char('/'), path_component)),
        opt(preceded(char(':'), tag_name)),
        opt(preceded(char('@'), digest)),
    )
        .parse(input)
}

/// Lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn path_component(input: &str) -> IResult<&str, &str> {
    let alphanumeric = || take_while1(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let separator = alt((tag("__"), tag("."), tag("_"), take_while1(|c| c == '-')));
    recognize(pair(
        alphanumeric(),
        many0_count(pair(separator, alphanumeric())),
    ))
    .parse(input)
}

fn tag_name(input: &str) -> IResult<&str, &str> {
    recognize(pair(
        take_while_m_n(1, 1, |c: char| c.is_ascii_alphanumeric() || c == '_'),
        take_while_m_n(0, 127, |c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
        }),
    ))
    .parse(input)
}

fn digest(input: &str) -> IResult<&str, &str> {
    let word = || {
        recognize(pair(
            take_while_m_n(1, 1, |c: char| c.is_ascii_alphabetic()),
            take_while(|c: char| c.is_ascii_alphanumeric()),
        ))
    };
    recognize((
        separated_list1(
            take_while_m_n(1, 1, |c| matches!(c, '-' | '_' | '+' | '.')),
            word(),
        ),
        char(':'),
        verify(
            take_while(|c: char| c.is_ascii_hexdigit()),
            |digits: &str| digits.len() >= 32,
        ),
    ))
    .parse(input)
}

/// A host name, address or bracketed IPv6 address, with an optional port.
fn host(input: &str) -> IResult<&str, ()> {
    let label = verify(
        take_while1(|c: char| c.is_ascii_alphanumeric() || c == '-'),
        |label: &str| !label.starts_with('-') && !label.ends_with('-'),
    );
    let bracketed = delimited(
        char('['),
        take_while1(|c: char| c.is_ascii_hexdigit() || c == ':'),
        char(']'),
    );
    map(
        (
            alt((
                recognize(separated_list1(char('.'), label)),
                recognize(bracketed),
            )),
            opt(preceded(char(':'), digit1)),
        ),
        |_| (),
    )
    .parse(input)
}

/// Tells whether a text looks like the id of an image.
fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(is_lower_hex)
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

fn check_digest(digest: &str) -> Result<(), String> {
    let (algorithm, encoded) = digest.split_once(':').unwrap_or((digest, ""));
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ if algorithm.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            return Err("invalid checksum digest format".to_owned());
        }
        _ => return Err("unsupported digest algorithm".to_owned()),
    };
    if encoded.len() != length {
        return Err("invalid checksum digest length".to_owned());
    }
    if !encoded.bytes().all(is_lower_hex) {
        return Err("invalid checksum digest format".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn check(text: &str, canonical: &str, familiar: &str) {
        let reference =
            ImageReference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.canonical(), canonical, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
    }

    #[track_caller]
    fn fails(text: &str, error: &str) {
        assert_eq!(ImageReference::parse(text), Err(error.to_owned()), "{text}");
    }

    #[test]
    fn references_are_normalised() {
        check("alpine", "docker.io/library/alpine:latest", "alpine");
        check("alpine:3", "docker.io/library/alpine:3", "alpine:3");
        check(
            "docker.io/alpine",
            "docker.io/library/alpine:latest",
            "alpine",
        );
        check("index.docker.io/a/b", "docker.io/a/b:latest", "a/b");
        check("a/b", "docker.io/a/b:latest", "a/b");
        check("localhost/x", "localhost/x:latest", "localhost/x");
        check(
            "localhost:5000/x:1",
            "localhost:5000/x:1",
            "localhost:5000/x:1",
        );
        check("Foo/x", "Foo/x:latest", "Foo/x");
        check("[::1]:80/x", "[::1]:80/x:latest", "[::1]:80/x");
        check("0", "docker.io/library/0:latest", "0");
        check(
            "docker.io/a.b/c",
            "docker.io/a.b/c:latest",
            "docker.io/a.b/c",
        );
        check(
            "a__b/c--d.e_f",
            "docker.io/a__b/c--d.e_f:latest",
            "a__b/c--d.e_f",
        );
        check(
            &format!("alpine:3@{DIGEST}"),
            &format!("docker.io/library/alpine:3@{DIGEST}"),
            &format!("alpine:3@{DIGEST}"),
        );
        let reference = ImageReference::parse(&format!("quay.io/a/b@{DIGEST}")).unwrap();
        assert_eq!(
            (
                reference.domain(),
                reference.path(),
                reference.tag(),
                reference.digest()
            ),
            ("quay.io", "a/b", None, Some(DIGEST))
        );
    }

    #[test]
    fn errors() {
        let lower = |name: &str| format!("{INVALID}: repository name ({name}) must be lowercase");
        fails("FOO", &lower("library/FOO"));
        fails("a/B", &lower("a/B"));
        fails("busybox:", INVALID);
        fails("", INVALID);
        fails("a b", INVALID);
        fails("-a", INVALID);
        fails("a..b", INVALID);
        fails("a___b", INVALID);
        fails("a/", INVALID);
        fails("/a", INVALID);
        fails("a.-b.c/x", INVALID);
        fails("localhost:x/y", INVALID);
        fails(&format!("a:{}", "t".repeat(129)), INVALID);
        fails("a@sha256:abc", INVALID);
        fails(
            &format!("a@md5:{}", "a".repeat(32)),
            "unsupported digest algorithm",
        );
        fails(
            &format!("a@sha256:{}", "a".repeat(32)),
            "invalid checksum digest length",
        );
        fails(
            &format!("a@sha256:{}", "A".repeat(64)),
            "invalid checksum digest format",
        );
        fails(
            &"a".repeat(300),
            "repository name must not be more than 255 characters",
        );
        let hex = "a".repeat(64);
        fails(
            &hex,
            &format!("invalid repository name ({hex}), cannot specify 64-byte hexadecimal strings"),
        );
    }
}
