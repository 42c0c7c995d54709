//! The short way through the command line.
//!
//! The whole tree has some sixty commands with a thousand options, and making it costs more than many a
//! command does: four milliseconds. So the usual commands are first looked at with a tree that has this
//! one command only. Whatever that does not understand, help and mistakes included, goes the long way
//! and is told there.

use std::ffi::OsString;

use clap::{Args, FromArgMatches as _};

use super::{Cli, GlobalArgs};
use crate::arguments;
use crate::commands::containers::{create, exec, kill, logs, ps, remove, start, stop, wait};
use crate::commands::{build, images, info, inspect, pull, push, rmi, run, tag, version};

/// Makes a table of commands and the arguments that they have in [`super::Command`].
macro_rules! quick_commands {
    ($($name:literal: $arguments:ty,)*) => {
        #[cfg(test)]
        const NAMES: &[&str] = &[$($name),*];

        /// Adds the arguments of a command that is in the table.
        fn arguments_of(name: &str) -> Option<clap::Command> {
            match name {
                $($name => Some(<$arguments as Args>::augment_args(clap::Command::new($name))),)*
                _ => None,
            }
        }
    };
}

quick_commands! {
    "build": build::BuildArgs,
    "create": create::CreateArgs,
    "exec": exec::ExecArgs,
    "images": images::ImagesArgs,
    "info": info::InfoArgs,
    "inspect": inspect::InspectArgs,
    "kill": kill::KillArgs,
    "logs": logs::LogsArgs,
    "ps": ps::PsArgs,
    "pull": pull::PullArgs,
    "push": push::PushArgs,
    "rm": remove::RmArgs,
    "rmi": rmi::RmiArgs,
    "run": run::RunArgs,
    "start": start::StartArgs,
    "stop": stop::StopArgs,
    "tag": tag::TagArgs,
    "version": version::VersionArgs,
    "wait": wait::WaitArgs,
}

/// Parses a command line (the program's name first) that is as usual.
pub(crate) fn parse(given: &[OsString]) -> Option<Cli> {
    let mut tree = tree_of(command_name(given)?)?;
    tree.build();
    let arguments = arguments::normalise(&tree, given.to_vec()).ok()?;
    let matches = tree.try_get_matches_from_mut(arguments).ok()?;
    Cli::from_arg_matches(&matches).ok()
}

/// The tree with one command.
fn tree_of(name: &str) -> Option<clap::Command> {
    let tree = clap::Command::new("rbuild")
        .args_override_self(true)
        .subcommand_required(true);
    let command = super::compact(arguments_of(name)?);
    Some(GlobalArgs::augment_args(tree).subcommand(command))
}

/// The command that is meant, where that is plain without a list of all.
fn command_name(given: &[OsString]) -> Option<&str> {
    let mut words = given.iter().skip(1).map(|word| word.to_str());
    loop {
        match words.next()?? {
            "--root" => {
                words.next()??;
            }
            "-D" | "--debug" => {}
            word if word.starts_with("--root=") => {}
            "-h" | "--help" | "-V" | "--version" | "--" => return None,
            // No command looks so: it is an option or the context of a build.
            word if word.starts_with(['-', '.']) || word.contains('/') => return Some("build"),
            word => return Some(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn commands_have_the_same_arguments_as_in_the_whole_tree() {
        let mut whole = cli::command();
        whole.build();
        let described = |tree: &clap::Command, name: &str| -> Vec<String> {
            let command = tree.find_subcommand(name).unwrap();
            let arguments = command.get_arguments();
            arguments.map(|argument| format!("{argument:?}")).collect()
        };
        for name in NAMES {
            let mut quick = tree_of(name).unwrap();
            quick.build();
            let (quick_ones, all) = (described(&quick, name), described(&whole, name));
            assert_eq!(quick_ones.len(), all.len(), "{name}");
            for (quick_one, one) in quick_ones.iter().zip(&all) {
                assert_eq!(quick_one, one, "{name}");
            }
            assert_eq!(
                quick.find_subcommand(name).unwrap().is_args_override_self(),
                whole.find_subcommand(name).unwrap().is_args_override_self(),
            );
        }
    }

    #[test]
    fn what_is_unusual_goes_the_long_way() {
        for line in [
            "rbuild",
            "rbuild --help",
            "rbuild run --help",
            "rbuild run",
            "rbuild --no-such-option .",
            "rbuild context",
            "rbuild image ls",
            "rbuild -- .",
            "rbuild images --no-such-option",
        ] {
            assert!(parse(&words(line)).is_none(), "{line}");
        }
        for (line, want) in [
            ("rbuild .", "Build("),
            ("rbuild -t x --root=/r ctx/app", "Build("),
            ("rbuild --root /r build -t x y", "Build("),
            ("rbuild -D run --rm=true -it app ls -l", "Run("),
            ("rbuild images -q", "Images("),
            ("rbuild version", "Version("),
        ] {
            let cli = parse(&words(line)).unwrap_or_else(|| panic!("{line}"));
            let whole = cli::command();
            let long = long_way(whole, &words(line));
            let command = format!("{:?}", cli.command);
            assert!(command.starts_with(want), "{line}: {command}");
            assert_eq!(command, format!("{:?}", long.command), "{line}");
            assert_eq!(cli.global.root, long.global.root, "{line}");
            assert_eq!(cli.global.debug, long.global.debug, "{line}");
        }
    }

    fn long_way(mut tree: clap::Command, given: &[OsString]) -> Cli {
        tree.build();
        let arguments = arguments::normalise(&tree, given.to_vec()).unwrap();
        Cli::from_arg_matches(&tree.try_get_matches_from(arguments).unwrap()).unwrap()
    }
}
