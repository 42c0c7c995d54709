//! The loops of the small init and of the supervisor that stands in for it, and their signal mask.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::process::{WaitOptions, wait};

/// A signal mask to go back to.
pub(crate) struct Mask(libc::sigset_t);

/// Blocks all signals, so that they wait for [`be_init`] to fetch them.
///
/// Process 1 of a pid namespace does not get signals that it neither handles nor blocks.
pub(crate) fn block_signals() -> Mask {
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    let all = full_set();
    // SAFETY: both sets live during the call; `before` is filled, and all zeroes are valid too.
    unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, before.as_mut_ptr());
        Mask(before.assume_init())
    }
}

/// Blocks `SIGCHLD` and returns a descriptor that is readable when a child has ended.
///
/// What is cloned from this process has to [`unblock_signals`].
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    let mut child = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is initialised by `sigemptyset` and lives during the calls; the descriptor is
    // freshly made, and nobody else knows it.
    unsafe {
        libc::sigemptyset(child.as_mut_ptr());
        libc::sigaddset(child.as_mut_ptr(), libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, child.as_ptr(), std::ptr::null_mut());
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        match libc::signalfd(-1, child.as_ptr(), flags) {
            ..0 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Blocks `SIGTERM` in this thread and those that it starts, so that one of them can
/// [`wait_for_termination`].
pub(crate) fn block_termination() {
    let set = termination();
    // SAFETY: the set is initialised and lives during the call.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits for a `SIGTERM`.
pub(crate) fn wait_for_termination() {
    let set = termination();
    // SAFETY: the set is initialised; a null `siginfo` is allowed.
    while unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) } < 0 {}
}

fn termination() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `sigemptyset` initialises the set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        set.assume_init()
    }
}

/// Unblocks all signals.
pub(crate) fn unblock_signals() {
    let mut none = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is initialised by `sigemptyset` and lives during the calls.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// A child that has ended and that nobody has waited for yet; waits for one if that is wanted and there
/// are children.
pub(crate) fn ended_child(wait: bool) -> Option<i32> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOWAIT | if wait { 0 } else { libc::WNOHANG };
    // SAFETY: the structure lives during the call, and all zeroes, which it stays without such a child,
    // are valid; the union's field is the one that `waitid` fills.
    let pid = unsafe {
        if libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) != 0 {
            return None;
        }
        info.assume_init().si_pid()
    };
    (pid > 0).then_some(pid)
}

/// Goes back to the mask before [`block_signals`].
pub(crate) fn restore_signals(mask: &Mask) {
    // SAFETY: the set was filled by the kernel.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const mask.0, std::ptr::null_mut()) };
}

fn full_set() -> libc::sigset_t {
    let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `sigfillset` initialises the set.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        all.assume_init()
    }
}

/// Reaps and forwards until the command ends; then ends with its code, or 128 + its signal.
pub(crate) fn be_init(command: i32, pidfd: OwnedFd) -> ! {
    serve(command, pidfd, || {})
}

/// The same without a pid namespace: when the command ends, kills what it has left.
pub(crate) fn be_supervisor(command: i32, pidfd: OwnedFd) -> ! {
    serve(command, pidfd, || kill_children(&[]))
}

/// Kills the children of this process but for `known` ones, and theirs, which become its own by that,
/// until there are none.
pub(crate) fn kill_children(known: &[i32]) {
    let me = std::process::id();
    loop {
        let mut found = false;
        for (pid, parent) in processes() {
            if parent != me || known.contains(&pid) {
                continue;
            }
            found = true;
            let mut status = 0;
            // SAFETY: `status` lives during the call; a child that is gone already is an error of no
            // interest.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, &raw mut status, 0);
            }
        }
        if !found {
            return;
        }
    }
}

/// Number and parent of every process in sight.
fn processes() -> Vec<(i32, u32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let parent = |stat: &str| -> Option<u32> {
        // After the name, which may hold anything, come the state and the parent.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        fields.nth(1)?.parse().ok()
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parent(&stat)?))
        })
        .collect()
}

fn serve(command: i32, pidfd: OwnedFd, at_end: impl Fn()) -> ! {
    // A copy above all that is closed: the setup socket must not outlive the command's exec.
    let Ok(pidfd) = rustix::io::fcntl_dupfd_cloexec(pidfd, 64) else {
        super::exit_now(127)
    };
    let number = pidfd.as_raw_fd() as u32;
    // SAFETY: this process executes nothing but the loop below, which uses `pidfd` alone; no
    // destructor of another descriptor runs, because it never returns.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0_u32, number - 1, 0_u32);
        libc::syscall(libc::SYS_close_range, number + 1, u32::MAX, 0_u32);
    }
    let all = full_set();
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() == command {
                let signal = status.terminating_signal().unwrap_or_default();
                at_end();
                super::exit_now(status.exit_status().unwrap_or(128 + signal));
            }
        }
        // SAFETY: the set is initialised; a null `siginfo` is allowed.
        let signal = unsafe { libc::sigwaitinfo(&raw const all, std::ptr::null_mut()) };
        if signal > 0 && signal != libc::SIGCHLD {
            // An error means that the command has just ended: the loop will see it.
            let _ = super::send_signal(pidfd.as_fd(), signal);
        }
    }
}
