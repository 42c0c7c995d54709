//! The command line before clap sees it.
//!
//! Two habits of Docker's users do not fit clap: the word `build` may be left out, and a flag may
//! be written `--flag=true` or `--flag=false`. Both are put into the form that clap expects, by the
//! tree of commands itself, so that nothing has to be listed twice.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command};

use crate::failure::{Failure, status};

/// The command that is meant when none is named.
const DEFAULT: &str = "build";

/// Puts the arguments (the program's name first) into the form that clap expects.
///
/// `tree` must have been built, so that global options are known everywhere.
pub(crate) fn normalise(tree: &Command, given: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let mut walk = Walk {
        command: tree,
        arguments: Vec::with_capacity(given.len() + 1),
    };
    let mut given = given.into_iter();
    walk.arguments.extend(given.next());
    let mut named = false;
    while let Some(argument) = given.next() {
        let bytes = argument.as_encoded_bytes();
        let is_option = bytes.starts_with(b"-") && bytes.len() > 1;
        if !named {
            let known = if is_option {
                walk.knows(&argument)
            } else {
                walk.command.find_subcommand(&argument).is_some()
            };
            if !known {
                walk.arguments.push(DEFAULT.into());
                walk.command = tree.find_subcommand(DEFAULT).unwrap_or(tree);
                named = true;
            }
        }
        if argument == "--" {
            walk.arguments.push(argument);
            break;
        }
        if is_option {
            if walk.option(argument)? {
                walk.arguments.extend(given.next());
            }
        } else if let Some(inner) = walk.command.find_subcommand(&argument) {
            walk.command = inner;
            walk.arguments.push(argument);
            named = true;
        } else {
            walk.arguments.push(argument);
            if walk.stops_at_positional() {
                break;
            }
        }
    }
    walk.arguments.extend(given);
    Ok(walk.arguments)
}

/// The command that normal arguments name.
pub(crate) fn command_name<'t>(tree: &'t Command, arguments: &[OsString]) -> Option<&'t str> {
    let mut walk = Walk {
        command: tree,
        arguments: Vec::new(),
    };
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        if let Some(command) = tree.find_subcommand(argument) {
            return Some(command.get_name());
        }
        if walk.option(argument.clone()).unwrap_or(false) {
            arguments.next();
        }
    }
    None
}

struct Walk<'a> {
    command: &'a Command,
    arguments: Vec<OsString>,
}

impl Walk<'_> {
    fn long(&self, name: &str) -> Option<&Arg> {
        self.command.get_arguments().find(|argument| {
            argument.get_long() == Some(name)
                || argument
                    .get_all_aliases()
                    .is_some_and(|aliases| aliases.contains(&name))
        })
    }

    fn short(&self, letter: char) -> Option<&Arg> {
        self.command.get_arguments().find(|argument| {
            argument.get_short() == Some(letter)
                || argument
                    .get_all_short_aliases()
                    .is_some_and(|all| all.contains(&letter))
        })
    }

    /// Says whether an option belongs to the current command.
    fn knows(&self, argument: &OsStr) -> bool {
        let text = argument.to_string_lossy();
        match text.strip_prefix("--") {
            Some(long) => self.long(long.split('=').next().unwrap_or(long)).is_some(),
            None => text
                .chars()
                .nth(1)
                .is_some_and(|letter| self.short(letter).is_some()),
        }
    }

    /// Takes an option; says whether the next argument is its value.
    fn option(&mut self, argument: OsString) -> Result<bool, Failure> {
        let Some(text) = argument.to_str() else {
            self.arguments.push(argument);
            return Ok(false);
        };
        if let Some((letters, value)) = self.attached_value(text) {
            self.arguments.extend([letters.into(), value.into()]);
            return Ok(false);
        }
        let takes_next = match text.strip_prefix("--") {
            Some(long) => match long.split_once('=') {
                Some((name, value)) => {
                    if self.long(name).is_some_and(is_flag) {
                        if boolean(name, value)? {
                            self.arguments.push(format!("--{name}").into());
                        }
                        return Ok(false);
                    }
                    false
                }
                None => self.long(long).is_some_and(takes_value),
            },
            None => self.cluster_takes_next(&text[1..]),
        };
        self.arguments.push(argument);
        Ok(takes_next)
    }

    /// Says whether `-abc` ends with an option whose value is the next argument.
    fn cluster_takes_next(&self, letters: &str) -> bool {
        let mut rest = letters.chars();
        while let Some(letter) = rest.next() {
            match self.short(letter) {
                Some(argument) if takes_value(argument) => return rest.as_str().is_empty(),
                Some(_) => {}
                None => return false,
            }
        }
        false
    }

    /// Splits `-u5` or `-itu=5`, where everything behind the first positional belongs to another program:
    /// there `clap` takes a word with letters that are no options for the positional.
    fn attached_value<'t>(&self, text: &'t str) -> Option<(&'t str, &'t str)> {
        if text.starts_with("--") || !self.stops_at_positional() {
            return None;
        }
        for (at, letter) in text.char_indices().skip(1) {
            let argument = self.short(letter)?;
            if takes_value(argument) {
                let (letters, value) = text.split_at(at + letter.len_utf8());
                let value = value.strip_prefix('=').unwrap_or(value);
                // A value like an option would be taken for one.
                return (!value.is_empty() && !value.starts_with('-')).then_some((letters, value));
            }
        }
        None
    }

    /// Says whether everything behind the first positional belongs to another program.
    fn stops_at_positional(&self) -> bool {
        self.command
            .get_positionals()
            .any(Arg::is_trailing_var_arg_set)
    }
}

fn is_flag(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::SetTrue)
}

/// Says whether an option takes its value from the next argument.
fn takes_value(argument: &Arg) -> bool {
    argument.get_action().takes_values() && !argument.is_require_equals_set()
}

/// Reads a truth value as Docker's flags do.
fn boolean(name: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Failure::new(format!(
            "invalid value {value:?} for `--{name}`: it must be `true` or `false`"
        ))
        .with_status(status::USAGE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn check(given: &str, want: &str) {
        let mut tree = cli::command();
        tree.build();
        let given = std::iter::once("rbuild").chain(given.split_whitespace());
        let normal = normalise(&tree, given.map(OsString::from).collect()).unwrap();
        let words: Vec<&str> = normal[1..]
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect();
        assert_eq!(words.join(" "), want);
    }

    #[test]
    fn build_may_be_left_out() {
        check("-t a:b .", "build -t a:b .");
        check(".", "build .");
        check("-", "build -");
        check("./images", "build ./images");
        check("build -t a .", "build -t a .");
        check("--root /x -t a .", "--root /x build -t a .");
        check("--root=/x images -q", "--root=/x images -q");
        check("-D images", "-D images");
        check("-t images .", "build -t images .");
        check("--no-cache images", "build --no-cache images");
        check("-- -odd", "build -- -odd");
        check("--help", "--help");
        check("-V", "-V");
        check("", "");
        check("help images", "help images");
    }

    #[test]
    fn flags_may_have_truth_values() {
        check("--no-cache=true .", "build --no-cache .");
        check("--no-cache=0 --quiet=T .", "build --quiet .");
        check("build -f --no-cache=true .", "build -f --no-cache=true .");
        check(
            "--build-arg X=--no-cache=1 .",
            "build --build-arg X=--no-cache=1 .",
        );
        check("image ls --no-trunc=false -q", "image ls -q");
        check("--pull=true .", "build --pull=true .");
    }

    #[test]
    fn what_follows_an_image_is_left_alone() {
        check(
            "run --rm=true -e A=b x --rm=true --x=false",
            "run --rm -e A=b x --rm=true --x=false",
        );
        check(
            "run -it --entrypoint sh x -c --init=false",
            "run -it --entrypoint sh x -c --init=false",
        );
    }

    #[test]
    fn values_may_be_attached_to_letters() {
        check(
            "run -u5 -ite=A=b -p8080:80 x -u5",
            "run -u 5 -ite A=b -p 8080:80 x -u5",
        );
        check("exec -itw/dir x sh -c1", "exec -itw /dir x sh -c1");
        check("build -ta .", "build -ta .");
    }

    #[test]
    fn other_truth_values_are_refused() {
        let mut tree = cli::command();
        tree.build();
        let given = ["rbuild", "--no-cache=maybe", "."]
            .map(OsString::from)
            .to_vec();
        assert_eq!(normalise(&tree, given).unwrap_err().status, status::USAGE);
    }
}
