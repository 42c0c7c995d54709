//! System calls that a filter hands out, and the memory of who calls.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::Instruction;
use crate::emulation::Answer;

/// `SECCOMP_IOCTL_NOTIF_*` of `linux/seccomp.h`.
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
const IS_VALID: libc::c_ulong = 0x4008_2102;
const SET_FLAGS: libc::c_ulong = 0x4008_2104;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
const SYNC_WAKE_UP: libc::c_ulong = 1;

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Notification {
    /// Goes with the answer.
    pub(crate) id: u64,
    /// The thread that calls, as this process sees it.
    pub(crate) pid: i32,
    /// Number of the call.
    pub(crate) number: libc::c_long,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

/// Installs a filter whose `SECCOMP_RET_USER_NOTIF` answers come from who holds the descriptor.
pub(crate) fn install_listener(program: &[Instruction]) -> io::Result<OwnedFd> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program lives during the call, its length is right, and the kernel copies it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const filter,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Asks for answers without a detour through the scheduler (Linux 6.6).
pub(crate) fn answer_fast(listener: BorrowedFd<'_>) {
    // SAFETY: takes a plain number; an older kernel answers with an error and is slower.
    unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS as _, SYNC_WAKE_UP) };
}

/// Takes the next call.
pub(crate) fn next_notification(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    // SAFETY: all zeroes is what the kernel asks for, and the structure lives during the call.
    let found = unsafe {
        let mut found = std::mem::zeroed::<libc::seccomp_notif>();
        if libc::ioctl(listener.as_raw_fd(), RECEIVE as _, &raw mut found) < 0 {
            return Err(io::Error::last_os_error());
        }
        found
    };
    Ok(Notification {
        id: found.id,
        pid: found.pid.cast_signed(),
        number: found.data.nr.into(),
        arguments: found.data.args,
    })
}

/// Fails unless the call still waits: only then is the number of its process still its own.
pub(crate) fn is_still_asking(listener: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    // SAFETY: the number lives during the call.
    match unsafe { libc::ioctl(listener.as_raw_fd(), IS_VALID as _, &raw const id) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Answers a call.
pub(crate) fn send_answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> io::Result<()> {
    let (val, error, flags) = match answer {
        Answer::Value(value) => (value, 0, 0),
        Answer::Error(number) => (0, -number, 0),
        Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
    };
    let response = libc::seccomp_notif_resp {
        id,
        val,
        error,
        flags,
    };
    // SAFETY: the structure lives during the call.
    match unsafe { libc::ioctl(listener.as_raw_fd(), SEND as _, &raw const response) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads `length` bytes of the memory of another process.
pub(crate) fn read_memory(pid: i32, address: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let taken = read_into(pid, address, &mut bytes)?;
    if taken == length {
        Ok(bytes)
    } else {
        Err(io::Error::from_raw_os_error(libc::EFAULT))
    }
}

/// Reads up to `room` bytes, fewer where the memory ends.
fn read_into(pid: i32, address: u64, room: &mut [u8]) -> io::Result<usize> {
    if room.is_empty() {
        return Ok(0);
    }
    let ours = libc::iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room.len(),
    };
    let theirs = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: room.len(),
    };
    // SAFETY: our side is a live slice with its length; the other side is memory of another process,
    // which the kernel checks.
    let taken = unsafe { libc::process_vm_readv(pid, &raw const ours, 1, &raw const theirs, 1, 0) };
    usize::try_from(taken).map_err(|_| io::Error::last_os_error())
}

/// Reads a text that ends with a zero byte, of at most `limit` bytes.
pub(crate) fn read_text(pid: i32, mut address: u64, limit: usize) -> io::Result<Vec<u8>> {
    const PAGE: u64 = 4096;
    let mut text = Vec::new();
    while text.len() < limit {
        // Never across the end of a page, behind which there may be nothing.
        let mut piece = vec![0; (PAGE - address % PAGE) as usize];
        let taken = read_into(pid, address, &mut piece)?;
        if let Some(end) = piece[..taken].iter().position(|&byte| byte == 0) {
            text.extend_from_slice(&piece[..end]);
            return Ok(text);
        }
        if taken == 0 {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        text.extend_from_slice(&piece[..taken]);
        address += taken as u64;
    }
    Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

/// Writes into the memory of another process.
pub(crate) fn write_memory(pid: i32, address: u64, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let ours = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let theirs = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: bytes.len(),
    };
    // SAFETY: our side is a live slice, which is only read; the other side is checked by the kernel.
    let written =
        unsafe { libc::process_vm_writev(pid, &raw const ours, 1, &raw const theirs, 1, 0) };
    match usize::try_from(written) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
