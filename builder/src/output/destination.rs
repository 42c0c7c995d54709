//! Files and streams that outputs go to.
//!
//! A file appears under its name only when it is complete: it is written without a name (or, where
//! the file system cannot do that, under a hidden one) and linked at the end. So an interrupted build
//! leaves the old file, and a kill leaves nothing at all. It is not flushed to the disk: like every
//! archiver we leave that to the system; what must survive a power cut is the store.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rbuild_cache::{HoleWriter, check_stop};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::OutputError;
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
            if is_stream(&path) {
                let file = File::options()
                    .write(true)
                    .open(&path)
                    .map_err(OutputError::io("open", &path))?;
                return fill(&file, stop, write, &failed);
            }
            let draft = FileDraft::new(&path)?;
            // Another descriptor of the same file.
            let file = draft.file.try_clone().map_err(failed)?;
            let mut out = HoleWriter::new(file);
            fill(&mut out, stop, write, &failed)?;
            out.end().map_err(failed)?;
            draft.publish()
        }
    }
}

/// Standard output without line buffering.
fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Tells whether a path is a device or a pipe (`/dev/null`, a FIFO), which must not be replaced.
fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
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

/// A file that is being written and does not have its name yet. Dropping it discards it.
pub(crate) struct FileDraft {
    pub(crate) file: File,
    target: PathBuf,
    /// The hidden name, when the file has one.
    hidden: Option<PathBuf>,
}

impl FileDraft {
    /// Starts a file that will be `target`.
    pub(crate) fn new(target: &Path) -> Result<FileDraft, OutputError> {
        let directory = parent(target);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        if let Ok(file) = rustix::fs::open(directory, flags | OFlags::TMPFILE, mode) {
            let target = target.to_path_buf();
            return Ok(FileDraft {
                file: File::from(file),
                target,
                hidden: None,
            });
        }
        // Not every file system has nameless files; an error of another kind comes up again here.
        let hidden = free_name(target, |path| {
            rustix::fs::open(path, flags | OFlags::CREATE | OFlags::EXCL, mode)
        });
        let (hidden, file) = hidden.map_err(OutputError::io("create", target))?;
        Ok(FileDraft {
            file: File::from(file),
            target: target.to_path_buf(),
            hidden: Some(hidden),
        })
    }

    /// Gives the file its name, replacing what is there.
    pub(crate) fn publish(mut self) -> Result<(), OutputError> {
        let failed = || OutputError::io("create", &self.target);
        let hidden = match self.hidden.take() {
            Some(hidden) => hidden,
            None => self.link().map_err(failed())?,
        };
        std::fs::rename(&hidden, &self.target).map_err(|source| {
            // The error matters, not whether the leftover could be removed too.
            let _ = std::fs::remove_file(&hidden);
            OutputError::Io {
                action: "create",
                path: self.target.clone(),
                source,
            }
        })
    }

    /// Gives a nameless file a hidden name, since linking cannot replace a file.
    fn link(&self) -> rustix::io::Result<PathBuf> {
        use std::os::fd::AsRawFd;
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let (path, ()) = free_name(&self.target, |path| {
            rustix::fs::linkat(CWD, own.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW)
        })?;
        Ok(path)
    }
}

impl Drop for FileDraft {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // Nothing more can be done about a leftover here.
            let _ = std::fs::remove_file(hidden);
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Finds a hidden name beside `target` with which `create` succeeds.
fn free_name<T>(
    target: &Path,
    mut create: impl FnMut(&Path) -> rustix::io::Result<T>,
) -> rustix::io::Result<(PathBuf, T)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".rbuild-{}-{number}.partial", std::process::id());
        let path = parent(target).join(name);
        match create(&path) {
            Ok(made) => return Ok((path, made)),
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

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
    fn a_hidden_file_is_removed_when_discarded() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("a");
        let (hidden, file) = free_name(&target, |path| {
            rustix::fs::open(
                path,
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
                Mode::RUSR,
            )
        })
        .unwrap();
        drop(FileDraft {
            file: File::from(file),
            target,
            hidden: Some(hidden),
        });
        assert!(names(directory.path()).is_empty());
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
