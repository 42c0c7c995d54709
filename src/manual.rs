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
        (
            status::ENGINE,
            "`run`, `debug`: the container or shell could not be started.",
        ),
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

/// The pages of the manual by name.
#[cfg(test)]
fn pages() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/manual");
    let mut pages: Vec<(String, String)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    pages.sort();
    pages
}

#[test]
fn the_summary_lists_every_page_and_links_lead_somewhere() {
    let pages = pages();
    let summary = &pages
        .iter()
        .find(|(name, _)| name == "SUMMARY.md")
        .unwrap()
        .1;
    for (name, text) in &pages {
        assert!(
            name == "SUMMARY.md" || summary.contains(&format!("({name})")),
            "{name} is not in the summary"
        );
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = link.split('#').next().unwrap();
            let known = file.is_empty()
                || file.contains("://")
                || file == "../compatibility.md"
                || pages.iter().any(|(name, _)| name == file);
            assert!(known, "{name}: dead link {link}");
        }
    }
}

/// The words of a command line, up to what is the shell's.
#[cfg(test)]
fn shell_words(line: &str) -> Vec<String> {
    // What another command prints is a word.
    let mut line = line.to_owned();
    while let Some((before, rest)) = line.split_once("$(") {
        let after = rest.split_once(')').map_or("", |(_, after)| after);
        line = format!("{before}printed{after}");
    }
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '<' | '&' | ';') => break,
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (Some(_) | None, _) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// A line of a usage, which names what is to be filled in.
#[cfg(test)]
fn is_usage(line: &str) -> bool {
    ["[OPTIONS]", "COMMAND [", "<"]
        .iter()
        .any(|mark| line.contains(mark))
}

#[test]
fn every_command_of_the_manual_is_one() {
    let mut tree = cli::command();
    tree.build();
    let mut count = 0;
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = (
        "README.md of the project".to_owned(),
        std::fs::read_to_string(readme).unwrap(),
    );
    for (page, text) in pages().into_iter().chain([readme]) {
        let mut fenced = false;
        for line in text.lines() {
            fenced ^= line.starts_with("```");
            if !fenced && !line.starts_with("    ") {
                continue;
            }
            let line = line
                .trim()
                .trim_start_matches("- run: ")
                .trim_start_matches("- ");
            let line = line.trim_start_matches("sudo ");
            let piped = line
                .split_once("| rbuild ")
                .or(line.split_once("| sudo rbuild "));
            let command = match piped {
                _ if line.starts_with('|') || is_usage(line) => continue,
                Some((_, rest)) => format!("rbuild {rest}"),
                None if line.starts_with("rbuild ") => line.to_owned(),
                _ => continue,
            };
            // What a workflow fills in.
            let command = command.replace("${{ ", "x").replace(" }}", "");
            let words: Vec<std::ffi::OsString> =
                shell_words(&command).into_iter().map(Into::into).collect();
            let words = crate::arguments::normalise(&tree, words).unwrap();
            if let Err(error) = tree.clone().try_get_matches_from(words) {
                let shown = matches!(
                    error.kind(),
                    clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
                );
                assert!(shown, "{page}: {command}\n{error}");
            }
            count += 1;
        }
    }
    assert!(count > 60, "{count} commands found");
}

#[test]
fn the_tables_of_options_tell_the_truth() {
    let mut tree = cli::command();
    tree.build();
    let build = tree.find_subcommand("build").unwrap();
    let option = |flag: &str| {
        let name = flag.trim_start_matches('-');
        build.get_arguments().find(|argument| {
            argument.get_long() == Some(name)
                || (flag.len() == 2 && argument.get_short() == name.chars().next())
                || argument
                    .get_all_aliases()
                    .is_some_and(|all| all.contains(&name))
        })
    };
    // In back quotes, without a value, and without what belongs to other commands.
    let flags = |cell: &str| -> Vec<String> {
        let quoted = cell.split('`').skip(1).step_by(2);
        quoted
            .filter(|text| text.starts_with('-') && text.len() > 1)
            .filter_map(|text| text.split([' ', '=', '[']).next())
            .map(str::to_owned)
            .collect()
    };
    let mut count = 0;
    for (page, text) in pages()
        .into_iter()
        .filter(|(page, _)| page.starts_with("from-"))
    {
        for line in text.lines().filter(|line| line.starts_with("| ")) {
            let line = line.replace("\\|", "/");
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [theirs, ours] = cells[..] else {
                panic!("{page}: {line}")
            };
            let known =
                |flag: &String| option(flag).is_some_and(|argument| !argument.is_hide_set());
            for flag in flags(ours) {
                assert!(known(&flag), "{page}: {flag} is no option: {line}");
                count += 1;
            }
            for flag in flags(theirs) {
                if ours.starts_with("the same") {
                    let harmless = flag == "--provenance" || flag == "--sbom";
                    assert!(
                        harmless || known(&flag),
                        "{page}: {flag} is no option: {line}"
                    );
                } else if ours.starts_with("not there yet, refused") {
                    assert!(
                        option(&flag).is_none_or(clap::Arg::is_hide_set),
                        "{page}: {flag} is an option by now: {line}"
                    );
                }
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count} options found");
}
