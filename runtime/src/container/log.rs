//! The log of a container: a JSON object a line, as in Docker's `json-file`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::error::ContainerError;
use super::state::now;

/// Longest part of a line that is written in one piece.
const LONGEST: usize = 16 << 10;

/// Which stream something was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a log, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The text, with its line end if it has one. Bytes that are not UTF-8 are U+FFFD.
    #[serde(rename = "log")]
    pub text: String,
    /// Where it was written to.
    pub stream: Stream,
    /// When, RFC 3339.
    pub time: String,
}

/// Writes a log; both streams share it.
pub(super) struct Log(Mutex<File>);

impl Log {
    pub(super) fn open(path: &Path) -> Result<Log, ContainerError> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(ContainerError::io("open", path))?;
        Ok(Log(Mutex::new(file)))
    }

    fn write(&self, stream: Stream, text: &[u8]) -> io::Result<()> {
        let line = LogLine {
            text: String::from_utf8_lossy(text).into_owned(),
            stream,
            time: now(),
        };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        // One call a line, so that a reader never sees half of one for long.
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&bytes)
    }
}

/// Cuts what one stream brings into lines.
pub(super) struct Lines<'l> {
    log: &'l Log,
    stream: Stream,
    rest: Vec<u8>,
}

impl<'l> Lines<'l> {
    pub(super) fn new(log: &'l Log, stream: Stream) -> Lines<'l> {
        Lines {
            log,
            stream,
            rest: Vec::new(),
        }
    }

    /// Takes bytes; whole lines are written. A log that cannot be written loses them: the container
    /// is not to wait for it.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        loop {
            let end = match self.rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => end + 1,
                None if self.rest.len() >= LONGEST => LONGEST,
                None => return,
            };
            let _ = self.log.write(self.stream, &self.rest[..end]);
            self.rest.drain(..end);
        }
    }

    /// Writes what has no line end.
    pub(super) fn finish(mut self) {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            let _ = self.log.write(self.stream, &rest);
        }
    }
}

/// Reads a log from its beginning; what is written later can be read later.
#[derive(Debug)]
pub struct LogReader {
    file: BufReader<File>,
    /// Beginning of a line whose end is not there yet.
    part: Vec<u8>,
}

impl LogReader {
    /// Opens a log; one that is not there is empty.
    pub fn open(path: &Path) -> Result<Option<LogReader>, ContainerError> {
        match File::open(path) {
            Ok(file) => Ok(Some(LogReader {
                file: BufReader::new(file),
                part: Vec::new(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ContainerError::io("open", path)(error)),
        }
    }

    /// The next line; none when there is no more for now. What is no line of a log is left out.
    pub fn next_line(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            self.file.read_until(b'\n', &mut self.part)?;
            if self.part.last() != Some(&b'\n') {
                return Ok(None);
            }
            let line = serde_json::from_slice(&self.part);
            self.part.clear();
            if let Ok(line) = line {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_long_ones_are_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert!(LogReader::open(&path).unwrap().is_none());
        let log = Log::open(&path).unwrap();
        let mut reader = LogReader::open(&path).unwrap().unwrap();
        let mut lines = Lines::new(&log, Stream::Stdout);
        lines.push(b"one\ntw");
        let text = |line: Option<LogLine>| line.map(|line| line.text);
        assert_eq!(text(reader.next_line().unwrap()).as_deref(), Some("one\n"));
        assert_eq!(reader.next_line().unwrap(), None);
        lines.push(b"o\n");
        Lines::new(&log, Stream::Stderr).push(b"e\xff\n");
        assert_eq!(text(reader.next_line().unwrap()).as_deref(), Some("two\n"));
        let line = reader.next_line().unwrap().unwrap();
        assert_eq!(
            (line.text.as_str(), line.stream),
            ("e\u{fffd}\n", Stream::Stderr)
        );
        lines.push(&vec![b'x'; LONGEST + 5]);
        assert_eq!(reader.next_line().unwrap().unwrap().text.len(), LONGEST);
        lines.finish();
        assert_eq!(text(reader.next_line().unwrap()).as_deref(), Some("xxxxx"));
    }
}
