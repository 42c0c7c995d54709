//! `rbuild rmi`.

use std::collections::BTreeSet;

use rbuild_builder::image::variants;
use rbuild_cache::{Digest, ImageEntry, ImageRecord, Store};
use rbuild_parser::{ImageReference, Platform};
use rbuild_runtime::container::Container;

use super::lookup::{self, Found, familiar, repository, short_id};
use crate::config::Settings;
use crate::container::details::Details;
use crate::events::{self, Event};
use crate::failure::{Failure, status};
use crate::ui;

/// Remove images
///
/// A name is taken away; with its last name the image goes, and with it what no other image and not the
/// build cache needs. Layers that the build cache still needs stay until `rbuild prune`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild rmi app:1.1
  rbuild images -q -f dangling=true | xargs rbuild rmi")]
pub(crate) struct RmiArgs {
    /// Names or IDs of images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Remove an image with all its names when its ID is given; do not mind missing images
    #[arg(short, long)]
    force: bool,
    /// Remove only the image for this platform, of images for several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Do not delete untagged parents; there are none
    #[arg(long, hide = true)]
    no_prune: bool,
}

/// Removes images; goes on after errors.
pub(crate) fn run(settings: &Settings, args: &RmiArgs) -> Result<u8, Failure> {
    let platform = lookup::platform(args.platform.as_deref())?;
    let store = super::open_store(settings)?;
    let mut result = 0;
    let containers = super::containers::containers(settings)?.list()?;
    for image in &args.images {
        let removed = match lookup::find(&store, image) {
            Ok(Some(found)) => match &platform {
                Some(platform) => {
                    let removal = Removal {
                        settings,
                        store: &store,
                        containers: &containers,
                        force: args.force,
                    };
                    removal.of_platform(image, &found, platform)
                }
                None => refuse_used(&containers, image, &found, args.force)
                    .and_then(|()| remove(settings, &store, &found, args.force)),
            },
            Ok(None) => {
                let failure = Failure::new(format!("No such image: {image}"));
                ui::fail(&settings.palette, "Error:", &failure);
                result = if args.force { result } else { status::ERROR };
                continue;
            }
            Err(failure) => Err(failure),
        };
        if let Err(failure) = removed {
            ui::fail(&settings.palette, "Error:", &failure);
            result = status::ERROR;
        }
    }
    Ok(result)
}

/// An image that a container was made of stays, unless it has another name or that is forced.
fn refuse_used(
    containers: &[Container],
    image: &str,
    found: &Found,
    force: bool,
) -> Result<(), Failure> {
    if force || (found.name.is_some() && found.entry.names.len() > 1) {
        return Ok(());
    }
    let id = found.entry.record.config.to_string();
    let user = containers
        .iter()
        .find(|container| Details::of(container).image_id == id);
    match user {
        None => Ok(()),
        Some(user) => Err(Failure::new(format!(
            "conflict: unable to remove repository reference \"{image}\" (must force) - container {} is \
             using its referenced image {}",
            user.short_id(),
            short_id(&found.entry.record.config)
        ))),
    }
}

fn remove(settings: &Settings, store: &Store, found: &Found, force: bool) -> Result<(), Failure> {
    let entry = &found.entry;
    let id = entry.record.config.to_string();
    let note = |action: &str, name: &str| {
        events::note(settings, || Event::image(action, &id, &familiar(name)));
    };
    if let Some(name) = &found.name {
        let canonical = name.canonical();
        if entry.names.len() > 1 {
            store.untag(&canonical)?;
            note("untag", &canonical);
            return ui::println(&format!("Untagged: {}", familiar(&canonical)));
        }
    } else if !force && repositories(&entry.names) > 1 {
        return Err(Failure::new(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple \
             repositories",
            short_id(&entry.record.config)
        )));
    }
    store.remove_image(&entry.record.manifest)?;
    let released = store.release(std::slice::from_ref(&entry.record))?;
    for name in &entry.names {
        note("untag", name);
        ui::println(&format!("Untagged: {}", familiar(name)))?;
    }
    note("delete", entry.names.first().map_or("", String::as_str));
    ui::println(&format!("Deleted: {}", entry.record.config))?;
    for layer in released.layers.iter().rev() {
        ui::println(&format!("Deleted: {layer}"))?;
    }
    Ok(())
}

fn repositories(names: &[String]) -> usize {
    let repositories: BTreeSet<String> = names
        .iter()
        .map(|name| {
            ImageReference::parse(name).map_or_else(|_| name.clone(), |name| repository(&name))
        })
        .collect();
    repositories.len()
}

/// Takes the images of single platforms out of images for several.
struct Removal<'a> {
    settings: &'a Settings,
    store: &'a Store,
    containers: &'a [Container],
    force: bool,
}

impl Removal<'_> {
    /// Removes the image for one platform; the last one is removed as the image is.
    fn of_platform(&self, query: &str, found: &Found, platform: &Platform) -> Result<(), Failure> {
        let (variant, record) = lookup::variant(self.store, query, found, platform)?;
        let of_platform = Found {
            name: None,
            entry: ImageEntry {
                names: Vec::new(),
                record: record.clone(),
            },
        };
        refuse_used(self.containers, query, &of_platform, self.force)?;
        let entry = &found.entry;
        let others = variants(self.store, &entry.record)?.into_iter();
        let mut others = others
            .filter(|other| other.descriptor.digest != variant.descriptor.digest)
            .filter_map(|other| other.record);
        let Some(other) = others.next() else {
            return remove(self.settings, self.store, found, self.force);
        };
        if !self.force && self.is_shared(entry, &variant.descriptor.digest)? {
            return Err(Failure::new(format!(
                "conflict: unable to delete {platform} of {query} (must be forced) - another image has it, too"
            )));
        }
        let rest = if record.config == entry.record.config {
            ImageRecord {
                manifest: entry.record.manifest,
                manifest_media_type: entry.record.manifest_media_type.clone(),
                manifest_size: entry.record.manifest_size,
                ..other
            }
        } else {
            entry.record.clone()
        };
        self.store
            .remove_variant(&rest, &variant.descriptor.digest)?;
        ui::println(&format!("Deleted: {}", variant.descriptor.digest))
    }

    /// Tells whether another image leads to the same manifest.
    fn is_shared(&self, entry: &ImageEntry, manifest: &Digest) -> Result<bool, Failure> {
        for other in self.store.images()? {
            if other.record.manifest != entry.record.manifest {
                let inside = variants(self.store, &other.record)?;
                if inside.iter().any(|one| one.descriptor.digest == *manifest) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
