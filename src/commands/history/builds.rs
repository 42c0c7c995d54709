//! `rbuild history builds`.

use jiff::Timestamp;
use rbuild_builder::report::{BuildReport, StepState};

use crate::config::Settings;
use crate::failure::Failure;
use crate::format::Value;
use crate::time::{created_at_seconds, created_since, parse_created};
use crate::ui::control::visible;
use crate::ui::listing::Listing;
use crate::ui::{self, explanation};

/// Show the past builds of this store
///
/// Newest first: how long each took, how many of its steps came from the cache, and what had changed.
/// The last 100 are kept. Their names are what `explain`, `debug`, `timeline` and `graph --build` take.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Placeholders of --format: .ID .CreatedSince .CreatedAt .Duration .Hits .Result .Changed \
.Project .Dockerfile

Examples:
  rbuild history builds
  rbuild history builds -n 5 --project .
  rbuild history builds --format '{{.ID}} {{.Duration}}'"
)]
pub(crate) struct BuildsArgs {
    /// Show only the last N
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// Show only builds of this context directory
    #[arg(long, value_name = "DIR")]
    project: Option<std::path::PathBuf>,
    /// Show only names of builds
    #[arg(short, long)]
    quiet: bool,
    /// Show each line by a Go template, `table TEMPLATE` or `json`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const HEADERS: &[(&str, &str)] = &[
    ("Changed", "CHANGED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "WHEN"),
    ("Dockerfile", "DOCKERFILE"),
    ("Duration", "TOOK"),
    ("Hits", "HITS"),
    ("ID", "BUILD"),
    ("Project", "PROJECT"),
    ("Result", "RESULT"),
];

/// Longest text of the last column.
const CHANGED: usize = 60;

/// Lists them.
pub(super) fn run(settings: &Settings, args: &BuildsArgs) -> Result<(), Failure> {
    let store = super::super::open_store(settings)?;
    let project = match &args.project {
        Some(directory) => Some(std::fs::canonicalize(directory).map_err(|error| {
            Failure::from(error).within(format!("no such directory: {}", directory.display()))
        })?),
        None => None,
    };
    let mut rows = Vec::new();
    for name in store.builds()?.iter().rev() {
        // A build that runs, or was killed, has none.
        let Ok(Some(report)) = BuildReport::of_build(&store, name) else {
            continue;
        };
        let of_project = project.as_ref().is_none_or(|project| {
            let built = report.project.as_deref().unwrap_or_default();
            let wanted = project.to_string_lossy();
            built
                .strip_prefix(&*wanted)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        });
        if of_project {
            rows.push(row(name, &report));
        }
        if args.last.is_some_and(|last| rows.len() >= last) {
            break;
        }
    }
    let format = match &args.format {
        None if args.quiet => Some("{{.ID}}"),
        format => format.as_deref(),
    };
    let table = "{{.ID}}\t{{.CreatedSince}}\t{{.Duration}}\t{{.Hits}}\t{{.Result}}\t{{.Changed}}";
    ui::print(
        &Listing {
            headers: HEADERS,
            table,
            format,
        }
        .render(&rows)?,
    )
}

fn row(name: &str, report: &BuildReport) -> Value {
    let created = parse_created(Some(&report.started));
    let hits = report
        .steps
        .iter()
        .filter(|step| step.state == StepState::Hit)
        .count();
    let reached = report
        .steps
        .iter()
        .filter(|step| step.state != StepState::NotReached)
        .count();
    let result = match (&report.error, report.names.first()) {
        (Some(_), _) => "failed".to_owned(),
        (None, Some(name)) => name.clone(),
        (None, None) => {
            let id = report.image.as_deref().unwrap_or_default();
            id.trim_start_matches("sha256:").chars().take(12).collect()
        }
    };
    Value::Struct(vec![
        ("Changed", visible(&shortened(&changed(report))).into()),
        ("CreatedAt", created_at_seconds(created).into()),
        (
            "CreatedSince",
            created_since(created, Timestamp::now()).into(),
        ),
        ("Dockerfile", visible(&report.dockerfile).into()),
        ("Duration", explanation::seconds(report.elapsed_ms).into()),
        ("Hits", format!("{hits}/{reached}").into()),
        ("ID", name.into()),
        (
            "Project",
            visible(report.project.as_deref().unwrap_or_default()).into(),
        ),
        ("Result", visible(&result).into()),
    ])
}

/// Why the first step ran that had to; of a failed build, what failed.
fn changed(report: &BuildReport) -> String {
    let failed = report
        .steps
        .iter()
        .find(|step| step.state == StepState::Failed);
    if let Some(step) = failed {
        return step.name.clone();
    }
    let ran = report
        .steps
        .iter()
        .find(|step| step.state == StepState::Ran);
    match ran {
        Some(step) => step.reason.clone().unwrap_or_default(),
        None => "nothing".to_owned(),
    }
}

fn shortened(text: &str) -> String {
    let text = text.replace(['\t', '\n'], " ");
    if text.chars().count() <= CHANGED {
        return text;
    }
    text.chars().take(CHANGED - 1).chain(['…']).collect()
}
