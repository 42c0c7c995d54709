//! `rbuild context`.

use std::fmt::Write as _;

use rbuild_builder::{ContextFile, ContextUse, context_use, ignore_reason};

use super::build::{WhatArgs, what};
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::ui::{self, control::visible, report, units};

/// Show what of the build context a build sees, uses and ignores
///
/// The biggest files with the instructions that use them, what no instruction uses, and what the
/// ignore file leaves out and why. Nothing is built.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rbuild context [OPTIONS] [PATH]",
    after_help = "Examples:
  rbuild context
  rbuild context --why node_modules/left-pad/index.js
  rbuild context --all
  rbuild context --format json . | jq '.visible[].path'"
)]
pub(crate) struct ContextArgs {
    #[command(flatten)]
    what: WhatArgs,

    /// Tell of one file only: whether it is seen, by which instruction, or why not
    #[arg(long, value_name = "FILE")]
    why: Option<String>,
    /// List everything, not only the biggest
    #[arg(short, long)]
    all: bool,
    /// Write `json` for programs
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"], hide_possible_values = true)]
    format: Option<String>,
}

/// Lines of each list, unless all are asked for.
const LISTED: usize = 10;

/// Shows it.
pub(crate) fn run(settings: &Settings, args: &ContextArgs) -> Result<u8, Failure> {
    let mut what_args = args.what.clone();
    what_args.context.get_or_insert_with(|| ".".to_owned());
    let requested = what(settings, &what_args)?;
    let store = super::open_store(settings)?;
    let found = match context_use(&store, &requested.request) {
        Ok(found) => found,
        Err(error) => {
            ui::message(&report::plain_failure(&error, &settings.palette));
            return Ok(status::ERROR);
        }
    };
    if let Some(path) = &args.why {
        let path = path.trim_start_matches("./").trim_matches('/');
        let reason = ignore_reason(&requested.request, path)
            .map_err(|error| Failure::new(error.message.clone()))?;
        ui::println(&why(&found, path, reason.as_ref())?)?;
        return Ok(0);
    }
    match args.format.as_deref() {
        Some("json") => ui::print(&ui::to_json(&found))?,
        _ => ui::print(&text(&found, if args.all { usize::MAX } else { LISTED }))?,
    }
    Ok(0)
}

/// What becomes of one file or directory.
fn why(
    found: &ContextUse,
    path: &str,
    reason: Option<&rbuild_builder::Ignored>,
) -> Result<String, Failure> {
    let shown = visible(path);
    if let Some(reason) = reason {
        let file = found.ignore_file.as_deref().unwrap_or(".dockerignore");
        return Ok(format!(
            "{shown} is ignored by line {} of {}: {}",
            reason.line,
            visible(file),
            visible(&reason.pattern)
        ));
    }
    let below = |file: &&ContextFile| {
        file.path == path
            || file
                .path
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    let files: Vec<&ContextFile> = found.visible.iter().filter(below).collect();
    if files.is_empty() {
        return Err(Failure::new(format!("{shown} is not in the context")));
    }
    let mut users: Vec<&str> = Vec::new();
    for user in files.iter().flat_map(|file| &file.used_by) {
        if !users.contains(&user.as_str()) {
            users.push(user);
        }
    }
    Ok(if users.is_empty() {
        format!("{shown} is seen, but no instruction uses it")
    } else {
        format!("{shown} is used by {}", visible(&users.join(", ")))
    })
}

fn text(found: &ContextUse, listed: usize) -> String {
    let bytes = |files: &[&ContextFile]| -> u64 { files.iter().map(|file| file.size).sum() };
    let count = |files: &[&ContextFile]| -> u64 { files.iter().map(|file| file.files).sum() };
    let visible_files: Vec<&ContextFile> = found.visible.iter().collect();
    let ignored: Vec<&ContextFile> = found.ignored.iter().collect();
    let unused: Vec<&ContextFile> = visible_files
        .iter()
        .copied()
        .filter(|file| file.used_by.is_empty())
        .collect();
    let used: Vec<&ContextFile> = visible_files
        .iter()
        .copied()
        .filter(|file| !file.used_by.is_empty())
        .collect();
    let mut text = format!(
        "{}: {}, {}\n",
        visible(&found.directory.to_string_lossy()),
        counted(count(&visible_files) + count(&ignored)),
        units::size(bytes(&visible_files) + bytes(&ignored))
    );
    let lists = [
        ("used", &used),
        ("seen, but used by no instruction", &unused),
        ("ignored", &ignored),
    ];
    for (title, files) in lists {
        if files.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "\n{title}: {}, {}",
            counted(count(files)),
            units::size(bytes(files))
        );
        let mut files = files.clone();
        files.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
        for file in files.iter().take(listed) {
            let _ = writeln!(
                text,
                "  {:>8}  {}{}",
                units::size(file.size),
                path(file),
                remark(file)
            );
        }
        if files.len() > listed {
            let _ = writeln!(text, "  … and {} more (`--all`)", files.len() - listed);
        }
    }
    if found.ignore_file.is_none() && !unused.is_empty() {
        text.push_str("\nthere is no .dockerignore to leave out what is not used\n");
    }
    text
}

fn counted(files: u64) -> String {
    match files {
        1 => "1 file".to_owned(),
        files => format!("{files} files"),
    }
}

fn path(file: &ContextFile) -> String {
    let path = visible(&file.path);
    match file.files {
        1 => path,
        files => format!("{path}/ ({})", counted(files)),
    }
}

fn remark(file: &ContextFile) -> String {
    match (&file.ignored, file.used_by.as_slice()) {
        (Some(ignored), _) => {
            format!("  (line {}: {})", ignored.line, visible(&ignored.pattern))
        }
        (None, []) => String::new(),
        (None, [user]) => format!("  ← {}", visible(user)),
        (None, [user, others @ ..]) => {
            format!("  ← {} and {} more", visible(user), others.len())
        }
    }
}
