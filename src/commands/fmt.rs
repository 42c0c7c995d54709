//! `rbuild fmt`.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::build::{default_name, read_limited};
use super::check::{out_palette, parse_errors};
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::outfile;
use crate::ui;
use crate::ui::control::visible;
use crate::ui::diff::unified;

/// Format Dockerfiles
///
/// Puts instruction words, white space around them and blank lines into one form. Arguments and
/// comments stay as they are, so that the image stays the same. Without FILE, formats the Dockerfile
/// of the working directory; `-` formats standard input to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild fmt
  rbuild fmt --check docker/*.Dockerfile
  rbuild fmt - < Dockerfile

Exit status: 0 when all is formatted, 1 when `--check` found something to change or a file could not
be formatted, 2 for a wrong command line.")]
pub(crate) struct FmtArgs {
    /// Change nothing; show what would be changed
    #[arg(long)]
    check: bool,
    /// Dockerfiles [default: `Dockerfile`]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Formats.
pub(crate) fn run(settings: &Settings, args: &FmtArgs) -> Result<u8, Failure> {
    let default = match default_name(Path::new(".")) {
        Some(name) => vec![PathBuf::from(name)],
        None if args.files.is_empty() => {
            return Err(Failure::new("there is no Dockerfile in this directory")
                .hint("name files: `rbuild fmt FILE…`"));
        }
        None => Vec::new(),
    };
    let files = if args.files.is_empty() {
        &default
    } else {
        &args.files
    };
    let mut code = 0;
    for file in files {
        // One file that cannot be formatted does not keep the others from it.
        match one(settings, file, args.check) {
            Ok(Outcome::Done) => {}
            Ok(Outcome::WouldChange | Outcome::NotParsed) => code = status::ERROR,
            Err(failure) if failure.message.is_none() => return Err(failure),
            Err(failure) => {
                ui::fail(&settings.palette, "Error:", &failure);
                code = failure.status;
            }
        }
    }
    Ok(code)
}

/// What became of a file.
enum Outcome {
    /// It is formatted.
    Done,
    /// It would be changed, and that has been shown.
    WouldChange,
    /// It has errors, which have been shown.
    NotParsed,
}

fn one(settings: &Settings, file: &Path, check: bool) -> Result<Outcome, Failure> {
    let stdin = file.as_os_str() == "-";
    let name = if stdin {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    };
    let read = if stdin {
        read_limited(std::io::stdin().lock())
    } else {
        File::open(file).and_then(read_limited)
    };
    let bytes =
        read.map_err(|error| Failure::new(format!("could not read `{name}`")).because(&error))?;
    let Ok(source) = String::from_utf8(bytes) else {
        return Err(Failure::new(format!(
            "could not format `{name}`: it is not UTF-8 text"
        )));
    };
    if let Some(errors) = parse_errors(&name, source.as_bytes(), &settings.palette) {
        ui::message(&errors);
        return Ok(Outcome::NotParsed);
    }
    let formatted = rbuild_parser::format(&source);
    if check {
        if formatted == source {
            return Ok(Outcome::Done);
        }
        let palette = out_palette(settings);
        let shown = settings.stdout_terminal.then_some(&palette);
        ui::print(&unified(&visible(&name), &source, &formatted, shown))?;
        ui::message(&format!("would format {}\n", visible(&name)));
        return Ok(Outcome::WouldChange);
    }
    if stdin {
        ui::print(&formatted)?;
    } else if formatted != source {
        outfile::replace(file, formatted.as_bytes())
            .map_err(|error| Failure::new(format!("could not write `{name}`")).because(&error))?;
        ui::message(&format!("formatted {}\n", visible(&name)));
    }
    Ok(Outcome::Done)
}
