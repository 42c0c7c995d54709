//! The one error a build ends with: what failed, where in the Dockerfile, why, and what to do.

use std::collections::HashSet;
use std::sync::Arc;

use rbuild_cache::DiskTrouble;
use rbuild_parser::{Diagnostic, Instruction, LineRange, Span};

use crate::event::VertexId;

/// Most errors that are shown beside the first one.
const MAX_OTHERS: usize = 100;

/// What kind of thing went wrong; decides exit status and wording around the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildErrorKind {
    /// The Dockerfile, a flag or the context is wrong.
    User,
    /// A `RUN` command ended with a non-zero status.
    Run,
    /// The host does not allow what the build needs.
    Host,
    /// Reading or writing the store, the context or an output failed.
    Io,
    /// A cache does not deliver what it promised; the build is to go on without it.
    CacheLost,
    /// The build was cancelled.
    Cancelled,
}

/// A place in a Dockerfile, with the text to quote from.
#[derive(Debug, Clone)]
pub struct Location {
    /// Name of the file as the user gave it.
    pub file: String,
    /// Physical lines, 1-based.
    pub lines: LineRange,
    /// Exact bytes, when known.
    pub span: Option<Span>,
    /// The whole source.
    pub source: Arc<[u8]>,
}

/// Why a build failed; the fields are those of [`BuildErrorDetails`].
///
/// Boxed, so that the results of every step on the way stay small.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.message)]
pub struct BuildError(Box<BuildErrorDetails>);

impl std::ops::Deref for BuildError {
    type Target = BuildErrorDetails;

    fn deref(&self) -> &BuildErrorDetails {
        &self.0
    }
}

impl std::ops::DerefMut for BuildError {
    fn deref_mut(&mut self) -> &mut BuildErrorDetails {
        &mut self.0
    }
}

/// What is known of a failed build.
#[derive(Debug, Clone)]
pub struct BuildErrorDetails {
    /// The kind.
    pub kind: BuildErrorKind,
    /// First line, in BuildKit's wording where BuildKit has one (without `failed to solve: `).
    pub message: String,
    /// Where in the Dockerfile.
    pub location: Option<Location>,
    /// Remarks on parts of the source.
    pub labels: Vec<(Span, String)>,
    /// What to do about it.
    pub help: Vec<String>,
    /// The circumstances: what it ran as and with, where more is to be read.
    pub notes: Vec<String>,
    /// The failed vertex, if one was running.
    pub vertex: Option<VertexId>,
    /// The causes below the message, outermost first.
    pub causes: Vec<String>,
    /// Further problems found in the same pass.
    pub others: Vec<BuildError>,
    /// It is the disk of the store or of an output that is in the way.
    pub disk: Option<DiskTrouble>,
}

impl BuildError {
    /// An error without location.
    pub fn new(kind: BuildErrorKind, message: impl Into<String>) -> BuildError {
        BuildError(Box::new(BuildErrorDetails {
            kind,
            message: message.into(),
            location: None,
            labels: Vec::new(),
            help: Vec::new(),
            notes: Vec::new(),
            vertex: None,
            causes: Vec::new(),
            others: Vec::new(),
            disk: None,
        }))
    }

    /// A mistake in the Dockerfile, a flag or the context.
    pub fn user(message: impl Into<String>) -> BuildError {
        BuildError::new(BuildErrorKind::User, message)
    }

    /// The build was stopped from outside.
    pub fn cancelled() -> BuildError {
        BuildError::new(BuildErrorKind::Cancelled, "the build was cancelled")
    }

    /// A failure of the machine below: message first, then the chain of sources.
    pub fn io(
        message: impl Into<String>,
        source: &(dyn std::error::Error + 'static),
    ) -> BuildError {
        BuildError::new(BuildErrorKind::Io, message).because(source)
    }

    /// Adds the chain of sources.
    #[must_use]
    pub fn because(mut self, source: &(dyn std::error::Error + 'static)) -> BuildError {
        self.causes = chain(source);
        self.disk = DiskTrouble::of(source);
        self
    }

    /// Fails with the first of some errors; the others go with it, each once.
    pub(crate) fn together(errors: Vec<BuildError>) -> Result<(), BuildError> {
        let mut seen = HashSet::new();
        let mut errors = errors.into_iter().filter(|error| {
            let lines = error.location.as_ref().map(|location| location.lines);
            seen.insert((lines, error.message.clone()))
        });
        let Some(mut first) = errors.next() else {
            return Ok(());
        };
        first.others.extend(errors.take(MAX_OTHERS));
        Err(first)
    }

    /// Adds a hint.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> BuildError {
        self.help.push(help.into());
        self
    }

    /// Adds the location unless there is one already.
    #[must_use]
    pub fn at(mut self, location: &Location) -> BuildError {
        self.location.get_or_insert_with(|| location.clone());
        self
    }

    /// Adds the vertex unless there is one already.
    #[must_use]
    pub fn on(mut self, vertex: VertexId) -> BuildError {
        self.vertex.get_or_insert(vertex);
        self
    }
}

/// Texts of an error and all its sources, outermost first.
pub fn chain(error: &dyn std::error::Error) -> Vec<String> {
    let mut causes = vec![error.to_string()];
    let mut next = error.source();
    while let Some(source) = next {
        causes.push(source.to_string());
        next = source.source();
    }
    causes
}

/// A Dockerfile's name and bytes, to make locations from.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Name for messages.
    pub name: String,
    /// The bytes.
    pub text: Arc<[u8]>,
}

impl SourceFile {
    /// The place of `lines` in this file.
    pub fn location(&self, lines: LineRange, span: Option<Span>) -> Location {
        Location {
            file: self.name.clone(),
            lines,
            span,
            source: Arc::clone(&self.text),
        }
    }

    /// Places an error at a part of an instruction, or at all of it when the part is not found.
    pub(crate) fn at_part(
        &self,
        error: BuildError,
        instruction: &Instruction,
        part: &str,
    ) -> BuildError {
        let span = instruction.place_of(part).unwrap_or(instruction.span);
        error.at(&self.location(instruction.lines, Some(span)))
    }

    /// Turns a parser diagnostic into an error.
    pub fn diagnostic(&self, diagnostic: &Diagnostic) -> BuildError {
        let mut error = BuildError::user(diagnostic.message.clone());
        error.location = Some(self.location(diagnostic.lines, Some(diagnostic.span)));
        error.labels.clone_from(&diagnostic.labels);
        error.help.clone_from(&diagnostic.help);
        error
    }
}
