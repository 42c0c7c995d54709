//! Progress on a terminal: a header, a line for each step, the last output of those that run.

use std::io::Write;
use std::time::Duration;

use anstyle::Style;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use unicode_width::UnicodeWidthChar;

use super::control::Filter;
use super::journal::{Journal, Line, Note, State, Step, Transfer};
use super::progress::Renderer;
use super::style::{Palette, paint};
use super::units::transfer_size;

/// Redraws per second at most.
const FRAMES_PER_SECOND: u8 = 15;
/// What a terminal without a size is taken for.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// How long the word about a transfer that is tried again is shown.
const NOTICE_STAYS: Duration = Duration::from_secs(5);

/// The part of the terminal that is drawn over and over.
pub(crate) struct Screen {
    bar: ProgressBar,
}

impl Screen {
    /// Draws on standard error.
    pub(crate) fn stderr() -> Screen {
        let target = ProgressDrawTarget::stderr_with_hz(FRAMES_PER_SECOND);
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{msg}").expect("the template is a constant");
        Screen {
            bar: bar.with_style(style),
        }
    }

    /// Replaces what was drawn before.
    fn draw(&self, lines: &[String]) {
        self.bar.set_message(lines.join("\n"));
        self.bar.tick();
    }

    /// Removes what was drawn and writes the lines to stay.
    fn close(&self, lines: &[String]) {
        self.bar.finish_and_clear();
        let mut text = lines.join("\n");
        text.push('\n');
        // Nobody reads any more: there is nobody to tell either.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// Columns and rows.
    fn size() -> (usize, usize) {
        match rustix::termios::tcgetwinsize(std::io::stderr()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            _ => USUAL_SIZE,
        }
    }
}

/// Draws the live view.
pub(crate) struct Tty {
    screen: Screen,
    palette: Palette,
    log_lines: usize,
}

impl Tty {
    /// Draws on `screen`, with up to `log_lines` lines of output for each running step.
    pub(crate) fn new(screen: Screen, palette: Palette, log_lines: usize) -> Tty {
        Tty {
            screen,
            palette,
            log_lines,
        }
    }

    fn frame(&self, journal: &Journal, at: Duration) -> Vec<String> {
        let (width, height) = Screen::size();
        let view = View {
            palette: self.palette,
            width,
            log_lines: self.log_lines,
            at,
        };
        view.live(journal, height)
    }
}

impl Renderer for Tty {
    fn notes(&mut self, _journal: &Journal, _notes: &[Note], _at: Duration) {}

    fn tick(&mut self, journal: &Journal, at: Duration) {
        self.screen.draw(&self.frame(journal, at));
    }

    fn finish(&mut self, journal: &Journal, at: Duration) {
        let (width, _) = Screen::size();
        let view = View {
            palette: self.palette,
            width,
            log_lines: 0,
            at,
        };
        self.screen.close(&view.whole(journal));
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
            let text = format!(" => => {}", moved(transfer));
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

fn moved(transfer: &Transfer) -> String {
    let bytes = match (transfer.current, transfer.total) {
        (current, Some(total)) if current < total => {
            format!(" {} / {}", transfer_size(current), transfer_size(total))
        }
        (0, _) => String::new(),
        (current, _) => format!(" {}", transfer_size(current)),
    };
    let colon = if bytes.is_empty() || transfer.what.starts_with("sha256:") {
        ""
    } else {
        ":"
    };
    format!("{}{colon}{bytes}", transfer.what)
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
