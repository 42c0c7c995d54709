//! Writing the content of single files to disk.
#![allow(
    unsafe_code,
    reason = "no safe wrapper covers this call; the block argues its safety"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Begins to write all of a file's content to disk, and with `wait` waits until it is there.
///
/// This is about content alone: not about the file's size, nor where it lies, nor the disk's own cache. All
/// that is in the journal by the time when the content is there, where the file system has one.
pub(crate) fn write_content(file: BorrowedFd<'_>, wait: bool) -> io::Result<()> {
    let mut flags = libc::SYNC_FILE_RANGE_WRITE;
    if wait {
        flags |= libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    }
    // SAFETY: the call takes numbers only, and the descriptor is open as long as it is borrowed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
