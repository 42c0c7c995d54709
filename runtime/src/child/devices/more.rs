//! What a privileged sandbox has in `/dev` beside the usual: nodes of its own, in a user namespace the
//! host's.

use std::fs::{self, DirEntry};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, Dev, FileType, Gid, Mode, Uid, access, chmodat, chownat, makedev,
    mkdirat, mknodat,
};
use rustix::io::Errno;

use crate::mount::{Detached, open_path};
use crate::spec::DeviceSet;
use crate::userns::in_user_namespace;
use crate::wire::{InStep as _, Step};

/// Where the kernel tells which loop devices there are.
const BLOCK_DEVICES: &str = "/sys/block";

/// Loop devices beyond those that are in use, as in `BuildKit`.
const FREE_LOOPS: u32 = 7;

/// What `BuildKit` gives to privileged steps, beside loop devices.
const OF_STEPS: [(&str, u32, u32); 6] = [
    ("kmsg", 1, 11),
    ("cuse", 10, 203),
    ("fuse", 10, 229),
    ("kvm", 10, 232),
    ("net/tun", 10, 200),
    ("loop-control", 10, 237),
];

/// What of the host's `/dev` every sandbox has its own of, or belongs to programs that manage devices.
const NOT_OF_HOST: [&str; 8] = [
    "pts",
    "shm",
    "fd",
    "mqueue",
    "console",
    ".lxc",
    ".lxd-mounts",
    ".udev",
];

/// More than the host's `/dev` has directories in each other.
const DEEPEST: usize = 16;

/// A device to make.
struct Node {
    /// Below `/dev`.
    path: PathBuf,
    kind: FileType,
    device: Dev,
    mode: u32,
    owner: (u32, u32),
}

/// Makes the devices of a set in `/dev`.
pub(super) fn make(dev: BorrowedFd<'_>, set: DeviceSet) -> Step<()> {
    let nodes = match set {
        DeviceSet::Usual => return Ok(()),
        DeviceSet::OfSteps if in_user_namespace() => return Ok(()),
        DeviceSet::OfSteps => of_steps(),
        DeviceSet::OfHost => {
            let mut nodes = Vec::new();
            find(Path::new(""), 0, &mut nodes);
            nodes
        }
    };
    for node in nodes {
        let made = if in_user_namespace() {
            bind(dev, &node)
        } else {
            make_node(dev, &node)
        };
        match made {
            Ok(()) => {}
            // One of those that everybody has.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                let place = Path::new("/dev").join(node.path);
                return Err(error).step_at("make the device", place);
            }
        }
    }
    Ok(())
}

fn of_steps() -> Vec<Node> {
    let node = |path: &str, kind, major, minor| Node {
        path: path.into(),
        kind,
        device: makedev(major, minor),
        mode: 0o666,
        owner: (0, 0),
    };
    let others = OF_STEPS
        .iter()
        .map(|&(path, major, minor)| node(path, FileType::CharacterDevice, major, minor));
    let loops = loop_devices(Path::new(BLOCK_DEVICES));
    let loops = loops.map(|minor| node(&format!("loop{minor}"), FileType::BlockDevice, 7, minor));
    others.chain(loops).collect()
}

/// Numbers of the loop devices up to the first that is free, and some more.
fn loop_devices(block: &Path) -> std::ops::Range<u32> {
    let in_use = |minor: &u32| block.join(format!("loop{minor}/loop")).exists();
    let free = (0..1 << 20).find(|minor| !in_use(minor)).unwrap_or(0);
    0..free + FREE_LOOPS + 1
}

/// Lists the devices of the host in a directory below `/dev` and in those below it. What goes away
/// meanwhile is left out.
fn find(below: &Path, depth: usize, nodes: &mut Vec<Node>) {
    let entries = fs::read_dir(Path::new("/dev").join(below));
    for entry in entries.into_iter().flatten().flatten() {
        let path = below.join(entry.file_name());
        if NOT_OF_HOST.iter().any(|name| path == Path::new(name)) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < DEEPEST => find(&path, depth + 1, nodes),
            Ok(kind) if kind.is_char_device() || kind.is_block_device() => {
                nodes.extend(node(&entry, path));
            }
            _ => {}
        }
    }
}

fn node(entry: &DirEntry, path: PathBuf) -> Option<Node> {
    let found = entry.metadata().ok()?;
    // Without the right to open it there is no use in binding it.
    let may = |right| access(entry.path(), right).is_ok();
    if in_user_namespace() && !may(Access::READ_OK) && !may(Access::WRITE_OK) {
        return None;
    }
    Some(Node {
        path,
        kind: FileType::from_raw_mode(found.mode()),
        device: found.rdev(),
        mode: found.mode() & 0o7777,
        owner: (found.uid(), found.gid()),
    })
}

/// The directory that a node lies in, and its name there.
fn place<'n>(dev: BorrowedFd<'_>, node: &'n Node) -> io::Result<(OwnedFd, &'n Path)> {
    let mut directory = dev.try_clone_to_owned()?;
    for name in node.path.parent().into_iter().flat_map(Path::components) {
        let name = Path::new(name.as_os_str());
        match mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        directory = open_path(directory.as_fd(), name)?;
    }
    let name = node.path.file_name().map(Path::new);
    Ok((directory, name.unwrap_or(Path::new(""))))
}

fn make_node(dev: BorrowedFd<'_>, node: &Node) -> io::Result<()> {
    let (directory, name) = place(dev, node)?;
    let mode = Mode::from_raw_mode(node.mode);
    mknodat(&directory, name, node.kind, mode, node.device)?;
    let (uid, gid) = (Uid::from_raw(node.owner.0), Gid::from_raw(node.owner.1));
    let itself = AtFlags::SYMLINK_NOFOLLOW;
    chownat(&directory, name, Some(uid), Some(gid), itself)?;
    // Not what the umask has left of it. It is no link: it was just made.
    chmodat(&directory, name, mode, AtFlags::empty())?;
    Ok(())
}

fn bind(dev: BorrowedFd<'_>, node: &Node) -> io::Result<()> {
    let (directory, name) = place(dev, node)?;
    let name = name.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    let host = Detached::clone_alone(CWD, &Path::new("/dev").join(&node.path));
    match host {
        Ok(host) => host.attach(super::new_file(directory.as_fd(), name)?),
        // It has gone meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loop_devices_are_those_in_use_and_some_more() {
        let block = tempfile::tempdir().unwrap();
        for name in ["loop0/loop", "loop1/loop", "loop2", "loop3/loop"] {
            fs::create_dir_all(block.path().join(name)).unwrap();
        }
        assert_eq!(loop_devices(block.path()), 0..10);
    }
}
