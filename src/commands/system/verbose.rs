//! `rbuild system df -v`: every image, container, volume and item of the build cache.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rbuild_cache::UsageItem;

use crate::commands::{containers, du, images, volumes};
use crate::config::Settings;
use crate::container::details::Details;
use crate::failure::Failure;
use crate::format::{Template, Value};
use crate::ui::listing::Listing;
use crate::ui::{self, units};

const CACHE: &[(&str, &str)] = &[
    ("Description", "DESCRIPTION"),
    ("ID", "CACHE ID"),
    ("LastUsedSince", "LAST USED"),
    ("Shared", "SHARED"),
    ("Size", "SIZE"),
    ("Type", "CACHE TYPE"),
];

/// Shows everything; with a format all of it as one object.
pub(super) fn show(settings: &Settings, format: Option<&str>) -> Result<(), Failure> {
    let store = crate::commands::open_store(settings)?;
    let now = Timestamp::now();
    let images = images::all_rows(&store, &users(settings)?)?;
    let containers = containers::ps::all_rows(settings)?;
    let volumes = volumes::all_rows(settings, &store)?;
    let items: Vec<UsageItem> = super::cache_items(&store)?;
    let cache: Vec<Value> = items.iter().map(|item| du::row(item, now)).collect();
    match format {
        None | Some("" | "table") => {}
        Some(format) => {
            let all = Value::Struct(vec![
                ("BuildCache", Value::List(cache)),
                ("Containers", Value::List(containers)),
                ("Images", Value::List(images)),
                ("Volumes", Value::List(volumes)),
            ]);
            return match format {
                "json" => ui::println(&all.to_json()),
                template => ui::println(&Template::parse(template)?.render(&all)?),
            };
        }
    }
    let table = |headers, table, rows: &[Value]| {
        let listing = Listing {
            headers,
            table,
            format: None,
        };
        listing.render(rows)
    };
    ui::print(&format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\n\
         Build cache usage: {}\n\n{}",
        table(
            images::HEADERS,
            "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t\
             {{.UniqueSize}}\t{{.Containers}}",
            &images
        )?,
        table(
            containers::ps::HEADERS,
            "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t\
             {{.Status}}\t{{.Names}}",
            &containers
        )?,
        table(
            volumes::HEADERS,
            "{{.Name}}\t{{.Links}}\t{{.Size}}",
            &volumes
        )?,
        units::exact_size(items.iter().map(|item| item.size).sum()),
        table(
            CACHE,
            "{{.ID}}\t{{.Type}}\t{{.Size}}\t{{.LastUsedSince}}\t{{.Shared}}\t{{.Description}}",
            &cache
        )?,
    ))
}

/// How many containers were made of each image, by its ID.
fn users(settings: &Settings) -> Result<BTreeMap<String, usize>, Failure> {
    let mut users = BTreeMap::new();
    for container in containers::containers(settings)?.list()? {
        *users.entry(Details::of(&container).image_id).or_default() += 1;
    }
    Ok(users)
}

/// Digests of the layers that images have, in hex.
pub(super) fn layers_of_images(images: &[rbuild_cache::ImageEntry]) -> BTreeSet<String> {
    let layers = images.iter().flat_map(|entry| &entry.record.layers);
    layers.map(|layer| layer.digest().hex()).collect()
}
