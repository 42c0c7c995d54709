//! What is known of a running build: one record a step, fed by events, read by the renderers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rbuild_builder::event::{Event, Stream, VertexId, Warning};
use rbuild_builder::report::BuildReport;

use super::control::visible;

/// Lines of output that are kept for each step, for the live view and for the report of a failure.
const KEPT_LINES: usize = 200;
/// A line is cut here, so that output without line feeds cannot fill the memory.
const LONGEST_LINE: usize = 8 * 1024;

/// One line of a step's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Time since the step began.
    pub(crate) at: Duration,
    /// Which stream it came from: 1 or 2.
    pub(crate) stream: u8,
    /// Its bytes without line feed.
    pub(crate) bytes: Vec<u8>,
}

/// Where a step stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs.
    Running,
    /// Its result came from the cache.
    Cached,
    /// It ended well after this time.
    Done(Duration),
    /// It failed with this message.
    Failed(String),
    /// It was stopped.
    Cancelled,
}

/// Bytes moved by a step under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// What is moved.
    pub(crate) what: String,
    /// Bytes so far.
    pub(crate) current: u64,
    /// Bytes in all, when known.
    pub(crate) total: Option<u64>,
    /// When it began and when it was last heard of, since the build began.
    pub(crate) began: Duration,
    pub(crate) seen: Duration,
}

impl Transfer {
    /// Says whether everything has been moved.
    pub(crate) fn is_complete(&self) -> bool {
        self.total.is_some_and(|total| self.current >= total)
    }
}

/// Why the cache did not have a step.
#[derive(Debug, Clone)]
pub(crate) struct Miss {
    /// In words.
    pub(crate) text: String,
    /// See [`MissReason::ordinary`](rbuild_builder::event::MissReason::ordinary).
    pub(crate) ordinary: bool,
}

/// A step of the build.
#[derive(Debug)]
pub(crate) struct Step {
    /// Its number in the output, from 1, in the order of appearance.
    pub(crate) number: usize,
    /// Its progress name, such as `[2/7] RUN make`.
    pub(crate) name: String,
    /// When it began, since the build began.
    pub(crate) began: Duration,
    /// When it ended.
    pub(crate) ended: Option<Duration>,
    /// Where it stands.
    pub(crate) state: State,
    /// Why the cache did not have it.
    pub(crate) miss: Option<Miss>,
    /// What it moves.
    pub(crate) transfers: Vec<Transfer>,
    /// Its last lines of output.
    pub(crate) tail: VecDeque<Line>,
    /// How many lines came before those.
    pub(crate) dropped: usize,
    partial: [Option<Line>; 2],
}

/// What an event changed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Note {
    /// A step began.
    Started(VertexId),
    /// It is known why a step was not in the cache.
    Missed(VertexId),
    /// A step put out a line.
    Line(VertexId, Line),
    /// A transfer of a step, by its position, moved on.
    Moved(VertexId, usize),
    /// A step ended in whatever way.
    Ended(VertexId),
    /// Something passes by itself, such as a transfer that is tried again.
    Said(String),
    /// There is something to warn about.
    Warned(Warning),
}

/// All steps seen so far.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    steps: BTreeMap<VertexId, Step>,
    /// Reasons of misses that came before their step began.
    early: BTreeMap<VertexId, Miss>,
    planned: usize,
    report: Option<Arc<BuildReport>>,
    warnings: Vec<Warning>,
    /// What was last said of something that passes by itself.
    said: Option<(Duration, String)>,
}

impl Journal {
    /// Takes an event that came `at` this time since the build began; returns what it changed.
    pub(crate) fn apply(&mut self, at: Duration, event: Event) -> Vec<Note> {
        match event {
            Event::Planned { vertices } => {
                self.planned = vertices;
                Vec::new()
            }
            Event::Started { vertex, name } => self.begin(at, vertex, &name, State::Running),
            Event::Cached { vertex, name } => self.begin(at, vertex, &name, State::Cached),
            Event::CacheMiss { vertex, reason } => {
                let text = visible(&reason.text);
                let ordinary = reason.ordinary;
                self.missed(vertex, Miss { text, ordinary })
            }
            Event::Output {
                vertex,
                stream,
                bytes,
            } => self.output(at, vertex, stream, &bytes),
            Event::Reported(report) => {
                self.report = Some(report);
                Vec::new()
            }
            Event::Waiting { vertex, what } => {
                self.output(at, vertex, Stream::Stderr, format!("{what}\n").as_bytes())
            }
            Event::Progress {
                vertex,
                what,
                current,
                total,
            } => self.transfer(at, vertex, &what, current, total),
            Event::Finished {
                vertex, elapsed, ..
            } => self.end(at, vertex, State::Done(elapsed)),
            Event::Failed { vertex, message } => {
                self.end(at, vertex, State::Failed(visible(&message)))
            }
            Event::Cancelled { vertex } => self.end(at, vertex, State::Cancelled),
            Event::Notice { text } => {
                let text = visible(&text);
                self.said = Some((at, text.clone()));
                vec![Note::Said(text)]
            }
            Event::Warning(warning) => {
                self.warnings.push(warning.clone());
                vec![Note::Warned(warning)]
            }
            // Kinds of events that this version of the command does not know change nothing.
            _ => Vec::new(),
        }
    }

    /// The steps in the order of their numbers.
    pub(crate) fn steps(&self) -> Vec<(VertexId, &Step)> {
        let mut steps: Vec<_> = self.steps.iter().map(|(id, step)| (*id, step)).collect();
        steps.sort_by_key(|(_, step)| step.number);
        steps
    }

    /// One step.
    pub(crate) fn step(&self, vertex: VertexId) -> Option<&Step> {
        self.steps.get(&vertex)
    }

    /// How many steps there will be, as far as is known. Base images whose files nobody needs never
    /// become one.
    pub(crate) fn total(&self) -> usize {
        self.planned.max(self.steps.len())
    }

    /// Whether every step that began has given a result.
    pub(crate) fn all_done(&self) -> bool {
        let done = |step: &Step| matches!(step.state, State::Cached | State::Done(_));
        self.steps.values().all(done)
    }

    /// How many steps have ended.
    pub(crate) fn ended(&self) -> usize {
        self.steps
            .values()
            .filter(|step| step.state != State::Running)
            .count()
    }

    /// What the build did, once it has ended.
    pub(crate) fn report(&self) -> Option<&BuildReport> {
        self.report.as_deref()
    }

    /// What was said last of something that passes by itself, and when.
    pub(crate) fn said(&self) -> Option<&(Duration, String)> {
        self.said.as_ref()
    }

    /// All warnings so far.
    pub(crate) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    fn begin(&mut self, at: Duration, vertex: VertexId, name: &str, state: State) -> Vec<Note> {
        let number = self.steps.len() + 1;
        let miss = self.early.remove(&vertex);
        let missed = miss.is_some();
        let cached = state == State::Cached;
        let known = self.steps.contains_key(&vertex);
        let step = self.steps.entry(vertex).or_insert_with(|| Step {
            number,
            name: String::new(),
            began: at,
            ended: None,
            state: State::Running,
            miss,
            transfers: Vec::new(),
            tail: VecDeque::new(),
            dropped: 0,
            partial: [None, None],
        });
        step.name = visible(name);
        step.state = state;
        let mut notes = Vec::new();
        // A source that turned out to be known is not announced twice.
        if !(known && cached) {
            notes.push(Note::Started(vertex));
        }
        if missed {
            notes.push(Note::Missed(vertex));
        }
        if cached {
            step.ended = Some(at);
            notes.push(Note::Ended(vertex));
        }
        notes
    }

    fn missed(&mut self, vertex: VertexId, reason: Miss) -> Vec<Note> {
        let Some(step) = self.steps.get_mut(&vertex) else {
            self.early.insert(vertex, reason);
            return Vec::new();
        };
        step.miss = Some(reason);
        vec![Note::Missed(vertex)]
    }

    fn end(&mut self, at: Duration, vertex: VertexId, state: State) -> Vec<Note> {
        // A step that never began (cancelled while waiting) has nothing to show. One that came
        // from the cache has ended already.
        let Some(step) = self.steps.get_mut(&vertex) else {
            return Vec::new();
        };
        if step.state != State::Running {
            return Vec::new();
        }
        let mut notes = Vec::new();
        for partial in std::mem::take(&mut step.partial).into_iter().flatten() {
            step.keep(partial.clone());
            notes.push(Note::Line(vertex, partial));
        }
        step.state = state;
        step.ended = Some(at);
        if !matches!(step.state, State::Failed(_)) {
            step.tail = VecDeque::new();
        }
        notes.push(Note::Ended(vertex));
        notes
    }

    fn output(
        &mut self,
        at: Duration,
        vertex: VertexId,
        stream: Stream,
        bytes: &[u8],
    ) -> Vec<Note> {
        let Some(step) = self.steps.get_mut(&vertex) else {
            return Vec::new();
        };
        let at = at.saturating_sub(step.began);
        let slot = match stream {
            Stream::Stdout => 0,
            Stream::Stderr => 1,
        };
        let mut notes = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let line = step.partial[slot].get_or_insert_with(|| Line {
                at,
                stream: slot as u8 + 1,
                bytes: Vec::new(),
            });
            let room = LONGEST_LINE - line.bytes.len();
            let window = &rest[..rest.len().min(room)];
            let feed = window.iter().position(|byte| *byte == b'\n');
            let taken = feed.unwrap_or(window.len());
            line.bytes.extend_from_slice(&rest[..taken]);
            rest = &rest[taken + usize::from(feed.is_some())..];
            if (feed.is_some() || line.bytes.len() >= LONGEST_LINE)
                && let Some(mut line) = step.partial[slot].take()
            {
                if line.bytes.ends_with(b"\r") {
                    line.bytes.pop();
                }
                step.keep(line.clone());
                notes.push(Note::Line(vertex, line));
            }
        }
        notes
    }

    fn transfer(
        &mut self,
        at: Duration,
        vertex: VertexId,
        what: &str,
        current: u64,
        total: Option<u64>,
    ) -> Vec<Note> {
        let Some(step) = self.steps.get_mut(&vertex) else {
            return Vec::new();
        };
        let what = visible(what);
        let known = step
            .transfers
            .iter()
            .position(|transfer| transfer.what == what);
        let index = known.unwrap_or(step.transfers.len());
        match step.transfers.get_mut(index) {
            Some(transfer) => {
                transfer.current = current;
                transfer.total = total;
                transfer.seen = at;
            }
            None => {
                step.transfers.push(Transfer {
                    what,
                    current,
                    total,
                    began: at,
                    seen: at,
                });
            }
        }
        vec![Note::Moved(vertex, index)]
    }
}

impl Step {
    fn keep(&mut self, line: Line) {
        if self.tail.len() == KEPT_LINES {
            self.tail.pop_front();
            self.dropped += 1;
        }
        self.tail.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: VertexId = VertexId(0);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn output(journal: &mut Journal, bytes: &[u8]) -> Vec<String> {
        let event = Event::Output {
            vertex: A,
            stream: Stream::Stdout,
            bytes: bytes.to_vec(),
        };
        journal
            .apply(at(5), event)
            .into_iter()
            .map(|note| match note {
                Note::Line(_, line) => String::from_utf8(line.bytes).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn started() -> Journal {
        let mut journal = Journal::default();
        journal.apply(
            at(2),
            Event::Started {
                vertex: A,
                name: "[1/1] RUN x".into(),
            },
        );
        journal
    }

    #[test]
    fn output_is_cut_into_lines_wherever_it_was_read() {
        let mut journal = started();
        assert_eq!(output(&mut journal, b"one\ntw"), ["one"]);
        assert_eq!(output(&mut journal, b"o\r\n\n"), ["two", ""]);
        assert_eq!(output(&mut journal, b"rest"), [""; 0]);
        let notes = journal.apply(
            at(9),
            Event::Failed {
                vertex: A,
                message: "m".into(),
            },
        );
        let rest = Line {
            at: at(3),
            stream: 1,
            bytes: b"rest".to_vec(),
        };
        assert_eq!(notes, [Note::Line(A, rest), Note::Ended(A)]);
        assert_eq!(journal.step(A).unwrap().tail.len(), 4);
    }

    #[test]
    fn output_without_line_feeds_does_not_pile_up() {
        let mut journal = started();
        let lines = output(&mut journal, &vec![b'x'; 3 * LONGEST_LINE]);
        assert_eq!(lines.len(), 3);
        for _ in 0..KEPT_LINES + 5 {
            output(&mut journal, b"y\n");
        }
        let step = journal.step(A).unwrap();
        assert_eq!((step.tail.len(), step.dropped), (KEPT_LINES, 8));
    }

    #[test]
    fn a_reason_may_come_before_its_step() {
        let mut journal = Journal::default();
        let reason = rbuild_builder::event::MissReason {
            text: "why".into(),
            ordinary: false,
        };
        assert!(
            journal
                .apply(at(0), Event::CacheMiss { vertex: A, reason })
                .is_empty()
        );
        let notes = journal.apply(
            at(0),
            Event::Started {
                vertex: A,
                name: "n".into(),
            },
        );
        assert_eq!(notes, [Note::Started(A), Note::Missed(A)]);
    }

    #[test]
    fn a_step_that_never_began_is_not_shown_as_cancelled() {
        let mut journal = Journal::default();
        assert!(
            journal
                .apply(at(0), Event::Cancelled { vertex: A })
                .is_empty()
        );
    }
}
