//! Platforms such as `linux/arm/v7`.

use std::fmt;

use nom::Parser;
use nom::bytes::complete::{take_while, take_while1};
use nom::character::complete::char;
use nom::combinator::{all_consuming, opt};
use nom::multi::many0;
use nom::sequence::{delimited, preceded};

use crate::text::quote;

const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

/// The expression that messages cite for the first part.
const SYSTEM_SYNTAX: &str =
    r"^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$";

/// The expression that messages cite for the other parts.
const PART_SYNTAX: &str = r"^[A-Za-z0-9_.-]+$";

/// An operating system and processor, in normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// Operating system, as Go names it.
    pub os: String,
    /// Architecture, as Go names it.
    pub architecture: String,
    /// Variant, such as `v7`; none where the architecture has only one (arm64, amd64).
    pub variant: Option<String>,
    /// Version of the operating system, from `windows(10.0.17763)/amd64`.
    pub os_version: Option<String>,
    /// Features of the operating system, from `windows(+win32k)/amd64`.
    pub os_features: Vec<String>,
}

impl Platform {
    /// Makes a platform in normal form from its parts, as they stand in an image's config.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) =
            normal_architecture(architecture, variant.unwrap_or_default());
        Self {
            os: normal_system(os),
            architecture,
            variant: Some(variant).filter(|variant| !variant.is_empty()),
            os_version: None,
            os_features: Vec::new(),
        }
    }

    /// Parses and normalises a platform. The error is `BuildKit`'s text.
    ///
    /// A single word is an operating system or an architecture; what is missing comes from the host.
    pub fn parse(text: &str) -> Result<Self, String> {
        let quoted = quote(text);
        if text.contains('*') {
            return Err(format!(
                "{quoted}: wildcards not yet supported: invalid argument"
            ));
        }
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let Some((system, options)) = split_system(parts[0]) else {
            let (part, syntax) = (quote(parts[0]), quote(SYSTEM_SYNTAX));
            return Err(format!(
                "{part} is an invalid OS component of {quoted}: OSAndVersion specifier component \
                 must match {syntax}: invalid argument"
            ));
        };
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if let Some(part) = parts[1..]
            .iter()
            .find(|part| part.is_empty() || !part.chars().all(is_part))
        {
            let (part, syntax) = (quote(part), quote(PART_SYNTAX));
            return Err(format!(
                "{part} is an invalid component of {quoted}: platform specifier component must \
                 match {syntax}: invalid argument"
            ));
        }
        let mut platform = match parts[1..] {
            [] if SYSTEMS.contains(&normal_system(system).as_str()) => {
                let host = Self::host();
                Self {
                    os: normal_system(system),
                    ..host
                }
            }
            [] => {
                let platform = Self::new(std::env::consts::OS, parts[0], None);
                if !ARCHITECTURES.contains(&platform.architecture.as_str()) {
                    return Err(format!(
                        "{quoted}: unknown operating system or architecture: invalid argument"
                    ));
                }
                platform
            }
            [architecture] => Self::new(system, architecture, None),
            [architecture, variant] => Self::new(system, architecture, Some(variant)),
            _ => {
                return Err(format!(
                    "{quoted}: cannot parse platform specifier: invalid argument"
                ));
            }
        };
        platform.os_version = options.0.filter(|version| !version.is_empty());
        platform.os_features = options.1;
        Ok(platform)
    }

    /// Returns the platform that this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc" => "ppc",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new(std::env::consts::OS, architecture, None)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

type SystemOptions = (Option<String>, Vec<String>);

/// Splits `os(version+feature)`.
fn split_system(part: &str) -> Option<(&str, SystemOptions)> {
    let in_option = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '%' | '-');
    let mut grammar = all_consuming::<_, nom::error::Error<&str>, _>((
        take_while1(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')),
        opt(delimited(
            char('('),
            (
                take_while(in_option),
                many0(preceded(char('+'), take_while1(in_option))),
            ),
            char(')'),
        )),
    ));
    let (_, (system, options)) = grammar.parse(part).ok()?;
    let Some((version, features)) = options else {
        return Some((system, (None, Vec::new())));
    };
    let version = percent_decode(version)?;
    let features = features
        .into_iter()
        .map(percent_decode)
        .collect::<Option<Vec<_>>>()?;
    Some((system, (Some(version), features)))
}

/// Decodes `%XX`; `None` if that is not well-formed or gives no text.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits)
            .ok()
            .filter(|digits| !digits.starts_with('+'))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

fn normal_system(os: &str) -> String {
    match os.to_lowercase().as_str() {
        "" => std::env::consts::OS.to_owned(),
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normal_architecture(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_lowercase(), variant.to_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(
            Platform::parse(text).unwrap().to_string(),
            expected,
            "{text}"
        );
    }

    #[test]
    fn platforms_are_normalised() {
        check("linux/arm64/v8", "linux/arm64");
        check("linux/aarch64", "linux/arm64");
        check("linux/x86_64", "linux/amd64");
        check("linux/amd64/v1", "linux/amd64");
        check("linux/amd64/v3", "linux/amd64/v3");
        check("linux/arm", "linux/arm/v7");
        check("linux/arm/v7", "linux/arm/v7");
        check("linux/armel", "linux/arm/v6");
        check("Linux/I386", "linux/386");
        check("macos/arm64", "darwin/arm64");
        check("windows(10.0.17763+win32k)/amd64", "windows/amd64");
        let windows = Platform::parse("windows(10.0.17763+win32k)/amd64").unwrap();
        assert_eq!(windows.os_version.as_deref(), Some("10.0.17763"));
        assert_eq!(windows.os_features, ["win32k"]);
        assert_eq!(Platform::parse("linux").unwrap(), Platform::host());
        assert_eq!(Platform::parse("s390x").unwrap().architecture, "s390x");
    }

    #[test]
    fn errors() {
        for (text, error) in [
            (
                "foo/bar/baz/q",
                "\"foo/bar/baz/q\": cannot parse platform specifier: invalid argument",
            ),
            (
                "foo",
                "\"foo\": unknown operating system or architecture: invalid argument",
            ),
            (
                "linux/*",
                "\"linux/*\": wildcards not yet supported: invalid argument",
            ),
            (
                "linux/a b",
                "\"a b\" is an invalid component of \"linux/a b\": platform specifier component \
                 must match \"^[A-Za-z0-9_.-]+$\": invalid argument",
            ),
        ] {
            assert_eq!(Platform::parse(text), Err(error.to_owned()));
        }
        assert!(
            Platform::parse("")
                .unwrap_err()
                .starts_with("\"\" is an invalid OS component of \"\"")
        );
    }
}
