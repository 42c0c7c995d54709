//! An error in one instruction, before its place in the report is known.

use crate::{Diagnostic, LineRange, Span};

/// When the reference implementation would find an error. It reads the whole file once for its
/// shape and once for its instructions, so that an error of the first kind is met first even when
/// it stands further down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Lines, JSON, words, heredocs.
    Shape,
    /// Instructions, flags, argument counts.
    Instruction,
}

/// An error in one instruction.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) phase: Phase,
    /// Text without the prefix that errors of the second kind get.
    pub(crate) message: String,
    /// The most precise place; the whole instruction when there is none.
    pub(crate) span: Option<Span>,
    pub(crate) labels: Vec<(Span, String)>,
    pub(crate) help: Vec<String>,
    /// Whether the text gets the prefix with the line number.
    pub(crate) prefixed: bool,
}

impl Fault {
    pub(crate) fn shape(message: impl Into<String>) -> Self {
        Self::new(Phase::Shape, message.into(), false)
    }

    pub(crate) fn instruction(message: impl Into<String>) -> Self {
        Self::new(Phase::Instruction, message.into(), true)
    }

    fn new(phase: Phase, message: String, prefixed: bool) -> Self {
        Self {
            phase,
            message,
            span: None,
            labels: Vec::new(),
            help: Vec::new(),
            prefixed,
        }
    }

    #[must_use]
    pub(crate) fn at(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    #[must_use]
    pub(crate) fn label(mut self, span: Span, label: impl Into<String>) -> Self {
        self.labels.push((span, label.into()));
        self
    }

    /// Gives the error its place.
    pub(crate) fn place(self, whole: Span, lines: LineRange) -> Diagnostic {
        let message = if self.prefixed {
            format!(
                "dockerfile parse error on line {}: {}",
                lines.first, self.message
            )
        } else {
            self.message
        };
        Diagnostic {
            message,
            span: self.span.unwrap_or(whole),
            lines,
            labels: self.labels,
            help: self.help,
        }
    }
}
