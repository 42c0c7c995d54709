//! `rbuild load`.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use rbuild_builder::image::load_archive;

use super::lookup::{self, familiar};
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::ui;

/// Read images from a tar archive
///
/// Takes what `docker save`, `podman save` and `rbuild save` write, and OCI layouts, compressed or
/// not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild load <app.tar.zst
  rbuild load -i app.tar")]
pub(crate) struct LoadArgs {
    /// Read a file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Load only the image for this platform, of images for several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Print nothing but the names
    #[arg(short, long)]
    quiet: bool,
}

/// Loads images.
pub(crate) fn run(settings: &Settings, args: &LoadArgs) -> Result<(), Failure> {
    let platform = lookup::platform(args.platform.as_deref())?;
    let mut reader: Box<dyn Read> = match &args.input {
        Some(path) => Box::new(File::open(path).map_err(|error| {
            Failure::new(format!("could not open `{}`", path.display())).because(&error)
        })?),
        None if settings.stdin_terminal => {
            return Err(
                Failure::new("requested load from stdin, but stdin is a terminal")
                    .hint("name an archive with `-i FILE`, or redirect standard input"),
            );
        }
        None => Box::new(std::io::stdin().lock()),
    };
    let store = super::open_store(settings)?;
    for loaded in load_archive(&store, &mut reader, platform.as_ref())? {
        let id = loaded.id.to_string();
        let name = loaded
            .names
            .first()
            .map_or_else(|| id.clone(), |name| familiar(name));
        events::note(settings, || Event::image("load", &id, &name));
        if loaded.names.is_empty() {
            ui::println(&format!("Loaded image ID: {}", loaded.id))?;
        }
        for name in &loaded.names {
            ui::println(&format!("Loaded image: {}", familiar(name)))?;
        }
    }
    Ok(())
}
