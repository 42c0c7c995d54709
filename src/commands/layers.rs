//! `rbuild layers`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rbuild_cache::{RootView, ViewEntry};
use serde::Serialize;

use super::lookup;
use crate::config::Settings;
use crate::failure::Failure;
use crate::inventory::{Unpacked, content, entries};
use crate::ui::{self, control::visible, units};

/// Show what each layer of an image added, and what was in vain
///
/// The biggest files of every layer, and the bytes that a later layer deleted or overwrote: they are
/// in the image all the same. Names the instructions to blame.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild layers app
  rbuild layers --files 20 app
  rbuild layers --format json app")]
pub(crate) struct LayersArgs {
    /// Name or ID of the image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// How many of the biggest files of each layer are shown
    #[arg(long, value_name = "N", default_value_t = 5)]
    files: usize,
    /// Write `json` for programs
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"], hide_possible_values = true)]
    format: Option<String>,
}

/// A layer.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct LayerReport {
    /// The instruction that made it.
    instruction: String,
    /// Digest of its tar.
    diff_id: String,
    /// Bytes of its files.
    size: u64,
    added: u64,
    changed: u64,
    deleted: u64,
    /// Its biggest files.
    biggest: Vec<FileReport>,
    /// Bytes of it that later layers delete or overwrite.
    wasted: u64,
}

/// A file.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileReport {
    path: PathBuf,
    size: u64,
}

/// Files of one layer that another one deletes or overwrites.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Waste {
    /// Position of the layer that has them, from 1.
    layer: usize,
    /// Position of the layer that deletes or overwrites them.
    by: usize,
    bytes: u64,
    files: u64,
    deleted: u64,
    biggest: Option<FileReport>,
}

/// All of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    layers: Vec<LayerReport>,
    waste: Vec<Waste>,
}

/// Shows the layers.
pub(crate) fn run(settings: &Settings, args: &LayersArgs) -> Result<(), Failure> {
    let store = super::open_store(settings)?;
    let found = lookup::require(&store, &args.image)?;
    let image = Unpacked::new(&store, &found)?;
    let report = analyse(&image, args.files)?;
    match args.format.as_deref() {
        Some("json") => ui::print(&ui::to_json(&report)),
        _ => ui::print(&text(&report)),
    }
}

fn analyse(image: &Unpacked, files: usize) -> Result<Report, Failure> {
    let instructions = image.instructions();
    let mut layers: Vec<LayerReport> = Vec::with_capacity(image.layers.len());
    let mut waste: BTreeMap<(usize, usize), Waste> = BTreeMap::new();
    let mut before: BTreeMap<PathBuf, ViewEntry> = BTreeMap::new();
    for (index, layer) in image.layers.iter().enumerate() {
        let now = entries(&RootView::new(&image.layers[..=index]))?;
        let mut report = LayerReport {
            instruction: instructions[index].clone(),
            diff_id: layer.diff_id().to_string(),
            size: layer.content_size(),
            ..LayerReport::default()
        };
        let mut own: Vec<FileReport> = Vec::new();
        let mut in_vain = |path: &Path, entry: &ViewEntry, deleted: bool| {
            let found = waste.entry((entry.source, index)).or_default();
            let size = content(entry);
            (found.layer, found.by) = (entry.source + 1, index + 1);
            found.bytes += size;
            found.files += 1;
            found.deleted += u64::from(deleted);
            if found.biggest.as_ref().is_none_or(|file| file.size < size) {
                let path = path.to_path_buf();
                found.biggest = Some(FileReport { path, size });
            }
        };
        for (path, entry) in now.iter().filter(|(_, entry)| entry.source == index) {
            match before.get(path) {
                None => report.added += 1,
                Some(old) => {
                    report.changed += u64::from(!entry.is_directory());
                    if content(old) > 0 {
                        in_vain(path, old, false);
                    }
                }
            }
            let size = content(entry);
            if size > 0 {
                let path = path.clone();
                own.push(FileReport { path, size });
            }
        }
        for (path, old) in before.iter().filter(|(path, _)| !now.contains_key(*path)) {
            report.deleted += 1;
            if content(old) > 0 {
                in_vain(path, old, true);
            }
        }
        own.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
        own.truncate(files);
        report.biggest = own;
        layers.push(report);
        before = now;
    }
    let mut waste: Vec<Waste> = waste.into_values().collect();
    waste.sort_by_key(|waste| std::cmp::Reverse(waste.bytes));
    for found in &waste {
        layers[found.layer - 1].wasted += found.bytes;
    }
    Ok(Report { layers, waste })
}

fn text(report: &Report) -> String {
    let total: u64 = report.layers.iter().map(|layer| layer.size).sum();
    let in_vain: u64 = report.waste.iter().map(|waste| waste.bytes).sum();
    let mut text = String::new();
    for (index, layer) in report.layers.iter().enumerate() {
        let _ = writeln!(
            text,
            "layer {:<3} {:>8}  +{} ~{} -{}  {}",
            index + 1,
            units::size(layer.size),
            layer.added,
            layer.changed,
            layer.deleted,
            instruction(&layer.instruction)
        );
        for file in &layer.biggest {
            let path = visible(&file.path.to_string_lossy());
            let _ = writeln!(text, "          {:>8}  /{path}", units::size(file.size));
        }
    }
    let _ = writeln!(
        text,
        "\n{} in {} layers, {} of it in vain",
        units::size(total),
        report.layers.len(),
        units::size(in_vain)
    );
    for waste in &report.waste {
        let what = match (waste.deleted, waste.files) {
            (0, _) => "overwritten",
            (deleted, files) if deleted == files => "deleted",
            _ => "deleted or overwritten",
        };
        let biggest = waste.biggest.as_ref().map_or(String::new(), |file| {
            format!(", such as /{}", visible(&file.path.to_string_lossy()))
        });
        let _ = writeln!(
            text,
            "  {} of layer {} are {what} in layer {}{biggest}\n    by {}",
            units::size(waste.bytes),
            waste.layer,
            waste.by,
            instruction(&report.layers[waste.by - 1].instruction)
        );
    }
    text
}

/// An instruction in one line, as it was written.
fn instruction(created_by: &str) -> String {
    const LONGEST: usize = 70;
    let text = created_by.replace(['\t', '\n'], " ");
    let text = text.strip_suffix(" # buildkit").unwrap_or(&text);
    let text = text.replace("RUN /bin/sh -c ", "RUN ");
    let text = if text.is_empty() {
        "(its instruction is not known)"
    } else {
        &text
    };
    if text.chars().count() <= LONGEST {
        return visible(text);
    }
    let cut: String = text.chars().take(LONGEST - 1).chain(['…']).collect();
    visible(&cut)
}
