//! Formatting: the layout of a file in one style, its meaning and comments untouched.
//!
//! What is changed: instruction words and `AS` to upper case, white space around them, at line ends
//! and between instructions, blank lines inside of instructions. Nothing inside the arguments is
//! touched, since blanks there can reach the image: the text of a `RUN` is in the history.

use crate::edit::{Edit, apply};
use crate::parse::{LineKind, PhysicalLine, parse_with_lines};
use crate::text::is_blank;
use crate::{Instruction, InstructionKind};

/// A byte-order mark; the parser drops one at the begin of a file.
const MARK: char = '\u{feff}';

/// Formats a Dockerfile without changing its meaning. Doing it twice changes nothing more.
pub fn format(source: &str) -> String {
    let (parsed, lines) = parse_with_lines(source.as_bytes());
    let read_to = lines.last().map_or(0, |line| line.end);
    if read_to != source.len() {
        // Something stopped the reading; what lies behind is not known.
        return source.to_owned();
    }
    let mut edits = Vec::new();
    let start = if source.starts_with(MARK) {
        MARK.len_utf8()
    } else {
        0
    };
    if start > 0 {
        edits.push(Edit::new(0, start, ""));
    }
    let formatter = Formatter { source, start };
    for instruction in parsed.dockerfile.instructions() {
        formatter.words(instruction, &mut edits);
    }
    formatter.lines(&lines, &trailing_kept(&parsed.dockerfile), &mut edits);
    let formatted = apply(source, edits);
    // A mark inside of the file must not come to stand at its begin, where it would be dropped.
    if formatted.starts_with(MARK) {
        source.to_owned()
    } else {
        formatted
    }
}

/// Returns the last lines of `ONBUILD`: blanks at their end are part of the trigger.
fn trailing_kept(dockerfile: &crate::Dockerfile) -> Vec<u32> {
    dockerfile
        .instructions()
        .filter(|instruction| matches!(instruction.kind, InstructionKind::Onbuild(_)))
        .flat_map(|instruction| instruction.lines.first..=instruction.lines.last)
        .collect()
}

struct Formatter<'a> {
    source: &'a str,
    /// Where the file begins behind a byte-order mark.
    start: usize,
}

impl Formatter<'_> {
    /// The words of the language: upper case, and one blank behind the instruction word.
    fn words(&self, instruction: &Instruction, edits: &mut Vec<Edit>) {
        let keyword = &instruction.keyword;
        let mut words = vec![keyword];
        if let InstructionKind::From(from) = &instruction.kind {
            words.extend(&from.as_keyword);
        }
        for word in words {
            let upper = word.value.to_ascii_uppercase();
            // A word that is broken by a continuation stays as it is.
            if word.span.len() == word.value.len() && upper != word.value {
                edits.push(Edit {
                    span: word.span,
                    text: upper,
                });
            }
        }
        let after = &self.source[keyword.span.end..];
        let blanks = after.len() - after.trim_start_matches(|c| is_blank(c) && c != '\r').len();
        let rest = &after[blanks..];
        let ends = rest.is_empty() || rest.starts_with(['\r', '\n']);
        if blanks > 0 && !ends && &after[..blanks] != " " {
            let start = keyword.span.end;
            edits.push(Edit::new(start, start + blanks, " "));
        }
    }

    fn lines(&self, lines: &[PhysicalLine], kept: &[u32], edits: &mut Vec<Edit>) {
        let indented_directive = lines
            .iter()
            .any(|line| line.kind == LineKind::Directive && !self.content(line).starts_with('#'));
        let mut blank_before = false;
        for (index, line) in lines.iter().enumerate() {
            let number = index as u32 + 1;
            let blank = line.kind == LineKind::Blank;
            match line.kind {
                LineKind::Blank => self.blank(lines, index, blank_before, edits),
                LineKind::Comment => self.comment(line, edits),
                LineKind::Directive if !indented_directive => self.directive(line, edits),
                LineKind::InnerBlank => edits.push(Edit::new(line.start, line.end, "")),
                LineKind::Start | LineKind::Continuation => {
                    if line.kind == LineKind::Start {
                        self.indentation(line, edits);
                    }
                    if kept.binary_search(&number).is_err() {
                        self.line_end(line, edits);
                    }
                }
                LineKind::InnerComment => self.line_end(line, edits),
                LineKind::Directive | LineKind::Body => {}
            }
            blank_before = blank;
        }
        if let Some(last) = lines.last()
            && last.content_end == last.end
            && last.end > self.start
            && last.kind != LineKind::Blank
            && last.kind != LineKind::InnerBlank
        {
            edits.push(Edit::new(last.end, last.end, self.line_feed()));
        }
    }

    fn line_feed(&self) -> &'static str {
        match self.source.find('\n') {
            Some(position) if self.source[..position].ends_with('\r') => "\r\n",
            _ => "\n",
        }
    }

    /// Returns a line without its end, and without a byte-order mark.
    fn content(&self, line: &PhysicalLine) -> &str {
        &self.source[line.start.max(self.start)..line.content_end.max(self.start)]
    }

    /// Of several blank lines one stays; at the end of the file, and at its begin, none. One at the
    /// begin does stay before a comment, which might else become a directive.
    fn blank(
        &self,
        lines: &[PhysicalLine],
        index: usize,
        blank_before: bool,
        edits: &mut Vec<Edit>,
    ) {
        let line = &lines[index];
        let first = index == 0;
        // Only the first line of a run looks ahead, so that long runs stay linear.
        let drop = blank_before
            || match lines[index + 1..]
                .iter()
                .find(|line| line.kind != LineKind::Blank)
            {
                None => true,
                Some(next) => first && next.kind != LineKind::Comment,
            };
        let start = line.start.max(self.start);
        if drop {
            edits.push(Edit::new(start, line.end, ""));
        } else if !self.content(line).is_empty() {
            edits.push(Edit::new(start, line.content_end, ""));
        }
    }

    fn comment(&self, line: &PhysicalLine, edits: &mut Vec<Edit>) {
        self.line_end(line, edits);
        let start = line.start.max(self.start);
        let mut after = self.content(line).chars();
        if after.next() == Some('#')
            && after
                .next()
                .is_some_and(|c| !c.is_whitespace() && c != '!' && c != '#')
            && self.content(line).len() < crate::parse::MAX_LINE
        {
            edits.push(Edit::new(start + 1, start + 1, " "));
        }
    }

    fn directive(&self, line: &PhysicalLine, edits: &mut Vec<Edit>) {
        let content = self.content(line);
        let Some((name, value)) = content[1..].split_once('=') else {
            return;
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        let normal = format!("# {name}={value}");
        if !value.is_empty() && normal != content {
            let start = line.start.max(self.start);
            edits.push(Edit::new(start, line.content_end, normal));
        }
    }

    fn indentation(&self, line: &PhysicalLine, edits: &mut Vec<Edit>) {
        let content = self.content(line);
        let blanks = content.len() - content.trim_start().len();
        if blanks > 0 {
            let start = line.start.max(self.start);
            edits.push(Edit::new(start, start + blanks, ""));
        }
    }

    /// Drops blanks and tabs at the end. Behind a continuation character they mean nothing; at the
    /// end of an instruction they are dropped by the parser too. A carriage return before them would
    /// become part of the line end, so that such a line stays as it is.
    fn line_end(&self, line: &PhysicalLine, edits: &mut Vec<Edit>) {
        let content = self.content(line);
        let used = content.trim_end_matches([' ', '\t']).len();
        if used < content.len() && !content[..used].ends_with('\r') {
            let start = line.start.max(self.start);
            edits.push(Edit::new(start + used, line.content_end, ""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        assert_eq!(format(source), expected, "{source:?}");
        assert_eq!(format(expected), expected, "not stable: {expected:?}");
    }

    #[test]
    fn words_and_white_space() {
        check("from   a as  b\n", "FROM a AS  b\n");
        check("FROM a\n  run\techo  x  \n", "FROM a\nRUN echo  x\n");
        check(
            "FROM a \nRUN x \\  \n\n   y  \n# c\n",
            "FROM a\nRUN x \\\n   y\n# c\n",
        );
        check("from a\nhealthcheck cmd x", "FROM a\nHEALTHCHECK cmd x\n");
        check("FROM a\r\nrun b", "FROM a\r\nRUN b\r\n");
        check("\u{feff}from a", "FROM a\n");
    }

    #[test]
    fn blank_lines() {
        check("\n\nFROM a\n\n\n\nRUN b\n\n\n", "FROM a\n\nRUN b\n");
        check("\n\n# escape=`\nFROM a", "\n# escape=`\nFROM a\n");
        check("FROM a\n  \nRUN b", "FROM a\n\nRUN b\n");
        check("", "");
        check("\n\n", "");
    }

    #[test]
    fn carriage_returns_inside_of_lines() {
        check("FROM a\n# b \t\r \t\r\n", "FROM a\n# b \t\r \t\r\n");
        check(
            "FROM a\nRUN b \\ \r \nRUN c",
            "FROM a\nRUN b \\ \r \nRUN c\n",
        );
        check("FROM a \r\n# b\t\r\n", "FROM a\r\n# b\r\n");
    }

    #[test]
    fn comments_and_directives() {
        check(
            "#!x\n#a\n#\n#  b \n##c\n  #d\nFROM a",
            "#!x\n# a\n#\n#  b\n##c\n  #d\nFROM a\n",
        );
        check(
            "#EsCape  = `\nFROM a\nRUN b `\nc",
            "# escape=`\nFROM a\nRUN b `\nc\n",
        );
        check(
            "  # escape=`\n#syntax=x\nFROM a",
            "  # escape=`\n#syntax=x\nFROM a\n",
        );
    }

    #[test]
    fn what_reaches_the_image_stays() {
        check("FROM a\nONBUILD run  x  \n", "FROM a\nONBUILD run  x  \n");
        check(
            "FROM a\nCOPY <<E /f\n x  \n\n\n  E\nE\n",
            "FROM a\nCOPY <<E /f\n x  \n\n\n  E\nE\n",
        );
        check("FROM a\nRUN x\u{a0}\n", "FROM a\nRUN x\u{a0}\n");
        check("FROM a\nRUN <<E\nopen", "FROM a\nRUN <<E\nopen\n");
    }
}
