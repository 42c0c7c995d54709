//! The root file system as a directory tree of the current user.
//!
//! What is in the destination stays unless the result has something else in its place. The tree is
//! written through directory descriptors that never follow a symlink, so nothing outside of the
//! destination can be reached, whatever the image or the destination holds.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rbuild_cache::{FileKind, RootView, Store, ViewEntry, WalkAction, copy_content};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::rootfs_tar::{HardLinks, sub_directory, view_of};
use super::{Finished, OutputError};

/// Name under which a file is written before it takes its place.
const PARTIAL: &str = ".rbuild-partial";

/// Writes the file trees, one directory per platform when there are several.
pub(crate) fn write_tree(
    store: &Store,
    finished: &[Finished],
    destination: &Path,
    progress: &dyn Fn(&str, u64, Option<u64>),
) -> Result<(), OutputError> {
    for one in finished {
        let directory = match sub_directory(finished, one) {
            Some(name) => destination.join(name),
            None => destination.to_path_buf(),
        };
        std::fs::create_dir_all(&directory).map_err(OutputError::io("create", &directory))?;
        let view = view_of(store, one)?;
        let mut tree = Tree::open(&directory, &view, one.source_date_epoch, progress)?;
        let mut links = HardLinks::default();
        view.walk(Path::new("/"), &mut |path, entry| {
            store
                .check_stop()
                .map_err(OutputError::io("write", destination))?;
            if !path.as_os_str().is_empty() {
                let first = links.first(path, entry);
                tree.entry(path, entry, first.as_deref())?;
            }
            Ok::<_, OutputError>(WalkAction::Continue)
        })?;
        tree.leave_to(0)?;
    }
    Ok(())
}

/// A tree being written; the open directories lead to the current one.
struct Tree<'a> {
    destination: &'a Path,
    view: &'a RootView,
    epoch: Option<i64>,
    progress: &'a dyn Fn(&str, u64, Option<u64>),
    bytes: u64,
    root: OwnedFd,
    open: Vec<OpenDirectory>,
}

/// A directory whose children are being written; its mode and time are set when it is left, because
/// it must be writable until then.
struct OpenDirectory {
    fd: OwnedFd,
    path: PathBuf,
    mode: u32,
    times: Timestamps,
}

impl<'a> Tree<'a> {
    fn open(
        destination: &'a Path,
        view: &'a RootView,
        epoch: Option<i64>,
        progress: &'a dyn Fn(&str, u64, Option<u64>),
    ) -> Result<Tree<'a>, OutputError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(destination, flags, Mode::empty())
            .map_err(OutputError::io("open", destination))?;
        Ok(Tree {
            destination,
            view,
            epoch,
            progress,
            bytes: 0,
            root,
            open: Vec::new(),
        })
    }

    /// The directory in which entries are being made.
    fn current(&self) -> BorrowedFd<'_> {
        self.open
            .last()
            .map_or(self.root.as_fd(), |directory| directory.fd.as_fd())
    }

    /// Makes one entry.
    fn entry(
        &mut self,
        path: &Path,
        entry: &ViewEntry,
        first: Option<&Path>,
    ) -> Result<(), OutputError> {
        self.leave_to(path.components().count() - 1)?;
        let name = path.file_name().unwrap_or_default();
        if entry.metadata.kind == FileKind::Socket {
            return Ok(());
        }
        if entry.metadata.kind == FileKind::Directory {
            return self.directory(path, name, entry);
        }
        if let Some(first) = first {
            return self.hard_link(path, name, first);
        }
        match entry.metadata.kind {
            FileKind::File => self.file(path, name, entry),
            FileKind::Symlink => self.symlink(path, name, entry),
            _ => self.node(path, name, entry),
        }
    }

    /// Ends directories until `depth` are open.
    fn leave_to(&mut self, depth: usize) -> Result<(), OutputError> {
        while self.open.len() > depth {
            let Some(directory) = self.open.pop() else {
                break;
            };
            let failed = || OutputError::io("set mode and time of", &directory.path);
            rustix::fs::fchmod(&directory.fd, Mode::from_raw_mode(directory.mode))
                .map_err(failed())?;
            rustix::fs::futimens(&directory.fd, &directory.times).map_err(failed())?;
        }
        Ok(())
    }

    fn directory(
        &mut self,
        path: &Path,
        name: &OsStr,
        entry: &ViewEntry,
    ) -> Result<(), OutputError> {
        let shown = self.destination.join(path);
        let failed = || OutputError::io("create", &shown);
        let parent = self.current();
        let found = kind_of(parent, name).map_err(failed())?;
        if found != Some(FileType::Directory) {
            if found.is_some() {
                rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(failed())?;
            }
            rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(failed())?;
        }
        let fd = c_name(name)
            .and_then(|name| open_writable(parent, &name))
            .map_err(failed())?;
        self.attributes(&fd, &shown, entry)?;
        let times = self.times(entry);
        self.open.push(OpenDirectory {
            fd,
            path: shown,
            mode: entry.metadata.mode,
            times,
        });
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &OsStr, entry: &ViewEntry) -> Result<(), OutputError> {
        let shown = self.destination.join(path);
        let source = self.view.open(entry)?;
        let draft = Partial::create(self.current(), &shown)?;
        let bytes = copy_content(&source, &draft.file, &|| false)
            .map_err(OutputError::io("write", &shown))?;
        self.attributes(&draft.file, &shown, entry)?;
        let mode = Mode::from_raw_mode(entry.metadata.mode);
        rustix::fs::fchmod(&draft.file, mode)
            .and_then(|()| rustix::fs::futimens(&draft.file, &self.times(entry)))
            .map_err(OutputError::io("set mode and time of", &shown))?;
        draft
            .publish(name)
            .map_err(OutputError::io("create", &shown))?;
        self.bytes += bytes;
        (self.progress)("copying files", self.bytes, None);
        Ok(())
    }

    fn symlink(&mut self, path: &Path, name: &OsStr, entry: &ViewEntry) -> Result<(), OutputError> {
        let shown = self.destination.join(path);
        let failed = || OutputError::io("create", &shown);
        let parent = self.current();
        remove(parent, name).map_err(failed())?;
        let target = entry.link_target.as_deref().unwrap_or_default();
        rustix::fs::symlinkat(target, parent, name).map_err(failed())?;
        let times = self.times(entry);
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed())
    }

    /// Makes a device or a pipe.
    fn node(&mut self, path: &Path, name: &OsStr, entry: &ViewEntry) -> Result<(), OutputError> {
        let shown = self.destination.join(path);
        let failed = || OutputError::io("create", &shown);
        let parent = self.current();
        remove(parent, name).map_err(failed())?;
        let (kind, action) = match entry.metadata.kind {
            FileKind::CharDevice => (FileType::CharacterDevice, "create the device"),
            FileKind::BlockDevice => (FileType::BlockDevice, "create the device"),
            _ => (FileType::Fifo, "create the pipe"),
        };
        let (major, minor) = entry.metadata.rdev;
        let device = if kind == FileType::Fifo {
            0
        } else {
            rustix::fs::makedev(major, minor)
        };
        rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)
            .map_err(OutputError::io(action, &shown))?;
        let mode = Mode::from_raw_mode(entry.metadata.mode);
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(failed())?;
        let times = self.times(entry);
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed())
    }

    fn hard_link(&mut self, path: &Path, name: &OsStr, first: &Path) -> Result<(), OutputError> {
        let shown = self.destination.join(path);
        let failed = || OutputError::io("link", &shown);
        let parent = self.current();
        remove(parent, name).map_err(failed())?;
        let directory = open_beneath(self.root.as_fd(), first.parent().unwrap_or(Path::new("")))
            .map_err(failed())?;
        let first = first.file_name().unwrap_or_default();
        rustix::fs::linkat(&directory, first, parent, name, AtFlags::empty()).map_err(failed())
    }

    /// Copies the attributes that a user may set, as far as the file system has them.
    fn attributes(
        &self,
        fd: impl AsFd,
        shown: &Path,
        entry: &ViewEntry,
    ) -> Result<(), OutputError> {
        for (name, value) in self.view.xattrs(entry)? {
            let wanted =
                name.as_bytes().starts_with(b"user.") || name.as_bytes() == b"security.capability";
            let Some(name) = CString::new(name.as_bytes()).ok().filter(|_| wanted) else {
                continue;
            };
            match rustix::fs::fsetxattr(&fd, name.as_c_str(), &value, XattrFlags::empty()) {
                // BuildKit, too, writes what the place allows.
                Ok(()) | Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {}
                Err(error) => {
                    return Err(OutputError::io("set an extended attribute of", shown)(
                        error,
                    ));
                }
            }
        }
        Ok(())
    }

    fn times(&self, entry: &ViewEntry) -> Timestamps {
        let mtime = entry.metadata.mtime;
        let time = match self.epoch {
            Some(epoch) => Timespec {
                tv_sec: epoch,
                tv_nsec: 0,
            },
            None => Timespec {
                tv_sec: mtime.seconds,
                tv_nsec: i64::from(mtime.nanoseconds),
            },
        };
        Timestamps {
            last_access: time,
            last_modification: time,
        }
    }
}

/// A file under its provisional name. Dropping it removes it.
struct Partial<'a> {
    directory: BorrowedFd<'a>,
    file: File,
    published: bool,
}

impl<'a> Partial<'a> {
    fn create(directory: BorrowedFd<'a>, shown: &Path) -> Result<Partial<'a>, OutputError> {
        let failed = || OutputError::io("create", shown);
        // Left by an export that was killed.
        remove(directory, OsStr::new(PARTIAL)).map_err(failed())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(directory, PARTIAL, flags, mode).map_err(failed())?;
        Ok(Partial {
            directory,
            file: File::from(file),
            published: false,
        })
    }

    /// Gives the file its name in place of whatever has it.
    fn publish(mut self, name: &OsStr) -> Result<(), Errno> {
        if kind_of(self.directory, name)? == Some(FileType::Directory) {
            remove(self.directory, name)?;
        }
        rustix::fs::renameat(self.directory, PARTIAL, self.directory, name)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if !self.published {
            // The error that led here matters more.
            let _ = rustix::fs::unlinkat(self.directory, PARTIAL, AtFlags::empty());
        }
    }
}

/// What stands under a name, if anything.
fn kind_of(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a directory below another one without following a symlink.
fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    for component in path.components() {
        let Component::Normal(name) = component else {
            return Err(Errno::INVAL);
        };
        directory = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
    }
    Ok(directory)
}

/// Removes what stands under a name, with all that is below it; nothing there is fine.
///
/// An explicit stack, since the depth of what stands there is not ours to choose.
fn remove(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match kind_of(directory, name)? {
        None => return Ok(()),
        Some(FileType::Directory) => {}
        Some(_) => return rustix::fs::unlinkat(directory, name, AtFlags::empty()),
    }
    let mut open: Vec<(OwnedFd, CString)> = Vec::new();
    let mut next = Some(c_name(name)?);
    while let Some(name) = next.take() {
        let parent = open.last().map_or(directory, |(fd, _)| fd.as_fd());
        open.push((open_writable(parent, &name)?, name));
        while let Some((fd, name)) = open.last() {
            if let Some(child) = remove_files(fd.as_fd())? {
                next = Some(child);
                break;
            }
            let name = name.clone();
            open.pop();
            let parent = open.last().map_or(directory, |(fd, _)| fd.as_fd());
            rustix::fs::unlinkat(parent, name.as_c_str(), AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

fn c_name(name: &OsStr) -> Result<CString, Errno> {
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)
}

/// Opens a directory and makes it writable; an earlier export may have left it locked.
fn open_writable(parent: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(parent, name.as_c_str(), flags, Mode::empty());
    let directory = match open() {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name.as_c_str(), Mode::RWXU, AtFlags::empty())?;
            open()?
        }
        other => other?,
    };
    rustix::fs::fchmod(&directory, Mode::RWXU)?;
    Ok(directory)
}

/// Removes all that is no directory and returns the first directory.
fn remove_files(directory: BorrowedFd<'_>) -> Result<Option<CString>, Errno> {
    let mut found = None;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => kind_of(directory, OsStr::from_bytes(name.to_bytes()))?,
            kind => Some(kind),
        };
        if kind == Some(FileType::Directory) {
            found.get_or_insert_with(|| name.to_owned());
        } else {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
        }
    }
    Ok(found)
}
