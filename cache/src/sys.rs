//! System calls in the shapes that the store needs: by descriptor, never following a last symlink.
//!
//! Paths are byte strings relative to a directory descriptor; the empty path is that directory.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::entry::{FileKind, Metadata, Timestamp};
use crate::marks;
use crate::owners;

mod range;
pub(crate) use range::write_content;

/// Flags to open a directory only to name things below it.
pub(crate) const DIRECTORY: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Flags to open a directory in order to list, lock or sync it.
pub(crate) const LIST: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Flags to open a regular file for reading; does not block on a fifo.
pub(crate) const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Set once `openat2` was refused as unknown or by a seccomp filter.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens a path below `dir` without leaving it and without following any symlink.
///
/// Falls back to opening one component after the other where `openat2` (Linux 5.6) is not to be
/// had. A symlink on the way is `ELOOP`, a `..` is `EXDEV`.
pub(crate) fn open_beneath(dir: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    if !NO_OPENAT2.load(Ordering::Relaxed) {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(dir.as_fd(), path, flags, Mode::empty(), resolve) {
                // The kernel could not rule out a concurrent rename above us: it says "try again".
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS | Errno::PERM) => break,
                result => return Ok(result?),
            }
        }
        // EPERM may also be an honest answer about this file (O_NOATIME, sealed), which the walk
        // below will then repeat; only an unknown call is remembered.
        if probe_openat2_missing() {
            NO_OPENAT2.store(true, Ordering::Relaxed);
        }
    }
    open_by_component(dir.as_fd(), path, flags)
}

fn probe_openat2_missing() -> bool {
    let result = rustix::fs::openat2(
        rustix::fs::CWD,
        "/",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::empty(),
    );
    matches!(result, Err(Errno::NOSYS | Errno::PERM))
}

/// What [`open_beneath`] does on old kernels.
pub(crate) fn open_by_component(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> io::Result<OwnedFd> {
    let mut current: Option<OwnedFd> = None;
    let mut parts = path
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
        .peekable();
    if parts.peek().is_none() {
        return Err(Errno::NOENT.into());
    }
    while let Some(part) = parts.next() {
        if part == b".." {
            return Err(Errno::XDEV.into());
        }
        let here = current.as_ref().map_or(dir, OwnedFd::as_fd);
        let last = parts.peek().is_none();
        let how = if last {
            flags | OFlags::NOFOLLOW
        } else {
            DIRECTORY
        };
        let next = rustix::fs::openat(here, part, how, Mode::empty());
        let next = match next {
            // `O_PATH|O_DIRECTORY|O_NOFOLLOW` answers ENOTDIR for a symlink; openat2 says ELOOP.
            Err(Errno::NOTDIR) if !last && is_symlink(here, part) => Err(Errno::LOOP),
            result => result,
        }?;
        current = Some(next);
    }
    current.ok_or_else(|| Errno::NOENT.into())
}

fn is_symlink(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// Stats `path` below `dir`, not following a last symlink; none if nothing is there.
pub(crate) fn foreign_lstat(dir: impl AsFd, path: &[u8]) -> io::Result<Option<Metadata>> {
    let flags = if path.is_empty() {
        AtFlags::EMPTY_PATH
    } else {
        AtFlags::SYMLINK_NOFOLLOW
    };
    match rustix::fs::statat(dir, path, flags) {
        Ok(stat) => Ok(Some(metadata(&stat))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// As [`foreign_lstat`], for what this store has made: with the owners that are recorded there.
pub(crate) fn lstat(dir: impl AsFd, path: &[u8]) -> io::Result<Option<Metadata>> {
    let mut found = foreign_lstat(&dir, path)?;
    if let Some(found) = &mut found {
        owners::recorded_at(dir, path, found)?;
    }
    Ok(found)
}

/// Stats an open file of this store, or of somebody else where the owner is of no interest.
pub(crate) fn fstat(file: impl AsFd) -> io::Result<Metadata> {
    let mut found = metadata(&rustix::fs::fstat(&file)?);
    owners::recorded_of(file, &mut found)?;
    Ok(found)
}

/// Translates `struct stat`.
#[expect(
    clippy::unnecessary_cast,
    reason = "the field types differ between architectures"
)]
fn metadata(stat: &Stat) -> Metadata {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::RegularFile | FileType::Unknown => FileKind::File,
    };
    Metadata {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size as u64,
        mtime: Timestamp {
            seconds: stat.st_mtime as i64,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
        ctime: Timestamp {
            seconds: stat.st_ctime as i64,
            nanoseconds: u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
        },
        rdev: (
            rustix::fs::major(stat.st_rdev) as u32,
            rustix::fs::minor(stat.st_rdev) as u32,
        ),
        nlink: stat.st_nlink as u64,
        inode: (stat.st_dev as u64, stat.st_ino as u64),
    }
}

/// Lists the names in a directory that was opened for listing, unsorted, without `.` and `..`.
pub(crate) fn names(dir: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    rustix::fs::seek(dir.as_fd(), rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(dir.as_fd(), buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Lists the names in a directory in byte order.
pub(crate) fn sorted_names(dir: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = names(dir)?;
    names.sort_unstable();
    Ok(names)
}

/// Reads the target of a symlink.
pub(crate) fn readlink(dir: impl AsFd, path: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(dir, path, Vec::new())?.into_bytes())
}

/// Path through which `name` in `dir` can be given to calls that know no descriptors.
///
/// `setxattrat` is too new (6.13) and the `f*xattr` calls refuse `O_PATH` descriptors.
pub(crate) fn proc_path(dir: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Reads one extended attribute of `path` below `dir`, not following a last symlink.
pub(crate) fn xattr(dir: impl AsFd, path: &[u8], name: &str) -> io::Result<Option<Vec<u8>>> {
    path_xattr_nofollow(&proc_path(dir, path), name)
}

fn path_xattr_nofollow(path: &[u8], name: &str) -> io::Result<Option<Vec<u8>>> {
    let value = value_of(|buffer| rustix::fs::lgetxattr(path, name, buffer))?;
    if value.is_none() && name == crate::tree_tar::CAPABILITY {
        return owners::capability(path);
    }
    Ok(value)
}

/// Reads one extended attribute of what a path names, which is no symlink.
pub(crate) fn path_xattr(path: &[u8], name: &str) -> io::Result<Option<Vec<u8>>> {
    value_of(|buffer| rustix::fs::getxattr(path, name, buffer))
}

/// Reads one extended attribute of an open file.
pub(crate) fn fxattr(file: impl AsFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = file.as_fd();
    let value = value_of(|buffer| rustix::fs::fgetxattr(file, name, buffer))?;
    if value.is_none() && name == crate::tree_tar::CAPABILITY {
        return owners::capability(format!("/proc/self/fd/{}", file.as_raw_fd()).as_bytes());
    }
    Ok(value)
}

/// Calls `read` with buffers until the value fits.
fn value_of(
    mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; 128];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => {
                let larger = buffer.len() * 8;
                buffer.resize(larger, 0);
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT | Errno::NOTDIR) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Lists the names of the extended attributes of `path` below `dir`, sorted.
pub(crate) fn xattr_names(dir: impl AsFd, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let path = proc_path(dir, path);
    let list = value_of(|buffer| rustix::fs::llistxattr(path.as_slice(), buffer))?;
    let mut names: Vec<Vec<u8>> = list
        .unwrap_or_default()
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// The two names of overlay's opaque mark: of privileged and of `userxattr` mounts.
pub(crate) const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// Tells whether overlay hides what lies below this directory.
pub(crate) fn is_opaque(dir: impl AsFd, path: &[u8]) -> io::Result<bool> {
    for name in OPAQUE {
        // Without privilege `trusted.*` reads as absent, which is right: overlay cannot see it.
        if xattr(dir.as_fd(), path, name)?.is_some_and(|value| value == b"y") {
            return Ok(true);
        }
    }
    Ok(marks::are_recorded() && xattr(dir, path, marks::OPAQUE)?.is_some())
}

/// The two names of the mark that overlay leaves on what it copied up.
const ORIGIN: [&str; 2] = ["trusted.overlay.origin", "user.overlay.origin"];

/// Tells whether overlay copied this up from a lower directory.
pub(crate) fn has_origin(dir: impl AsFd, path: &[u8]) -> io::Result<bool> {
    for name in ORIGIN {
        if xattr(dir.as_fd(), path, name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Text of a name for system calls that want an `OsStr`.
pub(crate) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    #[test]
    fn both_ways_of_opening_refuse_the_same_things() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/file"), b"x").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("a/b/file", dir.path().join("last")).unwrap();
        let root = rustix::fs::openat(CWD, dir.path(), DIRECTORY, Mode::empty()).unwrap();
        for (path, flags, wanted) in [
            ("a/b/file", READ, None),
            ("a/b", DIRECTORY, None),
            ("a//b/./file", READ, None),
            ("link/b/file", READ, Some(Errno::LOOP)),
            ("link", DIRECTORY, Some(Errno::NOTDIR)),
            ("last", READ, Some(Errno::LOOP)),
            ("../x", READ, Some(Errno::XDEV)),
            ("nothing", READ, Some(Errno::NOENT)),
            ("a/b/file/c", READ, Some(Errno::NOTDIR)),
        ] {
            let wanted = wanted.map(Errno::raw_os_error);
            let whole = open_beneath(&root, path.as_bytes(), flags);
            let parts = open_by_component(root.as_fd(), path.as_bytes(), flags);
            assert_eq!(
                whole.err().and_then(|e| e.raw_os_error()),
                wanted,
                "openat2 {path}"
            );
            assert_eq!(
                parts.err().and_then(|e| e.raw_os_error()),
                wanted,
                "walk {path}"
            );
        }
    }

    #[test]
    fn long_attribute_values_are_read_whole() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::write(dir.path().join("f"), b"").unwrap();
        let root = rustix::fs::openat(CWD, dir.path(), DIRECTORY, Mode::empty()).unwrap();
        let value = vec![7; 3000];
        let path = proc_path(&root, b"f");
        rustix::fs::lsetxattr(
            path.as_slice(),
            "user.long",
            &value,
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        assert_eq!(xattr(&root, b"f", "user.long").unwrap(), Some(value));
        assert_eq!(xattr(&root, b"f", "user.none").unwrap(), None);
        assert_eq!(xattr_names(&root, b"f").unwrap(), [b"user.long".to_vec()]);
    }
}
