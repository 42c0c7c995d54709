//! `rbuild timeline`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::past;
use crate::config::Settings;
use crate::failure::Failure;
use crate::ui::timeline::Timeline;

/// How a timeline is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimelineFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A page for a browser, complete in itself.
    Html,
    /// Events for `chrome://tracing` and Perfetto.
    Trace,
}

/// Show where the time of a build went, and what to move to gain most
///
/// What ran beside what, the critical path, cache hits, bytes and processor time. BUILD is `last` (the
/// default), a name from `rbuild history builds`, or an image that was built here.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild timeline
  rbuild timeline --format html -o build.html
  rbuild timeline app --format trace -o build.json   # open it at ui.perfetto.dev")]
pub(crate) struct TimelineArgs {
    /// Which build
    #[arg(value_name = "BUILD")]
    build: Option<String>,
    /// Write `text`, `html` (a page) or `trace` (for Perfetto) [default: by the name of the file]
    #[arg(long, value_name = "FORMAT", value_enum, hide_possible_values = true)]
    format: Option<TimelineFormat>,
    /// Write it to a file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Shows it.
pub(crate) fn run(settings: &Settings, args: &TimelineArgs) -> Result<(), Failure> {
    let store = super::open_store(settings)?;
    let report = past::find(&store, args.build.as_deref())?;
    let timeline = Timeline::of(&report);
    let extension = args.output.as_ref().and_then(|path| path.extension());
    let format =
        args.format.unwrap_or_else(
            || match extension.and_then(|extension| extension.to_str()) {
                Some("html" | "htm") => TimelineFormat::Html,
                Some("json") => TimelineFormat::Trace,
                _ => TimelineFormat::Text,
            },
        );
    let text = match format {
        TimelineFormat::Text => timeline.text(),
        TimelineFormat::Html => timeline.html(),
        TimelineFormat::Trace => timeline.trace(),
    };
    super::write_or_print(args.output.as_deref(), &text)
}
