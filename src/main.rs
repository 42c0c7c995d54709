//! The `rbuild` command.
//!
//! The libraries do the work; here is what a user touches: flags, environment, terminal, exit
//! status.

mod arguments;
mod bounds;
mod cli;
mod commands;
mod config;
mod container;
mod csv;
mod env;
mod events;
mod failure;
mod format;
mod ground;
mod hostflags;
mod inventory;
mod limits;
#[cfg(test)]
mod manual;
mod oci;
mod outfile;
mod refused;
mod registries;
mod remote;
mod rights;
mod signals;
mod terminal;
mod time;
mod truth;
mod ui;

use std::process::ExitCode;
use std::sync::Arc;

use clap::FromArgMatches as _;
use clap::error::ErrorKind;

use cli::{Cli, Command, ImageCommand};
use commands::containers::monitor;
use config::Settings;
use env::Environment;
use failure::{Failure, status};
use ui::style::Palette;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        ui::message(&format!(
            "rbuild: this is a bug in rbuild, not in your build: {panic}\n\
             Please report it with the command and `rbuild version`.\n"
        ));
    }));
    if let Some(code) = monitor().or_else(oci_runtime) {
        return code;
    }
    let cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let mut settings = Settings::new(&cli.global, Environment::read());
    start_log(&settings);
    let word = match &cli.command {
        Command::Build(_)
        | Command::Repro(_)
        | Command::Check(_)
        | Command::Image(ImageCommand::Build(_)) => "ERROR:",
        _ => "Error:",
    };
    let done = ground::enter(&settings, &cli.command).and_then(|ground| {
        settings.ground = ground.map(Arc::new);
        commands::dispatch(&settings, cli.command)
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(mut failure) => {
            if let Some(trouble) = failure.disk {
                let hints = commands::disk::hints(trouble, &settings);
                failure.hints.extend(hints);
            }
            ui::fail(&settings.palette, word, &failure);
            ExitCode::from(failure.status)
        }
    }
}

/// Stays with a container, if that is what this process was started for: without the tree of commands,
/// since many of these processes may be there for a long time.
fn monitor() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != monitor::COMMAND {
        return None;
    }
    let done = monitor::run(arguments);
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            ui::fail(&Palette::default(), "Error:", &failure);
            ExitCode::from(failure.status)
        }
    })
}

/// Is a runtime for other programs, if this program was called by that name or with that word.
fn oci_runtime() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let name = arguments.next()?;
    let by_name = std::path::Path::new(&name).file_name() == Some(oci::NAME.as_ref());
    if !by_name && arguments.next()? != oci::COMMAND {
        return None;
    }
    Some(ExitCode::from(oci::main(arguments)))
}

/// Parses the command line; what is left to do otherwise is to exit with a code.
fn parse() -> Result<Cli, ExitCode> {
    let given: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if let Some(cli) = cli::quick::parse(&given) {
        return Ok(cli);
    }
    let mut tree = cli::command();
    tree.build();
    let refuse = |failure: &Failure| {
        ui::fail(&Palette::default(), "ERROR:", failure);
        ExitCode::from(failure.status)
    };
    let mistyped = mistyped_command(&given);
    let arguments = arguments::normalise(&tree, given).map_err(|failure| refuse(&failure))?;
    if arguments.len() <= 1 {
        return Err(match ui::print(cli::SHORT_HELP) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => ExitCode::from(failure.status),
        });
    }
    let run = arguments::command_name(&tree, &arguments) == Some("run");
    tree.try_get_matches_from_mut(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| {
            // A reader that went away is no news; clap writes help to standard output, errors to
            // standard error.
            let _ = error.print();
            if let Some(command) = mistyped.filter(|_| error.kind() == ErrorKind::UnknownArgument) {
                ui::message(&format!("hint: did you mean the command `{command}`?\n"));
            }
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                // As Docker: what the container's own status cannot be.
                _ if run => ExitCode::from(status::ENGINE),
                _ => ExitCode::from(status::USAGE),
            }
        })
}

/// The command that the first word was perhaps meant to be, if it is neither one nor a context.
fn mistyped_command(arguments: &[std::ffi::OsString]) -> Option<String> {
    let word = arguments.get(1)?.to_str()?;
    let known = word.starts_with('-') || std::path::Path::new(word).exists();
    if known {
        return None;
    }
    cli::similar_command(word).filter(|command| command != word)
}

/// The developers' log: `RBUILD_LOG`, or everything of interest with `--debug`.
fn start_log(settings: &Settings) {
    let filter = match (&settings.environment.log, settings.debug) {
        (Some(filter), _) => filter.as_str(),
        (None, true) => "debug",
        (None, false) => return,
    };
    let logger = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(settings.palette != Palette::default());
    // A second logger cannot be there: this is called once.
    let _ = logger.try_init();
}
