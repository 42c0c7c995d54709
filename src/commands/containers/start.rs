//! `rbuild start`, and the second half of `rbuild run`.

use rbuild_runtime::container::{Container, ContainerError};

use super::attached::{Attached, AttachingArgs, Wanted, see_to_the_end};
use super::filters::Filters;
use super::monitor::Starting;
use super::networking::Names;
use crate::commands::run::RunArgs;
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::ui;

/// Start containers that were made or have ended
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild start web
  rbuild start -a -i shell
  rbuild start --all --filter should-start-on-boot=true")]
pub(crate) struct StartArgs {
    /// Names or IDs
    #[arg(
        value_name = "CONTAINER",
        required_unless_present_any = ["all", "filter"],
        conflicts_with_all = ["all", "filter"]
    )]
    containers: Vec<String>,
    /// Start all that do not run
    #[arg(long)]
    all: bool,
    /// Start those that meet a condition, as in `rbuild ps`
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Show what it writes and wait for its end; exit with its status
    #[arg(short, long)]
    attach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    attaching: AttachingArgs,
}

impl StartArgs {
    /// Which ones.
    pub(crate) fn containers(&self) -> &[String] {
        &self.containers
    }
}

/// Show what a running container writes, and pass input and signals on to it
///
/// Exits with the container's status when that ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild attach web")]
pub(crate) struct AttachArgs {
    /// Name or ID
    container: String,
    /// Do not pass standard input on
    #[arg(long)]
    no_stdin: bool,
    #[command(flatten)]
    attaching: AttachingArgs,
}

/// Attaches to a container that runs.
pub(crate) fn attach(settings: &Settings, args: &AttachArgs) -> Result<u8, Failure> {
    let container = super::containers(settings)?.find(&args.container)?;
    let wanted = Wanted::all(&container, !args.no_stdin, &args.attaching)?;
    let attached = Attached::new(&container, &wanted)?;
    events::note(settings, || Event::container("attach", &container));
    see_to_the_end(settings, &container, attached, &wanted)
}

/// Starts containers.
pub(crate) fn run(settings: &Settings, args: &StartArgs) -> Result<u8, Failure> {
    if args.attach || args.interactive {
        let [query] = args.containers.as_slice() else {
            return Err(Failure::new(
                "you cannot start and attach multiple containers at once",
            ));
        };
        let container = super::containers(settings)?.find(query)?;
        let wanted = Wanted::all(&container, args.interactive, &args.attaching)?;
        return in_foreground(settings, &container, &wanted);
    }
    if args.all || !args.filter.is_empty() {
        return start_all(settings, args);
    }
    super::each(settings, &args.containers, &mut |container, query| {
        match detached(settings, container) {
            Err(failure) if failure.message.is_none() => {}
            other => other?,
        }
        ui::println(query)
    })
}

/// Starts all containers that do not run and meet the conditions, the oldest first.
fn start_all(settings: &Settings, args: &StartArgs) -> Result<u8, Failure> {
    let containers = super::containers(settings)?;
    let filters = Filters::parse(&containers, &args.filter)?;
    let mut names = Vec::new();
    let networks = Names::read(settings)?;
    for container in containers.list()? {
        let state = container.state()?;
        if !state.status.is_alive() && filters.accept(&container, &state, &networks)? {
            names.push(container.config.name);
        }
    }
    names.reverse();
    super::each(settings, &names, &mut |container, name| {
        match detached(settings, container) {
            Err(failure) if failure.message.is_none() => {}
            other => other.map_err(|failure| failure.within_name(name))?,
        }
        ui::println(name)
    })
}

/// Starts a container and leaves it running. One that runs already is left alone.
pub(in crate::commands) fn detached(
    settings: &Settings,
    container: &Container,
) -> Result<(), Failure> {
    let _changing = match container.change() {
        Err(ContainerError::Running(_)) => return Ok(()),
        changing => changing?,
    };
    let mut starting = Starting::begin(settings, container, false)?;
    warn(settings, &starting.started()?);
    Ok(())
}

fn warn(settings: &Settings, warnings: &[String]) {
    for warning in warnings {
        ui::warn(&settings.palette, warning);
    }
}

/// Makes a container of `rbuild run` start, shows what it writes and waits for its end.
pub(in crate::commands) fn run_in_foreground(
    settings: &Settings,
    container: &Container,
    args: &RunArgs,
) -> Result<u8, Failure> {
    let wanted = Wanted::all(container, args.interactive, &args.attaching)?;
    in_foreground(settings, container, &wanted.only(&args.attach)?)
}

/// Starts a container, shows what it writes and waits for its end.
fn in_foreground(
    settings: &Settings,
    container: &Container,
    wanted: &Wanted,
) -> Result<u8, Failure> {
    let changing = container.change()?;
    let mut starting = Starting::begin(settings, container, true)?;
    starting.listening()?;
    // It starts as soon as somebody is attached.
    events::note(settings, || Event::container("attach", container));
    let attached = Attached::new(container, wanted)?;
    warn(settings, &starting.started()?);
    drop(changing);
    see_to_the_end(settings, container, attached, wanted)
}
