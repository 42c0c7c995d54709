//! `rbuild tag`.

use rbuild_parser::ImageReference;

use super::lookup;
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;

/// Give an image another name
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild tag app:latest app:1.2
  rbuild tag app registry.example/team/app:1.2")]
pub(crate) struct TagArgs {
    /// Name or ID of the image
    #[arg(value_name = "IMAGE")]
    source: String,
    /// Its new name
    #[arg(value_name = "NAME[:TAG]")]
    target: String,
}

/// Gives an image a name.
pub(crate) fn run(settings: &Settings, args: &TagArgs) -> Result<(), Failure> {
    let target = parse_name(&args.target)?;
    let store = super::open_store(settings)?;
    let found = lookup::require(&store, &args.source)?;
    let record = &found.entry.record;
    store.tag(&target.canonical(), record)?;
    events::note(settings, || {
        Event::image("tag", &record.config.to_string(), &target.familiar())
    });
    Ok(())
}

/// Parses a name that an image shall get.
pub(crate) fn parse_name(text: &str) -> Result<ImageReference, Failure> {
    let reference = ImageReference::parse(text).map_err(|reason| {
        Failure::new(format!(
            "Error parsing reference: {text:?} is not a valid repository/tag: {reason}"
        ))
    })?;
    if reference.digest().is_some() {
        return Err(Failure::new(
            "refusing to create a tag with a digest reference",
        ));
    }
    Ok(reference.with_default_tag())
}
