//! Platforms such as `linux/arm/v7`.

use std::fmt;

/// An operating system and processor, in normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// Operating system, as Go names it.
    pub os: String,
    /// Architecture, as Go names it.
    pub architecture: String,
    /// Variant, such as `v7`.
    pub variant: Option<String>,
    /// Version of the operating system, from `windows(10.0.17763)/amd64`.
    pub os_version: Option<String>,
}

impl Platform {
    /// Parses and normalises a platform. The error is `BuildKit`'s text.
    pub fn parse(_text: &str) -> Result<Self, String> {
        Err("platforms cannot be read yet".to_owned())
    }

    /// Returns the platform that this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
            os_version: None,
        }
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
