//! From bytes to the tree.

use crate::{Diagnostic, Dockerfile, Instruction, LineRange, LintFinding, Span};

/// What came of parsing a Dockerfile.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What could be understood.
    pub dockerfile: Dockerfile,
    /// Errors in the order in which `BuildKit` would meet them.
    pub diagnostics: Vec<Diagnostic>,
    /// Findings of the checks that need the tree only, before any configuration is applied.
    pub lint: Vec<LintFinding>,
}

/// Parses a Dockerfile.
pub fn parse(_source: &[u8]) -> Parsed {
    let dockerfile = Dockerfile {
        escape: '\\',
        directives: Vec::new(),
        syntax: None,
        check: None,
        global_args: Vec::new(),
        stages: Vec::new(),
    };
    let diagnostics = vec![not_yet()];
    Parsed {
        dockerfile,
        diagnostics,
        lint: Vec::new(),
    }
}

fn not_yet() -> Diagnostic {
    Diagnostic::new(
        "dockerfiles cannot be read yet",
        Span::default(),
        LineRange::default(),
    )
}

/// Parses the text of an `ONBUILD` trigger.
pub fn parse_trigger(_text: &str, _escape: char) -> Result<Instruction, Diagnostic> {
    Err(not_yet())
}
