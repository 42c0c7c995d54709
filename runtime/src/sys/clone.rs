//! A copy of this single-threaded process in new namespaces.

use std::ffi::c_int;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// `CLONE_NEW*` flags.
pub(crate) type CloneFlags = c_int;

/// Which side of a clone this is.
pub(crate) enum Cloned {
    /// The new process.
    Child,
    /// The old process.
    Parent {
        /// Number of the new one, in the caller's pid namespace.
        pid: i32,
        /// Descriptor of the new one.
        pidfd: OwnedFd,
    },
}

/// Copies the calling process with `namespaces` made new for the copy.
///
/// Must only be called by a single-threaded process (the spawner or a child of it): the copy has
/// the locks of all other threads as they were. Uses `clone3`, or `clone` where a filter such as
/// Docker's default answers `ENOSYS`.
pub(crate) fn clone_process(namespaces: CloneFlags) -> io::Result<Cloned> {
    let flags = namespaces | libc::CLONE_PIDFD;
    let mut pidfd: c_int = -1;
    // SAFETY: an all-zero `clone_args` is valid: no stack (the copy uses its own copy of this one),
    // no parent or child tid pointers.
    let mut request = unsafe { std::mem::zeroed::<libc::clone_args>() };
    request.flags = flags as u64;
    request.pidfd = (&raw mut pidfd) as u64;
    request.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM this is a fork: the child returns here on a copy of the memory.
    // `pidfd` outlives the call.
    let mut pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut request,
            size_of::<libc::clone_args>(),
        )
    };
    if pid < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        pid = plain_clone(flags | libc::SIGCHLD, &mut pidfd);
    }
    match pid {
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        1.. => Ok(Cloned::Parent {
            pid: pid as i32,
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn plain_clone(flags: c_int, pidfd: &mut c_int) -> libc::c_long {
    let no_stack = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: as above; with a null stack and without CLONE_VM the child continues on a copy of
    // this stack. With CLONE_PIDFD the third argument receives the descriptor. (The order of the
    // last two arguments differs between architectures, both are zero.)
    unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags,
            no_stack,
            &raw mut *pidfd,
            0_usize,
            0_usize,
        )
    }
}
