//! The expansion itself: one loop over the characters with an explicit stack, so that nesting in the
//! input costs heap and not stack.

use std::borrow::Cow;
use std::collections::HashSet;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::one_of;
use nom::combinator::recognize;
use nom::{IResult, Parser};

use super::pattern;
use super::words::{Kind, LexedWord, Words};
use super::{ExpandError, MAX_EXPANDED, Variables};

/// Bytes that one expansion may move about. Each level of nesting copies its result once, so that
/// this bounds deep nesting of long values.
const MAX_WORK: usize = 64 * MAX_EXPANDED;

/// How a word is to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lexer {
    /// The escape character.
    pub(crate) escape: char,
    /// Whether quotes mean something.
    pub(crate) quotes: bool,
    /// Whether quotes stay in the result.
    pub(crate) raw_quotes: bool,
    /// Whether escape characters stay in the result.
    pub(crate) raw_escapes: bool,
    /// Whether an unset variable stays as written.
    pub(crate) keep_unset: bool,
}

/// What came of a word.
#[derive(Debug, Default)]
pub(crate) struct Lexed {
    /// The word as one.
    pub(crate) value: String,
    /// The word split on white space that was not quoted.
    pub(crate) words: Vec<LexedWord>,
    /// Unset names, in order, each once.
    pub(crate) undefined: Vec<String>,
}

impl Lexer {
    /// Makes a lexer that expands and removes quotes and escapes.
    pub(crate) fn new(escape: char) -> Self {
        Self {
            escape,
            quotes: true,
            raw_quotes: false,
            raw_escapes: false,
            keep_unset: false,
        }
    }

    /// Expands a word.
    pub(crate) fn run(self, word: &str, variables: &dyn Variables) -> Result<Lexed, ExpandError> {
        let mut machine = Machine {
            lexer: self,
            // The reference implementation's scanner drops a byte-order mark.
            rest: word.strip_prefix('\u{feff}').unwrap_or(word),
            length: word.len(),
            variables,
            frames: vec![Frame::text(Purpose::Whole, None, self.raw_escapes)],
            words: Words::default(),
            undefined: Vec::new(),
            seen: HashSet::new(),
            work: 0,
        };
        match machine.run() {
            Ok(value) => {
                machine.words.finish();
                Ok(Lexed {
                    value,
                    words: machine.words.done,
                    undefined: machine.undefined,
                })
            }
            Err(reason) => Err(ExpandError {
                word: word.to_owned(),
                reason: machine.outer_reason(reason),
                undefined: machine.undefined,
            }),
        }
    }
}

/// A part of the word that is being read.
struct Frame {
    purpose: Purpose,
    /// Character that ends the part; the end of the word ends it when there is none.
    stop: Option<char>,
    /// Whether escape characters stay.
    raw_escapes: bool,
    result: String,
}

/// What a part is read for.
enum Purpose {
    /// The whole word.
    Whole,
    /// A double-quoted part.
    Quoted,
    /// The word behind `${name:-` and the like.
    Modifier {
        name: String,
        colon: bool,
        operator: Option<char>,
    },
    /// The pattern behind `${name/`.
    Pattern { name: String, all: bool },
    /// The text behind `${name/pattern/`.
    Replacement {
        name: String,
        all: bool,
        pattern: String,
    },
}

impl Frame {
    fn text(purpose: Purpose, stop: Option<char>, raw_escapes: bool) -> Self {
        Self {
            purpose,
            stop,
            raw_escapes,
            result: String::new(),
        }
    }
}

struct Machine<'a> {
    lexer: Lexer,
    rest: &'a str,
    length: usize,
    variables: &'a dyn Variables,
    frames: Vec<Frame>,
    words: Words,
    undefined: Vec<String>,
    seen: HashSet<String>,
    work: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<String, String> {
        loop {
            let Some(frame) = self.frames.last() else {
                unreachable!("the frame of the whole word is only left by returning")
            };
            let next = self.rest.chars().next();
            match (&frame.purpose, next) {
                (Purpose::Quoted, next) => self.step_quoted(next)?,
                (_, Some(c)) if frame.stop == Some(c) => self.close_part()?,
                (_, Some(c)) => self.step_text(c)?,
                (Purpose::Whole, None) => {
                    return Ok(self
                        .frames
                        .pop()
                        .map(|frame| frame.result)
                        .unwrap_or_default());
                }
                (_, None) => {
                    let stop = frame.stop.unwrap_or_default();
                    return Err(format!(
                        "unexpected end of statement while looking for matching {stop}"
                    ));
                }
            }
        }
    }

    /// Turns the reason of an error into the one that is reported: at the end of the word the
    /// outermost open brace is what is wrong.
    fn outer_reason(&self, reason: String) -> String {
        if !self.rest.is_empty() {
            return reason;
        }
        let outermost = self
            .frames
            .iter()
            .find(|frame| !matches!(frame.purpose, Purpose::Whole | Purpose::Quoted));
        match outermost.map(|frame| &frame.purpose) {
            None => reason,
            Some(Purpose::Pattern { .. }) => "syntax error: missing '/' in ${}".to_owned(),
            Some(_) => "syntax error: missing '}'".to_owned(),
        }
    }

    fn position(&self) -> usize {
        self.length - self.rest.len()
    }

    fn bump(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    /// Reads one character, or what it begins, outside of double quotes.
    fn step_text(&mut self, c: char) -> Result<(), String> {
        match c {
            '$' => self.dollar(),
            '<' => self.less_than(),
            '\'' if self.lexer.quotes => self.single_quoted(),
            '"' if self.lexer.quotes => {
                self.open_quote();
                Ok(())
            }
            c if c == self.lexer.escape => self.escaped(),
            _ => self.plain(),
        }
    }

    /// Takes characters that mean nothing special.
    fn plain(&mut self) -> Result<(), String> {
        let escape = self.lexer.escape;
        let stop = self.frames.last().and_then(|frame| frame.stop);
        let taken: IResult<&str, &str> =
            take_while1(|c| !matches!(c, '$' | '<' | '\'' | '"') && c != escape && Some(c) != stop)
                .parse(self.rest);
        let start = self.position();
        let piece = if let Ok((rest, piece)) = taken {
            self.rest = rest;
            piece
        } else {
            // A quote that means nothing here.
            let before = self.rest;
            self.bump();
            &before[..before.len() - self.rest.len()]
        };
        self.deliver(piece, Kind::Open, start)
    }

    /// Takes the escape character and the one behind it; at the end both are dropped.
    fn escaped(&mut self) -> Result<(), String> {
        let start = self.position();
        let raw = self.frames.last().is_some_and(|frame| frame.raw_escapes);
        let before = self.rest;
        self.bump();
        let after_escape = self.rest;
        self.bump();
        let from = if raw { before } else { after_escape };
        let piece = &from[..from.len() - self.rest.len()];
        self.deliver(piece, Kind::Raw, start)
    }

    /// Takes `<`, or `<<` with the blanks behind it, which then do not split: a heredoc's delimiter
    /// may stand apart from its operator.
    fn less_than(&mut self) -> Result<(), String> {
        let start = self.position();
        let heredoc: IResult<&str, &str> =
            recognize((tag("<<"), take_while(|c| matches!(c, '\t' | '\r' | ' ')))).parse(self.rest);
        let (rest, piece) = heredoc.unwrap_or_else(|_| (&self.rest[1..], "<"));
        self.rest = rest;
        self.deliver(piece, Kind::Raw, start)
    }

    fn single_quoted(&mut self) -> Result<(), String> {
        let start = self.position();
        let Some(length) = self.rest[1..].find('\'') else {
            self.rest = "";
            return Err(
                "unexpected end of statement while looking for matching single-quote".to_owned(),
            );
        };
        let (quoted, rest) = self.rest.split_at(length + 2);
        self.rest = rest;
        let piece = if self.lexer.raw_quotes {
            quoted
        } else {
            &quoted[1..quoted.len() - 1]
        };
        self.deliver(piece, Kind::Raw, start)
    }

    fn open_quote(&mut self) {
        self.mark_part(self.position());
        self.bump();
        let raw = self.frames.last().is_some_and(|frame| frame.raw_escapes);
        let mut frame = Frame::text(Purpose::Quoted, Some('"'), raw);
        if self.lexer.raw_quotes {
            frame.result.push('"');
        }
        self.frames.push(frame);
    }

    /// Reads one character, or what it begins, inside of double quotes.
    fn step_quoted(&mut self, next: Option<char>) -> Result<(), String> {
        let start = self.position();
        match next {
            None => Err(
                "unexpected end of statement while looking for matching double-quote".to_owned(),
            ),
            Some('"') => {
                self.bump();
                let Some(frame) = self.frames.pop() else {
                    return Ok(());
                };
                let mut result = frame.result;
                if self.lexer.raw_quotes {
                    result.push('"');
                }
                self.deliver(result, Kind::Raw, start)
            }
            Some('$') => self.dollar(),
            Some(c) if c == self.lexer.escape => self.escaped_in_quotes(),
            Some(_) => {
                let escape = self.lexer.escape;
                let length = self
                    .rest
                    .find(['"', '$', escape])
                    .unwrap_or(self.rest.len());
                let (piece, rest) = self.rest.split_at(length);
                self.rest = rest;
                self.deliver(piece, Kind::Raw, start)
            }
        }
    }

    /// Inside of double quotes the escape character only acts before `"`, `$` and itself.
    fn escaped_in_quotes(&mut self) -> Result<(), String> {
        let escape = self.lexer.escape;
        let start = self.position();
        let raw = self.frames.last().is_some_and(|frame| frame.raw_escapes);
        self.bump();
        let mut piece = String::new();
        if raw {
            piece.push(escape);
        }
        match self.rest.chars().next() {
            // Dropped at the end of the word, which is an error anyway.
            None => {}
            Some(c) if c == '"' || c == '$' || c == escape => {
                self.bump();
                piece.push(c);
            }
            Some(_) => piece.push(escape),
        }
        self.deliver(piece, Kind::Raw, start)
    }

    /// Reads what a `$` begins.
    fn dollar(&mut self) -> Result<(), String> {
        let start = self.position();
        self.bump();
        if !self.rest.starts_with('{') {
            let name = self.take_name();
            if name.is_empty() {
                return self.deliver("$", Kind::Open, start);
            }
            return match self.lookup(&name) {
                None if self.lexer.keep_unset => {
                    self.deliver(format!("${name}"), Kind::Open, start)
                }
                value => self.deliver(value.unwrap_or_default(), Kind::Open, start),
            };
        }
        self.bump();
        match self.rest.chars().next() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        self.mark_part(start);
        let name = self.take_name();
        self.open_brace(name, start)
    }

    /// Reads the modifier behind `${name` and opens the part it is followed by.
    fn open_brace(&mut self, name: String, start: usize) -> Result<(), String> {
        match self.bump() {
            Some('}') => match self.lookup(&name) {
                None if self.lexer.keep_unset => {
                    self.deliver(format!("${{{name}}}"), Kind::Open, start)
                }
                value => self.deliver(value.unwrap_or_default(), Kind::Open, start),
            },
            Some(':') => {
                let operator = self.bump();
                if matches!(operator, Some('#' | '%')) {
                    return Err(unsupported(true, operator));
                }
                let purpose = Purpose::Modifier {
                    name,
                    colon: true,
                    operator,
                };
                self.frames.push(Frame::text(purpose, Some('}'), false));
                Ok(())
            }
            Some(c @ ('+' | '-' | '?' | '#' | '%')) => {
                let purpose = Purpose::Modifier {
                    name,
                    colon: false,
                    operator: Some(c),
                };
                self.frames
                    .push(Frame::text(purpose, Some('}'), matches!(c, '#' | '%')));
                Ok(())
            }
            Some('/') => {
                let all = self.rest.starts_with('/');
                if all {
                    self.bump();
                }
                self.frames
                    .push(Frame::text(Purpose::Pattern { name, all }, Some('/'), true));
                Ok(())
            }
            other => Err(unsupported(false, other)),
        }
    }

    /// Takes the name of a variable: digits, one special character, or letters, digits and `_`.
    fn take_name(&mut self) -> String {
        let name: IResult<&str, &str> = alt((
            take_while1(is_digit),
            recognize(one_of("@*#?-$!0")),
            take_while(|c: char| c.is_alphabetic() || is_digit(c) || c == '_'),
        ))
        .parse(self.rest);
        let (rest, name) = name.unwrap_or((self.rest, ""));
        self.rest = rest;
        name.to_owned()
    }

    /// Ends a part at its stop character and uses its text.
    fn close_part(&mut self) -> Result<(), String> {
        let start = self.position();
        self.bump();
        let Some(frame) = self.frames.pop() else {
            return Ok(());
        };
        let word = frame.result;
        match frame.purpose {
            Purpose::Whole | Purpose::Quoted => unreachable!("these parts have no stop character"),
            Purpose::Pattern { name, all } => {
                let purpose = Purpose::Replacement {
                    name,
                    all,
                    pattern: word,
                };
                self.frames.push(Frame::text(purpose, Some('}'), true));
                Ok(())
            }
            Purpose::Replacement { name, all, pattern } => {
                let value = self.replace(&name, all, &pattern, &word)?;
                self.deliver(value, Kind::Open, start)
            }
            Purpose::Modifier {
                name,
                colon,
                operator,
            } => {
                let value = self.modify(&name, colon, operator, word)?;
                self.deliver(value, Kind::Open, start)
            }
        }
    }

    fn modify(
        &mut self,
        name: &str,
        colon: bool,
        operator: Option<char>,
        word: String,
    ) -> Result<String, String> {
        let value = self.lookup(name);
        if value.is_none() && self.lexer.keep_unset {
            let colon = if colon { ":" } else { "" };
            let operator = operator.map(String::from).unwrap_or_default();
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        // With a colon an empty value counts as none.
        let present = value.filter(|value| !(colon && value.is_empty()));
        match operator {
            Some('-') => Ok(present.map_or(word, str::to_owned)),
            Some('+') => Ok(if present.is_some() {
                word
            } else {
                String::new()
            }),
            Some('?') => match (present, value) {
                (Some(value), _) => Ok(value.to_owned()),
                (None, _) if !word.is_empty() => Err(format!("{name}: {word}")),
                (None, None) => Err(format!("{name}: is not allowed to be unset")),
                (None, Some(_)) => Err(format!("{name}: is not allowed to be empty")),
            },
            Some(end @ ('#' | '%')) => {
                let (pattern, longest) = match word.strip_prefix(end) {
                    Some(pattern) => (pattern, true),
                    None => (word.as_str(), false),
                };
                let value = value.unwrap_or_default();
                if end == '#' {
                    pattern::trim_prefix(pattern, value, longest)
                } else {
                    pattern::trim_suffix(pattern, value, longest)
                }
            }
            other => Err(unsupported(colon, other)),
        }
    }

    fn replace(
        &mut self,
        name: &str,
        all: bool,
        pattern: &str,
        replacement: &str,
    ) -> Result<String, String> {
        match self.lookup(name) {
            None if self.lexer.keep_unset => {
                let slash = if all { "/" } else { "" };
                Ok(format!("${{{name}/{slash}{pattern}/{replacement}}}"))
            }
            value => pattern::replace(pattern, value.unwrap_or_default(), replacement, all),
        }
    }

    fn lookup(&mut self, name: &str) -> Option<&'a str> {
        let value = self.variables.get(name);
        if value.is_none() && self.seen.insert(name.to_owned()) {
            self.undefined.push(name.to_owned());
        }
        value
    }

    /// Remembers where a quoted or braced part begins, when it is not inside of another one.
    fn mark_part(&mut self, start: usize) {
        if self.frames.len() == 1 {
            self.words.part = Some(start);
        }
    }

    /// Adds a piece to the part that is being read, and to the words when that is the whole word.
    fn deliver<'p>(
        &mut self,
        piece: impl Into<Cow<'p, str>>,
        kind: Kind,
        start: usize,
    ) -> Result<(), String> {
        let piece = piece.into();
        self.work += piece.len();
        if self.frames.len() == 1 {
            let end = self.position();
            self.words.add(&piece, kind, start, end);
        }
        let Some(frame) = self.frames.last_mut() else {
            return Ok(());
        };
        if frame.result.is_empty() {
            frame.result = piece.into_owned();
        } else {
            frame.result.push_str(&piece);
        }
        if frame.result.len() > MAX_EXPANDED {
            return Err("the expanded value is larger than 1 MiB".to_owned());
        }
        if self.work > MAX_WORK {
            return Err("the word is nested too deeply".to_owned());
        }
        Ok(())
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric())
}

/// The end of the word shows as U+FFFD, as in the reference implementation.
fn unsupported(colon: bool, operator: Option<char>) -> String {
    let colon = if colon { ":" } else { "" };
    let operator = operator.unwrap_or(char::REPLACEMENT_CHARACTER);
    format!("unsupported modifier ({colon}{operator}) in substitution")
}
