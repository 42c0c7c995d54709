//! What a sandbox sees of control groups.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{Mode, mkdirat, statfs};
use rustix::mount::MountAttrFlags;

use super::{Cgroup, Controller};
use crate::mount::{FileSystem, open_path};
use crate::wire::{InStep as _, Step};

/// `statfs` type of the version 2 hierarchy.
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// Whether the host has version 2 alone, at the usual place.
pub(crate) fn is_unified() -> bool {
    statfs("/sys/fs/cgroup").is_ok_and(|found| found.f_type == CGROUP2_SUPER_MAGIC)
}

/// Mounts what the sandbox sees at `/sys/fs/cgroup`.
///
/// With version 2 its own group. With version 1 the controllers that limit it, so that programs
/// which size themselves by their limits find them; nothing without limits.
pub(crate) fn mount_view(
    target: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    cgroup: Option<&Cgroup>,
) -> Step<()> {
    let step = "mount /sys/fs/cgroup";
    if is_unified() {
        let view = FileSystem::new("cgroup2")?.mount(attributes)?;
        return view.attach(target).step(step);
    }
    let Some(cgroup) = cgroup.filter(|cgroup| !cgroup.legacy.is_empty()) else {
        return Ok(());
    };
    let tmpfs = FileSystem::new("tmpfs")?;
    tmpfs.option(c"mode", "0755")?;
    let parent = tmpfs.mount(attributes - crate::mount::READ_ONLY)?;
    parent.attach(target).step(step)?;
    for (controller, _) in &cgroup.legacy {
        let (name, key) = match controller {
            Controller::Memory => ("memory", c"memory"),
            Controller::Cpu => ("cpu", c"cpu"),
            Controller::Cpuset => ("cpuset", c"cpuset"),
            Controller::Pids => ("pids", c"pids"),
        };
        mkdirat(&parent, name, Mode::from_raw_mode(0o755)).step(step)?;
        let context = FileSystem::new("cgroup")?;
        context.flag(key)?;
        let view = context.mount(attributes)?;
        let place = open_path(std::os::fd::AsFd::as_fd(&parent), Path::new(name)).step(step)?;
        view.attach(&place).step(step)?;
    }
    parent.set(attributes).step(step)
}
