//! The ids that processes believe to have.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::{Answer, Ids};
use crate::sys::{self, Notification};

/// More groups than any kernel takes.
const MOST_GROUPS: usize = 65536;

/// User or group ids of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Set {
    real: u32,
    effective: u32,
    saved: u32,
    file_system: u32,
}

/// "Leave it as it is".
const SAME: u32 = u32::MAX;

impl Set {
    fn has(&self, id: u32) -> bool {
        id == SAME || [self.real, self.effective, self.saved].contains(&id)
    }

    /// `setuid`.
    fn set(&mut self, id: u32, privileged: bool) -> Option<()> {
        if privileged {
            (self.real, self.saved) = (id, id);
        } else if id != self.real && id != self.saved {
            return None;
        }
        (self.effective, self.file_system) = (id, id);
        Some(())
    }

    /// `setreuid`.
    fn set_two(&mut self, real: u32, effective: u32, privileged: bool) -> Option<()> {
        let real_allowed = real == SAME || real == self.real || real == self.effective;
        if !(privileged || real_allowed && self.has(effective)) {
            return None;
        }
        let before = self.real;
        if real != SAME {
            self.real = real;
        }
        if effective != SAME {
            self.effective = effective;
        }
        if real != SAME || effective != SAME && effective != before {
            self.saved = self.effective;
        }
        self.file_system = self.effective;
        Some(())
    }

    /// `setresuid`.
    fn set_three(&mut self, ids: [u32; 3], privileged: bool) -> Option<()> {
        if !privileged && !ids.into_iter().all(|id| self.has(id)) {
            return None;
        }
        let places = [&mut self.real, &mut self.effective, &mut self.saved];
        for (place, id) in places.into_iter().zip(ids) {
            if id != SAME {
                *place = id;
            }
        }
        self.file_system = self.effective;
        Some(())
    }

    /// `setfsuid`; returns the id before.
    fn set_file_system(&mut self, id: u32, privileged: bool) -> u32 {
        let before = self.file_system;
        if id != SAME && (privileged || self.has(id) || id == before) {
            self.file_system = id;
        }
        before
    }
}

/// Everything that a process believes to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Credentials {
    user: Set,
    group: Set,
    groups: Vec<u32>,
}

/// The processes that are not root, or were not when they were last seen.
#[derive(Debug)]
pub(super) struct Processes {
    /// The host's `/proc`, wherever the root of this thread is.
    proc: OwnedFd,
    /// By process number, with the time of its start, since numbers come again.
    known: HashMap<i32, (u64, Credentials)>,
}

impl Processes {
    pub(super) fn new() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            proc: rustix::fs::open(c"/proc", flags, Mode::empty())?,
            known: HashMap::new(),
        })
    }

    /// Says whether a process may what root may.
    pub(super) fn is_root(&mut self, thread: i32) -> bool {
        self.find(thread).1.user.effective == 0
    }

    /// The process of a thread, when it has started, and what it believes to be: the same as its
    /// parent, unless it has said otherwise.
    fn find(&mut self, thread: i32) -> (Option<(i32, u64)>, Credentials) {
        if self.known.is_empty() {
            return (None, Credentials::default());
        }
        let mut next = thread;
        // No family is deeper than this without a circle, which numbers that come again may make.
        for _ in 0..1000 {
            let Some((process, parent)) = family(&self.proc, next) else {
                break;
            };
            let start = start_time(&self.proc, process).unwrap_or_default();
            if let Some((known_start, credentials)) = self.known.get(&process)
                && *known_start == start
            {
                return (Some((process, start)), credentials.clone());
            }
            if parent <= 1 {
                break;
            }
            next = parent;
        }
        (None, Credentials::default())
    }

    fn keep(&mut self, thread: i32, credentials: Credentials) {
        if let Some((process, _)) = family(&self.proc, thread) {
            if self.known.len() > 10_000 {
                let proc = &self.proc;
                self.known
                    .retain(|&pid, (start, _)| start_time(proc, pid) == Some(*start));
            }
            let start = start_time(&self.proc, process).unwrap_or_default();
            self.known.insert(process, (start, credentials));
        }
    }

    pub(super) fn answer(&mut self, ids: Ids, call: &Notification) -> Answer {
        let (_, mut credentials) = self.find(call.pid);
        let before = credentials.clone();
        let answer = change(&mut credentials, ids, call);
        if credentials != before {
            self.keep(call.pid, credentials);
        }
        answer
    }
}

fn change(credentials: &mut Credentials, ids: Ids, call: &Notification) -> Answer {
    let [a, b, c] = [0, 1, 2].map(|index| call.arguments[index] as u32);
    let privileged = credentials.user.effective == 0;
    let Credentials {
        user,
        group,
        groups,
    } = credentials;
    let done = match ids {
        Ids::SetUid => user.set(a, privileged),
        Ids::SetGid => group.set(a, privileged),
        Ids::SetReUid => user.set_two(a, b, privileged),
        Ids::SetReGid => group.set_two(a, b, privileged),
        Ids::SetResUid => user.set_three([a, b, c], privileged),
        Ids::SetResGid => group.set_three([a, b, c], privileged),
        Ids::SetFsUid => return value(user.set_file_system(a, privileged)),
        Ids::SetFsGid => return value(group.set_file_system(a, privileged)),
        Ids::GetUid => return value(user.real),
        Ids::GetGid => return value(group.real),
        Ids::GetEffectiveUid => return value(user.effective),
        Ids::GetEffectiveGid => return value(group.effective),
        Ids::GetResUid => return tell_three(user, call),
        Ids::GetResGid => return tell_three(group, call),
        Ids::SetGroups => return set_groups(groups, privileged, call),
        Ids::GetGroups => return get_groups(groups, call),
    };
    match done {
        Some(()) => Answer::Value(0),
        None => Answer::Error(libc::EPERM),
    }
}

fn value(id: u32) -> Answer {
    Answer::Value(i64::from(id))
}

fn tell_three(set: &Set, call: &Notification) -> Answer {
    for (address, id) in call
        .arguments
        .iter()
        .zip([set.real, set.effective, set.saved])
    {
        if let Err(error) = sys::write_memory(call.pid, *address, &id.to_ne_bytes()) {
            return error.into();
        }
    }
    Answer::Value(0)
}

fn set_groups(groups: &mut Vec<u32>, privileged: bool, call: &Notification) -> Answer {
    let count = call.arguments[0] as u32 as usize;
    if !privileged {
        return Answer::Error(libc::EPERM);
    }
    if count > MOST_GROUPS {
        return Answer::Error(libc::EINVAL);
    }
    match sys::read_memory(call.pid, call.arguments[1], count * 4) {
        Ok(bytes) => {
            *groups = bytes
                .chunks_exact(4)
                .map(|four| u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
                .collect();
            Answer::Value(0)
        }
        Err(error) => error.into(),
    }
}

fn get_groups(groups: &[u32], call: &Notification) -> Answer {
    let room = call.arguments[0] as u32 as usize;
    if room != 0 {
        if room < groups.len() {
            return Answer::Error(libc::EINVAL);
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|id| id.to_ne_bytes()).collect();
        if let Err(error) = sys::write_memory(call.pid, call.arguments[1], &bytes) {
            return error.into();
        }
    }
    Answer::Value(groups.len() as i64)
}

/// The process of a thread, and its parent.
fn family(proc: &OwnedFd, thread: i32) -> Option<(i32, i32)> {
    let status = read(proc, format!("{thread}/status"))?;
    let field = |name: &str| -> Option<i32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some((field("Tgid:")?, field("PPid:")?))
}

fn read(proc: &OwnedFd, name: String) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, name, flags, Mode::empty()).ok()?;
    io::read_to_string(File::from(file)).ok()
}

fn start_time(proc: &OwnedFd, process: i32) -> Option<u64> {
    let stat = read(proc, format!("{process}/stat"))?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_given_up_root_cannot_go_back() {
        let mut ids = Set::default();
        assert!(ids.set_three([100, 100, 100], true).is_some());
        assert!(ids.set(0, false).is_none());
        assert!(ids.set_two(0, SAME, false).is_none());
        assert!(ids.set_three([SAME, 0, SAME], false).is_none());
        assert!(ids.set_three([SAME, 100, SAME], false).is_some());
        assert_eq!(ids.set_file_system(0, false), 100);
        assert_eq!(ids.file_system, 100);
    }

    #[test]
    fn the_saved_id_is_a_way_back() {
        let mut ids = Set::default();
        assert!(ids.set_three([SAME, 100, SAME], true).is_some());
        assert_eq!((ids.real, ids.effective, ids.saved), (0, 100, 0));
        assert!(ids.set(0, false).is_some());
        assert_eq!(ids.effective, 0);
        assert!(ids.set_two(5, 6, true).is_some());
        assert_eq!((ids.real, ids.effective, ids.saved), (5, 6, 6));
    }
}
