//! `rbuild du`, `rbuild builder du`: the store item by item.

use jiff::Timestamp;
use rbuild_cache::{UsageItem, UsageKind};

use super::cache_filter::CacheFilter;
use crate::config::Settings;
use crate::failure::Failure;
use crate::format::Value;
use crate::ui::listing::Listing;
use crate::ui::{self, units};

/// Show what takes space in the store
///
/// Layers, blobs and cache mounts, the largest first. A `*` behind an ID says that its content may change,
/// one behind a size that an image and the build cache share it. `rbuild system df` sums up.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Placeholders of --format: .ID .Type .Description .Size .Reclaimable .InUse \
.Shared .Mutable .LastUsedAt .LastUsedSince

Examples:
  rbuild du
  rbuild du --verbose --filter type=exec.cachemount
  rbuild du --filter 'description~=RUN make' --filter until=24h"
)]
pub(crate) struct DuArgs {
    /// Show all about every item
    #[arg(short, long)]
    verbose: bool,
    /// Show only what meets a condition: id=, type=, description=, description~=, until=DURATION, inuse,
    /// reclaimable, mutable, immutable, shared, private; `!=` for the contrary
    #[arg(long, value_name = "CONDITION")]
    filter: Vec<String>,
    /// Show each item by a Go template, `table TEMPLATE` or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const HEADERS: &[(&str, &str)] = &[
    ("Description", "DESCRIPTION"),
    ("ID", "ID"),
    ("InUse", "IN USE"),
    ("Kind", "KIND"),
    ("LastAccessed", "LAST ACCESSED"),
    ("LastUsedAt", "LAST USED AT"),
    ("LastUsedSince", "LAST USED"),
    ("Mutable", "MUTABLE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Shared", "SHARED"),
    ("Size", "SIZE"),
    ("Type", "TYPE"),
];

/// Lists what takes space.
pub(crate) fn run(settings: &Settings, args: &DuArgs) -> Result<(), Failure> {
    let filter = CacheFilter::parse(&args.filter)?;
    let store = super::open_store(settings)?;
    let now = Timestamp::now();
    let old = |item: &UsageItem| {
        let age = now.as_second().saturating_sub(item.last_used_unix);
        filter
            .unused_for
            .is_none_or(|unused| u64::try_from(age).unwrap_or(0) >= unused.as_secs())
    };
    let mut items = store.usage()?.items;
    items.retain(|item| old(item) && filter.conditions.iter().all(|one| one.holds(item)));
    let rows: Vec<Value> = items.iter().map(|item| row(item, now)).collect();
    let format = match args.format.as_deref() {
        None | Some("" | "pretty") => None,
        format => format,
    };
    if format.is_some() {
        let listing = Listing {
            headers: HEADERS,
            table: "",
            format,
        };
        return ui::print(&listing.render(&rows)?);
    }
    if args.verbose {
        for item in &items {
            ui::println(&block(item, now))?;
        }
    } else {
        let marked: Vec<String> = items.iter().map(|item| line(item, now)).collect();
        let header = "ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED";
        let lines = std::iter::once(header).chain(marked.iter().map(String::as_str));
        ui::print(&ui::table::columns(lines))?;
    }
    totals(&items)
}

/// BuildKit's name for a kind of item.
pub(super) fn kind_name(kind: UsageKind) -> &'static str {
    match kind {
        UsageKind::Blob => "blob",
        UsageKind::Layer => "regular",
        UsageKind::CacheMount => "exec.cachemount",
    }
}

fn short(item: &UsageItem) -> String {
    item.id.chars().take(12).collect()
}

/// How long ago it was used.
pub(super) fn age(item: &UsageItem, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(item.last_used_unix);
    format!("{} ago", units::age(seconds))
}

fn used_at(item: &UsageItem) -> String {
    Timestamp::from_second(item.last_used_unix).map_or_else(|_| String::new(), |at| at.to_string())
}

fn is_mutable(item: &UsageItem) -> bool {
    item.kind == UsageKind::CacheMount
}

fn line(item: &UsageItem, now: Timestamp) -> String {
    let mark = |marked: bool| if marked { "*" } else { "" };
    format!(
        "{}{}\t{}\t{}{}\t{}",
        short(item),
        mark(is_mutable(item)),
        item.reclaimable,
        units::exact_size(item.size),
        mark(item.shared),
        age(item, now)
    )
}

fn block(item: &UsageItem, now: Timestamp) -> String {
    format!(
        "ID:\t\t{}\nMutable:\t{}\nReclaimable:\t{}\nShared:\t\t{}\nSize:\t\t{}\nDescription:\t{}\n\
         Last used:\t{}\nType:\t\t{}\n",
        item.id,
        is_mutable(item),
        item.reclaimable,
        item.shared,
        units::exact_size(item.size),
        ui::control::visible(&item.description),
        age(item, now),
        kind_name(item.kind)
    )
}

/// An item for templates; `Kind` and `LastAccessed` are older names.
pub(super) fn row(item: &UsageItem, now: Timestamp) -> Value {
    let kind = match item.kind {
        UsageKind::Blob => "blob",
        UsageKind::Layer => "layer",
        UsageKind::CacheMount => "cache mount",
    };
    Value::Struct(vec![
        (
            "Description",
            ui::control::visible(&item.description).into(),
        ),
        ("ID", short(item).into()),
        ("InUse", (!item.reclaimable).to_string().into()),
        ("Kind", kind.into()),
        ("LastAccessed", age(item, now).into()),
        ("LastUsedAt", used_at(item).into()),
        ("LastUsedSince", age(item, now).into()),
        ("Mutable", is_mutable(item).to_string().into()),
        ("Reclaimable", item.reclaimable.to_string().into()),
        ("Shared", item.shared.to_string().into()),
        ("Size", units::exact_size(item.size).into()),
        ("Type", kind_name(item.kind).into()),
    ])
}

fn totals(items: &[UsageItem]) -> Result<(), Failure> {
    let sum = |keep: &dyn Fn(&UsageItem) -> bool| {
        let items = items.iter().filter(|item| keep(item));
        units::exact_size(items.map(|item| item.size).sum())
    };
    ui::print(&format!(
        "Shared:\t\t{}\nPrivate:\t{}\nReclaimable:\t{}\nTotal:\t\t{}\n",
        sum(&|item| item.shared),
        sum(&|item| !item.shared),
        sum(&|item| item.reclaimable),
        sum(&|_| true),
    ))
}
