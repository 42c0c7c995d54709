//! Here-documents: their words on an instruction line, and what becomes of their bodies.

use std::ops::Range;

use nom::bytes::complete::{tag, take_while};
use nom::character::complete::{char, digit0};
use nom::combinator::{opt, rest, verify};
use nom::{IResult, Parser};

use crate::Heredoc;
use crate::expand::{ExpandError, Lexer, NoVariables};
use crate::text::is_regex_space;

/// The word that announces a heredoc: `<<name`, `3<<-"name"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeredocWord {
    /// Delimiter after quote removal.
    pub(crate) name: String,
    /// Whether no part of the delimiter was quoted.
    pub(crate) expand: bool,
    /// Whether `<<-` was written.
    pub(crate) strip_tabs: bool,
    /// Number before `<<`.
    pub(crate) descriptor: u32,
}

/// Finds the heredoc words of a line, with their places.
pub(crate) fn find(line: &str) -> Result<Vec<(HeredocWord, Range<usize>)>, ExpandError> {
    let lexer = Lexer {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        // The escape directive has no say here, as in the reference implementation.
        ..Lexer::new('\\')
    };
    // A line that the shell could not split has no heredocs; what is wrong shows elsewhere.
    let words = lexer
        .run(line, &NoVariables)
        .map(|lexed| lexed.words)
        .unwrap_or_default();
    let mut found = Vec::new();
    for word in words {
        if let Some(heredoc) = parse_word(&word.text)? {
            found.push((heredoc, word.start..word.end));
        }
    }
    Ok(found)
}

/// Reads a word as a heredoc word; `None` when it is none.
pub(crate) fn parse_word(word: &str) -> Result<Option<HeredocWord>, ExpandError> {
    let Ok((_, (descriptor, strip_tabs, delimiter))) = grammar(word) else {
        return Ok(None);
    };
    if delimiter.is_empty() {
        return Ok(None);
    }
    let plain = Lexer {
        keep_unset: true,
        ..Lexer::new('\\')
    };
    let words = plain.run(delimiter, &NoVariables)?.words;
    let [name] = words.as_slice() else {
        return Ok(None);
    };
    let raw = Lexer {
        raw_quotes: true,
        ..plain
    };
    let kept = raw.run(delimiter, &NoVariables)?.words;
    // Quotes that expansion removed mean that some part was quoted.
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expand = kept.iter().map(|word| quotes(&word.text)).sum::<usize>() == quotes(&name.text);
    Ok(Some(HeredocWord {
        name: name.text.clone(),
        expand,
        strip_tabs,
        descriptor: descriptor.parse().unwrap_or(0),
    }))
}

/// `^(\d*)<<(-?)\s*([^<]*)$`
fn grammar(word: &str) -> IResult<&str, (&str, bool, &str)> {
    let (input, (descriptor, _, dash, _, delimiter)) = (
        digit0,
        tag("<<"),
        opt(char('-')),
        take_while(is_regex_space),
        verify(rest, |delimiter: &str| !delimiter.contains('<')),
    )
        .parse(word)?;
    Ok((input, (descriptor, dash.is_some(), delimiter)))
}

/// Tells whether a command line is exactly one heredoc word.
pub(crate) fn is_single(line: &str) -> bool {
    matches!(parse_word(line), Ok(Some(_)))
}

/// Removes the leading tabs of every line.
pub(crate) fn strip_tabs(body: &str) -> String {
    body.split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}

/// Puts the bodies and delimiters back behind the line they belong to.
pub(crate) fn with_bodies(line: &str, heredocs: &[Heredoc]) -> String {
    let mut text = line.to_owned();
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(&heredoc.raw);
        text.push_str(&heredoc.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: &[(&str, bool, bool, u32)]) {
        let found = find(line).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(word, _)| {
                (
                    word.name.as_str(),
                    word.expand,
                    word.strip_tabs,
                    word.descriptor,
                )
            })
            .collect();
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn heredoc_words_are_found() {
        check("RUN <<EOF", &[("EOF", true, false, 0)]);
        check(
            "RUN cat 0<<E 3<<-F <&3",
            &[("E", true, false, 0), ("F", true, true, 3)],
        );
        check("RUN cat <<'EOF'", &[("EOF", false, false, 0)]);
        check("COPY <<E\"O\"F /f", &[("EOF", false, false, 0)]);
        check("RUN cat << EOF", &[("EOF", true, false, 0)]);
        check(
            "RUN cat <<A; cat <<B",
            &[("A;", true, false, 0), ("B", true, false, 0)],
        );
        check("RUN true && cat <<$x", &[("$x", true, false, 0)]);
    }

    #[test]
    fn other_uses_are_none() {
        for line in [
            "RUN echo \"<<EOF\"",
            "RUN echo $((1<<3))",
            "RUN echo a <<< b",
            "RUN echo a <b",
            "RUN cat <<",
            "RUN a<<EOF",
            "RUN echo 'x <<EOF",
        ] {
            check(line, &[]);
        }
    }

    #[test]
    fn words_have_places() {
        let line = "RUN cat 3<< \"EOF\" x";
        let found = find(line).unwrap();
        assert_eq!(&line[found[0].1.clone()], "3<< \"EOF\"");
    }

    #[test]
    fn tabs_are_stripped_from_every_line() {
        assert_eq!(strip_tabs("\t\ta\n\tb\tc\n\n \td\n"), "a\nb\tc\n\n \td\n");
    }
}
