//! Findings in the form of `docker build --call=check,format=json`.
//!
//! Lines are counted from 1 and characters from 0, as there. Added are the exact characters of a
//! place, `help`, and `buildErrors` where a file has several errors; readers that do not know them
//! pass over them.

use base64::Engine as _;
use rbuild_builder::BuildError;
use rbuild_parser::{LineRange, Span};
use serde::Serialize;

use super::Findings;
use crate::ui::excerpt::Source;

#[derive(Debug, Serialize)]
struct JsonFindings<'a> {
    warnings: Vec<JsonWarning<'a>>,
    sources: [JsonSource<'a>; 1],
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    build_error: Option<JsonError<'a>>,
    #[serde(rename = "buildErrors", skip_serializing_if = "Vec::is_empty")]
    build_errors: Vec<JsonError<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonWarning<'a> {
    rule_name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'a str,
    detail: &'a str,
    location: JsonLocation,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct JsonSource<'a> {
    filename: &'a str,
    language: &'static str,
    data: String,
}

#[derive(Debug, Serialize)]
struct JsonError<'a> {
    message: &'a str,
    location: JsonLocation,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    help: &'a [String],
}

/// A place: one range a line, as BuildKit has it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct JsonLocation {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<JsonRange>,
}

#[derive(Debug, Serialize)]
struct JsonRange {
    start: JsonPosition,
    end: JsonPosition,
}

#[derive(Debug, Serialize)]
struct JsonPosition {
    line: u32,
    /// Nothing means the whole line.
    #[serde(skip_serializing_if = "is_zero")]
    character: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The ranges of lines; the line that holds a part of its own has the characters of that part.
pub(crate) fn location(source: &Source<'_>, lines: LineRange, span: Option<Span>) -> JsonLocation {
    let Some(lines) = source.lines(lines, span) else {
        return JsonLocation::default();
    };
    let part = source
        .part(lines, span)
        .and_then(|span| source.places(span))
        .filter(|(start, end)| start.line == end.line);
    let range = |line| {
        let columns = part
            .filter(|(start, _)| start.line == line)
            .map_or((0, 0), |(start, end)| (start.column, end.column));
        let position = |character| JsonPosition { line, character };
        JsonRange {
            start: position(columns.0),
            end: position(columns.1),
        }
    };
    JsonLocation {
        ranges: (lines.first..=lines.last).map(range).collect(),
    }
}

impl Findings<'_> {
    /// The JSON text.
    pub(crate) fn json(&self) -> String {
        let warnings = self.warnings.iter().map(|finding| JsonWarning {
            rule_name: finding.rule.name,
            description: finding.rule.description,
            url: finding.rule.url,
            detail: &finding.message,
            location: location(&self.source, finding.lines, Some(finding.span)),
            help: finding.help.as_deref(),
        });
        let mut errors = self.errors.iter().map(|error| self.json_error(error));
        let several = self.errors.len() > 1;
        let findings = JsonFindings {
            warnings: warnings.collect(),
            sources: [JsonSource {
                filename: self.source.file(),
                language: "Dockerfile",
                data: base64::prelude::BASE64_STANDARD.encode(self.source.text()),
            }],
            build_error: errors.next(),
            build_errors: if several {
                self.errors
                    .iter()
                    .map(|error| self.json_error(error))
                    .collect()
            } else {
                Vec::new()
            },
        };
        super::super::to_json(&findings)
    }

    fn json_error<'e>(&self, error: &'e BuildError) -> JsonError<'e> {
        let place = self.error_place(error);
        JsonError {
            message: &error.message,
            location: place.map_or_else(JsonLocation::default, |(lines, span)| {
                location(&self.source, lines, span)
            }),
            help: &error.help,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{TEXT, error, finding, findings, with};
    use super::*;

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn findings_have_docker_s_keys() {
        let data = base64::prelude::BASE64_STANDARD.encode(TEXT);
        assert_eq!(
            parsed(&with(&findings(), None, Findings::json)),
            json!({
                "warnings": [
                    {
                        "ruleName": "StageNameCasing",
                        "description": "Stage names should be lowercase",
                        "url": "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
                        "detail": "about \"B\"",
                        "location": {"ranges": [
                            {"start": {"line": 1, "character": 10}, "end": {"line": 1, "character": 11}}
                        ]},
                    },
                    {
                        "ruleName": "rbuild/IgnoredFlag",
                        "description": "A flag that the instruction does not have should not be given",
                        "detail": "about \"d e\"",
                        "location": {"ranges": [
                            {"start": {"line": 2, "character": 6}, "end": {"line": 2, "character": 9}}
                        ]},
                        "help": "leave it out",
                    },
                ],
                "sources": [{"filename": "Dockerfile", "language": "Dockerfile", "data": data}],
            })
        );
        let none = parsed(&with(&[], None, Findings::json));
        assert_eq!(none["warnings"], json!([]));
    }

    #[test]
    fn errors_are_one_and_all() {
        let error = error();
        let value = parsed(&with(&[], Some(&error), Findings::json));
        let first = json!({
            "message": "unknown: CPOY",
            "location": {"ranges": [
                {"start": {"line": 3}, "end": {"line": 3, "character": 4}},
                {"start": {"line": 4}, "end": {"line": 4}},
            ]},
            "help": ["write COPY"],
        });
        assert_eq!(value["buildError"], first);
        assert_eq!(value["buildErrors"][0], first);
        assert_eq!(
            value["buildErrors"][1],
            json!({"message": "50% of\nall", "location": {}})
        );
    }

    #[test]
    fn a_whole_line_has_no_characters() {
        let finding = finding("StageNameCasing", 1, "FROM a AS B");
        let value = parsed(&with(&[finding], None, Findings::json));
        assert_eq!(
            value["warnings"][0]["location"]["ranges"],
            json!([{"start": {"line": 1}, "end": {"line": 1}}])
        );
    }
}
