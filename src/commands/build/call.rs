//! `--call` and `--check`: questions about a Dockerfile instead of a build.

use std::collections::BTreeMap;

use clap::ValueEnum as _;
use rbuild_builder::BuildRequest;
use rbuild_parser::outline::{self, Outline};
use rbuild_parser::{Dockerfile, Platform, closest, expand, parse};

use super::request::Requested;
use crate::commands::check;
use crate::config::Settings;
use crate::csv;
use crate::failure::{Failure, status};
use crate::ui;
use crate::ui::excerpt::Source;
use crate::ui::findings::FindingsFormat;
use crate::ui::outline::{outline_json, outline_text, targets_json, targets_text};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// What the build checks find.
    Check,
    /// What can be given to the build of a target.
    Outline,
    /// The stages that can be built.
    Targets,
}

/// A question and the form of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    method: Method,
    format: FindingsFormat,
    /// Findings do not change the exit status.
    ignore_status: bool,
}

/// Reads `--check` and `--call`; nothing if a build is asked for.
pub(super) fn parse_call(check: bool, call: Option<&str>) -> Result<Option<Call>, Failure> {
    let usage = |message: String| Failure::new(message).with_status(status::USAGE);
    let text = match (check, call) {
        (false, None | Some("")) => return Ok(None),
        (true, None | Some("")) => "check",
        (_, Some(text)) => text,
    };
    let fields = csv::fields(text)
        .map_err(|error| usage(format!("invalid value {text:?} for `--call`: {error}")))?;
    let mut name = None;
    let mut format = FindingsFormat::Text;
    let mut ignore_status = false;
    for field in &fields {
        match field.split_once('=') {
            Some(("format", value)) => {
                format = FindingsFormat::from_str(value, false).map_err(|_| {
                    usage(format!("invalid format {value:?} for `--call`")).hint(
                        "formats are `text` and `json`; for `check`, also `sarif` and `github`",
                    )
                })?;
            }
            Some(("ignorestatus", value)) => {
                ignore_status = value.parse().map_err(|_| {
                    usage(format!(
                        "invalid value {value:?} for `ignorestatus`: it must be `true` or `false`"
                    ))
                })?;
            }
            None if name.is_none() => name = Some(field.as_str()),
            _ => return Err(usage(format!("invalid field {field:?} in `--call={text}`"))),
        }
    }
    let method = match name {
        Some("check" | "lint") => Method::Check,
        Some("outline") => Method::Outline,
        Some("targets") => Method::Targets,
        Some("build") if !check => return Ok(None),
        other => {
            return Err(usage(format!(
                "there is no method {:?} for `--call`",
                other.unwrap_or_default()
            ))
            .hint("methods are `build`, `check`, `outline` and `targets`"));
        }
    };
    if check && method != Method::Check {
        return Err(usage(format!(
            "`--check` and `--call={text}` cannot be used together"
        )));
    }
    if method != Method::Check && !matches!(format, FindingsFormat::Text | FindingsFormat::Json) {
        return Err(usage(format!("invalid format in `--call={text}`"))
            .hint("formats are `text` and `json`"));
    }
    Ok(Some(Call {
        method,
        format,
        ignore_status,
    }))
}

/// Answers.
pub(super) fn run(settings: &Settings, call: Call, requested: &Requested) -> Result<u8, Failure> {
    let request = &requested.request;
    let (name, text) = (&request.dockerfile.name, &request.dockerfile.text);
    if call.method == Method::Check {
        let code = check::call(settings, requested, call.format)?;
        return Ok(if call.ignore_status { 0 } else { code });
    }
    if let Some(errors) = check::parse_errors(name, text, &settings.palette) {
        ui::message(&errors);
        return Ok(status::ERROR);
    }
    let parsed = parse(text);
    let source = Source::new(name, text);
    let json = call.format == FindingsFormat::Json;
    let answer = if call.method == Method::Targets {
        let targets = outline::targets(&parsed.dockerfile);
        if json {
            targets_json(&targets, &source)
        } else {
            targets_text(&targets)
        }
    } else {
        let (outline, values) = outline(&parsed.dockerfile, request)?;
        if json {
            outline_json(&outline, &values, &source)
        } else {
            outline_text(&outline, &values)
        }
    };
    ui::print(&answer)?;
    Ok(0)
}

/// The outline of the target, and the values that its arguments have.
fn outline(
    dockerfile: &Dockerfile,
    request: &BuildRequest,
) -> Result<(Outline, Vec<Option<String>>), Failure> {
    let index = target(dockerfile, request.target.as_deref())?;
    let mut outline = outline::outline(dockerfile, index)
        .ok_or_else(|| Failure::new("dockerfile contains no stages to build"))?;
    let given = &request.build_args;
    let host = Platform::host();
    let platform = request.platforms.first().unwrap_or(&host);
    let mut scope = predefined(platform, &host);
    // What a build sets by itself is no argument of it, unless the file gives it a default.
    outline.args.retain(|arg| {
        arg.default.is_some() || given.contains_key(&arg.name) || !scope.contains_key(&arg.name)
    });
    let values = outline.args.iter().map(|arg| {
        let value = given.get(&arg.name).cloned().or_else(|| {
            let default = arg.default.as_ref()?;
            // What an instruction between has set is not known here: shown as it is written.
            match expand(default, dockerfile.escape, &scope) {
                Ok(expansion) if expansion.undefined.is_empty() => Some(expansion.value),
                _ => Some(default.clone()),
            }
        });
        if let Some(value) = &value {
            scope.insert(arg.name.clone(), value.clone());
        }
        value
    });
    let values = values.collect();
    Ok((outline, values))
}

/// The position of the stage to build.
fn target(dockerfile: &Dockerfile, name: Option<&str>) -> Result<usize, Failure> {
    let stages = &dockerfile.stages;
    let Some(name) = name else {
        return Ok(stages.len().saturating_sub(1));
    };
    let lower = name.to_lowercase();
    let found = stages
        .iter()
        .rposition(|stage| stage.name.as_ref() == Some(&lower));
    found.ok_or_else(|| {
        let mut message =
            format!("failed to build: failed to solve: target stage {name:?} could not be found");
        let names = stages.iter().filter_map(|stage| stage.name.as_deref());
        if let Some(close) = closest(name, names) {
            message.push_str(&format!(" (did you mean {close}?)"));
        }
        let failure = Failure::new(message);
        if name.parse::<u64>().is_ok() {
            return failure.hint("stages are chosen by name: add `AS name` to its FROM");
        }
        failure
    })
}

/// The arguments that every build sets.
fn predefined(target: &Platform, host: &Platform) -> BTreeMap<String, String> {
    let mut scope = BTreeMap::new();
    for (prefix, platform) in [("TARGET", target), ("BUILD", host)] {
        let variant = platform.variant.clone().unwrap_or_default();
        for (name, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", String::new()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", variant),
        ] {
            scope.insert(format!("{prefix}{name}"), value);
        }
    }
    scope.insert("TARGETSTAGE".to_owned(), "default".to_owned());
    scope
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(check: bool, text: &str) -> Option<Call> {
        parse_call(check, Some(text)).unwrap()
    }

    #[test]
    fn calls_are_read_as_docker_reads_them() {
        let asked = |method, format, ignore_status| {
            Some(Call {
                method,
                format,
                ignore_status,
            })
        };
        let text = FindingsFormat::Text;
        assert_eq!(call(false, ""), None);
        assert_eq!(call(false, "build"), None);
        assert_eq!(call(true, ""), asked(Method::Check, text, false));
        assert_eq!(call(true, "check"), asked(Method::Check, text, false));
        assert_eq!(call(false, "lint"), asked(Method::Check, text, false));
        assert_eq!(
            call(false, "outline,format=json"),
            asked(Method::Outline, FindingsFormat::Json, false)
        );
        assert_eq!(
            call(false, "format=sarif,check,ignorestatus=true"),
            asked(Method::Check, FindingsFormat::Sarif, true)
        );
        for (check, bad) in [
            (false, "nonsense"),
            (false, "check,targets"),
            (false, "check,format=xml"),
            (false, "targets,format=sarif"),
            (false, "check,other=1"),
            (false, "format=json"),
            (true, "outline"),
            (true, "build"),
        ] {
            let failure = parse_call(check, Some(bad)).unwrap_err();
            assert_eq!(failure.status, status::USAGE, "{bad}");
        }
    }

    #[test]
    fn targets_are_found_by_name() {
        let dockerfile = parse(b"FROM a AS one\nFROM b AS Two\nFROM c").dockerfile;
        assert_eq!(target(&dockerfile, None).unwrap(), 2);
        assert_eq!(target(&dockerfile, Some("TWO")).unwrap(), 1);
        let message = target(&dockerfile, Some("tow"))
            .unwrap_err()
            .message
            .unwrap();
        assert!(message.ends_with("\"tow\" could not be found (did you mean two?)"));
    }
}
