//! Findings for people.

use std::fmt::Write as _;

use super::Findings;
use crate::ui::control::{visible, visible_lines};
use crate::ui::report::{Quotes, reasons};
use crate::ui::style::{Palette, paint};

impl Findings<'_> {
    /// The findings as `docker build --check` prints them, with the exact place and a way out added.
    pub(crate) fn text(&self, palette: &Palette) -> String {
        let mut text = match self.warnings.len() {
            0 if self.errors.is_empty() => "Check complete, no warnings found.\n".to_owned(),
            0 => String::new(),
            1 => "Check complete, 1 warning has been found!\n".to_owned(),
            count => format!("Check complete, {count} warnings have been found!\n"),
        };
        for finding in &self.warnings {
            let word = paint(palette.warning, "WARNING:");
            let _ = write!(text, "\n{word} {}", finding.rule.name);
            if !finding.rule.url.is_empty() {
                let _ = write!(text, " - {}", finding.rule.url);
            }
            let _ = writeln!(text, "\n{}", visible_lines(&finding.message));
            let span = Some(finding.span);
            text.push_str(&self.source.excerpt(finding.lines, span, &[], palette));
            if let Some(help) = &finding.help {
                let word = paint(palette.strong, "help:");
                let _ = writeln!(text, "{word} {}", visible(help));
            }
        }
        text
    }

    /// What a build would fail with: every error with its place and ways out.
    pub(crate) fn errors_text(&self, palette: &Palette) -> String {
        let mut text = String::new();
        let mut quotes = Quotes::default();
        for (index, error) in self.errors.iter().enumerate() {
            // One line names the error that a build would end with, as everywhere.
            let word = if index == 0 { "ERROR:" } else { "\nalso:" };
            let word = paint(palette.error, word);
            let _ = writeln!(text, "{word} {}", visible_lines(&error.message));
            text.push_str(&quotes.place(error, palette));
            text.push_str(&reasons(error, "help:", palette));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{error, findings, with};
    use super::*;

    #[test]
    fn nothing_found_is_said_in_docker_s_words() {
        let palette = Palette::default();
        with(&[], None, |all| {
            assert_eq!(all.text(&palette), "Check complete, no warnings found.\n");
            assert_eq!(all.errors_text(&palette), "");
        });
    }

    #[test]
    fn findings_are_shown_by_line() {
        let text = with(&findings(), None, |all| all.text(&Palette::default()));
        assert_eq!(
            text,
            "Check complete, 2 warnings have been found!\n\
             \n\
             WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\n\
             about \"B\"\n\
             Dockerfile:1\n\
             --------------------\n   \
                1 | >>> FROM a AS B\n     \
                  |               ^\n   \
                2 |     env c\td e\n   \
                3 |     CPOY \\\n\
             --------------------\n\
             \n\
             WARNING: rbuild/IgnoredFlag\n\
             about \"d e\"\n\
             Dockerfile:2\n\
             --------------------\n   \
                1 |     FROM a AS B\n   \
                2 | >>> env c\td e\n     \
                  |          \t^^^\n   \
                3 |     CPOY \\\n   \
                4 |       f\n\
             --------------------\n\
             help: leave it out\n"
        );
        let one = with(&findings()[..1], None, |all| all.text(&Palette::default()));
        assert!(
            one.starts_with("Check complete, 1 warning has been found!\n"),
            "{one}"
        );
    }

    #[test]
    fn every_error_is_shown() {
        let error = error();
        with(&[], Some(&error), |all| {
            assert_eq!(all.text(&Palette::default()), "");
            assert_eq!(
                all.errors_text(&Palette::default()),
                "ERROR: unknown: CPOY\n\
                 Dockerfile:3\n\
                 --------------------\n   \
                    1 |     FROM a AS B\n     \
                      |     ---- the stage\n   \
                    2 |     env c\td e\n   \
                    3 | >>> CPOY \\\n     \
                      |     ^^^^\n   \
                    4 | >>>   f\n   \
                    5 |     \n\
                 --------------------\n\
                 help: write COPY\n\
                 \n\
                 also: 50% of\nall\n"
            );
        });
    }
}
