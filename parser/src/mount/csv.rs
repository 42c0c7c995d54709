//! One record of comma-separated values, quotes as in RFC 4180.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_till, take_till1};
use nom::character::complete::char;
use nom::combinator::map;
use nom::multi::fold_many0;
use nom::sequence::delimited;
use nom::{IResult, Parser};

/// Splits a record into its fields. The error is Go's text.
pub(crate) fn fields(record: &str) -> Result<Vec<String>, String> {
    let line = record
        .strip_suffix('\n')
        .map_or(record, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err("EOF".to_owned());
    }
    let error = |rest: &str, reason: &str| {
        let column = line.len() - rest.len() + 1;
        format!("parse error on line 1, column {column}: {reason}")
    };
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (after, field) = if rest.starts_with('"') {
            quoted(rest).map_err(|_| error("", MISPLACED))?
        } else {
            plain(rest).unwrap_or(("", rest.to_owned()))
        };
        if !rest.starts_with('"')
            && let Some(position) = field.find('"')
        {
            return Err(error(&rest[position..], "bare \" in non-quoted-field"));
        }
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            // Something stands between a closing quote and the comma; the quote is to blame.
            None => return Err(error(&line[line.len() - after.len() - 1..], MISPLACED)),
        }
    }
}

const MISPLACED: &str = "extraneous or missing \" in quoted-field";

fn plain(input: &str) -> IResult<&str, String> {
    map(take_till(|c| c == ','), str::to_owned).parse(input)
}

fn quoted(input: &str) -> IResult<&str, String> {
    let pieces = fold_many0(
        alt((take_till1(|c| c == '"'), map(tag("\"\""), |_| "\""))),
        String::new,
        |text, piece| text + piece,
    );
    delimited(char('"'), pieces, char('"')).parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        assert_eq!(fields("a,b=c,").unwrap(), ["a", "b=c", ""]);
        assert_eq!(fields("\"a,\"\"b\",c").unwrap(), ["a,\"b", "c"]);
        assert_eq!(fields("a\r\n").unwrap(), ["a"]);
    }

    #[test]
    fn errors() {
        let error = |record| fields(record).unwrap_err();
        assert_eq!(error(""), "EOF");
        assert_eq!(
            error("ab\"c"),
            "parse error on line 1, column 3: bare \" in non-quoted-field"
        );
        assert_eq!(
            error("\"abc"),
            format!("parse error on line 1, column 5: {MISPLACED}")
        );
        assert_eq!(
            error("a,\"b\"c"),
            format!("parse error on line 1, column 5: {MISPLACED}")
        );
    }
}
