//! Why a step was not found: its key's parts beside those of the step's last run, in words.

use rbuild_cache::BuildRecord;
use serde::{Deserialize, Serialize};

use super::listing::FileChanges;
use super::{CONTENT, PARENT, Parts};
use crate::event::MissReason;

/// Differences that the line of a miss names.
const NAMED: usize = 3;

/// Longest value that is shown whole.
const SHOWN: usize = 40;

/// One part of a key that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What it is, such as `ARG VERSION`, `command` or `files src/`.
    pub part: String,
    /// Its value when the step last ran; none if there was no such part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// Its value now; none if there is no such part any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// The files, where the part stands for some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FileChanges>,
}

/// What a miss is told from.
pub(crate) struct Miss<'a> {
    /// The step's key.
    pub(crate) parts: &'a Parts,
    /// Names of the variables that are build arguments.
    pub(crate) arguments: &'a [String],
    /// What the root file system comes from, such as `step [2/7]` or `the base image`.
    pub(crate) parent: &'a str,
    /// The newest record of the same step.
    pub(crate) previous: Option<&'a BuildRecord>,
    /// `--no-cache`.
    pub(crate) forced: bool,
    /// Which files of a source changed since the record, by the name of the part and the old value.
    pub(crate) files: &'a dyn Fn(&str, &str) -> Option<FileChanges>,
}

impl Miss<'_> {
    /// The reason in one line, and all differences.
    pub(crate) fn reason(&self) -> (MissReason, Vec<Change>) {
        let told = |text: &str| MissReason {
            text: text.to_owned(),
            ordinary: true,
        };
        if self.forced {
            return (told("--no-cache"), Vec::new());
        }
        let Some(previous) = self.previous else {
            return (told("first build of this step"), Vec::new());
        };
        let changes = self.changes(&previous.parts);
        let own: Vec<&Change> = changes.iter().filter(|c| c.part != PARENT).collect();
        let text = if !own.is_empty() {
            let mut text: Vec<String> = own.iter().take(NAMED).map(ToString::to_string).collect();
            if own.len() > NAMED {
                let last = text.pop().unwrap_or_default();
                text.push(format!("{last} (+{} more)", own.len() - NAMED));
            }
            text.join(", ")
        } else if changes.is_empty() {
            "its stored result is gone".to_owned()
        } else {
            format!("{} changed", self.parent)
        };
        (
            MissReason {
                text,
                ordinary: false,
            },
            changes,
        )
    }

    /// All differences: what is new or other first, then what is gone.
    fn changes(&self, old: &[(String, String)]) -> Vec<Change> {
        let new = self.parts.to_stored();
        let values = |parts: &[(String, String)], name: &str| -> Vec<String> {
            let named = parts.iter().filter(|(known, _)| known == name);
            named.map(|(_, value)| value.clone()).collect()
        };
        let mut changes = Vec::new();
        for (name, value) in &new {
            let olds = values(old, name);
            if olds.contains(value) {
                continue;
            }
            // Of several parts with one name (the words of a command) none is the other's old value.
            let before = match olds.as_slice() {
                [one] => Some(one.clone()),
                _ => None,
            };
            changes.push(self.change(name, before, Some(value.clone())));
        }
        for (name, value) in old {
            let now = values(&new, name);
            let replaced = now.len() == 1 && values(old, name).len() == 1;
            if !now.contains(value) && !replaced {
                changes.push(self.change(name, Some(value.clone()), None));
            }
        }
        changes
    }

    fn change(&self, name: &str, old: Option<String>, new: Option<String>) -> Change {
        let mut change = Change {
            part: self.label(name),
            old,
            new,
            files: None,
        };
        if let Some(source) = name.strip_prefix(CONTENT) {
            change.part = format!("files {source}");
            if let (Some(old), Some(_)) = (&change.old, &change.new) {
                change.files = (self.files)(name, old);
            }
        }
        change
    }

    /// `env NAME` as a Dockerfile would say it.
    fn label(&self, name: &str) -> String {
        match name.strip_prefix("env ") {
            Some(variable) if self.arguments.iter().any(|known| known == variable) => {
                format!("ARG {variable}")
            }
            Some(variable) => format!("ENV {variable}"),
            None => name.to_owned(),
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = self.part.strip_prefix("files ");
        let what = source.unwrap_or(&self.part);
        match (&self.old, &self.new, &self.files) {
            (_, _, Some(files)) => write!(formatter, "{files}"),
            (Some(_), Some(_), None) if source.is_some() => write!(formatter, "{what} changed"),
            (None, _, None) if source.is_some() => write!(formatter, "{what} is new"),
            (_, None, None) if source.is_some() => write!(formatter, "{what} is gone"),
            (Some(old), Some(new), None) => {
                write!(formatter, "{what} {} → {}", quote(old), quote(new))
            }
            (None, Some(new), None) => write!(formatter, "{what} {} is new", quote(new)),
            (Some(old), None, None) => write!(formatter, "{what} {} is gone", quote(old)),
            (None, None, None) => write!(formatter, "{what}"),
        }
    }
}

fn quote(value: &str) -> String {
    if value.chars().count() > SHOWN {
        format!("\"{}…\"", value.chars().take(SHOWN).collect::<String>())
    } else {
        format!("{value:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(entries: &[(&str, &str)]) -> Parts {
        let mut parts = Parts::new();
        for (name, value) in entries {
            parts.push(*name, *value);
        }
        parts
    }

    fn reason(new: &[(&str, &str)], old: Option<&[(&str, &str)]>, forced: bool) -> String {
        let record = old.map(|old| BuildRecord {
            key: parts(old).digest(),
            step: "s".into(),
            name: "n".into(),
            layers: Vec::new(),
            parts: parts(old).to_stored(),
            detail: serde_json::Value::Null,
            created_unix: 0,
            elapsed_ms: 0,
        });
        let files = |name: &str, _: &str| {
            (name == "content src/").then(|| FileChanges {
                source: "src/".into(),
                total: 1204,
                changed: vec!["src/main.rs".into(), "src/db.rs".into()],
                new: vec!["src/x.rs".into()],
                gone: Vec::new(),
            })
        };
        let miss = Miss {
            parts: &parts(new),
            arguments: &["VERSION".to_owned()],
            parent: "step [2/7]",
            previous: record.as_ref(),
            forced,
            files: &files,
        };
        miss.reason().0.text
    }

    #[test]
    fn a_miss_is_told_in_words() {
        let of = |new: &[(&str, &str)], old: &[(&str, &str)]| reason(new, Some(old), false);
        assert_eq!(
            reason(&[("a", "b")], None, false),
            "first build of this step"
        );
        assert_eq!(
            reason(&[("a", "b")], Some(&[("a", "b")]), true),
            "--no-cache"
        );
        assert_eq!(
            of(&[("a", "b")], &[("a", "b")]),
            "its stored result is gone"
        );
        assert_eq!(
            of(&[("env VERSION", "1.3")], &[("env VERSION", "1.2")]),
            r#"ARG VERSION "1.2" → "1.3""#
        );
        assert_eq!(
            of(&[("env V", "2")], &[("env V", "1")]),
            r#"ENV V "1" → "2""#
        );
        assert_eq!(of(&[("env V", "2")], &[]), r#"ENV V "2" is new"#);
        assert_eq!(of(&[], &[("user", "1")]), r#"user "1" is gone"#);
        assert_eq!(
            of(
                &[("content src/", "2"), (PARENT, "y")],
                &[("content src/", "1"), (PARENT, "x")]
            ),
            "2 of 1,204 files changed: src/main.rs, src/db.rs (+1 new)"
        );
        assert_eq!(
            of(&[("content a", "2")], &[("content a", "1")]),
            "a changed"
        );
        assert_eq!(of(&[("content a2", "2")], &[]), "a2 is new");
        assert_eq!(of(&[(PARENT, "y")], &[(PARENT, "x")]), "step [2/7] changed");
        let many: Vec<(String, String)> =
            (0..5).map(|i| (format!("p{i}"), i.to_string())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert!(of(&many, &[]).ends_with(r#"p2 "2" is new (+2 more)"#));
    }
}
