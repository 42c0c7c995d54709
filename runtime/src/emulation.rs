//! Owners and ids in a user namespace that has a single one.
//!
//! There the kernel refuses `chown`, `mknod` of devices, `setuid` and their like, which package managers
//! and `useradd` cannot do without. A system call filter hands these calls to a thread of the program,
//! which answers in the kernel's place: owners are recorded in an attribute of the file (the form is
//! that of the store, see `rbuild_cache::owners`), ids are kept for each process, so that a process that
//! has become somebody else is told so, and cannot go back.
//!
//! What is not done: `stat` tells the real owner, which is root for all files; and rights are not those
//! of the pretended user.
//!
//! The thread looks at paths with the root and working directory of the process that calls, so that no
//! symbolic link leads out of the sandbox.

mod credentials;
mod files;

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};

use crate::sys::{self, Instruction, Notification};
use credentials::Processes;
use files::Files;

pub use files::{LINK_RECORD, RECORD};

/// What the filter hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Chown { follow: bool },
    Fchown,
    Fchownat,
    Mknod,
    Mknodat,
    Ids(Ids),
}

/// Calls about the ids of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    SetUid,
    SetGid,
    SetReUid,
    SetReGid,
    SetResUid,
    SetResGid,
    SetFsUid,
    SetFsGid,
    SetGroups,
    GetUid,
    GetGid,
    GetEffectiveUid,
    GetEffectiveGid,
    GetResUid,
    GetResGid,
    GetGroups,
}

/// The calls by number.
#[rustfmt::skip]
const CALLS: &[(libc::c_long, Call)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chown, Call::Chown { follow: true }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lchown, Call::Chown { follow: false }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, Call::Mknod),
    (libc::SYS_fchown, Call::Fchown),
    (libc::SYS_fchownat, Call::Fchownat),
    (libc::SYS_mknodat, Call::Mknodat),
    (libc::SYS_setuid, Call::Ids(Ids::SetUid)),
    (libc::SYS_setgid, Call::Ids(Ids::SetGid)),
    (libc::SYS_setreuid, Call::Ids(Ids::SetReUid)),
    (libc::SYS_setregid, Call::Ids(Ids::SetReGid)),
    (libc::SYS_setresuid, Call::Ids(Ids::SetResUid)),
    (libc::SYS_setresgid, Call::Ids(Ids::SetResGid)),
    (libc::SYS_setfsuid, Call::Ids(Ids::SetFsUid)),
    (libc::SYS_setfsgid, Call::Ids(Ids::SetFsGid)),
    (libc::SYS_setgroups, Call::Ids(Ids::SetGroups)),
    (libc::SYS_getuid, Call::Ids(Ids::GetUid)),
    (libc::SYS_getgid, Call::Ids(Ids::GetGid)),
    (libc::SYS_geteuid, Call::Ids(Ids::GetEffectiveUid)),
    (libc::SYS_getegid, Call::Ids(Ids::GetEffectiveGid)),
    (libc::SYS_getresuid, Call::Ids(Ids::GetResUid)),
    (libc::SYS_getresgid, Call::Ids(Ids::GetResGid)),
    (libc::SYS_getgroups, Call::Ids(Ids::GetGroups)),
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// The filter that hands the calls out; everything else passes.
pub(crate) fn filter() -> Vec<Instruction> {
    let statement = |code: u32, k: u32| Instruction {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let count = CALLS.len() as u8;
    // Programs of another architecture have other numbers: their calls fail as they do without us.
    let mut program = vec![
        statement(load, 4),
        Instruction {
            jf: count + 1,
            ..statement(equal, ARCHITECTURE)
        },
        statement(load, 0),
    ];
    for (index, (number, _)) in (0..count).zip(CALLS) {
        program.push(Instruction {
            jt: count - index,
            ..statement(equal, *number as u32)
        });
    }
    program.push(statement(answer, libc::SECCOMP_RET_ALLOW));
    program.push(statement(answer, libc::SECCOMP_RET_USER_NOTIF));
    program
}

/// What the kernel is told to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Return this.
    Value(i64),
    /// Fail with this error number.
    Error(i32),
    /// Carry it out as if nobody had asked.
    Continue,
}

impl From<std::io::Error> for Answer {
    fn from(error: std::io::Error) -> Self {
        Self::Error(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Starts the thread that answers the calls of one sandbox; it ends with the sandbox.
pub(crate) fn start(listener: OwnedFd) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("owners".into())
        .spawn(move || serve(&listener))
        .map(drop)
}

fn serve(listener: &OwnedFd) {
    // Without its own root the thread cannot look at paths: calls then fail as they do without us.
    let Ok(mut files) = Files::new() else { return };
    let Ok(mut processes) = Processes::new() else {
        return;
    };
    sys::answer_fast(listener.as_fd());
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let events = ready[0].revents();
        if !events.contains(PollFlags::IN) {
            // The last process with the filter is gone.
            return;
        }
        // An error: the process was killed between the two calls.
        let Ok(call) = sys::next_notification(listener.as_fd()) else {
            continue;
        };
        let answer = answer(&call, &mut processes, &mut files, listener);
        // An error: it was killed meanwhile.
        let _ = sys::send_answer(listener.as_fd(), call.id, answer);
    }
}

fn answer(
    call: &Notification,
    processes: &mut Processes,
    files: &mut Files,
    listener: &OwnedFd,
) -> Answer {
    let Some((_, kind)) = CALLS.iter().find(|(number, _)| *number == call.number) else {
        return Answer::Continue;
    };
    let result = match *kind {
        Call::Ids(ids) => return processes.answer(ids, call),
        _ if !processes.is_root(call.pid) => return Answer::Error(libc::EPERM),
        Call::Chown { follow } => {
            let owner = (call.arguments[1] as u32, call.arguments[2] as u32);
            files.chown(call, listener, None, call.arguments[0], follow, owner)
        }
        Call::Fchown => {
            let owner = (call.arguments[1] as u32, call.arguments[2] as u32);
            files.chown_open(call, listener, call.arguments[0] as i32, owner)
        }
        Call::Fchownat => {
            let owner = (call.arguments[2] as u32, call.arguments[3] as u32);
            let flags = call.arguments[4] as i32;
            let directory = call.arguments[0] as i32;
            if flags & libc::AT_EMPTY_PATH != 0 && Files::is_empty_path(call, call.arguments[1]) {
                files.chown_open(call, listener, directory, owner)
            } else {
                let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
                let path = call.arguments[1];
                files.chown(call, listener, Some(directory), path, follow, owner)
            }
        }
        Call::Mknod => {
            let (mode, device) = (call.arguments[1] as u32, call.arguments[2]);
            files.mknod(call, listener, None, call.arguments[0], mode, device)
        }
        Call::Mknodat => {
            let (mode, device) = (call.arguments[2] as u32, call.arguments[3]);
            let directory = Some(call.arguments[0] as i32);
            files.mknod(call, listener, directory, call.arguments[1], mode, device)
        }
    };
    result.unwrap_or_else(Answer::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter on a call number as the kernel would.
    fn run(number: u32, architecture: u32) -> u32 {
        let program = filter();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            match u32::from(code) & 0x07 {
                libc::BPF_LD => accumulator = if k == 4 { architecture } else { number },
                libc::BPF_JMP => at += usize::from(if accumulator == k { jt } else { jf }),
                _ => return k,
            }
        }
    }

    #[test]
    fn only_the_listed_calls_are_handed_out() {
        for number in 0..500_u32 {
            let listed = CALLS.iter().any(|(call, _)| *call == i64::from(number));
            let expected = if listed {
                libc::SECCOMP_RET_USER_NOTIF
            } else {
                libc::SECCOMP_RET_ALLOW
            };
            assert_eq!(run(number, ARCHITECTURE), expected, "{number}");
            assert_eq!(run(number, 0x4000_0003), libc::SECCOMP_RET_ALLOW);
        }
    }
}
