//! What is said after a build: warnings, and for a failure the last output, the place and the way
//! out.

use std::fmt::Write as _;

use rbuild_builder::event::Warning;
use rbuild_builder::{BuildError, BuildErrorKind, Location};

use crate::failure::plain_words;

use super::control::{Filter, visible, visible_lines};
use super::excerpt::excerpt;
use super::journal::{Journal, State, Step};
use super::style::{Palette, paint};

/// Lines of a failed step that are shown when its output has been on the terminal already.
const LINES_AGAIN: usize = 10;

/// Lists warnings after a build; empty without any.
pub(crate) fn warnings(warnings: &[Warning], palette: &Palette, expand: bool) -> String {
    let heading = match warnings.len() {
        0 => return String::new(),
        1 => " 1 warning found:".to_owned(),
        count => format!(" {count} warnings found:"),
    };
    let mut text = format!("\n{}\n", paint(palette.warning, &heading));
    for warning in warnings {
        text.push_str(" - ");
        if let Some(rule) = &warning.rule {
            let _ = write!(text, "{}: ", visible(rule));
        }
        text.push_str(&visible(&warning.message));
        if let Some(line) = warning.line {
            let _ = write!(text, " (line {line})");
        }
        text.push('\n');
        if expand {
            for more in warning.help.iter().chain(&warning.url) {
                let _ = writeln!(
                    text,
                    "{}",
                    paint(palette.dim, &format!("   {}", visible(more)))
                );
            }
        }
    }
    text
}

/// Tells why a build failed.
///
/// `output_shown` says that the output of the steps is on the screen already.
pub(crate) fn failure(
    error: &BuildError,
    journal: &Journal,
    palette: &Palette,
    output_shown: bool,
) -> String {
    let mut text = String::new();
    for (_, step) in journal.steps() {
        if matches!(step.state, State::Failed(_)) && !step.tail.is_empty() {
            text.push_str(&last_lines(step, output_shown));
        }
    }
    // Where a build was when somebody stopped it says nothing about why.
    if error.kind != BuildErrorKind::Cancelled {
        text.push_str(&place(error));
    }
    let _ = writeln!(
        text,
        "{} failed to build: failed to solve: {}",
        paint(palette.error, "ERROR:"),
        visible_lines(&error.message)
    );
    for cause in &error.causes {
        let _ = writeln!(text, "  caused by: {}", visible_lines(&plain_words(cause)));
    }
    for other in &error.others {
        let _ = writeln!(text, "also: {}", visible_lines(&other.message));
        text.push_str(&place(other));
    }
    for hint in error
        .help
        .iter()
        .chain(error.others.iter().flat_map(|other| &other.help))
    {
        let _ = writeln!(
            text,
            "{} {}",
            paint(palette.strong, "hint:"),
            visible_lines(hint)
        );
    }
    text
}

/// Quotes the Dockerfile where an error has a place in it.
fn place(error: &BuildError) -> String {
    let Some(location) = &error.location else {
        return String::new();
    };
    let range = location.lines;
    let mut text =
        excerpt(&location.file, &location.source, range.first, range.last).unwrap_or_default();
    for (span, label) in &error.labels {
        let line = line_of(location, span.start);
        let _ = writeln!(
            text,
            "{}:{line}: {}",
            visible(&location.file),
            visible_lines(label)
        );
    }
    text
}

/// Number of the line that a byte of the source is on, from 1.
fn line_of(location: &Location, offset: usize) -> usize {
    let before = location.source.get(..offset).unwrap_or(&location.source);
    before.split(|byte| *byte == b'\n').count()
}

fn last_lines(step: &Step, output_shown: bool) -> String {
    let limit = if output_shown {
        LINES_AGAIN
    } else {
        usize::MAX
    };
    let skipped = step.tail.len().saturating_sub(limit);
    let mut text = format!("------\n > {}:\n", step.name);
    if skipped + step.dropped > 0 && !output_shown {
        let _ = writeln!(text, "({} lines before)", skipped + step.dropped);
    }
    for line in step.tail.iter().skip(skipped) {
        let mut bytes = Vec::new();
        Filter::default().push(&line.bytes, &mut bytes);
        let colours = bytes.contains(&0x1b);
        let close = if colours { "\x1b[0m" } else { "" };
        let bytes = String::from_utf8_lossy(&bytes);
        let _ = writeln!(text, "{:.3} {bytes}{close}", line.at.as_secs_f64());
    }
    text.push_str("------\n");
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rbuild_builder::event::{Event, Stream, VertexId};
    use rbuild_parser::LineRange;

    use super::*;

    fn failed_journal() -> Journal {
        let mut journal = Journal::default();
        let vertex = VertexId(0);
        for event in [
            Event::Started {
                vertex,
                name: "[2/2] RUN false".into(),
            },
            Event::Output {
                vertex,
                stream: Stream::Stderr,
                bytes: b"no\x1b[2Jpe\n".to_vec(),
            },
            Event::Failed {
                vertex,
                message: "exit code: 1".into(),
            },
        ] {
            journal.apply(Duration::from_millis(250), event);
        }
        journal
    }

    #[test]
    fn a_failure_shows_output_place_and_way_out() {
        let message = "process \"/bin/sh -c false\" did not complete successfully: exit code: 1";
        let mut error = BuildError::user(message).with_help("look at the output above");
        error.location = Some(Location {
            file: "Dockerfile".into(),
            lines: LineRange::new(2, 2),
            span: None,
            source: b"FROM x\nRUN false\n".as_slice().into(),
        });
        error.causes.push("the reason".into());
        let text = failure(&error, &failed_journal(), &Palette::default(), true);
        assert_eq!(
            text,
            "------\n \
              > [2/2] RUN false:\n\
             0.000 nope\n\
             ------\n\
             Dockerfile:2\n\
             --------------------\n   \
                1 |     FROM x\n   \
                2 | >>> RUN false\n   \
                3 |     \n\
             --------------------\n\
             ERROR: failed to build: failed to solve: process \"/bin/sh -c false\" did not complete \
             successfully: exit code: 1\n  \
               caused by: the reason\n\
             hint: look at the output above\n"
        );
    }

    #[test]
    fn warnings_are_listed_with_rule_and_line() {
        let warning = |rule: Option<&str>, line| Warning {
            rule: rule.map(Into::into),
            message: "message".into(),
            line,
            url: Some("https://example.org/rule".into()),
            help: Some("do this".into()),
        };
        let palette = Palette::default();
        assert_eq!(warnings(&[], &palette, false), "");
        assert_eq!(
            warnings(
                &[warning(Some("RuleName"), Some(3)), warning(None, None)],
                &palette,
                false
            ),
            "\n 2 warnings found:\n - RuleName: message (line 3)\n - message\n"
        );
        assert_eq!(
            warnings(&[warning(None, None)], &palette, true),
            "\n 1 warning found:\n - message\n   do this\n   https://example.org/rule\n"
        );
    }
}
