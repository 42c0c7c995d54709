//! Brings the events of a build to a renderer.
//!
//! Events come from many threads; whoever brings one renders it, one after the other, so that a slow
//! reader slows the build instead of filling the memory, and nobody is woken to write a line. Only what
//! changes with time alone has a thread, which starts when there is such a thing.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rbuild_builder::event::{Event, EventSink};

use super::journal::{Journal, Note};
use super::plain::Plain;
use super::rawjson::RawJson;
use super::style::Palette;
use super::tty::Tty;

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
    /// Whether time alone may change what is shown.
    fn changes_with_time(&self) -> bool {
        false
    }
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
pub(crate) struct Progress(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// The build is over.
    ended: Condvar,
    began: Instant,
}

struct State {
    renderer: Box<dyn Renderer>,
    journal: Journal,
    /// The thread that tells the renderer of time, once there is one.
    ticker: Option<JoinHandle<()>>,
    is_over: bool,
}

impl Progress {
    /// Shows the progress on standard error from now on.
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

    /// Writes the progress to a file from now on, as plain lines.
    pub(crate) fn to_file(file: std::fs::File) -> io::Result<Progress> {
        let out = Box::new(io::BufWriter::new(file));
        Progress::with(Box::new(Plain::new(out, Palette::default(), false)))
    }

    fn with(renderer: Box<dyn Renderer>) -> io::Result<Progress> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                renderer,
                journal: Journal::default(),
                ticker: None,
                is_over: false,
            }),
            ended: Condvar::new(),
            began: Instant::now(),
        });
        shared.lock().keep_time(&shared)?;
        Ok(Progress(shared))
    }

    /// Shows what is left; returns all that was seen.
    pub(crate) fn finish(self) -> Journal {
        self.end();
        std::mem::take(&mut self.0.lock().journal)
    }

    /// Ends the thread and the renderer, once.
    fn end(&self) {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.is_over, true) {
            return;
        }
        let ticker = state.ticker.take();
        drop(state);
        self.0.ended.notify_all();
        if let Some(thread) = ticker {
            // A renderer that panicked has said so itself; the build's result still counts.
            let _ = thread.join();
        }
        let State {
            renderer, journal, ..
        } = &mut *self.0.lock();
        renderer.finish(journal, self.0.began.elapsed());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What a renderer that panicked has left is good enough to go on with.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the renderer of time until the build is over.
    fn tick(&self) {
        let mut state = self.lock();
        while !state.is_over {
            let waited = self.ended.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !state.is_over {
                let State {
                    renderer, journal, ..
                } = &mut *state;
                renderer.tick(journal, self.began.elapsed());
            }
        }
    }
}

impl State {
    /// Starts the thread that tells the renderer of time, if it is to be told.
    fn keep_time(&mut self, shared: &Arc<Shared>) -> io::Result<()> {
        if self.ticker.is_some() || self.is_over || !self.renderer.changes_with_time() {
            return Ok(());
        }
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("progress".into());
        self.ticker = Some(thread.spawn(move || shared.tick())?);
        Ok(())
    }
}

fn tty(display: Display) -> Tty {
    Tty::new(display.palette, display.log_lines)
}

impl EventSink for Progress {
    fn event(&self, event: Event) {
        let mut state = self.0.lock();
        let at = self.0.began.elapsed();
        let State {
            renderer, journal, ..
        } = &mut *state;
        let notes = journal.apply(at, event);
        renderer.notes(journal, &notes, at);
        // Without the thread what waits is shown later, with what comes next.
        let _ = state.keep_time(&self.0);
    }
}
