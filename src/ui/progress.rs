//! Brings the events of a build to a renderer.
//!
//! Events come from many threads; one thread owns the renderer and the terminal. The channel
//! between them is bounded, so that a slow reader slows the build instead of filling the memory.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rbuild_builder::event::{Event, EventSink};

use super::journal::{Journal, Note};
use super::plain::Plain;
use super::rawjson::RawJson;
use super::style::Palette;
use super::tty::Tty;

/// Events on their way to the renderer.
const IN_FLIGHT: usize = 256;
/// Time between two ticks of a renderer.
const TICK: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProgressMode {
    /// `tty` on a terminal, else `plain`
    Auto,
    /// A live list of steps
    Tty,
    /// Lines of text
    Plain,
    /// Nothing but errors
    #[value(alias = "none")]
    Quiet,
    /// One JSON object a line
    Rawjson,
}

/// Shows what happens.
pub(crate) trait Renderer: Send {
    /// Something changed, `at` this time since the build began.
    fn notes(&mut self, journal: &Journal, notes: &[Note], at: Duration);
    /// Time went on.
    fn tick(&mut self, journal: &Journal, at: Duration);
    /// The build is over.
    fn finish(&mut self, journal: &Journal, at: Duration);
}

/// Shows nothing.
struct Quiet;

impl Renderer for Quiet {
    fn notes(&mut self, _: &Journal, _: &[Note], _: Duration) {}
    fn tick(&mut self, _: &Journal, _: Duration) {}
    fn finish(&mut self, _: &Journal, _: Duration) {}
}

/// What the terminal allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Display {
    /// Colours to use.
    pub(crate) palette: Palette,
    /// Standard error is a terminal.
    pub(crate) terminal: bool,
    /// Output lines that are shown for each running step.
    pub(crate) log_lines: usize,
}

/// Takes the events of one build.
pub(crate) struct Progress {
    sender: SyncSender<(Instant, Event)>,
    thread: JoinHandle<Journal>,
}

impl Progress {
    /// Starts the thread that shows the progress on standard error.
    pub(crate) fn start(mode: ProgressMode, display: Display) -> io::Result<Progress> {
        let out: Box<dyn Write + Send> = Box::new(io::BufWriter::new(io::stderr()));
        Progress::with(match mode {
            ProgressMode::Auto if display.terminal => Box::new(tty(display)),
            ProgressMode::Tty => Box::new(tty(display)),
            ProgressMode::Auto | ProgressMode::Plain => {
                Box::new(Plain::new(out, display.palette, display.terminal))
            }
            ProgressMode::Quiet => Box::new(Quiet),
            ProgressMode::Rawjson => Box::new(RawJson::new(out, jiff::Timestamp::now())),
        })
    }

    /// Starts the thread that writes the progress to a file, as plain lines.
    pub(crate) fn to_file(file: std::fs::File) -> io::Result<Progress> {
        let out = Box::new(io::BufWriter::new(file));
        Progress::with(Box::new(Plain::new(out, Palette::default(), false)))
    }

    fn with(renderer: Box<dyn Renderer>) -> io::Result<Progress> {
        let (sender, receiver) = sync_channel(IN_FLIGHT);
        let began = Instant::now();
        let thread = std::thread::Builder::new()
            .name("progress".into())
            .spawn(move || show(renderer, &receiver, began))?;
        Ok(Progress { sender, thread })
    }

    /// Shows what is left; returns all that was seen.
    pub(crate) fn finish(self) -> Journal {
        drop(self.sender);
        // A renderer that panicked has said so itself; the build's result still counts.
        self.thread.join().unwrap_or_default()
    }
}

fn tty(display: Display) -> Tty {
    Tty::new(display.palette, display.log_lines)
}

fn show(
    mut renderer: Box<dyn Renderer>,
    receiver: &Receiver<(Instant, Event)>,
    began: Instant,
) -> Journal {
    let mut journal = Journal::default();
    let mut last_tick = Instant::now();
    loop {
        let event = receiver.recv_timeout(TICK.saturating_sub(last_tick.elapsed()));
        match event {
            Ok((at, event)) => {
                let at = at.saturating_duration_since(began);
                let notes = journal.apply(at, event);
                renderer.notes(&journal, &notes, at);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if last_tick.elapsed() >= TICK {
            renderer.tick(&journal, began.elapsed());
            last_tick = Instant::now();
        }
    }
    renderer.finish(&journal, began.elapsed());
    journal
}

impl EventSink for Progress {
    fn event(&self, event: Event) {
        // The receiver lives as long as its thread; if that died there is nobody to tell.
        let _ = self.sender.send((Instant::now(), event));
    }
}
