//! `rbuild rename`.

use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;

/// Give a container another name
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild rename web old-web")]
pub(crate) struct RenameArgs {
    /// Name or ID
    container: String,
    /// The new name
    name: String,
}

/// Renames a container.
pub(crate) fn run(settings: &Settings, args: &RenameArgs) -> Result<(), Failure> {
    let containers = super::containers(settings)?;
    let mut container = containers.find(&args.container)?;
    let before = format!("/{}", container.config.name);
    container.rename(&containers, &args.name)?;
    events::note(settings, || {
        Event::container("rename", &container).with("oldName", &before)
    });
    let networks = crate::commands::networks::networks(settings)?;
    Ok(networks.rename_user(&container.config.id, &args.name)?)
}
