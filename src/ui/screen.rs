//! The last lines of a terminal, drawn over and over.
//!
//! Only what changed is written, in one go and between the marks of a synchronised update, so that
//! nothing flickers. The cursor stays below the lines and is never hidden: a program that dies leaves
//! the terminal as it should be.

use std::io::{self, Write};

/// What a terminal without a size is taken for.
const USUAL_SIZE: Size = Size {
    columns: 80,
    rows: 24,
};

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Columns.
    pub(crate) columns: usize,
    /// Rows.
    pub(crate) rows: usize,
}

impl Size {
    /// The size of the terminal behind standard error.
    pub(crate) fn of_stderr() -> Size {
        Size::of(io::stderr())
    }

    /// The size of the terminal behind standard output.
    pub(crate) fn of_stdout() -> Size {
        Size::of(io::stdout())
    }

    fn of(terminal: impl std::os::fd::AsFd) -> Size {
        match rustix::termios::tcgetwinsize(terminal) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Size {
                columns: size.ws_col.into(),
                rows: size.ws_row.into(),
            },
            _ => USUAL_SIZE,
        }
    }
}

/// Lines of a terminal that are drawn over and over.
pub(crate) struct Screen<W> {
    out: W,
    /// What is on the terminal, each line with the columns it takes.
    drawn: Vec<(String, usize)>,
    size: Option<Size>,
}

impl Screen<io::Stderr> {
    /// Draws on standard error.
    pub(crate) fn stderr() -> Self {
        Screen::new(io::stderr())
    }
}

impl Screen<io::Stdout> {
    /// Draws on standard output.
    pub(crate) fn stdout() -> Self {
        Screen::new(io::stdout())
    }
}

impl<W: Write> Screen<W> {
    fn new(out: W) -> Screen<W> {
        Screen {
            out,
            drawn: Vec::new(),
            size: None,
        }
    }

    /// Replaces what was drawn before. Each line comes with its columns, and fits into the terminal.
    pub(crate) fn draw(&mut self, lines: Vec<(String, usize)>, size: Size) {
        let mut text = String::new();
        let resized = self.size.replace(size) != Some(size);
        if resized {
            text.push_str(&self.erased(size));
            self.drawn.clear();
        } else if self.drawn == lines {
            return;
        } else if !self.drawn.is_empty() {
            text.push_str(&format!("\x1b[{}F", self.drawn.len()));
        }
        for (index, (line, columns)) in lines.iter().enumerate() {
            if self.drawn.get(index).is_none_or(|(drawn, _)| drawn != line) {
                text.push_str(line);
                // In the last column the cursor may stand on the line's last letter.
                if *columns < size.columns {
                    text.push_str("\x1b[K");
                }
            }
            text.push_str("\r\n");
        }
        if self.drawn.len() > lines.len() {
            text.push_str("\x1b[J");
        }
        self.drawn = lines;
        self.write(&format!("\x1b[?2026h{text}\x1b[?2026l"));
    }

    /// Takes away what was drawn, and writes lines to stay.
    pub(crate) fn close(&mut self, lines: &[String], size: Size) {
        let mut text = self.erased(size);
        self.drawn.clear();
        for line in lines {
            text.push_str(line);
            text.push_str("\r\n");
        }
        self.write(&text);
    }

    /// What takes away the drawn lines, which a narrower terminal may have wrapped.
    fn erased(&self, size: Size) -> String {
        let rows = |(_, columns): &(String, usize)| columns.div_ceil(size.columns.max(1)).max(1);
        match self.drawn.iter().map(rows).sum::<usize>() {
            0 => String::new(),
            rows => format!("\x1b[{rows}F\x1b[J"),
        }
    }

    fn write(&mut self, text: &str) {
        // Nobody reads any more: there is nobody to tell either.
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<(String, usize)> {
        texts
            .iter()
            .map(|text| ((*text).to_owned(), text.len()))
            .collect()
    }

    #[test]
    fn only_changed_lines_are_written_again() {
        let size = Size {
            columns: 20,
            rows: 10,
        };
        let mut screen = Screen::new(Vec::new());
        let written = |screen: &mut Screen<Vec<u8>>, texts: &[&str]| {
            screen.draw(lines(texts), size);
            String::from_utf8(std::mem::take(&mut screen.out)).unwrap()
        };
        assert_eq!(
            written(&mut screen, &["one", "two"]),
            "\x1b[?2026hone\x1b[K\r\ntwo\x1b[K\r\n\x1b[?2026l"
        );
        assert_eq!(written(&mut screen, &["one", "two"]), "");
        assert_eq!(
            written(&mut screen, &["one", "2"]),
            "\x1b[?2026h\x1b[2F\r\n2\x1b[K\r\n\x1b[?2026l"
        );
        assert_eq!(
            written(&mut screen, &["one"]),
            "\x1b[?2026h\x1b[2F\r\n\x1b[J\x1b[?2026l"
        );
    }
}
