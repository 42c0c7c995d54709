//! Files and streams that outputs go to.
//!
//! A file appears under its name only when it is complete ([`OutFile`]).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rbuild_cache::check_stop;

use super::{OutFile, OutputError};
use crate::request::Destination;

/// Bytes collected before they are written.
const BUFFER: usize = 256 << 10;

/// Runs `write` with a buffered writer to the destination and publishes what it wrote; ends early when
/// the flag is set.
pub(crate) fn write_to(
    destination: &Destination,
    stop: Option<Arc<AtomicBool>>,
    write: &mut dyn FnMut(&mut dyn Write) -> Result<(), OutputError>,
) -> Result<(), OutputError> {
    match destination {
        Destination::Stdout => {
            let file = stdout().map_err(|source| OutputError::Stdout { source })?;
            fill(&file, stop, write, &|source| OutputError::Stdout { source })
        }
        Destination::File(path) => {
            // Written through a symlink, as a shell's redirection would be.
            let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            let failed = |source| OutputError::Io {
                action: "write",
                path: path.clone(),
                source,
            };
            let mut out = OutFile::create(&path).map_err(OutputError::io("create", &path))?;
            fill(&mut out, stop, write, &failed)?;
            out.complete().map_err(failed)?;
            out.commit().map_err(OutputError::io("create", &path))
        }
    }
}

/// Standard output without line buffering.
fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Writes through a buffer; an error of the destination wins over what it caused above.
fn fill(
    file: impl Write,
    stop: Option<Arc<AtomicBool>>,
    write: &mut dyn FnMut(&mut dyn Write) -> Result<(), OutputError>,
    failed: &dyn Fn(io::Error) -> OutputError,
) -> Result<(), OutputError> {
    let watched = Watched {
        file,
        stop,
        error: None,
    };
    let mut out = BufWriter::with_capacity(BUFFER, watched);
    let result = write(&mut out).and_then(|()| out.flush().map_err(failed));
    let (watched, _) = out.into_parts();
    match (result, watched.error) {
        (Err(_), Some(error)) => Err(failed(error)),
        (result, _) => result,
    }
}

/// Remembers the first error of the destination.
struct Watched<W> {
    file: W,
    stop: Option<Arc<AtomicBool>>,
    error: Option<io::Error>,
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check_stop(self.stop.as_deref())?;
        self.file.write(bytes).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted && self.error.is_none() {
                self.error = Some(copy_of(error));
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn copy_of(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;
    use std::path::Path;

    use rustix::fs::{CWD, Mode};

    use super::super::file::tests::names;
    use super::*;

    fn put(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
        write_to(&Destination::File(path.to_path_buf()), None, &mut |out| {
            out.write_all(bytes).map_err(OutputError::io("write", path))
        })
    }

    #[test]
    fn a_file_replaces_the_old_one_when_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        std::fs::write(&path, "old").unwrap();
        put(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(directory.path()), ["a.tar"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        std::fs::write(&path, "old").unwrap();
        let result = write_to(&Destination::File(path.clone()), None, &mut |out| {
            out.write_all(&vec![1; 1 << 20])
                .map_err(OutputError::io("write", &path))?;
            Err(OutputError::Refused("enough".to_owned()))
        });
        assert_eq!(result.unwrap_err().to_string(), "enough");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["a.tar"]);
    }

    #[test]
    fn symlinks_are_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        std::fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        put(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
        assert!(link.is_symlink());
    }

    #[test]
    fn a_pipe_is_written_into_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || std::fs::read(path).unwrap()
        });
        put(&path, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(path.metadata().unwrap().file_type().is_fifo());
    }

    #[test]
    fn a_full_disk_names_the_file() {
        let error = put(Path::new("/dev/full"), &vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.to_string(), "could not write `/dev/full`");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("No space left on device"), "{source}");
        assert_eq!(
            error.hints(),
            ["free some space in `/dev` or choose another `dest`"]
        );
    }
}
