//! The loop of the small init, and its signal mask.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

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
