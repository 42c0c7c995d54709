//! Mounts as objects: made detached, given their attributes, then attached to a descriptor.
//!
//! Nothing here takes a target as a path: between looking at a path and mounting on it, a hostile
//! process that shares a directory could put a symbolic link there.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};

use crate::sys;
use crate::wire::{Failure, InStep as _, Step};

/// Attributes of a mount that shows data only.
pub(crate) const NO_SUID_DEV: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
/// The same without programs.
pub(crate) const NO_SUID_DEV_EXEC: MountAttrFlags =
    NO_SUID_DEV.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
/// Refuses writes.
pub(crate) const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// Where a [`Stage`] is attached, in the namespace of one sandbox that is being made.
const STAGE: &str = "/proc/fs";

/// A mount that is held by a descriptor, not yet (or no longer only) by the tree.
#[derive(Debug)]
pub(crate) struct Detached(OwnedFd);

impl Detached {
    /// Clones the mount at `path`, with the mounts below it.
    pub(crate) fn clone_of(directory: impl AsFd, path: &Path) -> io::Result<Self> {
        Self::clone_with(directory, path, OpenTreeFlags::AT_RECURSIVE)
    }

    /// Clones the mount at `path`, without mounts below it.
    pub(crate) fn clone_alone(directory: impl AsFd, path: &Path) -> io::Result<Self> {
        Self::clone_with(directory, path, OpenTreeFlags::empty())
    }

    /// Clones what the descriptor shows, without mounts below it.
    pub(crate) fn clone_of_fd(fd: impl AsFd) -> io::Result<Self> {
        Self::clone_with(fd, Path::new(""), OpenTreeFlags::AT_EMPTY_PATH)
    }

    /// Clones what the descriptor shows, with the mounts below it.
    pub(crate) fn clone_of_fd_recursive(fd: impl AsFd) -> io::Result<Self> {
        let flags = OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE;
        Self::clone_with(fd, Path::new(""), flags)
    }

    fn clone_with(directory: impl AsFd, path: &Path, flags: OpenTreeFlags) -> io::Result<Self> {
        let flags = flags | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(Self(open_tree(directory, path, flags)?))
    }

    /// Sets attributes on this mount alone.
    pub(crate) fn set(&self, attributes: MountAttrFlags) -> io::Result<()> {
        sys::mount_setattr(self.as_fd(), attributes.bits().into(), 0, false)
    }

    /// Sets attributes on this mount and all below it.
    pub(crate) fn set_recursively(&self, attributes: MountAttrFlags) -> io::Result<()> {
        sys::mount_setattr(self.as_fd(), attributes.bits().into(), 0, true)
    }

    /// Mounts it on what `target` shows. The descriptor stays good.
    pub(crate) fn attach(&self, target: impl AsFd) -> io::Result<()> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(&self.0, c"", target, c"", flags)?)
    }

    /// Mounts it over the root directory of this namespace, out of everybody's sight: look-ups from
    /// the root do not cross it, only the descriptor reaches it.
    ///
    /// Only for what will be the new root: anything else that lies over the old one would come
    /// along, on top of it, when the new one is entered.
    pub(crate) fn attach_over_root(&self) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&self.0, c"", CWD, c"/", flags)?)
    }

    /// Takes a descriptor of the root of a mount that is attached already.
    pub(crate) fn from_attached(root: OwnedFd) -> Self {
        Self(root)
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A file system that is being made; see `fsopen(2)`.
pub(crate) struct FileSystem {
    context: OwnedFd,
    kind: &'static str,
}

impl FileSystem {
    /// Begins a file system of a kind such as `tmpfs`.
    pub(crate) fn new(kind: &'static str) -> Step<Self> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).step(format!("mount {kind}"))?;
        let file_system = Self { context, kind };
        // What `df` and `mount` show as the device; `none` otherwise.
        file_system.option(c"source", kind)?;
        Ok(file_system)
    }

    /// Sets an option without value.
    pub(crate) fn flag(&self, key: &CStr) -> Step<()> {
        fsconfig_set_flag(self.context.as_fd(), key).map_err(|error| self.failure(error, key))
    }

    /// Sets an option. The kernel refuses values above 255 bytes.
    pub(crate) fn option(&self, key: &CStr, value: &str) -> Step<()> {
        self.raw_option(key, value)
            .map_err(|error| self.failure(error, key))
    }

    /// As [`option`](Self::option), for callers that try something else next.
    pub(crate) fn raw_option(&self, key: &CStr, value: &str) -> rustix::io::Result<()> {
        fsconfig_set_string(self.context.as_fd(), key, value)
    }

    /// Sets an option to an open file, for callers that try something else next.
    pub(crate) fn raw_descriptor(&self, key: &CStr, fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
        fsconfig_set_fd(self.context.as_fd(), key, fd)
    }

    /// Makes the file system and a detached mount of it.
    pub(crate) fn mount(self, attributes: MountAttrFlags) -> Step<Detached> {
        fsconfig_create(self.context.as_fd()).map_err(|error| self.failure(error, c""))?;
        let mount = fsmount(
            self.context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            attributes,
        )
        .map_err(|error| self.failure(error, c""))?;
        Ok(Detached(mount))
    }

    /// Builds the error with what the kernel has written into the context.
    fn failure(&self, error: rustix::io::Errno, option: &CStr) -> Failure {
        let failure = Failure::new(format!("mount {}", self.kind), &error.into());
        let mut said = Vec::new();
        let mut line = [0; 512];
        while let Ok(length @ 1..) = rustix::io::read(&self.context, &mut line) {
            // A line begins with its level, such as "e ".
            let text = String::from_utf8_lossy(&line[..length]);
            said.push(text.get(2..).unwrap_or_default().trim().to_owned());
        }
        if said.is_empty() && !option.is_empty() {
            said.push(format!("option `{}`", option.to_string_lossy()));
        }
        if said.is_empty() {
            failure
        } else {
            failure.because(said.join("; "))
        }
    }
}

/// A file system in memory that only serves to make other mounts from: never seen in the sandbox.
pub(crate) struct Stage {
    mount: Detached,
    entries: u32,
}

impl Stage {
    /// Attaches it, since a mount can only be cloned from an attached one before Linux 6.15.
    ///
    /// The place is a directory of the host's `/proc` that every kernel has and nothing here needs.
    /// It lies in the old root, so that one call detaches both: each costs a grace period.
    pub(crate) fn new() -> Step<Self> {
        let tmpfs = FileSystem::new("tmpfs")?;
        tmpfs.option(c"mode", "0700")?;
        // Secrets lie here: keep them off the swap where the kernel can (6.4).
        let _ = fsconfig_set_flag(tmpfs.context.as_fd(), c"noswap");
        let mount = tmpfs.mount(MountAttrFlags::empty())?;
        let place = open(
            STAGE,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .step_at("open", STAGE)?;
        mount.attach(&place).step_at("attach the stage to", STAGE)?;
        Ok(Self { mount, entries: 0 })
    }

    /// Returns a name that is free in the stage.
    pub(crate) fn fresh_name(&mut self) -> String {
        self.entries += 1;
        self.entries.to_string()
    }

    /// Makes a directory to mount on; returns it with its name.
    pub(crate) fn fresh_directory(&mut self) -> Step<(OwnedFd, String)> {
        let name = self.fresh_name();
        rustix::fs::mkdirat(&*self, name.as_str(), Mode::RWXU).step("make a stage directory")?;
        let fd = open_path(self.as_fd(), Path::new(&name)).step("open a stage directory")?;
        Ok((fd, name))
    }
}

impl AsFd for Stage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// Opens a name for reference only, without following it or leaving the mount.
pub(crate) fn open_path(directory: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    resolve(directory, path, OFlags::PATH | OFlags::CLOEXEC, how)
}

/// Opens a path for reference only, as if `root` were the root directory.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &Path, more: OFlags) -> io::Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    resolve(root, path, OFlags::PATH | OFlags::CLOEXEC | more, how)
}

/// Calls `openat2`, again and again while the kernel cannot tell whether a `..` has escaped.
///
/// It answers `EAGAIN` then, which needs no attack: any mount or rename on the machine during the
/// look-up is enough. The number of attempts is bounded, so that a process which renames without
/// end cannot hold us.
fn resolve(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    how: ResolveFlags,
) -> io::Result<OwnedFd> {
    const ATTEMPTS: usize = 1000;
    for _ in 1..ATTEMPTS {
        match openat2(directory, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
    Ok(openat2(directory, path, flags, Mode::empty(), how)?)
}

/// Returns a path of at most 30 bytes that means the descriptor, while `/proc` is the host's.
pub(crate) fn name_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
