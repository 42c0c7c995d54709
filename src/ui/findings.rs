//! What a check found, for people and for tools.

mod github;
mod json;
mod sarif;
mod text;

use rbuild_builder::BuildError;
use rbuild_parser::{LineRange, LintFinding, Span};

use super::excerpt::Source;

pub(crate) use json::{JsonLocation, location};

/// How findings are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum FindingsFormat {
    /// For people, in the form of `docker build --check`.
    #[default]
    Text,
    /// In the form of `docker build --call=check,format=json`.
    Json,
    /// SARIF 2.1.0, which code scanners and editors read.
    Sarif,
    /// Workflow commands, which become annotations on GitHub.
    Github,
}

/// What a check found in one file.
#[derive(Debug)]
pub(crate) struct Findings<'a> {
    /// The file under the name that messages give it.
    source: Source<'a>,
    /// Path of the file from the working directory, for tools that look for it there.
    path: &'a str,
    /// What the build checks found, by line.
    warnings: Vec<&'a LintFinding>,
    /// What a build would fail with.
    errors: Vec<&'a BuildError>,
}

impl<'a> Findings<'a> {
    /// Puts the findings in the order of the file.
    pub(crate) fn new(
        source: Source<'a>,
        path: &'a str,
        findings: &'a [LintFinding],
        error: Option<&'a BuildError>,
    ) -> Findings<'a> {
        let mut warnings: Vec<&LintFinding> = findings.iter().collect();
        warnings.sort_by_key(|finding| finding.lines.first);
        let errors = error
            .into_iter()
            .flat_map(|error| std::iter::once(error).chain(&error.others))
            .collect();
        Findings {
            source,
            // Tools compare paths as text.
            path: path.strip_prefix("./").unwrap_or(path),
            warnings,
            errors,
        }
    }

    /// Says whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.warnings.is_empty() && self.errors.is_empty()
    }

    /// Where an error is, if it is in this file.
    fn error_place(&self, error: &BuildError) -> Option<(LineRange, Option<Span>)> {
        let location = error.location.as_ref()?;
        let here = *location.source == *self.source.text();
        here.then_some((location.lines, location.span))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rbuild_builder::{BuildError, Location};
    use rbuild_parser::{LineRange, LintFinding, RULES, Span};

    use super::{Findings, Source};

    /// A file with two findings and two errors.
    pub(super) const TEXT: &str = "FROM a AS B\nenv c\td e\nCPOY \\\n  f\n";

    pub(super) fn finding(rule: &str, line: u32, part: &str) -> LintFinding {
        let rule = RULES.iter().find(|known| known.name == rule).unwrap();
        let start = TEXT.find(part).unwrap();
        LintFinding {
            rule,
            message: format!("about \"{part}\""),
            lines: LineRange::new(line, line),
            span: Span::new(start, start + part.len()),
            help: (rule.name == "rbuild/IgnoredFlag").then(|| "leave it out".to_owned()),
        }
    }

    pub(super) fn findings() -> Vec<LintFinding> {
        vec![
            finding("rbuild/IgnoredFlag", 2, "d e"),
            finding("StageNameCasing", 1, "B"),
        ]
    }

    pub(super) fn error() -> BuildError {
        let mut error = BuildError::user("unknown: CPOY").with_help("write COPY");
        error.location = Some(Location {
            file: "Dockerfile".into(),
            lines: LineRange::new(3, 4),
            span: Some(Span::new(22, 26)),
            source: Arc::from(TEXT.as_bytes()),
        });
        error.labels = vec![(Span::new(0, 4), "the stage".into())];
        error.others = vec![BuildError::user("50% of\nall")];
        error
    }

    pub(super) fn with<'a, R>(
        findings: &'a [LintFinding],
        error: Option<&'a BuildError>,
        show: impl FnOnce(&Findings<'a>) -> R,
    ) -> R {
        let source = Source::new("Dockerfile", TEXT.as_bytes());
        show(&Findings::new(source, "a b/Dockerfile", findings, error))
    }
}
