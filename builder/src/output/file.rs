//! Files that are whole or not there.
//!
//! A file appears under its name only when it is complete: it is written without a name (or, where
//! the file system cannot do that, under a hidden one) and linked at the end. So who is interrupted
//! leaves the old file, and a kill leaves nothing at all.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rbuild_cache::HoleWriter;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// A file that is being written and does not have its name yet. Dropping it discards it.
#[derive(Debug)]
#[must_use = "a draft that is dropped is discarded"]
pub(crate) struct FileDraft {
    pub(crate) file: File,
    target: PathBuf,
    /// The hidden name, when the file has one.
    hidden: Option<PathBuf>,
}

impl FileDraft {
    /// Starts a file that will be `target`.
    pub(crate) fn new(target: &Path) -> io::Result<FileDraft> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let nameless = rustix::fs::open(parent(target), flags | OFlags::TMPFILE, mode);
        let (file, hidden) = if let Ok(file) = nameless {
            (file, None)
        } else {
            // Not every file system has nameless files; an error of another kind comes up again here.
            let (hidden, file) = free_name(target, |path| {
                rustix::fs::open(path, flags | OFlags::CREATE | OFlags::EXCL, mode)
            })?;
            (file, Some(hidden))
        };
        Ok(FileDraft {
            file: File::from(file),
            target: target.to_path_buf(),
            hidden,
        })
    }

    /// Gives the file its name, replacing what is there.
    pub(crate) fn publish(mut self) -> io::Result<()> {
        let hidden = match self.hidden.take() {
            Some(hidden) => hidden,
            None => match self.link(&self.target) {
                // A link cannot take the place of another file, a renamed one can.
                Err(Errno::EXIST) => free_name(&self.target, |path| self.link(path))?.0,
                result => return Ok(result?),
            },
        };
        std::fs::rename(&hidden, &self.target).inspect_err(|_| {
            // The error matters, not whether the leftover could be removed too.
            let _ = std::fs::remove_file(&hidden);
        })
    }

    /// Gives a nameless file a name.
    fn link(&self, path: &Path) -> rustix::io::Result<()> {
        // By descriptor alone (`AT_EMPTY_PATH`) only root may.
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, own.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW)
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
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
}

/// A file that gets its name when it is complete; a device or pipe is written directly.
///
/// Long runs of zeros take no space. Dropping it without [`commit`](OutFile::commit) leaves nothing.
/// It is not flushed to the disk: like every archiver we leave that to the system; what must survive
/// a power cut is the store.
#[derive(Debug)]
#[must_use = "a file that is dropped is discarded"]
pub struct OutFile(Out);

/// Where the bytes go.
#[derive(Debug)]
enum Out {
    /// A device or pipe, which takes every byte.
    Stream(File),
    /// A regular file, by a second descriptor of the draft's.
    Regular(HoleWriter, FileDraft),
}

impl OutFile {
    /// Starts to write the file at `path`; through a symlink, as a shell's redirection would.
    pub fn create(path: &Path) -> io::Result<OutFile> {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        if is_stream(&path) {
            return Ok(OutFile(Out::Stream(
                File::options().write(true).open(&path)?,
            )));
        }
        if path.is_dir() || path.file_name().is_none() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let draft = FileDraft::new(&path)?;
        let writer = HoleWriter::new(draft.file.try_clone()?);
        Ok(OutFile(Out::Regular(writer, draft)))
    }

    /// The file that is made, with everything in it that was written; none for a device or pipe.
    pub fn complete(&mut self) -> io::Result<Option<&File>> {
        match &mut self.0 {
            Out::Stream(file) => file.flush().map(|()| None),
            Out::Regular(writer, draft) => writer.end().map(|()| Some(&draft.file)),
        }
    }

    /// Gives the file its name, replacing what is there.
    pub fn commit(mut self) -> io::Result<()> {
        self.complete()?;
        match self.0 {
            Out::Stream(_) => Ok(()),
            Out::Regular(_, draft) => draft.publish(),
        }
    }
}

/// Tells whether a path is a device or a pipe (`/dev/null`, a FIFO), which must not be replaced.
fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

impl Write for OutFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Out::Stream(file) => file.write(bytes),
            Out::Regular(writer, _) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Out::Stream(file) => file.flush(),
            Out::Regular(writer, _) => writer.flush(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What is in a directory.
    pub(in crate::output) fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let mut file = OutFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert!(names(directory.path()).is_empty());
        for text in ["first", "second"] {
            let mut file = OutFile::create(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.commit().unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(names(directory.path()), ["out"]);
        }
    }

    #[test]
    fn a_directory_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let error = OutFile::create(directory.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
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
}
