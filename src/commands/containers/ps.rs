//! `rbuild ps`.

use jiff::Timestamp;
use rbuild_runtime::container::{Container, Health, HealthStatus, State, Status};

use super::filters::Filters;
use super::networking::Names;
use super::port;

use super::usage;
use crate::config::Settings;
use crate::container::details::{Details, MountKind};
use crate::failure::Failure;
use crate::format::{Method, Value};
use crate::time::{created_at, created_since, parse_created};
use crate::ui::listing::Listing;
use crate::ui::units::{self, age};
use crate::ui::{self};

/// Characters of a command that are shown.
const COMMAND: usize = 20;

/// Characters of a mount that are shown.
const MOUNT: usize = 15;

/// List containers
///
/// Those that run, the newest first; with `-a` all.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "Examples:
  rbuild ps -a
  rbuild ps -q -f status=exited

Placeholders of --format: .ID .Image .Command .CreatedAt .RunningFor .Ports .State \
.Status .Size .Names .Labels .Label \"NAME\" .Mounts .LocalVolumes .Networks .Platform")]
pub(crate) struct PsArgs {
    /// Show those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Show only IDs
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Show the newest, running or not
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// Show the newest one, running or not
    #[arg(short, long)]
    latest: bool,
    /// Show how much they have written
    #[arg(short, long)]
    size: bool,
    /// Show only what meets a condition: id=, name=, label=, status=, exited=, ancestor=, before=,
    /// since=, volume=, health=, restart-policy=, should-start-on-boot=, network=, publish=, expose=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Show each by a Go template, `table TEMPLATE` or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(crate) const HEADERS: &[(&str, &str)] = &[
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Names", "NAMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
    ("Ports", "PORTS"),
    ("RunningFor", "CREATED"),
    ("Size", "SIZE"),
    ("State", "STATE"),
    ("Status", "STATUS"),
];

/// Lists containers.
pub(crate) fn run(settings: &Settings, args: &PsArgs) -> Result<(), Failure> {
    let containers = super::containers(settings)?;
    let filters = Filters::parse(&containers, &args.filter)?;
    let last = args.last.or(args.latest.then_some(1));
    let all = args.all || last.is_some() || filters.about_state();
    let now = Timestamp::now();
    let names = Names::read(settings)?;
    let mut rows = Vec::new();
    for container in containers.list()? {
        let state = container.state()?;
        if (all || state.status.is_alive())
            && last.is_none_or(|most| rows.len() < most)
            && filters.accept(&container, &state, &names)?
        {
            rows.push(row(args, &container, &state, &names, now)?);
        }
    }
    let mut table = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t\
                     {{.Names}}"
        .to_owned();
    if args.size {
        table.push_str("\t{{.Size}}");
    }
    let listing = Listing {
        headers: HEADERS,
        table: &table,
        format: match &args.format {
            None if args.quiet => Some("{{.ID}}"),
            format => format.as_deref(),
        },
    };
    ui::print(&listing.render(&rows)?)
}

/// Every container, running or not, the newest first, with its size.
pub(crate) fn all_rows(settings: &Settings) -> Result<Vec<Value>, Failure> {
    let args = PsArgs {
        size: true,
        ..PsArgs::default()
    };
    let (now, names) = (Timestamp::now(), Names::read(settings)?);
    let containers = super::containers(settings)?.list()?;
    containers
        .iter()
        .map(|container| row(&args, container, &container.state()?, &names, now))
        .collect()
}

fn row(
    args: &PsArgs,
    container: &Container,
    state: &State,
    names: &Names,
    now: Timestamp,
) -> Result<Value, Failure> {
    let config = &container.config;
    let details = Details::of(container);
    let networks = names.of_container(container, &details);
    let ports = port::column(&container.network_of(state)?, &details);
    let health = if state.status.is_alive() {
        container.health()?
    } else {
        None
    };
    let created = parse_created(Some(&config.created));
    let id = if args.no_trunc {
        config.id.clone()
    } else {
        container.short_id().to_owned()
    };
    let labels = details.labels.iter();
    let labels: Vec<String> = labels.map(|(k, v)| format!("{k}={v}")).collect();
    let format = args.format.as_deref().unwrap_or_default();
    let size = if args.size || format.contains(".Size") {
        units::exact_size(usage::size_of(container))
    } else {
        "0B".to_owned()
    };
    Ok(Value::Struct(vec![
        ("Command", command(args, container).into()),
        ("CreatedAt", created_at(created).into()),
        ("ID", id.into()),
        ("Image", details.image.clone().into()),
        ("Labels", labels.join(",").into()),
        (
            "Label",
            Value::Method(Method::Label(details.labels.clone())),
        ),
        ("LocalVolumes", details.volumes().count().to_string().into()),
        ("Mounts", mounts(&details, args.no_trunc).into()),
        ("Names", config.name.clone().into()),
        ("Networks", networks.join(",").into()),
        ("Platform", details.platform.clone().into()),
        ("Ports", ports.into()),
        ("RunningFor", created_since(created, now).into()),
        ("Size", size.into()),
        ("State", word(state.status).into()),
        ("Status", status(state, health.as_ref(), now).into()),
    ]))
}

/// Names of volumes and paths of this machine that are mounted; those of unnamed volumes are cut.
fn mounts(details: &Details, whole: bool) -> String {
    let names = details.mounts.iter().filter_map(|mount| match mount.kind {
        MountKind::Volume => Some(mount.name.as_str()),
        MountKind::Bind => Some(mount.source.as_str()),
        MountKind::Tmpfs | MountKind::Image => None,
    });
    let shown = names.map(|name| {
        if whole || name.chars().count() <= MOUNT {
            name.to_owned()
        } else {
            let start: String = name.chars().take(MOUNT - 1).collect();
            format!("{start}…")
        }
    });
    shown.collect::<Vec<_>>().join(",")
}

/// The command in quotes, cut where it gets long.
fn command(args: &PsArgs, container: &Container) -> String {
    let words: Vec<String> = container
        .config
        .sandbox
        .process
        .args
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let whole = words.join(" ");
    let cut = if args.no_trunc || whole.chars().count() <= COMMAND {
        whole
    } else {
        let start: String = whole.chars().take(COMMAND - 1).collect();
        format!("{start}…")
    };
    format!("{cut:?}")
}

/// The state in one word.
pub(super) fn word(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Restarting => "restarting",
        Status::Exited => "exited",
    }
}

/// The state in words: `Up 3 minutes (healthy)`, `Exited (0) 2 hours ago`.
fn status(state: &State, health: Option<&Health>, now: Timestamp) -> String {
    let since = |time: &str| {
        let seconds =
            parse_created(Some(time)).map_or(0, |time| now.as_second() - time.as_second());
        age(seconds)
    };
    let (code, ended) = (state.exit_code, &state.finished);
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => {
            let health = health.map_or(String::new(), |health| match health.status {
                HealthStatus::Starting => " (health: starting)".to_owned(),
                status => format!(" ({})", status.name()),
            });
            format!("Up {}{health}", since(&state.started))
        }
        Status::Paused => format!("Up {} (Paused)", since(&state.started)),
        Status::Restarting => format!("Restarting ({code}) {} ago", since(ended)),
        Status::Exited => format!("Exited ({code}) {} ago", since(ended)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_as_docker_tells_them() {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let mut state = State::default();
        let status = |state: &State| super::status(state, None, now);
        assert_eq!(status(&state), "Created");
        state.status = Status::Running;
        state.started = "2026-01-02T03:01:00.5Z".into();
        assert_eq!(status(&state), "Up 3 minutes");
        let health = Health::default();
        assert_eq!(
            super::status(&state, Some(&health), now),
            "Up 3 minutes (health: starting)"
        );
        state.status = Status::Paused;
        assert_eq!(status(&state), "Up 3 minutes (Paused)");
        state.status = Status::Exited;
        state.exit_code = 137;
        state.finished = "2026-01-02T01:04:05Z".into();
        assert_eq!(status(&state), "Exited (137) 2 hours ago");
        state.status = Status::Restarting;
        assert_eq!(status(&state), "Restarting (137) 2 hours ago");
    }
}
