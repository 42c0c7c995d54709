//! Expansion of variables in words, with an explicit environment.
//!
//! The grammar is that of the shell, cut down: quotes, one escape character, `$name`, and `${name}`
//! with the modifiers `:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` `//`. There is no word
//! splitting, except for `EXPOSE`.

mod engine;
mod pattern;
mod words;

pub(crate) use engine::Lexer;

use crate::text::quote;

/// Longest value that an expansion may give, in bytes. `ENV A=$A$A` doubles a value, so that a few
/// dozen lines would else fill any memory.
pub const MAX_EXPANDED: usize = 1024 * 1024;

/// The variables that an expansion may see.
pub trait Variables {
    /// Returns the value, `None` when the variable is unset.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variable is set.
pub(crate) struct NoVariables;

impl Variables for NoVariables {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

impl<S: std::hash::BuildHasher> Variables for std::collections::HashMap<String, String, S> {
    fn get(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl Variables for std::collections::BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// Result of an expansion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// The word after expansion and quote removal.
    pub value: String,
    /// Names that were met unset, in order, each once: `BuildKit` warns once a word about a name.
    pub undefined: Vec<String>,
}

/// An expansion that failed: `failed to process "<word>": <reason>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {reason}", quote(.word))]
pub struct ExpandError {
    /// The word that was being expanded.
    pub word: String,
    /// What is wrong with it.
    pub reason: String,
    /// Names that were met unset up to the failure; `BuildKit` warns about them all the same.
    pub undefined: Vec<String>,
}

/// Expands one word to one word.
pub fn expand(
    word: &str,
    escape: char,
    variables: &dyn Variables,
) -> Result<Expansion, ExpandError> {
    let lexed = Lexer::new(escape).run(word, variables)?;
    Ok(Expansion {
        value: lexed.value,
        undefined: lexed.undefined,
    })
}

/// Expands a word and splits the result on white space; returns the words and the unset names.
///
/// This is for `EXPOSE`. `BuildKit` gives no `UndefinedVar` warning there.
pub fn expand_words(
    word: &str,
    escape: char,
    variables: &dyn Variables,
) -> Result<(Vec<String>, Vec<String>), ExpandError> {
    let lexed = Lexer::new(escape).run(word, variables)?;
    Ok((
        lexed.words.into_iter().map(|word| word.text).collect(),
        lexed.undefined,
    ))
}

/// Expands the body of a heredoc: quotes are ordinary characters, the escape character is `\`.
pub fn expand_heredoc(body: &str, variables: &dyn Variables) -> Result<Expansion, ExpandError> {
    let lexer = Lexer {
        quotes: false,
        ..Lexer::new('\\')
    };
    let lexed = lexer.run(body, variables)?;
    Ok(Expansion {
        value: lexed.value,
        undefined: lexed.undefined,
    })
}

/// Expands a command line for display: quotes stay, unset variables stay as written, and a line that
/// cannot be expanded is returned as it is.
pub fn expand_for_display(line: &str, escape: char, variables: &dyn Variables) -> String {
    let lexer = Lexer {
        raw_quotes: true,
        keep_unset: true,
        ..Lexer::new(escape)
    };
    match lexer.run(line, variables) {
        Ok(lexed) => lexed.value,
        Err(_) => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn variables() -> BTreeMap<String, String> {
        [
            ("s", "foobarbaz"),
            ("e", ""),
            ("p", "/a/b/c.tar.gz"),
            ("two", "80  81"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
    }

    #[track_caller]
    fn check(word: &str, expected: &str) {
        match expand(word, '\\', &variables()) {
            Ok(expansion) => assert_eq!(expansion.value, expected, "{word}"),
            Err(error) => panic!("{word}: {error}"),
        }
    }

    #[track_caller]
    fn fails(word: &str, expected: &str) {
        match expand(word, '\\', &variables()) {
            Ok(expansion) => panic!("{word}: {expansion:?}"),
            Err(error) => assert_eq!(error.reason, expected, "{word}"),
        }
    }

    #[test]
    fn quotes_and_escapes() {
        check(r#"x"y z"'$w'q"#, "xy z$wq");
        check(r#""a\\b\"c""#, r#"a\b"c"#);
        check(r"'a\\b'", r"a\\b");
        check(r#"a\"b"#, r#"a"b"#);
        check(r#""l1\nl2""#, r"l1\nl2");
        check(r"a\", "a");
        check(r#""a\$s""#, "a$s");
        check("\u{feff}a", "a");
    }

    #[test]
    fn names() {
        check("$s-$s.$s/x", "foobarbaz-foobarbaz.foobarbaz/x");
        check("a$b$,c$", "a$,c$");
        check("[$1][$@][$#][$?][$$][$*][$-][$!][$0]", "[][][][][][][][][]");
        check("[$12x]", "[x]");
        check(r"\$s_\${s}", "$s_${s}");
        check(r"\\$s", r"\foobarbaz");
        check("${s}", "foobarbaz");
    }

    #[test]
    fn defaults_and_alternatives() {
        check("${s:-w}", "foobarbaz");
        check("${e:-w}", "w");
        check("[${e-w}]", "[]");
        check("${u:-${v:-${s}}}", "foobarbaz");
        check(r#"${u:-"a b"}"#, "a b");
        check("${u:-'$s'}", "$s");
        check("${u:-a:b}", "a:b");
        check("${e+w}", "w");
        check("[${e:+w}]", "[]");
        check(r"${u:-a\}b}", "a}b");
        check(r#""${u:-"$s"}""#, "foobarbaz");
    }

    #[test]
    fn prefixes_and_suffixes() {
        check("${s#f*b}", "arbaz");
        check("${s##f*b}", "az");
        check("${s%b*}", "foobar");
        check("${s%%b*}", "foo");
        check("${p##*/}", "c.tar.gz");
        check("${p%%.*}", "/a/b/c");
        check("${s#?o?}", "barbaz");
        check("[${s#[f]}]", "[foobarbaz]");
        check(r"${s#\*}", "foobarbaz");
        check("${s%%*a}", "foobarbaz");
    }

    #[test]
    fn replacements() {
        check("${s/ba/X}", "fooXrbaz");
        check("${s//ba/X}", "fooXrXz");
        check(r"${p//\//_}", "_a_b_c.tar.gz");
        check("${s/b?r/X}", "fooXbaz");
        check("${s/o*b/X}", "fXaz");
        check("${s//ba/}", "foorz");
        check("[${u/x/y}]", "[]");
        check("${s//(o)/[$1]}", "foobarbaz");
    }

    #[test]
    fn errors() {
        fails("${u?}", "u: is not allowed to be unset");
        fails("${e:?}", "e: is not allowed to be empty");
        fails("\"${u:?my message}\"", "u: my message");
        fails("${s:#x}", "unsupported modifier (:#) in substitution");
        fails("${s:0:3}", "unsupported modifier (:0) in substitution");
        fails("${s^^}", "unsupported modifier (^) in substitution");
        fails("${s", "unsupported modifier (\u{fffd}) in substitution");
        fails("${}", "syntax error: bad substitution");
        fails("${", "syntax error: missing '}'");
        fails("${s:-a", "syntax error: missing '}'");
        fails("${s:-\"a}", "syntax error: missing '}'");
        fails("${s/ba}", "syntax error: missing '/' in ${}");
        fails("${s/${u:-x}", "syntax error: missing '/' in ${}");
        fails("${s/a/b", "syntax error: missing '}'");
        fails("${u:-${s^}}", "unsupported modifier (^) in substitution");
        fails(
            r"${s#\f}",
            r"invalid pattern (\f) in substitution: invalid escape '\f'",
        );
        fails(
            "\"x",
            "unexpected end of statement while looking for matching double-quote",
        );
        fails(
            "'x",
            "unexpected end of statement while looking for matching single-quote",
        );
        let error = expand("\"x y", '\\', &variables()).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"failed to process "\"x y": unexpected end of statement while looking for matching double-quote"#
        );
    }

    #[test]
    fn unset_names_are_reported_once_a_word_in_order() {
        let expansion = expand("$b${u:-$c}$b$s", '\\', &variables()).unwrap();
        assert_eq!(expansion.undefined, ["b", "c", "u"]);
        assert_eq!(
            expand("$x${u?}", '\\', &variables()).unwrap_err().undefined,
            ["x", "u"]
        );
    }

    #[test]
    fn words_split_the_result_but_not_what_is_quoted() {
        let words = |word| expand_words(word, '\\', &variables()).unwrap().0;
        assert_eq!(words("$two 90"), ["80", "81", "90"]);
        assert_eq!(words("\"$two\"x"), ["80  81x"]);
        assert_eq!(words(r"a\ b ''"), ["a b"]);
        assert_eq!(words("${a:-8}${b:-9}/tcp"), ["89/tcp"]);
        assert!(words("$u").is_empty());
    }

    #[test]
    fn heredocs_keep_quotes() {
        let body = "'$s' \"$s\" \\$s \\\\ \\n\n";
        let expansion = expand_heredoc(body, &variables()).unwrap();
        assert_eq!(expansion.value, "'foobarbaz' \"foobarbaz\" $s \\ n\n");
    }

    #[test]
    fn display_keeps_quotes_and_unset_names() {
        let text = expand_for_display("echo \"$s\" '$s' $u ${u:-x}", '\\', &variables());
        assert_eq!(text, "echo \"foobarbaz\" '$s' $u ${u:-x}");
        assert_eq!(
            expand_for_display("echo ${s^}", '\\', &variables()),
            "echo ${s^}"
        );
    }

    #[test]
    fn doubling_ends_in_an_error() {
        let mut variables = variables();
        variables.insert("big".to_owned(), "x".repeat(MAX_EXPANDED / 2 + 1));
        assert!(expand("$big", '\\', &variables).is_ok());
        let error = expand("$big$big", '\\', &variables).unwrap_err();
        assert_eq!(error.reason, "the expanded value is larger than 1 MiB");
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let depth = 20_000;
        let word = format!("{}x{}", "${u:-".repeat(depth), "}".repeat(depth));
        assert_eq!(expand(&word, '\\', &variables()).unwrap().value, "x");
        assert!(expand(&word[..word.len() - 1], '\\', &variables()).is_err());
    }
}
