//! Owners that this process cannot give to files.
//!
//! A user with a single id cannot `chown`, nor make devices, but the layers that it makes shall have
//! the owners and devices that they have anywhere else. There they are *recorded*: in an extended
//! attribute of the file, which overlay copies up and hard links share. What has no record belongs
//! to user 0. Symbolic links can have no such attribute; the record lies at their directory, under
//! their name. A device is an empty file whose record says what it is.
//!
//! A record is text: `UID:GID`, or `UID:GID:MODE:REAL` where the file's own mode (`REAL`, octal) had
//! to give its owner more than it should so that this user can read it; the record holds as long as
//! the file still has that mode. A third form, `UID:GID:MODE:REAL:KIND:MAJOR:MINOR`, is that of
//! devices and pipes (`c`, `b`, `p`).
//!
//! Whether owners are recorded is a property of the process, found out once by its capabilities and
//! its id map.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::entry::{FileKind, Metadata};
use crate::marks;
use crate::sys;
use crate::tree_tar::CAPABILITY;

/// Name of the attribute with a file's record.
pub const RECORD: &str = "user.rbuild.stat";

/// Beginning of the attribute at a directory with the record of a symbolic link in it.
pub const LINK_RECORD: &str = "user.rbuild.link.";

/// File capabilities where the kernel does not let this process set them.
const CAPABILITY_RECORD: &str = "user.rbuild.capability";

/// Beginning of the names of all attributes that are ours.
const PREFIX: &[u8] = b"user.rbuild.";

/// What the owner must be able to do with what this process keeps.
const FILE_NEEDS: u32 = 0o400;
const DIRECTORY_NEEDS: u32 = 0o700;

/// Says whether this process records owners because it cannot set them.
///
/// Asked once: a process that enters a user namespace does so before.
pub fn are_recorded() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let held = rustix::thread::capabilities(None)
            .map_or(CapabilitySet::empty(), |sets| sets.effective);
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        !held.contains(CapabilitySet::CHOWN) || is_single(&map)
    })
}

/// Says whether an id map has one id only.
fn is_single(map: &str) -> bool {
    let counts = map.lines().map(|line| line.split_whitespace().nth(2));
    counts.eq([Some("1")])
}

/// Tells whether an extended attribute is a record of ours.
pub(crate) fn is_record(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    kind: FileKind,
    device: (u32, u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Record {
    uid: u32,
    gid: u32,
    /// The mode that counts, and the one of the file.
    mode: Option<(u32, u32)>,
    node: Option<Node>,
}

impl Record {
    fn parse(text: &[u8]) -> Option<Record> {
        let mut fields = std::str::from_utf8(text).ok()?.split(':');
        let mut record = Record {
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
            ..Record::default()
        };
        let Some(mode) = fields.next() else {
            return Some(record);
        };
        let octal = |text: &str| u32::from_str_radix(text, 8).ok();
        record.mode = Some((octal(mode)?, octal(fields.next()?)?));
        let Some(kind) = fields.next() else {
            return Some(record);
        };
        let kind = match kind {
            "c" => FileKind::CharDevice,
            "b" => FileKind::BlockDevice,
            "p" => FileKind::Fifo,
            _ => return None,
        };
        let device = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        record.node = Some(Node { kind, device });
        Some(record)
    }

    fn text(&self) -> String {
        let mut text = format!("{}:{}", self.uid, self.gid);
        if self.mode.is_some() || self.node.is_some() {
            let (mode, real) = self.mode.unwrap_or_default();
            text.push_str(&format!(":{mode:o}:{real:o}"));
        }
        if let Some(Node { kind, device }) = self.node {
            let kind = match kind {
                FileKind::CharDevice => 'c',
                FileKind::BlockDevice => 'b',
                _ => 'p',
            };
            text.push_str(&format!(":{kind}:{}:{}", device.0, device.1));
        }
        text
    }

    fn apply(&self, found: &mut Metadata) {
        (found.uid, found.gid) = (self.uid, self.gid);
        if let Some((mode, real)) = self.mode
            && (real == found.mode || self.node.is_some())
        {
            found.mode = mode;
        }
        if let Some(node) = self.node
            && found.kind == FileKind::File
        {
            (found.kind, found.rdev, found.size) = (node.kind, node.device, 0);
        }
    }
}

fn read(path: &[u8], name: &str) -> io::Result<Option<Record>> {
    let value = sys::path_xattr(path, name)?;
    Ok(value.and_then(|value| Record::parse(&value)))
}

fn write(path: &[u8], name: &str, record: &Record) -> rustix::io::Result<()> {
    if *record == Record::default() {
        return match rustix::fs::removexattr(path, name) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            result => result,
        };
    }
    rustix::fs::setxattr(path, name, record.text().as_bytes(), XattrFlags::empty())
}

fn descriptor_path(file: impl AsFd) -> Vec<u8> {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into_bytes()
}

fn link_record(name: &[u8]) -> Option<String> {
    // The kernel's limit for a name is 255 bytes; a longer one has no record.
    let name = std::str::from_utf8(name).ok()?;
    (LINK_RECORD.len() + name.len() <= 255).then(|| format!("{LINK_RECORD}{name}"))
}

/// What an empty file says that stands for a deletion.
const WHITEOUT: Record = Record {
    uid: 0,
    gid: 0,
    mode: Some((0, 0o600)),
    node: Some(Node {
        kind: FileKind::CharDevice,
        device: (0, 0),
    }),
};

/// Makes an empty file that stands for a deletion, where overlay's own mark cannot be written.
pub(crate) fn make_recorded_whiteout(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(write(&descriptor_path(&file), RECORD, &WHITEOUT)?)
}

/// Shows an empty file as the deletion that it stands for, where deletions are recorded.
fn recorded_whiteout(
    found: &mut Metadata,
    read: impl FnOnce() -> io::Result<Option<Record>>,
) -> io::Result<()> {
    let may_be = found.kind == FileKind::File && found.size == 0 && marks::are_recorded();
    if may_be && read()? == Some(WHITEOUT) {
        WHITEOUT.apply(found);
    }
    Ok(())
}

/// Puts the recorded owner in the place of the real one, for what `fstatat(dir, path)` has found.
pub(crate) fn recorded_at(dir: impl AsFd, path: &[u8], found: &mut Metadata) -> io::Result<()> {
    if !are_recorded() {
        let place = if path.is_empty() { b"." } else { path };
        return recorded_whiteout(found, || read(&sys::proc_path(dir, place), RECORD));
    }
    if found.is_whiteout() {
        return Ok(());
    }
    (found.uid, found.gid) = (0, 0);
    let record = match found.kind {
        FileKind::File | FileKind::Directory => {
            let place = if path.is_empty() { b"." } else { path };
            read(&sys::proc_path(dir, place), RECORD)?
        }
        FileKind::Symlink => {
            let (directory, name) = crate::view::split(path);
            let directory = if directory.is_empty() {
                b"."
            } else {
                directory
            };
            match link_record(name) {
                Some(record) => read(&sys::proc_path(dir, directory), &record)?,
                None => None,
            }
        }
        _ => None,
    };
    if let Some(record) = record {
        record.apply(found);
    }
    Ok(())
}

/// The same for an open file or directory.
pub(crate) fn recorded_of(file: impl AsFd, found: &mut Metadata) -> io::Result<()> {
    if !are_recorded() {
        return recorded_whiteout(found, || read(&descriptor_path(file), RECORD));
    }
    if found.is_whiteout() {
        return Ok(());
    }
    (found.uid, found.gid) = (0, 0);
    if matches!(found.kind, FileKind::File | FileKind::Directory)
        && let Some(record) = read(&descriptor_path(file), RECORD)?
    {
        record.apply(found);
    }
    Ok(())
}

/// The permissions to make a file with that [`set`] will give this mode.
pub fn mode_to_make(mode: u32) -> Mode {
    if are_recorded() {
        // A record is only written to what the owner may write to.
        Mode::RUSR | Mode::WUSR
    } else {
        Mode::from_raw_mode(mode & 0o777)
    }
}

/// Gives an open file or directory its owner and mode, in the order in which they do not undo each
/// other.
///
/// # Errors
///
/// The kernel's.
pub fn set(file: impl AsFd, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    let mode = mode & 0o7777;
    if !are_recorded() {
        // A look costs a fraction of a change, and most files are made as they shall be.
        let found = rustix::fs::fstat(&file)?;
        let owned = (found.st_uid, found.st_gid) == (uid, gid);
        if !owned {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        // Another owner takes bits away.
        if !owned || found.st_mode & 0o7777 != mode {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        }
        return Ok(());
    }
    let found = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    let needs = if found == FileType::Directory {
        DIRECTORY_NEEDS
    } else {
        FILE_NEEDS
    };
    let real = mode | needs;
    let record = Record {
        uid,
        gid,
        mode: (real != mode).then_some((mode, real)),
        node: None,
    };
    // Before the mode, which may not let us write any more.
    write(&descriptor_path(&file), RECORD, &record)?;
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(real))?)
}

/// Gives an open file or directory its owner.
///
/// # Errors
///
/// The kernel's.
pub fn set_owner(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    if !are_recorded() {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        return Ok(rustix::fs::fchown(&file, Some(uid), Some(gid))?);
    }
    let path = descriptor_path(&file);
    let known = read(&path, RECORD)?.unwrap_or_default();
    Ok(write(&path, RECORD, &Record { uid, gid, ..known })?)
}

/// Gives what has a name in a directory its owner, following nothing.
///
/// # Errors
///
/// The kernel's.
pub fn set_owner_at(directory: impl AsFd, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
    if !are_recorded() {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        return Ok(rustix::fs::chownat(directory, name, uid, gid, flags)?);
    }
    let found = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let owner = Record {
        uid,
        gid,
        ..Record::default()
    };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Symlink => match link_record(name) {
            Some(record) => Ok(write(&sys::proc_path(directory, b"."), &record, &owner)?),
            None => Ok(()),
        },
        FileType::RegularFile | FileType::Directory => {
            let path = sys::proc_path(directory, name);
            let known = read(&path, RECORD)?.unwrap_or_default();
            Ok(write(&path, RECORD, &Record { uid, gid, ..known })?)
        }
        _ => Ok(()),
    }
}

/// Gives an owner to what has no record yet, where owners are recorded.
pub(crate) fn adopt_at(
    directory: impl AsFd,
    name: &[u8],
    found: &Metadata,
    owner: (u32, u32),
) -> io::Result<()> {
    if !are_recorded() {
        return Ok(());
    }
    let path = sys::proc_path(&directory, name);
    let known = match found.kind {
        FileKind::Symlink => match link_record(name) {
            Some(record) => read(&sys::proc_path(&directory, b"."), &record)?,
            None => return Ok(()),
        },
        _ => read(&path, RECORD)?,
    };
    match known {
        None => set_owner_at(directory, name, owner.0, owner.1),
        Some(_) => Ok(()),
    }
}

/// Gives a symbolic link that was linked to another directory the owner that is recorded where it was.
pub(crate) fn copy_link_record(from: impl AsFd, to: impl AsFd, name: &[u8]) -> io::Result<()> {
    let Some(record) = link_record(name).filter(|_| are_recorded()) else {
        return Ok(());
    };
    let known = read(&sys::proc_path(from, b"."), &record)?.unwrap_or_default();
    Ok(write(&sys::proc_path(to, b"."), &record, &known)?)
}

/// Makes a device or a pipe with its mode and owner.
///
/// # Errors
///
/// The kernel's; `EPERM` where devices cannot be made although owners can be set: in a user
/// namespace with many ids.
pub fn make_node(
    directory: impl AsFd,
    name: &[u8],
    kind: FileKind,
    device: (u32, u32),
    (uid, gid, mode): (u32, u32, u32),
) -> io::Result<()> {
    let mode = mode & 0o7777;
    if are_recorded() {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let real = 0o600;
        let file = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(real))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(real))?;
        let record = Record {
            uid,
            gid,
            mode: Some((mode, real)),
            node: Some(Node { kind, device }),
        };
        return Ok(write(&descriptor_path(&file), RECORD, &record)?);
    }
    let file_type = match kind {
        FileKind::CharDevice => FileType::CharacterDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let number = rustix::fs::makedev(device.0, device.1);
    let bits = Mode::from_raw_mode(mode & 0o777);
    rustix::fs::mknodat(&directory, name, file_type, bits, number)?;
    set_owner_at(&directory, name, uid, gid)?;
    // Just made by us and no symlink, so nothing can be followed.
    let bits = Mode::from_raw_mode(mode);
    Ok(rustix::fs::chmodat(
        &directory,
        name,
        bits,
        AtFlags::empty(),
    )?)
}

/// Sets an extended attribute of an open file; file capabilities are recorded where they cannot be
/// set.
///
/// # Errors
///
/// The kernel's.
pub fn set_attribute(file: impl AsFd, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()) {
        Err(Errno::PERM) if name == CAPABILITY.as_bytes() && are_recorded() => {
            rustix::fs::fsetxattr(&file, CAPABILITY_RECORD, value, XattrFlags::empty())
        }
        result => result,
    }
}

/// File capabilities that are recorded at `path`, which follows no symlink.
pub(crate) fn capability(path: &[u8]) -> io::Result<Option<Vec<u8>>> {
    if are_recorded() {
        sys::path_xattr(path, CAPABILITY_RECORD)
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_say_the_same_when_they_are_read_again() {
        let owner = Record {
            uid: 5,
            gid: 60_000,
            ..Record::default()
        };
        let hidden = Record {
            mode: Some((0o4000, 0o4400)),
            ..owner
        };
        let device = Record {
            mode: Some((0o660, 0o600)),
            node: Some(Node {
                kind: FileKind::BlockDevice,
                device: (8, 1),
            }),
            ..owner
        };
        for (record, text) in [
            (owner, "5:60000"),
            (hidden, "5:60000:4000:4400"),
            (device, "5:60000:660:600:b:8:1"),
        ] {
            assert_eq!(record.text(), text);
            assert_eq!(Record::parse(text.as_bytes()), Some(record));
        }
        for text in ["", "5", "x:1", "1:2:9:1", "1:2:644", "1:2:644:644:x:1:1"] {
            assert_eq!(Record::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_mode_that_was_changed_since_is_the_mode() {
        let directory = tempfile::tempdir().unwrap();
        let mut found = sys::lstat(
            rustix::fs::CWD,
            directory.path().as_os_str().as_encoded_bytes(),
        )
        .unwrap()
        .unwrap();
        let record = Record {
            mode: Some((0o555, 0o755)),
            ..Record::default()
        };
        found.mode = 0o755;
        record.apply(&mut found);
        assert_eq!(found.mode, 0o555);
        found.mode = 0o700;
        record.apply(&mut found);
        assert_eq!(found.mode, 0o700);
    }

    #[test]
    fn maps_with_one_id_are_known() {
        assert!(is_single("         0       1000          1\n"));
        assert!(!is_single("0 1000 1\n1 100000 65536\n"));
        assert!(!is_single("0 0 4294967295\n"));
        assert!(!is_single(""));
    }
}
