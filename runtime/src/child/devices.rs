//! `/dev`: a small file system in memory with the devices that programs expect.
//!
//! The sandbox may write to it and `mknod` in it, so the file system itself is mounted without
//! devices; the six nodes are bound one by one from the stage, where devices work and nobody else
//! gets. They are nodes of our own: those of the host could be changed with `chmod` from inside.

mod more;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::mount::MountAttrFlags;

use crate::mount::{Detached, FileSystem, NO_SUID_DEV_EXEC, Stage, open_path};
use crate::spec::Frame;
use crate::userns::{has_single_id, in_user_namespace};
use crate::wire::{InStep as _, Step};

const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// The mounted `/dev`.
pub(super) struct Devices {
    /// Root of `/dev`.
    pub(super) dev: Detached,
    /// Root of `/dev/pts`.
    pub(super) pts: Detached,
}

/// Makes `/dev` with all that belongs in it, in the stage.
pub(super) fn make(frame: &Frame, stage: &mut Stage) -> Step<Devices> {
    let (target, _) = stage.fresh_directory()?;
    let tmpfs = FileSystem::new("tmpfs")?;
    tmpfs.option(c"mode", "0755")?;
    tmpfs.option(c"size", "65536k")?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
    if !frame.privileged {
        attributes |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    let dev = tmpfs.mount(attributes)?;
    dev.attach(&target).step("mount /dev")?;

    for (name, major, minor) in NODES {
        make_node(dev.as_fd(), stage, name, makedev(major, minor))
            .step_at("make the device", format!("/dev/{name}"))?;
    }
    for (name, content) in LINKS {
        symlinkat(content, &dev, name).step_at("make the link", format!("/dev/{name}"))?;
    }
    if frame.privileged {
        more::make(dev.as_fd(), frame.devices)?;
    }
    let pts = mount_pts(dev.as_fd())?;
    let shm = FileSystem::new("tmpfs")?;
    shm.option(c"mode", "1777")?;
    shm.option(c"size", &frame.shm_size.to_string())?;
    let shm = shm.mount(NO_SUID_DEV_EXEC)?;
    shm.attach(subdirectory(dev.as_fd(), "shm")?)
        .step("mount /dev/shm")?;
    // Queues of the host can be mounted by its own root only.
    if !(frame.of_host.ipc && in_user_namespace()) {
        let mqueue = FileSystem::new("mqueue")?.mount(NO_SUID_DEV_EXEC)?;
        mqueue
            .attach(subdirectory(dev.as_fd(), "mqueue")?)
            .step("mount /dev/mqueue")?;
    }
    Ok(Devices { dev, pts })
}

fn make_node(
    dev: BorrowedFd<'_>,
    stage: &mut Stage,
    name: &str,
    device: rustix::fs::Dev,
) -> std::io::Result<()> {
    if in_user_namespace() {
        return bind_node(dev, name, device);
    }
    let staged = stage.fresh_name();
    let mode = Mode::from_raw_mode(0o666);
    mknodat(
        &*stage,
        staged.as_str(),
        FileType::CharacterDevice,
        mode,
        device,
    )?;
    let node = Detached::clone_of_fd(open_path(stage.as_fd(), Path::new(&staged))?)?;
    node.attach(new_file(dev, name)?)
}

/// Binds the host's device where none can be made: in a user namespace. Its owner is not mapped
/// there, so nobody inside can change it.
fn bind_node(dev: BorrowedFd<'_>, name: &str, device: rustix::fs::Dev) -> std::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let host = rustix::fs::open(format!("/dev/{name}"), flags, Mode::empty())?;
    let found = fstat(&host)?;
    let is_it = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice
        && found.st_rdev == device;
    if !is_it {
        return Err(std::io::Error::other(
            "the file of this name on the host is another one",
        ));
    }
    let node = Detached::clone_of_fd(&host)?;
    node.attach(new_file(dev, name)?)
}

/// Makes an empty file to mount on.
pub(super) fn new_file(directory: BorrowedFd<'_>, name: &str) -> std::io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::from_raw_mode(0o666))?)
}

fn subdirectory(dev: BorrowedFd<'_>, name: &str) -> Step<OwnedFd> {
    mkdirat(dev, name, Mode::from_raw_mode(0o755)).step_at("make", format!("/dev/{name}"))?;
    open_path(dev, Path::new(name)).step_at("open", format!("/dev/{name}"))
}

fn mount_pts(dev: BorrowedFd<'_>) -> Step<Detached> {
    let devpts = FileSystem::new("devpts")?;
    devpts.flag(c"newinstance")?;
    devpts.option(c"ptmxmode", "0666")?;
    devpts.option(c"mode", "0620")?;
    if !has_single_id() {
        devpts.option(c"gid", "5")?;
    }
    let no_programs = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = devpts.mount(no_programs)?;
    pts.attach(subdirectory(dev, "pts")?)
        .step("mount /dev/pts")?;
    Ok(pts)
}
