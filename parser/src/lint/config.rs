//! The value of `check=`.

use std::collections::BTreeSet;

use crate::text::{parse_bool, quote};

/// Which rules run, and what their findings mean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckConfig {
    /// Rules that are skipped.
    pub skip: BTreeSet<String>,
    /// `skip=all`
    pub skip_all: bool,
    /// `error=true`: findings fail the build.
    pub error: bool,
    /// Experimental rules that run.
    pub experimental: BTreeSet<String>,
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

    /// Tells whether a rule runs where a comment above the instruction says more. The comment adds to
    /// what is said for the whole file; it cannot make findings errors.
    pub(super) fn runs(&self, rule: &super::Rule, comment: Option<&Self>) -> bool {
        let mut both = std::iter::once(self).chain(comment);
        if rule.experimental {
            both.any(|config| config.experimental_all || config.experimental.contains(rule.name))
        } else {
            !both.any(|config| config.skip_all || config.skip.contains(rule.name))
        }
    }
}

fn split_names(names: &str) -> BTreeSet<String> {
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
        assert!(config.skip.iter().eq(["A", "B"]));
        assert!(config.error && config.experimental_all && !config.skip_all);
        assert!(CheckConfig::parse("skip=all").unwrap().skip_all);
        assert_eq!(CheckConfig::parse(""), Ok(CheckConfig::default()));
    }

    #[test]
    fn a_comment_adds_to_the_file() {
        let rule = |name, experimental| crate::Rule {
            name,
            description: "",
            url: "",
            experimental,
        };
        let file = CheckConfig::parse("skip=A;experimental=E").unwrap();
        let comment = CheckConfig::parse("skip=B").unwrap();
        let runs = |name, comment| file.runs(&rule(name, false), comment);
        assert_eq!(
            ["A", "B", "C"].map(|name| runs(name, None)),
            [false, true, true]
        );
        let comment = Some(&comment);
        assert_eq!(
            ["A", "B", "C"].map(|name| runs(name, comment)),
            [false, false, true]
        );
        assert!(file.runs(&rule("E", true), None) && !file.runs(&rule("F", true), None));
        let all = CheckConfig::parse("skip=all;experimental=all").unwrap();
        assert!(
            !file.runs(&rule("C", false), Some(&all)) && file.runs(&rule("F", true), Some(&all))
        );
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
