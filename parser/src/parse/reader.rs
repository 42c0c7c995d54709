//! From physical lines to logical ones: comments, directives, continuations, heredoc bodies.
//!
//! This is written by hand because it is about lines and state, not about grammar.

use std::sync::Arc;

use crate::heredoc::{self, HeredocWord};
use crate::joined::Joined;
use crate::text::{leading_space, trimmed};
use crate::{Diagnostic, Directive, LineRange, Span, Spanned};

use super::directives::{Line, Section};

/// Longest physical line, without its line end.
pub(crate) const MAX_LINE: usize = 65_535;

/// What a physical line is; used by the formatter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineKind {
    /// Nothing but white space, between instructions.
    Blank,
    /// A comment between instructions.
    Comment,
    /// A parser directive.
    Directive,
    /// First line of an instruction.
    Start,
    /// Another line of an instruction.
    Continuation,
    /// A comment inside of a continued instruction.
    InnerComment,
    /// A blank line inside of a continued instruction.
    InnerBlank,
    /// A line of a heredoc's body, or the line of its delimiter.
    Body,
}

/// A physical line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PhysicalLine {
    /// Offset of the first byte.
    pub(crate) start: usize,
    /// Offset behind the last byte that is not part of the line end.
    pub(crate) content_end: usize,
    /// Offset of the next line.
    pub(crate) end: usize,
    pub(crate) kind: LineKind,
}

/// An instruction's line, continuations joined.
#[derive(Debug)]
pub(crate) struct Logical {
    pub(crate) joined: Joined,
    pub(crate) lines: LineRange,
    /// End of the content of the last line.
    pub(crate) end: usize,
    pub(crate) comments: Vec<Spanned<String>>,
    /// Place of the last blank line in between.
    pub(crate) blank_line: Option<Span>,
}

/// A heredoc's body.
pub(crate) struct Body {
    pub(crate) raw: Arc<str>,
    pub(crate) span: Span,
    /// End of the content of the delimiter's line.
    pub(crate) end: usize,
}

/// Reads a source line by line.
pub(crate) struct Reader<'a> {
    source: &'a [u8],
    position: usize,
    /// Number of lines read.
    count: u32,
    /// The lines, when they are wanted.
    lines: Option<Vec<PhysicalLine>>,
    section: Section,
    comments: Vec<Spanned<String>>,
    escape: char,
    /// Errors of this layer.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(source: &'a [u8]) -> Self {
        Self {
            source,
            position: 0,
            count: 0,
            lines: None,
            section: Section::default(),
            comments: Vec::new(),
            escape: '\\',
            diagnostics: Vec::new(),
        }
    }

    /// Returns the escape character in force.
    pub(crate) fn escape(&self) -> char {
        self.escape
    }

    /// Keeps the physical lines for [`finish`](Self::finish).
    pub(crate) fn keep_lines(&mut self) {
        self.lines = Some(Vec::new());
    }

    /// Begins with another escape character than `\`.
    pub(crate) fn set_escape_character(&mut self, escape: char) {
        self.escape = if escape == '`' { '`' } else { '\\' };
    }

    /// Returns the number of lines read.
    pub(crate) fn line_count(&self) -> u32 {
        self.count
    }

    /// Returns the directives, and the lines that were read when they were wanted.
    pub(crate) fn finish(self) -> (Vec<Directive>, Vec<PhysicalLine>) {
        (self.section.found, self.lines.unwrap_or_default())
    }

    /// Reads up to the end of the next instruction's line.
    pub(crate) fn next_logical(&mut self) -> Option<Logical> {
        loop {
            let line = self.next_line(LineKind::Start)?;
            let content = &self.source[line.start..line.content_end];
            let number = self.line_count();
            let bom = if number == 1 && content.starts_with(b"\xef\xbb\xbf") {
                3
            } else {
                0
            };
            let indent = bom + leading_space(&content[bom..]);
            let text = &content[indent..];
            let is_comment = text.first() == Some(&b'#');
            if self.directive(text, line.start + indent, number) {
                self.relabel(LineKind::Directive);
                continue;
            }
            if is_comment {
                self.comment(&content[bom..], line.start + bom);
                self.relabel(LineKind::Comment);
                continue;
            }
            if text.is_empty() {
                self.relabel(LineKind::Blank);
                continue;
            }
            return Some(self.join(text, line.start + indent, number));
        }
    }

    /// Looks at a line as a directive; tells whether it was one.
    fn directive(&mut self, text: &[u8], start: usize, number: u32) -> bool {
        let span = Span::new(start, start + text.len());
        let lines = LineRange::new(number, number);
        match self.section.line(text, start, number) {
            Line::Other => false,
            Line::Repeated(key) => {
                let message = format!("only one {key} parser directive can be used");
                let mut diagnostic = Diagnostic::new(message, span, lines);
                let first = self
                    .section
                    .found
                    .iter()
                    .find(|known| known.name.value.eq_ignore_ascii_case(&key));
                if let Some(first) = first {
                    let place = first.name.span.to(first.value.span);
                    diagnostic = diagnostic.with_label(place, "it was given here first");
                }
                self.diagnostics
                    .push(diagnostic.with_help("remove one of the two lines"));
                true
            }
            Line::Directive(key, value) => {
                if key == "escape" {
                    self.set_escape(&value, span, lines);
                }
                true
            }
        }
    }

    fn set_escape(&mut self, value: &str, span: Span, lines: LineRange) {
        match value {
            "\\" => self.escape = '\\',
            "`" => self.escape = '`',
            other => {
                let message = format!("invalid escape token '{other}' does not match ` or \\");
                let span = self
                    .section
                    .found
                    .last()
                    .map_or(span, |directive| directive.value.span);
                let diagnostic = Diagnostic::new(message, span, lines)
                    .with_help("write `# escape=\\` or `# escape=`` with a backtick");
                self.diagnostics.push(diagnostic);
            }
        }
    }

    /// Keeps a comment for the instruction below it. An empty one forgets those before it.
    fn comment(&mut self, content: &[u8], start: usize) {
        // The first byte is dropped whatever it is, so that an indented comment keeps its `#`.
        let mut joined = Joined::default();
        joined.push(content.get(1..).unwrap_or_default(), start + 1);
        let range = trimmed(joined.text(), 0..joined.text().len());
        if range.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(joined.spanned(range));
        }
    }

    /// Joins the continuation lines to the first line of an instruction.
    fn join(&mut self, first: &[u8], start: usize, number: u32) -> Logical {
        let mut joined = Joined::default();
        let mut blank_line = None;
        let mut end = start + first.len();
        let (content, mut continues) = self.trim_continuation(first);
        joined.push(content, start);
        while continues && let Some(line) = self.next_line(LineKind::Continuation) {
            let text = &self.source[line.start..line.content_end];
            let indent = leading_space(text);
            if text.get(indent) == Some(&b'#') {
                self.relabel(LineKind::InnerComment);
                continue;
            }
            end = line.content_end;
            if indent == text.len() {
                self.relabel(LineKind::InnerBlank);
                blank_line = Some(Span::new(line.start, line.end));
                continue;
            }
            let content;
            (content, continues) = self.trim_continuation(text);
            joined.push(content, line.start);
        }
        let lines = LineRange::new(number, self.line_count());
        Logical {
            joined,
            lines,
            end,
            comments: std::mem::take(&mut self.comments),
            blank_line,
        }
    }

    /// Splits off a continuation character; tells whether there was one.
    ///
    /// It must be the last character but for blanks and tabs, and must not have another one before it.
    fn trim_continuation<'t>(&self, text: &'t [u8]) -> (&'t [u8], bool) {
        let escape = self.escape as u8;
        let used = text.len()
            - text
                .iter()
                .rev()
                .take_while(|b| matches!(b, b' ' | b'\t'))
                .count();
        match text[..used].split_last() {
            Some((last, before)) if *last == escape && before.last() != Some(&escape) => {
                (before, true)
            }
            _ => (text, false),
        }
    }

    /// Reads a heredoc's body up to its delimiter; `None` when the file ends before.
    pub(crate) fn body(&mut self, word: &HeredocWord) -> Option<Body> {
        let start = self.position;
        while let Some(line) = self.next_line(LineKind::Body) {
            let mut text = &self.source[line.start..line.content_end];
            if word.strip_tabs {
                let tabs = text.iter().take_while(|byte| **byte == b'\t').count();
                text = &text[tabs..];
            }
            if text == word.name.as_bytes() {
                let raw = String::from_utf8_lossy(&self.source[start..line.start]).into();
                return Some(Body {
                    raw,
                    span: Span::new(start, line.start),
                    end: line.content_end,
                });
            }
        }
        None
    }

    /// Returns the body of a finished heredoc as it is used.
    pub(crate) fn content(word: &HeredocWord, raw: &Arc<str>) -> Arc<str> {
        if word.strip_tabs {
            heredoc::strip_tabs(raw).into()
        } else {
            Arc::clone(raw)
        }
    }

    fn next_line(&mut self, kind: LineKind) -> Option<PhysicalLine> {
        let rest = &self.source[self.position..];
        if rest.is_empty() {
            return None;
        }
        let window = &rest[..rest.len().min(MAX_LINE + 1)];
        let length = match window.iter().position(|byte| *byte == b'\n') {
            Some(position) => position + 1,
            None if window.len() > MAX_LINE => {
                self.too_long(rest);
                return None;
            }
            None => rest.len(),
        };
        let content = length - trailing_line_end(&rest[..length]);
        let line = PhysicalLine {
            start: self.position,
            content_end: self.position + content,
            end: self.position + length,
            kind,
        };
        self.position = line.end;
        self.count += 1;
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
        Some(line)
    }

    /// Reports a line that is too long; nothing behind it is read.
    fn too_long(&mut self, rest: &[u8]) {
        let message = format!("dockerfile line greater than max allowed size of {MAX_LINE}");
        let number = self.line_count() + 1;
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(rest.len());
        let span = Span::new(self.position, self.position + length);
        self.position = self.source.len();
        self.diagnostics.push(
            Diagnostic::new(message, span, LineRange::new(number, number)).with_help(
                "split the line with continuation characters, or COPY the data from a file",
            ),
        );
    }

    fn relabel(&mut self, kind: LineKind) {
        if let Some(line) = self.lines.as_mut().and_then(|lines| lines.last_mut()) {
            line.kind = kind;
        }
    }
}

/// Counts the carriage returns and line feeds at the end.
fn trailing_line_end(line: &[u8]) -> usize {
    line.iter()
        .rev()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        let mut reader = Reader::new(source.as_bytes());
        std::iter::from_fn(|| reader.next_logical())
            .map(|logical| logical.joined.into_text())
            .collect()
    }

    #[test]
    fn continuations_join_without_a_blank() {
        assert_eq!(
            texts("ENV a=b\\\n   c=d\nENV e=x\\\ny\n"),
            ["ENV a=b   c=d", "ENV e=xy"]
        );
        assert_eq!(texts("ENV a=b \\  \t\n c=d"), ["ENV a=b  c=d"]);
        assert_eq!(texts("ENV a=b\\\\\nENV c=d"), ["ENV a=b\\\\", "ENV c=d"]);
        assert_eq!(
            texts("ENV a=b\\\\\\\nENV c=d"),
            ["ENV a=b\\\\\\", "ENV c=d"]
        );
        assert_eq!(texts("ENV a=1 \\\n\\\n b=2\n"), ["ENV a=1  b=2"]);
        assert_eq!(texts("ENV a=b \\"), ["ENV a=b "]);
        assert_eq!(texts("ENV a=b \\\n# c\n  # d\n\n c=d"), ["ENV a=b  c=d"]);
    }

    #[test]
    fn line_ends_and_marks_are_dropped() {
        assert_eq!(
            texts("\u{feff}FROM a\r\n\t\tENV a=b\r\r\n"),
            ["FROM a", "ENV a=b"]
        );
    }

    #[test]
    fn the_limit_of_a_line_counts_without_its_end() {
        let line = |length: usize| format!("A{}\nB", "x".repeat(length - 1));
        assert_eq!(texts(&line(MAX_LINE)).len(), 2);
        assert!(texts(&line(MAX_LINE + 1)).is_empty());
    }

    #[test]
    fn comments_stay_with_the_next_instruction() {
        let mut reader = Reader::new(b"# a\n\n#b \nFROM x\n# c\n#\n  # d\nRUN y\n");
        let comments = |logical: Logical| -> Vec<String> {
            logical
                .comments
                .into_iter()
                .map(|comment| comment.value)
                .collect()
        };
        assert_eq!(comments(reader.next_logical().unwrap()), ["a", "b"]);
        assert_eq!(comments(reader.next_logical().unwrap()), ["# d"]);
    }
}
