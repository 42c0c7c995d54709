//! `--output` and `--annotation`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rbuild_builder::BuildRequest;
use rbuild_builder::request::{ArchiveTarget, Destination, Output, OutputKind, OutputOptions};
use rbuild_cache::{Compression, CompressionKind};
use rbuild_parser::{ImageReference, closest};
use rbuild_registry::ClientOptions;

use crate::csv;
use crate::failure::Failure;

/// Attributes that only ask for what happens anyway, with the values that do.
const HARMLESS: &[(&str, &[&str])] = &[
    ("push", &["false"]),
    ("push-by-digest", &["false"]),
    ("store", &["true"]),
    ("registry.insecure", &["false"]),
    ("unpack", &["true", "false"]),
    ("prefer-nondist-layers", &["false"]),
    ("platform-split", &["false"]),
    ("mode", &["copy"]),
    // About attestations, which there are none of.
    ("attestation-inline", &["true", "false"]),
    ("oci-artifact", &["true", "false"]),
];

/// Attributes that `BuildKit` knows and that are not there yet.
const MISSING: &[&str] = &[
    "name-canonical",
    "dangling-name-prefix",
    "context",
    "source-date-epoch",
    "ref",
];

/// Attributes that are there.
const KNOWN: &[&str] = &[
    "type",
    "dest",
    "tar",
    "name",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "rewrite-timestamp",
];

/// Parses the values of `--output`.
pub(super) fn parse(values: &[String], load: bool, push: bool) -> Result<Vec<Output>, Failure> {
    let mut outputs: Vec<Output> = Vec::new();
    for value in values {
        outputs.extend(parse_one(value)?);
    }
    let pushed = |output: &Output| matches!(output.kind, OutputKind::Registry { .. });
    if push && !outputs.iter().any(pushed) {
        outputs.push(Output {
            kind: OutputKind::Registry {
                names: Vec::new(),
                by_digest: false,
            },
            options: OutputOptions::default(),
        });
    }
    let stored = |output: &Output| matches!(output.kind, OutputKind::Image { .. });
    if outputs.is_empty() || (load && !outputs.iter().any(stored)) {
        outputs.push(Output {
            kind: OutputKind::Image { names: Vec::new() },
            options: OutputOptions::default(),
        });
    }
    Ok(outputs)
}

/// One `--output`: a path, `-`, or `key=value,…`.
fn parse_one(value: &str) -> Result<Vec<Output>, Failure> {
    let invalid = |reason: String| Failure::new(format!("invalid output `{value}`: {reason}"));
    let fields = csv::fields(value).map_err(|error| invalid(error.to_string()))?;
    if let [path] = fields.as_slice()
        && path == value
        && !value.starts_with("type=")
    {
        let kind = match value {
            "" => return Err(invalid("it is empty".into())),
            "-" => OutputKind::Tar(Destination::Stdout),
            path => OutputKind::Local(PathBuf::from(path)),
        };
        return Ok(vec![Output {
            kind,
            options: OutputOptions::default(),
        }]);
    }
    let attributes = attributes(&fields).map_err(invalid)?;
    from_attributes(attributes).map_err(|reason| match reason {
        Reason::Invalid(reason) => invalid(reason),
        Reason::Failure(failure) => failure,
    })
}

/// The `key=value` fields by their keys.
pub(super) fn attributes(fields: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut attributes = BTreeMap::new();
    for field in fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("`{field}` is not of the form key=value"));
        };
        // Names behind `annotation.` keep their case.
        let key = key.trim();
        let key = match key.split_once('.') {
            Some((level, name)) if level.starts_with("annotation") => {
                format!("{}.{name}", level.to_ascii_lowercase())
            }
            _ => key.to_ascii_lowercase(),
        };
        attributes.insert(key, value.to_owned());
    }
    Ok(attributes)
}

/// Marks the registries of outputs with `registry.insecure=true` as such.
pub(super) fn insecure_hosts(
    values: &[String],
    request: &BuildRequest,
    options: &mut ClientOptions,
) -> Result<(), Failure> {
    for value in values {
        let fields = csv::fields(value).unwrap_or_default();
        let mut attributes = attributes(&fields).unwrap_or_default();
        if !matches!(
            boolean(&mut attributes, "registry.insecure"),
            Ok(Some(true))
        ) {
            continue;
        }
        let names = attributes.get("name").map(String::as_str);
        let names = parse_names(names).map_err(|reason| match reason {
            Reason::Invalid(reason) => Failure::new(reason),
            Reason::Failure(failure) => failure,
        })?;
        for name in request.tags.iter().chain(&names) {
            let host = name.domain().to_owned();
            options.registries.entry(host).or_default().insecure = true;
        }
    }
    Ok(())
}

/// Why an output cannot be had.
pub(super) enum Reason {
    Invalid(String),
    Failure(Failure),
}

impl From<String> for Reason {
    fn from(text: String) -> Reason {
        Reason::Invalid(text)
    }
}

fn from_attributes(mut attributes: BTreeMap<String, String>) -> Result<Vec<Output>, Reason> {
    let Some(kind) = attributes.remove("type") else {
        return Err("type is required for output".to_owned().into());
    };
    let dest = attributes.remove("dest").filter(|dest| !dest.is_empty());
    let tar = boolean(&mut attributes, "tar")?;
    let names = attributes.remove("name");
    let pushes = matches!(kind.as_str(), "image" | "registry");
    let mut flag = |key| {
        if pushes {
            boolean(&mut attributes, key).map(Option::unwrap_or_default)
        } else {
            Ok(false)
        }
    };
    let (by_digest, push) = (flag("push-by-digest")?, flag("push")?);
    flag("registry.insecure")?;
    let options = options(&mut attributes)?;
    refuse_rest(&attributes)?;
    if tar.is_some() && !matches!(kind.as_str(), "oci" | "docker") {
        return Err(format!("`tar` has no meaning for type {kind}").into());
    }
    let kind = match kind.as_str() {
        "image" => OutputKind::Image {
            names: parse_names(names.as_deref())?,
        },
        // Without a file, Docker loads the image into its store.
        "docker" if dest.is_none() && tar != Some(false) => OutputKind::Image {
            names: parse_names(names.as_deref())?,
        },
        "oci" => OutputKind::Oci(archive(dest.as_deref(), tar, "oci")?),
        "docker" => OutputKind::Docker(archive(dest.as_deref(), tar, "docker")?),
        "tar" => OutputKind::Tar(destination(dest.as_deref())),
        "local" => match dest.as_deref() {
            None => return Err("dest is required for local exporter".to_owned().into()),
            Some("-") => return Err("dest cannot be stdout for local exporter".to_owned().into()),
            Some(path) => OutputKind::Local(PathBuf::from(path)),
        },
        "cacheonly" => OutputKind::CacheOnly,
        "registry" => OutputKind::Registry {
            names: parse_names(names.as_deref())?,
            by_digest,
        },
        other => {
            return Err(format!(
                "unknown type `{other}`; there is image, registry, oci, docker, tar, local and \
                 cacheonly"
            )
            .into());
        }
    };
    let mut outputs = Vec::new();
    if let OutputKind::Image { names } = &kind
        && push
    {
        let names = names.clone();
        let kind = OutputKind::Registry { names, by_digest };
        let options = options.clone();
        outputs.push(Output { kind, options });
    }
    outputs.insert(0, Output { kind, options });
    Ok(outputs)
}

fn refuse_rest(attributes: &BTreeMap<String, String>) -> Result<(), Reason> {
    for (key, value) in attributes {
        let harmless = HARMLESS.iter().find(|(name, _)| name == key);
        match harmless {
            Some((_, values)) if values.contains(&value.as_str()) => {}
            None if !MISSING.contains(&key.as_str()) => {
                let near = closest(key, KNOWN.iter().copied());
                let near = near
                    .map(|near| format!(" (did you mean `{near}`?)"))
                    .unwrap_or_default();
                return Err(format!("unknown attribute `{key}`{near}").into());
            }
            _ => {
                let what = format!("the output attribute `{key}={value}`");
                return Err(Reason::Failure(Failure::unsupported(&what)));
            }
        }
    }
    Ok(())
}

fn archive(dest: Option<&str>, tar: Option<bool>, kind: &str) -> Result<ArchiveTarget, Reason> {
    if tar != Some(false) {
        return Ok(ArchiveTarget::Tar(destination(dest)));
    }
    match dest {
        Some("-") | None => {
            Err(format!("a directory as dest is required for {kind} with tar=false").into())
        }
        Some(path) => Ok(ArchiveTarget::Directory(PathBuf::from(path))),
    }
}

/// A file, or standard output for `-` and nothing.
fn destination(dest: Option<&str>) -> Destination {
    match dest {
        None | Some("-") => Destination::Stdout,
        Some(path) => Destination::File(PathBuf::from(path)),
    }
}

fn parse_names(names: Option<&str>) -> Result<Vec<ImageReference>, Reason> {
    let names = names.unwrap_or_default().split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(|name| match ImageReference::parse(name) {
            Ok(reference) => Ok(reference.with_default_tag()),
            Err(reason) => Err(format!("invalid name {name:?}: {reason}").into()),
        })
        .collect()
}

fn options(attributes: &mut BTreeMap<String, String>) -> Result<OutputOptions, Reason> {
    let mut options = OutputOptions {
        compression: compression(attributes)?,
        docker_media_types: boolean(attributes, "oci-mediatypes")? == Some(false),
        rewrite_timestamp: boolean(attributes, "rewrite-timestamp")?.unwrap_or(false),
        ..OutputOptions::default()
    };
    let annotations: Vec<String> = attributes
        .keys()
        .filter(|key| key.starts_with("annotation"))
        .cloned()
        .collect();
    for key in annotations {
        let value = attributes.remove(&key).unwrap_or_default();
        let (level, name) = match key.split_once('.') {
            Some((level, name)) if !name.is_empty() => (level, name),
            _ => return Err(format!("annotation `{key}` has no name").into()),
        };
        let level = match level.strip_prefix("annotation").unwrap_or_default() {
            "" => "manifest",
            level => level.strip_prefix('-').unwrap_or(level),
        };
        annotate(&mut options, level, name, &value)?;
    }
    Ok(options)
}

fn annotate(
    options: &mut OutputOptions,
    level: &str,
    name: &str,
    value: &str,
) -> Result<(), Reason> {
    if level.contains('[') {
        let what = "an annotation for one platform";
        return Err(Reason::Failure(Failure::unsupported(what)));
    }
    let annotations = match level {
        "manifest" => &mut options.annotations,
        "manifest-descriptor" => &mut options.descriptor_annotations,
        "index" | "index-descriptor" => &mut options.index_annotations,
        other => return Err(format!("unknown annotation level `{other}`").into()),
    };
    annotations.insert(name.to_owned(), value.to_owned());
    Ok(())
}

/// Adds `--annotation [LEVEL,…:]NAME=VALUE` to all outputs.
pub(super) fn add_annotations(outputs: &mut [Output], values: &[String]) -> Result<(), Failure> {
    for value in values {
        let invalid =
            |reason: &str| Failure::new(format!("invalid annotation `{value}`: {reason}"));
        let Some((key, text)) = value.split_once('=') else {
            return Err(invalid("it must have the form [level:]name=value"));
        };
        let is_level = |text: &str| {
            text.split(',')
                .all(|level| level.starts_with("manifest") || level.starts_with("index"))
        };
        let (levels, name) = match key.split_once(':') {
            Some((levels, name)) if is_level(levels) => (levels, name),
            _ => ("manifest", key),
        };
        if name.is_empty() {
            return Err(invalid("it has no name"));
        }
        for level in levels.split(',') {
            for output in outputs.iter_mut() {
                annotate(&mut output.options, level, name, text).map_err(
                    |reason| match reason {
                        Reason::Invalid(reason) => invalid(&reason),
                        Reason::Failure(failure) => failure,
                    },
                )?;
            }
        }
    }
    Ok(())
}

pub(super) fn compression(
    attributes: &mut BTreeMap<String, String>,
) -> Result<Option<Compression>, Reason> {
    let kind = match attributes.remove("compression").as_deref() {
        None => None,
        Some("estargz") => {
            return Err(Reason::Failure(Failure::unsupported(
                "`compression=estargz`",
            )));
        }
        Some(name) => Some(
            CompressionKind::from_name(name)
                .ok_or_else(|| format!("unsupported layer compression type: {name}"))?,
        ),
    };
    let level =
        match attributes.remove("compression-level") {
            None => None,
            Some(level) => Some(level.parse::<i32>().map_err(|_| {
                format!("non-integer value {level} specified for compression-level")
            })?),
        };
    let force = boolean(attributes, "force-compression")?.unwrap_or(false);
    if kind.is_none() && level.is_none() && !force {
        return Ok(None);
    }
    Ok(Some(Compression {
        kind: kind.unwrap_or(CompressionKind::Gzip),
        level,
        force,
    }))
}

pub(super) fn boolean(
    attributes: &mut BTreeMap<String, String>,
    key: &str,
) -> Result<Option<bool>, Reason> {
    match attributes.remove(key).as_deref() {
        None => Ok(None),
        Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(other) => Err(format!("non-bool value {other} specified for {key}").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn one(value: &str) -> Output {
        let mut outputs = parse(&[value.to_owned()], false, false).unwrap();
        assert_eq!(outputs.len(), 1);
        outputs.remove(0)
    }

    fn error(value: &str) -> String {
        let failure = parse(&[value.to_owned()], false, false).unwrap_err();
        failure.message.unwrap()
    }

    #[test]
    fn short_forms() {
        assert!(matches!(
            one("-").kind,
            OutputKind::Tar(Destination::Stdout)
        ));
        assert!(
            matches!(one("out=1").kind, OutputKind::Local(path) if path.as_path() == Path::new("out=1"))
        );
        assert!(matches!(
            parse(&[], false, false).unwrap()[0].kind,
            OutputKind::Image { .. }
        ));
        assert_eq!(parse(&["out".into()], true, false).unwrap().len(), 2);
        assert_eq!(parse(&["type=image".into()], true, false).unwrap().len(), 1);
    }

    #[test]
    fn types_and_destinations() {
        use {ArchiveTarget as Target, OutputKind as Kind};
        assert!(matches!(
            one("type=oci,dest=a.tar").kind,
            Kind::Oci(Target::Tar(Destination::File(path))) if path.as_path() == Path::new("a.tar")
        ));
        assert!(matches!(
            one("type=oci").kind,
            Kind::Oci(Target::Tar(Destination::Stdout))
        ));
        assert!(matches!(
            one("type=oci,tar=false,dest=d").kind,
            Kind::Oci(Target::Directory(path)) if path.as_path() == Path::new("d")
        ));
        assert!(matches!(one("type=docker").kind, Kind::Image { .. }));
        assert!(matches!(one("type=docker,dest=-").kind, Kind::Docker(_)));
        assert!(matches!(one("type=cacheonly").kind, Kind::CacheOnly));
        assert!(matches!(
            one("type=image,\"name=a,b:2\",push=false").kind,
            Kind::Image { names } if names.len() == 2
        ));
    }

    #[test]
    fn registries_are_pushed_to() {
        use OutputKind as Kind;
        let parse = |value: &str| parse(&[value.to_owned()], false, true).unwrap();
        let outputs = parse("type=registry,name=r.example/a,push-by-digest=true");
        assert!(matches!(
            &outputs[..],
            [Output { kind: Kind::Registry { names, by_digest: true }, .. }] if names.len() == 1
        ));
        let outputs = parse("type=image,name=r.example/a,push=true");
        assert!(matches!(outputs[0].kind, Kind::Image { .. }));
        assert!(matches!(outputs[1].kind, Kind::Registry { .. }));
        let outputs = parse("out");
        assert!(matches!(outputs[1].kind, Kind::Registry { .. }));
    }

    #[test]
    fn options_are_typed() {
        let options = one(
            "type=oci,dest=x,compression=zstd,compression-level=9,force-compression=true,\
             oci-mediatypes=false,rewrite-timestamp=1,oci-artifact=false,annotation.A.b=1,\
             annotation-manifest-descriptor.d=2,annotation-index-descriptor.j=3",
        )
        .options;
        let compression = options.compression.unwrap();
        assert_eq!(compression.kind, CompressionKind::Zstd);
        assert_eq!((compression.level, compression.force), (Some(9), true));
        assert!(options.docker_media_types && options.rewrite_timestamp);
        assert_eq!(
            options.annotations,
            BTreeMap::from([("A.b".into(), "1".into())])
        );
        assert_eq!(options.descriptor_annotations.len(), 1);
        assert_eq!(options.index_annotations.len(), 1);
        assert!(one("type=oci,dest=x").options.compression.is_none());
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        assert_eq!(
            error("type=oci,dest=x,push=true"),
            "the output attribute `push=true` is not supported yet"
        );
        assert_eq!(
            error("type=oci,dest=x,compresion=zstd"),
            "invalid output `type=oci,dest=x,compresion=zstd`: unknown attribute `compresion` (did \
             you mean `compression`?)"
        );
        assert!(error("dest=x,tar=false").contains("type is required"));
        assert!(error("type=local").contains("dest is required for local exporter"));
        assert!(error("type=oci,x").contains("not of the form key=value"));
        assert!(error("type=nope").contains("unknown type `nope`"));
        assert!(error("type=oci,dest=x,compression=lz4").contains("unsupported layer compression"));
        assert!(error("type=oci,dest=x,tar=maybe").contains("non-bool value maybe"));
        assert!(error("type=tar,tar=false").contains("no meaning"));
    }

    #[test]
    fn annotations_go_to_all_outputs() {
        let mut outputs = parse(
            &["type=oci,dest=x".into(), "type=image".into()],
            false,
            false,
        )
        .unwrap();
        let values = ["a=1", "index:b=2", "manifest,manifest-descriptor:c=3"].map(String::from);
        add_annotations(&mut outputs, &values).unwrap();
        for output in &outputs {
            assert_eq!(output.options.annotations.len(), 2);
            assert_eq!(output.options.index_annotations["b"], "2");
            assert_eq!(output.options.descriptor_annotations["c"], "3");
        }
        assert!(add_annotations(&mut outputs, &["x".into()]).is_err());
    }
}
