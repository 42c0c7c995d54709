//! Single system calls.

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// One instruction of classic BPF, as `struct sock_filter`.
pub(crate) use libc::sock_filter as Instruction;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Ends the process at once, without destructors: the only right end of a cloned child.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes a plain number and does not return.
    unsafe { libc::_exit(code) }
}

/// Closes all descriptors but the standard ones, waits for a child and ends with its exit code, or
/// with 128 and the number of the signal that killed it.
pub(crate) fn wait_and_end_alike(child: i32) -> ! {
    // SAFETY: the caller never runs again, so that no owner of a closed descriptor can use it; the
    // process was forked and has one thread. `status` lives during the calls.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32);
        let mut status = 0;
        while libc::waitpid(child, &raw mut status, 0) < 0 {
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                libc::_exit(127);
            }
        }
        libc::_exit(if libc::WIFSIGNALED(status) {
            128 + libc::WTERMSIG(status)
        } else {
            libc::WEXITSTATUS(status)
        })
    }
}

/// Marks all descriptors from `first` on to be closed by exec (Linux 5.11).
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: marking a descriptor close-on-exec invalidates no descriptor that Rust code owns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    check(result).map(drop)
}

/// Moves the process into new namespaces, `CLONE_NEW*`.
pub(crate) fn unshare(namespaces: c_int) -> io::Result<()> {
    // SAFETY: without CLONE_FILES and CLONE_FS nothing changes that Rust code relies on.
    check(unsafe { libc::unshare(namespaces) }.into()).map(drop)
}

/// Gives the calling thread a working directory, root and umask of its own, which a mount namespace
/// of its own needs.
pub(crate) fn unshare_file_system() -> io::Result<()> {
    unshare(libc::CLONE_FS)
}

/// Says whether the kernel (or the filter that we run under) knows a system call.
pub(crate) fn is_known(number: libc::c_long) -> bool {
    // SAFETY: every argument is -1: no valid descriptor, address, size or flag set for any of the
    // calls that are asked about here, so nothing happens but an error.
    let result = unsafe { libc::syscall(number, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64) };
    result >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// Tries something in a copy of this process in new namespaces (`CLONE_NEW*`, or none), which tells
/// by its exit code how that went.
///
/// In a process with other threads the attempt may make system calls only: their locks stay locked in
/// the copy.
pub(crate) fn try_in_child(
    namespaces: c_int,
    attempt: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let child = match super::clone_process(namespaces)? {
        super::Cloned::Child => exit_now(match attempt() {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO).min(255),
        }),
        super::Cloned::Parent { pid, .. } => pid,
    };
    let mut status = 0;
    // SAFETY: `status` lives during the call.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Has the kernel kill this process when its parent has died.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: takes plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }.into()).map(drop)
}

/// Processor time of all children that were reaped so far, and of what they had reaped.
pub(crate) fn children_cpu_time() -> std::time::Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure, which is all zero before and valid as such.
    let usage = unsafe {
        // It cannot fail for this argument and a valid pointer; zero is no harm if it does.
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |part: libc::timeval| {
        std::time::Duration::from_secs(part.tv_sec.unsigned_abs())
            + std::time::Duration::from_micros(part.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Sends `signal` to the process behind `pidfd`.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is borrowed for the call; a null `siginfo` is allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            no_info,
            0_u32,
        )
    };
    check(result).map(drop)
}

/// Gives all signals their default action and unblocks them.
///
/// The Rust runtime of the program ignores `SIGPIPE`, and an ignored signal stays ignored across
/// exec: without this `yes | head` would not end in a sandbox.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: `SIG_DFL` is a valid disposition; failures (`SIGKILL`, reserved numbers) are
        // harmless.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: the set is initialised by `sigemptyset` before use, and lives during the call.
    unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Changes attributes (`MOUNT_ATTR_*`) of the mount behind `mount` (Linux 5.12), and makes it
/// private.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    recursive: bool,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, the structure lives during the call and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// Opens the mount namespace of a process (Linux 6.11).
pub(crate) fn mount_namespace_of(pidfd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `PIDFD_GET_MNT_NAMESPACE`, `_IO(0xff, 3)`; see `linux/pidfd.h`.
    const GET_MOUNT_NAMESPACE: libc::c_ulong = 0xff03;
    // SAFETY: the descriptor is borrowed for the call, which takes no argument.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_MOUNT_NAMESPACE as _, 0) };
    let fd = check(result.into())?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// Asks for error texts in the answers of a netlink socket (Linux 4.12).
pub(crate) fn enable_extended_acks(socket: &OwnedFd) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: the option is an integer, which lives during the call, with its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_EXT_ACK,
            (&raw const on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    check(result.into()).map(drop)
}

/// Gives the process an empty session keyring, so that keys of the host's session are out of
/// reach.
pub(crate) fn join_new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: c_int = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) }).map(drop)
}

/// A system call filter.
#[derive(Debug)]
pub(crate) struct Filter {
    /// What runs at each call.
    pub(crate) program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u32,
}

/// Installs a system call filter for this process and all that it starts.
pub(crate) fn install_seccomp(filter: &Filter) -> io::Result<()> {
    let Filter { program, flags } = filter;
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions from a slice of that length and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            *flags,
            &raw const filter,
        )
    };
    check(result).map(drop)
}

/// Replaces the process; returns only the reason of a failure.
pub(crate) fn execute(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    }
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: all strings end in NUL, both arrays end in a null pointer, all live during the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}
