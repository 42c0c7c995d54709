//! `rbuild prune`, `rbuild image prune`, `rbuild system prune`.

use std::io::BufRead as _;

use rbuild_cache::{PruneOptions, PruneReport, Store};

use super::cache_filter::CacheFilter;
use super::filter::Filters;
use super::lookup::familiar;
use super::{containers, images};
use crate::bounds;
use crate::config::Settings;
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::ui::{self, units};

/// Remove build cache that nobody needs
///
/// Without options, removes what no image, no build record and no running build needs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild prune
  rbuild prune --keep-storage 20GB --force
  rbuild prune --all --filter until=48h")]
pub(crate) struct CachePruneArgs {
    /// Remove all build cache, also what the next build would use
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove cache, what was used longest ago first, until the store takes at most this: `10GB`, or
    /// `30%` of the disk
    #[arg(long, value_name = "SIZE")]
    max_used_space: Option<String>,
    /// Remove cache, what was used longest ago first, until this much of the disk is free
    #[arg(long, value_name = "SIZE")]
    min_free_space: Option<String>,
    /// Keep this much of the cache, what was used last
    #[arg(
        long,
        value_name = "SIZE",
        visible_alias = "keep-storage",
        alias = "keep-bytes"
    )]
    reserved_space: Option<String>,
    /// Remove only what meets a condition: until=DURATION, id=, type=, description=, description~=, inuse,
    /// mutable, immutable, shared, private; `!=` for the contrary
    #[arg(long, value_name = "CONDITION")]
    filter: Vec<String>,
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Remove images without a name
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild image prune --force")]
pub(crate) struct ImagePruneArgs {
    /// Remove images with names too
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove only what meets a condition: label=, until=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Remove containers that do not run, images without a name and build cache
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild system prune --force")]
pub(crate) struct SystemPruneArgs {
    /// Remove all images that no container uses, and all build cache too
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove unnamed volumes that no container uses, too
    #[arg(long)]
    volumes: bool,
    /// Remove only containers and images that meet a condition: label=, label!=, until=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Removes build cache.
pub(crate) fn cache(settings: &Settings, args: &CachePruneArgs) -> Result<(), Failure> {
    let by_size = args.max_used_space.is_some() || args.min_free_space.is_some();
    let all = args.all || by_size || args.reserved_space.is_some() || !args.filter.is_empty();
    let filter = CacheFilter::parse(&args.filter)?;
    if !args.dry_run && !args.force {
        let what = if all {
            "build cache"
        } else {
            "build cache that nobody needs"
        };
        confirm(&format!("This will remove {what}."))?;
    }
    let store = super::open_store(settings)?;
    let space = store.space()?;
    let size = |size: &Option<String>| {
        let size = size.as_deref().map(|size| bounds::size(size, space));
        size.transpose()
    };
    let reserved = size(&args.reserved_space)?;
    let report = store.prune(&PruneOptions {
        all,
        unused_for: filter.unused_for,
        max_used_bytes: size(&args.max_used_space)?,
        min_free_bytes: size(&args.min_free_space)?,
        // Alone it says how much of the cache is to be left.
        keep_bytes: reserved.filter(|_| !by_size),
        reserved_bytes: reserved.filter(|_| by_size),
        only: filter.conditions,
        dangling_images: false,
        dry_run: args.dry_run,
    })?;
    tell_cache(&report, args.dry_run)?;
    total(report.reclaimed)
}

/// Removes images.
pub(crate) fn images(settings: &Settings, args: &ImagePruneArgs) -> Result<(), Failure> {
    if !args.force {
        confirm(warning(args.all))?;
    }
    let store = super::open_store(settings)?;
    let released = remove_images(settings, &store, args.all, &args.filter)?;
    let report = store.prune(&PruneOptions::default())?;
    total(released + report.reclaimed)
}

/// Removes what nobody needs: containers, volumes, images and build cache, in this order, since each
/// may need what follows.
pub(crate) fn system(settings: &Settings, args: &SystemPruneArgs) -> Result<(), Failure> {
    if !args.force {
        let volumes = if args.volumes {
            ", all anonymous volumes not used by at least one container"
        } else {
            ""
        };
        let images = if args.all {
            "all images without at least one container"
        } else {
            "all images without a name"
        };
        confirm(&format!(
            "This will remove all stopped containers{volumes}, networks that no container is in, {images} and build cache."
        ))?;
    }
    let conditions = containers::remove::Conditions::parse(&args.filter)?;
    let mut reclaimed = containers::remove::prune_all(settings, &conditions)?;
    if args.volumes {
        let labels: Vec<String> = args
            .filter
            .iter()
            .filter(|filter| filter.starts_with("label"))
            .cloned()
            .collect();
        reclaimed += super::volumes::prune_all(settings, false, &labels)?;
    }
    super::networks::prune_all(settings, &args.filter)?;
    let store = super::open_store(settings)?;
    reclaimed += remove_images(settings, &store, args.all, &args.filter)?;
    let report = store.prune(&PruneOptions {
        all: args.all,
        ..PruneOptions::default()
    })?;
    tell_cache(&report, false)?;
    total(reclaimed + report.reclaimed)
}

fn warning(all: bool) -> &'static str {
    if all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all images without a name."
    }
}

/// Asks before something is lost.
pub(super) fn confirm(warning: &str) -> Result<(), Failure> {
    ui::message(&format!(
        "WARNING! {warning}\nAre you sure you want to continue? [y/N] "
    ));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if !answer.ends_with('\n') {
        // Nobody has ended the line of the question.
        ui::message("\n");
    }
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new("nothing was removed").hint("answer `y`, or add `--force`"))
}

/// Removes images that no container uses, and what only they needed; tells how many bytes that were.
fn remove_images(
    settings: &Settings,
    store: &Store,
    all: bool,
    filters: &[String],
) -> Result<u64, Failure> {
    let filters = Filters::parse(store, filters)?;
    let used = images::used_images(settings)?;
    let mut lines = String::new();
    let mut removed = Vec::new();
    for entry in store.images()? {
        let id = entry.record.config.to_string();
        let wanted = (all || entry.names.is_empty()) && !used.contains(&id);
        if !wanted || !filters.accepts(store, &entry)? {
            continue;
        }
        store.remove_image(&entry.record.manifest)?;
        for name in &entry.names {
            lines.push_str(&format!("untagged: {}\n", familiar(name)));
        }
        lines.push_str(&format!("deleted: {id}\n"));
        let name = entry.names.first().map_or("", |name| name.as_str());
        events::note(settings, || Event::image("delete", &id, &familiar(name)));
        removed.push(entry.record);
    }
    if removed.is_empty() {
        return Ok(0);
    }
    let released = store.release(&removed)?;
    for layer in released.layers.iter().rev() {
        lines.push_str(&format!("deleted: {layer}\n"));
    }
    ui::print(&format!("Deleted Images:\n{lines}\n"))?;
    Ok(released.reclaimed)
}

fn tell_cache(report: &PruneReport, dry_run: bool) -> Result<(), Failure> {
    let verb = if dry_run { "would remove" } else { "removed" };
    let counts = [
        (report.layers.len() as u64, "layers"),
        (report.blobs.len() as u64, "blobs"),
        (report.records, "build records"),
        (report.cache_mounts, "cache mounts"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        ui::println(&format!("{verb} {what}: {count}"))?;
    }
    Ok(())
}

fn total(bytes: u64) -> Result<(), Failure> {
    ui::println(&format!(
        "Total reclaimed space: {}",
        units::exact_size(bytes)
    ))
}
