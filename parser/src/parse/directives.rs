//! Parser directives: `# name=value` at the top of the file.

use std::ops::Range;

use nom::Parser;
use nom::bytes::complete::{take_while, take_while_m_n};
use nom::character::complete::char;
use nom::combinator::{consumed, recognize, rest};
use nom::sequence::pair;

use crate::joined::Joined;
use crate::text::is_regex_space;
use crate::{Directive, Span, Spanned};

const KNOWN: [&str; 3] = ["syntax", "escape", "check"];

/// A directive found in a line; places are offsets into the line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Name in lower case, one of the known ones.
    pub(crate) key: String,
    pub(crate) name: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// Reads a line that begins with `comment` as a directive. `None` when it is none; this ends the
/// section of directives.
pub(crate) fn read(line: &str, comment: &str) -> Option<Found> {
    let body = line.strip_prefix(comment)?.trim_start();
    let offset = line.len() - body.len();
    let name = recognize(pair(
        take_while_m_n(1, 1, |c: char| c.is_ascii_alphabetic()),
        take_while(|c: char| c.is_ascii_alphanumeric()),
    ));
    let mut grammar = (
        consumed(name),
        take_while(is_regex_space),
        char('='),
        take_while(is_regex_space),
        rest,
    );
    let parsed: nom::IResult<&str, _> = grammar.parse(body);
    let (_, ((name, _), before, _, blanks, value)) = parsed.ok()?;
    let start = offset + name.len() + before.len() + 1 + blanks.len();
    let value_text = value.trim_end_matches(is_regex_space);
    let value = if value_text.is_empty() {
        // A value of blanks only is its last blank.
        let last = blanks.chars().next_back()?;
        start - last.len_utf8()..start
    } else {
        start..start + value_text.len()
    };
    let key = name.to_ascii_lowercase();
    KNOWN.contains(&key.as_str()).then(|| Found {
        key,
        name: offset..offset + name.len(),
        value,
    })
}

/// The section of directives while a file is being read.
#[derive(Debug, Default)]
pub(crate) struct Section {
    over: bool,
    pub(crate) found: Vec<Directive>,
}

/// What a line was to the section of directives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Not a directive.
    Other,
    /// A directive; name in lower case, value.
    Directive(String, String),
    /// A directive that was there before.
    Repeated(String),
}

impl Section {
    /// Looks at a line, which begins at `start` in the source and is number `number`.
    pub(crate) fn line(&mut self, line: &[u8], start: usize, number: u32) -> Line {
        if self.over {
            return Line::Other;
        }
        let mut joined = Joined::default();
        joined.push(line, start);
        let Some(found) = read(joined.text(), "#") else {
            self.over = true;
            return Line::Other;
        };
        if self
            .found
            .iter()
            .any(|known| known.name.value.eq_ignore_ascii_case(&found.key))
        {
            return Line::Repeated(found.key);
        }
        let value = joined.text()[found.value.clone()].to_owned();
        self.found.push(Directive {
            name: joined.spanned(found.name),
            value: joined.spanned(found.value),
            line: number,
        });
        Line::Directive(found.key, value)
    }
}

/// Finds a directive as other tools look for it: the lines are not trimmed, a `#!` line comes before
/// the section, and repetition does not matter.
pub(crate) fn detect(source: &[u8], key: &str, comment: &str) -> Option<Spanned<String>> {
    let mut offset = if source.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    let mut first = true;
    while offset < source.len() {
        let rest = &source[offset..];
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(rest.len(), |n| n + 1);
        let mut line = Joined::default();
        line.push(&rest[..length], offset);
        offset += length;
        let text = line.text().trim_end_matches('\n');
        let shebang = first && text.starts_with("#!");
        first = false;
        if shebang {
            continue;
        }
        let found = read(text, comment)?;
        if found.key == key {
            return Some(line.spanned(found.value));
        }
    }
    None
}

/// Finds the `syntax` of a file, which may be given in three ways.
pub(crate) fn detect_syntax(source: &[u8]) -> Option<Spanned<String>> {
    detect(source, "syntax", "#")
        .or_else(|| detect(source, "syntax", "//"))
        .or_else(|| json_syntax(source))
}

fn json_syntax(source: &[u8]) -> Option<Spanned<String>> {
    #[derive(serde::Deserialize)]
    struct Probe {
        syntax: Option<String>,
    }
    if source.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let probe: Probe = serde_json::from_slice(source).ok()?;
    probe
        .syntax
        .map(|syntax| Spanned::new(syntax, Span::new(0, source.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<(&str, &str)>) {
        let found = read(line, "#");
        let found = found
            .as_ref()
            .map(|found| (found.key.as_str(), &line[found.value.clone()]));
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn directives() {
        check("# escape=`", Some(("escape", "`")));
        check("#  EsCaPe = ` ", Some(("escape", "`")));
        check("#syntax=a/b:1 c", Some(("syntax", "a/b:1 c")));
        check("# escape= ", Some(("escape", " ")));
        check("# escape=", None);
        check("# foo=bar", None);
        check("# es cape=x", None);
        check("escape=x", None);
    }

    #[test]
    fn syntax_is_detected_in_all_forms() {
        let syntax = |source: &str| detect_syntax(source.as_bytes()).map(|found| found.value);
        assert_eq!(syntax("#!/usr/bin/x\n# syntax=a\n").as_deref(), Some("a"));
        assert_eq!(
            syntax("\u{feff}# escape=`\n# syntax = a b \r\n").as_deref(),
            Some("a b")
        );
        assert_eq!(syntax("// syntax=a\n").as_deref(), Some("a"));
        assert_eq!(
            syntax("{\"syntax\": \"a\", \"x\": [1]}").as_deref(),
            Some("a")
        );
        assert_eq!(syntax("\n# syntax=a\n"), None);
        assert_eq!(syntax(" # syntax=a\n"), None);
    }
}
