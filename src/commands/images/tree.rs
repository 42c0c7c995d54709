//! `rbuild images --tree`: what is behind each name.

use std::collections::BTreeSet;

use rbuild_builder::image::{Variant, variants};
use rbuild_cache::{Digest, ImageEntry, Store};

use crate::commands::lookup::{familiar, short_id};
use crate::failure::Failure;
use crate::ui::{table, units};

/// Lays out the tree of the images: a line for each name, and below the last name of an image one
/// for each platform that its index has. `used`: IDs of images that containers use.
pub(super) fn render(
    store: &Store,
    entries: &[&ImageEntry],
    used: &BTreeSet<String>,
    whole_ids: bool,
) -> Result<String, Failure> {
    let mut lines = vec!["IMAGE\tID\tDISK USAGE\tCONTENT SIZE\tEXTRA".to_owned()];
    for entry in entries {
        let images = variants(store, &entry.record)?;
        let rows: Vec<Row> = images.iter().map(|one| Row::of(one, used)).collect();
        let mut names: Vec<String> = entry.names.iter().map(|name| familiar(name)).collect();
        let last = names.pop().unwrap_or_else(|| "<untagged>".to_owned());
        lines.extend(names.into_iter().map(|name| format!("{name}\t\t\t\t")));
        let all = Row {
            id: entry.record.config,
            disk: rows.iter().map(|row| row.disk).sum(),
            content: rows.iter().map(|row| row.content).sum(),
            used: rows.iter().any(|row| row.used),
        };
        lines.push(all.line(&last, whole_ids));
        // One that no index leads to is the image itself.
        let alone = images
            .iter()
            .all(|one| one.descriptor.digest == entry.record.manifest);
        if alone {
            continue;
        }
        for (number, (row, image)) in rows.iter().zip(&images).enumerate() {
            let branch = if number + 1 == rows.len() {
                "└─"
            } else {
                "├─"
            };
            let name = format!("{branch} {}", image.platform.text());
            lines.push(row.line(&name, whole_ids));
        }
    }
    Ok(table::columns(lines.iter().map(String::as_str)))
}

/// What is told of an image.
struct Row {
    id: Digest,
    /// Bytes of its files and blobs.
    disk: u64,
    /// Bytes of its blobs.
    content: u64,
    /// A container uses it.
    used: bool,
}

impl Row {
    fn of(image: &Variant, used: &BTreeSet<String>) -> Row {
        let record = image.record.as_ref();
        Row {
            id: image.descriptor.digest,
            disk: record.map_or(0, |record| record.size) + image.content,
            content: image.content,
            used: record.is_some_and(|record| used.contains(&record.config.to_string())),
        }
    }

    fn line(&self, name: &str, whole_ids: bool) -> String {
        let id = if whole_ids {
            self.id.to_string()
        } else {
            short_id(&self.id)
        };
        format!(
            "{name}\t{id}\t{}\t{}\t{}",
            units::exact_size(self.disk),
            units::exact_size(self.content),
            if self.used { "U" } else { "" }
        )
    }
}
