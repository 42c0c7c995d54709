//! `rbuild rm` and `rbuild container prune`.

use std::io::IsTerminal as _;

use rbuild_runtime::container::{Container, ContainerError};

use super::create::{self, owner};
use super::{KILL, containers, each, end};
use crate::commands::volumes::remove_anonymous;
use crate::config::Settings;
use crate::container::details::Details;
use crate::failure::Failure;
use crate::ui;

/// Remove containers with what they wrote
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild rm web
  rbuild rm -f web job")]
pub(crate) struct RmArgs {
    /// Names or IDs
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
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
}

/// Removes containers.
pub(crate) fn run(settings: &Settings, args: &RmArgs) -> Result<u8, Failure> {
    let known = containers(settings)?;
    let mut queries = args.containers.clone();
    if args.force {
        queries.retain(|query| !matches!(known.find(query), Err(ContainerError::NotFound(_))));
    }
    each(settings, &queries, &mut |container, query| {
        if args.force {
            end(container, KILL, -1)?;
        }
        remove(settings, container, args.volumes).map_err(|failure| failure.within_name(query))?;
        ui::println(query)
    })
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

/// Removes all containers that do not run.
pub(crate) fn prune(settings: &Settings, args: &ContainerPruneArgs) -> Result<(), Failure> {
    if !args.force {
        ui::message("WARNING! This will remove all stopped containers.\n");
        if !std::io::stdin().is_terminal() {
            return Err(
                Failure::new("nobody can be asked: standard input is not a terminal")
                    .hint("`--force` does not ask"),
            );
        }
        ui::message("Are you sure you want to continue? [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y") {
            return Ok(());
        }
    }
    let mut removed = Vec::new();
    let containers = containers(settings)?;
    create::sweep(&containers, &crate::commands::open_store(settings)?)?;
    for container in containers.list()? {
        if !container.state()?.status.is_alive() {
            remove(settings, &container, false)?;
            removed.push(container.config.id);
        }
    }
    if removed.is_empty() {
        return Ok(());
    }
    ui::print(&format!("Deleted Containers:\n{}\n", removed.join("\n")))
}
