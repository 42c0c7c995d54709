//! Progress as plain lines, in BuildKit's form: `#5 [2/7] RUN make`, `#5 0.123 text`, `#5 DONE 1.2s`.
//!
//! One step is current and its lines are written as they come. Lines of the others wait until the
//! current step ends, until they themselves end, or until they have waited too long; a switch in
//! between is marked by `#5 ...`.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use rbuild_builder::event::VertexId;

use super::control::Filter;
use super::explanation::subject;
use super::journal::{Journal, Line, Note, State, Step, Transfer};
use super::progress::Renderer;
use super::style::{Palette, paint};
use super::units::transfer_size;

/// Longest time that lines of another step wait for the current one.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Most bytes that wait for the current step.
const MOST_WAITING: usize = 64 * 1024;
/// Time between two lines about one transfer.
const TRANSFER_INTERVAL: Duration = Duration::from_secs(5);

/// Lines of a step that are not written yet.
#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    since: Duration,
}

/// Writes progress as lines.
pub(crate) struct Plain {
    out: Box<dyn Write + Send>,
    palette: Palette,
    /// Control sequences are taken out of the output of commands.
    for_terminal: bool,
    current: Option<VertexId>,
    anything_written: bool,
    waiting: BTreeMap<VertexId, Waiting>,
    /// When a transfer was last told of.
    told: BTreeMap<(VertexId, usize), Duration>,
}

impl Plain {
    /// Writes to `out`, which is a terminal or not.
    pub(crate) fn new(out: Box<dyn Write + Send>, palette: Palette, for_terminal: bool) -> Plain {
        Plain {
            out,
            palette,
            for_terminal,
            current: None,
            anything_written: false,
            waiting: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // Nobody reads any more: the build goes on without a listener.
        let _ = self.out.write_all(bytes);
    }

    /// Adds text of a step to what is written now or later.
    fn put(&mut self, journal: &Journal, vertex: VertexId, at: Duration, text: &[u8]) {
        if self.current == Some(vertex) {
            self.write(text);
            return;
        }
        let waiting = self.waiting.entry(vertex).or_insert_with(|| Waiting {
            text: Vec::new(),
            since: at,
        });
        waiting.text.extend_from_slice(text);
        let too_much = waiting.text.len() > MOST_WAITING;
        if self.current.is_none() || too_much {
            self.switch(journal, vertex);
        }
    }

    /// Makes a step the current one and writes what waited.
    fn switch(&mut self, journal: &Journal, vertex: VertexId) {
        let Some(step) = journal.step(vertex) else {
            return;
        };
        if self.current != Some(vertex) {
            if let Some(previous) = self.current.and_then(|previous| journal.step(previous)) {
                self.write(format!("#{} ...\n", previous.number).as_bytes());
            }
            let blank = if self.anything_written { "\n" } else { "" };
            self.anything_written = true;
            self.write(format!("{blank}#{} {}\n", step.number, step.name).as_bytes());
            self.current = Some(vertex);
        }
        if let Some(waiting) = self.waiting.remove(&vertex) {
            self.write(&waiting.text);
        }
    }

    fn note(&mut self, journal: &Journal, note: &Note, at: Duration) {
        match note {
            Note::Started(vertex) => self.put(journal, *vertex, at, b""),
            Note::Missed(vertex) => {
                if let Some((step, reason)) = journal
                    .step(*vertex)
                    .and_then(|step| Some((step, step.miss.as_ref()?.text.as_str())))
                {
                    let text = format!("miss: {} — {reason}", subject(&step.name));
                    let text = format!("#{} {}\n", step.number, paint(self.palette.dim, &text));
                    self.put(journal, *vertex, at, text.as_bytes());
                }
            }
            Note::Line(vertex, line) => {
                if let Some(step) = journal.step(*vertex) {
                    let text = self.line(step.number, line);
                    self.put(journal, *vertex, at, &text);
                }
            }
            Note::Said(text) => {
                let text = paint(self.palette.warning, text);
                self.write(format!("{text}\n").as_bytes());
            }
            Note::Moved(vertex, index) => self.moved(journal, *vertex, *index, at),
            Note::Ended(vertex) => self.ended(journal, *vertex, at),
            // Told in the summary, from the build's result: nothing is lost in a short build.
            Note::Warned(_) => {}
        }
    }

    fn line(&self, number: usize, line: &Line) -> Vec<u8> {
        let mut text = format!("#{number} {:.3} ", line.at.as_secs_f64()).into_bytes();
        if self.for_terminal {
            Filter::default().push(&line.bytes, &mut text);
            if line.bytes.contains(&0x1b) {
                text.extend_from_slice(b"\x1b[0m");
            }
        } else {
            text.extend_from_slice(&line.bytes);
        }
        text.push(b'\n');
        text
    }

    fn moved(&mut self, journal: &Journal, vertex: VertexId, index: usize, at: Duration) {
        let Some(step) = journal.step(vertex) else {
            return;
        };
        let Some(transfer) = step.transfers.get(index) else {
            return;
        };
        let due = match self.told.get(&(vertex, index)) {
            // A transfer that is over within the interval is told once, at its end.
            None => at.saturating_sub(transfer.began) >= TRANSFER_INTERVAL,
            Some(told) => at.saturating_sub(*told) >= TRANSFER_INTERVAL,
        };
        if due && !transfer.is_complete() {
            self.told.insert((vertex, index), at);
            let text = transfer_line(step, transfer, false);
            self.put(journal, vertex, at, text.as_bytes());
        }
    }

    fn ended(&mut self, journal: &Journal, vertex: VertexId, at: Duration) {
        let Some(step) = journal.step(vertex) else {
            return;
        };
        let done = matches!(step.state, State::Done(_));
        let mut text = String::new();
        for transfer in &step.transfers {
            text.push_str(&transfer_line(step, transfer, done));
        }
        let palette = &self.palette;
        let verdict = match &step.state {
            State::Cached => paint(palette.run, "CACHED"),
            State::Done(elapsed) => format!("DONE {:.1}s", elapsed.as_secs_f64()),
            State::Failed(message) => format!("{} {message}", paint(palette.error, "ERROR:")),
            State::Cancelled => paint(palette.cancel, "CANCELED"),
            State::Running => return,
        };
        text.push_str(&format!("#{} {verdict}\n", step.number));
        self.put(journal, vertex, at, text.as_bytes());
        self.switch(journal, vertex);
        self.current = None;
        self.told.retain(|(owner, _), _| *owner != vertex);
        self.continue_with_oldest(journal);
    }

    /// Makes the step that has waited longest the current one.
    fn continue_with_oldest(&mut self, journal: &Journal) {
        let oldest = self.waiting.iter().min_by_key(|(_, waiting)| waiting.since);
        if let Some(vertex) = oldest.map(|(vertex, _)| *vertex) {
            self.switch(journal, vertex);
        }
    }
}

/// One line about a transfer.
fn transfer_line(step: &Step, transfer: &Transfer, done: bool) -> String {
    let bytes = match (transfer.current, transfer.total) {
        (current, Some(total)) if !done => {
            format!(" {} / {}", transfer_size(current), transfer_size(total))
        }
        (0, _) => String::new(),
        (current, _) => format!(" {}", transfer_size(current)),
    };
    let seconds = transfer.seen.saturating_sub(transfer.began).as_secs_f64();
    let time = if seconds > 0.01 {
        format!(" {seconds:.1}s")
    } else {
        String::new()
    };
    let colon = if bytes.is_empty() || transfer.what.starts_with("sha256:") {
        ""
    } else {
        ":"
    };
    let done = if done { " done" } else { "" };
    format!(
        "#{} {}{colon}{bytes}{time}{done}\n",
        step.number, transfer.what
    )
}

impl Renderer for Plain {
    fn notes(&mut self, journal: &Journal, notes: &[Note], at: Duration) {
        for note in notes {
            self.note(journal, note, at);
        }
        let _ = self.out.flush();
    }

    fn tick(&mut self, journal: &Journal, at: Duration) {
        let tired = self
            .waiting
            .iter()
            .find(|(_, waiting)| at.saturating_sub(waiting.since) >= LONGEST_WAIT)
            .map(|(vertex, _)| *vertex);
        if let Some(vertex) = tired {
            self.switch(journal, vertex);
            let _ = self.out.flush();
        }
    }

    fn changes_with_time(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn finish(&mut self, journal: &Journal, _at: Duration) {
        while !self.waiting.is_empty() {
            self.continue_with_oldest(journal);
        }
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rbuild_builder::event::{Event, MissReason, Stream};

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

    fn render(events: Vec<(u64, Event)>) -> String {
        let shared = Shared::default();
        let mut plain = Plain::new(Box::new(shared.clone()), Palette::default(), false);
        let mut journal = Journal::default();
        let mut last = Duration::ZERO;
        for (millis, event) in events {
            last = Duration::from_millis(millis);
            let notes = journal.apply(last, event);
            plain.notes(&journal, &notes, last);
            plain.tick(&journal, last);
        }
        plain.finish(&journal, last);
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn started(id: u32, name: &str) -> Event {
        Event::Started {
            vertex: VertexId(id),
            name: name.into(),
        }
    }

    fn output(id: u32, text: &str) -> Event {
        Event::Output {
            vertex: VertexId(id),
            stream: Stream::Stdout,
            bytes: text.into(),
        }
    }

    fn finished(id: u32, millis: u64) -> Event {
        let elapsed = Duration::from_millis(millis);
        Event::Finished {
            vertex: VertexId(id),
            elapsed,
            layer: None,
        }
    }

    #[test]
    fn a_build_in_sequence_reads_as_from_buildkit() {
        let moved = |id, what: &str, current, total| Event::Progress {
            vertex: VertexId(id),
            what: what.into(),
            current,
            total,
        };
        let reason = MissReason {
            text: "ARG VERSION \"1\" → \"2\"".into(),
            ordinary: false,
        };
        let text =
            render(vec![
            (0, Event::Planned { vertices: 5 }),
            (0, started(0, "[internal] load build definition from Dockerfile")),
            (1, moved(0, "transferring dockerfile", 75, None)),
            (2, finished(0, 2)),
            (10, started(1, "[internal] load build context")),
            (20, moved(1, "transferring context", 1000, None)),
            (120, moved(1, "transferring context", 2100, None)),
            (130, finished(1, 120)),
            (140, Event::Cached { vertex: VertexId(2), name: "[1/3] FROM base".into() }),
            (150, started(3, "[2/3] RUN make")),
            (150, Event::CacheMiss { vertex: VertexId(3), reason }),
            (273, output(3, "one\ntwo")),
            (300, output(3, "!\n")),
            (1350, finished(3, 1200)),
            (1400, started(4, "[3/3] RUN false")),
            (1500, Event::Failed {
                vertex: VertexId(4),
                message: "process \"/bin/sh -c false\" did not complete successfully: exit code: 1"
                    .into(),
            }),
        ]);
        assert_eq!(
            text,
            "#1 [internal] load build definition from Dockerfile\n\
             #1 transferring dockerfile: 75B done\n\
             #1 DONE 0.0s\n\
             \n\
             #2 [internal] load build context\n\
             #2 transferring context: 2.10kB 0.1s done\n\
             #2 DONE 0.1s\n\
             \n\
             #3 [1/3] FROM base\n\
             #3 CACHED\n\
             \n\
             #4 [2/3] RUN make\n\
             #4 miss: RUN — ARG VERSION \"1\" → \"2\"\n\
             #4 0.123 one\n\
             #4 0.123 two!\n\
             #4 DONE 1.2s\n\
             \n\
             #5 [3/3] RUN false\n\
             #5 ERROR: process \"/bin/sh -c false\" did not complete successfully: exit code: 1\n"
        );
    }

    #[test]
    fn steps_side_by_side_take_turns() {
        let text = render(vec![
            (0, started(0, "[a 1/1] RUN a")),
            (0, started(1, "[b 1/1] RUN b")),
            (100, output(0, "a1\n")),
            (200, output(1, "b1\n")),
            (300, output(0, "a2\n")),
            (400, finished(1, 400)),
            (500, output(0, "a3\n")),
            (600, finished(0, 600)),
        ]);
        assert_eq!(
            text,
            "#1 [a 1/1] RUN a\n\
             #1 0.100 a1\n\
             #1 0.300 a2\n\
             #1 ...\n\
             \n\
             #2 [b 1/1] RUN b\n\
             #2 0.200 b1\n\
             #2 DONE 0.4s\n\
             \n\
             #1 [a 1/1] RUN a\n\
             #1 0.500 a3\n\
             #1 DONE 0.6s\n"
        );
    }

    #[test]
    fn a_step_that_waits_too_long_gets_its_turn() {
        let text = render(vec![
            (0, started(0, "a")),
            (0, started(1, "b")),
            (100, output(1, "b1\n")),
            (6000, output(0, "a1\n")),
            (
                6100,
                Event::Cancelled {
                    vertex: VertexId(0),
                },
            ),
            (
                6200,
                Event::Cancelled {
                    vertex: VertexId(1),
                },
            ),
        ]);
        assert_eq!(
            text,
            "#1 a\n#1 6.000 a1\n#1 ...\n\n#2 b\n#2 0.100 b1\n#2 ...\n\n#1 a\n#1 CANCELED\n\n\
             #2 b\n#2 CANCELED\n"
        );
    }

    #[test]
    fn much_output_of_another_step_is_not_held_back() {
        let many = "x\n".repeat(MOST_WAITING / 4);
        let text = render(vec![
            (0, started(0, "a")),
            (0, started(1, "b")),
            (1, output(1, &many)),
        ]);
        assert!(
            text.starts_with("#1 a\n#1 ...\n\n#2 b\n#2 0.001 x\n"),
            "{}",
            &text[..100]
        );
    }
}
