//! The micro-cases that were observed on `BuildKit`: every one that can be judged without running a
//! step must come out the same here.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

#[path = "cases/evaluate.rs"]
mod evaluate;

use std::collections::BTreeSet;

use evaluate::Evaluation;
use rbuild_parser::{IgnoreMatcher, Linter, MatchState, parse};
use serde_json::Value;

/// Groups whose results come from the language alone.
const GROUPS: &str = "ABVHJWSOMXIYZKD";

/// Errors that only a build can meet, by how they begin.
const NEEDS_A_BUILD: [&str; 25] = [
    "process ",
    "failed to compute cache key",
    "failed to load LLB",
    "failed to marshal LLB",
    "failed to resolve source metadata",
    "0: failed to resolve",
    "mkdir ",
    "invalid user index",
    "invalid mount target",
    "invalid stage index",
    "target stage",
    "cannot copy ",
    "cannot replace ",
    "circular dependency",
    "variable expansion is not supported for --from",
    "secret s: not found",
    "no SSH key",
    "device feature",
    "too many links",
    "source can't be",
    "checksum ",
    "illegal exclusion pattern",
    "syntax error in pattern",
    "lint violation",
    "failed to parse check options",
];

struct Case {
    id: String,
    text: String,
    value: Value,
}

fn cases() -> Vec<Case> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fixtures/cases/dockerfile-cases.json"
    );
    let file = std::fs::read_to_string(path).unwrap();
    let json: Value = serde_json::from_str(&file).unwrap();
    let cases: Vec<Case> = json["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|value| {
            let id = value["id"].as_str().unwrap().to_owned();
            // One case is written down in short.
            let text = value["dockerfile"]
                .as_str()?
                .replace("xxxxxxxxxxxxxxxxxxxx…(70000 x)", &"x".repeat(70_000));
            Some(Case {
                id,
                text,
                value: value.clone(),
            })
        })
        .filter(|case| case.id.starts_with(|group| GROUPS.contains(group)))
        .collect();
    assert!(cases.len() > 400, "the file of cases has lost most of them");
    cases
}

impl Case {
    fn observed(&self, key: &str) -> &Value {
        &self.value["observed"][key]
    }

    fn error(&self) -> Option<&str> {
        self.observed("err")
            .as_str()
            .map(|text| text.trim_start_matches("failed to solve: "))
    }

    fn files(&self) -> Vec<(String, String)> {
        let mut files: Vec<(String, String)> = self.value["files"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, content)| (name.clone(), content.as_str().unwrap_or("").to_owned()))
            .collect();
        files.push((self.dockerfile_name().to_owned(), self.text.clone()));
        files
    }

    fn dockerfile_name(&self) -> &str {
        self.value["dfname"].as_str().unwrap_or("Dockerfile")
    }

    /// The content of the ignore file that applies.
    fn ignore_file(&self) -> Option<String> {
        let own = format!("{}.dockerignore", self.dockerfile_name());
        let files = self.files();
        let find = |wanted: &str| files.iter().find(|(name, _)| name == wanted);
        find(&own)
            .or_else(|| find(".dockerignore"))
            .map(|(_, content)| content.clone())
    }

    fn evaluate(&self) -> Evaluation {
        evaluate::evaluate(&self.text, &self.value, self.ignore_file().as_deref())
    }
}

/// Collects what is wrong with each case, so that one run shows all of it.
fn check_all(check: impl Fn(&Case) -> Result<(), String>) {
    let failures: Vec<String> = cases()
        .iter()
        .filter_map(|case| {
            check(case)
                .err()
                .map(|error| format!("{}: {error}", case.id))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} cases differ\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn errors_are_those_of_buildkit() {
    let mut reproduced = 0;
    let failures: Vec<String> = cases()
        .iter()
        .filter_map(|case| {
            let error = case.evaluate().error;
            match (case.error(), error.as_deref()) {
                (None, None) => None,
                (Some(wanted), Some(got)) if wanted == got => {
                    reproduced += 1;
                    None
                }
                (Some(wanted), None)
                    if NEEDS_A_BUILD.iter().any(|start| wanted.starts_with(start)) =>
                {
                    None
                }
                (wanted, got) => Some(format!("{}: wanted {wanted:?}\n     got {got:?}", case.id)),
            }
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(reproduced >= 85, "only {reproduced} errors were reproduced");
}

#[test]
fn errors_mark_the_lines_that_buildkit_marks() {
    check_all(|case| {
        let parsed = parse(case.text.as_bytes());
        let Some(first) = parsed.diagnostics.first() else {
            return Ok(());
        };
        let Some(places) = case
            .observed("where")
            .as_array()
            .filter(|places| !places.is_empty())
        else {
            return Ok(());
        };
        // BuildKit counts the lines of directives from 0: it marks the line before.
        if case.id == "A21" {
            return Ok(());
        }
        let marked = places
            .iter()
            .filter_map(Value::as_str)
            .filter(|line| line.contains(">>>"));
        let numbers: Vec<u32> = marked
            .filter_map(|line| line.split('|').next()?.trim().parse().ok())
            .collect();
        let got: Vec<u32> = (first.lines.first..=first.lines.last).collect();
        if numbers == got {
            Ok(())
        } else {
            Err(format!("wanted {numbers:?}, got {got:?}"))
        }
    });
}

#[test]
fn warnings_are_those_of_buildkit() {
    check_all(|case| {
        let Some(wanted) = case.observed("warn").as_array() else {
            return Ok(());
        };
        let mut wanted: Vec<&str> = wanted.iter().filter_map(Value::as_str).collect();
        let evaluation = case.evaluate();
        let mut got: Vec<&str> = evaluation.warnings.iter().map(String::as_str).collect();
        // BuildKit reports several unset names of one word in any order.
        wanted.sort_unstable();
        got.sort_unstable();
        if wanted == got {
            Ok(())
        } else {
            Err(format!("\n  wanted {wanted:#?}\n  got {got:#?}"))
        }
    });
}

#[test]
fn configs_are_those_of_buildkit() {
    check_all(|case| {
        if case.error().is_some() {
            return Ok(());
        }
        let evaluation = case.evaluate();
        let observed = case.value["observed"].as_object().unwrap();
        for (key, wanted) in observed {
            let keys: Vec<(String, &Value)> = match key.as_str() {
                "cfg" => wanted
                    .as_object()
                    .unwrap()
                    .iter()
                    .map(|(k, v)| (k.clone(), v))
                    .collect(),
                key => match key.strip_prefix("cfg.") {
                    Some(key) => vec![(key.to_owned(), wanted)],
                    None => continue,
                },
            };
            for (key, wanted) in keys {
                let Some(got) = evaluation.config(&key) else {
                    continue;
                };
                if got != *wanted {
                    return Err(format!("{key}: wanted {wanted}, got {got}"));
                }
            }
        }
        if let Some(wanted) = observed.get("r").and_then(Value::as_str) {
            let got = evaluation.variable("r");
            if got.as_deref() != Some(wanted) {
                return Err(format!("r: wanted {wanted:?}, got {got:?}"));
            }
        }
        Ok(())
    });
}

#[test]
fn histories_are_those_of_buildkit() {
    check_all(|case| {
        let Some(wanted) = case.observed("hist").as_array() else {
            return Ok(());
        };
        if case.error().is_some() {
            return Ok(());
        }
        let own = wanted.iter().filter_map(|entry| entry[0].as_str());
        // What the base image and named contexts brought is not the language's.
        let skip = if case.value["base"] == "bb" { 3 } else { 0 };
        let wanted: Vec<&str> = own
            .skip(skip)
            .filter(|text| !text.starts_with("local source for"))
            .collect();
        let got = case.evaluate().history;
        if wanted == got {
            Ok(())
        } else {
            Err(format!("\n  wanted {wanted:#?}\n  got {got:#?}"))
        }
    });
}

#[test]
fn heredoc_files_have_the_content_that_buildkit_gives() {
    check_all(|case| {
        if !case.id.starts_with('H') || case.error().is_some() {
            return Ok(());
        }
        let Some(list) = case.observed("ls").as_array() else {
            return Ok(());
        };
        let contents = case.evaluate().heredoc_files;
        for line in list.iter().filter_map(Value::as_str) {
            let Some((head, literal)) = line.split_once(" =") else {
                continue;
            };
            let name = head.rsplit('/').next().unwrap().split(' ').next().unwrap();
            let name = if head.contains('/') {
                name
            } else {
                head.split(' ').nth(1).unwrap()
            };
            let wanted = python_text(literal);
            // A single heredoc may be renamed by its destination.
            let found = contents.iter().any(|(_, content)| *content == wanted);
            if !found && !case.value["files"][name].is_string() {
                return Err(format!("{name}: wanted {wanted:?}, got {contents:?}"));
            }
        }
        Ok(())
    });
}

/// Reads the notation of the file contents, a Python literal.
fn python_text(literal: &str) -> String {
    let mut text = String::new();
    let mut chars = literal[1..literal.len() - 1].chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next().unwrap() {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            },
            other => other,
        });
    }
    text
}

#[test]
fn ignore_files_leave_what_buildkit_leaves() {
    let mut checked = 0;
    let failures: Vec<String> = cases()
        .iter()
        .filter(|case| case.id.starts_with('I') && case.text.ends_with("COPY . /\n"))
        .filter_map(|case| {
            let file = case.ignore_file().unwrap();
            let matcher = match (IgnoreMatcher::parse(file.as_bytes()), case.error()) {
                (Err(error), Some(wanted)) => {
                    checked += 1;
                    return (error != wanted).then(|| format!("{}: {error}", case.id));
                }
                (Err(error), None) => return Some(format!("{}: {error}", case.id)),
                (Ok(_), Some(wanted)) => return Some(format!("{}: wanted {wanted}", case.id)),
                (Ok(matcher), None) => matcher,
            };
            checked += 1;
            let wanted: BTreeSet<String> = case
                .observed("ls")
                .as_array()
                .unwrap()
                .iter()
                .map(listed)
                .collect();
            let got = kept(&matcher, &case.files());
            (wanted != got).then(|| format!("{}: wanted {wanted:?}\n  got {got:?}", case.id))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(checked >= 30, "only {checked} ignore files were checked");
}

/// Returns the path of a line such as `-0644 w space 0:0 ='x'`.
fn listed(line: &Value) -> String {
    let line = line.as_str().unwrap();
    let (_, rest) = line.split_once(' ').unwrap();
    let end = rest.find(" 0:0").unwrap();
    rest[..end].to_owned()
}

/// Walks the files as a build does: returns what is kept, with the parents of what is kept.
fn kept(matcher: &IgnoreMatcher, files: &[(String, String)]) -> BTreeSet<String> {
    let mut kept = BTreeSet::new();
    for (path, _) in files {
        let mut state: MatchState = matcher.root();
        let mut reached = String::new();
        let mut reachable = true;
        for part in path.trim_end_matches('/').split('/') {
            reachable &= !state.ignored || state.may_reinclude_below;
            state = matcher.enter(&state, part);
            reached = if reached.is_empty() {
                part.to_owned()
            } else {
                format!("{reached}/{part}")
            };
            assert_eq!(state.ignored, matcher.ignored(&reached), "{reached}");
            assert!(
                reachable || state.ignored,
                "{reached} is kept below a directory that is not read"
            );
            if !state.ignored {
                kept.insert(reached.clone());
            }
        }
        if !state.ignored {
            let parents = path
                .match_indices('/')
                .map(|(end, _)| path[..end].to_owned());
            kept.extend(parents.filter(|parent| !parent.is_empty()));
        }
    }
    kept
}

#[test]
fn failing_checks_fail_the_build() {
    check_all(|case| {
        let Some(wanted) = case.error().filter(|error| {
            error.starts_with("lint violation") || error.starts_with("failed to parse check")
        }) else {
            return Ok(());
        };
        let parsed = parse(case.text.as_bytes());
        let override_ = case.value["args"]["BUILDKIT_DOCKERFILE_CHECK"].as_str();
        let mut linter = match Linter::new(&parsed.dockerfile, override_) {
            Ok(linter) => linter,
            Err(error) if error.message == wanted => return Ok(()),
            Err(error) => return Err(error.message),
        };
        for finding in case.evaluate().findings {
            linter.add(finding);
        }
        match linter.verdict() {
            Err(error) if error == wanted => Ok(()),
            other => Err(format!("wanted {wanted}, got {other:?}")),
        }
    });
}
