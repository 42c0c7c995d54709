//! What `--call=outline` and `--call=targets` show, in BuildKit's two forms.

use base64::Engine as _;
use rbuild_parser::outline::{Outline, OutlineSecret, Target};
use serde::Serialize;

use super::control::visible;
use super::excerpt::Source;
use super::findings::{JsonLocation, location};
use super::table::columns_apart;

/// Blanks between the columns of a table, and behind those that stand beside text.
const GAP: usize = 3;
const NARROW_GAP: usize = 1;

/// The outline of a target as text. `values` are those of its arguments, in their order.
pub(crate) fn outline_text(outline: &Outline, values: &[Option<String>]) -> String {
    let mut text = String::new();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.as_deref().unwrap_or("(default)");
        let mut rows = vec![format!("TARGET:\t{}", cell(name))];
        if let Some(description) = &outline.description {
            rows.push(format!("DESCRIPTION:\t{}", cell(description)));
        }
        text.push_str(&table(&rows, NARROW_GAP));
        text.push('\n');
    }
    if !outline.args.is_empty() {
        let mut rows = vec!["BUILD ARG\tVALUE\tDESCRIPTION".to_owned()];
        for (arg, value) in outline.args.iter().zip(values) {
            rows.push(format!(
                "{}\t{}\t{}",
                cell(&arg.name),
                cell(value.as_deref().unwrap_or_default()),
                cell(arg.description.as_deref().unwrap_or_default())
            ));
        }
        text.push_str(&table(&rows, GAP));
        text.push('\n');
    }
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if list.is_empty() {
            continue;
        }
        let mut rows = vec![format!("{title}\tREQUIRED")];
        for item in list {
            let required = if item.required { "true" } else { "" };
            rows.push(format!("{}\t{required}", cell(&item.id)));
        }
        text.push_str(&table(&rows, GAP));
        text.push('\n');
    }
    text
}

/// The list of targets as text.
pub(crate) fn targets_text(targets: &[Target]) -> String {
    let mut rows = vec!["TARGET\tDESCRIPTION".to_owned()];
    for target in targets {
        let name = match (target.name.as_deref(), target.default) {
            (None, true) => "(default)".to_owned(),
            (None, false) => String::new(),
            (Some(name), true) => format!("{} (default)", cell(name)),
            (Some(name), false) => cell(name),
        };
        let description = cell(target.description.as_deref().unwrap_or_default());
        rows.push(format!("{name}\t{description}"));
    }
    table(&rows, NARROW_GAP)
}

fn table(rows: &[String], gap: usize) -> String {
    columns_apart(rows.iter().map(String::as_str), 0, gap)
}

/// Text from the file as a cell: tabs would end it.
fn cell(text: &str) -> String {
    visible(text).replace('\t', " ")
}

#[derive(Debug, Serialize)]
struct JsonOutline<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<JsonArg<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<JsonSecret<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<JsonSecret<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cache: Vec<JsonCache<'a>>,
    sources: [String; 1],
}

#[derive(Debug, Serialize)]
struct JsonArg<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    location: JsonLocation,
}

#[derive(Debug, Serialize)]
struct JsonSecret<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: JsonLocation,
}

#[derive(Debug, Serialize)]
struct JsonCache<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    location: JsonLocation,
}

#[derive(Debug, Serialize)]
struct JsonTargets<'a> {
    targets: Vec<JsonTarget<'a>>,
    sources: [String; 1],
}

#[derive(Debug, Serialize)]
struct JsonTarget<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    base: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a str>,
    location: JsonLocation,
}

fn data(source: &Source<'_>) -> String {
    base64::prelude::BASE64_STANDARD.encode(source.text())
}

/// The outline of a target as JSON.
pub(crate) fn outline_json(
    outline: &Outline,
    values: &[Option<String>],
    source: &Source<'_>,
) -> String {
    super::to_json(&JsonOutline {
        name: outline.name.as_deref(),
        description: outline.description.as_deref(),
        args: outline
            .args
            .iter()
            .zip(values)
            .map(|(arg, value)| JsonArg {
                name: &arg.name,
                description: arg.description.as_deref(),
                value: value.as_deref().filter(|value| !value.is_empty()),
                location: location(source, arg.lines, None),
            })
            .collect(),
        secrets: json_secrets(&outline.secrets, source),
        ssh: json_secrets(&outline.ssh, source),
        cache: outline
            .caches
            .iter()
            .map(|cache| JsonCache {
                id: &cache.id,
                location: location(source, cache.lines, None),
            })
            .collect(),
        sources: [data(source)],
    })
}

fn json_secrets<'a>(list: &'a [OutlineSecret], source: &Source<'_>) -> Vec<JsonSecret<'a>> {
    list.iter()
        .map(|item| JsonSecret {
            name: &item.id,
            required: item.required,
            location: location(source, item.lines, None),
        })
        .collect()
}

/// The list of targets as JSON.
pub(crate) fn targets_json(targets: &[Target], source: &Source<'_>) -> String {
    let targets = targets.iter().map(|target| JsonTarget {
        name: target.name.as_deref(),
        default: target.default,
        description: target.description.as_deref(),
        base: &target.base,
        platform: target.platform.as_deref(),
        location: location(source, target.lines, None),
    });
    super::to_json(&JsonTargets {
        targets: targets.collect(),
        sources: [data(source)],
    })
}

#[cfg(test)]
mod tests {
    use rbuild_parser::{outline, parse};
    use serde_json::{Value, json};

    use super::*;

    const TEXT: &str = "\
# v which version
ARG v=1
# tools what compiles
FROM a AS tools
FROM b:$v AS last
ARG v
ARG mode
RUN --mount=type=secret,id=token,required --mount=type=secret,id=other \\
    --mount=type=ssh --mount=type=cache,target=/c x
";

    fn outline() -> Outline {
        outline::outline(&parse(TEXT.as_bytes()).dockerfile, 1).unwrap()
    }

    #[test]
    fn an_outline_is_three_tables() {
        let values = [Some("1".to_owned()), None];
        assert_eq!(
            outline_text(&outline(), &values),
            "TARGET: last\n\
             \n\
             BUILD ARG   VALUE   DESCRIPTION\n\
             v           1       which version\n\
             mode                \n\
             \n\
             SECRET   REQUIRED\n\
             token    true\n\
             other    \n\
             \n\
             SSH       REQUIRED\n\
             default   \n\
             \n"
        );
        assert_eq!(outline_text(&Outline::default(), &[]), "");
    }

    #[test]
    fn targets_are_a_table() {
        let list = |text: &str| targets_text(&outline::targets(&parse(text.as_bytes()).dockerfile));
        assert_eq!(
            list(TEXT),
            "TARGET         DESCRIPTION\ntools          what compiles\nlast (default) \n"
        );
        assert_eq!(
            list("FROM a\nFROM b"),
            "TARGET    DESCRIPTION\n          \n(default) \n"
        );
    }

    #[test]
    fn json_has_buildkit_s_keys() {
        let source = Source::new("Dockerfile", TEXT.as_bytes());
        let at = |lines: std::ops::RangeInclusive<u32>| {
            let ranges: Vec<Value> = lines
                .map(|line| json!({"start": {"line": line}, "end": {"line": line}}))
                .collect();
            json!({ "ranges": ranges })
        };
        let values = [Some("1".to_owned()), None];
        let text = outline_json(&outline(), &values, &source);
        let sources = json!([base64::prelude::BASE64_STANDARD.encode(TEXT)]);
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({
                "name": "last",
                "args": [
                    {"name": "v", "description": "which version", "value": "1", "location": at(2..=2)},
                    {"name": "mode", "location": at(7..=7)},
                ],
                "secrets": [
                    {"name": "token", "required": true, "location": at(8..=9)},
                    {"name": "other", "location": at(8..=9)},
                ],
                "ssh": [{"name": "default", "location": at(8..=9)}],
                "cache": [{"ID": "/c", "location": at(8..=9)}],
                "sources": sources,
            })
        );
        let targets = outline::targets(&parse(TEXT.as_bytes()).dockerfile);
        let text = targets_json(&targets, &source);
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({
                "targets": [
                    {"name": "tools", "description": "what compiles", "base": "a", "location": at(4..=4)},
                    {"name": "last", "default": true, "base": "b:$v", "location": at(5..=5)},
                ],
                "sources": sources,
            })
        );
    }
}
