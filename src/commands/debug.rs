//! `rbuild debug`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rbuild_builder::report::{BuildReport, StepReport, StepState};
use rbuild_builder::request::{SecretSource, SshSource};
use rbuild_builder::{BuildError, Cancel, debug};
use rbuild_cache::Store;
use rbuild_runtime::{Runtime, RuntimeOptions};

use super::build::{parse_secrets, parse_ssh};
use super::{past, run};
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::ui::style::paint;
use crate::ui::{self, control::visible, explanation};

/// Open a shell in the state of a build's step
///
/// With the step's environment, user, working directory, mounts and network: of a build that failed
/// in what the failed step left, of others after the last step. What is done there is thrown away.
/// An image without a shell gets a static busybox of this machine under /.rbuild. BUILD is `last` (the
/// default), a name from `rbuild history builds`, or an image that was built here.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rbuild debug [OPTIONS] [BUILD] [-- COMMAND [ARG…]]",
    after_help = "Examples:
  rbuild debug
  rbuild debug --list
  rbuild debug --step 3 --before
  rbuild debug app --step 'RUN make' -- ls -l
  rbuild debug --secret id=token,src=token.txt

What a failed step left is kept until the next build or `rbuild prune`, the state of other steps as
long as the cache has their layers. Secrets are not kept: give them again.

Exit status: that of the shell or command; 125 when it could not be started."
)]
pub(crate) struct DebugArgs {
    /// Which build
    #[arg(value_name = "BUILD")]
    build: Option<String>,
    /// Which step: its number in `--list`, or a part of its name
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Look at the state before the step
    #[arg(long)]
    before: bool,
    /// List the steps instead
    #[arg(long)]
    list: bool,
    /// Give the step a secret: `id=ID[,src=FILE|,env=NAME]`
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// Forward an SSH agent, or keys: `default`, `ID=SOCKET` or `ID=KEY[,KEY…]`
    #[arg(long, value_name = "ID[=PATH,…]")]
    ssh: Vec<String>,
    /// Bring this static busybox, even if the image has a shell [default for images without: this
    /// machine's]
    #[arg(long, value_name = "FILE")]
    busybox: Option<PathBuf>,
    /// What to run instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs it.
pub(crate) fn run(settings: &Settings, args: &DebugArgs) -> Result<u8, Failure> {
    if args.list {
        let store = super::open_store(settings)?;
        let report = past::find(&store, args.build.as_deref())?;
        ui::print(&list(&report))?;
        return Ok(0);
    }
    let engine = |failure: Failure| match failure.status {
        status::ERROR => failure.with_status(status::ENGINE),
        _ => failure,
    };
    // First of all: the process is still small and has one thread.
    let runtime = Runtime::start(RuntimeOptions {
        state_dir: settings.state_dir()?,
    })
    .map_err(|error| engine(error.into()))?;
    let store = super::open_store(settings).map_err(engine)?;
    let report = past::find(&store, args.build.as_deref()).map_err(engine)?;
    let step = choose(&report, args.step.as_deref()).map_err(engine)?;
    let agent = settings.environment.ssh_agent.as_deref();
    let visit = Visit {
        moment: if args.before {
            debug::Moment::Before
        } else {
            debug::Moment::After
        },
        command: args.command.clone(),
        busybox: args.busybox.clone(),
        secrets: parse_secrets(&args.secret)?,
        ssh: parse_ssh(&args.ssh, agent)?,
    };
    visit
        .begin(settings, &store, &runtime, &report, step)
        .map_err(engine)
}

/// Opens a shell in what the step left that made a build fail.
pub(super) fn after_failure(
    settings: &Settings,
    store: &Store,
    runtime: &Runtime,
    report: &BuildReport,
    secrets: &BTreeMap<String, SecretSource>,
    ssh: &BTreeMap<String, SshSource>,
) -> Result<u8, Failure> {
    let step = choose(report, None)?;
    let visit = Visit {
        moment: if failed_before(store, report, step) {
            debug::Moment::Before
        } else {
            debug::Moment::After
        },
        command: Vec::new(),
        busybox: None,
        secrets: secrets.clone(),
        ssh: ssh.clone(),
    };
    visit.begin(settings, store, runtime, report, step)
}

/// A step that failed without running a command (a COPY, say) left nothing to look at.
fn failed_before(store: &Store, report: &BuildReport, step: &StepReport) -> bool {
    let kept = report
        .id
        .as_deref()
        .is_some_and(|id| store.keeps_failed_step(id));
    step.state == StepState::Failed && !kept
}

/// What was asked for.
struct Visit {
    moment: debug::Moment,
    command: Vec<String>,
    busybox: Option<PathBuf>,
    secrets: BTreeMap<String, SecretSource>,
    ssh: BTreeMap<String, SshSource>,
}

impl Visit {
    fn begin(
        &self,
        settings: &Settings,
        store: &Store,
        runtime: &Runtime,
        report: &BuildReport,
        step: &StepReport,
    ) -> Result<u8, Failure> {
        let terminal = settings.stdin_terminal && settings.stdout_terminal;
        let found = self.busybox.clone().or_else(|| find_busybox(settings));
        let request = debug::DebugRequest {
            report,
            step,
            moment: self.moment,
            command: self.command.clone(),
            terminal,
            busybox: found.as_deref(),
            prefer_busybox: self.busybox.is_some(),
            secrets: &self.secrets,
            ssh: &self.ssh,
        };
        let look = debug::open(store, runtime, &debug::quiet, &Cancel::new()?, &request)
            .map_err(|error| failure(&error))?;
        if self.command.is_empty() {
            ui::message(&self.greeting(settings, step, &look));
        }
        for note in &look.notes {
            ui::message(&format!("note: {}\n", visible(note)));
        }
        let sandbox = look.sandbox();
        let (ended, out_of_memory) = if terminal {
            run::with_terminal(settings, runtime, sandbox, true)?
        } else {
            run::with_streams(settings, runtime, sandbox, true)?
        };
        Ok(run::exit_code(settings, sandbox, ended, out_of_memory))
    }

    /// What one is looking at, and how to do again what the step did.
    fn greeting(&self, settings: &Settings, step: &StepReport, look: &debug::Look) -> String {
        let strong = settings.palette.strong;
        let moment = match (self.moment, step.state) {
            (debug::Moment::Before, _) => "before",
            (debug::Moment::After, StepState::Failed) => "what was left by",
            (debug::Moment::After, _) => "after",
        };
        let mut text = format!("{moment} {}\n", paint(strong, &visible(&step.name)));
        if let Some(command) = &look.command {
            text.push_str(&format!("its command: {}\n", visible(command)));
        }
        text.push_str("what is done here is thrown away; `exit` ends it\n");
        text
    }
}

fn failure(error: &BuildError) -> Failure {
    Failure {
        causes: error.causes.clone(),
        hints: error.help.clone(),
        ..Failure::new(error.message.clone())
    }
}

/// The step that is meant: the one that failed, else the last one that gave something.
fn choose<'r>(report: &'r BuildReport, step: Option<&str>) -> Result<&'r StepReport, Failure> {
    let list = "`rbuild debug --list` lists the steps";
    let Some(step) = step else {
        let failed = |step: &&StepReport| step.state == StepState::Failed;
        let ended = |step: &&StepReport| matches!(step.state, StepState::Hit | StepState::Ran);
        let found = report.steps.iter().find(failed);
        return found
            .or_else(|| report.steps.iter().rev().find(ended))
            .ok_or_else(|| Failure::new("the build has no step to look at"));
    };
    if let Ok(number) = step.parse::<usize>() {
        return number
            .checked_sub(1)
            .and_then(|index| report.steps.get(index))
            .ok_or_else(|| Failure::new(format!("the build has no step {step}")).hint(list));
    }
    let mut found = report
        .steps
        .iter()
        .filter(|found| found.name.contains(step));
    match (found.next(), found.next()) {
        (Some(step), None) => Ok(step),
        (None, _) => Err(Failure::new(format!("the build has no step {step:?}")).hint(list)),
        (Some(_), Some(_)) => {
            Err(Failure::new(format!("several steps have {step:?} in their names")).hint(list))
        }
    }
}

fn list(report: &BuildReport) -> String {
    let width = report.steps.len().to_string().len();
    let mut text = String::new();
    for (index, step) in report.steps.iter().enumerate() {
        let (number, state) = (index + 1, explanation::state(step.state));
        text.push_str(&format!(
            "{number:>width$}  {state:<7}  {}\n",
            visible(&step.name)
        ));
    }
    text
}

/// A busybox that needs no libraries, at its usual places or in `PATH`.
fn find_busybox(settings: &Settings) -> Option<PathBuf> {
    let path = settings.environment.path.clone().unwrap_or_default();
    let places = std::env::split_paths(&path).map(|directory| directory.join("busybox"));
    [
        "/usr/lib/rbuild/busybox",
        "/bin/busybox",
        "/usr/bin/busybox",
        "/bin/busybox.static",
        "/usr/bin/busybox.static",
    ]
    .into_iter()
    .map(PathBuf::from)
    .chain(places)
    .find(|path| is_static(path))
}

/// Whether a file is a program for this machine without a loader (`PT_INTERP`).
fn is_static(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut head));
    read.is_ok() && debug::is_static_program(&head)
}
