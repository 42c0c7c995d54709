//! `rbuild images`.

mod tree;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rbuild_cache::{DiffId, ImageEntry, Store};

use super::filter::Filters;
use super::lookup::{familiar_parts, short_id};
use crate::config::Settings;
use crate::container::details::Details;
use crate::failure::Failure;
use crate::format::Value;
use crate::time::{created_at, created_since, parse_created};
use crate::ui::listing::Listing;
use crate::ui::{self, units};

/// List images
///
/// Newest first. An image with several names has a line for each; one without shows `<none>`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Placeholders of --format: .ID .Repository .Tag .Digest .CreatedSince \
.CreatedAt .Size .VirtualSize .SharedSize .UniqueSize .Containers

Examples:
  rbuild images
  rbuild images -q -f dangling=true
  rbuild images --tree
  rbuild images --format '{{.Repository}}:{{.Tag}} {{.Size}}'"
)]
pub(crate) struct ImagesArgs {
    /// Show only images of this repository, or with this name; wildcards are allowed
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
    /// Show all images; there are no hidden ones
    #[arg(short, long)]
    all: bool,
    /// Show only IDs
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten IDs
    #[arg(long)]
    no_trunc: bool,
    /// Show digests of manifests
    #[arg(long)]
    digests: bool,
    /// Show only what meets a condition: dangling=, label=, reference=, before=, since=, until=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Show each image by a Go template, `table TEMPLATE` or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show the platforms of each image below it, what of them is here, and what containers use
    #[arg(long, conflicts_with_all = ["quiet", "digests", "format"])]
    tree: bool,
}

pub(crate) const HEADERS: &[(&str, &str)] = &[
    ("Containers", "CONTAINERS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("Tag", "TAG"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "VIRTUAL SIZE"),
];

/// Lists images.
pub(crate) fn run(settings: &Settings, args: &ImagesArgs) -> Result<(), Failure> {
    let store = super::open_store(settings)?;
    let mut filters = Filters::parse(&store, &args.filter)?;
    if let Some(name) = &args.name {
        filters.reference(name);
    }
    let mut entries = store.images()?;
    entries.sort_by_key(|entry| Reverse(parse_created(entry.record.created.as_deref())));
    if args.tree {
        return show_tree(settings, &store, &filters, &entries, args.no_trunc);
    }
    let now = Timestamp::now();
    let format = args.format.as_deref().unwrap_or_default();
    let asked = ["SharedSize", "UniqueSize", "json"]
        .iter()
        .any(|word| format.contains(word));
    let shares = if asked {
        Shares::new(&store, &entries)?
    } else {
        Shares::default()
    };
    let mut rows = Vec::new();
    for entry in &entries {
        if !filters.accepts(&store, entry)? {
            continue;
        }
        if entry.names.is_empty() && !filters.by_name() {
            rows.push(row(entry, None, args.no_trunc, &shares, "N/A", now));
        }
        for name in entry.names.iter().filter(|name| filters.accepts_name(name)) {
            rows.push(row(entry, Some(name), args.no_trunc, &shares, "N/A", now));
        }
    }
    ui::print(&listing(args).render(&rows)?)
}

fn show_tree(
    settings: &Settings,
    store: &Store,
    filters: &Filters,
    entries: &[ImageEntry],
    whole_ids: bool,
) -> Result<(), Failure> {
    let mut shown = Vec::new();
    for entry in entries {
        let named = entry.names.iter().any(|name| filters.accepts_name(name));
        let wanted = named || (entry.names.is_empty() && !filters.by_name());
        if wanted && filters.accepts(store, entry)? {
            shown.push(entry);
        }
    }
    let used = used_images(settings)?;
    ui::print(&tree::render(store, &shown, &used, whole_ids)?)
}

/// IDs of the images that containers were made of.
pub(super) fn used_images(settings: &Settings) -> Result<BTreeSet<String>, Failure> {
    let containers = super::containers::containers(settings)?.list()?;
    Ok(containers
        .iter()
        .map(|container| Details::of(container).image_id)
        .collect())
}

fn listing(args: &ImagesArgs) -> Listing<'_> {
    let table = if args.digests {
        "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    } else {
        "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    };
    let format = match &args.format {
        None if args.quiet => Some("{{.ID}}"),
        format => format.as_deref(),
    };
    Listing {
        headers: HEADERS,
        table,
        format,
    }
}

/// Every image once for each of its names, the newest first; `users`: how many containers were made of
/// each, by its ID.
pub(super) fn all_rows(
    store: &Store,
    users: &BTreeMap<String, usize>,
) -> Result<Vec<Value>, Failure> {
    let mut entries = store.images()?;
    entries.sort_by_key(|entry| Reverse(parse_created(entry.record.created.as_deref())));
    let (now, shares) = (Timestamp::now(), Shares::new(store, &entries)?);
    let mut rows = Vec::new();
    for entry in &entries {
        let count = users.get(&entry.record.config.to_string()).unwrap_or(&0);
        let names: Vec<Option<&String>> = match entry.names.as_slice() {
            [] => vec![None],
            names => names.iter().map(Some).collect(),
        };
        for name in names {
            rows.push(row(entry, name, false, &shares, &count.to_string(), now));
        }
    }
    Ok(rows)
}

/// Sizes of the layers that several images have.
#[derive(Default)]
struct Shares(BTreeMap<DiffId, u64>);

impl Shares {
    /// Looks at the layers.
    fn new(store: &Store, entries: &[ImageEntry]) -> Result<Shares, Failure> {
        let mut sizes = BTreeMap::new();
        let mut users: BTreeMap<DiffId, usize> = BTreeMap::new();
        for entry in entries {
            let layers: BTreeSet<DiffId> = entry.record.layers.iter().copied().collect();
            for layer in layers {
                *users.entry(layer).or_default() += 1;
            }
        }
        for layer in users.into_iter().filter(|(_, count)| *count > 1) {
            if let Some(found) = store.layer(&layer.0)? {
                sizes.insert(layer.0, found.content_size());
            }
        }
        Ok(Shares(sizes))
    }

    /// Bytes of an image that others have, too.
    fn of(&self, entry: &ImageEntry) -> u64 {
        let layers = entry.record.layers.iter();
        layers.filter_map(|layer| self.0.get(layer)).sum()
    }
}

fn row(
    entry: &ImageEntry,
    name: Option<&String>,
    whole_id: bool,
    shares: &Shares,
    containers: &str,
    now: Timestamp,
) -> Value {
    let record = &entry.record;
    let none = || "<none>".to_owned();
    let (repository, tag) = name.map_or_else(|| (none(), none()), |name| familiar_parts(name));
    let id = if whole_id {
        record.config.to_string()
    } else {
        short_id(&record.config)
    };
    let created = parse_created(record.created.as_deref());
    let size = units::size(record.size);
    let shared = shares.of(entry);
    Value::Struct(vec![
        ("Containers", containers.into()),
        ("CreatedAt", created_at(created).into()),
        ("CreatedSince", created_since(created, now).into()),
        ("Digest", record.manifest.to_string().into()),
        ("ID", id.into()),
        ("Repository", repository.into()),
        ("SharedSize", units::size(shared).into()),
        ("Size", size.clone().into()),
        ("Tag", tag.into()),
        (
            "UniqueSize",
            units::size(record.size.saturating_sub(shared)).into(),
        ),
        ("VirtualSize", size.into()),
    ])
}
