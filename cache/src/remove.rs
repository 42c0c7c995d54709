//! Removing directory trees that may be made to be hard to remove.
//!
//! A hostile step leaves directories without permissions, immutable files, or nests of thousands of
//! directories. Everything goes by descriptor and follows nothing. Below a certain depth a directory
//! is first moved up, so neither the stack nor the number of open files grows with the nesting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::StoreError;
use crate::sys;

/// Directories open at the same time.
const MAX_DEPTH: usize = 32;

/// Removes a file or a whole tree; it is fine if nothing is there.
pub(crate) fn remove_tree(path: &Path) -> Result<(), StoreError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(StoreError::io("remove", path)(io::Error::from(
            Errno::INVAL,
        )));
    };
    let parent = match rustix::fs::openat(CWD, parent, sys::LIST, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(StoreError::io("open the directory of", path)(error)),
    };
    remove_at(&parent, std::os::unix::ffi::OsStrExt::as_bytes(name))
        .map_err(StoreError::io("remove", path))
}

/// Removes `name` in `directory`, whatever it is; it is fine if nothing is there.
pub(crate) fn remove_at(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    let directory = directory.as_fd();
    if unlink(directory, name)? {
        return Ok(());
    }
    let Some(top) = open_for_removal(directory, name)? else {
        return Ok(());
    };
    let mut moved = 0;
    empty(top.as_fd(), top.as_fd(), 0, &mut moved)?;
    // What was too deep lies directly below `top` now, and goes in further rounds.
    while moved > 0 {
        moved = 0;
        empty(top.as_fd(), top.as_fd(), 0, &mut moved)?;
    }
    drop(top);
    remove_directory(directory, name)
}

/// Removes the content of `directory`, moving what is too deep to `top`.
fn empty(
    directory: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    depth: usize,
    moved: &mut u64,
) -> io::Result<()> {
    for name in sys::names(directory)? {
        if unlink(directory, &name)? {
            continue;
        }
        if depth >= MAX_DEPTH {
            move_up(directory, &name, top, moved)?;
            continue;
        }
        let Some(child) = open_for_removal(directory, &name)? else {
            continue;
        };
        empty(child.as_fd(), top, depth + 1, moved)?;
        drop(child);
        remove_directory(directory, &name)?;
    }
    Ok(())
}

fn move_up(
    directory: BorrowedFd<'_>,
    name: &[u8],
    top: BorrowedFd<'_>,
    moved: &mut u64,
) -> io::Result<()> {
    // An owner without search and write permission could not change the entry `..`.
    drop(open_for_removal(directory, name)?);
    loop {
        *moved += 1;
        let new_name = format!(".removed-{moved}");
        match rustix::fs::renameat_with(
            directory,
            name,
            top,
            new_name.as_str(),
            rustix::fs::RenameFlags::NOREPLACE,
        ) {
            Err(Errno::EXIST) => {}
            result => return Ok(result?),
        }
    }
}

/// Unlinks what is no directory; false if it is one.
fn unlink(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(Errno::PERM | Errno::ACCESS) => {
            if sys::lstat(directory, name)?
                .is_some_and(|found| found.kind == crate::entry::FileKind::Directory)
            {
                return Ok(false);
            }
            make_removable(directory, name);
            match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(true),
                Err(error) => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn remove_directory(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::PERM | Errno::ACCESS) => {
            make_removable(directory, name);
            Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory for listing, giving its owner all permissions if need be; none if it is gone.
fn open_for_removal(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<OwnedFd>> {
    for attempt in 0..2 {
        match rustix::fs::openat(directory, name, sys::LIST, Mode::empty()) {
            Ok(fd) => {
                clear_flags(&fd);
                if !rustix::process::geteuid().is_root() {
                    // Names can only be removed from a directory that its owner may write. Somebody
                    // else's directory refuses; the unlink after this then tells.
                    let _ = rustix::fs::fchmod(&fd, Mode::RWXU);
                }
                return Ok(Some(fd));
            }
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::ACCESS) if attempt == 0 => {
                rustix::fs::chmodat(directory, name, Mode::RWXU, AtFlags::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::ACCESS.into())
}

/// Takes immutable and append-only flags from a file and from the directory that names it.
fn make_removable(directory: BorrowedFd<'_>, name: &[u8]) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::openat(directory, name, flags, Mode::empty()) {
        clear_flags(&file);
    }
    if let Ok(parent) = rustix::fs::openat(directory, ".", sys::LIST, Mode::empty()) {
        clear_flags(&parent);
    }
}

fn clear_flags(file: &OwnedFd) {
    // Not every file system knows the flags, and without privilege they cannot be cleared: both
    // show in the removal that follows.
    if let Ok(flags) = rustix::fs::ioctl_getflags(file)
        && flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND)
    {
        let _ = rustix::fs::ioctl_setflags(file, flags - (IFlags::IMMUTABLE | IFlags::APPEND));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn nothing_to_remove_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        remove_tree(&dir.path().join("nothing")).unwrap();
        remove_tree(&dir.path().join("no/thing")).unwrap();
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("keep/inner")).unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        std::os::unix::fs::symlink("../keep", dir.path().join("tree/link")).unwrap();
        remove_tree(&dir.path().join("tree")).unwrap();
        assert!(dir.path().join("keep/inner").is_dir());
        assert!(!dir.path().join("tree").exists());
    }

    #[test]
    fn directories_nested_three_thousand_deep_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut here = rustix::fs::openat(CWD, dir.path(), sys::LIST, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = rustix::fs::openat(&here, "d", sys::LIST, Mode::empty()).unwrap();
        }
        remove_tree(&dir.path().join("d")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn needs_root_immutable_files_are_removed() {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test sets file flags: run it as root"
        );
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), b"x").unwrap();
        for path in [tree.join("file"), tree.clone()] {
            let file = OwnedFd::from(fs::File::open(path).unwrap());
            let flags = rustix::fs::ioctl_getflags(&file).unwrap();
            rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE).unwrap();
        }
        assert!(
            fs::remove_dir_all(&tree).is_err(),
            "the flag has no effect here"
        );
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
