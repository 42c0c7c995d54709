//! JSON as Go's `encoding/json` writes it, because the bytes are hashed.
//!
//! Two things differ from `serde_json`: `<`, `>` and `&` are escaped as `\u003c`, `\u003e` and
//! `\u0026`, and so are the line separators U+2028 and U+2029. Everything else (short escapes for
//! control characters, lower-case hex, indentation, `[]` and `{}` for what is empty) is the same.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, PrettyFormatter};

/// Writes `value` without white space, as `json.Marshal` does.
pub(crate) fn compact<T: Serialize>(value: &T) -> Vec<u8> {
    written(value, GoEscapes(CompactFormatter))
}

/// Writes `value` indented by two blanks, as `json.MarshalIndent(value, "", "  ")` does.
pub(crate) fn indented<T: Serialize>(value: &T) -> Vec<u8> {
    written(value, GoEscapes(PrettyFormatter::with_indent(b"  ")))
}

fn written<T: Serialize, F: Formatter>(value: &T, formatter: F) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // A vector takes every byte, and our documents have only text keys.
    value
        .serialize(&mut serializer)
        .expect("documents with text keys always serialise");
    bytes
}

/// Adds Go's HTML-safe escapes to another formatter.
struct GoEscapes<F>(F);

/// How Go escapes a character that `serde_json` leaves alone.
fn go_escape(letter: char) -> Option<&'static [u8]> {
    match letter {
        '<' => Some(b"\\u003c"),
        '>' => Some(b"\\u003e"),
        '&' => Some(b"\\u0026"),
        '\u{2028}' => Some(b"\\u2028"),
        '\u{2029}' => Some(b"\\u2029"),
        _ => None,
    }
}

impl<F: Formatter> Formatter for GoEscapes<F> {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut plain = 0;
        for (at, letter) in fragment.char_indices() {
            if let Some(escape) = go_escape(letter) {
                writer.write_all(&fragment.as_bytes()[plain..at])?;
                writer.write_all(escape)?;
                plain = at + letter.len_utf8();
            }
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        self.0.write_char_escape(writer, escape)
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn escapes_are_those_of_go() {
        let text = "a<b>&\u{2028}\u{2029}\"\\/\u{1}\u{8}\u{c}\n\r\t\u{7f}é";
        let expected = concat!(
            r#""a\u003cb\u003e\u0026\u2028\u2029\"\\/\u0001\b\f\n\r\t"#,
            "\u{7f}é\""
        );
        assert_eq!(String::from_utf8(compact(&text)).unwrap(), expected);
    }

    #[test]
    fn empty_lists_and_maps_stay_on_one_line() {
        let value = BTreeMap::from([("a", vec![0; 0]), ("b", vec![1, 2])]);
        let expected = "{\n  \"a\": [],\n  \"b\": [\n    1,\n    2\n  ]\n}";
        assert_eq!(String::from_utf8(indented(&value)).unwrap(), expected);
        assert_eq!(compact(&value), br#"{"a":[],"b":[1,2]}"#);
    }

    #[test]
    fn keys_are_escaped_too() {
        assert_eq!(compact(&BTreeMap::from([("<", 1)])), br#"{"\u003c":1}"#);
    }
}
