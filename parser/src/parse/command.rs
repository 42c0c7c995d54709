//! A logical line, split into instruction word, flags and arguments.

use std::ops::Range;

use crate::flags::{FlagWord, take_flags};
use crate::joined::Joined;
use crate::json::{self, Json};
use crate::text::{is_blank, quote, split_blanks, trimmed};
use crate::{Diagnostic, Heredoc, Span, Spanned, Word, closest, diagnostic};

use super::fault::Fault;

/// The instruction words, in the order in which they are suggested.
pub(crate) const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A line taken apart; ranges are offsets into the joined text.
#[derive(Debug)]
pub(crate) struct Command<'a> {
    pub(crate) line: &'a Joined,
    pub(crate) escape: char,
    pub(crate) keyword: Range<usize>,
    pub(crate) flags: Vec<FlagWord>,
    /// The arguments, white space around them dropped.
    pub(crate) rest: Range<usize>,
    pub(crate) heredocs: Vec<Heredoc>,
}

impl<'a> Command<'a> {
    /// Takes apart the text in `range`.
    pub(crate) fn split(line: &'a Joined, range: Range<usize>, escape: char) -> Self {
        let text = line.text();
        let whole = trimmed(text, range);
        let keyword_length = text[whole.clone()].find(is_blank).unwrap_or(whole.len());
        let keyword = whole.start..whole.start + keyword_length;
        let arguments = text[keyword.end..whole.end].trim_start_matches(is_blank);
        let (flags, rest) = take_flags(text, whole.end - arguments.len()..whole.end, escape);
        let rest = trimmed(text, rest);
        Self {
            line,
            escape,
            keyword,
            flags,
            rest,
            heredocs: Vec::new(),
        }
    }

    /// Returns the instruction word in upper case.
    pub(crate) fn name(&self) -> String {
        self.line.text()[self.keyword.clone()].to_ascii_uppercase()
    }

    /// Returns the arguments as one text.
    pub(crate) fn text(&self) -> &'a str {
        &self.line.text()[self.rest.clone()]
    }

    /// Reads the arguments as JSON.
    pub(crate) fn json(&self) -> Json {
        json::read(self.line.text(), self.rest.clone())
    }

    /// Returns the words between blanks.
    pub(crate) fn words(&self) -> Vec<Word> {
        split_blanks(self.line.text(), self.rest.clone())
            .into_iter()
            .map(|range| self.line.spanned(range))
            .collect()
    }

    /// Returns the arguments as one word, `None` when there are none.
    pub(crate) fn whole(&self) -> Option<Word> {
        (!self.rest.is_empty()).then(|| self.line.spanned(self.rest.clone()))
    }

    /// Returns the place of the arguments, or of the instruction word when there are none.
    pub(crate) fn arguments_span(&self) -> Span {
        let range = if self.rest.is_empty() {
            &self.keyword
        } else {
            &self.rest
        };
        self.line.span(range.clone())
    }

    /// Returns the place of the instruction word.
    pub(crate) fn keyword_span(&self) -> Span {
        self.line.span(self.keyword.clone())
    }

    /// Tells whether heredocs mean something here. In JSON form they do not.
    pub(crate) fn may_have_heredocs(&self) -> bool {
        let form = |command: &Command<'_>| !matches!(command.json(), Json::Strings(_));
        match self.name().as_str() {
            "RUN" | "COPY" | "ADD" => form(self),
            "ONBUILD" => {
                let inner = self.trigger();
                matches!(inner.name().as_str(), "RUN" | "COPY" | "ADD") && form(&inner)
            }
            _ => false,
        }
    }

    /// Takes apart the arguments as an instruction of their own, for `ONBUILD`.
    pub(crate) fn trigger(&self) -> Command<'a> {
        Command::split(self.line, self.rest.clone(), self.escape)
    }

    /// Checks the flags against those that the instruction has.
    pub(crate) fn check_flags(
        &self,
        known: &[(&'static str, FlagType)],
    ) -> Result<Flags<'_>, Fault> {
        let mut taken: Vec<(&'static str, &FlagWord)> = Vec::new();
        for word in &self.flags {
            let flag = &word.flag;
            let span = self.line.span(word.range.clone());
            let Some((name, kind)) = known.iter().find(|(name, _)| *name == flag.name) else {
                return Err(self.unknown_flag(&flag.name, known).at(span));
            };
            // Only where one may not come again: a list can be as long as the file.
            let earlier = taken
                .iter()
                .find(|(taken, _)| *kind != FlagType::List && taken == name);
            if let Some((_, first)) = earlier {
                let first = self.line.span(first.range.clone());
                let message = format!("duplicate flag specified: --{name}");
                return Err(Fault::instruction(message)
                    .at(span)
                    .label(first, "it is given here first"));
            }
            let missing = || {
                let message = format!("missing a value on flag: --{name}");
                Fault::instruction(message)
                    .at(span)
                    .help(format!("write `--{name}=<value>`"))
            };
            match (kind, flag.value.as_deref()) {
                (FlagType::Bool, Some("")) | (FlagType::Text | FlagType::List, None) => {
                    return Err(missing());
                }
                (FlagType::Bool, Some(value)) => {
                    if !matches!(value.to_lowercase().as_str(), "true" | "false") {
                        let message =
                            format!("expecting boolean value for flag --{name}, not: {value}");
                        return Err(Fault::instruction(message).at(span).help(format!(
                            "write `--{name}`, `--{name}=true` or `--{name}=false`"
                        )));
                    }
                }
                (FlagType::Bool, None) | (FlagType::Text | FlagType::List, Some(_)) => {}
            }
            taken.push((name, word));
        }
        Ok(Flags {
            line: self.line,
            taken,
        })
    }

    fn unknown_flag(&self, name: &str, known: &[(&'static str, FlagType)]) -> Fault {
        let names = known.iter().map(|(name, _)| *name);
        let suggestion = diagnostic::closest_same_case(name, names)
            .map(|name| format!(" (did you mean {name}?)"))
            .unwrap_or_default();
        let fault = Fault::instruction(format!("unknown flag: --{name}{suggestion}"));
        let instruction = self.name();
        if known.is_empty() {
            return fault.help(format!("{instruction} has no flags"));
        }
        let names: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
        fault.help(format!("{instruction} has the flags {}", names.join(", ")))
    }
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagType {
    Bool,
    Text,
    /// A text, any number of times.
    List,
}

/// Flags that were checked.
pub(crate) struct Flags<'c> {
    line: &'c Joined,
    taken: Vec<(&'static str, &'c FlagWord)>,
}

impl Flags<'_> {
    fn words(&self, name: &str) -> impl Iterator<Item = &FlagWord> {
        self.taken
            .iter()
            .filter(move |(taken, _)| *taken == name)
            .map(|(_, word)| *word)
    }

    /// Returns the values of a flag.
    pub(crate) fn list(&self, name: &str) -> Vec<Word> {
        self.words(name)
            .map(|word| {
                let value = word.flag.value.clone().unwrap_or_default();
                Spanned::new(value, self.line.span(word.value_range.clone()))
            })
            .collect()
    }

    /// Returns the value of a flag, also when it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<Word> {
        self.list(name).pop()
    }

    /// Returns the value of a flag; an empty one counts as absent.
    pub(crate) fn filled(&self, name: &str) -> Option<Word> {
        self.text(name).filter(|word| !word.value.is_empty())
    }

    /// Returns a boolean flag, when given.
    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        let word = self.words(name).last()?;
        Some(
            word.flag
                .value
                .as_deref()
                .is_none_or(|value| value.eq_ignore_ascii_case("true")),
        )
    }
}

/// Makes the error for an instruction word that is none.
pub(crate) fn unknown_instruction(written: &str) -> Fault {
    let mut message = format!("unknown instruction: {written}");
    let suggestion = closest(written, NAMES.into_iter()).map(|name| {
        if written == written.to_lowercase() || written != written.to_uppercase() {
            name.to_lowercase()
        } else {
            name.to_owned()
        }
    });
    if let Some(name) = &suggestion {
        message = format!("{message} (did you mean {name}?)");
    }
    let fault = Fault::instruction(message);
    if suggestion.is_some() {
        return fault;
    }
    fault.help(
        "if the line belongs to the instruction above, that one needs a continuation character at \
         its end",
    )
}

/// Quotes for messages.
pub(crate) fn quoted(text: &str) -> String {
    quote(text)
}

/// Turns an error of expansion into one of the shape of the file.
pub(crate) fn shape_error(error: &crate::ExpandError) -> Fault {
    Fault::shape(error.to_string())
}

/// Makes a diagnostic for a place that is known only by its line.
pub(crate) fn whole_file(message: &str) -> Diagnostic {
    Diagnostic::new(message, Span::default(), crate::LineRange::default())
}
