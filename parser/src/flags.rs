//! Builder flags: the `--name=value` words between an instruction and its arguments.

use std::ops::Range;

use nom::branch::alt;
use nom::bytes::complete::take_till1;
use nom::character::complete::{anychar, char, one_of};
use nom::combinator::{map, opt};
use nom::multi::fold_many0;
use nom::sequence::preceded;
use nom::{IResult, Parser};

use crate::Flag;

/// A flag word after quote removal, and where it stands in the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlagWord {
    /// The flag.
    pub(crate) flag: Flag,
    /// The whole word, quotes included.
    pub(crate) range: Range<usize>,
    /// The value as written, quotes included; empty when there is none.
    pub(crate) value_range: Range<usize>,
}

/// Takes the flags from the begin of `range`; returns them and where the arguments begin.
///
/// Quotes in a flag group and are removed, the escape character makes the next character literal. A
/// bare `--` ends the flags.
pub(crate) fn take_flags(
    text: &str,
    range: Range<usize>,
    escape: char,
) -> (Vec<FlagWord>, Range<usize>) {
    let mut flags = Vec::new();
    let mut rest = &text[range.clone()];
    loop {
        rest = rest.trim_start();
        let start = range.end - rest.len();
        if !rest.starts_with("--") {
            return (flags, start..range.end);
        }
        let (after, word) = flag_word(rest, escape);
        let end = range.end - after.len();
        if word == "--" {
            return (flags, end..range.end);
        }
        flags.push(split_flag(&word, text, start..end));
        rest = after;
    }
}

fn split_flag(word: &str, text: &str, range: Range<usize>) -> FlagWord {
    let body = word.strip_prefix("--").unwrap_or(word);
    let (name, value) = match body.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (body, None),
    };
    let value_start = match text[range.clone()].find('=') {
        Some(position) if value.is_some() => range.start + position + 1,
        _ => range.end,
    };
    let value_range = value_start..range.end;
    FlagWord {
        flag: Flag {
            name: name.to_owned(),
            value,
        },
        range,
        value_range,
    }
}

/// Takes one word and removes its quotes. Cannot fail: a word may be empty.
fn flag_word(input: &str, escape: char) -> (&str, String) {
    let pieces = fold_many0(
        alt((
            |input| quoted(input, escape),
            |input| escaped(input, escape),
            map(
                take_till1(|c: char| c.is_whitespace() || matches!(c, '\'' | '"') || c == escape),
                str::to_owned,
            ),
        )),
        String::new,
        |word, piece| word + &piece,
    )
    .parse(input);
    pieces.unwrap_or((input, String::new()))
}

/// Takes the escape character and what it protects; at the end of the line it protects nothing.
fn escaped(input: &str, escape: char) -> IResult<&str, String> {
    preceded(
        char(escape),
        map(opt(anychar), |c| c.map(String::from).unwrap_or_default()),
    )
    .parse(input)
}

/// Takes a quoted part. Without a closing quote it runs to the end of the line.
fn quoted(input: &str, escape: char) -> IResult<&str, String> {
    let (rest, quote) = one_of("'\"").parse(input)?;
    let (rest, text) = fold_many0(
        alt((
            |input| escaped(input, escape),
            map(
                take_till1(|c: char| c == quote || c == escape),
                str::to_owned,
            ),
        )),
        String::new,
        |text, piece| text + &piece,
    )
    .parse(rest)?;
    let (rest, _) = opt(char(quote)).parse(rest)?;
    Ok((rest, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, Option<&str>, &str)], expected_rest: &str) {
        let (flags, rest) = take_flags(text, 0..text.len(), '\\');
        let flags: Vec<_> = flags
            .iter()
            .map(|word| {
                let value = word.flag.value.as_deref();
                (
                    word.flag.name.as_str(),
                    value,
                    &text[word.value_range.clone()],
                )
            })
            .collect();
        assert_eq!(flags, expected, "{text}");
        assert_eq!(&text[rest], expected_rest, "{text}");
    }

    #[test]
    fn flags_end_at_the_first_other_word() {
        check(
            "--a=b  --link c --d",
            &[("a", Some("b"), "b"), ("link", None, "")],
            "c --d",
        );
        check("c --d", &[], "c --d");
        check("-a b", &[], "-a b");
        check("--a", &[("a", None, "")], "");
    }

    #[test]
    fn two_dashes_end_the_flags() {
        check("--a -- --b", &[("a", None, "")], " --b");
        check("--", &[], "");
    }

    #[test]
    fn quotes_group_and_are_removed() {
        check(r#"--c="1:2" x"#, &[("c", Some("1:2"), r#""1:2""#)], "x");
        check(
            r#"--m="a b",c='d e' x"#,
            &[("m", Some("a b,c=d e"), r#""a b",c='d e'"#)],
            "x",
        );
        check(r"--m=a\ b x", &[("m", Some("a b"), r"a\ b")], "x");
        check(r#"--m="a\"b" x"#, &[("m", Some("a\"b"), r#""a\"b""#)], "x");
        check(r#"--m="a b"#, &[("m", Some("a b"), r#""a b"#)], "");
        check("--chown=ü x", &[("chown", Some("ü"), "ü")], "x");
    }
}
