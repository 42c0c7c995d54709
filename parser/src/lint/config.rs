//! The value of `check=`.

use crate::text::{parse_bool, quote};

/// Which rules run, and what their findings mean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckConfig {
    /// Rules that are skipped.
    pub skip: Vec<String>,
    /// `skip=all`
    pub skip_all: bool,
    /// `error=true`: findings fail the build.
    pub error: bool,
    /// Experimental rules that run.
    pub experimental: Vec<String>,
    /// `experimental=all`
    pub experimental_all: bool,
}

impl CheckConfig {
    /// Parses the value of a `check` directive: `skip=A,B;error=true;experimental=all`.
    ///
    /// The error is `BuildKit`'s text without `failed to parse check options: `.
    pub fn parse(value: &str) -> Result<Self, String> {
        let mut config = Self::default();
        let value = value.trim();
        if value.is_empty() {
            return Ok(config);
        }
        for part in value.splitn(3, ';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("invalid check option {}", quote(part)));
            };
            match (key.trim(), value.trim()) {
                ("skip", "all") => config.skip_all = true,
                ("skip", names) => config.skip = split_names(names),
                ("experimental", "all") => config.experimental_all = true,
                ("experimental", names) => config.experimental = split_names(names),
                ("error", value) => {
                    config.error = parse_bool(value).ok_or_else(|| {
                        let (part, value) = (quote(part), quote(value));
                        format!(
                            "failed to parse check option {part}: strconv.ParseBool: parsing \
                             {value}: invalid syntax"
                        )
                    })?;
                }
                (key, _) => return Err(format!("invalid check option {}", quote(key))),
            }
        }
        Ok(config)
    }

    /// Reads a comment above an instruction; `None` when it says nothing about checks.
    pub(super) fn from_comment(comment: &str) -> Option<Result<Self, String>> {
        let value = crate::parse::check_comment(comment)?;
        let first = value.split(' ').next().unwrap_or_default();
        Some(Self::parse(first))
    }

    /// Adds what a comment above an instruction says. It cannot make findings errors.
    #[must_use]
    pub(super) fn merged(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        merged.skip_all |= other.skip_all;
        merged.experimental_all |= other.experimental_all;
        merged.skip.extend(other.skip.iter().cloned());
        merged
            .experimental
            .extend(other.experimental.iter().cloned());
        merged
    }

    /// Tells whether a rule runs.
    pub(super) fn runs(&self, rule: &super::Rule) -> bool {
        let named = |names: &[String]| names.iter().any(|name| name == rule.name);
        if rule.experimental {
            self.experimental_all || named(&self.experimental)
        } else {
            !self.skip_all && !named(&self.skip)
        }
    }
}

fn split_names(names: &str) -> Vec<String> {
    names
        .split(',')
        .map(|name| name.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let config = CheckConfig::parse(" skip=A, B;error=true;experimental=all ").unwrap();
        assert_eq!(config.skip, ["A", "B"]);
        assert!(config.error && config.experimental_all && !config.skip_all);
        assert!(CheckConfig::parse("skip=all").unwrap().skip_all);
        assert_eq!(CheckConfig::parse(""), Ok(CheckConfig::default()));
    }

    #[test]
    fn errors() {
        let error = |value| CheckConfig::parse(value).unwrap_err();
        assert_eq!(error("foo=1"), "invalid check option \"foo\"");
        assert_eq!(error("foo"), "invalid check option \"foo\"");
        assert_eq!(
            error("error=x"),
            "failed to parse check option \"error=x\": strconv.ParseBool: parsing \"x\": invalid syntax"
        );
        assert!(error("skip=A;skip=B;error=1;error=1").starts_with("failed to parse check option"));
    }
}
