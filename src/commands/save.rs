//! `rbuild save`.

use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use rbuild_builder::image::{SaveItem, save_archive};
use rbuild_builder::output::OutFile;
use rbuild_cache::Store;
use rbuild_parser::ImageReference;

use super::lookup::{self, Found};
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;

/// Write images to a tar archive
///
/// The archive is an OCI image layout and at the same time what `docker save` writes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild save -o app.tar app:1.2
  rbuild save app:1.2 | zstd >app.tar.zst")]
pub(crate) struct SaveArgs {
    /// Names or IDs of images; a name without tag stands for all tags
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Save only the image for this platform, of images for several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Saves images.
pub(crate) fn run(settings: &Settings, args: &SaveArgs) -> Result<(), Failure> {
    if args.output.is_none() && settings.stdout_terminal {
        return Err(Failure::new(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let platform = lookup::platform(args.platform.as_deref())?;
    let store = super::open_store(settings)?;
    let mut items: Vec<SaveItem> = Vec::new();
    for image in &args.images {
        for found in wanted(&store, image)? {
            let record = match &platform {
                Some(platform) => lookup::variant(&store, image, &found, platform)?.1,
                None => found.entry.record,
            };
            let name = found.name;
            let known = items
                .iter()
                .any(|other| other.name == name && other.record.manifest == record.manifest);
            if !known {
                let id = record.config.to_string();
                let shown = name
                    .as_ref()
                    .map_or_else(|| id.clone(), ImageReference::familiar);
                events::note(settings, || Event::image("save", &id, &shown));
                items.push(SaveItem { name, record });
            }
        }
    }
    let Some(path) = &args.output else {
        let mut stdout = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
        save_archive(&store, &items, &mut stdout)?;
        return Ok(stdout.flush()?);
    };
    let failed = |error: std::io::Error| {
        Failure::new(format!(
            "failed to save image: could not write `{}`",
            path.display()
        ))
        .because(&error)
    };
    let mut out = BufWriter::with_capacity(1 << 16, OutFile::create(path).map_err(failed)?);
    save_archive(&store, &items, &mut out).map_err(|error| {
        Failure::from(error).within(format!("could not save `{}`", path.display()))
    })?;
    let file = out
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.commit().map_err(failed)
}

/// The image that is meant; by a name without a tag, all that have this name.
fn wanted(store: &Store, query: &str) -> Result<Vec<Found>, Failure> {
    if let Ok(name) = ImageReference::parse(query)
        && name.tag().is_none()
        && name.digest().is_none()
    {
        let found = lookup::all_tags(store, &name)?;
        if !found.is_empty() {
            return Ok(found.into_iter().map(|(_, found)| found).collect());
        }
    }
    Ok(vec![lookup::require(store, query)?])
}
