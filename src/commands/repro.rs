//! `rbuild repro`: the same build twice, and the first difference.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rbuild_builder::request::{Output, OutputKind, OutputOptions};
use rbuild_builder::{BuildRequest, BuildResult, Engine, ImageDifference, compare_images};
use rbuild_cache::{LayerDifference, LayerField};

use super::build::{self, BuildArgs, Ready, Running};
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::ui;
use crate::ui::progress::{Display, Progress, ProgressMode};

/// Files that are named for a layer that differs.
const NAMED: usize = 10;

/// Build twice and tell what differs
///
/// Builds with `--reproducible` twice, without cache, with cache mounts that are empty at first, the
/// second time one step at a time, and compares the results. Tells the first layer that differs, its
/// step and its files. If both are the same, the result goes where `-t` and `-o` say.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "rbuild repro [OPTIONS] PATH",
    after_help = "Examples:
  rbuild repro .
  rbuild repro -t app --build-arg VERSION=1.2 .

Exit status: 0 when both builds gave the same, 3 when they did not, 1 when a build failed, 2 for a
wrong command line."
)]
pub(crate) struct ReproArgs {
    #[command(flatten)]
    pub(crate) build: BuildArgs,
}

/// Builds twice and compares.
pub(crate) fn run(settings: &Settings, mut args: ReproArgs) -> Result<u8, Failure> {
    args.build.refused.check()?;
    if args.build.check || args.build.call.is_some() {
        return Err(Failure::new(
            "`rbuild repro` builds: `--check` and `--call` do not go with it",
        )
        .with_status(status::USAGE));
    }
    args.build.reproducible = true;
    let mode = build::progress_mode(settings, &args.build)?;
    let Ready {
        engine,
        request,
        running,
    } = build::get_ready(settings, &args.build, mode)?;
    let Running {
        progress,
        cancel,
        received,
    } = running;
    let lease = engine.store.lease()?;
    let display = Display {
        palette: settings.palette,
        terminal: settings.stderr_terminal,
        log_lines: settings.log_lines(),
    };
    let mut first: Option<BuildResult> = None;
    let mut progress = Some(progress);
    for jobs in [request.jobs, Some(1)] {
        let shown = if let Some(progress) = progress.take() {
            progress
        } else {
            wait_for_next_second();
            Progress::start(mode, display)?
        };
        let once = isolated(&request, jobs);
        let result = rbuild_builder::build(&engine, &once, &shown, &cancel);
        let journal = shown.finish();
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                return Ok(build::tell_failure(
                    settings, mode, error, &journal, &received,
                ));
            }
        };
        for layer in result.images.iter().flat_map(|image| &image.layers) {
            lease.protect_layer(layer)?;
        }
        match first.take() {
            None => first = Some(result),
            Some(first) => {
                if !same(&engine, &first, &result)? {
                    return Ok(status::NOT_REPRODUCIBLE);
                }
                ui::println(&format!(
                    "reproducible: both builds gave {}",
                    result.image_id
                ))?;
            }
        }
    }
    if args.build.tag.is_empty() && args.build.output.is_empty() && !args.build.push {
        return Ok(0);
    }
    // Every step is in the cache now.
    let again = Ready {
        engine,
        request: BuildRequest {
            no_cache: false,
            no_cache_filter: Vec::new(),
            ..request
        },
        running: Running {
            progress: Progress::start(ProgressMode::Quiet, display)?,
            cancel,
            received,
        },
    };
    build::build(settings, &args.build, mode, again)
}

/// The request as one of the two builds: nothing is taken over and nothing goes out.
fn isolated(request: &BuildRequest, jobs: Option<usize>) -> BuildRequest {
    BuildRequest {
        no_cache: true,
        fresh_cache_mounts: true,
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        outputs: vec![Output {
            kind: OutputKind::CacheOnly,
            options: OutputOptions::default(),
        }],
        jobs,
        ..request.clone()
    }
}

/// A step that writes the time down would write the same one twice within a second.
fn wait_for_next_second() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let past = now.map_or(0, |now| now.subsec_nanos());
    std::thread::sleep(Duration::from_secs(1).saturating_sub(Duration::from_nanos(past.into())));
}

/// Tells the first difference of every platform; none means that all is the same.
fn same(engine: &Engine, first: &BuildResult, second: &BuildResult) -> Result<bool, Failure> {
    let mut text = String::new();
    for (a, b) in first.images.iter().zip(&second.images) {
        let difference = compare_images(&engine.store, a, b, NAMED).map_err(|error| Failure {
            causes: error.causes.clone(),
            ..Failure::new(error.message.clone())
        })?;
        if let Some(difference) = difference {
            text.push_str(&format!("not reproducible: {}\n", a.platform));
            text.push_str(&told(&difference));
        }
    }
    if text.is_empty() {
        return Ok(true);
    }
    ui::print(&text)?;
    Ok(false)
}

fn told(difference: &ImageDifference) -> String {
    match difference {
        ImageDifference::Layer {
            step,
            number,
            of,
            files,
            more,
            above,
        } => {
            let mut text = format!("  layer {number} of {of}: {step}\n");
            for file in files {
                text.push_str(&format!("    {}\n", file_line(file)));
            }
            if *more > 0 {
                text.push_str(&format!("    and {more} more files\n"));
            }
            if *above > 0 {
                let layers = if *above == 1 { "layer" } else { "layers" };
                text.push_str(&format!("  {above} {layers} above differ, too\n"));
            }
            text
        }
        ImageDifference::LayerCount(first, second) => {
            format!("  the first build has {first} layers, the second {second}\n")
        }
        ImageDifference::Config {
            field,
            first,
            second,
        } => {
            let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
            format!(
                "  config: {field}: {} and {}\n",
                shown(first),
                shown(second)
            )
        }
        other => format!("  {other:?}\n"),
    }
}

/// A file and what of it differs, in the first build and in the second.
fn file_line(difference: &LayerDifference) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_default().to_string();
    let what = match &difference.field {
        LayerField::OnlyFirst => "only in the first build".to_owned(),
        LayerField::OnlySecond => "only in the second build".to_owned(),
        LayerField::Kind(a, b) => format!("is a {a} and a {b}"),
        LayerField::Mode(a, b) => format!("mode {a:04o} and {b:04o}"),
        LayerField::Owner((a, b), (c, d)) => format!("owner {a}:{b} and {c}:{d}"),
        LayerField::Time(a, b) => format!("time {} and {}", time(*a), time(*b)),
        LayerField::Target(a, b) => format!("links to {} and {}", text(a), text(b)),
        LayerField::Device((a, b), (c, d)) => format!("device {a}:{b} and {c}:{d}"),
        LayerField::Capability => "other capabilities".to_owned(),
        LayerField::FirstName(a, b) => {
            format!("hard link of /{} and of /{}", text(a), text(b))
        }
        LayerField::Content { offset, sizes } if sizes.0 == sizes.1 => {
            format!("content differs from byte {offset} on, {} bytes", sizes.0)
        }
        LayerField::Content { offset, sizes } => format!(
            "content differs from byte {offset} on, {} and {} bytes",
            sizes.0, sizes.1
        ),
        other => format!("{other:?}"),
    };
    format!("/{}: {what}", text(&difference.path))
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |t| t.to_string())
}
