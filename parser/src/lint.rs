//! Build checks: rules, configuration, findings.

mod config;
mod linter;
pub mod rules;
mod tree;

pub use config::CheckConfig;
pub use linter::Linter;
pub use rules::RULES;
pub(crate) use tree::majority_is_lower;

use crate::{Dockerfile, LineRange, Span};

/// A build check.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name, as used in `check=skip=`. Rules that `BuildKit` does not have begin with `rbuild/`.
    pub name: &'static str,
    /// What the rule asks for.
    pub description: &'static str,
    /// Page that explains the rule; empty when there is none.
    pub url: &'static str,
    /// Whether it only runs when asked for.
    pub experimental: bool,
}

/// A place where a rule is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LintFinding {
    /// The rule.
    pub rule: &'static Rule,
    /// `BuildKit`'s text.
    pub message: String,
    /// Lines that `BuildKit` marks.
    pub lines: LineRange,
    /// The most precise place.
    pub span: Span,
    /// What to do.
    pub help: Option<String>,
}

impl LintFinding {
    /// Points at a part of the instruction, when it is known.
    #[must_use]
    fn narrowed(mut self, span: Option<Span>) -> Self {
        self.span = span.unwrap_or(self.span);
        self
    }

    #[must_use]
    fn helped(mut self, help: &str) -> Self {
        self.help = Some(help.to_owned());
        self
    }
}

/// Runs the checks that need the tree only.
pub(crate) fn check_tree(
    dockerfile: &Dockerfile,
    blank_lines: &[(LineRange, Span)],
    source: &[u8],
) -> Vec<LintFinding> {
    tree::check(dockerfile, blank_lines, source)
}
