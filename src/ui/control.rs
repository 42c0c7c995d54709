//! Text from outside made fit for a terminal: nothing in it moves the cursor or changes settings.

use std::fmt::Write as _;

/// Replaces control characters by visible escapes; tabs stay.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && letter != '\t' {
            let _ = write!(shown, "{}", letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// As [`visible`], but leaves line feeds.
pub(crate) fn visible_lines(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

/// Where a [`Filter`] is within a control sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Text,
    /// Behind ESC.
    Escape,
    /// Behind ESC and intermediate bytes, such as the `(` of `ESC ( B`.
    Intermediate,
    /// In `ESC [ …`.
    Control,
    /// In a string that ends with BEL or `ESC \`: title, hyperlink, device control.
    String,
    /// In such a string, behind ESC.
    StringEscape,
}

/// Longest colour sequence that is passed on.
const LONGEST_SEQUENCE: usize = 64;

/// Removes terminal control sequences from a stream of output, except colours (SGR).
///
/// Sequences may be cut anywhere between two calls.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    state: State,
    sequence: Vec<u8>,
}

impl Filter {
    /// Filters the next bytes into `out`. Line feeds, carriage returns and tabs stay.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            self.byte(byte, out);
        }
    }

    #[expect(
        clippy::match_same_arms,
        reason = "the table reads best state by state"
    )]
    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.state = match (self.state, byte) {
            (State::Text, 0x1b) => State::Escape,
            (State::Text, b'\n' | b'\r' | b'\t' | 0x20..=0x7e | 0x80..) => {
                out.push(byte);
                State::Text
            }
            // Bell, backspace, shift and the like.
            (State::Text, _) => State::Text,
            (State::Escape, b'[') => {
                self.sequence.clear();
                State::Control
            }
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::String,
            (State::Escape, 0x1b) => State::Escape,
            (State::Escape | State::Intermediate, 0x20..=0x2f) => State::Intermediate,
            (State::Escape | State::Intermediate, _) => State::Text,
            (State::Control, 0x20..=0x3f) => {
                if self.sequence.len() < LONGEST_SEQUENCE {
                    self.sequence.push(byte);
                }
                State::Control
            }
            (State::Control, b'm') => {
                let plain = self
                    .sequence
                    .iter()
                    .all(|b| matches!(b, b'0'..=b'9' | b';' | b':'));
                if plain && self.sequence.len() < LONGEST_SEQUENCE {
                    out.extend_from_slice(b"\x1b[");
                    out.append(&mut self.sequence);
                    out.push(b'm');
                }
                State::Text
            }
            (State::Control, 0x1b) => State::Escape,
            (State::Control, _) => State::Text,
            (State::String, 0x07) => State::Text,
            (State::String | State::StringEscape, 0x1b) => State::StringEscape,
            (State::String, _) => State::String,
            (State::StringEscape, b'\\') => State::Text,
            (State::StringEscape, _) => State::String,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(chunks: &[&[u8]]) -> Vec<u8> {
        let mut filter = Filter::default();
        let mut out = Vec::new();
        for chunk in chunks {
            filter.push(chunk, &mut out);
        }
        out
    }

    #[test]
    fn only_colours_pass() {
        let cases: [(&[u8], &[u8]); 8] = [
            (b"a\x1b[31mred\x1b[0m\n", b"a\x1b[31mred\x1b[0m\n"),
            (b"\x1b[2J\x1b[1;1Hhome", b"home"),
            (b"\x1b]0;title\x07x\x1b]8;;http://e\x1b\\y", b"xy"),
            (b"\x1b(Bx\x1b7y\x1bcz", b"xyz"),
            (b"be\x08\x07ll\ttab\r", b"bell\ttab\r"),
            (b"\x1b[?25lx\x1b[>4my", b"xy"),
            (b"\x1bP1;2q...\x1b\\ok", b"ok"),
            ("ü\u{1b}[1mß".as_bytes(), "ü\u{1b}[1mß".as_bytes()),
        ];
        for (input, want) in cases {
            assert_eq!(
                filtered(&[input]),
                want,
                "{:?}",
                String::from_utf8_lossy(input)
            );
        }
    }

    #[test]
    fn a_sequence_may_be_cut_anywhere() {
        let input = b"a\x1b[1;32mgreen\x1b]0;t\x1b\\\x1b[0mb";
        let whole = filtered(&[input]);
        for at in 0..input.len() {
            assert_eq!(
                filtered(&[&input[..at], &input[at..]]),
                whole,
                "cut at {at}"
            );
        }
    }

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(visible("a\u{1b}[31m\tb\u{7}"), "a\\u{1b}[31m\tb\\u{7}");
    }
}
