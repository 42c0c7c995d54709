//! The log of a container: a JSON object a line, as in Docker's `json-file`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
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

/// What becomes of what a container writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogOptions {
    /// The name that it was asked for by; with `none` nothing is kept.
    pub driver: String,
    /// Bytes of a file, after which another is begun; none for any number.
    pub max_size: Option<u64>,
    /// Files that are kept, the one that is written to included.
    pub max_file: u32,
    /// What is said about each line with `logs --details`.
    pub attributes: BTreeMap<String, String>,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            driver: "json-file".to_owned(),
            max_size: None,
            max_file: 1,
            attributes: BTreeMap::new(),
        }
    }
}

impl LogOptions {
    /// Whether anything is kept.
    pub fn keeps(&self) -> bool {
        self.driver != "none"
    }
}

/// Writes a log; both streams share it.
pub(super) struct Log {
    /// None if nothing is kept.
    current: Option<Mutex<Current>>,
    path: PathBuf,
    max_size: u64,
    max_file: u32,
}

struct Current {
    file: File,
    size: u64,
}

impl Log {
    pub(super) fn open(path: &Path, options: &LogOptions) -> Result<Log, ContainerError> {
        let failed = |error| ContainerError::io("open", path)(error);
        let current = if options.keeps() {
            let file = append_to(path).map_err(failed)?;
            let size = file.metadata().map_err(failed)?.len();
            Some(Mutex::new(Current { file, size }))
        } else {
            None
        };
        Ok(Log {
            current,
            path: path.to_owned(),
            max_size: options.max_size.unwrap_or(u64::MAX),
            max_file: options.max_file.max(1),
        })
    }

    fn write(&self, stream: Stream, text: &[u8]) -> io::Result<()> {
        let Some(current) = &self.current else {
            return Ok(());
        };
        let line = LogLine {
            text: String::from_utf8_lossy(text).into_owned(),
            stream,
            time: now(),
        };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.size >= self.max_size {
            current.file = self.rotate()?;
            current.size = 0;
        }
        // One call a line, so that a reader never sees half of one for long.
        current.file.write_all(&bytes)?;
        current.size += bytes.len() as u64;
        Ok(())
    }

    /// Makes room for another file; the oldest one goes.
    fn rotate(&self) -> io::Result<File> {
        for number in (0..self.max_file).rev() {
            let path = numbered(&self.path, number);
            let done = if number + 1 >= self.max_file {
                fs::remove_file(&path)
            } else {
                fs::rename(&path, numbered(&self.path, number + 1))
            };
            match done {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        append_to(&self.path)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The file with this number; 0 is the one that is written to.
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
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

/// Reads a log from its beginning, through all its files; what is written later can be read later.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: BufReader<File>,
    /// Beginning of a line whose end is not there yet.
    part: Vec<u8>,
}

impl LogReader {
    /// Opens a log; one that is not there is empty.
    pub fn open(path: &Path) -> Result<Option<LogReader>, ContainerError> {
        let failed = |error| ContainerError::io("open", path)(error);
        loop {
            let Some((_, oldest)) = files(path).map_err(failed)?.pop() else {
                return Ok(None);
            };
            match File::open(&oldest) {
                Ok(file) => {
                    return Ok(Some(LogReader {
                        path: path.to_owned(),
                        file: BufReader::new(file),
                        part: Vec::new(),
                    }));
                }
                // It has got another number, or is gone: whoever writes was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// The next line; none when there is no more for now. What is no line of a log is left out.
    pub fn next_line(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            self.file.read_until(b'\n', &mut self.part)?;
            if self.part.last() != Some(&b'\n') {
                let Some(newer) = self.newer()? else {
                    return Ok(None);
                };
                // Between the last look and the change of files there may have been more.
                self.file.read_until(b'\n', &mut self.part)?;
                if self.part.last() != Some(&b'\n') {
                    self.part.clear();
                    self.file = BufReader::new(newer);
                    continue;
                }
            }
            let line = serde_json::from_slice(&self.part);
            self.part.clear();
            if let Ok(line) = line {
                return Ok(Some(line));
            }
        }
    }

    /// The file after the one that is read, if that is no longer written to.
    fn newer(&self) -> io::Result<Option<File>> {
        let own = self.file.get_ref().metadata()?;
        let is_own = |path: &Path| fs::metadata(path).is_ok_and(|found| same(&found, &own));
        if is_own(&self.path) {
            return Ok(None);
        }
        let files = files(&self.path)?;
        let newer = match files.iter().position(|(_, path)| is_own(path)) {
            // A file is renamed before the next one is begun.
            Some(0) => None,
            Some(position) => files.get(position - 1),
            // It is gone: the oldest that is left comes next.
            None => files.last(),
        };
        let Some((_, path)) = newer else {
            return Ok(None);
        };
        match File::open(path) {
            Ok(file) if !same(&file.metadata()?, &own) => Ok(Some(file)),
            // Renamed meanwhile: whoever reads tries again.
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// The files of a log with their numbers, the newest first.
fn files(path: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parent = path.parent().unwrap_or(Path::new("."));
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let number = |entry: &fs::DirEntry| -> Option<u32> {
        let found = entry.file_name();
        match found.to_str()?.strip_prefix(&*name)? {
            "" => Some(0),
            rest => rest.strip_prefix('.')?.parse().ok(),
        }
    };
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((number(&entry)?, entry.path()))
        })
        .collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_long_ones_are_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert!(LogReader::open(&path).unwrap().is_none());
        let log = Log::open(&path, &LogOptions::default()).unwrap();
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

    #[test]
    fn full_files_are_set_aside_and_read_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let options = LogOptions {
            max_size: Some(150),
            max_file: 3,
            ..LogOptions::default()
        };
        let log = Log::open(&path, &options).unwrap();
        let mut lines = Lines::new(&log, Stream::Stdout);
        lines.push(b"0\n");
        let mut follower = LogReader::open(&path).unwrap().unwrap();
        let number = |line: LogLine| line.text.trim().parse::<usize>().unwrap();
        assert_eq!(follower.next_line().unwrap().map(number), Some(0));
        let mut seen = Vec::new();
        for number in 1..40 {
            lines.push(format!("{number}\n").as_bytes());
            while let Some(line) = follower.next_line().unwrap() {
                seen.push(line.text.trim().parse::<usize>().unwrap());
            }
        }
        assert_eq!(seen, (1..40).collect::<Vec<_>>());
        let mut reader = LogReader::open(&path).unwrap().unwrap();
        let kept: Vec<usize> =
            std::iter::from_fn(|| reader.next_line().unwrap().map(number)).collect();
        assert_eq!(kept, (40 - kept.len()..40).collect::<Vec<_>>());
        assert!((3..9).contains(&kept.len()), "{kept:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn nothing_is_kept_without_a_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let options = LogOptions {
            driver: "none".into(),
            ..LogOptions::default()
        };
        Lines::new(&Log::open(&path, &options).unwrap(), Stream::Stdout).push(b"lost\n");
        assert!(!path.exists());
    }
}
