//! How the spawner comes to life: by executing this very program again, from a read-only mount,
//! before its `main`.
//!
//! Forking a large multi-threaded program copies its page tables (33 µs per MiB) and its locks, and
//! the copy's `/proc/self/exe` is the writable program file, which a hostile image may reopen for
//! writing (CVE-2019-5736). So the program is executed anew: the spawner is small, clean and
//! single-threaded, whenever and from whatever thread it is started, and its executable lies on a
//! mount that nobody can write through.
//!
//! The new process must not run `main`. A constructor, run by the C library before `main`, looks
//! at how the process was executed. For ordinary starts that is one look into the auxiliary vector.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::mount::{OpenTreeFlags, open_tree};

use crate::isolation::{Isolation, isolation};

/// `argv[0]` of the spawner, as `ps` shows it.
const NAME: &CStr = c"rbuild-spawner";
/// Where the spawner finds its socket.
const CONTROL: RawFd = 3;
/// Where the spawner finds a descriptor of the program that started it.
const PARENT: RawFd = 4;
/// Of `linux/mount.h`.
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
/// A file that nobody needs, for the program's mount to lie on.
const PLACE: &CStr = c"/proc/version";
/// Enough for a handful of frames that only make system calls.
const STACK: usize = 64 << 10;

unsafe extern "C" {
    /// The environment, as the C library keeps it.
    static environ: *const *const libc::c_char;
}

/// What the spawner is born with.
pub(crate) struct Birth {
    /// Socket to the program.
    pub(crate) control: OwnedFd,
    /// Becomes readable when the program has died.
    pub(crate) parent: OwnedFd,
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    if let Some(birth) = birth() {
        crate::spawner::run(birth);
        super::exit_now(0);
    }
}

/// Recognises the spawner: executed by descriptor, with our name, with a socket at [`CONTROL`].
fn birth() -> Option<Birth> {
    // SAFETY: `AT_EXECFN` is a C string in the process's own memory, or absent (0).
    let executed_as = unsafe {
        let address = libc::getauxval(libc::AT_EXECFN) as *const libc::c_char;
        if address.is_null() {
            return None;
        }
        CStr::from_ptr(address)
    };
    if !executed_as.to_bytes().starts_with(b"/dev/fd/") {
        return None;
    }
    let command_line = std::fs::read("/proc/self/cmdline").ok()?;
    if command_line != NAME.to_bytes_with_nul() {
        return None;
    }
    // SAFETY: only asks about descriptors; an absent one is answered with an error.
    let present = |fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    if !present(CONTROL) || !present(PARENT) {
        return None;
    }
    // SAFETY: both are open, and this early nothing else in the process owns them.
    unsafe {
        Some(Birth {
            control: OwnedFd::from_raw_fd(CONTROL),
            parent: OwnedFd::from_raw_fd(PARENT),
        })
    }
}

/// Starts the spawner with its end of the control socket, in new mount and pid namespaces where there
/// are any.
///
/// Returns its process id in the caller's namespace. `EPERM` means that this process may not make
/// namespaces.
pub(crate) fn spawn_spawner(control: BorrowedFd<'_>) -> io::Result<i32> {
    // A reference keeps the constructor in programs that link this crate as a library.
    std::hint::black_box(&BEFORE_MAIN);
    let executable = read_only_executable()?;
    let me = rustix::process::pidfd_open(
        rustix::process::getpid(),
        rustix::process::PidfdFlags::empty(),
    )?;
    // High numbers, so that putting them at 3 and 4 overwrites none of them.
    let order = Order {
        attach: isolation() == Isolation::Root,
        executable: above_standard(&executable)?,
        control: above_standard(&control)?,
        parent: above_standard(&me)?,
    };
    clone_and_execute(&order)
}

/// Opens this program's file through a mount of its own that refuses writes.
///
/// Where that is not possible (the file is not on a mount of this namespace, or the right is
/// missing), a sealed copy in memory serves.
fn read_only_executable() -> io::Result<OwnedFd> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/exe", flags, rustix::fs::Mode::empty())?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if let Ok(mount) = open_tree(&file, c"", clone)
        && super::mount_setattr(mount.as_fd(), MOUNT_ATTR_RDONLY, 0, false).is_ok()
    {
        return Ok(mount);
    }
    sealed_copy()
}

/// Executes this program again with the same arguments from where nobody can write to it, unless it
/// runs from there already.
pub(crate) fn execute_read_only() -> io::Result<()> {
    use rustix::fs::{Mode, OFlags, SealFlags, StatVfsMountFlags, fcntl_get_seals, fstatvfs};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open(c"/proc/self/exe", flags, Mode::empty())?;
    let sealed = fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE));
    if sealed || fstatvfs(&own)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let executable = read_only_executable()?;
    let line = std::fs::read("/proc/self/cmdline")?;
    let words: Vec<CString> = line
        .strip_suffix(b"\0")
        .unwrap_or(&line)
        .split(|byte| *byte == 0)
        .map(CString::new)
        .collect::<Result<_, _>>()?;
    let mut arguments: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    arguments.push(std::ptr::null());
    // SAFETY: the strings and the null-terminated array live during the call; `environ` is the C
    // library's, and no other thread changes it: there is none yet.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            executable.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environ,
            libc::AT_EMPTY_PATH,
        );
    }
    Err(io::Error::last_os_error())
}

fn sealed_copy() -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = std::fs::File::from(memfd_create(NAME, flags)?);
    io::copy(&mut std::fs::File::open("/proc/self/exe")?, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

fn above_standard(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: duplicates a descriptor that the caller owns or has borrowed.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 64) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: freshly made by the call above.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

struct Order {
    /// The mount of the program is put into the new mount namespace and goes with it: to let go of one that is
    /// mounted nowhere, the spawner would wait for a grace period of the kernel before it begins. Only where
    /// nothing of our `/proc` is shown to sandboxes.
    attach: bool,
    executable: OwnedFd,
    control: OwnedFd,
    parent: OwnedFd,
}

/// Clones with shared memory (no page table is copied, the caller sleeps until exec).
fn clone_and_execute(order: &Order) -> io::Result<i32> {
    let mut stack = vec![0_u128; STACK / 16];
    let top = stack.as_mut_ptr_range().end;
    let namespaces = if isolation().has_namespaces() {
        libc::CLONE_NEWPID | libc::CLONE_NEWNS
    } else {
        0
    };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | namespaces | libc::SIGCHLD;
    let argument = std::ptr::from_ref(order).cast_mut().cast::<c_void>();
    // SAFETY: the child runs `execute_spawner` on its own 16-byte aligned stack while this thread
    // sleeps (CLONE_VFORK), so `order` and `stack` outlive it. All signals are blocked meanwhile: no
    // handler of this program can run in the child on shared memory. The mask is put back.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let pid = libc::clone(execute_spawner, top.cast::<c_void>(), flags, argument);
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        if pid < 0 { Err(error) } else { Ok(pid) }
    }
}

/// The child between clone and exec: system calls only, for it shares the parent's memory.
extern "C" fn execute_spawner(argument: *mut c_void) -> c_int {
    // SAFETY: the parent passes an `Order` which outlives the child's use of it; the arrays are
    // null-terminated. The descriptors that close are the child's own copies: without CLONE_FILES
    // the table is not shared. No allocation, no lock, no unwinding.
    unsafe {
        let order = &*argument.cast::<Order>();
        libc::setsid();
        if libc::dup2(order.control.as_raw_fd(), CONTROL) < 0
            || libc::dup2(order.parent.as_raw_fd(), PARENT) < 0
        {
            libc::_exit(127);
        }
        if order.attach {
            // Whatever fails here costs time, later, and nothing else.
            let nothing = std::ptr::null::<c_char>();
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let made = libc::mount(nothing, c"/".as_ptr(), nothing, private, nothing.cast());
            if made == 0 {
                libc::syscall(
                    libc::SYS_move_mount,
                    order.executable.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_FDCWD,
                    PLACE.as_ptr(),
                    MOVE_MOUNT_F_EMPTY_PATH,
                );
            }
        }
        // Anything that another library forgot to mark close-on-exec stays behind.
        libc::syscall(
            libc::SYS_close_range,
            PARENT + 1,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        let args = [NAME.as_ptr(), std::ptr::null()];
        let env = [std::ptr::null::<libc::c_char>()];
        libc::syscall(
            libc::SYS_execveat,
            order.executable.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        libc::_exit(127)
    }
}
