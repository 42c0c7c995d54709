//! Compares what came out of a case with what BuildKit made of it.
//!
//! [`loose`] compares as the reference runner does without its `--strict`: success or failure,
//! config, history, trees and layers. [`strict`] adds what a user reads: error texts and places,
//! warnings, step names, output of commands, and times.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::data::Case;
use super::matching::{matches, normal_log, python_repr, same_lines};
use super::setup::Run;
use crate::support::progress;
use crate::support::tree::Entry;

/// Cases whose error text holds what the resolver of the machine says.
const TEXT_DEPENDS_ON_RESOLVER: [&str; 2] = ["A31", "Z05"];
/// Cases whose recorded log is a description of it.
const LOG_IS_DESCRIBED: [&str; 1] = ["M41"];
/// Cases whose command writes to both of its streams, whose lines may come in either order.
const LOG_OF_BOTH_STREAMS: [&str; 7] = ["J02", "J04", "M01", "M02", "M12", "M21", "Z11"];
/// Directories that the first `RUN` may leave in its layer as mount points.
const MOUNT_POINTS: [&str; 3] = ["d0755 dev 0:0", "d0755 proc 0:0", "d0755 sys 0:0"];

/// Differences as the reference runner sees them.
pub(super) fn loose(case: &Case, run: &Run) -> Vec<String> {
    let want_error = case.error();
    if want_error.is_some() != (run.code != 0) {
        let want = want_error.map_or("success".to_owned(), |text| format!("the error {text:?}"));
        return vec![format!(
            "want {want}, got exit status {}: {}",
            run.code,
            last_lines(run)
        )];
    }
    let Some(image) = &run.image else {
        return Vec::new();
    };
    let config = image
        .config
        .get("config")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let mut differences = Vec::new();
    for (key, want) in &case.observed {
        let got = match key.as_str() {
            "ls" => lines(image.tree.iter(), true),
            "last" => image
                .layers
                .last()
                .map_or(json!([]), |layer| members(layer, true)),
            "n" => json!(image.layers.len()),
            "hist" => history(&image.config["history"]),
            "cfg" => config.clone(),
            "r" => variable_r(&config),
            _ => {
                if let Some(field) = key.strip_prefix("cfg.") {
                    config.get(field).cloned().unwrap_or_default()
                } else if let Some(field) = loose_top_field(key) {
                    image.config.get(field).cloned().unwrap_or_default()
                } else if let Some(number) = key.strip_prefix("layer").and_then(|n| n.parse().ok())
                {
                    let number: usize = number;
                    image
                        .layers
                        .get(number)
                        .map_or(json!([]), |layer| members(layer, false))
                } else {
                    continue;
                }
            }
        };
        let (want, got) = comparable(key, want, &got);
        if want != got {
            differences.push(format!("{key}: want {want}, got {got}"));
        }
    }
    differences
}

/// Times are compared by [`strict`] only.
fn loose_top_field(key: &str) -> Option<&str> {
    key.strip_prefix("top.")
        .filter(|field| !matches!(*field, "created" | "history"))
}

fn variable_r(config: &Value) -> Value {
    let entries = config["Env"].as_array().cloned().unwrap_or_default();
    let found = entries
        .iter()
        .find_map(|entry| entry.as_str()?.strip_prefix("r=").map(Value::from));
    found.unwrap_or_default()
}

/// What the base image's own history says, and the name a client gives a local context, are not
/// compared; nor are the contents of long files and the mount points of a first `RUN`.
fn comparable(key: &str, want: &Value, got: &Value) -> (Value, Value) {
    let both = |change: &dyn Fn(&Value) -> Value| (change(want), change(got));
    match key {
        "hist" => both(&|list| {
            let rows = list.as_array().cloned().unwrap_or_default();
            rows.iter()
                .enumerate()
                .map(|(i, row)| plain_history(i, row))
                .collect()
        }),
        "ls" => both(&|list| each_line(list, &shorten)),
        "last" => both(&|list| without_mount_points(&each_line(list, &shorten))),
        _ if key.starts_with("layer") => both(&without_mount_points),
        _ => (want.clone(), got.clone()),
    }
}

fn plain_history(index: usize, row: &Value) -> Value {
    let text = row[0].as_str().unwrap_or_default();
    let is_base_copy = index == 0
        && text
            .strip_prefix("COPY ")
            .and_then(|t| t.strip_suffix(" / # buildkit"))
            .is_some_and(|source| !source.is_empty() && !source.contains(char::is_whitespace));
    if is_base_copy {
        return json!(["BASE", row[1]]);
    }
    match text.strip_prefix("local source for ") {
        Some(rest) => {
            let after_name = rest.find(char::is_whitespace).map_or("", |at| &rest[at..]);
            json!([format!("local source for *{after_name}"), row[1]])
        }
        None => json!([text, row[1]]),
    }
}

fn each_line(list: &Value, change: &dyn Fn(&str) -> String) -> Value {
    let lines = list.as_array().cloned().unwrap_or_default();
    lines
        .iter()
        .map(|line| change(line.as_str().unwrap_or_default()))
        .collect()
}

fn shorten(line: &str) -> String {
    match line.find(" =") {
        Some(at) if line.contains("bytes)") => line[..at].to_owned(),
        _ => line.to_owned(),
    }
}

fn without_mount_points(list: &Value) -> Value {
    let lines = list.as_array().cloned().unwrap_or_default();
    lines
        .into_iter()
        .filter(|line| !MOUNT_POINTS.contains(&line.as_str().unwrap_or_default()))
        .collect()
}

fn history(entries: &Value) -> Value {
    let entries = entries.as_array().cloned().unwrap_or_default();
    let row = |entry: &Value| json!([entry["created_by"], entry["empty_layer"] == json!(true)]);
    entries.iter().map(row).collect()
}

fn members(layer: &[(String, Entry)], contents: bool) -> Value {
    lines(layer.iter().map(|(name, entry)| (name, entry)), contents)
}

/// `-0644 path uid:gid [-> link] [='content']`, as the reference writes entries.
fn lines<'a>(entries: impl Iterator<Item = (&'a String, &'a Entry)>, contents: bool) -> Value {
    entries
        .map(|(name, entry)| {
            let Entry {
                kind,
                mode,
                uid,
                gid,
                link,
                ..
            } = entry;
            let mut line = format!("{kind}{mode:04o} {name} {uid}:{gid}");
            if let Some(link) = link {
                let _ = write!(line, " -> {link}");
            }
            if let Some(content) = entry.content.as_ref().filter(|_| contents) {
                let text = match &content.bytes {
                    Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    None => format!("({} bytes)", content.size),
                };
                if text.chars().count() < 60 {
                    let _ = write!(line, " ={}", python_repr(&text));
                }
            }
            line
        })
        .collect()
}

/// Differences in what a user reads, and in times; to be added to those of [`loose`].
pub(super) fn strict(case: &Case, run: &Run) -> Vec<String> {
    let mut differences = Vec::new();
    let text = &run.text;
    if let Some(want) = case.error().filter(|_| run.code != 0) {
        let own_path = want.split_once("<builder dir>");
        let want = own_path.map_or(want.as_str(), |(before, _)| before);
        if !TEXT_DEPENDS_ON_RESOLVER.contains(&case.id.as_str()) && !matches(want, text) {
            differences.push(format!("error: want {want:?}, got {:?}", last_lines(run)));
        }
    }
    let store = format!("{}/store", run.directory.display());
    // Where the log of a failed step is, is said on purpose.
    let mut told = text
        .lines()
        .filter(|line| !line.starts_with("note: full log: "));
    if told.any(|line| line.contains(&store)) {
        differences.push(format!(
            "a message shows a path of the store: {:?}",
            last_lines(run)
        ));
    }
    let list = |key: &str| -> Option<Vec<String>> {
        let list = case.observed.get(key)?.as_array()?;
        Some(
            list.iter()
                .map(|item| item.as_str().unwrap().to_owned())
                .collect(),
        )
    };
    for line in list("where").unwrap_or_default() {
        if !text.contains(&line) {
            differences.push(format!("place: want the line {line:?} in {text:?}"));
        }
    }
    let steps = progress::parse(text);
    if let Some(mut want) = list("warn") {
        let mut got = progress::warnings(text);
        got.retain(|line| !line.starts_with("rbuild/"));
        want.sort();
        got.sort();
        if want != got {
            differences.push(format!("warnings: want {want:?}, got {got:?}"));
        }
    }
    if let Some(want) = list("steps") {
        let mut want: Vec<_> = want
            .into_iter()
            .filter(|s| !s.starts_with("[context "))
            .collect();
        let mut got: Vec<_> = steps
            .iter()
            .filter(|step| step.is_instruction() && !step.is_from())
            .map(|step| step.title.clone())
            .collect();
        want.sort();
        got.sort();
        if want != got {
            differences.push(format!("steps: want {want:?}, got {got:?}"));
        }
    }
    differences.extend(log(case, &steps));
    differences.extend(times(case, run));
    differences.extend(platforms(case, run));
    differences
}

fn log(case: &Case, steps: &[progress::Step]) -> Option<String> {
    let want = &without_secrets(case, case.observed.get("log")?.as_str()?);
    if LOG_IS_DESCRIBED.contains(&case.id.as_str()) {
        return None;
    }
    let got = normal_log(
        steps
            .iter()
            .flat_map(|step| step.log.iter().map(String::as_str)),
    );
    // One record has a remark behind its last lines, and not the lines before them.
    if let Some((end, _)) = want.split_once(" (contents of") {
        return (!got.concat().ends_with(end)).then(|| format!("log: want …{end:?}, got {got:?}"));
    }
    let want = normal_log(want.lines());
    let sorted = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort();
        lines
    };
    let same = same_lines(&want, &got)
        || (LOG_OF_BOTH_STREAMS.contains(&case.id.as_str()) && sorted(&want) == sorted(&got));
    (!same).then(|| format!("log: want {want:?}, got {got:?}"))
}

/// The recorded output as rbuild shows it: values of secrets are hidden (docs/compatibility.md).
fn without_secrets(case: &Case, log: &str) -> String {
    let values = case.secrets.values().map(|value| value.trim());
    values
        .filter(|value| value.len() >= 4)
        .fold(log.to_owned(), |log, value| log.replace(value, "****"))
}

/// Modification times of files, and the times in the config.
fn times(case: &Case, run: &Run) -> Vec<String> {
    let mut differences = Vec::new();
    let Some(image) = &run.image else {
        return differences;
    };
    let during_build = run.started - 1..=run.ended + 1;
    let want_times = case.observed.get("mtimes").and_then(Value::as_object);
    for (name, want) in want_times.into_iter().flatten() {
        let got = image.tree.get(name).map(|entry| entry.mtime);
        let same = match (want.as_i64(), got) {
            (Some(want), Some(got)) => want == got,
            (None, Some(got)) => during_build.contains(&got),
            (_, None) => false,
        };
        if !same {
            differences.push(format!("mtime of {name}: want {want}, got {got:?}"));
        }
    }
    for field in ["created", "history"] {
        if let Some(want) = case.observed.get(&format!("top.{field}")) {
            let got = &image.config[field];
            if !same_with_now(want, got, &during_build) {
                differences.push(format!("{field}: want {want}, got {got}"));
            }
        }
    }
    differences
}

/// Equality in which `"<now>"` stands for a time during the build.
fn same_with_now(want: &Value, got: &Value, now: &std::ops::RangeInclusive<i64>) -> bool {
    match (want, got) {
        (Value::String(text), Value::String(got)) if text == "<now>" => got
            .parse::<jiff::Timestamp>()
            .is_ok_and(|time| now.contains(&time.as_second())),
        (Value::Array(want), Value::Array(got)) => {
            want.len() == got.len()
                && want
                    .iter()
                    .zip(got)
                    .all(|(want, got)| same_with_now(want, got, now))
        }
        (Value::Object(want), Value::Object(got)) => {
            want.len() == got.len()
                && want.iter().all(|(key, want)| {
                    got.get(key)
                        .is_some_and(|got| same_with_now(want, got, now))
                })
        }
        _ => want == got,
    }
}

/// Entries of the index of a multi-platform image.
fn platforms(case: &Case, run: &Run) -> Option<String> {
    let want = case.observed.get("list_entries")?;
    let nested = run.image.as_ref()?.nested.as_ref();
    let entries = nested.and_then(|index| index["manifests"].as_array());
    let row = |entry: &Value| {
        json!({
            "mediaType": entry["mediaType"],
            "platform": entry["platform"],
            "annotations": entry["annotations"],
        })
    };
    let got: Value = entries.into_iter().flatten().map(row).collect();
    let digests = |list: &Value| {
        // The digests of attestations and of what they are about differ from build to build.
        list.to_string()
            .split("sha256:")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    (digests(want) != digests(&got)).then(|| format!("index: want {want}, got {got}"))
}

fn last_lines(run: &Run) -> String {
    let text = run.text.trim_end();
    let start = text.char_indices().rev().nth(300).map_or(0, |(at, _)| at);
    text[start..].to_owned()
}
