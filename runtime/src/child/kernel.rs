//! `/proc` and `/sys`: fresh instances, with the usual paths hidden or write-protected.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::cgroup::{self, Cgroup};
use crate::isolation::{Isolation, isolation};
use crate::mount::{
    Detached, FileSystem, NO_SUID_DEV_EXEC, READ_ONLY, Stage, open_in_root, open_path,
};
use crate::spec::{Frame, KernelSettings, Network};
use crate::userns::in_user_namespace;
use crate::wire::{Failure, InStep as _, Step};

/// What the OCI runtime specification's usual configuration hides in `/proc`.
const PROC_HIDDEN: [&str; 10] = [
    "asound",
    "acpi",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "scsi",
];
/// What it write-protects there.
const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// What it hides in `/sys`.
const SYS_HIDDEN: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// Tells the kernel what was asked for, while the host's `/proc` is in sight: the files below `/proc/sys`
/// are those of the namespaces of whoever writes.
pub(super) fn tell(settings: &KernelSettings) -> Step<()> {
    if let Some(score) = settings.oom_score_adj {
        let path = "/proc/self/oom_score_adj";
        std::fs::write(path, score.to_string())
            .step_at("set the score for want of memory in", path)?;
    }
    for (name, value) in &settings.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        std::fs::write(&path, value).step_at("set", &path)?;
    }
    Ok(())
}

/// Makes the mount for `/proc`, before anything of ours is mounted below the host's.
///
/// A container around us whose own `/proc` has masked paths keeps us from a new one. There the outer
/// one is shown: it has the outer process numbers, but the pid namespace is still our own, so that
/// nothing outside can be reached with them.
pub(super) fn make_proc(frame: &Frame) -> Step<Detached> {
    let fresh = if isolation() == Isolation::Nested {
        let refused = std::io::Error::from_raw_os_error(libc::EPERM);
        Err(Failure::new("mount /proc", &refused))
    } else {
        FileSystem::new("proc")?.mount(NO_SUID_DEV_EXEC)
    };
    match fresh {
        Err(failure) if failure.errno == libc::EPERM && in_user_namespace() => {
            if frame.privileged {
                return Err(failure.because(
                    "the container around this process hides parts of /proc: without a /proc of \
                     their own, privileged steps are not possible",
                ));
            }
            let outer =
                Detached::clone_of(rustix::fs::CWD, Path::new("/proc")).step_at("bind", "/proc")?;
            outer
                .set_recursively(NO_SUID_DEV_EXEC)
                .step_at("bind", "/proc")?;
            Ok(outer)
        }
        fresh => fresh,
    }
}

/// Puts `/proc` into the stage and hides what is not for the sandbox.
pub(super) fn stage_proc(
    proc: &Detached,
    frame: &Frame,
    cover: &Cover,
    stage: &mut Stage,
) -> Step<()> {
    let (target, _) = stage.fresh_directory()?;
    proc.attach(&target).step("mount /proc")?;
    if frame.privileged || !frame.masked_paths {
        return Ok(());
    }
    for name in PROC_READ_ONLY {
        let Some(found) = find(proc.as_fd(), name).step_at("write-protect", in_proc(name))? else {
            continue;
        };
        let copy =
            Detached::clone_of_fd_recursive(&found).step_at("write-protect", in_proc(name))?;
        copy.set(READ_ONLY | NO_SUID_DEV_EXEC)
            .step_at("write-protect", in_proc(name))?;
        copy.attach(&found)
            .step_at("write-protect", in_proc(name))?;
    }
    for name in PROC_HIDDEN {
        cover
            .hide(proc.as_fd(), name)
            .map_err(|failure| failure.at(in_proc(name)))?;
    }
    Ok(())
}

/// Makes `/sys` with the control groups in it, in the stage.
pub(super) fn make_sys(
    frame: &Frame,
    cover: &Cover,
    stage: &mut Stage,
    cgroup: Option<&Cgroup>,
) -> Step<Detached> {
    let (target, _) = stage.fresh_directory()?;
    let writable = frame.privileged;
    let protection = if writable {
        MountAttrFlags::empty()
    } else {
        READ_ONLY
    };
    // A user namespace may mount the one of its own network only.
    let bound = in_user_namespace() && frame.network == Network::Host;
    let sys = if bound {
        let sys = Detached::clone_of(rustix::fs::CWD, Path::new("/sys")).step_at("bind", "/sys")?;
        sys.set_recursively(NO_SUID_DEV_EXEC | protection)
            .step_at("bind", "/sys")?;
        sys
    } else {
        FileSystem::new("sysfs")?.mount(NO_SUID_DEV_EXEC | protection)?
    };
    sys.attach(&target).step("mount /sys")?;
    if !writable && frame.masked_paths {
        for name in SYS_HIDDEN {
            cover
                .hide(sys.as_fd(), name)
                .map_err(|failure| failure.at(format!("/sys/{name}")))?;
        }
    }
    let step = "open";
    let place = "/sys/fs/cgroup";
    let attributes = NO_SUID_DEV_EXEC | protection;
    if !bound {
        if let Some(target) = find(sys.as_fd(), "fs/cgroup").step_at(step, place)? {
            cgroup::mount_view(target.as_fd(), attributes, cgroup)?;
        }
    } else if cgroup::is_unified() {
        // Over the host's, which shows all groups. A container around us may refuse it.
        let target = open_in_root(sys.as_fd(), Path::new("fs/cgroup"), OFlags::DIRECTORY)
            .step_at(step, place)?;
        match cgroup::mount_view(target.as_fd(), attributes, cgroup) {
            Err(failure) if failure.errno == libc::EPERM => {}
            done => done?,
        }
    }
    Ok(sys)
}

/// Opens a directory of the image that a kernel file system goes on. It must be one: through a
/// symbolic link the mounts and masks would land elsewhere (CVE-2019-16884).
pub(super) fn system_directory(root: BorrowedFd<'_>, name: &str) -> Step<OwnedFd> {
    let step = format!("mount /{name}");
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, name, flags, Mode::empty(), how).map_err(|error| {
        let why = match error {
            Errno::LOOP => "it is a symbolic link in the root file system",
            Errno::NOTDIR => "it is not a directory in the root file system",
            Errno::NOENT => "it is missing in the root file system",
            _ => "it cannot be opened",
        };
        Failure::new(step, &error.into())
            .at(format!("/{name}"))
            .because(why)
    })
}

fn in_proc(name: &str) -> String {
    format!("/proc/{name}")
}

fn find(directory: BorrowedFd<'_>, name: &str) -> std::io::Result<Option<OwnedFd>> {
    match open_path(directory, Path::new(name)) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // The container around us has put something over it already; a fresh one has no mounts.
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => Ok(None),
        Err(error) => Err(error),
    }
}

/// Hides files below `/dev/null` and directories below an empty one.
pub(super) struct Cover {
    null: OwnedFd,
    empty: OwnedFd,
}

impl Cover {
    pub(super) fn new(stage: &mut Stage) -> Step<Self> {
        // The host's, seen before the sandbox had any say, and checked (CVE-2025-31133).
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let null =
            rustix::fs::open(c"/dev/null", flags, Mode::empty()).step_at("open", "/dev/null")?;
        let found = fstat(&null).step_at("look at", "/dev/null")?;
        let is_null = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice
            && found.st_rdev == rustix::fs::makedev(1, 3);
        if !is_null {
            let invalid = std::io::Error::from_raw_os_error(libc::EINVAL);
            return Err(Failure::new("look at", &invalid)
                .at("/dev/null")
                .because("it is not the null device on this host"));
        }
        let (empty, name) = stage.fresh_directory()?;
        // Who may not list it would fail there, as `find` does; elsewhere everybody sees nothing.
        rustix::fs::chmodat(
            &*stage,
            name.as_str(),
            Mode::from_raw_mode(0o1777),
            AtFlags::empty(),
        )
        .step("make a stage directory")?;
        Ok(Self { null, empty })
    }

    fn hide(&self, directory: BorrowedFd<'_>, name: &str) -> Step<()> {
        match find(directory, name).step("hide")? {
            None => Ok(()),
            Some(found) => self.hide_found(&found),
        }
    }

    /// Hides what the descriptor shows.
    pub(super) fn hide_found(&self, found: &OwnedFd) -> Step<()> {
        let status = fstat(found).step("hide")?;
        let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
        let (cover, attributes) = if is_directory {
            (&self.empty, READ_ONLY | NO_SUID_DEV_EXEC)
        } else {
            // Without write protection `chmod` in the sandbox would reach the host's device.
            (&self.null, READ_ONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC)
        };
        let cover = Detached::clone_of_fd(cover).step("hide")?;
        cover.set(attributes).step("hide")?;
        cover.attach(found).step("hide")
    }
}
