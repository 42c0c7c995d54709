//! Progress as one JSON object a line, in the form of BuildKit's status stream.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rbuild_builder::event::{VertexId, Warning};
use rbuild_cache::Digest;
use serde::Serialize;

use super::journal::{Journal, Note, State, Step};
use super::progress::Renderer;

/// Writes progress as JSON.
pub(crate) struct RawJson {
    out: Box<dyn Write + Send>,
    began: jiff::Timestamp,
    /// Which steps' beginnings have been written.
    names: BTreeMap<VertexId, String>,
    warned: BTreeSet<String>,
}

#[derive(Debug, Default, Serialize)]
struct Status<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<Vertex<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<TransferStatus<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<Log>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<WarningStatus>,
}

#[derive(Debug, Serialize)]
struct Vertex<'a> {
    digest: String,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct TransferStatus<'a> {
    id: &'a str,
    vertex: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    current: u64,
    timestamp: String,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

#[derive(Debug, Serialize)]
struct Log {
    vertex: String,
    stream: u8,
    data: String,
    timestamp: String,
}

#[derive(Debug, Serialize)]
struct WarningStatus {
    level: u8,
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detail: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    range: Vec<Range>,
}

#[derive(Debug, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Serialize)]
struct Position {
    line: u32,
    character: u32,
}

impl RawJson {
    /// Writes to `out`; times count from `began`.
    pub(crate) fn new(out: Box<dyn Write + Send>, began: jiff::Timestamp) -> RawJson {
        RawJson {
            out,
            began,
            names: BTreeMap::new(),
            warned: BTreeSet::new(),
        }
    }

    fn time(&self, at: Duration) -> String {
        let offset = jiff::SignedDuration::try_from(at).unwrap_or_default();
        self.began
            .checked_add(offset)
            .unwrap_or(self.began)
            .to_string()
    }

    /// What names a vertex in this stream: consumers only compare it.
    fn digest(&mut self, vertex: VertexId, name: &str) -> String {
        let digest = || Digest::of(format!("{}\0{name}", vertex.0).as_bytes()).to_string();
        self.names.entry(vertex).or_insert_with(digest).clone()
    }

    fn vertex<'a>(&mut self, id: VertexId, step: &'a Step) -> Vertex<'a> {
        let (cached, error) = match &step.state {
            State::Cached => (true, None),
            State::Failed(message) => (false, Some(message.as_str())),
            State::Cancelled => (false, Some("context canceled")),
            State::Running | State::Done(_) => (false, None),
        };
        Vertex {
            digest: self.digest(id, &step.name),
            name: &step.name,
            started: Some(self.time(step.began)),
            completed: step.ended.map(|ended| self.time(ended)),
            cached,
            error,
        }
    }

    fn transfers<'a>(
        &mut self,
        id: VertexId,
        step: &'a Step,
        only: Option<usize>,
    ) -> Vec<TransferStatus<'a>> {
        let vertex = self.digest(id, &step.name);
        let over = step.state != State::Running;
        step.transfers
            .iter()
            .enumerate()
            .filter(|(index, _)| only.is_none_or(|only| only == *index))
            .map(|(_, transfer)| TransferStatus {
                id: &transfer.what,
                vertex: vertex.clone(),
                total: transfer.total,
                current: transfer.current,
                timestamp: self.time(transfer.seen),
                started: self.time(transfer.began),
                completed: (over || transfer.is_complete()).then(|| self.time(transfer.seen)),
            })
            .collect()
    }

    fn log(&mut self, journal: &Journal, note: &Note) -> Option<Log> {
        let Note::Line(id, line) = note else {
            return None;
        };
        let step = journal.step(*id)?;
        let mut bytes = line.bytes.clone();
        bytes.push(b'\n');
        Some(Log {
            vertex: self.digest(*id, &step.name),
            stream: line.stream,
            data: BASE64_STANDARD.encode(&bytes),
            timestamp: self.time(step.began.saturating_add(line.at)),
        })
    }

    fn warning(&mut self, warning: &Warning) -> Option<WarningStatus> {
        let short = match &warning.rule {
            Some(rule) => format!("{rule}: {}", warning.message),
            None => warning.message.clone(),
        };
        let line = warning.line.unwrap_or(0);
        let position = || Position { line, character: 0 };
        self.warned
            .insert(format!("{short}\0{line}"))
            .then(|| WarningStatus {
                level: 1,
                short: BASE64_STANDARD.encode(short.as_bytes()),
                detail: warning
                    .help
                    .iter()
                    .map(|help| BASE64_STANDARD.encode(help.as_bytes()))
                    .collect(),
                url: warning.url.clone(),
                range: warning
                    .line
                    .map(|_| Range {
                        start: position(),
                        end: position(),
                    })
                    .into_iter()
                    .collect(),
            })
    }

    fn write(&mut self, status: &Status<'_>) {
        let empty = status.vertexes.is_empty()
            && status.statuses.is_empty()
            && status.logs.is_empty()
            && status.warnings.is_empty();
        if empty {
            return;
        }
        // Nobody reads any more: the build goes on without a listener.
        if let Ok(mut line) = serde_json::to_vec(status) {
            line.push(b'\n');
            let _ = self.out.write_all(&line);
            let _ = self.out.flush();
        }
    }
}

impl Renderer for RawJson {
    fn notes(&mut self, journal: &Journal, notes: &[Note], _at: Duration) {
        let mut status = Status::default();
        for note in notes {
            match note {
                Note::Started(id) | Note::Ended(id) => {
                    if let Some(step) = journal.step(*id) {
                        if matches!(note, Note::Ended(_)) {
                            status.statuses.extend(self.transfers(*id, step, None));
                        }
                        status.vertexes.push(self.vertex(*id, step));
                    }
                }
                Note::Moved(id, index) => {
                    if let Some(step) = journal.step(*id) {
                        status
                            .statuses
                            .extend(self.transfers(*id, step, Some(*index)));
                    }
                }
                Note::Line(..) => status.logs.extend(self.log(journal, note)),
                Note::Warned(warning) => status.warnings.extend(self.warning(warning)),
                // BuildKit's stream has no word for it.
                Note::Missed(_) | Note::Said(_) => {}
            }
        }
        self.write(&status);
    }

    fn tick(&mut self, _journal: &Journal, _at: Duration) {}

    fn finish(&mut self, _journal: &Journal, _at: Duration) {}
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rbuild_builder::event::{Event, Stream};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_line_is_an_object_of_the_status_stream() {
        let shared = Shared::default();
        let mut raw = RawJson::new(Box::new(shared.clone()), jiff::Timestamp::UNIX_EPOCH);
        let mut journal = Journal::default();
        let vertex = VertexId(0);
        let warning = Warning {
            rule: Some("Rule".into()),
            message: "text".into(),
            line: Some(3),
            url: None,
            help: None,
        };
        for (millis, event) in [
            (
                1,
                Event::Started {
                    vertex,
                    name: "[1/1] RUN x".into(),
                },
            ),
            (
                2,
                Event::Output {
                    vertex,
                    stream: Stream::Stderr,
                    bytes: b"hi\n".to_vec(),
                },
            ),
            (3, Event::Warning(warning.clone())),
            (3, Event::Warning(warning)),
            (
                4,
                Event::Failed {
                    vertex,
                    message: "broken".into(),
                },
            ),
        ] {
            let at = Duration::from_millis(millis);
            let notes = journal.apply(at, event);
            raw.notes(&journal, &notes, at);
        }
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        let digest = Digest::of(b"0\0[1/1] RUN x").to_string();
        assert_eq!(
            text.replace(&digest, "DIGEST"),
            concat!(
                r#"{"vertexes":[{"digest":"DIGEST","name":"[1/1] RUN x","#,
                r#""started":"1970-01-01T00:00:00.001Z"}]}"#,
                "\n",
                r#"{"logs":[{"vertex":"DIGEST","stream":2,"data":"aGkK","#,
                r#""timestamp":"1970-01-01T00:00:00.002Z"}]}"#,
                "\n",
                r#"{"warnings":[{"level":1,"short":"UnVsZTogdGV4dA==","range":[{"start":"#,
                r#"{"line":3,"character":0},"end":{"line":3,"character":0}}]}]}"#,
                "\n",
                r#"{"vertexes":[{"digest":"DIGEST","name":"[1/1] RUN x","#,
                r#""started":"1970-01-01T00:00:00.001Z","completed":"1970-01-01T00:00:00.004Z","#,
                r#""error":"broken"}]}"#,
                "\n",
            )
        );
    }
}
