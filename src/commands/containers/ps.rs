//! `rbuild ps`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rbuild_runtime::container::{Container, Containers, State, Status};

use crate::config::Settings;
use crate::container::details::Details;
use crate::failure::Failure;
use crate::format::Value;
use crate::time::{created_at, created_since, parse_created};
use crate::ui::listing::Listing;
use crate::ui::units::age;
use crate::ui::{self};

/// Characters of a command that are shown.
const COMMAND: usize = 20;

/// List containers
///
/// Those that run, the newest first; with `-a` all.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild ps -a
  rbuild ps -q -f status=exited

Placeholders of --format: .ID .Image .Command .CreatedAt .RunningFor .Ports .State \
.Status .Size .Names .Labels .Mounts .Networks")]
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
    /// Show only what meets a condition: id=, name=, label=, status=, exited=, ancestor=, before=,
    /// since=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Show each by a Go template, `table TEMPLATE` or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const HEADERS: &[(&str, &str)] = &[
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Names", "NAMES"),
    ("Networks", "NETWORKS"),
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
    let mut rows = Vec::new();
    for container in containers.list()? {
        let state = container.state()?;
        let details = Details::of(&container);
        if (all || state.status == Status::Running)
            && filters.accept(&container, &state, &details)
            && last.is_none_or(|most| rows.len() < most)
        {
            rows.push(row(args, &container, &state, &details, now));
        }
    }
    let table = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t\
                 {{.Names}}";
    let listing = Listing {
        headers: HEADERS,
        table,
        format: match &args.format {
            None if args.quiet => Some("{{.ID}}"),
            format => format.as_deref(),
        },
    };
    ui::print(&listing.render(&rows)?)
}

fn row(
    args: &PsArgs,
    container: &Container,
    state: &State,
    details: &Details,
    now: Timestamp,
) -> Value {
    let config = &container.config;
    let created = parse_created(Some(&config.created));
    let id = if args.no_trunc {
        config.id.clone()
    } else {
        container.short_id().to_owned()
    };
    let labels: BTreeMap<&String, &String> = details.labels.iter().collect();
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    Value::Struct(vec![
        ("Command", command(args, container).into()),
        ("CreatedAt", created_at(created).into()),
        ("ID", id.into()),
        ("Image", details.image.clone().into()),
        ("Labels", labels.join(",").into()),
        ("LocalVolumes", "0".into()),
        ("Mounts", "".into()),
        ("Names", config.name.clone().into()),
        ("Networks", details.network.clone().into()),
        ("Ports", "".into()),
        ("RunningFor", created_since(created, now).into()),
        ("Size", "0B".into()),
        ("State", word(state.status).into()),
        ("Status", status(state, now).into()),
    ])
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
        Status::Exited => "exited",
    }
}

/// The state in words: `Up 3 minutes`, `Exited (0) 2 hours ago`.
fn status(state: &State, now: Timestamp) -> String {
    let since =
        |time: &str| parse_created(Some(time)).map_or(0, |time| now.as_second() - time.as_second());
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => format!("Up {}", age(since(&state.started))),
        Status::Exited => format!(
            "Exited ({}) {} ago",
            state.exit_code,
            age(since(&state.finished))
        ),
    }
}

/// The conditions of a list. Those of one kind are alternatives, except labels; all kinds must hold.
#[derive(Default)]
struct Filters {
    by_kind: BTreeMap<String, Vec<String>>,
}

impl Filters {
    fn parse(containers: &Containers, filters: &[String]) -> Result<Filters, Failure> {
        let mut parsed = Filters::default();
        for filter in filters {
            let Some((key, value)) = filter.split_once('=') else {
                return Err(Failure::new(format!(
                    "invalid filter {filter:?}: it must have the form key=value"
                )));
            };
            let value = match key {
                "id" | "name" | "label" | "ancestor" => value.to_owned(),
                "status" if matches!(value, "created" | "running" | "exited") => value.to_owned(),
                "status" if matches!(value, "paused" | "restarting" | "removing" | "dead") => {
                    value.to_owned()
                }
                "exited" if value.parse::<i32>().is_ok() => value.to_owned(),
                // Compared by time of creation.
                "before" | "since" => containers.find(value)?.config.created,
                "status" | "exited" => {
                    return Err(Failure::new(format!(
                        "invalid value in the filter {filter:?}"
                    )));
                }
                other => {
                    return Err(Failure::new(format!("invalid filter {other:?}")).hint(
                        "known filters: id, name, label, status, exited, ancestor, before, since",
                    ));
                }
            };
            let values = parsed.by_kind.entry(key.to_owned()).or_default();
            values.push(value);
        }
        Ok(parsed)
    }

    /// Whether it was asked for states, so that not only what runs is looked at.
    fn about_state(&self) -> bool {
        ["status", "exited"]
            .iter()
            .any(|kind| self.by_kind.contains_key(*kind))
    }

    fn accept(&self, container: &Container, state: &State, details: &Details) -> bool {
        let config = &container.config;
        let has_label = |value: &str| match value.split_once('=') {
            Some((name, value)) => details.labels.get(name).is_some_and(|known| known == value),
            None => details.labels.contains_key(value),
        };
        self.by_kind.iter().all(|(kind, values)| {
            let mut values = values.iter().map(String::as_str);
            match kind.as_str() {
                "id" => values.any(|value| config.id.starts_with(value)),
                "name" => values.any(|value| config.name.contains(value.trim_start_matches('/'))),
                "label" => values.all(has_label),
                "status" => values.any(|value| word(state.status) == value),
                "exited" => {
                    state.status == Status::Exited
                        && values.any(|value| state.exit_code.to_string() == value)
                }
                "ancestor" => values.any(|value| {
                    let id = details.image_id.trim_start_matches("sha256:");
                    let short = value.trim_start_matches("sha256:");
                    details.image == value
                        || details.image.strip_suffix(":latest") == Some(value)
                        || (short.len() >= 4 && id.starts_with(short))
                }),
                "before" => values.any(|value| config.created.as_str() < value),
                _ => values.any(|value| config.created.as_str() > value),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_as_docker_tells_them() {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let mut state = State::default();
        assert_eq!(status(&state, now), "Created");
        state.status = Status::Running;
        state.started = "2026-01-02T03:01:00.5Z".into();
        assert_eq!(status(&state, now), "Up 3 minutes");
        state.status = Status::Exited;
        state.exit_code = 137;
        state.finished = "2026-01-02T01:04:05Z".into();
        assert_eq!(status(&state, now), "Exited (137) 2 hours ago");
    }
}
