//! The command reference of the manual, made from the tree of commands.
//!
//! It lies in the repository, so that it can be read without building anything; a test fails when
//! it is stale.

use std::fmt::Write as _;
use std::path::Path;

use clap::Command;

use crate::cli;
use crate::env::VARIABLES;
use crate::failure::status;

/// Where it lies, from the root of the repository.
const PLACE: &str = "docs/manual/commands.md";
/// Width of the help texts in it.
const WIDTH: usize = 90;

/// Makes the text.
fn commands() -> String {
    let mut tree = cli::command().term_width(WIDTH);
    tree.build();
    let mut text = String::from(
        "# Commands\n\n\
         Made from the program's own help by `cargo test`; edit the help texts in `src/` instead.\n",
    );
    section(&mut text, &tree, &tree);
    text.push_str("\n## Environment\n\n| variable | meaning |\n|---|---|\n");
    for variable in VARIABLES {
        let _ = writeln!(text, "| `{}` | {} |", variable.name, variable.help);
    }
    text.push_str("\n## Exit status\n\n| status | meaning |\n|---|---|\n");
    for (code, meaning) in [
        (0, "The command did what it was asked to do."),
        (
            status::ERROR,
            "It did not: the build failed, the image is not there, the store is damaged, …",
        ),
        (status::USAGE, "The command line is wrong."),
        (101, "A bug in rbuild."),
        (status::ENGINE, "`run`: the container could not be started."),
        (
            status::NOT_EXECUTABLE,
            "`run`: the command was found but cannot be executed.",
        ),
        (status::NOT_FOUND, "`run`: there is no such command."),
        (
            status::INTERRUPTED,
            "Ended by Ctrl-C; other signals likewise give 128 and their number.",
        ),
    ] {
        let _ = writeln!(text, "| {code} | {meaning} |");
    }
    text.push_str("\n`run` passes the status of the container's command on.\n");
    text
}

/// One command, then those below it. A second name of a command refers to the first.
fn section(text: &mut String, tree: &Command, command: &Command) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let _ = write!(text, "\n## `{name}`\n\n");
    let nested = name.split(' ').count() > 2;
    let first = tree
        .get_subcommands()
        .find(|first| first.get_about() == command.get_about());
    if let Some(first) = first.filter(|_| nested) {
        let _ = writeln!(text, "The same as `rbuild {}`.", first.get_name());
        return;
    }
    text.push_str("```text\n");
    for line in command
        .clone()
        .term_width(WIDTH)
        .render_help()
        .to_string()
        .trim_end()
        .lines()
    {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push_str("```\n");
    let inner = command.get_subcommands();
    for command in inner.filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        section(text, tree, command);
    }
}

/// Run with `RBUILD_UPDATE_MANUAL=1` to write the file anew.
#[test]
fn the_command_reference_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PLACE);
    let want = commands();
    if std::env::var_os("RBUILD_UPDATE_MANUAL").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &want).unwrap();
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        have == want,
        "{PLACE} is stale: run `RBUILD_UPDATE_MANUAL=1 cargo test --bin rbuild manual`"
    );
}

#[test]
fn the_manual_explains_every_check_of_our_own() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/manual/checks.md");
    let text = std::fs::read_to_string(path).unwrap();
    let explained: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.starts_with("rbuild/"))
        .collect();
    let rules = rbuild_parser::RULES.iter().filter(|rule| rule.is_own());
    let rules: Vec<&str> = rules.map(|rule| rule.name).collect();
    assert_eq!(explained, rules);
}
