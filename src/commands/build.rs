//! `rbuild build`: flags to one request, one call, one report.

mod caches;
mod call;
mod changes;
mod context;
mod metadata;
mod options;
mod outputs;
mod request;
mod secrets;
mod session;
mod ssh;

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::ValueEnum as _;
use rbuild_builder::output::validate_outputs;
use rbuild_builder::request::{ArchiveTarget, Destination, OutputKind};
use rbuild_builder::{BuildError, BuildErrorKind, BuildRequest, BuildResult, Engine};
use rbuild_cache::{Collector, Digest};
use rbuild_parser::parse_size;
use rbuild_runtime::{Isolation, Runtime, RuntimeOptions, isolation};

use crate::bounds::bounds;
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::{Failure, status};
use crate::ground;
use crate::registries::client_options;
use crate::remote::remote;
use crate::signals::Received;
use crate::ui::journal::Journal;
use crate::ui::progress::ProgressMode;
use crate::ui::{self, report};

use context::Access;
pub(super) use session::Running;
use session::Session;

pub(super) use context::{default_name, read_limited};
use options::OnError;
pub(crate) use options::{BuildArgs, WhatArgs};
pub(super) use request::Requested;
pub(super) use secrets::from_environment as parse_secrets;
pub(super) use ssh::parse as parse_ssh;

/// Makes a request that says what to build or check.
pub(super) fn what(settings: &Settings, args: &WhatArgs) -> Result<Requested, Failure> {
    let mut session = Session::new(settings, ProgressMode::Quiet, remote(settings, None));
    let mut access = Access {
        opener: &mut session,
        secrets: &BTreeMap::new(),
        ssh: &BTreeMap::new(),
    };
    let stdin = &mut session::unbuffered_stdin()?;
    request::what(settings, args, None, stdin, &mut access)
}

/// Builds, or does what `--call` asks for instead.
pub(crate) fn run(settings: &Settings, args: &BuildArgs) -> Result<u8, Failure> {
    args.refused.check()?;
    if let Some(call) = call::parse_call(args.check, args.call.as_deref())? {
        let remote = remote(settings, download_limit(args).map_err(failed)?);
        let mut session = Session::new(settings, ProgressMode::Quiet, remote);
        return call::run(settings, call, &requested(settings, args, &mut session)?);
    }
    let mode = progress_mode(settings, args)?;
    announce(settings, mode);
    let ready = get_ready(settings, args, mode)?;
    if args.explain.is_some() && writes_to_stdout(&ready.request) {
        return Err(Failure::new(
            "`--explain` and an output on standard output cannot be used together",
        )
        .hint("`rbuild explain` tells the same afterwards")
        .with_status(status::USAGE));
    }
    for path in args.iidfile.iter().chain(&args.iidfile_raw) {
        metadata::remove_stale(path)?;
    }
    build(settings, args, mode, ready)
}

/// Says that it was the build that failed.
fn failed(failure: Failure) -> Failure {
    match &failure.message {
        Some(message) if failure.status == status::ERROR => Failure {
            message: Some(format!("failed to build: {message}")),
            ..failure
        },
        _ => failure,
    }
}

fn requested(
    settings: &Settings,
    args: &BuildArgs,
    session: &mut Session<'_>,
) -> Result<Requested, Failure> {
    let stdin = &mut session::unbuffered_stdin()?;
    request::request(settings, args, stdin, session).map_err(failed)
}

/// A build that can begin.
pub(super) struct Ready {
    pub(super) engine: Engine,
    pub(super) request: BuildRequest,
    pub(super) running: Running,
}

/// Makes the request and all that it is carried out with.
pub(super) fn get_ready(
    settings: &Settings,
    args: &BuildArgs,
    mode: ProgressMode,
) -> Result<Ready, Failure> {
    let remote = remote(settings, download_limit(args).map_err(failed)?);
    // The sandbox's helper is started first, while this process is small and has one thread. A host
    // that does not allow sandboxes can still build what runs no command.
    let runtime = match isolation() {
        Isolation::Nothing => None,
        _ => Some(Runtime::start(RuntimeOptions {
            state_dir: settings.state_dir()?,
        })?),
    };
    let mut session = Session::new(settings, mode, remote).logging_to(args.logfile.as_deref());
    let Requested { request, .. } = requested(settings, args, &mut session)?;
    validate_outputs(&request, settings.stdout_terminal).map_err(|error| {
        let hints = error.hints();
        failed(hints.into_iter().fold(Failure::from(error), Failure::hint))
    })?;
    let mut registries = client_options(settings, &args.registries).map_err(failed)?;
    outputs::insecure_hosts(&args.output, &request, &mut registries)?;
    let store = session.store().map_err(failed)?;
    let bounds = bounds(&settings.environment, store.space()?).map_err(failed)?;
    let (running, remote) = session.start()?;
    Ok(Ready {
        engine: Engine {
            store,
            runtime,
            remote,
            registries: Some(registries),
            collector: Arc::new(Collector::new(bounds)),
        },
        request,
        running,
    })
}

/// Names the isolation of the build if there could be a better one, and whether roots are copied.
fn announce(settings: &Settings, mode: ProgressMode) {
    let isolation = isolation();
    if !matches!(mode, ProgressMode::Plain | ProgressMode::Tty) {
        return;
    }
    if isolation != Isolation::Root {
        ui::message(&format!(
            "isolation {isolation}: {}\n",
            isolation.describe()
        ));
    }
    // What cannot be looked at is told by the first step that needs it.
    let refusal = ground::overlay_refusal(settings).ok().flatten();
    if let Some(why) = refusal.filter(|_| isolation != Isolation::Chroot) {
        ui::message(&format!(
            "roots are copied for every step, not mounted: {why}; a store on a volume is faster (`--root DIR`)\n"
        ));
    }
}

fn download_limit(args: &BuildArgs) -> Result<Option<u64>, Failure> {
    let limit = args.download_limit.as_deref().map(parse_size).transpose();
    limit.map_err(|reason| Failure::new(format!("invalid --download-limit: {reason}")))
}

pub(super) fn progress_mode(
    settings: &Settings,
    args: &BuildArgs,
) -> Result<ProgressMode, Failure> {
    if args.quiet {
        if !matches!(
            args.progress,
            None | Some(ProgressMode::Auto | ProgressMode::Quiet)
        ) {
            return Err(
                Failure::new("`--progress` and `--quiet` cannot be used together")
                    .with_status(status::USAGE),
            );
        }
        return Ok(ProgressMode::Quiet);
    }
    let mode = match (args.progress, &settings.environment.progress) {
        (Some(mode), _) => mode,
        (None, Some(name)) => ProgressMode::from_str(name, true).map_err(|_| {
            Failure::new(format!("BUILDKIT_PROGRESS: invalid progress mode {name:?}"))
                .with_status(status::USAGE)
        })?,
        (None, None) => ProgressMode::Auto,
    };
    match mode {
        ProgressMode::Auto if settings.stderr_terminal && !settings.environment.dumb_terminal => {
            Ok(ProgressMode::Tty)
        }
        ProgressMode::Auto => Ok(ProgressMode::Plain),
        ProgressMode::Tty if !settings.stderr_terminal => Err(Failure::new(
            "`--progress tty` needs a terminal as standard error",
        )),
        mode => Ok(mode),
    }
}

/// Carries a build out and tells what came of it.
pub(super) fn build(
    settings: &Settings,
    args: &BuildArgs,
    mode: ProgressMode,
    ready: Ready,
) -> Result<u8, Failure> {
    let Ready {
        engine,
        request,
        running,
    } = ready;
    let Running {
        progress,
        cancel,
        received,
    } = running;
    let result = rbuild_builder::build(&engine, &request, &progress, &cancel);
    let journal = progress.finish();
    let explained = match (args.explain, journal.report()) {
        (Some(format), Some(report)) => super::explain::print(report, format),
        _ => Ok(()),
    };
    match result {
        Ok(result) => {
            let id = result.image_id.to_string();
            for name in &result.names {
                events::note(settings, || Event::image("tag", &id, name));
            }
            succeed(settings, args, mode, &request, &result, &journal)?;
            explained.map(|()| 0)
        }
        Err(error) => {
            let cancelled = error.kind == BuildErrorKind::Cancelled;
            let status = tell_failure(settings, mode, error, &journal, &received);
            if args.on_error == Some(OnError::Shell) && !cancelled {
                open_shell(settings, &engine, &request, &journal);
            }
            Ok(status)
        }
    }
}

/// Tells why a build failed; returns the exit status.
pub(super) fn tell_failure(
    settings: &Settings,
    mode: ProgressMode,
    mut error: BuildError,
    journal: &Journal,
    received: &Received,
) -> u8 {
    if error.kind == BuildErrorKind::Host
        && isolation() == Isolation::Nothing
        && let Some(hint) = settings.ground.as_deref().and_then(super::doctor::way_out)
    {
        error.help.insert(0, hint);
    }
    if let Some(trouble) = error.disk {
        error.help.extend(super::disk::hints(trouble, settings));
    }
    fail(settings, mode, &error, journal);
    match error.kind {
        BuildErrorKind::Cancelled => received.exit_status().unwrap_or(status::INTERRUPTED),
        _ => status::ERROR,
    }
}

/// Opens a shell in the state of the step that failed; the status of the build stays what it is.
fn open_shell(settings: &Settings, engine: &Engine, request: &BuildRequest, journal: &Journal) {
    // Without a report nothing has run, without a runtime nothing can.
    let (Some(runtime), Some(report)) = (&engine.runtime, journal.report()) else {
        return;
    };
    let (secrets, ssh) = (&request.secrets, &request.ssh);
    let opened =
        super::debug::after_failure(settings, &engine.store, runtime, report, secrets, ssh);
    if let Err(failure) = opened {
        let failure = failure.within("could not open a shell");
        ui::fail(&settings.palette, "Error:", &failure);
    }
}

fn fail(settings: &Settings, mode: ProgressMode, error: &BuildError, journal: &Journal) {
    if mode != ProgressMode::Rawjson {
        let warnings = journal.warnings();
        ui::message(&report::warnings(
            warnings,
            &settings.palette,
            settings.debug,
        ));
    }
    let shown = mode == ProgressMode::Plain;
    ui::message(&report::failure(error, journal, &settings.palette, shown));
}

fn succeed(
    settings: &Settings,
    args: &BuildArgs,
    mode: ProgressMode,
    request: &BuildRequest,
    result: &BuildResult,
    journal: &Journal,
) -> Result<(), Failure> {
    if let Some(path) = &args.iidfile {
        metadata::write_id(path, result)?;
    }
    if let Some(path) = &args.iidfile_raw {
        metadata::write_raw_id(path, result)?;
    }
    if let Some(path) = &args.metadata_file {
        metadata::write_metadata(path, request, result)?;
    }
    match mode {
        // Standard output may be the archive itself.
        ProgressMode::Quiet if args.quiet && !writes_to_stdout(request) => {
            ui::println(&result.image_id.to_string())
        }
        ProgressMode::Quiet | ProgressMode::Rawjson => Ok(()),
        _ => {
            let mut warnings = result.warnings.clone();
            // What steps had to go without is no property of the Dockerfile, and told once.
            for warning in journal.warnings() {
                if warnings
                    .iter()
                    .all(|known| known.message != warning.message)
                {
                    warnings.push(warning.clone());
                }
            }
            ui::message(&report::warnings(
                &warnings,
                &settings.palette,
                settings.debug,
            ));
            ui::message(&format!(
                "{}\n",
                conclusion(request, &result.image_id, &result.names)
            ));
            Ok(())
        }
    }
}

fn writes_to_stdout(request: &BuildRequest) -> bool {
    request.outputs.iter().any(|output| {
        matches!(
            &output.kind,
            OutputKind::Tar(Destination::Stdout)
                | OutputKind::Oci(ArchiveTarget::Tar(Destination::Stdout))
                | OutputKind::Docker(ArchiveTarget::Tar(Destination::Stdout))
        )
    })
}

/// The last line of a build: what came out, and where it went.
fn conclusion(request: &BuildRequest, image_id: &Digest, names: &[String]) -> String {
    let id: String = image_id.hex().chars().take(12).collect();
    let mut places: Vec<String> = Vec::new();
    if !names.is_empty() {
        places.push(format!("as {}", names.join(", ")));
    }
    for output in &request.outputs {
        let (OutputKind::Oci(
            ArchiveTarget::Tar(Destination::File(path)) | ArchiveTarget::Directory(path),
        )
        | OutputKind::Docker(
            ArchiveTarget::Tar(Destination::File(path)) | ArchiveTarget::Directory(path),
        )
        | OutputKind::Tar(Destination::File(path))
        | OutputKind::Local(path)) = &output.kind
        else {
            continue;
        };
        places.push(format!("to {}", path.display()));
    }
    let places = places.join(", ");
    format!("built sha256:{id} {places}").trim_end().to_owned()
}
