//! `rbuild volume rm`, `rbuild volume prune`, and what goes with a container.

use rbuild_cache::{Removable, Store};
use rbuild_runtime::container::Containers;

use super::{Filters, Users, all};
use crate::commands::containers::containers;
use crate::commands::{open_store, prune};
use crate::config::Settings;
use crate::container::details::Details;
use crate::container::volumes::ANONYMOUS;
use crate::events::{self, Event};
use crate::failure::{Failure, status};
use crate::ui::{self, units};

/// Remove volumes with all that is in them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild volume rm data")]
pub(crate) struct RemoveArgs {
    /// Names
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,
    /// Do not mind missing volumes
    #[arg(short, long)]
    force: bool,
}

/// Remove unnamed volumes that no container uses
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild volume prune -f
  rbuild volume prune -a --filter label=temporary")]
pub(crate) struct PruneArgs {
    /// Remove those with names, too
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove only what meets a condition: label=, label!=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// How an attempt to remove a volume went.
enum Tried {
    Removed,
    Missing,
    /// Who uses it; nobody that is listed if there are none.
    Used(Vec<String>),
}

/// Removes volumes; goes on after errors.
pub(crate) fn remove(settings: &Settings, args: &RemoveArgs) -> Result<u8, Failure> {
    let store = open_store(settings)?;
    let containers = containers(settings)?;
    let mut result = 0;
    for name in &args.volumes {
        let done = one(&store, &containers, name).and_then(|tried| match tried {
            Tried::Removed => Ok(()),
            Tried::Missing if args.force => Ok(()),
            Tried::Missing => Err(Failure::new(format!("No such volume: {name}"))),
            Tried::Used(ids) if ids.is_empty() => Err(Failure::new(format!(
                "could not remove volume {name}: it is in use by a container that is not listed"
            ))),
            Tried::Used(ids) => Err(Failure::new(format!(
                "could not remove volume {name}: volume is in use - [{}]",
                ids.join(", ")
            ))
            .hint("remove the containers first: `rbuild rm`")),
        });
        match done {
            Ok(()) => ui::println(name)?,
            Err(failure) => {
                ui::fail(&settings.palette, "Error:", &failure);
                result = status::ERROR;
            }
        }
    }
    Ok(result)
}

/// Removes a volume that nobody uses.
fn one(store: &Store, containers: &Containers, name: &str) -> Result<Tried, Failure> {
    let removal = match store.removing_volume(name)? {
        Removable::Missing => return Ok(Tried::Missing),
        Removable::Busy => {
            return Ok(Tried::Used(Users::new(containers)?.of(name).to_vec()));
        }
        Removable::Free(removal) => removal,
    };
    // Looked at while nobody can begin to use it.
    let users = Users::new(containers)?;
    if !users.of(name).is_empty() {
        return Ok(Tried::Used(users.of(name).to_vec()));
    }
    removal.finish()?;
    events::note_in(store.root(), &Event::volume("destroy", name));
    Ok(Tried::Removed)
}

/// Removes the unnamed volumes of a container that is gone, unless others use them.
pub(crate) fn remove_anonymous(
    store: &Store,
    containers: &Containers,
    details: &Details,
) -> Result<(), Failure> {
    for name in details.volumes() {
        let unnamed = store
            .volume(name)?
            .is_some_and(|volume| volume.record.labels.contains_key(ANONYMOUS));
        if unnamed {
            one(store, containers, name)?;
        }
    }
    Ok(())
}

/// Removes all volumes that no container uses.
pub(crate) fn prune(settings: &Settings, args: &PruneArgs) -> Result<(), Failure> {
    let filters = Filters::of_prune(&args.filter)?;
    let everything = args.all || filters.all;
    if !args.force {
        prune::confirm(if everything {
            "This will remove all local volumes not used by at least one container."
        } else {
            "This will remove anonymous local volumes not used by at least one container."
        })?;
    }
    let reclaimed = prune_all(settings, everything, &args.filter)?;
    ui::println(&format!(
        "Total reclaimed space: {}",
        units::exact_size(reclaimed)
    ))
}

/// Removes what no container uses, and tells which; returns how many bytes that took.
pub(crate) fn prune_all(
    settings: &Settings,
    everything: bool,
    filters: &[String],
) -> Result<u64, Failure> {
    let filters = Filters::of_prune(filters)?;
    let store = open_store(settings)?;
    let containers = containers(settings)?;
    let used = Users::new(&containers)?;
    let (mut lines, mut bytes) = (String::new(), 0);
    for volume in all(settings, &store)? {
        let record = &volume.record;
        let wanted = everything || record.labels.contains_key(ANONYMOUS);
        if !wanted || !used.of(&record.name).is_empty() || !filters.accept(&volume, &used) {
            continue;
        }
        let size = volume.size();
        if matches!(one(&store, &containers, &record.name)?, Tried::Removed) {
            bytes += size;
            lines.push_str(&format!("{}\n", record.name));
        }
    }
    if !lines.is_empty() {
        ui::print(&format!("Deleted Volumes:\n{lines}\n"))?;
    }
    Ok(bytes)
}
