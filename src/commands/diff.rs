//! `rbuild diff`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use rbuild_builder::image::ImageConfig;
use rbuild_cache::{FileKind, RootView, Store, ViewEntry};
use serde::Serialize;
use serde_json::Value;

use super::lookup;
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::inventory::{Unpacked, content, entries};
use crate::ui::{self, control::visible, units};

/// Show how two images differ, or what a container changed
///
/// Of a container: paths that it added (A), changed (C) or deleted (D), without what is mounted in it. Of
/// two images: files by path with what differs of them (type, mode, owner, size, content); their times are not
/// compared unless `--times` is given.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rbuild diff [OPTIONS] IMAGE1 IMAGE2\n       rbuild diff CONTAINER",
    after_help = "Examples:
  rbuild diff web
  rbuild diff app:1 app:2
  rbuild diff --summary app:1 app:2
  rbuild diff --format json app:1 app:2

Exit status: 0 when nothing differs, 1 when something does or could not be compared, 2 for a wrong
command line. Of a container 0."
)]
pub(crate) struct DiffArgs {
    /// Name or ID of the first image, or of a container
    #[arg(value_name = "IMAGE1|CONTAINER")]
    first: String,
    /// Name or ID of the second image
    #[arg(value_name = "IMAGE2")]
    second: Option<String>,
    /// Count the files instead of listing them
    #[arg(long)]
    summary: bool,
    /// Compare times of files, too
    #[arg(long)]
    times: bool,
    /// Write `json` for programs
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"], hide_possible_values = true)]
    format: Option<String>,
}

/// How two images differ.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Differences {
    /// Layers that both have, from the bottom.
    shared_layers: usize,
    layers: (usize, usize),
    config: Vec<ConfigChange>,
    added: Vec<File>,
    removed: Vec<File>,
    changed: Vec<Changed>,
}

/// A setting that differs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigChange {
    setting: String,
    first: Value,
    second: Value,
}

/// A file that only one image has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct File {
    path: PathBuf,
    size: u64,
}

/// A file that both have, and what of it differs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    path: PathBuf,
    what: Vec<String>,
}

impl Differences {
    fn is_empty(&self) -> bool {
        self.config.is_empty()
            && self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
    }
}

/// Compares.
pub(crate) fn run(settings: &Settings, args: &DiffArgs) -> Result<u8, Failure> {
    let Some(second) = &args.second else {
        let container = super::containers::containers(settings)?.find(&args.first)?;
        return super::containers::changes::run(&container).map(|()| 0);
    };
    let store = super::open_store(settings)?;
    let unpacked = |name: &str| unpacked(&store, name);
    let (first, second) = (unpacked(&args.first)?, unpacked(second)?);
    let differences = compare(&first, &second, args.times)?;
    match args.format.as_deref() {
        Some("json") => ui::print(&ui::to_json(&differences))?,
        _ => ui::print(&text(&differences, args.summary))?,
    }
    Ok(if differences.is_empty() {
        0
    } else {
        status::ERROR
    })
}

fn unpacked(store: &Store, name: &str) -> Result<Unpacked, Failure> {
    Unpacked::new(store, &lookup::require(store, name)?)
}

fn compare(first: &Unpacked, second: &Unpacked, times: bool) -> Result<Differences, Failure> {
    let shared = first
        .layers
        .iter()
        .zip(&second.layers)
        .take_while(|(a, b)| a.diff_id() == b.diff_id())
        .count();
    let mut differences = Differences {
        shared_layers: shared,
        layers: (first.layers.len(), second.layers.len()),
        config: config_changes(&first.config, &second.config),
        ..Differences::default()
    };
    let views = (RootView::new(&first.layers), RootView::new(&second.layers));
    let (old, new) = (entries(&views.0)?, entries(&views.1)?);
    let file = |path: &Path, entry: &ViewEntry| File {
        path: path.to_path_buf(),
        size: content(entry),
    };
    for (path, entry) in &old {
        let Some(other) = new.get(path) else {
            differences.removed.push(file(path, entry));
            continue;
        };
        // The same layer gives the same file.
        let source = |image: &Unpacked, entry: &ViewEntry| {
            image.layers.get(entry.source).map(|layer| *layer.diff_id())
        };
        let same_layer = source(first, entry).is_some()
            && source(first, entry) == source(second, other)
            && !entry.is_directory();
        if same_layer {
            continue;
        }
        let mut what = metadata_changes(entry, other, times);
        let same_size = entry.metadata.size == other.metadata.size;
        if entry.metadata.kind == FileKind::File && other.metadata.kind == FileKind::File {
            if !same_size {
                let (a, b) = (units::size(content(entry)), units::size(content(other)));
                what.push(format!("size {a} → {b}"));
            } else if !same_content(&views, entry, other)? {
                what.push("content".to_owned());
            }
        }
        if !what.is_empty() {
            let path = path.clone();
            differences.changed.push(Changed { path, what });
        }
    }
    for (path, entry) in new.iter().filter(|(path, _)| !old.contains_key(*path)) {
        differences.added.push(file(path, entry));
    }
    Ok(differences)
}

fn metadata_changes(a: &ViewEntry, b: &ViewEntry, times: bool) -> Vec<String> {
    let mut what = Vec::new();
    let (old, new) = (&a.metadata, &b.metadata);
    if old.kind != new.kind {
        what.push(format!("{} → {}", kind(old.kind), kind(new.kind)));
    }
    if old.mode & 0o7777 != new.mode & 0o7777 {
        what.push(format!(
            "mode {:04o} → {:04o}",
            old.mode & 0o7777,
            new.mode & 0o7777
        ));
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        what.push(format!(
            "owner {}:{} → {}:{}",
            old.uid, old.gid, new.uid, new.gid
        ));
    }
    if a.link_target != b.link_target {
        let target = |entry: &ViewEntry| {
            let target = entry.link_target.clone().unwrap_or_default();
            target.to_string_lossy().into_owned()
        };
        what.push(format!("target {} → {}", target(a), target(b)));
    }
    if times && old.mtime != new.mtime {
        what.push("time".to_owned());
    }
    what
}

fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "link",
        _ => "special file",
    }
}

fn same_content(
    views: &(RootView, RootView),
    a: &ViewEntry,
    b: &ViewEntry,
) -> Result<bool, Failure> {
    let (mut a, mut b) = (views.0.open(a)?, views.1.open(b)?);
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let count = a.read(&mut left)?;
        if count == 0 {
            return Ok(b.read(&mut right)? == 0);
        }
        if b.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

/// Settings of the config that differ; what only tells of the making is left out.
fn config_changes(first: &ImageConfig, second: &ImageConfig) -> Vec<ConfigChange> {
    let document = |config: &ImageConfig| -> BTreeMap<String, Value> {
        let mut found = BTreeMap::new();
        let Ok(Value::Object(top)) = serde_json::from_slice(&config.to_bytes()) else {
            return found;
        };
        for (name, value) in top {
            match (name.as_str(), value) {
                ("created" | "history" | "rootfs" | "moby.buildkit.cache.v0", _) => {}
                ("config", Value::Object(inner)) => found.extend(inner),
                (_, value) => {
                    found.insert(name, value);
                }
            }
        }
        found
    };
    let (old, new) = (document(first), document(second));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |map: &BTreeMap<String, Value>, name: &String| {
        map.get(name).cloned().unwrap_or(Value::Null)
    };
    names
        .into_iter()
        .filter(|name| value(&old, name) != value(&new, name))
        .map(|name| ConfigChange {
            setting: name.clone(),
            first: value(&old, name),
            second: value(&new, name),
        })
        .collect()
}

fn text(differences: &Differences, summary: bool) -> String {
    let (a, b) = differences.layers;
    let mut text = format!(
        "layers: {} shared, then {} and {} of their own\n",
        differences.shared_layers,
        a - differences.shared_layers,
        b - differences.shared_layers
    );
    for change in &differences.config {
        let _ = writeln!(
            text,
            "{}: {} → {}",
            visible(&change.setting),
            visible(&change.first.to_string()),
            visible(&change.second.to_string())
        );
    }
    let bytes = |files: &[File]| units::size(files.iter().map(|file| file.size).sum());
    let _ = writeln!(
        text,
        "files: {} added ({}), {} removed ({}), {} changed",
        differences.added.len(),
        bytes(&differences.added),
        differences.removed.len(),
        bytes(&differences.removed),
        differences.changed.len()
    );
    if summary {
        return text;
    }
    let mut lines: Vec<(&Path, String)> = Vec::new();
    let shown = |path: &Path| format!("/{}", visible(&path.to_string_lossy()));
    for (mark, files) in [("+", &differences.added), ("-", &differences.removed)] {
        for file in files {
            let (path, size) = (shown(&file.path), units::size(file.size));
            lines.push((&file.path, format!("{mark} {path}  {size}\n")));
        }
    }
    for changed in &differences.changed {
        let what = visible(&changed.what.join(", "));
        lines.push((
            &changed.path,
            format!("~ {}  {what}\n", shown(&changed.path)),
        ));
    }
    lines.sort_by_key(|(path, _)| *path);
    for (_, line) in &lines {
        text.push_str(line);
    }
    text
}
