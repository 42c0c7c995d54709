//! Collects findings and drops what the configuration does not want.

use std::collections::HashSet;

use super::CheckConfig;
use crate::{Diagnostic, Dockerfile, LineRange, LintFinding};

/// Collects the findings of one build.
#[derive(Debug, Clone, Default)]
pub struct Linter {
    config: CheckConfig,
    /// Instructions with a configuration above them, in order.
    own: Vec<(LineRange, CheckConfig)>,
    findings: Vec<LintFinding>,
    seen: HashSet<(&'static str, u32, String)>,
}

impl Linter {
    /// Reads the configuration of a Dockerfile; `override_` replaces its `check` directive.
    ///
    /// `BuildKit` meets an error here before any error in the file.
    pub fn new(dockerfile: &Dockerfile, override_: Option<&str>) -> Result<Self, Diagnostic> {
        let directive = dockerfile.check.as_ref();
        let value = override_
            .or(directive.map(|check| check.value.as_str()))
            .unwrap_or_default();
        let config = CheckConfig::parse(value).map_err(|reason| {
            let span = directive
                .filter(|_| override_.is_none())
                .map(|check| check.span);
            let lines = dockerfile
                .directives
                .iter()
                .find(|known| known.name.value.eq_ignore_ascii_case("check") && span.is_some())
                .map(|known| LineRange::new(known.line, known.line));
            let message = format!("failed to parse check options: {reason}");
            Diagnostic::new(message, span.unwrap_or_default(), lines.unwrap_or_default())
                .with_help("the options are `skip=`, `error=` and `experimental=`, divided by `;`")
        })?;
        let mut own = Vec::new();
        for instruction in dockerfile.instructions() {
            let first = instruction
                .comments
                .iter()
                .find_map(|comment| CheckConfig::from_comment(&comment.value));
            // One that cannot be read is passed over.
            if let Some(Ok(comment)) = first {
                own.push((instruction.lines, comment));
            }
        }
        Ok(Self {
            config,
            own,
            ..Self::default()
        })
    }

    /// Takes a finding unless the configuration skips it: for the whole file, or by a comment above
    /// the instruction. The same finding is taken once.
    pub fn add(&mut self, finding: LintFinding) {
        let comment = self.comment_at(finding.lines);
        if !self.config.runs(finding.rule, comment) {
            return;
        }
        let key = (
            finding.rule.name,
            finding.lines.first,
            finding.message.clone(),
        );
        if self.seen.insert(key) {
            self.findings.push(finding);
        }
    }

    /// The configuration above the instruction of these lines.
    fn comment_at(&self, lines: LineRange) -> Option<&CheckConfig> {
        let after = self
            .own
            .partition_point(|(own, _)| own.first <= lines.first);
        let (own, config) = &self.own[after.checked_sub(1)?];
        (lines.first <= own.last).then_some(config)
    }

    /// Returns what was found, in the order in which it was added.
    pub fn findings(&self) -> &[LintFinding] {
        &self.findings
    }

    /// Fails with `lint violation found for rules: …` when findings are errors and there are some.
    ///
    /// Findings of our own rules do not count, so that a build passes here that passes elsewhere.
    pub fn verdict(&self) -> Result<(), String> {
        let mut names: Vec<&str> = Vec::new();
        for finding in self
            .findings
            .iter()
            .filter(|finding| !finding.rule.is_own())
        {
            if !names.contains(&finding.rule.name) {
                names.push(finding.rule.name);
            }
        }
        if names.is_empty() || !self.config.error {
            return Ok(());
        }
        Err(format!(
            "lint violation found for rules: {}",
            names.join(", ")
        ))
    }
}
