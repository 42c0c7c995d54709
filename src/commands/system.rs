//! `rbuild system df`, `rbuild du`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rbuild_cache::{Store, Usage, UsageItem, UsageKind};

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
    let rows = summary(&store, &usage)?;
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

/// One line for images and one for everything else.
fn summary(store: &Store, usage: &Usage) -> Result<Vec<Value>, Failure> {
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
        line("Containers", 0, 0, 0, 0),
        line("Local Volumes", 0, 0, 0, 0),
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
