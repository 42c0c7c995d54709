//! `rbuild history`.

mod builds;

use jiff::Timestamp;
use rbuild_builder::image::{History, ImageConfig, image_config};
use rbuild_cache::{Digest, Store};

use super::lookup::{self, short_id};
use crate::config::Settings;
use crate::failure::Failure;
use crate::format::Value;
use crate::time::{created_at_seconds, created_since, parse_created};
use crate::ui::listing::Listing;
use crate::ui::{self, units};

/// Show how an image came about
///
/// One line for each instruction, newest first. `rbuild history builds` shows the past builds instead.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "rbuild history [OPTIONS] IMAGE\n       rbuild history builds [OPTIONS]",
    after_help = "Placeholders of --format: .ID .CreatedSince .CreatedAt .CreatedBy .Size \
.Comment

Examples:
  rbuild history app
  rbuild history --no-trunc --format '{{.CreatedBy}}' app
  rbuild history builds"
)]
pub(crate) struct HistoryArgs {
    #[command(subcommand)]
    of: Option<HistoryCommand>,
    /// Name or ID of the image
    #[arg(value_name = "IMAGE", required = true)]
    image: Option<String>,
    /// Show only IDs
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Show ages and sizes in words; `-H=false` shows times and bytes
    #[arg(
        short = 'H',
        long,
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        hide_default_value = true,
        hide_possible_values = true,
        value_name = "BOOL"
    )]
    human: bool,
    /// Show the history of the image for this platform, of an image for several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Show each line by a Go template, `table TEMPLATE` or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Histories of other things than images.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum HistoryCommand {
    Builds(builds::BuildsArgs),
}

const HEADERS: &[(&str, &str)] = &[
    ("Comment", "COMMENT"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("CreatedSince", "CREATED"),
    ("ID", "IMAGE"),
    ("Size", "SIZE"),
];

/// Longest `CREATED BY` that is shown whole.
const CREATED_BY: usize = 45;

/// Shows the history of an image.
pub(crate) fn run(settings: &Settings, args: &HistoryArgs) -> Result<(), Failure> {
    if let Some(HistoryCommand::Builds(args)) = &args.of {
        return builds::run(settings, args);
    }
    let platform = lookup::platform(args.platform.as_deref())?;
    let store = super::open_store(settings)?;
    // Without a sub-command, clap has made sure of it.
    let image = args.image.as_deref().unwrap_or_default();
    let found = lookup::require_for(&store, image, platform.as_ref())?;
    let config = image_config(&store, &found.entry.record)?;
    let rows = rows(args, &store, &found.entry.record.config, &config)?;
    let format = match &args.format {
        None if args.quiet => Some("{{.ID}}"),
        format => format.as_deref(),
    };
    let table = if args.human {
        "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
    } else {
        "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
    };
    ui::print(
        &Listing {
            headers: HEADERS,
            table,
            format,
        }
        .render(&rows)?,
    )
}

fn rows(
    args: &HistoryArgs,
    store: &Store,
    id: &Digest,
    config: &ImageConfig,
) -> Result<Vec<Value>, Failure> {
    let now = Timestamp::now();
    let mut layers = config.rootfs.diff_ids.iter();
    let mut rows = Vec::with_capacity(config.history.len());
    for (index, entry) in config.history.iter().enumerate() {
        let layer = if entry.empty_layer {
            None
        } else {
            layers.next()
        };
        let size = match layer {
            None => Some(0),
            // The size of a layer that was never unpacked is not known.
            Some(diff_id) => store.layer(diff_id)?.map(|layer| layer.content_size()),
        };
        let newest = index + 1 == config.history.len();
        let image = match (newest, args.no_trunc) {
            (false, _) => "<missing>".to_owned(),
            (true, true) => id.to_string(),
            (true, false) => short_id(id),
        };
        rows.push(row(args, entry, size, image, now));
    }
    rows.reverse();
    Ok(rows)
}

fn row(
    args: &HistoryArgs,
    entry: &History,
    size: Option<u64>,
    image: String,
    now: Timestamp,
) -> Value {
    let created = parse_created(entry.created.as_deref());
    let size = match size {
        None => "N/A".to_owned(),
        Some(bytes) if args.human => units::size(bytes),
        Some(bytes) => bytes.to_string(),
    };
    let created_by = entry.created_by.replace(['\t', '\n'], " ");
    let created_by = if args.no_trunc {
        created_by
    } else {
        shortened(&created_by, CREATED_BY)
    };
    Value::Struct(vec![
        ("Comment", entry.comment.clone().unwrap_or_default().into()),
        ("CreatedAt", created_at_seconds(created).into()),
        ("CreatedBy", ui::control::visible(&created_by).into()),
        ("CreatedSince", created_since(created, now).into()),
        ("ID", image.into()),
        ("Size", size.into()),
    ])
}

/// Cuts a text to a number of characters, the last one being `…`.
fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_commands_end_in_dots() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("äbcd", 3), "äb…");
    }
}
