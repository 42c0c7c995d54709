//! `rbuild rm` and `rbuild container prune`.

use jiff::Timestamp;
use rbuild_runtime::container::{Container, ContainerError};

use super::create::{self, owner};
use super::{KILL, Which, containers, each, end, usage};
use crate::commands::filter::moment;
use crate::commands::prune::confirm;
use crate::commands::volumes::remove_anonymous;
use crate::config::Settings;
use crate::container::details::Details;
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::time::parse_created;
use crate::ui::{self, units};

/// Remove containers with what they wrote
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild rm web
  rbuild rm -f web job")]
pub(crate) struct RmArgs {
    #[command(flatten)]
    which: Which,
    /// Kill what runs; do not mind missing containers
    #[arg(short, long)]
    force: bool,
    /// Remove their unnamed volumes, too
    #[arg(short, long)]
    volumes: bool,
}

/// Remove all containers that do not run
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild container prune -f")]
pub(crate) struct ContainerPruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove only what meets a condition: label=, label!=, until=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Removes containers.
pub(crate) fn run(settings: &Settings, args: &RmArgs) -> Result<u8, Failure> {
    let known = containers(settings)?;
    let mut queries = args.which.queries(&known, |_| true)?;
    if args.force {
        queries.retain(|query| !matches!(known.find(query), Err(ContainerError::NotFound(_))));
    }
    each(settings, &queries, &mut |container, query| {
        if args.force {
            kill(settings, container)?;
        }
        remove(settings, container, args.volumes).map_err(|failure| failure.within_name(query))?;
        ui::println(query)
    })
}

fn kill(settings: &Settings, container: &Container) -> Result<(), Failure> {
    if container.state()?.status.is_alive() {
        events::note(settings, || Event::killed(container, KILL));
    }
    end(container, KILL, -1)
}

/// Removes a container whether it runs or not.
pub(super) fn by_force(settings: &Settings, container: &Container) -> Result<(), Failure> {
    kill(settings, container)?;
    remove(settings, container, false)
}

/// Removes a container; `volumes`: with those that have no name.
fn remove(settings: &Settings, container: &Container, volumes: bool) -> Result<(), Failure> {
    match container.remove() {
        Err(ContainerError::Running(_)) => {
            return Err(Failure::new(format!(
                "cannot remove container \"/{}\": container is running: stop the container before \
                 removing or force remove",
                container.config.name
            )));
        }
        removed => removed?,
    }
    let store = crate::commands::open_store(settings)?;
    store.pin(&owner(&container.config.id), &[])?;
    events::note(settings, || Event::container("destroy", container));
    if volumes || container.config.auto_remove {
        remove_anonymous(&store, &containers(settings)?, &Details::of(container))?;
    }
    Ok(())
}

impl Failure {
    /// Says which of several containers it was, where the message does not.
    pub(super) fn within_name(self, name: &str) -> Failure {
        match &self.message {
            Some(message) if message.contains("container") => self,
            _ => self.within(format!("could not remove the container {name}")),
        }
    }
}

/// Which of the containers that do not run are to be removed: labels, and made before a time.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    labels: Vec<String>,
    not_labels: Vec<String>,
    until: Option<Timestamp>,
}

impl Conditions {
    /// Parses `--filter`.
    pub(crate) fn parse(filters: &[String]) -> Result<Conditions, Failure> {
        let mut parsed = Conditions::default();
        for filter in filters {
            match filter.split_once('=') {
                Some(("label", value)) => parsed.labels.push(value.to_owned()),
                Some(("label!", value)) => parsed.not_labels.push(value.to_owned()),
                Some(("until", value)) => parsed.until = Some(moment(value)?),
                _ => {
                    return Err(Failure::new(format!("invalid filter {filter:?}"))
                        .hint("known filters: label=, label!=, until="));
                }
            }
        }
        Ok(parsed)
    }

    fn meets(&self, container: &Container) -> bool {
        let labels = Details::of(container).labels;
        let has = |value: &String| match value.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|known| known == value),
            None => labels.contains_key(value),
        };
        let created = parse_created(Some(&container.config.created));
        self.labels.iter().all(has)
            && !self.not_labels.iter().any(has)
            && self
                .until
                .is_none_or(|until| created.is_some_and(|created| created < until))
    }
}

/// Removes all containers that do not run.
pub(crate) fn prune(settings: &Settings, args: &ContainerPruneArgs) -> Result<(), Failure> {
    let conditions = Conditions::parse(&args.filter)?;
    if !args.force {
        confirm("This will remove all stopped containers.")?;
    }
    let reclaimed = prune_all(settings, &conditions)?;
    ui::println(&format!(
        "Total reclaimed space: {}",
        units::exact_size(reclaimed)
    ))
}

/// Removes containers that do not run and tells which; returns how many bytes that set free.
pub(crate) fn prune_all(settings: &Settings, conditions: &Conditions) -> Result<u64, Failure> {
    create::sweep(
        &containers(settings)?,
        &crate::commands::open_store(settings)?,
    )?;
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for usage in usage::all(settings)? {
        if !usage.stopped || !conditions.meets(&usage.container) {
            continue;
        }
        match remove(settings, &usage.container, false) {
            Ok(()) => {}
            // Started by somebody since it was looked at.
            Err(_) if usage.container.change().is_err() => continue,
            Err(failure) => return Err(failure),
        }
        bytes += usage.size;
        removed.push(usage.container.config.id);
    }
    if !removed.is_empty() {
        ui::print(&format!("Deleted Containers:\n{}\n\n", removed.join("\n")))?;
    }
    Ok(bytes)
}
