//! `rbuild graph`.

use std::path::PathBuf;

use clap::ValueEnum;
use rbuild_builder::graph::{BuildGraph, graph};

use super::build::{WhatArgs, what};
use super::past;
use crate::config::Settings;
use crate::failure::Failure;
use crate::ui::{self, graph as drawing, report};

/// How a graph is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// Lines for people.
    #[default]
    Text,
    /// For Graphviz.
    Dot,
    /// For Markdown files.
    Mermaid,
    /// A picture.
    Svg,
    /// For programs.
    Json,
}

/// Show the stages and steps of a Dockerfile and what depends on what
///
/// All stages, or those that `--target` needs. Nothing is built and no registry is asked. With
/// `--build`, the steps of a past build with how they went.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rbuild graph [OPTIONS] [PATH]\n       rbuild graph [OPTIONS] --build[=BUILD]",
    after_help = "Examples:
  rbuild graph
  rbuild graph --target test
  rbuild graph --format svg -o graph.svg .
  rbuild graph --format dot | dot -Tpng >graph.png
  rbuild graph --build=last --format mermaid"
)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    what: WhatArgs,

    /// Show a past build: `last`, a name from `rbuild history builds`, or an image built here
    #[arg(
        long,
        value_name = "BUILD",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "last"
    )]
    build: Option<String>,
    /// Write `text`, `dot`, `mermaid`, `svg` or `json`
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value = "text",
        hide_default_value = true,
        hide_possible_values = true
    )]
    format: GraphFormat,
    /// Write it to a file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Shows it.
pub(crate) fn run(settings: &Settings, args: &GraphArgs) -> Result<u8, Failure> {
    let store = super::open_store(settings)?;
    let graph = if let Some(build) = &args.build {
        BuildGraph::of_report(&past::find(&store, Some(build))?)
    } else {
        let mut what_args = args.what.clone();
        what_args.context.get_or_insert_with(|| ".".to_owned());
        let requested = what(settings, &what_args)?;
        match graph(&store, &requested.request) {
            Ok(graph) => graph,
            Err(error) => {
                ui::message(&report::plain_failure(&error, &settings.palette));
                return Ok(crate::failure::status::ERROR);
            }
        }
    };
    let text = match args.format {
        GraphFormat::Text => drawing::text(&graph),
        GraphFormat::Dot => drawing::dot(&graph),
        GraphFormat::Mermaid => drawing::mermaid(&graph),
        GraphFormat::Svg => drawing::svg(&graph),
        GraphFormat::Json => ui::to_json(&graph),
    };
    super::write_or_print(args.output.as_deref(), &text)?;
    Ok(0)
}
