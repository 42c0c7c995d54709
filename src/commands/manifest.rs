//! `rbuild manifest`: lists of manifests that are put together here and pushed as an index.
//!
//! A list that is not pushed yet is a memo of the store under its name.

use rbuild_builder::image::{Combined, DescriptorPlatform, Part};
use rbuild_cache::Store;
use rbuild_parser::ImageReference;
use serde::{Deserialize, Serialize};

use super::imagetools::{self, InspectArgs, parse};
use crate::config::Settings;
use crate::failure::Failure;
use crate::registries::{RegistryArgs, client, registry_failure};
use crate::ui;

/// Largest list that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Begin a list of images of a registry that shall have one name
///
/// The list stays here until it is pushed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild manifest create r.example/app:1 r.example/app:1-amd64 r.example/app:1-arm64")]
pub(crate) struct CreateArgs {
    /// The new name
    #[arg(value_name = "LIST")]
    list: String,
    /// Names of images in registries
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Change a list that is there
    #[arg(short, long)]
    amend: bool,
    #[command(flatten)]
    registries: RegistryArgs,
}

/// Say what platform an image of a list is for
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild manifest annotate --arch arm64 r.example/app:1 r.example/app:1-arm64")]
pub(crate) struct AnnotateArgs {
    /// The list
    #[arg(value_name = "LIST")]
    list: String,
    /// The image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Architecture
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Operating system
    #[arg(long, value_name = "OS")]
    os: Option<String>,
    /// Version of the operating system
    #[arg(long, value_name = "VERSION")]
    os_version: Option<String>,
    /// What the operating system must be able to do, e.g. `win32k`
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    os_features: Vec<String>,
    /// Variant of the architecture
    #[arg(long, value_name = "VARIANT")]
    variant: Option<String>,
}

/// Push a list as an index
///
/// What the registry of the list lacks is mounted or copied.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild manifest push r.example/app:1")]
pub(crate) struct PushArgs {
    /// The list
    #[arg(value_name = "LIST")]
    list: String,
    /// Forget the list afterwards
    #[arg(short, long)]
    purge: bool,
    #[command(flatten)]
    registries: RegistryArgs,
}

/// Forget lists
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild manifest rm r.example/app:1")]
pub(crate) struct RmArgs {
    /// The lists
    #[arg(value_name = "LIST", required = true)]
    lists: Vec<String>,
}

/// A list that is not pushed yet.
#[derive(Debug, Default, Serialize, Deserialize)]
struct List {
    entries: Vec<Entry>,
}

/// An image of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    image: String,
    #[serde(default)]
    platform: Platform,
}

/// What was said of an image's platform.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Platform {
    architecture: Option<String>,
    os: Option<String>,
    os_version: Option<String>,
    #[serde(default)]
    os_features: Vec<String>,
    variant: Option<String>,
}

fn memo(name: &ImageReference) -> String {
    format!("manifest list {}", name.canonical())
}

fn read(store: &Store, name: &ImageReference) -> Result<Option<List>, Failure> {
    let path = store.memo_path(&memo(name));
    match std::fs::metadata(&path) {
        Ok(found) if found.len() > LARGEST => Err(Failure::new("the list is too large")),
        Ok(_) => Ok(Some(
            serde_json::from_slice(&std::fs::read(&path)?).map_err(|error| {
                Failure::new(format!("could not read {}", memo(name))).because(&error)
            })?,
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn write(store: &Store, name: &ImageReference, list: &List) -> Result<(), Failure> {
    let text = serde_json::to_vec(list)
        .map_err(|error| Failure::new("could not write the list").because(&error))?;
    Ok(store.write_memo(&memo(name), &text)?)
}

fn existing(store: &Store, name: &ImageReference) -> Result<List, Failure> {
    let none = || {
        Failure::new(format!("No such manifest: {}", name.canonical()))
            .hint("begin one with `rbuild manifest create LIST IMAGE…`")
    };
    read(store, name)?.ok_or_else(none)
}

/// Begins a list, or adds to it.
pub(crate) fn create(settings: &Settings, args: &CreateArgs) -> Result<(), Failure> {
    let name = parse(&args.list)?;
    let store = super::open_store(settings)?;
    let mut list = match read(&store, &name)? {
        Some(_) if !args.amend => {
            return Err(Failure::new(format!(
                "manifest list {} is there already",
                name.canonical()
            ))
            .hint("change it with `--amend`, or forget it with `rbuild manifest rm`"));
        }
        found => found.unwrap_or_default(),
    };
    let client = client(settings, &args.registries, |_| Ok(()))?;
    for image in &args.images {
        let image = parse(image)?;
        // That it is there is found out now, and not when everything is to go out.
        rbuild_builder::image::remote_document(&client, &image)
            .map_err(|error| registry_failure(&error))?;
        let image = image.canonical();
        list.entries.retain(|entry| entry.image != image);
        list.entries.push(Entry {
            image,
            platform: Platform::default(),
        });
    }
    write(&store, &name, &list)?;
    ui::println(&format!("Created manifest list {}", name.canonical()))
}

/// Changes the platform of an image.
pub(crate) fn annotate(settings: &Settings, args: &AnnotateArgs) -> Result<(), Failure> {
    let (name, image) = (parse(&args.list)?, parse(&args.image)?.canonical());
    let store = super::open_store(settings)?;
    let mut list = existing(&store, &name)?;
    let entry = list.entries.iter_mut().find(|entry| entry.image == image);
    let entry = entry.ok_or_else(|| {
        Failure::new(format!("{} has no image {image}", name.canonical()))
            .hint("add it with `rbuild manifest create --amend`")
    })?;
    let known = std::mem::take(&mut entry.platform);
    entry.platform = Platform {
        architecture: args.arch.clone().or(known.architecture),
        os: args.os.clone().or(known.os),
        os_version: args.os_version.clone().or(known.os_version),
        os_features: if args.os_features.is_empty() {
            known.os_features
        } else {
            args.os_features.clone()
        },
        variant: args.variant.clone().or(known.variant),
    };
    write(&store, &name, &list)
}

/// Pushes a list.
pub(crate) fn push(settings: &Settings, args: &PushArgs) -> Result<(), Failure> {
    let name = parse(&args.list)?;
    let store = super::open_store(settings)?;
    let list = existing(&store, &name)?;
    let client = client(settings, &args.registries, |_| Ok(()))?;
    let combined = combine(&store, &client, &list)?;
    combined
        .push(&store, &client, std::slice::from_ref(&name))
        .map_err(|error| registry_failure(&error))?;
    if args.purge {
        forget(&store, &name)?;
    }
    ui::println(&combined.top.digest.to_string())
}

fn combine(
    store: &Store,
    client: &rbuild_registry::Client,
    list: &List,
) -> Result<Combined, Failure> {
    let mut parts = Vec::new();
    for entry in &list.entries {
        parts.push(Part {
            name: parse(&entry.image)?,
            change: change(&entry.platform),
        });
    }
    Combined::of_parts(store, client, &parts, true).map_err(|error| registry_failure(&error))
}

/// Puts what was said in place of what the image says.
fn change(said: &Platform) -> impl Fn(&mut DescriptorPlatform) + 'static {
    let said = said.clone();
    move |platform| {
        let set = |field: &mut String, said: &Option<String>| {
            if let Some(said) = said {
                field.clone_from(said);
            }
        };
        set(&mut platform.architecture, &said.architecture);
        set(&mut platform.os, &said.os);
        platform.os_version = said.os_version.clone().or(platform.os_version.take());
        if !said.os_features.is_empty() {
            platform.os_features.clone_from(&said.os_features);
        }
        platform.variant = said.variant.clone().or(platform.variant.take());
    }
}

/// Shows a list of ours, or what a name in a registry points to.
pub(crate) fn inspect(settings: &Settings, args: &InspectArgs) -> Result<(), Failure> {
    let name = parse(&args.image)?;
    let store = super::open_store(settings)?;
    let Some(list) = read(&store, &name)? else {
        return imagetools::inspect(settings, args, true);
    };
    let client = client(settings, &args.registries, |_| Ok(()))?;
    let combined = combine(&store, &client, &list)?;
    ui::print(&String::from_utf8_lossy(&combined.bytes))
}

/// Forgets lists.
pub(crate) fn rm(settings: &Settings, args: &RmArgs) -> Result<(), Failure> {
    let store = super::open_store(settings)?;
    for list in &args.lists {
        let name = parse(list)?;
        existing(&store, &name)?;
        forget(&store, &name)?;
    }
    Ok(())
}

fn forget(store: &Store, name: &ImageReference) -> Result<(), Failure> {
    Ok(std::fs::remove_file(store.memo_path(&memo(name)))?)
}
