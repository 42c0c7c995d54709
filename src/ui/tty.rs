//! Progress on a terminal: a header, a line for each step, the last output of those that run.

use std::io::Stderr;
use std::time::Duration;

use anstyle::Style;
use unicode_width::UnicodeWidthChar;

use super::bar;
use super::control::Filter;
use super::journal::{Journal, Line, Note, State, Step, Transfer};
use super::progress::Renderer;
use super::screen::{Screen, Size};
use super::style::{Palette, paint};
use super::units::transfer_size;

/// How long the word about a transfer that is tried again is shown.
const NOTICE_STAYS: Duration = Duration::from_secs(5);

/// Draws the live view.
pub(crate) struct Tty {
    screen: Screen<Stderr>,
    palette: Palette,
    log_lines: usize,
}

impl Tty {
    /// Draws on standard error, with up to `log_lines` lines of output for each running step.
    pub(crate) fn new(palette: Palette, log_lines: usize) -> Tty {
        Tty {
            screen: Screen::stderr(),
            palette,
            log_lines,
        }
    }

    fn view(&self, size: Size, log_lines: usize, at: Duration) -> View {
        View {
            palette: self.palette,
            width: size.columns,
            log_lines,
            at,
        }
    }
}

impl Renderer for Tty {
    fn notes(&mut self, _journal: &Journal, _notes: &[Note], _at: Duration) {}

    fn tick(&mut self, journal: &Journal, at: Duration) {
        let size = Size::of_stderr();
        let lines = self.view(size, self.log_lines, at).live(journal, size.rows);
        let measured = lines.into_iter().map(|line| {
            let columns = columns(&line);
            (line, columns)
        });
        self.screen.draw(measured.collect(), size);
    }

    fn changes_with_time(&self) -> bool {
        true
    }

    fn finish(&mut self, journal: &Journal, at: Duration) {
        let size = Size::of_stderr();
        let lines = self.view(size, 0, at).whole(journal);
        self.screen.close(&lines, size);
    }
}

/// Makes the lines of one picture.
struct View {
    palette: Palette,
    width: usize,
    log_lines: usize,
    at: Duration,
}

impl View {
    /// All steps, as they stay on the terminal after the build.
    fn whole(&self, journal: &Journal) -> Vec<String> {
        let mut lines = vec![self.header(journal, true)];
        for (_, step) in journal.steps() {
            lines.extend(self.step(step));
        }
        lines
    }

    /// What fits in `height`: all running steps first, then those that ended last.
    fn live(&self, journal: &Journal, height: usize) -> Vec<String> {
        let room = height
            .saturating_sub(2 + usize::from(self.notice(journal).is_some()))
            .max(1);
        let blocks: Vec<(bool, Vec<String>)> = journal
            .steps()
            .into_iter()
            .map(|(_, step)| (step.state == State::Running, self.step(step)))
            .collect();
        let mut shown = vec![false; blocks.len()];
        let mut used = 0;
        for running in [true, false] {
            for (index, (is_running, block)) in blocks.iter().enumerate().rev() {
                if *is_running == running && used + block.len() <= room {
                    shown[index] = true;
                    used += block.len();
                } else if !running && *is_running == running {
                    // Steps that ended disappear in their order, without gaps.
                    break;
                }
            }
        }
        let mut lines = vec![self.header(journal, false)];
        lines.extend(self.notice(journal));
        for ((_, block), shown) in blocks.into_iter().zip(shown) {
            if shown {
                lines.extend(block);
            }
        }
        lines
    }

    /// What was said lately of a transfer that is tried again.
    fn notice(&self, journal: &Journal) -> Option<String> {
        let (at, text) = journal.said()?;
        let fresh = self.at.saturating_sub(*at) < NOTICE_STAYS;
        fresh.then(|| paint(self.palette.warning, &cut(&format!(" {text}"), self.width)))
    }

    fn header(&self, journal: &Journal, finished: bool) -> String {
        let ended = journal.ended();
        let seconds = self.at.as_secs_f64();
        let (total, word) = if finished && journal.all_done() {
            (ended, " FINISHED")
        } else {
            (journal.total(), "")
        };
        cut(
            &format!("[+] Building {seconds:.1}s ({ended}/{total}){word}"),
            self.width,
        )
    }

    fn step(&self, step: &Step) -> Vec<String> {
        let palette = &self.palette;
        let (prefix, style) = match &step.state {
            State::Running => ("", Style::new()),
            State::Cached => ("CACHED ", palette.run),
            State::Done(_) => ("", palette.run),
            State::Failed(_) => ("ERROR ", palette.error),
            State::Cancelled => ("CANCELED ", palette.cancel),
        };
        let elapsed = match &step.state {
            State::Done(elapsed) => *elapsed,
            _ => step.ended.unwrap_or(self.at).saturating_sub(step.began),
        };
        let mut lines = vec![paint(
            style,
            &self.timed(&format!(" => {prefix}{}", step.name), elapsed),
        )];
        if let Some(reason) = step.miss.as_ref().filter(|miss| !miss.ordinary) {
            lines.push(paint(
                palette.dim,
                &cut(&format!(" => => miss: {}", reason.text), self.width),
            ));
        }
        for transfer in &step.transfers {
            let over = transfer.is_complete() || step.state != State::Running;
            let end = if over { transfer.seen } else { self.at };
            let bar = bar::width(self.width).filter(|_| !over);
            let text = format!(" => => {}", moved(transfer, bar));
            let line = self.timed(&text, end.saturating_sub(transfer.began));
            lines.push(if over { paint(style, &line) } else { line });
        }
        if step.state == State::Running {
            let skipped = step.tail.len().saturating_sub(self.log_lines);
            for line in step.tail.iter().skip(skipped) {
                let text = format!(" => => # {}", last_state(line));
                lines.push(paint(palette.dim, &cut(&text, self.width)));
            }
        }
        lines
    }

    /// A text with a time at the right edge.
    fn timed(&self, text: &str, time: Duration) -> String {
        let time = format!(" {:>5.1}s", time.as_secs_f64());
        let room = self.width.saturating_sub(time.len() + 1);
        let text = cut(text, room);
        let blanks = room.saturating_sub(columns(&text));
        format!("{text}{}{time}", " ".repeat(blanks))
    }
}

/// What is moved, how far it is, and a bar of this width as long as it moves.
fn moved(transfer: &Transfer, bar: Option<usize>) -> String {
    let bytes = match (transfer.current, transfer.total) {
        (current, Some(total)) if current < total => {
            let bar = bar.map_or_else(String::new, |width| {
                format!(" {}", bar::bar(current, total, width))
            });
            format!(
                "{bar} {} / {}",
                transfer_size(current),
                transfer_size(total)
            )
        }
        (0, _) => String::new(),
        (current, _) => format!(" {}", transfer_size(current)),
    };
    let colon = if bytes.is_empty() || transfer.what.starts_with("sha256:") {
        ""
    } else {
        ":"
    };
    format!("{}{colon}{bytes}", named(&transfer.what, bar))
}

/// Digests are told by their beginning where there is to be room for a bar.
fn named(what: &str, bar: Option<usize>) -> &str {
    const SHORT: usize = "sha256:".len() + 12;
    match bar {
        Some(_) if what.starts_with("sha256:") => what.get(..SHORT).unwrap_or(what),
        _ => what,
    }
}

/// What a line of output looks like in the end: a carriage return writes it anew.
fn last_state(line: &Line) -> String {
    let mut bytes = Vec::new();
    Filter::default().push(&line.bytes, &mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let state = text
        .rsplit('\r')
        .find(|part| !part.is_empty())
        .unwrap_or_default();
    state.replace('\t', "    ")
}

fn columns(text: &str) -> usize {
    let mut plain = Vec::new();
    strip_colours(text, &mut plain);
    plain.iter().map(|letter| letter.width().unwrap_or(0)).sum()
}

fn strip_colours(text: &str, plain: &mut Vec<char>) {
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            letters.by_ref().find(|end| *end == 'm');
        } else {
            plain.push(letter);
        }
    }
}

/// Cuts a text to a number of columns. Colour codes take no room, and are closed at the end.
fn cut(text: &str, width: usize) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut used = 0;
    let mut coloured = false;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            kept.push(letter);
            for code in letters.by_ref() {
                kept.push(code);
                if code == 'm' {
                    break;
                }
            }
            coloured = true;
            continue;
        }
        let columns = letter.width().unwrap_or(0);
        if used + columns > width {
            break;
        }
        used += columns;
        kept.push(letter);
    }
    if coloured {
        kept.push_str("\u{1b}[0m");
    }
    kept
}

#[cfg(test)]
mod tests {
    use rbuild_builder::event::{Event, MissReason, Stream, VertexId};

    use super::*;

    fn journal() -> Journal {
        let mut journal = Journal::default();
        let seconds = Duration::from_secs;
        let output = "one\nloading 1%\rloading \x1b[32m99%\x1b[0m\r\n\x1b[2Jthree\n";
        for (at, event) in [
            (0, Event::Planned { vertices: 5 }),
            (
                0,
                Event::Cached {
                    vertex: VertexId(0),
                    name: "[1/4] FROM base".into(),
                },
            ),
            (
                0,
                Event::Started {
                    vertex: VertexId(1),
                    name: "[2/4] COPY . .".into(),
                },
            ),
            (
                1,
                Event::Finished {
                    vertex: VertexId(1),
                    elapsed: seconds(1),
                    layer: None,
                },
            ),
            (
                1,
                Event::Started {
                    vertex: VertexId(2),
                    name: "[3/4] RUN make".into(),
                },
            ),
            (
                1,
                Event::CacheMiss {
                    vertex: VertexId(2),
                    reason: MissReason {
                        text: "src changed".into(),
                        ordinary: false,
                    },
                },
            ),
            (
                2,
                Event::Output {
                    vertex: VertexId(2),
                    stream: Stream::Stdout,
                    bytes: output.into(),
                },
            ),
            (
                2,
                Event::Started {
                    vertex: VertexId(3),
                    name: "[b 1/1] RUN a long command line that goes on".into(),
                },
            ),
            (
                3,
                Event::Progress {
                    vertex: VertexId(3),
                    what: "extracting".into(),
                    current: 1000,
                    total: Some(4000),
                },
            ),
        ] {
            journal.apply(seconds(at), event);
        }
        journal
    }

    fn view(log_lines: usize) -> View {
        let at = Duration::from_millis(3200);
        View {
            palette: Palette::default(),
            width: 44,
            log_lines,
            at,
        }
    }

    #[test]
    fn the_live_view_shows_steps_and_last_lines() {
        let lines = view(2).live(&journal(), 24);
        assert_eq!(
            lines,
            [
                "[+] Building 3.2s (2/5)",
                " => CACHED [1/4] FROM base             0.0s",
                " => [2/4] COPY . .                     1.0s",
                " => [3/4] RUN make                     2.2s",
                " => => miss: src changed",
                " => => # loading \u{1b}[32m99%\u{1b}[0m\u{1b}[0m",
                " => => # three",
                " => [b 1/1] RUN a long command line    1.2s",
                " => => extracting: 1.00kB / 4.00kB     0.2s",
            ]
        );
    }

    #[test]
    fn wide_terminals_have_bars_of_bytes() {
        let view = View {
            width: 100,
            ..view(0)
        };
        let lines = view.live(&journal(), 24);
        let bar = lines.last().unwrap();
        assert!(
            bar.starts_with(" => => extracting: [=======>                    ] 1.00kB / 4.00kB  "),
            "{bar}"
        );
        assert_eq!(columns(bar), 99);
    }

    #[test]
    fn what_ended_first_makes_room_first() {
        let lines = view(0).live(&journal(), 7);
        assert_eq!(lines.len(), 6);
        assert!(lines[1].contains("COPY"), "{lines:?}");
        let lines = view(0).live(&journal(), 6);
        assert!(lines[1].contains("RUN make"), "{lines:?}");
    }

    #[test]
    fn the_last_picture_has_everything() {
        let lines = view(0).whole(&journal());
        assert_eq!(lines[0], "[+] Building 3.2s (2/5)");
        assert_eq!(lines.len(), 7);
    }

    #[test]
    fn cutting_counts_columns_and_closes_colours() {
        assert_eq!(cut("äöü漢字", 5), "äöü漢");
        assert_eq!(cut("\u{1b}[31mabc", 2), "\u{1b}[31mab\u{1b}[0m");
        assert_eq!(columns("\u{1b}[31m漢a\u{1b}[0m"), 3);
    }
}
