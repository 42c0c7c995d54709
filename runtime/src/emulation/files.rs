//! Recording owners and devices for a process in a sandbox.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::Answer;
use crate::sys::{self, Notification};

/// Name of the attribute with a file's record.
pub const RECORD: &str = "user.rbuild.stat";

/// Beginning of the attribute at a directory with the record of a symbolic link in it.
pub const LINK_RECORD: &str = "user.rbuild.link.";

/// Longest path that the kernel takes.
const MAX_PATH: usize = 4096;

/// "Leave it as it is".
const SAME: u32 = u32::MAX;

/// A thread with a root directory of its own.
pub(super) struct Files {
    /// The host's `/proc`, and our descriptors in it.
    proc: OwnedFd,
    descriptors: OwnedFd,
}

impl Files {
    /// Gives the calling thread a root and working directory of its own.
    pub(super) fn new() -> io::Result<Self> {
        sys::unshare_file_system()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            proc: rustix::fs::open(c"/proc", flags, Mode::empty())?,
            descriptors: rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?,
        })
    }

    pub(super) fn is_empty_path(call: &Notification, address: u64) -> bool {
        matches!(sys::read_memory(call.pid, address, 1).as_deref(), Ok([0]))
    }

    /// Stands where the process stands: in its root, in the directory that the path begins at.
    fn enter(
        &self,
        call: &Notification,
        listener: &OwnedFd,
        directory: Option<i32>,
    ) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |name: String| rustix::fs::openat(&self.proc, name, flags, Mode::empty());
        let root = open(format!("{}/root", call.pid))?;
        let base = match directory {
            Some(directory) if directory != libc::AT_FDCWD => {
                if directory < 0 {
                    return Err(Errno::BADF.into());
                }
                open(format!("{}/fd/{directory}", call.pid))?
            }
            _ => open(format!("{}/cwd", call.pid))?,
        };
        // Its number may belong to another process by now.
        sys::is_still_asking(listener.as_fd(), call.id)?;
        rustix::process::fchdir(&root)?;
        rustix::process::chroot(c".")?;
        Ok(rustix::process::fchdir(&base)?)
    }

    fn path(call: &Notification, address: u64) -> io::Result<Vec<u8>> {
        let mut path = sys::read_text(call.pid, address, MAX_PATH)?;
        if path.is_empty() {
            return Err(Errno::NOENT.into());
        }
        // A trailing slash asks for a directory: openat says the same for `.` behind it.
        if path.len() > 1 && path.ends_with(b"/") {
            path.push(b'.');
        }
        Ok(path)
    }

    pub(super) fn chown(
        &mut self,
        call: &Notification,
        listener: &OwnedFd,
        directory: Option<i32>,
        address: u64,
        follow: bool,
        owner: (u32, u32),
    ) -> io::Result<Answer> {
        let path = Self::path(call, address)?;
        self.enter(call, listener, directory)?;
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        let file = match rustix::fs::openat(CWD, path.as_slice(), flags, Mode::empty()) {
            Ok(file) => file,
            // Links of `/proc/self` lead nowhere for us; what they mean has no owner to record.
            Err(Errno::NOENT) if path.starts_with(b"/proc/") || path.starts_with(b"/dev/") => {
                return Ok(Answer::Value(0));
            }
            Err(error) => return Err(error.into()),
        };
        let is_link = kind(&file)? == FileType::Symlink;
        if !is_link {
            return self.record(&file, owner);
        }
        real_owner(&file, owner)?;
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(0) => (&b"/"[..], &path[1..]),
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b"."[..], &path[..]),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
        let attribute = [LINK_RECORD.as_bytes(), name].concat();
        if attribute.len() <= 255 {
            change_record(&parent, &attribute, owner)?;
        }
        Ok(Answer::Value(0))
    }

    pub(super) fn chown_open(
        &mut self,
        call: &Notification,
        listener: &OwnedFd,
        descriptor: i32,
        owner: (u32, u32),
    ) -> io::Result<Answer> {
        let name = if descriptor == libc::AT_FDCWD {
            format!("{}/cwd", call.pid)
        } else {
            format!("{}/fd/{descriptor}", call.pid)
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.proc, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Answer::Error(libc::EBADF)),
            opened => opened?,
        };
        sys::is_still_asking(listener.as_fd(), call.id)?;
        self.record(&file, owner)
    }

    /// Records the owner of what no symbolic link is.
    fn record(&self, file: &OwnedFd, owner: (u32, u32)) -> io::Result<Answer> {
        if !matches!(kind(file)?, FileType::RegularFile | FileType::Directory) {
            // Pipes, terminals, sockets: nobody keeps them. Where it works the real owner is set.
            let _ = real_owner(file, owner);
            return Ok(Answer::Value(0));
        }
        real_owner(file, owner)?;
        let file = self.reopen(file)?;
        change_record(&file, RECORD.as_bytes(), owner)?;
        Ok(Answer::Value(0))
    }

    /// Attributes need more than a reference.
    fn reopen(&self, file: &OwnedFd) -> io::Result<OwnedFd> {
        let name = file.as_raw_fd().to_string();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(
            &self.descriptors,
            name,
            flags,
            Mode::empty(),
        )?)
    }

    pub(super) fn mknod(
        &mut self,
        call: &Notification,
        listener: &OwnedFd,
        directory: Option<i32>,
        address: u64,
        mode: u32,
        device: u64,
    ) -> io::Result<Answer> {
        let letter = match FileType::from_raw_mode(mode) {
            FileType::CharacterDevice => 'c',
            FileType::BlockDevice => 'b',
            // Everything else the process can make itself.
            _ => return Ok(Answer::Continue),
        };
        let device = u64::from(device as u32);
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        if letter == 'c' && (major, minor) == (0, 0) {
            // Overlay would take it for a deletion.
            return Ok(Answer::Error(libc::EPERM));
        }
        let path = Self::path(call, address)?;
        self.enter(call, listener, directory)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let real = 0o600;
        let file = rustix::fs::openat(CWD, path.as_slice(), flags, Mode::from_raw_mode(real))?;
        // The umask of the process would have counted; nearly everybody has this one.
        let bits = mode & 0o7777 & !0o022;
        let record = format!("0:0:{bits:o}:{real:o}:{letter}:{major}:{minor}");
        rustix::fs::fsetxattr(&file, RECORD, record.as_bytes(), XattrFlags::empty())?;
        Ok(Answer::Value(0))
    }
}

fn kind(file: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode))
}

/// Does what of a change of owner can be done: copy the file up, take set-user-id bits away, or fail as
/// it would on a read-only file system.
fn real_owner(file: &OwnedFd, (uid, gid): (u32, u32)) -> io::Result<()> {
    let uid = (uid != SAME).then_some(Uid::ROOT);
    let gid = (gid != SAME).then_some(Gid::ROOT);
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chownat(file, c"", uid, gid, flags)?)
}

/// Replaces the ids of a record and keeps the rest of it.
fn change_record(file: &impl AsFd, name: &[u8], (uid, gid): (u32, u32)) -> io::Result<()> {
    let mut value = vec![0; 256];
    let known = match rustix::fs::fgetxattr(file, name, value.as_mut_slice()) {
        Ok(length) => String::from_utf8_lossy(&value[..length]).into_owned(),
        Err(Errno::NODATA) => "0:0".to_owned(),
        Err(error) => return Err(error.into()),
    };
    let record = changed(&known, uid, gid);
    if record == "0:0" {
        return match rustix::fs::fremovexattr(file, name) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(error) => Err(error.into()),
        };
    }
    Ok(rustix::fs::fsetxattr(
        file,
        name,
        record.as_bytes(),
        XattrFlags::empty(),
    )?)
}

fn changed(known: &str, uid: u32, gid: u32) -> String {
    let mut fields: Vec<String> = known.split(':').map(str::to_owned).collect();
    fields.resize(fields.len().max(2), "0".to_owned());
    for (field, id) in fields.iter_mut().zip([uid, gid]) {
        if id != SAME {
            *field = id.to_string();
        }
    }
    fields.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_record_stays() {
        assert_eq!(changed("0:0", 5, 6), "5:6");
        assert_eq!(changed("5:6", SAME, 7), "5:7");
        assert_eq!(changed("5:6:644:600:c:1:3", 0, SAME), "0:6:644:600:c:1:3");
    }
}
