//! Small questions about text, answered as the reference implementation (written in Go) answers
//! them: what is white space, how a string is quoted in a message.

use std::fmt::Write as _;
use std::ops::Range;

/// Tells whether a character separates words of an instruction line.
///
/// This is a smaller set than Unicode white space: no line end, no no-break space.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Tells whether a byte is white space to a regular expression's `\s`.
pub(crate) fn is_regex_space(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\x0c' | '\r' | ' ')
}

/// Returns the length of the white space that bytes begin with.
pub(crate) fn leading_space(bytes: &[u8]) -> usize {
    let mut position = 0;
    while let Some(&byte) = bytes.get(position) {
        if byte.is_ascii() {
            if !char::from(byte).is_whitespace() {
                break;
            }
            position += 1;
            continue;
        }
        let end = bytes.len().min(position + 4);
        let Some(first) = bytes[position..end].utf8_chunks().next() else {
            break;
        };
        match first.valid().chars().next() {
            Some(c) if c.is_whitespace() => position += c.len_utf8(),
            _ => break,
        }
    }
    position
}

/// Returns the part of `range` that is left when white space around it is dropped.
pub(crate) fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    let end = start + text[start..range.end].trim_end().len();
    start..end
}

/// Splits a range at runs of blanks, as the reference implementation does for `FROM`, `COPY` and the
/// like. Quotes do not group. An empty range has no words.
pub(crate) fn split_blanks(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    if range.is_empty() {
        return words;
    }
    let mut start = range.start;
    let mut in_blanks = false;
    for (offset, c) in text[range.clone()].char_indices() {
        let position = range.start + offset;
        if is_blank(c) {
            if !in_blanks {
                words.push(start..position);
            }
            in_blanks = true;
        } else if in_blanks {
            in_blanks = false;
            start = position;
        }
    }
    words.push(if in_blanks {
        range.end..range.end
    } else {
        start..range.end
    });
    words
}

/// Quotes a text as Go's `%q` does: double quotes, and escapes for what does not print.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            c if is_printable(c) => quoted.push(c),
            c => {
                let code = u32::from(c);
                // Writing to a string cannot fail.
                let _ = match code {
                    0..0x80 => write!(quoted, "\\x{code:02x}"),
                    0x80..0x10000 => write!(quoted, "\\u{code:04x}"),
                    _ => write!(quoted, "\\U{code:08x}"),
                };
            }
        }
    }
    quoted.push('"');
    quoted
}

fn is_printable(c: char) -> bool {
    // A character that the standard library would escape for debugging does not print; so does not
    // any blank but the space itself.
    c == ' ' || c == '\'' || (!c.is_whitespace() && c.escape_debug().len() == 1)
}

/// Parses a boolean as the reference implementation does.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Cleans a path lexically: no `.`, no inner `..`, no double or trailing slash; empty becomes `.`.
pub(crate) fn clean_path(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_escapes_what_does_not_print() {
        assert_eq!(
            quote("a\"b\\c\n\t\x01ä\u{200b}'"),
            "\"a\\\"b\\\\c\\n\\t\\x01ä\\u200b'\""
        );
        assert_eq!(quote("\u{fffd} \u{a0}"), "\"\u{fffd} \\u00a0\"");
    }

    #[test]
    fn blanks_split_without_regard_to_quotes() {
        let text = "  a \"b  c\"\td ";
        let words: Vec<&str> = split_blanks(text, trimmed(text, 0..text.len()))
            .into_iter()
            .map(|r| &text[r])
            .collect();
        assert_eq!(words, ["a", "\"b", "c\"", "d"]);
        assert!(split_blanks("", 0..0).is_empty());
    }

    #[test]
    fn leading_space_counts_unicode_blanks() {
        assert_eq!(leading_space("\u{a0} \tx".as_bytes()), 4);
        assert_eq!(leading_space(b"\xff x"), 0);
        assert_eq!(leading_space(b"  "), 2);
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, clean) in [
            ("", "."),
            ("./a//b/", "a/b"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("a/../..", ".."),
            ("/../a", "/a"),
            ("/", "/"),
            ("..", ".."),
        ] {
            assert_eq!(clean_path(path), clean, "{path}");
        }
    }
}
