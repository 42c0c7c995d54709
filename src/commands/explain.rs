//! `rbuild explain`.

use clap::ValueEnum;
use rbuild_builder::report::BuildReport;

use super::lookup;
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
/// last ran: arguments, variables, files. Without IMAGE, of the last build on this store.
#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// Name or ID of an image that was built here
    #[arg(value_name = "IMAGE", conflicts_with = "last")]
    image: Option<String>,
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
    let unreadable = |error: std::io::Error| {
        Failure::new("could not read the report of the build")
            .because(&error)
            .hint("the next build writes a new one")
    };
    let report = match &args.image {
        None => BuildReport::last(&store)
            .map_err(unreadable)?
            .ok_or_else(|| Failure::new("nothing has been built on this store yet"))?,
        Some(image) => {
            let found = lookup::require(&store, image)?;
            BuildReport::of_image(&store, &found.entry.record.config)
                .map_err(unreadable)?
                .ok_or_else(|| {
                    Failure::new(format!("it is not known how {image} was built"))
                        .hint("images that were loaded or imported have no report")
                })?
        }
    };
    print(&report, args.format)
}

/// Writes an explanation to standard output.
pub(super) fn print(report: &BuildReport, format: ExplainFormat) -> Result<(), Failure> {
    match format {
        ExplainFormat::Text => ui::print(&explanation::text(report)),
        ExplainFormat::Json => ui::println(&serde_json::to_string(report)?),
    }
}
