//! The lines of a Dockerfile around an error or finding, as BuildKit quotes them, and below each the
//! exact places in it.

use std::fmt::Write as _;

use rbuild_parser::{LineRange, Span};
use unicode_width::UnicodeWidthStr;

use super::control::visible;
use super::style::{Palette, paint};

/// Above and below the quoted lines.
const RULE: &str = "--------------------";
/// What stands left of the text, below a quoted line.
const GUTTER: &str = "     |     ";

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Line, from 1.
    pub(crate) line: u32,
    /// Characters before it in the line.
    pub(crate) column: usize,
}

/// A file divided into lines once, to be quoted from often.
#[derive(Debug, Clone)]
pub(crate) struct Source<'a> {
    file: &'a str,
    text: &'a [u8],
    /// Where each line begins.
    starts: Vec<usize>,
}

impl<'a> Source<'a> {
    /// Divides `text`, which is shown under the name `file`.
    pub(crate) fn new(file: &'a str, text: &'a [u8]) -> Source<'a> {
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let starts = std::iter::once(0)
            .chain(ends.map(|(end, _)| end + 1))
            .collect();
        Source { file, text, starts }
    }

    /// Name of the file.
    pub(crate) fn file(&self) -> &'a str {
        self.file
    }

    /// The whole text.
    pub(crate) fn text(&self) -> &'a [u8] {
        self.text
    }

    fn line_count(&self) -> u32 {
        u32::try_from(self.starts.len()).unwrap_or(u32::MAX)
    }

    /// A line, from 1, without its end.
    fn line(&self, number: u32) -> &'a [u8] {
        let index = number as usize - 1;
        let start = self.starts[index];
        let end = self
            .starts
            .get(index + 1)
            .map_or(self.text.len(), |next| next - 1);
        let line = &self.text[start..end];
        line.strip_suffix(b"\r").unwrap_or(line)
    }

    fn start(&self, number: u32) -> usize {
        self.starts[number as usize - 1]
    }

    /// The place of a byte.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset) as u32;
        let before = &self.text[self.start(line)..offset];
        let column = String::from_utf8_lossy(before).chars().count();
        Position { line, column }
    }

    /// First and last place of a span, line ends behind it left out; nothing for one that is empty
    /// or not in the file.
    pub(crate) fn places(&self, span: Span) -> Option<(Position, Position)> {
        let text = self.text.get(span.start..span.end)?;
        let length = text.trim_ascii_end().len();
        (length > 0).then(|| {
            let end = self.position(span.start + length);
            (self.position(span.start), end)
        })
    }

    /// The lines that a problem is on: those of its instruction, else those of its span.
    pub(crate) fn lines(&self, lines: LineRange, span: Option<Span>) -> Option<LineRange> {
        if (1..=self.line_count()).contains(&lines.first) {
            let last = lines.last.clamp(lines.first, self.line_count());
            return Some(LineRange::new(lines.first, last));
        }
        let (start, end) = self.places(span?)?;
        (lines.first == 0).then(|| LineRange::new(start.line, end.line))
    }

    /// The part of some lines that a problem is about; nothing if it is about all of them.
    pub(crate) fn part(&self, lines: LineRange, span: Option<Span>) -> Option<Span> {
        let span = span?;
        self.places(span)?;
        let last = self.line(lines.last).trim_ascii_end().len();
        let end = self.start(lines.last) + last;
        let indent = self.line(lines.first).len() - self.line(lines.first).trim_ascii_start().len();
        let whole = span.start <= self.start(lines.first) + indent && span.end >= end;
        (!whole).then_some(span)
    }

    /// Quotes the lines of a problem with some lines around them, and those that labels are on.
    ///
    /// One line is shown with two neighbours on each side, several with one. Below a line stand the
    /// places in it: the problem's own, then the labels. Empty when the file does not have the lines.
    pub(crate) fn excerpt(
        &self,
        lines: LineRange,
        span: Option<Span>,
        labels: &[(Span, String)],
        palette: &Palette,
    ) -> String {
        let Some(lines) = self.lines(lines, span) else {
            return String::new();
        };
        let around = if lines.first == lines.last { 2 } else { 1 };
        let from = lines.first.saturating_sub(around).max(1);
        let to = lines.last.saturating_add(around).min(self.line_count());
        let marks = self.marks(self.part(lines, span), labels);
        let mut shown: Vec<u32> = marks.iter().map(|mark| mark.line).collect();
        shown.extend(from..=to);
        shown.sort_unstable();
        shown.dedup();
        let mut quoted = format!("{}:{}\n{RULE}\n", visible(self.file), lines.first);
        let mut before = None;
        for number in shown {
            if before.is_some_and(|before| before + 1 < number) {
                quoted.push_str(" ...\n");
            }
            before = Some(number);
            let arrow = if (lines.first..=lines.last).contains(&number) {
                ">>>"
            } else {
                "   "
            };
            let line = visible(&String::from_utf8_lossy(self.line(number)));
            let _ = writeln!(quoted, "{number:>4} | {arrow} {line}");
            for mark in marks.iter().filter(|mark| mark.line == number) {
                self.underline(mark, palette, &mut quoted);
            }
        }
        let _ = writeln!(quoted, "{RULE}");
        quoted
    }

    fn marks<'l>(&self, own: Option<Span>, labels: &'l [(Span, String)]) -> Vec<Mark<'l>> {
        let mark = |span: Span, label: Option<&'l str>| Mark {
            line: self.position(span.start).line,
            span,
            label,
        };
        let own = own.into_iter().map(|span| mark(span, None));
        let labels = labels
            .iter()
            .filter(|(span, _)| span.start <= span.end && span.end <= self.text.len())
            .map(|(span, label)| mark(*span, Some(label)));
        own.chain(labels).collect()
    }

    /// Underlines a mark on its first line.
    fn underline(&self, mark: &Mark<'_>, palette: &Palette, quoted: &mut String) {
        let line = self.line(mark.line);
        let from = (mark.span.start - self.start(mark.line)).min(line.len());
        let to = (mark.span.end - self.start(mark.line)).clamp(from, line.len());
        let part = String::from_utf8_lossy(&line[from..to]).into_owned();
        let width = shown_width(part.trim_end()).max(1);
        let before: String = visible(&String::from_utf8_lossy(&line[..from]))
            .split_inclusive('\t')
            .flat_map(|piece| {
                let tab = piece.ends_with('\t');
                let blanks = " ".repeat(shown_width(piece.trim_end_matches('\t')));
                [blanks, if tab { "\t".to_owned() } else { String::new() }]
            })
            .collect();
        let (sign, style) = match mark.label {
            None => ("^", palette.error),
            Some(_) => ("-", palette.dim),
        };
        let mut text = sign.repeat(width);
        if let Some(label) = mark.label {
            text.push(' ');
            text.push_str(&visible(label));
        }
        let _ = writeln!(quoted, "{GUTTER}{before}{}", paint(style, &text));
    }
}

/// Columns that a text takes after it was made visible.
fn shown_width(text: &str) -> usize {
    visible(text).width()
}

/// A place to underline, with a remark unless it is the problem's own.
struct Mark<'l> {
    line: u32,
    span: Span,
    label: Option<&'l str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "FROM a\nRUN one\nRUN two \\\n  more\nRUN \x1b[31mthree\nRUN four\n";

    fn excerpt(source: &str, first: u32, last: u32) -> String {
        let source = Source::new("Dockerfile", source.as_bytes());
        source.excerpt(LineRange::new(first, last), None, &[], &Palette::default())
    }

    /// Quotes line 2 of a file with the place of `part` and a label at each of `labels`.
    fn marked(text: &str, line: u32, part: &str, labels: &[&str]) -> String {
        let span = |part: &str| {
            let start = text.find(part).unwrap();
            Span::new(start, start + part.len())
        };
        let labels: Vec<_> = labels
            .iter()
            .map(|label| (span(label), format!("see {label}")))
            .collect();
        let source = Source::new("Dockerfile", text.as_bytes());
        let lines = LineRange::new(line, line);
        source.excerpt(lines, Some(span(part)), &labels, &Palette::default())
    }

    #[test]
    fn one_line_has_two_neighbours_on_each_side() {
        assert_eq!(
            excerpt(SOURCE, 5, 5),
            "Dockerfile:5\n\
             --------------------\n   \
                3 |     RUN two \\\n   \
                4 |       more\n   \
                5 | >>> RUN \\u{1b}[31mthree\n   \
                6 |     RUN four\n   \
                7 |     \n\
             --------------------\n"
        );
    }

    #[test]
    fn several_lines_have_one_neighbour() {
        assert_eq!(
            excerpt(SOURCE, 3, 4),
            "Dockerfile:3\n\
             --------------------\n   \
                2 |     RUN one\n   \
                3 | >>> RUN two \\\n   \
                4 | >>>   more\n   \
                5 |     RUN \\u{1b}[31mthree\n\
             --------------------\n"
        );
    }

    #[test]
    fn the_ends_of_the_file_are_respected() {
        assert_eq!(
            excerpt("FROM a", 1, 1),
            "Dockerfile:1\n--------------------\n   1 | >>> FROM a\n--------------------\n"
        );
        assert_eq!(excerpt("FROM a", 0, 0), "");
        assert_eq!(excerpt("FROM a", 2, 2), "");
        assert_ne!(excerpt("FROM a", 1, 99), "");
        assert_ne!(excerpt("", 1, 1), "");
    }

    #[test]
    fn the_exact_place_is_underlined() {
        assert_eq!(
            marked("FROM a\nCPOY b /\n", 2, "CPOY", &[]),
            "Dockerfile:2\n\
             --------------------\n   \
                1 |     FROM a\n   \
                2 | >>> CPOY b /\n     \
                  |     ^^^^\n   \
                3 |     \n\
             --------------------\n"
        );
        // Columns are those of the terminal: wide letters, escaped control characters, tabs.
        assert!(
            marked("RUN\t\u{1b}漢 x y", 1, "x", &[])
                .contains("1 | >>> RUN\t\\u{1b}漢 x y\n     |        \t         ^\n")
        );
    }

    #[test]
    fn what_a_problem_covers_wholly_is_not_underlined() {
        assert!(!marked("FROM a\n  RUN b \nRUN c", 2, "RUN b", &[]).contains('^'));
        let text = "RUN a \\\n  b\nRUN c";
        let source = Source::new("Dockerfile", text.as_bytes());
        let quote = |span| {
            let lines = LineRange::new(1, 2);
            source.excerpt(lines, Some(span), &[], &Palette::default())
        };
        assert!(!quote(Span::new(0, 11)).contains('^'));
        // On several lines, the first one shows where it begins.
        assert!(quote(Span::new(4, 11)).contains("RUN a \\\n     |         ^^^\n"));
    }

    #[test]
    fn labels_bring_their_lines_with_them() {
        let text = "FROM a AS one\n\n\n\n\nFROM b AS two\n";
        assert_eq!(
            marked(text, 6, "two", &["one", "AS two"]),
            "Dockerfile:6\n\
             --------------------\n   \
                1 |     FROM a AS one\n     \
                  |               --- see one\n \
              ...\n   \
                4 |     \n   \
                5 |     \n   \
                6 | >>> FROM b AS two\n     \
                  |               ^^^\n     \
                  |            ------ see AS two\n   \
                7 |     \n\
             --------------------\n"
        );
    }

    #[test]
    fn an_error_without_lines_is_where_its_span_is() {
        assert!(
            marked("# escape=x\nFROM a", 0, "escape=x", &[])
                .contains("1 | >>> # escape=x\n     |       ^^^^^^^^\n")
        );
    }

    #[test]
    fn positions_count_characters() {
        let source = Source::new("Dockerfile", "ä b\ncd\n".as_bytes());
        let at = |offset| {
            let Position { line, column } = source.position(offset);
            (line, column)
        };
        assert_eq!(
            [at(0), at(3), at(5), at(99)],
            [(1, 0), (1, 2), (2, 0), (3, 0)]
        );
        let (start, end) = source.places(Span::new(3, 8)).unwrap();
        assert_eq!((start.line, start.column), (1, 2));
        assert_eq!((end.line, end.column), (2, 2));
        assert!(source.places(Span::new(2, 2)).is_none());
        assert!(source.places(Span::new(3, 99)).is_none());
    }
}
