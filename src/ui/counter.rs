//! One line that counts bytes on a terminal, below lines that stay.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::bar;
use super::screen::Size;
use super::units::transfer_size;
use crate::config::Settings;

/// Least time between two changes of the line.
const INTERVAL: Duration = Duration::from_millis(100);

/// Counts bytes on standard error, if it is a terminal.
pub(crate) struct Counter {
    enabled: bool,
    shown: Cell<Option<Instant>>,
    told: RefCell<BTreeSet<String>>,
}

impl Counter {
    /// A counter that shows nothing yet, and never anything unless `enabled`.
    pub(crate) fn new(settings: &Settings, enabled: bool) -> Counter {
        Counter {
            enabled: enabled && settings.stderr_terminal && !settings.environment.dumb_terminal,
            shown: Cell::new(None),
            told: RefCell::default(),
        }
    }

    /// Shows how far something is.
    pub(crate) fn show(&self, what: &str, done: u64, total: u64) {
        let due = |shown: Instant| shown.elapsed() >= INTERVAL;
        if self.enabled && self.shown.get().is_none_or(due) {
            let columns = Size::of_stderr().columns;
            let bar = bar::width(columns).map_or_else(String::new, |width| {
                format!(" {}", bar::bar(done, total, width))
            });
            let (done, total) = (transfer_size(done), transfer_size(total));
            let line: String = format!("{what}{bar} {done} / {total}")
                .chars()
                .take(columns.saturating_sub(1))
                .collect();
            super::message(&format!("\r\x1b[K{line}"));
            self.shown.set(Some(Instant::now()));
        }
    }

    /// Writes a line to standard output, each once.
    pub(crate) fn line(&self, line: &str) {
        if self.told.borrow_mut().insert(line.to_owned()) {
            self.clear();
            // A reader that went away is told of at the end.
            let _ = super::println(line);
        }
    }

    /// Takes the counter away.
    pub(crate) fn clear(&self) {
        if self.shown.take().is_some() {
            super::message("\r\x1b[K");
        }
    }
}
