//! Splitting of `ENV`, `LABEL` and `ARG` lines into words.
//!
//! Quotes and escapes are recognised so that a blank in them does not split; they stay in the word
//! and are removed by expansion.

use std::ops::Range;

use nom::branch::alt;
use nom::bytes::complete::{take_till1, take_while};
use nom::character::complete::{anychar, char};
use nom::combinator::{opt, recognize};
use nom::multi::{many0_count, many1_count};
use nom::{IResult, Parser};

/// Splits a range of `text` into words.
pub(crate) fn split_words(text: &str, range: Range<usize>, escape: char) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let end = range.end;
    let mut rest = &text[range];
    loop {
        rest = rest.trim_start();
        let start = end - rest.len();
        match word(rest, escape) {
            Ok((after, found)) if !found.is_empty() => {
                words.push(start..start + found.len());
                rest = after;
            }
            // Nothing is left but an escape character at the very end, which is dropped.
            _ => return words,
        }
        // An escape character at the very end of the line belongs to no word.
        if rest.len() == escape.len_utf8() && rest.starts_with(escape) {
            return words;
        }
    }
}

/// Takes one word: quoted parts, escaped characters, and what is no white space.
fn word(input: &str, escape: char) -> IResult<&str, &str> {
    recognize(many1_count(alt((
        recognize((char('\''), take_while(|c| c != '\''), opt(char('\'')))),
        recognize((
            char('"'),
            |input| double_quoted(input, escape),
            opt(char('"')),
        )),
        recognize((char(escape), anychar)),
        take_till1(|c: char| c.is_whitespace() || c == '\'' || c == '"' || c == escape),
    ))))
    .parse(input)
}

/// Takes what stands between double quotes.
fn double_quoted(input: &str, escape: char) -> IResult<&str, usize> {
    many0_count(alt((
        recognize((char(escape), anychar)),
        take_till1(|c: char| c == '"' || c == escape),
    )))
    .parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let words: Vec<&str> = split_words(text, 0..text.len(), '\\')
            .into_iter()
            .map(|range| &text[range])
            .collect();
        assert_eq!(words, expected, "{text}");
    }

    #[test]
    fn blanks_split_outside_quotes_only() {
        check("a=b  c\u{a0}d", &["a=b", "c", "d"]);
        check(
            r#"a="x y" b='p q' c=r\ s d="#,
            &[r#"a="x y""#, "b='p q'", r"c=r\ s", "d="],
        );
        check(r#"a="q\" r" b"#, &[r#"a="q\" r""#, "b"]);
        check(r"a='q\' b", &[r"a='q\'", "b"]);
        check(r#"x"y z"'$w'q"#, &[r#"x"y z"'$w'q"#]);
        check(r#""" ''"#, &[r#""""#, "''"]);
    }

    #[test]
    fn an_open_quote_runs_to_the_end() {
        check(r#"a="x y"#, &[r#"a="x y"#]);
        check("a='x y ", &["a='x y "]);
    }

    #[test]
    fn an_escape_at_the_end_is_dropped() {
        check(r"a b\", &["a", "b"]);
        check(r#"a "b\"#, &["a", r#""b"#]);
        check(r"\", &[]);
        check(r"a \", &["a"]);
        check(r"a\\", &[r"a\\"]);
    }
}
