//! `rbuild network …`.

mod connect;
mod create;
mod describe;
mod filter;
mod remove;

use rbuild_runtime::networks::{NetworkConfig, NetworkError, Networks, PREDEFINED, predefined_id};

use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::format::{Method, Template, Value};
use crate::ui::listing::Listing;
use crate::ui::{self};
use filter::Filters;

pub(crate) use connect::{ConnectArgs, DisconnectArgs, connect, disconnect};
pub(crate) use create::{CreateArgs, create};
pub(crate) use remove::{PruneArgs, RemoveArgs, prune, prune_all, remove};

/// Show all about networks
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild network inspect back
  rbuild network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' back")]
pub(crate) struct InspectArgs {
    /// Names or IDs
    #[arg(value_name = "NETWORK", required = true)]
    networks: Vec<String>,
    /// Show each by a Go template, or `json`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show more; all there is is always shown
    #[arg(short, long, hide = true)]
    verbose: bool,
}

/// List networks
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild network ls
  rbuild network ls -q -f driver=bridge

Placeholders of --format: .ID .Name .Driver .Scope .IPv6 .Internal .Labels .CreatedAt")]
pub(crate) struct ListArgs {
    /// Show only IDs
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Show only what meets a condition: id=, name=, label=, driver=, scope=, type=custom|builtin,
    /// dangling=true (no container is in it)
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Show each by a Go template, `table TEMPLATE` or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const HEADERS: &[(&str, &str)] = &[
    ("CreatedAt", "CREATED AT"),
    ("Driver", "DRIVER"),
    ("ID", "NETWORK ID"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("Name", "NAME"),
    ("Scope", "SCOPE"),
];

/// The networks of the store.
pub(crate) fn networks(settings: &Settings) -> Result<Networks, Failure> {
    let root = settings.store_root()?.join("networks");
    Ok(Networks::new(root, settings.state_dir()?))
}

/// A network as lists and `inspect` have it: one that a user made, or one that is always there.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    Made(Box<NetworkConfig>),
    Predefined(&'static str),
}

impl Known {
    fn name(&self) -> &str {
        match self {
            Known::Made(network) => &network.name,
            Known::Predefined(name) => name,
        }
    }

    fn id(&self) -> String {
        match self {
            Known::Made(network) => network.lan.id.clone(),
            Known::Predefined(name) => predefined_id(name),
        }
    }

    fn driver(&self) -> &str {
        match self {
            Known::Made(network) => network.driver(),
            // Docker's word for it.
            Known::Predefined("none") => "null",
            Known::Predefined(name) => name,
        }
    }

    fn made(&self) -> Option<&NetworkConfig> {
        match self {
            Known::Made(network) => Some(network),
            Known::Predefined(_) => None,
        }
    }
}

/// All networks, by name.
fn all(networks: &Networks) -> Result<Vec<Known>, Failure> {
    let made = networks.list()?.into_iter();
    let mut all: Vec<Known> = made.map(|network| Known::Made(Box::new(network))).collect();
    all.extend(PREDEFINED.map(Known::Predefined));
    all.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(all)
}

/// The network with this name, ID or beginning of an ID.
fn find(networks: &Networks, query: &str) -> Result<Known, NetworkError> {
    let predefined = PREDEFINED
        .into_iter()
        .find(|name| *name == query || (query.len() > 4 && predefined_id(name).starts_with(query)));
    match predefined {
        Some(name) => Ok(Known::Predefined(name)),
        None => Ok(Known::Made(Box::new(networks.find(query)?))),
    }
}

/// Lists networks.
pub(crate) fn list(settings: &Settings, args: &ListArgs) -> Result<(), Failure> {
    let networks = networks(settings)?;
    let filters = Filters::of_list(&args.filter)?;
    let listing = Listing {
        headers: HEADERS,
        table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
        format: match &args.format {
            None if args.quiet => Some("{{.ID}}"),
            format => format.as_deref(),
        },
    };
    let rows: Vec<Value> = all(&networks)?
        .iter()
        .filter(|network| filters.accept(&networks, network))
        .map(|network| row(network, args.no_trunc))
        .collect();
    ui::print(&listing.render(&rows)?)
}

fn row(network: &Known, whole: bool) -> Value {
    let made = network.made();
    let labels = made.map(|network| network.labels.iter());
    let labels: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut id = network.id();
    if !whole {
        id.truncate(12);
    }
    let internal = made.is_some_and(|network| network.lan.internal);
    let created = made.map_or_else(String::new, |network| network.created.clone());
    let by_name = made.map(|network| network.labels.clone());
    Value::Struct(vec![
        ("CreatedAt", created.into()),
        ("Driver", network.driver().into()),
        ("ID", id.into()),
        ("IPv6", "false".into()),
        ("Internal", internal.to_string().into()),
        ("Labels", labels.join(",").into()),
        (
            "Label",
            Value::Method(Method::Label(by_name.unwrap_or_default())),
        ),
        ("Name", network.name().into()),
        ("Scope", "local".into()),
    ])
}

/// Shows networks; goes on after errors.
pub(crate) fn inspect(settings: &Settings, args: &InspectArgs) -> Result<u8, Failure> {
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let networks = networks(settings)?;
    let (mut objects, mut lines) = (Vec::new(), String::new());
    let mut result = 0;
    for query in &args.networks {
        let network = match find(&networks, query) {
            Ok(network) => network,
            Err(error) => {
                ui::fail(&settings.palette, "Error:", &error.into());
                result = status::ERROR;
                continue;
            }
        };
        let object = describe::describe(settings, &networks, &network)?;
        match &template {
            Some(template) => lines.push_str(&(template.render(&object)? + "\n")),
            None => objects.push(object),
        }
    }
    match (&template, args.format.as_deref()) {
        (Some(_), _) => ui::print(&lines)?,
        (None, Some("json")) => ui::println(&Value::List(objects).to_json())?,
        (None, _) => ui::println(&Value::List(objects).to_pretty_json())?,
    }
    Ok(result)
}
