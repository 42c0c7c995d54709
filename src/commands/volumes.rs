//! `rbuild volume …`, and what containers have to do with volumes.

mod filter;
mod remove;

use std::collections::BTreeMap;

use rbuild_cache::{Store, Volume};
use rbuild_runtime::container::Containers;

use super::containers::containers;
use super::run::RunArgs;
use crate::config::Settings;
use crate::container::Options;
use crate::container::details::{Details, MountKind};
use crate::container::mounts::{
    InsertPair as _, StoredVolume, Volume as Mount, VolumeKind, unknown_driver, volume_name,
};
use crate::container::volumes::{check_options, new_record};
use crate::events::{self, Event};
use crate::failure::{Failure, status};
use crate::format::{Method, NilKind, Template, Value};
use crate::ui::listing::Listing;
use crate::ui::{self, units};
use filter::Filters;

pub(crate) use remove::{PruneArgs, RemoveArgs, prune, prune_all, remove, remove_anonymous};

/// Make a volume
///
/// Prints its name. One that is there already stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild volume create data
  rbuild volume create -o type=tmpfs -o o=size=64m scratch
  rbuild volume create -o type=none -o o=bind -o device=/srv/data data")]
pub(crate) struct CreateArgs {
    /// Name [default: one is made up]
    name: Option<String>,
    /// Driver; there is only `local`
    #[arg(
        short,
        long,
        value_name = "DRIVER",
        default_value = "local",
        hide_default_value = true
    )]
    driver: String,
    /// Set a label
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Set an option: `type=tmpfs`, or `type=none` with `o=bind` and `device=DIR`
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
}

/// Show all about volumes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild volume inspect data
  rbuild volume inspect -f '{{.Mountpoint}}' data")]
pub(crate) struct InspectArgs {
    /// Names
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,
    /// Show each by a Go template, or `json`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// List volumes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild volume ls
  rbuild volume ls -q -f dangling=true

Placeholders of --format: .Name .Driver .Scope .Mountpoint .Labels .Links .Size")]
pub(crate) struct ListArgs {
    /// Show only names
    #[arg(short, long)]
    quiet: bool,
    /// Show only what meets a condition: name=, label=, driver=, dangling=true (no container uses it)
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Show each by a Go template, `table TEMPLATE` or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(crate) const HEADERS: &[(&str, &str)] = &[
    ("Availability", "AVAILABILITY"),
    ("Driver", "DRIVER"),
    ("Group", "GROUP"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];

/// Makes a volume.
pub(crate) fn create(settings: &Settings, args: &CreateArgs) -> Result<(), Failure> {
    if args.driver != "local" {
        return Err(unknown_driver(&args.driver));
    }
    let name = args.name.as_deref().map(volume_name).transpose()?;
    let mut record = new_record(name)?;
    for label in &args.label {
        record.labels.insert_pair(label);
    }
    for option in &args.opt {
        record.options.insert_pair(option);
    }
    check_options(&record.options)?;
    let store = super::open_store(settings)?;
    let (volume, made) = store.create_volume(&record)?;
    if !made && !record.options.is_empty() && volume.record.options != record.options {
        return Err(Failure::new(format!(
            "the volume {} is there already, with other options",
            record.name
        ))
        .hint("`rbuild volume inspect` shows them; `rbuild volume rm` removes it"));
    }
    if made {
        events::note(settings, || Event::volume("create", &volume.record.name));
    }
    ui::println(&volume.record.name)
}

/// Shows volumes; goes on after errors.
pub(crate) fn inspect(settings: &Settings, args: &InspectArgs) -> Result<u8, Failure> {
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let store = super::open_store(settings)?;
    let (mut objects, mut lines) = (Vec::new(), String::new());
    let mut result = 0;
    for name in &args.volumes {
        let Some(volume) = store.volume(name)? else {
            let failure = Failure::new(format!("No such volume: {name}"));
            ui::fail(&settings.palette, "Error:", &failure);
            result = status::ERROR;
            continue;
        };
        match &template {
            Some(template) => lines.push_str(&(template.render(&describe(&volume))? + "\n")),
            None => objects.push(describe(&volume)),
        }
    }
    match (&template, args.format.as_deref()) {
        (Some(_), _) => ui::print(&lines)?,
        (None, Some("json")) => ui::println(&Value::List(objects).to_json())?,
        (None, _) => ui::println(&Value::List(objects).to_pretty_json())?,
    }
    Ok(result)
}

fn describe(volume: &Volume) -> Value {
    let record = &volume.record;
    let map = |map: &BTreeMap<String, String>| {
        let entries = map.iter();
        let entries: BTreeMap<String, Value> = entries
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        if entries.is_empty() {
            Value::Nil(NilKind::Map)
        } else {
            Value::Map(entries)
        }
    };
    Value::Struct(vec![
        ("CreatedAt", record.created.clone().into()),
        ("Driver", "local".into()),
        ("Labels", map(&record.labels)),
        ("Mountpoint", volume.data().display().to_string().into()),
        ("Name", record.name.clone().into()),
        ("Options", map(&record.options)),
        ("Scope", "local".into()),
    ])
}

/// Lists volumes.
pub(crate) fn list(settings: &Settings, args: &ListArgs) -> Result<(), Failure> {
    let filters = Filters::of_list(&args.filter)?;
    let store = super::open_store(settings)?;
    let used = Users::new(&containers(settings)?)?;
    let listing = Listing {
        headers: HEADERS,
        table: "{{.Driver}}\t{{.Name}}",
        format: match &args.format {
            None if args.quiet => Some("{{.Name}}"),
            format => format.as_deref(),
        },
    };
    let sizes = args
        .format
        .as_deref()
        .is_some_and(|format| format.contains(".Size") || format == "json");
    let rows: Vec<Value> = all(settings, &store)?
        .iter()
        .filter(|volume| filters.accept(volume, &used))
        .map(|volume| row(volume, &used, sizes))
        .collect();
    ui::print(&listing.render(&rows)?)
}

/// All volumes; of one that cannot be read is told.
pub(crate) fn all(settings: &Settings, store: &Store) -> Result<Vec<Volume>, Failure> {
    let (volumes, wrong) = store.volumes()?;
    for error in wrong {
        let failure = Failure::from(error);
        ui::warn(&settings.palette, &failure.message.unwrap_or_default());
    }
    Ok(volumes)
}

/// Every volume, with its size.
pub(crate) fn all_rows(settings: &Settings, store: &Store) -> Result<Vec<Value>, Failure> {
    let used = Users::new(&super::containers::containers(settings)?)?;
    let volumes = all(settings, store)?;
    Ok(volumes
        .iter()
        .map(|volume| row(volume, &used, true))
        .collect())
}

fn row(volume: &Volume, used: &Users, sizes: bool) -> Value {
    let record = &volume.record;
    let labels: Vec<String> = record
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let size = if sizes {
        units::size(volume.size())
    } else {
        "N/A".to_owned()
    };
    Value::Struct(vec![
        ("Availability", "N/A".into()),
        ("Driver", "local".into()),
        ("Group", "N/A".into()),
        ("Labels", labels.join(",").into()),
        ("Label", Value::Method(Method::Label(record.labels.clone()))),
        ("Links", used.of(&record.name).len().to_string().into()),
        ("Mountpoint", volume.data().display().to_string().into()),
        ("Name", record.name.clone().into()),
        ("Scope", "local".into()),
        ("Size", size.into()),
        ("Status", "N/A".into()),
    ])
}

/// Which listed containers use which volumes.
pub(crate) struct Users(BTreeMap<String, Vec<String>>);

impl Users {
    /// Reads the configs of all containers.
    pub(crate) fn new(containers: &Containers) -> Result<Users, Failure> {
        let mut users = BTreeMap::<String, Vec<String>>::new();
        for container in containers.list()? {
            for volume in Details::of(&container).volumes() {
                let ids = users.entry(volume.to_owned()).or_default();
                if !ids.contains(&container.config.id) {
                    ids.push(container.config.id.clone());
                }
            }
        }
        Ok(Users(users))
    }

    /// IDs of the containers that use a volume.
    pub(crate) fn of(&self, volume: &str) -> &[String] {
        self.0.get(volume).map_or(&[], Vec::as_slice)
    }
}

/// `--volumes-from`: mounts what other containers have, where nothing else was asked for.
pub(crate) fn take_over(
    settings: &Settings,
    args: &RunArgs,
    options: &mut Options,
) -> Result<(), Failure> {
    for from in &args.volumes_from {
        let (query, mode) = from.split_once(':').unwrap_or((from, "rw"));
        let readonly = match mode {
            "ro" => true,
            "rw" | "z" | "Z" => false,
            other => {
                return Err(Failure::new(format!(
                    "invalid mode {other:?} in `--volumes-from {from}`: it is `ro` or `rw`"
                )));
            }
        };
        let container = containers(settings)?.find(query)?;
        for point in Details::of(&container).mounts {
            let kind = match point.kind {
                MountKind::Volume => VolumeKind::Stored(StoredVolume {
                    name: Some(point.name),
                    // What there was to be copied has been when the other container was made.
                    nocopy: true,
                    ..StoredVolume::default()
                }),
                MountKind::Bind => VolumeKind::Bind {
                    source: point.source.into(),
                    create: false,
                    recursive: true,
                },
                // What is in memory belongs to one container; an image can be named.
                MountKind::Tmpfs | MountKind::Image => continue,
            };
            let taken = options.volumes.iter();
            if taken.clone().any(|volume| volume.target == point.target) {
                continue;
            }
            options.volumes.push(Mount {
                target: point.target,
                kind,
                readonly: readonly || !point.writable,
            });
        }
    }
    Ok(())
}
