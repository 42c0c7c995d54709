//! Files that the command writes: whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rbuild_cache::HoleWriter;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;

/// A file that gets its name when it is complete.
///
/// Until then it has no name at all, so that even a killed process leaves nothing behind; where the
/// file system has no such files, it is written beside its place. Dropping it without
/// [`commit`](OutFile::commit) leaves nothing either. Devices and pipes are written directly.
#[derive(Debug)]
#[must_use = "a file that is dropped is discarded"]
pub(crate) struct OutFile {
    out: Out,
    path: PathBuf,
    state: State,
}

/// Where the bytes go.
#[derive(Debug)]
enum Out {
    /// A device or pipe, which takes every byte.
    Special(File),
    /// A regular file, in which long runs of zeros take no space.
    Regular(HoleWriter),
}

impl Out {
    fn file(&self) -> &File {
        match self {
            Out::Special(file) => file,
            Out::Regular(writer) => writer.file(),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self {
            Out::Special(file) => file.flush(),
            Out::Regular(writer) => writer.end(),
        }
    }
}

/// How far a file is on its way to its name.
#[derive(Debug)]
enum State {
    /// It had its name before.
    Direct,
    /// It has no name yet.
    Unnamed,
    /// It has another name yet.
    Beside(PathBuf),
    Done,
}

impl OutFile {
    /// Starts to write the file at `path`.
    pub(crate) fn create(path: &Path) -> io::Result<OutFile> {
        let special = std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        if special {
            let file = OpenOptions::new().write(true).open(path)?;
            return Ok(OutFile {
                out: Out::Special(file),
                path: path.to_owned(),
                state: State::Direct,
            });
        }
        // The file behind a symlink is replaced, not the link.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if path.file_name().is_none() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let (file, state) = match openat(CWD, directory, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => (File::from(file), State::Unnamed),
            // What says that there are no such files here depends on file system and kernel.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let (file, temporary) = beside(&path, |temporary| {
                    let mut options = OpenOptions::new();
                    options.write(true).create_new(true).mode(0o666);
                    options.open(temporary)
                })?;
                (file, State::Beside(temporary))
            }
            Err(error) => return Err(error.into()),
        };
        let out = Out::Regular(HoleWriter::new(file));
        Ok(OutFile { out, path, state })
    }

    /// Gives the file its name.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        self.out.end()?;
        match std::mem::replace(&mut self.state, State::Done) {
            State::Unnamed => match link(self.out.file(), &self.path) {
                // A link cannot take the place of another file, a renamed one can.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let ((), temporary) = beside(&self.path, |name| link(self.out.file(), name))?;
                    rename(&temporary, &self.path)
                }
                result => result,
            },
            State::Beside(temporary) => rename(&temporary, &self.path),
            State::Direct | State::Done => Ok(()),
        }
    }
}

/// Gives a file without a name one.
fn link(file: &File, path: &Path) -> io::Result<()> {
    // By descriptor alone (`AT_EMPTY_PATH`) only root may.
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, source, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// Renames a file, or removes it.
fn rename(temporary: &Path, path: &Path) -> io::Result<()> {
    let renamed = std::fs::rename(temporary, path);
    if renamed.is_err() {
        // Failing to tidy up changes nothing about the failure that led here.
        let _ = std::fs::remove_file(temporary);
    }
    renamed
}

/// Makes something beside `path`, under a name that nobody has.
fn beside<T>(
    path: &Path,
    mut make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(T, PathBuf)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let id = std::process::id();
    for attempt in 0..100 {
        let temporary = path.with_file_name(format!(".{name}.{id}-{attempt}.tmp"));
        match make(&temporary) {
            Ok(made) => return Ok((made, temporary)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

impl Write for OutFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.out {
            Out::Special(file) => file.write(bytes),
            Out::Regular(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.out {
            Out::Special(file) => file.flush(),
            Out::Regular(writer) => writer.flush(),
        }
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if let State::Beside(temporary) = &self.state {
            // Failing to tidy up changes nothing about the failure that led here.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Writes a small file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OutFile::create(path)?;
    file.write_all(bytes)?;
    file.commit()
}

/// Puts new content into a file that exists; mode and owner stay.
///
/// After a crash there is the old content or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let before = std::fs::metadata(path)?;
    let mut file = OutFile::create(path)?;
    file.write_all(bytes)?;
    if !matches!(file.state, State::Direct) {
        file.out.end()?;
        let made = file.out.file().metadata()?;
        if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
            // Only root can give files away; for others the file becomes their own, as editors do.
            let _ = fchown(file.out.file(), Some(before.uid()), Some(before.gid()));
        }
        // The mode last: changing the owner clears bits of it.
        file.out.file().set_permissions(before.permissions())?;
        file.out.file().sync_all()?;
    }
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries
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
        write(&path, b"whole").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(directory.path()), ["out"]);
    }

    #[test]
    fn a_link_is_followed_and_a_device_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (
            directory.path().join("target"),
            directory.path().join("link"),
        );
        std::fs::write(&target, b"old").unwrap();
        std::os::unix::fs::symlink("target", &link).unwrap();
        write(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        write(Path::new("/dev/null"), b"gone").unwrap();
    }

    #[test]
    fn a_replaced_file_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o751)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o751);
        assert_eq!(names(directory.path()), ["file"]);
        assert!(replace(&directory.path().join("none"), b"new").is_err());
    }
}
