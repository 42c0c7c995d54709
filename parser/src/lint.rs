//! Build checks: rules, configuration, findings.

mod config;
mod linter;
pub mod rules;

pub use config::CheckConfig;
pub use linter::Linter;
pub use rules::RULES;

use crate::{LineRange, Span};

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

/// Runs the checks that need the tree only.
pub(crate) fn check_tree(
    _dockerfile: &crate::Dockerfile,
    _blank_lines: &[(LineRange, Span)],
) -> Vec<LintFinding> {
    Vec::new()
}
