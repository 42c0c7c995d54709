//! Findings as a SARIF 2.1.0 log.
//!
//! Lines and columns count from 1, columns in characters, the end column is the one behind
//! (sections 3.30.5 to 3.30.8 of the specification).

use rbuild_builder::BuildError;
use rbuild_parser::{LineRange, LintFinding, RULES, Span};
use serde_json::{Map, Value, json};

use super::Findings;

/// The rule that errors are reported under: not one of the checks, and not to be switched off.
const ERROR_RULE: &str = "rbuild/BuildError";

impl Findings<'_> {
    /// The log as JSON text.
    pub(crate) fn sarif(&self) -> String {
        let findings = self.warnings.iter().map(|finding| self.finding(finding));
        let errors = self.errors.iter().map(|error| self.error(error));
        let results: Vec<Value> = findings.chain(errors).collect();
        super::super::to_json(&json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": {"driver": {
                    "name": "rbuild",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": rules(),
                }},
                "columnKind": "unicodeCodePoints",
                "artifacts": [{
                    "location": {"uri": uri(self.path)},
                    "sourceLanguage": "dockerfile",
                }],
                "results": results,
            }],
        }))
    }

    fn finding(&self, finding: &LintFinding) -> Value {
        let index = RULES.iter().position(|rule| *rule == finding.rule);
        let place = Some((finding.lines, Some(finding.span)));
        let help = finding.help.as_slice();
        let mut result = self.result(finding.rule.name, index, &finding.message, help, place);
        result.insert("level".into(), "warning".into());
        Value::Object(result)
    }

    fn error(&self, error: &BuildError) -> Value {
        let place = self.error_place(error);
        let index = Some(RULES.len());
        let mut result = self.result(ERROR_RULE, index, &error.message, &error.help, place);
        result.insert("level".into(), "error".into());
        if place.is_some() && !error.labels.is_empty() {
            let labels = error.labels.iter().map(|(span, label)| {
                let mut related = self.location(Some((LineRange::default(), Some(*span))));
                related["message"] = json!({"text": label});
                related
            });
            result.insert("relatedLocations".into(), labels.collect());
        }
        Value::Object(result)
    }

    fn result(
        &self,
        rule: &str,
        index: Option<usize>,
        message: &str,
        help: &[String],
        place: Option<(LineRange, Option<Span>)>,
    ) -> Map<String, Value> {
        let text: Vec<&str> = std::iter::once(message)
            .chain(help.iter().map(String::as_str))
            .collect();
        let mut result = Map::new();
        result.insert("ruleId".into(), rule.into());
        if let Some(index) = index {
            result.insert("ruleIndex".into(), index.into());
        }
        result.insert("message".into(), json!({"text": text.join("\n")}));
        result.insert("locations".into(), json!([self.location(place)]));
        result
    }

    /// A place in the file; the file as a whole where no place is known.
    fn location(&self, place: Option<(LineRange, Option<Span>)>) -> Value {
        let mut physical = json!({"artifactLocation": {"uri": uri(self.path), "index": 0}});
        if let Some((lines, span)) = place
            && let Some(lines) = self.source.lines(lines, span)
        {
            let part = self.source.places(span.unwrap_or_default());
            physical["region"] = match part {
                Some((start, end)) => json!({
                    "startLine": start.line,
                    "startColumn": start.column + 1,
                    "endLine": end.line,
                    "endColumn": end.column + 1,
                }),
                None => json!({"startLine": lines.first, "endLine": lines.last}),
            };
        }
        json!({"physicalLocation": physical})
    }
}

/// Descriptions of all rules, so that an index into them means the same in every log.
fn rules() -> Vec<Value> {
    let mut rules: Vec<Value> = RULES
        .iter()
        .map(|rule| {
            let mut descriptor = json!({
                "id": rule.name,
                "shortDescription": {"text": rule.description},
                "defaultConfiguration": {"level": "warning", "enabled": !rule.experimental},
            });
            if !rule.url.is_empty() {
                descriptor["helpUri"] = rule.url.into();
            }
            descriptor
        })
        .collect();
    rules.push(json!({
        "id": ERROR_RULE,
        "shortDescription": {"text": "The file should build"},
        "defaultConfiguration": {"level": "error"},
    }));
    rules
}

/// A path as a URI: absolute ones with their scheme, others relative to the working directory.
fn uri(path: &str) -> String {
    let mut uri = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                uri.push(byte as char);
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::super::tests::{error, findings, with};
    use super::*;

    #[test]
    fn results_point_into_the_file() {
        let error = error();
        let text = with(&findings(), Some(&error), Findings::sarif);
        let log: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(log["version"], "2.1.0");
        let run = &log["runs"][0];
        let place = |region: Value| {
            let artifact = json!({"uri": "a%20b/Dockerfile", "index": 0});
            match region {
                Value::Null => json!({"physicalLocation": {"artifactLocation": artifact}}),
                region => {
                    json!({"physicalLocation": {"artifactLocation": artifact, "region": region}})
                }
            }
        };
        let results = run["results"].as_array().unwrap();
        assert_eq!(results.len(), 4);
        assert_eq!(results[0]["ruleId"], "StageNameCasing");
        assert_eq!(results[0]["level"], "warning");
        assert_eq!(
            results[0]["locations"],
            json!([place(
                json!({"startLine": 1, "startColumn": 11, "endLine": 1, "endColumn": 12})
            )])
        );
        assert_eq!(results[1]["message"]["text"], "about \"d e\"\nleave it out");
        assert_eq!(results[2]["level"], "error");
        assert_eq!(
            results[2]["relatedLocations"][0]["message"]["text"],
            "the stage"
        );
        assert_eq!(results[3]["locations"], json!([place(Value::Null)]));
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        for result in results {
            let index = result["ruleIndex"].as_u64().unwrap() as usize;
            assert_eq!(rules[index]["id"], result["ruleId"]);
        }
    }

    #[test]
    fn paths_become_uris() {
        assert_eq!(uri("a:b/ü"), "a%3Ab/%C3%BC");
        assert_eq!(uri("/x/Dockerfile"), "file:///x/Dockerfile");
    }
}
