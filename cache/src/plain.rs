//! A merged tree as a plain directory, and what somebody changed in it.
//!
//! Where nothing can be mounted a step runs in a copy of its root. [`PlainRoot::lay_out`] makes it and
//! remembers inode and change time of everything; [`PlainRoot::collect`] moves what is new or different
//! afterwards into an upper directory in overlay form, as if overlay had been there. The kernel sets
//! the change time, so that no step can hide a change by setting times back.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::entry::{FileKind, Metadata, Timestamp};
use crate::error::StoreError;
use crate::marks::{make_whiteout, set_opaque};
use crate::owners;
use crate::sys;
use crate::tree::Layer;
use crate::view::{Follow, RootView, ViewEntry, WalkAction, join, split};

/// Overlay's mark of what it copied up: the step has touched it and perhaps not changed it.
const ORIGIN: &str = "user.overlay.origin";

/// What is known of an entry before the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    kind: FileKind,
    inode: (u64, u64),
    ctime: Timestamp,
    mode: u32,
    owner: (u32, u32),
}

impl Stamp {
    fn of(found: &Metadata) -> Stamp {
        Stamp {
            kind: found.kind,
            inode: found.inode,
            ctime: found.ctime,
            mode: found.mode,
            owner: (found.uid, found.gid),
        }
    }
}

/// A plain copy of a merged tree.
#[derive(Debug)]
pub struct PlainRoot {
    path: PathBuf,
    root: OwnedFd,
    /// By directory, then by name.
    before: HashMap<Vec<u8>, HashMap<Vec<u8>, Stamp>>,
}

impl PlainRoot {
    /// Copies what `view` shows into the empty directory at `into`.
    ///
    /// # Errors
    ///
    /// Something could not be read or written.
    pub fn lay_out(view: &RootView, into: &Path) -> Result<PlainRoot, StoreError> {
        copy_tree(view, Path::new("/"), into)?;
        let root = open_root(into)?;
        let mut plain = PlainRoot {
            path: into.to_path_buf(),
            root,
            before: HashMap::new(),
        };
        let newest = plain.stamp(b"")?;
        wait_for_tick(into, newest)?;
        Ok(plain)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Remembers everything below a directory; returns the newest change time.
    fn stamp(&mut self, path: &[u8]) -> Result<Timestamp, StoreError> {
        let list = self.open(path)?;
        let mut newest = Timestamp::default();
        let mut stamps = HashMap::new();
        for name in sys::names(&list).map_err(StoreError::inside("list the directory", path))? {
            let child = join(path, &name);
            let Some(found) =
                sys::lstat(&list, &name).map_err(StoreError::inside("look at", &child))?
            else {
                continue;
            };
            newest = newest.max(found.ctime);
            if found.kind == FileKind::Directory {
                newest = newest.max(self.stamp(&child)?);
            }
            stamps.insert(name, Stamp::of(&found));
        }
        self.before.insert(path.to_vec(), stamps);
        Ok(newest)
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, StoreError> {
        sys::open_beneath(&self.root, path, sys::LIST)
            .map_err(StoreError::inside("open the directory", path))
    }

    /// Takes it that what lies at `path` was only moved away and back again since.
    ///
    /// # Errors
    ///
    /// It cannot be looked at.
    pub fn restored(&mut self, path: &Path) -> Result<(), StoreError> {
        let path = path.as_os_str().as_bytes();
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let (directory, name) = split(path);
        let Some(stamp) = self
            .before
            .get_mut(directory)
            .and_then(|names| names.get_mut(name))
        else {
            return Ok(());
        };
        let found = sys::lstat(&self.root, path).map_err(StoreError::inside("look at", path))?;
        if let Some(found) = found.filter(|found| found.inode == stamp.inode) {
            stamp.ctime = found.ctime;
        }
        Ok(())
    }

    /// Moves what has changed since into the directory at `upper`, in overlay form.
    ///
    /// # Errors
    ///
    /// Something could not be read or moved.
    pub fn collect(mut self, upper: &Path) -> Result<(), StoreError> {
        let upper = open_root(upper)?;
        let before = std::mem::take(&mut self.before);
        self.collect_directory(&upper, &before, b"")
    }

    fn collect_directory(
        &self,
        upper: &OwnedFd,
        before: &HashMap<Vec<u8>, HashMap<Vec<u8>, Stamp>>,
        path: &[u8],
    ) -> Result<(), StoreError> {
        let list = self.open(path)?;
        let mut names =
            sys::sorted_names(&list).map_err(StoreError::inside("list the directory", path))?;
        let nothing = HashMap::new();
        let known = before.get(path).unwrap_or(&nothing);
        for name in known
            .keys()
            .filter(|name| names.binary_search(name).is_err())
        {
            let child = join(path, name);
            let parent = self.upper_directory(upper, path)?;
            match make_whiteout(&parent, name) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(StoreError::inside("write the deletion of", &child)(error));
                }
                Err(_) => {
                    // What was prepared in the upper directory is gone again.
                    crate::remove::remove_at(&parent, name)
                        .map_err(StoreError::inside("remove", &child))?;
                    make_whiteout(&parent, name)
                        .map_err(StoreError::inside("write the deletion of", &child))?;
                }
                Ok(()) => {}
            }
        }
        for name in names.drain(..) {
            let child = join(path, &name);
            let found = sys::lstat(&list, &name)
                .map_err(StoreError::inside("look at", &child))?
                .ok_or_else(|| StoreError::inside("look at", &child)(Errno::NOENT))?;
            let old = known.get(&name);
            let same_inode = old.is_some_and(|old| old.inode == found.inode);
            if found.kind == FileKind::Directory && same_inode {
                let old = old.copied();
                self.collect_directory(upper, before, &child)?;
                let changed = old.is_none_or(|old| {
                    (old.mode, old.owner) != (found.mode, (found.uid, found.gid))
                });
                if changed {
                    self.upper_directory(upper, &child)?;
                }
                continue;
            }
            if old.is_some_and(|old| same_inode && old.ctime == found.ctime) {
                continue;
            }
            self.take(upper, &list, path, &name, &found, old.copied())?;
        }
        Ok(())
    }

    /// Moves a new or changed entry into the upper directory.
    fn take(
        &self,
        upper: &OwnedFd,
        list: &OwnedFd,
        path: &[u8],
        name: &[u8],
        found: &Metadata,
        old: Option<Stamp>,
    ) -> Result<(), StoreError> {
        let child = join(path, name);
        let here = sys::proc_path(list, name);
        let same_inode = old.is_some_and(|old| old.inode == found.inode);
        if same_inode && found.kind == FileKind::File {
            // Only touched, perhaps: the differ compares. Without attributes it counts as changed.
            let _ = rustix::fs::lsetxattr(here.as_slice(), ORIGIN, b"", XattrFlags::empty());
        } else if same_inode
            && old.is_some_and(|old| (old.mode, old.owner) == (found.mode, (found.uid, found.gid)))
        {
            // A link or device whose change time alone is another.
            return Ok(());
        }
        let parent = self.upper_directory(upper, path)?;
        crate::remove::remove_at(&parent, name).map_err(StoreError::inside("replace", &child))?;
        let replaced_directory = found.kind == FileKind::Directory
            && old.is_some_and(|old| old.kind == FileKind::Directory);
        if replaced_directory {
            set_opaque(&here).map_err(StoreError::inside("mark", &child))?;
        }
        rustix::fs::renameat(list, name, &parent, name).map_err(StoreError::inside("move", &child))
    }

    /// Opens a directory of the upper directory, making it and what is above it like those here.
    fn upper_directory(&self, upper: &OwnedFd, path: &[u8]) -> Result<OwnedFd, StoreError> {
        let failed = |action| StoreError::inside::<std::io::Error>(action, path);
        if !path.is_empty() {
            let (parent, name) = split(path);
            let parent = self.upper_directory(upper, parent)?;
            match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(StoreError::inside("create the directory", path)(error)),
            }
        }
        let made =
            sys::open_beneath(upper, path, sys::LIST).map_err(failed("open the directory"))?;
        let here = self.open(path)?;
        let found = sys::fstat(&here).map_err(failed("look at"))?;
        for name in sys::xattr_names(&here, b".").map_err(failed("list the attributes of"))? {
            if !crate::view::is_overlay_attribute(&name)
                && let Ok(text) = std::str::from_utf8(&name)
                && let Some(value) =
                    sys::xattr(&here, b".", text).map_err(failed("read the attributes of"))?
            {
                owners::set_attribute(&made, &name, &value)
                    .map_err(StoreError::inside("set an attribute of", path))?;
            }
        }
        owners::set(&made, found.uid, found.gid, found.mode)
            .map_err(failed("set owner and mode of"))?;
        rustix::fs::futimens(&made, &times(found.mtime))
            .map_err(StoreError::inside("set the times of", path))?;
        Ok(made)
    }
}

/// Copies what lies at `from` in a view to the path `into`: a directory that exists, or a file that does
/// not.
///
/// # Errors
///
/// Something could not be read or written.
pub fn copy_tree(view: &RootView, from: &Path, into: &Path) -> Result<(), StoreError> {
    let mut copy = Copy {
        view,
        links: HashMap::new(),
        directories: Vec::new(),
    };
    view.walk(from, &mut |relative, entry| -> Result<_, StoreError> {
        let target = if relative.as_os_str().is_empty() {
            into.to_path_buf()
        } else {
            into.join(relative)
        };
        copy.entry(entry, &target, relative.as_os_str().is_empty())?;
        Ok(WalkAction::Continue)
    })?;
    for (path, time) in copy.directories.iter().rev() {
        rustix::fs::utimensat(CWD, path, &times(*time), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(StoreError::io("set the times of", path))?;
    }
    Ok(())
}

/// Copies one file of a layer, whatever kind it has, to the path `into`, where nothing is.
///
/// # Errors
///
/// Something could not be read or written.
pub(crate) fn copy_entry(layer: &Layer, path: &[u8], into: &Path) -> Result<(), StoreError> {
    let view = RootView::new(std::slice::from_ref(layer));
    let path = Path::new("/").join(sys::os(path));
    let entry = view.lookup(&path, Follow::None)?;
    let entry = entry.ok_or_else(|| StoreError::io("find", &path)(Errno::NOENT))?;
    let mut copy = Copy {
        view: &view,
        links: HashMap::new(),
        directories: Vec::new(),
    };
    copy.entry(&entry, into, false)
}

struct Copy<'a> {
    view: &'a RootView,
    /// First copies of files with several names.
    links: HashMap<(usize, (u64, u64)), PathBuf>,
    directories: Vec<(PathBuf, Timestamp)>,
}

impl Copy<'_> {
    /// Copies one entry; all directories above `target` were made by this copy, so nothing is followed.
    fn entry(&mut self, entry: &ViewEntry, target: &Path, top: bool) -> Result<(), StoreError> {
        let found = &entry.metadata;
        let linked = found.nlink > 1 && found.kind != FileKind::Directory;
        let key = (entry.source, found.inode);
        if linked && let Some(first) = self.links.get(&key) {
            return rustix::fs::linkat(CWD, first, CWD, target, AtFlags::empty())
                .map_err(StoreError::io("link", target));
        }
        match found.kind {
            FileKind::Directory => {
                match rustix::fs::mkdirat(CWD, target, Mode::RWXU) {
                    Err(Errno::EXIST) if top => {}
                    made => made.map_err(StoreError::io("create the directory", target))?,
                }
                let made = rustix::fs::openat(CWD, target, sys::LIST, Mode::empty())
                    .map_err(StoreError::io("open the directory", target))?;
                self.metadata(&made, entry, target)?;
                self.directories.push((target.to_path_buf(), found.mtime));
            }
            FileKind::File => {
                let mut old = self.view.open(entry)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let made = rustix::fs::openat(CWD, target, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(StoreError::io("create", target))?;
                let mut new = File::from(made);
                if rustix::fs::ioctl_ficlone(&new, &old).is_err() {
                    std::io::copy(&mut old, &mut new).map_err(StoreError::io("copy to", target))?;
                }
                let made = OwnedFd::from(new);
                self.metadata(&made, entry, target)?;
                rustix::fs::futimens(&made, &times(found.mtime))
                    .map_err(StoreError::io("set the times of", target))?;
            }
            FileKind::Symlink => Self::by_name(entry, target, |parent, name| {
                let text = entry.link_target.as_deref().unwrap_or_default();
                rustix::fs::symlinkat(text, parent, name)?;
                owners::set_owner_at(parent, name, found.uid, found.gid)
            })?,
            FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo => {
                let rights = (found.uid, found.gid, found.mode);
                Self::by_name(entry, target, |parent, name| {
                    owners::make_node(parent, name, found.kind, found.rdev, rights)
                })?;
            }
            FileKind::Socket => return Ok(()),
        }
        if linked {
            self.links.insert(key, target.to_path_buf());
        }
        Ok(())
    }

    fn by_name(
        entry: &ViewEntry,
        target: &Path,
        make: impl FnOnce(&OwnedFd, &[u8]) -> std::io::Result<()>,
    ) -> Result<(), StoreError> {
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(StoreError::io("create", target)(std::io::Error::from(
                Errno::INVAL,
            )));
        };
        let parent = open_root(parent)?;
        make(&parent, name.as_bytes()).map_err(StoreError::io("create", target))?;
        let time = times(entry.metadata.mtime);
        rustix::fs::utimensat(&parent, name, &time, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(StoreError::io("set the times of", target))
    }

    fn metadata(&self, made: &OwnedFd, entry: &ViewEntry, at: &Path) -> Result<(), StoreError> {
        let found = &entry.metadata;
        owners::set(made, found.uid, found.gid, found.mode)
            .map_err(StoreError::io("set owner and mode of", at))?;
        for (name, value) in self.view.xattrs(entry)? {
            match owners::set_attribute(made, name.as_bytes(), &value) {
                // Attributes that nobody may set here, such as labels of a security module.
                Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(StoreError::io("set an attribute of", at)(error)),
            }
        }
        Ok(())
    }
}

fn open_root(path: &Path) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(StoreError::io("open", path))
}

/// The same time twice, as the kernel wants it.
pub(crate) fn times(time: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Waits until the clock of the file system has left the tick of the newest change: a change in the
/// same tick would look like none. Since Linux 6.13 a change after a look never has the same time.
fn wait_for_tick(directory: &Path, newest: Timestamp) -> Result<(), StoreError> {
    let path = directory.with_extension("tick");
    loop {
        let file = File::create(&path).map_err(StoreError::io("create", &path))?;
        let now = sys::fstat(&file).map_err(StoreError::io("look at", &path))?;
        std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        if now.ctime > newest {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn what_a_step_changes_is_what_overlay_would_have_kept() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in [
            "lower/same",
            "lower/gone",
            "lower/new-inode/x",
            "upper",
            "plain",
        ] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in [
            "same/a",
            "same/touched",
            "same/b",
            "gone/x",
            "new-inode/x/y",
        ] {
            fs::write(at("lower").join(name), name).unwrap();
        }
        let view = RootView::of_directory(&at("lower"));
        let plain = PlainRoot::lay_out(&view, &at("plain")).unwrap();
        let copy = |name: &str| at("plain").join(name);
        assert_eq!(fs::read(copy("same/a")).unwrap(), b"same/a");
        fs::write(copy("same/b"), "other").unwrap();
        let mode = fs::metadata(copy("same/touched")).unwrap().permissions();
        fs::set_permissions(copy("same/touched"), mode).unwrap();
        fs::remove_dir_all(copy("gone")).unwrap();
        fs::remove_dir_all(copy("new-inode")).unwrap();
        fs::create_dir(copy("new-inode")).unwrap();
        fs::write(copy("new-inode/z"), "z").unwrap();
        plain.collect(&at("upper")).unwrap();

        let upper = |name: &str| at("upper").join(name);
        assert!(!upper("same/a").exists());
        assert_eq!(fs::read(upper("same/b")).unwrap(), b"other");
        assert_eq!(fs::read(upper("new-inode/z")).unwrap(), b"z");
        assert_eq!(fs::symlink_metadata(upper("gone")).unwrap().rdev(), 0);
        assert_eq!(
            fs::metadata(upper("same")).unwrap().permissions().mode() & 0o777,
            0o755
        );
        let below = RootView::of_directory(&at("lower"));
        let root = open_root(&at("upper")).unwrap();
        crate::diff::normalise(&root, &below, &crate::CommitOptions::default()).unwrap();
        assert!(!upper("same/touched").exists(), "it was not changed");
        assert_eq!(
            fs::symlink_metadata(upper("new-inode/x")).unwrap().rdev(),
            0
        );
    }
}
