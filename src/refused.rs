//! Options that other builders have and this one does not have yet.
//!
//! They are known, so that nobody reads `unexpected argument` for a flag that they have used for
//! years; each is refused by name, unless its value asks for what happens anyway.

use clap::builder::ValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use crate::failure::Failure;

/// How an option takes its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// None, or one behind `=`.
    Optional,
    /// Always one.
    Value,
}

/// An option that is known but not there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefusedOption {
    pub(crate) long: &'static str,
    pub(crate) takes: Takes,
    /// Values that ask for what happens anyway; an absent value counts as `true`.
    pub(crate) harmless: &'static [&'static str],
    /// What to do instead; empty if nothing.
    pub(crate) instead: &'static str,
}

/// An option that takes a value.
pub(crate) const fn value(long: &'static str) -> RefusedOption {
    RefusedOption {
        long,
        takes: Takes::Value,
        harmless: &[],
        instead: "",
    }
}

/// An option that may stand alone.
pub(crate) const fn flag(long: &'static str) -> RefusedOption {
    RefusedOption {
        long,
        takes: Takes::Optional,
        harmless: &["false"],
        instead: "",
    }
}

impl RefusedOption {
    /// Accepted, without effect, with these values.
    pub(crate) const fn harmless(mut self, values: &'static [&'static str]) -> RefusedOption {
        self.harmless = values;
        self
    }

    /// Tells, when it is refused, what to do instead.
    pub(crate) const fn instead(mut self, hint: &'static str) -> RefusedOption {
        self.instead = hint;
        self
    }

    fn argument(&self) -> Arg {
        let argument = Arg::new(self.long)
            .long(self.long)
            .hide(true)
            .action(ArgAction::Append)
            .value_parser(ValueParser::os_string());
        match self.takes {
            Takes::Value => argument.allow_hyphen_values(true),
            Takes::Optional => argument
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
        }
    }
}

/// A list of options that a command refuses.
pub(crate) trait RefusedList {
    /// The options.
    const OPTIONS: &'static [RefusedOption];
    /// Exit status of the refusal.
    const STATUS: u8;
}

/// The options of a list that were given and are not harmless.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused<L> {
    given: Vec<RefusedOption>,
    list: std::marker::PhantomData<L>,
}

impl<L: RefusedList> Refused<L> {
    /// Fails if there are any.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.given.first() {
            None => Ok(()),
            Some(option) => {
                let what = format!("`--{}`", option.long);
                let failure = Failure::unsupported(&what).with_status(L::STATUS);
                Err(match option.instead {
                    "" => failure,
                    instead => failure.hint(instead),
                })
            }
        }
    }
}

impl<L: RefusedList> clap::Args for Refused<L> {
    fn augment_args(command: Command) -> Command {
        command.args(L::OPTIONS.iter().map(RefusedOption::argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<L: RefusedList> FromArgMatches for Refused<L> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = L::OPTIONS
            .iter()
            .filter(|option| {
                matches.value_source(option.long) == Some(ValueSource::CommandLine)
                    && matches
                        .get_raw(option.long)
                        .into_iter()
                        .flatten()
                        .any(|value| !option.harmless.iter().any(|harmless| value == *harmless))
            })
            .copied()
            .collect();
        Ok(Refused {
            given,
            list: std::marker::PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
