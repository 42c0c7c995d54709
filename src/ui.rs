//! Everything that is written to the terminal. Data goes to standard output, all else to standard
//! error.

mod bar;
pub(crate) mod control;
pub(crate) mod counter;
pub(crate) mod diff;
pub(crate) mod excerpt;
pub(crate) mod explanation;
pub(crate) mod findings;
pub(crate) mod graph;
pub(crate) mod journal;
pub(crate) mod listing;
pub(crate) mod markup;
pub(crate) mod outline;
pub(crate) mod plain;
pub(crate) mod progress;
pub(crate) mod rawjson;
pub(crate) mod report;
pub(crate) mod screen;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod timeline;
pub(crate) mod tty;
pub(crate) mod units;

use std::io::{self, Write as _};

use crate::failure::Failure;
use control::{visible, visible_lines};
use style::{Palette, paint};

/// Writes data to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| Failure::from(error).within("could not write to standard output"))
}

/// Writes a line of data to standard output.
pub(crate) fn println(line: &str) -> Result<(), Failure> {
    print(&format!("{line}\n"))
}

/// Indented JSON with a line end.
pub(crate) fn to_json(value: &impl serde::Serialize) -> String {
    let mut text =
        serde_json::to_string_pretty(value).expect("keys are strings and numbers are finite");
    text.push('\n');
    text
}

/// Writes to standard error. There is nobody left to tell if that fails.
pub(crate) fn message(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes one warning to standard error.
pub(crate) fn warn(palette: &Palette, text: &str) {
    message(&format!(
        "{} {}\n",
        paint(palette.warning, "WARNING:"),
        visible(text)
    ));
}

/// Writes a failure with its causes and hints to standard error.
pub(crate) fn fail(palette: &Palette, word: &str, failure: &Failure) {
    let Some(text) = &failure.message else { return };
    let mut lines = format!("{} {}\n", paint(palette.error, word), visible_lines(text));
    for cause in &failure.causes {
        lines.push_str(&format!("  caused by: {}\n", visible_lines(cause)));
    }
    for hint in &failure.hints {
        lines.push_str(&format!(
            "{} {}\n",
            paint(palette.strong, "hint:"),
            visible_lines(hint)
        ));
    }
    message(&lines);
}
