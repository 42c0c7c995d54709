//! `rbuild info`.

use rbuild_parser::Platform;
use rbuild_runtime::container::Status;
use rbuild_runtime::{HostReport, Isolation, isolation, probe};

use crate::config::Settings;
use crate::failure::Failure;
use crate::format::{Template, Value};
use crate::ground;
use crate::ui;

/// Show what this host allows
///
/// Tries what a sandbox needs, and tells how each of it went.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild info
  rbuild info -f '{{.Isolation}}'")]
pub(crate) struct InfoArgs {
    /// Show it by a Go template, or `json`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Shows what the host allows.
pub(crate) fn run(settings: &Settings, args: &InfoArgs) -> Result<(), Failure> {
    let isolation = isolation();
    let isolation = format!("{isolation} ({})", isolation.describe());
    let report = probe();
    let counts = Counts::of(settings)?;
    let storage = storage(settings)?;
    let root = settings.store_root()?.to_string_lossy().into_owned();
    match args.format.as_deref() {
        None => ui::print(&text(&root, &storage, &isolation, &report, &counts)),
        Some("json") => {
            ui::println(&value(&root, &storage, &isolation, &report, &counts).to_json())
        }
        Some(template) => ui::println(
            &Template::parse(template)?
                .render(&value(&root, &storage, &isolation, &report, &counts))?,
        ),
    }
}

/// How much there is in the store.
#[derive(Default)]
struct Counts {
    running: i64,
    paused: i64,
    stopped: i64,
    images: i64,
}

impl Counts {
    /// Nothing where there is no store yet: to look is no reason to make one.
    fn of(settings: &Settings) -> Result<Counts, Failure> {
        let mut counts = Counts::default();
        if !settings.store_root()?.join("format").exists() {
            return Ok(counts);
        }
        for container in super::containers::containers(settings)?.list()? {
            match container.state()?.status {
                Status::Running | Status::Restarting => counts.running += 1,
                Status::Paused => counts.paused += 1,
                Status::Created | Status::Exited => counts.stopped += 1,
            }
        }
        counts.images = super::open_store(settings)?.images()?.len() as i64;
        Ok(counts)
    }
}

/// How roots are made of layers, and why not otherwise.
fn storage(settings: &Settings) -> Result<String, Failure> {
    Ok(match ground::overlay_refusal(settings)? {
        _ if isolation() == Isolation::Chroot => "copy (nothing can be mounted)".to_owned(),
        Some(why) => format!("copy ({why})"),
        None => "overlay".to_owned(),
    })
}

fn text(
    root: &str,
    storage: &str,
    isolation: &str,
    report: &HostReport,
    counts: &Counts,
) -> String {
    let mut lines = vec![
        format!("Version:\t{}", env!("CARGO_PKG_VERSION")),
        format!("Store:\t{root}"),
        format!("Storage driver:\t{storage}"),
        format!(
            "Containers:\t{} ({} running, {} paused, {} stopped)",
            counts.running + counts.paused + counts.stopped,
            counts.running,
            counts.paused,
            counts.stopped
        ),
        format!("Images:\t{}", counts.images),
        format!("Platform:\t{}", Platform::host()),
        format!("Isolation:\t{}", ui::control::visible(isolation)),
    ];
    for ability in &report.abilities {
        let verdict = if ability.ok { "yes" } else { "no" };
        let detail = match ability.detail.as_str() {
            "" => String::new(),
            detail => format!(" ({})", ui::control::visible(detail)),
        };
        lines.push(format!("{}:\t{verdict}{detail}", ability.name));
    }
    ui::table::columns(lines.iter().map(String::as_str))
}

fn value(
    root: &str,
    storage: &str,
    isolation: &str,
    report: &HostReport,
    counts: &Counts,
) -> Value {
    let abilities = report
        .abilities
        .iter()
        .map(|ability| {
            Value::Struct(vec![
                ("Name", ability.name.into()),
                ("OK", ability.ok.into()),
                ("Detail", ability.detail.clone().into()),
            ])
        })
        .collect();
    Value::Struct(vec![
        ("ServerVersion", env!("CARGO_PKG_VERSION").into()),
        ("DockerRootDir", root.into()),
        ("Driver", storage.into()),
        (
            "Containers",
            Value::Int(counts.running + counts.paused + counts.stopped),
        ),
        ("ContainersRunning", Value::Int(counts.running)),
        ("ContainersPaused", Value::Int(counts.paused)),
        ("ContainersStopped", Value::Int(counts.stopped)),
        ("Images", Value::Int(counts.images)),
        ("OSType", std::env::consts::OS.into()),
        ("Architecture", std::env::consts::ARCH.into()),
        ("Platform", Platform::host().to_string().into()),
        ("Isolation", isolation.into()),
        ("Abilities", Value::List(abilities)),
    ])
}
