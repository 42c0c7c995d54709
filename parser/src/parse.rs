//! From bytes to the tree.

mod command;
mod copy;
mod directives;
mod fault;
mod instruction;
mod reader;
mod run;

pub(crate) use reader::{LineKind, MAX_LINE, PhysicalLine};

use crate::joined::Joined;
use crate::{
    Diagnostic, Dockerfile, Flag, Heredoc, Instruction, InstructionKind, LineRange, LintFinding,
    Span, Spanned, Stage, heredoc, lint,
};

use command::{Command, shape_error, whole_file};
use fault::{Fault, Phase};
use reader::{Logical, Reader};

/// Largest file that is read, in bytes.
pub const MAX_FILE: usize = 16 * 1024 * 1024;

/// Most instructions that are kept.
pub const MAX_INSTRUCTIONS: usize = 100_000;

/// Most errors that are reported; one is enough to fail a build.
const MAX_DIAGNOSTICS: usize = 100;

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
pub fn parse(source: &[u8]) -> Parsed {
    parse_file(source, false).0
}

/// Parses a Dockerfile and returns its physical lines as well.
pub(crate) fn parse_with_lines(source: &[u8]) -> (Parsed, Vec<PhysicalLine>) {
    parse_file(source, true)
}

fn parse_file(source: &[u8], keep_lines: bool) -> (Parsed, Vec<PhysicalLine>) {
    let too_large = source.len() > MAX_FILE;
    let mut parser = Parser::new(if too_large { &[] } else { source });
    if keep_lines {
        parser.reader.keep_lines();
    }
    if too_large {
        let message = format!(
            "dockerfile is larger than the limit of {} MiB",
            MAX_FILE >> 20
        );
        parser.shape.push(whole_file(&message));
    } else if source.is_empty() {
        parser
            .shape
            .push(whole_file("the Dockerfile cannot be empty"));
    } else {
        parser.read();
    }
    parser.finish(source)
}

/// Parses the text of an `ONBUILD` trigger. `BuildKit` reads triggers with the escape character `\`.
///
/// Places are offsets into the text.
pub fn parse_trigger(text: &str, escape: char) -> Result<Instruction, Diagnostic> {
    let mut parser = Parser::new(text.as_bytes());
    parser.reader.set_escape_character(escape);
    parser.trigger = true;
    parser.read();
    if let Some(first) = parser.first_diagnostic() {
        return Err(first);
    }
    let mut instructions = parser.instructions.into_iter();
    match (instructions.next(), instructions.next()) {
        (Some(instruction), None) if matches!(instruction.kind, InstructionKind::From(_)) => {
            let message = "FROM isn't allowed as an ONBUILD trigger";
            Err(Diagnostic::new(
                message,
                instruction.span,
                instruction.lines,
            ))
        }
        (Some(instruction), None) => Ok(instruction),
        _ => Err(whole_file("onbuild trigger should be a single expression")),
    }
}

struct Parser<'a> {
    reader: Reader<'a>,
    length: usize,
    instructions: Vec<Instruction>,
    /// Errors of the first reading, then those of the second.
    shape: Vec<Diagnostic>,
    instruction: Vec<Diagnostic>,
    blank_lines: Vec<(LineRange, Span)>,
    any: bool,
    /// Whether a `FROM` is in error, so that what follows seems to have no stage.
    failed_from: bool,
    /// Whether this is the text of a trigger, whose errors name no line.
    trigger: bool,
}

impl<'a> Parser<'a> {
    fn new(source: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(source),
            length: source.len(),
            instructions: Vec::new(),
            shape: Vec::new(),
            instruction: Vec::new(),
            blank_lines: Vec::new(),
            any: false,
            failed_from: false,
            trigger: false,
        }
    }

    fn read(&mut self) {
        while let Some(logical) = self.reader.next_logical() {
            self.shape.append(&mut self.reader.diagnostics);
            self.any = true;
            if self.instructions.len() >= MAX_INSTRUCTIONS {
                let message = format!("dockerfile has more than {MAX_INSTRUCTIONS} instructions");
                self.shape
                    .push(Diagnostic::new(message, Span::default(), logical.lines));
                return;
            }
            self.logical(logical);
            if self.shape.len() + self.instruction.len() >= MAX_DIAGNOSTICS {
                self.shape.truncate(MAX_DIAGNOSTICS);
                return;
            }
        }
        let read_failed = !self.reader.diagnostics.is_empty();
        self.shape.append(&mut self.reader.diagnostics);
        if !self.any && !read_failed {
            let last = self.reader.line_count();
            let span = Span::new(0, self.length);
            self.shape.push(Diagnostic::new(
                "file with no instructions",
                span,
                LineRange::new(last, last),
            ));
        }
    }

    /// Reads one instruction.
    fn logical(&mut self, logical: Logical) {
        let Logical {
            joined,
            mut lines,
            mut end,
            comments,
            blank_line,
        } = logical;
        let text_length = joined.text().len();
        let mut command = Command::split(&joined, 0..text_length, self.reader.escape());
        // Blank lines are reported at the last line, heredocs not counted.
        let line_end = LineRange::new(lines.last, lines.last);
        let keyword_span = command.keyword_span();
        let bodies = self.heredocs(&command, &joined);
        lines.last = self.reader.line_count();
        let built = match bodies {
            Ok((heredocs, bodies_end)) => {
                end = bodies_end.unwrap_or(end);
                command.heredocs = heredocs;
                instruction::build(&command)
            }
            Err(fault) => {
                end = self.length;
                // What is wrong with the line itself was met before its bodies were looked for.
                let own = instruction::build(&command).err();
                Err(own.filter(|own| own.phase == Phase::Shape).unwrap_or(fault))
            }
        };
        self.blank_lines
            .extend(blank_line.map(|span| (line_end, span)));
        let span = Span::new(keyword_span.start, end.max(keyword_span.end));
        match built {
            Ok(kind) => {
                let keyword = joined.spanned(command.keyword.clone());
                let flags = flags(&command);
                let heredocs = std::mem::take(&mut command.heredocs);
                drop(command);
                let text = joined.into_text();
                self.instructions.push(Instruction {
                    span,
                    lines,
                    keyword,
                    text,
                    comments,
                    flags,
                    heredocs,
                    kind,
                });
            }
            Err(fault) => {
                self.failed_from |= command.name() == "FROM";
                self.fault(fault, span, lines);
            }
        }
    }

    fn fault(&mut self, mut fault: Fault, span: Span, lines: LineRange) {
        fault.prefixed &= !self.trigger;
        match fault.phase {
            Phase::Shape => self.shape.push(fault.place(span, lines)),
            Phase::Instruction => self.instruction.push(fault.place(span, lines)),
        }
    }

    /// Reads the bodies of a line's heredocs; returns them and where the last delimiter ends.
    fn heredocs(
        &mut self,
        command: &Command<'_>,
        joined: &Joined,
    ) -> Result<(Vec<Heredoc>, Option<usize>), Fault> {
        if !joined.text().contains("<<") || !command.may_have_heredocs() {
            return Ok((Vec::new(), None));
        }
        let words = heredoc::find(joined.text()).map_err(|error| shape_error(&error))?;
        let mut heredocs = Vec::with_capacity(words.len());
        let mut end = None;
        for (word, range) in words {
            let span = joined.span(range);
            let Some(body) = self.reader.body(&word) else {
                return Err(unterminated(&word.name, span));
            };
            end = Some(body.end);
            heredocs.push(Heredoc {
                content: Reader::content(&word, &body.raw),
                name: word.name,
                raw: body.raw,
                expand: word.expand,
                strip_tabs: word.strip_tabs,
                descriptor: word.descriptor,
                span,
                body_span: body.span,
            });
        }
        Ok((heredocs, end))
    }

    fn first_diagnostic(&mut self) -> Option<Diagnostic> {
        let mut all = std::mem::take(&mut self.shape);
        all.append(&mut self.instruction);
        all.into_iter().next()
    }

    /// Sorts the instructions into stages and runs the checks.
    fn finish(mut self, source: &[u8]) -> (Parsed, Vec<PhysicalLine>) {
        let escape = self.reader.escape();
        let mut diagnostics = self.shape;
        let (global_args, stages, orphan) = stages(std::mem::take(&mut self.instructions));
        if let Some(orphan) = orphan.filter(|_| !self.failed_from) {
            self.instruction.push(orphan);
            self.instruction
                .sort_by_key(|diagnostic| diagnostic.lines.first);
        }
        let clean = diagnostics.is_empty() && self.instruction.is_empty();
        diagnostics.append(&mut self.instruction);
        if clean && stages.is_empty() {
            diagnostics.push(
                whole_file("dockerfile contains no stages to build")
                    .with_help("begin a stage with `FROM <image>`"),
            );
        }
        let (directives, lines) = self.reader.finish();
        let dockerfile = Dockerfile {
            escape,
            directives,
            syntax: directives::detect_syntax(source),
            check: directives::detect(source, "check", "#").map(first_word),
            global_args,
            stages,
        };
        let lint = lint::check_tree(&dockerfile, &self.blank_lines, source);
        (
            Parsed {
                dockerfile,
                diagnostics,
                lint,
            },
            lines,
        )
    }
}

/// Reads a comment above an instruction as a `check` directive; returns its value.
pub(crate) fn check_comment(comment: &str) -> Option<&str> {
    let found = directives::read(comment, "")?;
    (found.key == "check").then(|| &comment[found.value])
}

/// Only the part of a `check` value up to the first blank counts.
fn first_word(mut value: Spanned<String>) -> Spanned<String> {
    let length = value.value.find(' ').unwrap_or(value.value.len());
    value.value.truncate(length);
    value.span.end = value.span.end.min(value.span.start + length);
    value
}

fn flags(command: &Command<'_>) -> Vec<Spanned<Flag>> {
    command
        .flags
        .iter()
        .map(|word| Spanned::new(word.flag.clone(), command.line.span(word.range.clone())))
        .collect()
}

fn unterminated(name: &str, span: Span) -> Fault {
    let fault = Fault::shape("unterminated heredoc")
        .at(span)
        .help(format!("no line below is exactly `{name}`"));
    let bare = name.trim_end_matches([';', '&', '|', ')', ',']);
    if bare.len() == name.len() || bare.is_empty() {
        return fault;
    }
    fault.help(format!(
        "the delimiter reaches to the next blank: put a blank behind `<<{bare}`"
    ))
}

type Stages = (Vec<Instruction>, Vec<Stage>, Option<Diagnostic>);

/// Sorts instructions into global arguments and stages; reports the first one that has no stage.
fn stages(instructions: Vec<Instruction>) -> Stages {
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut orphan = None;
    for instruction in instructions {
        if let InstructionKind::From(from) = &instruction.kind {
            let name = from.alias.as_ref().map(|alias| alias.value.to_lowercase());
            let index = stages.len();
            stages.push(Stage {
                index,
                from: instruction,
                name,
                instructions: Vec::new(),
            });
            continue;
        }
        match stages.last_mut() {
            Some(stage) => stage.instructions.push(instruction),
            None if matches!(instruction.kind, InstructionKind::Arg(_)) => {
                global_args.push(instruction);
            }
            None if orphan.is_none() => {
                let message = "no build stage in current context";
                let diagnostic =
                    Diagnostic::new(message, instruction.keyword.span, instruction.lines)
                        .with_help("only ARG may stand before the first FROM");
                orphan = Some(diagnostic);
            }
            None => {}
        }
    }
    (global_args, stages, orphan)
}
