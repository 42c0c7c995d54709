//! The JSON form of arguments: one array of strings.

use std::ops::Range;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while_m_n, take_while1};
use nom::character::complete::{char, one_of};
use nom::combinator::{all_consuming, consumed, map, map_opt};
use nom::multi::{fold_many0, separated_list0};
use nom::sequence::{delimited, preceded, terminated};
use nom::{IResult, Parser};

/// What an argument text is, seen as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Json {
    /// An array of strings, with the place of each element, quotes included.
    Strings(Vec<(String, Range<usize>)>),
    /// A valid array with something else in it.
    NotStrings,
    /// Not an array, or not JSON: the text is meant literally.
    Not,
}

/// Reads the text in `range` as one JSON array.
pub(crate) fn read(text: &str, range: Range<usize>) -> Json {
    let body = &text[range.clone()];
    if !body.starts_with('[') {
        return Json::Not;
    }
    if let Ok((_, strings)) = array(body) {
        let place = |part: &str| {
            let start = range.start + (part.as_ptr() as usize - body.as_ptr() as usize);
            start..start + part.len()
        };
        return Json::Strings(
            strings
                .into_iter()
                .map(|(raw, value)| (value, place(raw)))
                .collect(),
        );
    }
    // Valid JSON with other elements is an error, everything else is shell form.
    match serde_json::from_str::<Vec<serde::de::IgnoredAny>>(body) {
        Ok(_) => Json::NotStrings,
        Err(_) => Json::Not,
    }
}

fn array(input: &str) -> IResult<&str, Vec<(&str, String)>> {
    all_consuming(terminated(
        delimited(
            (char('['), space),
            separated_list0((char(','), space), terminated(consumed(string), space)),
            char(']'),
        ),
        space,
    ))
    .parse(input)
}

fn space(input: &str) -> IResult<&str, &str> {
    take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r')).parse(input)
}

fn string(input: &str) -> IResult<&str, String> {
    let piece = alt((
        map(
            take_while1(|c| c != '"' && c != '\\' && c >= ' '),
            str::to_owned,
        ),
        map(preceded(char('\\'), one_of("\"\\/bfnrt")), |c| {
            unescape(c).to_string()
        }),
        map(unicode_escape, String::from),
    ));
    let pieces = fold_many0(piece, String::new, |text, piece| text + &piece);
    delimited(char('"'), pieces, char('"')).parse(input)
}

fn unescape(c: char) -> char {
    match c {
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        other => other,
    }
}

/// Takes `\uXXXX`, or two of them that form a pair; half a pair becomes U+FFFD.
fn unicode_escape(input: &str) -> IResult<&str, char> {
    let (rest, first) = code_unit(input)?;
    if (0xd800..0xdc00).contains(&first)
        && let Ok((rest, second)) = code_unit(rest)
        && (0xdc00..0xe000).contains(&second)
    {
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return Ok((
            rest,
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
        ));
    }
    Ok((
        rest,
        char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER),
    ))
}

fn code_unit(input: &str) -> IResult<&str, u32> {
    preceded(
        tag("\\u"),
        map_opt(
            take_while_m_n(4, 4, |c: char| c.is_ascii_hexdigit()),
            |digits| u32::from_str_radix(digits, 16).ok(),
        ),
    )
    .parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn strings(text: &str, expected: &[&str]) {
        match read(text, 0..text.len()) {
            Json::Strings(found) => {
                let found: Vec<&str> = found.iter().map(|(value, _)| value.as_str()).collect();
                assert_eq!(found, expected, "{text}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn arrays_of_strings_are_decoded() {
        strings("[]", &[]);
        strings("[ ]", &[]);
        strings(r#"[ "a" , "b c" ]"#, &["a", "b c"]);
        strings(
            r#"["\u00e9\n\"\\\/","\ud83d\ude00","\ud83d","\udc00x"]"#,
            &["é\n\"\\/", "😀", "\u{fffd}", "\u{fffd}x"],
        );
    }

    #[test]
    fn other_elements_are_told_from_other_text() {
        for text in [
            "[1]",
            r#"["a", 1]"#,
            "[[]]",
            "[null]",
            r#"[{"a":["b"]}]"#,
            r#"[1,"\ud800"]"#,
        ] {
            assert_eq!(read(text, 0..text.len()), Json::NotStrings, "{text}");
        }
        for text in [
            "['a']",
            r#"["a"] && b"#,
            r#"["a""#,
            "[a]",
            "a",
            "",
            r#"["a",]"#,
            "[\"a\tb\"]",
        ] {
            assert_eq!(read(text, 0..text.len()), Json::Not, "{text}");
        }
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let text = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(read(&text, 0..text.len()), Json::NotStrings);
    }

    #[test]
    fn elements_have_places() {
        let text = r#"CMD ["a", "b"]"#;
        let Json::Strings(found) = read(text, 4..text.len()) else {
            panic!("not an array")
        };
        assert_eq!(&text[found[1].1.clone()], "\"b\"");
    }
}
