//! `rbuild system df`.

mod verbose;

use std::collections::BTreeSet;

use rbuild_cache::{Store, Usage, UsageItem, UsageKind};

use super::{containers, volumes};
use crate::config::Settings;
use crate::failure::Failure;
use crate::format::Value;
use crate::ui::listing::Listing;
use crate::ui::{self, units};

/// Show disk usage
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild system df
  rbuild system df --verbose")]
pub(crate) struct DfArgs {
    /// Show every image, container, volume and item of the build cache
    #[arg(short, long)]
    verbose: bool,
    /// Show each line by a Go template, `table TEMPLATE` or `json`; with `-v` all of it as one object
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const SUMMARY: &[(&str, &str)] = &[
    ("Active", "ACTIVE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Size", "SIZE"),
    ("TotalCount", "TOTAL"),
    ("Type", "TYPE"),
];

/// Shows disk usage, and with `-v` every single thing.
pub(crate) fn df(settings: &Settings, args: &DfArgs) -> Result<(), Failure> {
    let format = args.format.as_deref();
    if args.verbose {
        return verbose::show(settings, format);
    }
    let store = super::open_store(settings)?;
    let rows = summary(settings, &store, &store.usage()?)?;
    let listing = Listing {
        headers: SUMMARY,
        table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
        format,
    };
    ui::print(&listing.render(&rows)?)
}

/// What is in the store beside the layers of images.
fn cache_items(store: &Store) -> Result<Vec<UsageItem>, Failure> {
    let of_images = verbose::layers_of_images(&store.images()?);
    let mut items = store.usage()?.items;
    items.retain(|item| !is_of_image(item, &of_images));
    Ok(items)
}

fn is_of_image(item: &UsageItem, layers: &BTreeSet<String>) -> bool {
    item.kind == UsageKind::Layer && layers.contains(&item.id)
}

/// A line for containers: those that run are active.
fn of_containers(settings: &Settings) -> Result<Value, Failure> {
    let all = containers::usage::all(settings)?;
    let sum = |stopped: bool| {
        let wanted = all.iter().filter(|usage| usage.stopped || !stopped);
        wanted.map(|usage| usage.size).sum()
    };
    let active = all.iter().filter(|usage| !usage.stopped).count();
    Ok(line("Containers", all.len(), active, sum(false), sum(true)))
}

/// A line for volumes: those that a container uses are active.
fn of_volumes(settings: &Settings, store: &Store) -> Result<Value, Failure> {
    let used = volumes::Users::new(&containers::containers(settings)?)?;
    let (mut total, mut active, mut size, mut unused) = (0, 0, 0, 0);
    for volume in volumes::all(settings, store)? {
        let bytes = volume.size();
        total += 1;
        size += bytes;
        if used.of(&volume.record.name).is_empty() {
            unused += bytes;
        } else {
            active += 1;
        }
    }
    Ok(line("Local Volumes", total, active, size, unused))
}

/// One line for images and one for everything else.
fn summary(settings: &Settings, store: &Store, usage: &Usage) -> Result<Vec<Value>, Failure> {
    let images = store.images()?;
    let of_images = verbose::layers_of_images(&images);
    let in_images = |item: &&UsageItem| is_of_image(item, &of_images);
    let image_bytes = usage
        .items
        .iter()
        .filter(in_images)
        .map(|item| item.size)
        .sum();
    let dangling = images.iter().filter(|entry| entry.names.is_empty());
    let dangling_bytes = dangling.clone().map(|entry| entry.record.size).sum::<u64>();
    let cache: Vec<_> = usage.items.iter().filter(|item| !in_images(item)).collect();
    let cache_bytes = cache.iter().map(|item| item.size).sum();
    let reclaimable: Vec<_> = cache.iter().filter(|item| item.reclaimable).collect();
    let reclaimable_bytes = reclaimable.iter().map(|item| item.size).sum();
    let named = images.len() - dangling.count();
    Ok(vec![
        line(
            "Images",
            images.len(),
            named,
            image_bytes,
            dangling_bytes.min(image_bytes),
        ),
        of_containers(settings)?,
        of_volumes(settings, store)?,
        line(
            "Build Cache",
            cache.len(),
            cache.len() - reclaimable.len(),
            cache_bytes,
            reclaimable_bytes,
        ),
    ])
}

fn line(kind: &str, total: usize, active: usize, size: u64, reclaimable: u64) -> Value {
    let share = match size {
        0 => String::new(),
        _ => format!(" ({}%)", u128::from(reclaimable) * 100 / u128::from(size)),
    };
    Value::Struct(vec![
        ("Active", active.to_string().into()),
        (
            "Reclaimable",
            format!("{}{share}", units::exact_size(reclaimable)).into(),
        ),
        ("Size", units::exact_size(size).into()),
        ("TotalCount", total.to_string().into()),
        ("Type", kind.into()),
    ])
}
