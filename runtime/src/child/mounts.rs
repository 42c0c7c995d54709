//! The caller's mounts: sources are made while the host's tree is in sight, then put in place.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, PROC_SUPER_MAGIC, StatxFlags, Uid, fchmod, fchown,
    fstat, fstatfs, mkdirat, openat, statx,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::mount::{Detached, FileSystem, NO_SUID_DEV, READ_ONLY, Stage, open_in_root, open_path};
use crate::overlay;
use crate::spec::{Mount, MountSource, TmpfsOptions};
use crate::wire::{Failure, InStep as _, Step};

/// Makes the source of each mount, in their order.
pub(super) fn prepare(mounts: &[Mount], stage: &mut Stage) -> Step<Vec<Detached>> {
    mounts
        .iter()
        .map(|mount| prepare_one(mount, stage))
        .collect()
}

fn prepare_one(mount: &Mount, stage: &mut Stage) -> Step<Detached> {
    let protection = if mount.readonly {
        READ_ONLY
    } else {
        MountAttrFlags::empty()
    };
    match &mount.source {
        MountSource::Bind { source, subpath } => bind(source, subpath.as_deref(), mount.readonly),
        MountSource::BindAlone { source } => {
            let only = Detached::clone_alone(CWD, source).step_at("bind", source)?;
            protect(&only, source, mount.readonly)?;
            Ok(only)
        }
        MountSource::Overlay {
            lowers,
            upper,
            subpath,
        } => {
            // Like the root: no devices, but set-user-id programs work when it is writable.
            let attributes = protection | MountAttrFlags::MOUNT_ATTR_NODEV;
            let whole = overlay::mount(lowers, upper.as_ref(), attributes, stage)?;
            match subpath {
                None => Ok(whole),
                Some(subpath) => below(&whole, subpath, stage),
            }
        }
        MountSource::Tmpfs {
            size,
            mode,
            options,
        } => tmpfs(*size, *mode, *options, protection),
        MountSource::File {
            content,
            mode,
            uid,
            gid,
        } => {
            let step = "make the file for";
            let file = file(content, *mode, *uid, *gid, stage).step_at(step, &mount.target)?;
            file.set(protection | NO_SUID_DEV)
                .step_at(step, &mount.target)?;
            Ok(file)
        }
    }
}

fn tmpfs(
    size: Option<u64>,
    mode: Option<u32>,
    options: TmpfsOptions,
    protection: MountAttrFlags,
) -> Step<Detached> {
    let tmpfs = FileSystem::new("tmpfs")?;
    tmpfs.option(c"mode", &format!("{:o}", mode.unwrap_or(0o1777) & 0o7777))?;
    let numbers = [
        (c"size", size),
        (c"nr_inodes", options.inodes),
        (c"uid", options.uid.map(u64::from)),
        (c"gid", options.gid.map(u64::from)),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            tmpfs.option(name, &number.to_string())?;
        }
    }
    let mut attributes = protection | MountAttrFlags::MOUNT_ATTR_NODEV;
    if options.noexec {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
    }
    if !options.suid {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID;
    }
    tmpfs.mount(attributes)
}

fn bind(source: &Path, subpath: Option<&Path>, readonly: bool) -> Step<Detached> {
    let mount = match subpath {
        None => Detached::clone_of(CWD, source).step_at("bind", source)?,
        Some(subpath) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = openat(CWD, source, flags, Mode::empty()).step_at("open", source)?;
            let found = open_in_root(root.as_fd(), subpath, OFlags::empty())
                .step_at("resolve below the source", subpath)?;
            Detached::clone_of_fd_recursive(&found).step_at("bind", subpath)?
        }
    };
    protect(&mount, source, readonly)?;
    Ok(mount)
}

/// Gives what is bound its attributes.
fn protect(mount: &Detached, source: &Path, readonly: bool) -> Step<()> {
    let kind = FileType::from_raw_mode(fstat(mount).step_at("look at", source)?.st_mode);
    let attributes = match (kind, readonly) {
        // A device that the caller hands in shall work.
        (FileType::CharacterDevice | FileType::BlockDevice, true) => READ_ONLY,
        (FileType::CharacterDevice | FileType::BlockDevice, false) => MountAttrFlags::empty(),
        (_, true) => READ_ONLY | NO_SUID_DEV,
        (_, false) => MountAttrFlags::MOUNT_ATTR_NODEV,
    };
    mount
        .set_recursively(attributes)
        .step_at("set mount attributes of", source)
}

/// Narrows an overlay to a path in it. It must be attached somewhere to be cloned from.
fn below(whole: &Detached, subpath: &Path, stage: &mut Stage) -> Step<Detached> {
    let (directory, _) = stage.fresh_directory()?;
    whole.attach(&directory).step("attach the overlay")?;
    let found = open_in_root(whole.as_fd(), subpath, OFlags::empty())
        .step_at("resolve in the overlay", subpath)?;
    Detached::clone_of_fd(&found).step_at("bind", subpath)
}

fn file(content: &[u8], mode: u32, uid: u32, gid: u32, stage: &mut Stage) -> io::Result<Detached> {
    let name = stage.fresh_name();
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&*stage, name.as_str(), flags, Mode::empty())?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = &rest[written..];
    }
    fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?;
    Detached::clone_of_fd(open_path(stage.as_fd(), Path::new(&name))?)
}

/// Puts the prepared sources on their targets.
///
/// With `everywhere`, targets are also made in the root.
pub(super) fn attach(
    root: BorrowedFd<'_>,
    mounts: &[Mount],
    sources: Vec<Detached>,
    everywhere: bool,
) -> Step<()> {
    let root_mount = mount_id(root).step("look at the root")?;
    for (mount, source) in mounts.iter().zip(sources) {
        let untouched = (!everywhere).then_some(root_mount);
        let target = resolve_target(root, untouched, &mount.target, &source)
            .map_err(|failure| failure.at(&mount.target))?;
        refuse_special(&target, root_mount).map_err(|failure| failure.at(&mount.target))?;
        source.attach(&target).map_err(|error| {
            let failure = Failure::new("mount on", &error).at(&mount.target);
            if error.kind() == io::ErrorKind::NotADirectory {
                return failure
                    .because("one of source and target is a directory, the other is not");
            }
            failure
        })?;
    }
    Ok(())
}

fn refuse(why: &str) -> Failure {
    let invalid = io::Error::from_raw_os_error(libc::EINVAL);
    Failure::new("mount on", &invalid).because(why)
}

/// Mounts on or in `/proc` could pretend to be another process or lift the masks, one on the root
/// would hide everything. Looked at after resolution, so no name of theirs slips through.
fn refuse_special(target: &OwnedFd, root_mount: u64) -> Step<()> {
    let found = fstatfs(target).step("look at the mount target")?;
    if found.f_type == PROC_SUPER_MAGIC {
        return Err(refuse("mounts on or in /proc are not allowed"));
    }
    let attributes = statx(target, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .step("look at the mount target")?;
    let is_mount_root = attributes
        .stx_attributes
        .contains(rustix::fs::StatxAttributes::MOUNT_ROOT);
    if is_mount_root && attributes.stx_mnt_id == root_mount {
        return Err(refuse("mounts on the root directory are not allowed"));
    }
    Ok(())
}

fn mount_id(fd: impl std::os::fd::AsFd) -> rustix::io::Result<u64> {
    Ok(statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Finds the target; makes it when it is missing and does not lie in the mount that is to stay untouched.
fn resolve_target(
    root: BorrowedFd<'_>,
    untouched: Option<u64>,
    target: &Path,
    source: &Detached,
) -> Step<OwnedFd> {
    if !target.is_absolute() {
        return Err(refuse("a mount target must be an absolute path"));
    }
    match open_in_root(root, target, OFlags::empty()) {
        Ok(found) => return Ok(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::new("resolve the mount target", &error)),
    }
    let (mut directory, missing) = deepest_existing(root, target)?;
    let step = "make the mount target";
    if Some(mount_id(&directory).step(step)?) == untouched {
        let missing = io::Error::from_raw_os_error(libc::ENOENT);
        return Err(Failure::new("find the mount target", &missing)
            .because("it does not exist in the root file system"));
    }
    if fstatfs(&directory).step(step)?.f_type == PROC_SUPER_MAGIC {
        return Err(refuse("mounts on or in /proc are not allowed"));
    }
    let is_directory =
        FileType::from_raw_mode(fstat(source).step(step)?.st_mode) == FileType::Directory;
    for (index, name) in missing.iter().enumerate() {
        if is_directory || index + 1 < missing.len() {
            match mkdirat(&directory, *name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(Failure::new(step, &error.into())),
            }
            directory = open_path(directory.as_fd(), Path::new(name)).step(step)?;
        } else {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o644);
            directory = openat(&directory, *name, flags, mode).step(step)?;
        }
    }
    Ok(directory)
}

/// Splits a path into the directory that exists and the names that do not.
fn deepest_existing<'p>(root: BorrowedFd<'_>, target: &'p Path) -> Step<(OwnedFd, Vec<&'p OsStr>)> {
    let mut missing = Vec::new();
    let mut path = target;
    loop {
        let mut components = path.components();
        match components.next_back() {
            Some(Component::Normal(name)) => missing.insert(0, name),
            // What is missing is not a plain name: nothing can be made there.
            _ => {
                return Err(refuse(
                    "the path leads through something that does not exist",
                ));
            }
        }
        path = components.as_path();
        match open_in_root(root, path, OFlags::DIRECTORY) {
            Ok(found) => return Ok((found, missing)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::new("resolve the mount target", &error)),
        }
    }
}
