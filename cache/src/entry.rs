//! What a file is: kinds, times, metadata.

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device (in a merged tree never 0:0, which is a whiteout).
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A file time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// Metadata of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky (0o7777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes; of a symlink the length of its target.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the content or of anything else about it, by the kernel's own clock.
    pub ctime: Timestamp,
    /// Device number (major, minor) of a device.
    pub rdev: (u32, u32),
    /// Number of hard links within its layer.
    pub nlink: u64,
    /// Device and inode number: the same for hard links to one file.
    pub inode: (u64, u64),
}

impl Metadata {
    /// Tells whether this is how overlay writes a deletion.
    pub fn is_whiteout(&self) -> bool {
        self.kind == FileKind::CharDevice && self.rdev == (0, 0)
    }
}
