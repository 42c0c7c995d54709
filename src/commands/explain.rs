//! `rbuild explain`.

use clap::ValueEnum;
use rbuild_builder::report::BuildReport;

use super::past;
use crate::config::Settings;
use crate::failure::Failure;
use crate::ui::{self, explanation};

/// How an explanation is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExplainFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Tell why the steps of a build ran or did not run
///
/// Each step with hit or miss, its time, the size of its layer, and all that was not as when it
/// last ran: arguments, variables, files. Without BUILD, of the last build on this store.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild explain
  rbuild explain app
  rbuild explain --format json | jq '.steps[].reason'")]
pub(crate) struct ExplainArgs {
    /// A build, by its name in `rbuild history builds`, or an image that was built here
    #[arg(value_name = "BUILD", conflicts_with = "last")]
    build: Option<String>,
    /// The last build, also if it failed [default]
    #[arg(long)]
    last: bool,
    /// Write `text` or `json`
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value = "text",
        hide_default_value = true,
        hide_possible_values = true
    )]
    format: ExplainFormat,
}

/// Explains a build.
pub(crate) fn run(settings: &Settings, args: &ExplainArgs) -> Result<(), Failure> {
    let store = super::open_store(settings)?;
    let report = past::find(&store, args.build.as_deref())?;
    print(&report, args.format)
}

/// Writes an explanation to standard output.
pub(super) fn print(report: &BuildReport, format: ExplainFormat) -> Result<(), Failure> {
    match format {
        ExplainFormat::Text => ui::print(&explanation::text(report)),
        ExplainFormat::Json => ui::println(&serde_json::to_string(report)?),
    }
}
