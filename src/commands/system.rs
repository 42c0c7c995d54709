//! `rbuild system df`, `rbuild du`.

use std::collections::BTreeSet;

use jiff::Timestamp;
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
  rbuild du
  rbuild du --verbose")]
pub(crate) struct DfArgs {
    /// Show every item
    #[arg(short, long)]
    verbose: bool,
    /// Show each line by a Go template, `table TEMPLATE` or `json`
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

const ITEMS: &[(&str, &str)] = &[
    ("Description", "DESCRIPTION"),
    ("ID", "ID"),
    ("Kind", "KIND"),
    ("LastAccessed", "LAST ACCESSED"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Shared", "SHARED"),
    ("Size", "SIZE"),
];

/// Shows disk usage, and with `-v` also that of each container and volume.
pub(crate) fn system_df(settings: &Settings, args: &DfArgs) -> Result<(), Failure> {
    df(settings, args)?;
    if !args.verbose || args.format.is_some() {
        return Ok(());
    }
    let containers = containers::usage::all(settings)?;
    let mut lines = vec!["CONTAINER ID\tIMAGE\tLOCAL VOLUMES\tSIZE\tNAMES".to_owned()];
    lines.extend(containers.iter().map(|usage| {
        format!(
            "{}\t{}\t{}\t{}\t{}",
            usage.container.short_id(),
            ui::control::visible(&usage.details.image),
            usage.details.volumes().count(),
            units::exact_size(usage.size),
            usage.container.config.name
        )
    }));
    let table = |lines: &[String]| ui::table::columns(lines.iter().map(String::as_str));
    ui::print(&format!("\nContainers space usage:\n\n{}", table(&lines)))?;
    let store = super::open_store(settings)?;
    let used = volumes::Users::new(&containers::containers(settings)?)?;
    let mut lines = vec!["VOLUME NAME\tLINKS\tSIZE".to_owned()];
    lines.extend(volumes::all(settings, &store)?.iter().map(|volume| {
        let name = &volume.record.name;
        let links = used.of(name).len();
        format!("{name}\t{links}\t{}", units::exact_size(volume.size()))
    }));
    ui::print(&format!(
        "\nLocal Volumes space usage:\n\n{}",
        table(&lines)
    ))
}

/// Shows disk usage.
pub(crate) fn df(settings: &Settings, args: &DfArgs) -> Result<(), Failure> {
    let store = super::open_store(settings)?;
    let usage = store.usage()?;
    let format = args.format.as_deref();
    if args.verbose {
        let table = "{{.ID}}\t{{.Kind}}\t{{.Reclaimable}}\t{{.Size}}\t{{.LastAccessed}}\t\
                     {{.Description}}";
        let rows = items(&usage);
        ui::print(
            &Listing {
                headers: ITEMS,
                table,
                format,
            }
            .render(&rows)?,
        )?;
        return if format.is_none() {
            totals(&usage)
        } else {
            Ok(())
        };
    }
    let table = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    let rows = summary(settings, &store, &usage)?;
    ui::print(
        &Listing {
            headers: SUMMARY,
            table,
            format,
        }
        .render(&rows)?,
    )
}

fn items(usage: &Usage) -> Vec<Value> {
    let now = Timestamp::now().as_second();
    usage
        .items
        .iter()
        .map(|item| {
            let kind = match item.kind {
                UsageKind::Blob => "blob",
                UsageKind::Layer => "layer",
                UsageKind::CacheMount => "cache mount",
            };
            let id: String = item.id.chars().take(12).collect();
            let age = units::age(now.saturating_sub(item.last_used_unix));
            Value::Struct(vec![
                (
                    "Description",
                    ui::control::visible(&item.description).into(),
                ),
                ("ID", id.into()),
                ("Kind", kind.into()),
                ("LastAccessed", format!("{age} ago").into()),
                ("Reclaimable", item.reclaimable.to_string().into()),
                ("Shared", item.shared.to_string().into()),
                ("Size", units::exact_size(item.size).into()),
            ])
        })
        .collect()
}

fn totals(usage: &Usage) -> Result<(), Failure> {
    let sum = |keep: &dyn Fn(&UsageItem) -> bool| {
        let bytes = usage
            .items
            .iter()
            .filter(|item| keep(item))
            .map(|item| item.size)
            .sum();
        units::exact_size(bytes)
    };
    ui::print(&format!(
        "Shared:\t\t{}\nPrivate:\t{}\nReclaimable:\t{}\nTotal:\t\t{}\n",
        sum(&|item| item.shared),
        sum(&|item| !item.shared),
        sum(&|item| item.reclaimable),
        sum(&|_| true),
    ))
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
    let of_images: BTreeSet<String> = images
        .iter()
        .flat_map(|entry| entry.record.layers.iter().map(|layer| layer.digest().hex()))
        .collect();
    let in_images =
        |item: &&UsageItem| item.kind == UsageKind::Layer && of_images.contains(&item.id);
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
