//! `rbuild inspect`.

use std::collections::BTreeMap;

use rbuild_builder::image::{ContainerConfig, HealthConfig, ImageConfig, image_config};
use rbuild_cache::{Digest, ImageEntry, Store};
use rbuild_parser::{ImageReference, Platform};
use rbuild_runtime::container::ContainerError;

use super::lookup::{self, familiar, familiar_parts};
use crate::config::Settings;
use crate::failure::{Failure, status};
use crate::format::{NilKind, Template, Value};
use crate::ui;

/// Show all about images and containers
///
/// A container is meant before an image of the same name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  rbuild inspect app
  rbuild inspect -f '{{.Config.User}}' app
  rbuild inspect -f '{{json .Config.Env}}' app")]
pub(crate) struct InspectArgs {
    /// Names or IDs of images or containers
    #[arg(value_name = "NAME", required = true)]
    images: Vec<String>,
    /// Show each image by a Go template, or `json`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show the image for this platform, of an image for several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Show sizes; they are always shown
    #[arg(short, long, hide = true)]
    size: bool,
    /// Kind of object: `image` or `container` [default: either]
    #[arg(
        long = "type",
        value_name = "KIND",
        value_parser = ["image", "container"],
        hide_possible_values = true
    )]
    kind: Option<String>,
}

/// Inspects images and containers; goes on after errors.
pub(crate) fn run(settings: &Settings, args: &InspectArgs) -> Result<u8, Failure> {
    of_kind(settings, args, args.kind.as_deref())
}

/// Inspects containers only.
pub(crate) fn containers(settings: &Settings, args: &InspectArgs) -> Result<u8, Failure> {
    of_kind(settings, args, Some("container"))
}

/// Inspects images only.
pub(crate) fn images(settings: &Settings, args: &InspectArgs) -> Result<u8, Failure> {
    of_kind(settings, args, Some("image"))
}

fn of_kind(settings: &Settings, args: &InspectArgs, kind: Option<&str>) -> Result<u8, Failure> {
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let platform = lookup::platform(args.platform.as_deref())?;
    // Only images have one.
    let kind = kind.or(platform.as_ref().map(|_| "image"));
    let store = super::open_store(settings)?;
    let mut objects = Vec::new();
    let mut lines = String::new();
    let mut failures = Vec::new();
    for image in &args.images {
        let rendered =
            object(settings, &store, image, kind, platform.as_ref()).and_then(|object| {
                match &template {
                    Some(template) => lines.push_str(&(template.render(&object)? + "\n")),
                    None => objects.push(object),
                }
                Ok(())
            });
        failures.extend(rendered.err());
    }
    match (&template, args.format.as_deref()) {
        (Some(_), _) if lines.is_empty() => ui::print("\n")?,
        (Some(_), _) => ui::print(&lines)?,
        (None, Some("json")) => ui::println(&Value::List(objects).to_json())?,
        (None, _) => ui::println(&Value::List(objects).to_pretty_json())?,
    }
    for failure in &failures {
        ui::fail(&settings.palette, "Error:", failure);
    }
    Ok(if failures.is_empty() {
        0
    } else {
        status::ERROR
    })
}

fn object(
    settings: &Settings,
    store: &Store,
    query: &str,
    kind: Option<&str>,
    platform: Option<&Platform>,
) -> Result<Value, Failure> {
    if kind != Some("image") {
        match super::containers::containers(settings)?.find(query) {
            Ok(container) => return super::containers::inspect::describe(settings, &container),
            Err(ContainerError::NotFound(_)) if kind.is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut found = lookup::find(store, query)?.ok_or_else(|| {
        let what = kind.unwrap_or("object");
        Failure::new(format!("No such {what}: {query}"))
    })?;
    let top = found.entry.record.clone();
    if let Some(platform) = platform {
        found.entry.record = lookup::variant(store, query, &found, platform)?.1;
    }
    let config = image_config(store, &found.entry.record)?;
    Ok(describe(&found.entry, &top.manifest, &config))
}

/// The object that `docker image inspect` shows.
fn describe(entry: &ImageEntry, top: &Digest, config: &ImageConfig) -> Value {
    let record = &entry.record;
    let text = |text: &Option<String>| Value::from(text.clone().unwrap_or_default());
    let last = config.history.last();
    let layers = config.rootfs.diff_ids.iter().map(ToString::to_string);
    let mut fields = vec![
        ("Id", record.config.to_string().into()),
        (
            "RepoTags",
            list(entry.names.iter().map(|name| familiar(name))),
        ),
        ("RepoDigests", list(digests(entry, top))),
        (
            "Comment",
            last.map_or_else(|| "".into(), |last| text(&last.comment)),
        ),
        ("Created", text(&config.created)),
        ("Author", text(&config.author)),
        ("Config", container_config(&config.config)),
        ("Architecture", config.architecture.clone().into()),
    ];
    if let Some(variant) = &config.variant {
        fields.push(("Variant", variant.clone().into()));
    }
    fields.extend([
        ("Os", config.os.clone().into()),
        ("Size", Value::Int(record.size as i64)),
        (
            "GraphDriver",
            Value::Struct(vec![
                ("Data", Value::Nil(NilKind::Map)),
                ("Name", "overlayfs".into()),
            ]),
        ),
        (
            "RootFS",
            Value::Struct(vec![("Type", "layers".into()), ("Layers", list(layers))]),
        ),
        (
            "Metadata",
            Value::Struct(vec![("LastTagTime", "0001-01-01T00:00:00Z".into())]),
        ),
        (
            "Descriptor",
            Value::Struct(vec![
                ("mediaType", record.manifest_media_type.clone().into()),
                ("digest", record.manifest.to_string().into()),
                ("size", Value::Int(record.manifest_size as i64)),
            ]),
        ),
    ]);
    Value::Struct(fields)
}

/// A list that is `[]` when empty.
fn list(items: impl Iterator<Item = String>) -> Value {
    Value::List(items.map(Value::from).collect())
}

/// `repository@sha256:…` for every repository that the image has a name in; `top` is what the names
/// lead to.
fn digests(entry: &ImageEntry, top: &Digest) -> impl Iterator<Item = String> {
    let mut digests: Vec<String> = entry
        .names
        .iter()
        .filter(|name| ImageReference::parse(name).is_ok())
        .map(|name| format!("{}@{}", familiar_parts(name).0, top))
        .collect();
    digests.sort();
    digests.dedup();
    digests.into_iter()
}

fn container_config(config: &ContainerConfig) -> Value {
    let words = |words: &Option<Vec<String>>| Value::strings(words.iter().flatten().cloned());
    let set = |names: &std::collections::BTreeSet<String>| {
        map(names
            .iter()
            .map(|name| (name.clone(), Value::Struct(Vec::new()))))
    };
    let labels = config
        .labels
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()));
    let healthcheck = match &config.healthcheck {
        Some(check) => health(check),
        None => Value::Nil(NilKind::Pointer),
    };
    let mut fields = vec![
        ("User", config.user.clone().into()),
        ("ExposedPorts", set(&config.exposed_ports)),
        ("Env", Value::strings(config.env.iter().cloned())),
        ("Cmd", words(&config.cmd)),
    ];
    fields.push(("Healthcheck", healthcheck));
    fields.extend([
        ("Volumes", set(&config.volumes)),
        ("WorkingDir", config.working_dir.clone().into()),
        ("Entrypoint", words(&config.entrypoint)),
        ("OnBuild", Value::strings(config.on_build.iter().cloned())),
        ("Labels", map(labels)),
        (
            "StopSignal",
            config.stop_signal.clone().unwrap_or_default().into(),
        ),
        ("Shell", words(&config.shell)),
    ]);
    Value::Struct(fields)
}

/// A map that is nil when empty.
fn map(entries: impl Iterator<Item = (String, Value)>) -> Value {
    let entries: BTreeMap<String, Value> = entries.collect();
    if entries.is_empty() {
        Value::Nil(NilKind::Map)
    } else {
        Value::Map(entries)
    }
}

/// A health check as `docker inspect` shows it.
pub(super) fn health(check: &HealthConfig) -> Value {
    let numbers = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Retries", check.retries),
    ];
    let numbers = numbers
        .into_iter()
        .filter(|(_, number)| *number != 0)
        .map(|(name, number)| (name.to_owned(), Value::Int(number)));
    let test = (
        "Test".to_owned(),
        Value::strings(check.test.iter().cloned()),
    );
    Value::Map(std::iter::once(test).chain(numbers).collect())
}

#[cfg(test)]
mod tests {
    use rbuild_cache::ImageRecord;

    use super::*;

    #[test]
    fn the_object_has_docker_s_keys() {
        let digest = Digest::of(b"x");
        let record = ImageRecord {
            manifest: digest,
            manifest_media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            manifest_size: 7,
            config: digest,
            created: None,
            size: 42,
            layers: Vec::new(),
        };
        let names = vec![
            "docker.io/library/a:1".to_owned(),
            "docker.io/library/a:2".to_owned(),
        ];
        let mut config = ImageConfig {
            os: "linux".into(),
            ..ImageConfig::default()
        };
        config.config.exposed_ports.insert("80/tcp".into());
        config.config.cmd = Some(vec!["sh".into()]);
        let object = describe(&ImageEntry { names, record }, &digest, &config);
        let render = |template: &str| Template::parse(template).unwrap().render(&object).unwrap();
        assert_eq!(
            render("{{.RepoTags}} {{index .RepoTags 0}}"),
            "[a:1 a:2] a:1"
        );
        assert_eq!(render("{{.RepoDigests}}"), format!("[a@{digest}]"));
        assert_eq!(
            render("{{.Size}} {{.Os}} {{len .RootFS.Layers}}"),
            "42 linux 0"
        );
        assert_eq!(
            render("{{json .Config.Cmd}}{{json .Config.Entrypoint}}"),
            "[\"sh\"]null"
        );
        assert_eq!(
            render("{{.Config.Entrypoint}} {{.Config.Labels}}"),
            "[] map[]"
        );
        assert_eq!(render("{{json .Config.ExposedPorts}}"), "{\"80/tcp\":{}}");
        assert_eq!(render("{{.Config.Healthcheck}}"), "<nil>");
    }
}
