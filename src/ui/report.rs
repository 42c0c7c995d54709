//! What is said after a build: warnings, and for a failure the last output, the place and the way
//! out.

use std::fmt::Write as _;

use rbuild_builder::event::Warning;
use rbuild_builder::{BuildError, BuildErrorKind};

use crate::failure::plain_words;

use super::control::{Filter, visible, visible_lines};
use super::excerpt::Source;
use super::journal::{Journal, State, Step};
use super::style::{Palette, paint};

/// Lines of a failed step that are shown when its output has been on the terminal already.
const LINES_AGAIN: usize = 10;
/// Lines of a failed step that are shown otherwise; its log has all of them.
const LINES: usize = 50;

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
    text.push_str(&told(error, "failed to build: failed to solve: ", palette));
    text
}

/// Tells why a Dockerfile cannot be looked at, without a build around it.
pub(crate) fn plain_failure(error: &BuildError, palette: &Palette) -> String {
    told(error, "", palette)
}

/// Place, message, reasons and ways out; then the same of the other errors.
fn told(error: &BuildError, prefix: &str, palette: &Palette) -> String {
    let mut text = String::new();
    let mut quotes = Quotes::default();
    // Where a build was when somebody stopped it says nothing about why.
    if error.kind != BuildErrorKind::Cancelled {
        text.push_str(&quotes.place(error, palette));
    }
    let _ = writeln!(
        text,
        "{} {prefix}{}",
        paint(palette.error, "ERROR:"),
        visible_lines(&error.message)
    );
    text.push_str(&reasons(error, "hint:", palette));
    for other in &error.others {
        let _ = writeln!(
            text,
            "\n{} {}",
            paint(palette.error, "also:"),
            visible_lines(&other.message)
        );
        text.push_str(&quotes.place(other, palette));
        text.push_str(&reasons(other, "hint:", palette));
    }
    text
}

/// Why an error came about and what to do about it, below its message. `word` stands before each
/// way out.
pub(crate) fn reasons(error: &BuildError, word: &str, palette: &Palette) -> String {
    let mut text = String::new();
    for cause in &error.causes {
        let _ = writeln!(text, "  caused by: {}", visible_lines(&plain_words(cause)));
    }
    for note in &error.notes {
        let _ = writeln!(text, "note: {}", visible_lines(note));
    }
    for help in &error.help {
        let _ = writeln!(
            text,
            "{} {}",
            paint(palette.strong, word),
            visible_lines(help)
        );
    }
    text
}

/// Quotes the Dockerfile where errors have a place in it; divides it into lines once, however many
/// errors it has.
#[derive(Debug, Default)]
pub(crate) struct Quotes<'e> {
    source: Option<Source<'e>>,
}

impl<'e> Quotes<'e> {
    /// The excerpt for an error; empty without a place.
    pub(crate) fn place(&mut self, error: &'e BuildError, palette: &Palette) -> String {
        let Some(location) = &error.location else {
            return String::new();
        };
        let same = |source: &Source<'_>| std::ptr::eq(source.text(), &raw const *location.source);
        if !self.source.as_ref().is_some_and(same) {
            self.source = Some(Source::new(&location.file, &location.source));
        }
        self.source.as_ref().map_or_else(String::new, |source| {
            source.excerpt(location.lines, location.span, &error.labels, palette)
        })
    }
}

fn last_lines(step: &Step, output_shown: bool) -> String {
    let limit = if output_shown { LINES_AGAIN } else { LINES };
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

    use rbuild_builder::Location;
    use rbuild_builder::event::{Event, Stream, VertexId};
    use rbuild_parser::{LineRange, Span};

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
    fn all_errors_show_their_place_and_way_out() {
        let source: std::sync::Arc<[u8]> = b"FROM x\nRUM a\nCPOY b /\n".as_slice().into();
        let error = |message: &str, line, span: Span| {
            let mut error = BuildError::user(message).with_help(format!("help {line}"));
            error.location = Some(Location {
                file: "Dockerfile".into(),
                lines: LineRange::new(line, line),
                span: Some(span),
                source: source.clone(),
            });
            error
        };
        let mut first = error("unknown: RUM", 2, Span::new(7, 10));
        first
            .others
            .push(error("unknown: CPOY", 3, Span::new(13, 17)));
        let text = failure(&first, &Journal::default(), &Palette::default(), true);
        let (first, second) = text.split_once("\nalso: unknown: CPOY\n").unwrap();
        assert!(
            first.ends_with(
                "--------------------\n\
                 ERROR: failed to build: failed to solve: unknown: RUM\n\
                 hint: help 2\n"
            ),
            "{text}"
        );
        assert!(
            first.contains("   2 | >>> RUM a\n     |     ^^^\n"),
            "{text}"
        );
        assert!(second.starts_with("Dockerfile:3\n"), "{text}");
        assert!(
            second.contains("   3 | >>> CPOY b /\n     |     ^^^^\n"),
            "{text}"
        );
        assert!(second.ends_with("hint: help 3\n"), "{text}");
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
