//! Findings as workflow commands of GitHub Actions: annotations on the lines of a change.
//!
//! Form: `::warning file=…,line=…,endLine=…,col=…,endColumn=…,title=…::message`; `col` counts
//! from 1, and columns are given for places within one line only.

use std::fmt::Write as _;

use rbuild_parser::{LineRange, Span};

use super::Findings;

impl Findings<'_> {
    /// One command a line; empty without findings.
    pub(crate) fn github(&self) -> String {
        let mut text = String::new();
        for finding in &self.warnings {
            let place = Some((finding.lines, Some(finding.span)));
            let help = finding.help.as_slice();
            text.push_str(&self.command(
                "warning",
                finding.rule.name,
                place,
                &finding.message,
                help,
            ));
        }
        for error in &self.errors {
            let place = self.error_place(error);
            text.push_str(&self.command("error", "Dockerfile", place, &error.message, &error.help));
        }
        text
    }

    fn command(
        &self,
        level: &str,
        title: &str,
        place: Option<(LineRange, Option<Span>)>,
        message: &str,
        help: &[String],
    ) -> String {
        let mut command = format!("::{level} file={}", property(self.path));
        if let Some((lines, span)) = place
            && let Some(lines) = self.source.lines(lines, span)
        {
            let part = self
                .source
                .part(lines, span)
                .and_then(|span| self.source.places(span))
                .filter(|(start, end)| start.line == end.line);
            match part {
                Some((start, end)) => {
                    let _ = write!(
                        command,
                        ",line={0},endLine={0},col={1},endColumn={2}",
                        start.line,
                        start.column + 1,
                        end.column + 1
                    );
                }
                None => {
                    let _ = write!(command, ",line={},endLine={}", lines.first, lines.last);
                }
            }
        }
        let mut message = message.to_owned();
        for help in help {
            message.push('\n');
            message.push_str(help);
        }
        let _ = writeln!(command, ",title={}::{}", property(title), data(&message));
        command
    }
}

/// The message of a command: line ends would begin another command.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// The value of a property, which a comma or colon would end.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{error, findings, with};
    use super::*;

    #[test]
    fn commands_are_escaped() {
        assert_eq!(with(&[], None, Findings::github), "");
        assert_eq!(
            with(&findings(), Some(&error()), Findings::github),
            "::warning file=a b/Dockerfile,line=1,endLine=1,col=11,endColumn=12,\
             title=StageNameCasing::about \"B\"\n\
             ::warning file=a b/Dockerfile,line=2,endLine=2,col=7,endColumn=10,\
             title=rbuild/IgnoredFlag::about \"d e\"%0Aleave it out\n\
             ::error file=a b/Dockerfile,line=3,endLine=3,col=1,endColumn=5,\
             title=Dockerfile::unknown: CPOY%0Awrite COPY\n\
             ::error file=a b/Dockerfile,title=Dockerfile::50%25 of%0Aall\n"
        );
        assert_eq!(property("a,b:c%\r"), "a%2Cb%3Ac%25%0D");
    }
}
