//! A user namespace for the whole program: there a user without privilege is user 0 and has the
//! rights over the ids that the administrator has set aside for them.
//!
//! The program enters it once, early, while it has a single thread. From then on the store, the
//! layers and the sandboxes work as they do for root, with owners from the mapped ranges. Sandboxes
//! need no user namespace of their own.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Gid, Pid, Uid, WaitOptions, getegid, geteuid, getpid, waitpid};
use rustix::thread::{
    CapabilitySet, LinkNameSpaceType, capabilities, move_into_link_name_space, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::SandboxError;
use crate::isolation::{Isolation, isolation};
use crate::net;
use crate::sys::{self, Cloned};

/// Where the set-user-id programs that write id maps are.
const PROGRAM_DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"];

/// Number of the first user namespace of every kernel (`PROC_USER_INIT_INO`). The id maps do not tell:
/// they may be the same in one below it.
const FIRST_NAMESPACE: u64 = 0xefff_fffd;

/// Says whether this process has a single user id, so that it cannot give files to others.
pub(crate) fn has_single_id() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    matches!(parse_map(&map)[..], [[_, _, 1]])
}

/// Says whether all user ids are mapped, each to itself.
fn has_all_ids() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    matches!(parse_map(&map)[..], [[0, 0, 4_294_967_295]])
}

/// Says whether this process is in a user namespace other than the first.
///
/// Asked once in a process; [`settle`](crate::settle) comes before.
pub fn in_user_namespace() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(find_user_namespace)
}

/// Says whether [`Network::Private`](crate::Network::Private) and
/// [`Network::Attached`](crate::Network::Attached) are possible.
pub fn has_private_network() -> bool {
    private_network().is_ok()
}

/// Says in words why they are not: a user namespace cannot connect itself to the network outside, but for
/// a program that does; without namespaces there is nothing to connect. Asked once in a process.
pub fn private_network() -> Result<(), &'static str> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    let answer = ANSWER.get_or_init(|| match isolation() {
        Isolation::Chroot | Isolation::Nothing => {
            Err("this host allows no namespaces, which an own network needs".to_owned())
        }
        Isolation::Nested => {
            Err("in a container that hides parts of /proc there is its network only".to_owned())
        }
        // Where ids look as they do on the host, pasta takes itself for root and gives up its rights.
        _ if in_user_namespace() && has_all_ids() => {
            Err("a user namespace with all ids has the host's network".to_owned())
        }
        _ if in_user_namespace() => net::uplink_program().map(drop),
        _ => Ok(()),
    });
    answer.as_ref().copied().map_err(String::as_str)
}

fn find_user_namespace() -> bool {
    fs::metadata("/proc/self/ns/user").is_ok_and(|found| found.ino() != FIRST_NAMESPACE)
}

/// Enters a new user and mount namespace as its user 0.
///
/// User 0 there is the caller; the ids from 1 on are the caller's subordinate ids of `/etc/subuid`
/// and `/etc/subgid`, mapped by `newuidmap` and `newgidmap`. A process that may set ids itself (root
/// of a container) maps all ids that it has.
///
/// The caller must have a single thread: the kernel refuses the others.
pub(crate) fn enter_with_ranges() -> Result<(), SandboxError> {
    let mapper = Mapper::find()?;
    enter(Some(&mapper))
}

/// Enters a new user and mount namespace as its user 0, which is the caller; there is no other.
pub(crate) fn enter_with_single_id() -> Result<(), SandboxError> {
    let (uid, gid) = own_ids();
    if !is_unmapped() {
        enter(None)?;
    }
    map_single_id(uid, gid).map_err(host("map the user's own id"))?;
    become_root()
}

/// Enters the user namespace of another process as its user 0; says whether that is another one.
pub(crate) fn enter_of(pid: u32) -> Result<bool, SandboxError> {
    let path = format!("/proc/{pid}/ns/user");
    let own = fs::metadata("/proc/self/ns/user").map_err(host("look at the user namespace"))?;
    let its = fs::metadata(&path).map_err(host("look at the user namespace"))?;
    if own.ino() == its.ino() {
        return Ok(false);
    }
    own_ids();
    let action = "join the user namespace of the other container";
    let namespace = fs::File::open(&path).map_err(host(action))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))
        .map_err(|error| host(action)(error.into()))?;
    sys::unshare(libc::CLONE_NEWNS).map_err(refused)?;
    become_root()?;
    Ok(true)
}

/// Ids of this process before it entered a namespace.
fn own_ids() -> (u32, u32) {
    static IDS: OnceLock<(u32, u32)> = OnceLock::new();
    *IDS.get_or_init(|| (geteuid().as_raw(), getegid().as_raw()))
}

/// Says whether this process is in a user namespace whose ids nobody could map.
pub(crate) fn is_unmapped() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.trim().is_empty())
}

/// Maps user and group 0 of the namespace of this process to ids outside, which are its own.
pub(crate) fn map_single_id(uid: u32, gid: u32) -> io::Result<()> {
    // Groups could be dropped whose members have fewer rights: the kernel wants this first.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn enter(mapper: Option<&Mapper>) -> Result<(), SandboxError> {
    own_ids();
    let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    let Some(mapper) = mapper else {
        return sys::unshare(namespaces).map_err(refused);
    };
    let target = getpid();
    let (mut wait_for_namespace, namespace_made) = io::pipe().map_err(host("make a pipe"))?;
    let (mut answer, mut to_answer) = io::pipe().map_err(host("make a pipe"))?;
    // The maps are written from outside.
    let clone = sys::clone_process(0).map_err(host("start the process that maps ids"))?;
    let pid = match clone {
        Cloned::Child => {
            drop((namespace_made, answer));
            let mut signal = [0];
            if matches!(wait_for_namespace.read(&mut signal), Ok(1))
                && let Err(why) = mapper.map(target)
            {
                // Without a reader there is nobody left to tell.
                let _ = to_answer.write_all(why.as_bytes());
            }
            sys::exit_now(0);
        }
        Cloned::Parent { pid, .. } => pid,
    };
    drop((wait_for_namespace, to_answer));
    let entered = sys::unshare(namespaces);
    let mut namespace_made = namespace_made;
    if entered.is_ok() {
        namespace_made
            .write_all(&[1])
            .map_err(host("wake the process that maps ids"))?;
    }
    drop(namespace_made);
    let mut why = String::new();
    let told = answer.read_to_string(&mut why);
    // An error means that someone who reaps all children was faster.
    let _ = rustix::io::retry_on_intr(|| waitpid(Pid::from_raw(pid), WaitOptions::empty()));
    entered.map_err(refused)?;
    told.map_err(host("hear from the process that maps ids"))?;
    if !why.is_empty() {
        return Err(SandboxError::NotPermitted {
            what: "map user ids".to_owned(),
            hint: "see what the program said below".to_owned(),
            source: io::Error::other(why),
        });
    }
    become_root()
}

/// Takes the ids of user 0, which the caller's own are mapped to.
fn become_root() -> Result<(), SandboxError> {
    let (user, group) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(group, group, group)
        .and_then(|()| set_thread_res_uid(user, user, user))
        .map_err(|error| host("become user 0 of the user namespace")(error.into()))
}

/// How the maps are written.
enum Mapper {
    /// By this process, which may set ids: all that it has.
    Own { uids: String, gids: String },
    /// By the set-user-id programs.
    Programs { uids: Range, gids: Range },
}

/// One map for a program: where it is, and what follows the process id.
struct Range {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Mapper {
    fn find() -> Result<Self, SandboxError> {
        let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        if held.contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
            let same = |kind: &str| -> Result<String, SandboxError> {
                let map = fs::read_to_string(format!("/proc/self/{kind}_map"))
                    .map_err(host("read the id map"))?;
                Ok(identity_map(&parse_map(&map)))
            };
            return Ok(Self::Own {
                uids: same("uid")?,
                gids: same("gid")?,
            });
        }
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let name = user_name(uid);
        let range = |program: &str, file: &str, own: u32| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let ranges = subordinate(&text, &name, uid);
            if ranges.is_empty() {
                return Err(no_range(file, &name));
            }
            Ok(Range {
                program: find_program(program)?,
                arguments: map_arguments(own, &ranges),
            })
        };
        Ok(Self::Programs {
            uids: range("newuidmap", "/etc/subuid", uid)?,
            gids: range("newgidmap", "/etc/subgid", gid)?,
        })
    }

    /// Maps the ids of `target`, another process; in its words, why that failed.
    fn map(&self, target: Pid) -> Result<(), String> {
        let target = target.as_raw_nonzero();
        match self {
            Self::Own { uids, gids } => [("uid_map", uids), ("gid_map", gids)]
                .into_iter()
                .try_for_each(|(file, map)| {
                    let path = format!("/proc/{target}/{file}");
                    fs::write(&path, map).map_err(|error| format!("write {path}: {error}"))
                }),
            Self::Programs { uids, gids } => [uids, gids].into_iter().try_for_each(|range| {
                let name = range.program.display();
                let output = Command::new(&range.program)
                    .arg(target.to_string())
                    .args(&range.arguments)
                    .stdin(Stdio::null())
                    .output()
                    .map_err(|error| format!("run {name}: {error}"))?;
                if output.status.success() {
                    return Ok(());
                }
                let said = String::from_utf8_lossy(&output.stderr);
                Err(format!("{name}: {}: {}", output.status, said.trim()))
            }),
        }
    }
}

fn host(action: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Host { action, source }
}

fn refused(source: io::Error) -> SandboxError {
    SandboxError::NotPermitted {
        what: "make a user namespace".to_owned(),
        hint: setting_that_forbids(),
        source,
    }
}

/// Names the one setting that keeps this process from user namespaces, as far as that can be seen.
pub(crate) fn setting_that_forbids() -> String {
    let number = |path: &str| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return "set the sysctl `user.max_user_namespaces` to 15000".to_owned();
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return "set the sysctl `kernel.unprivileged_userns_clone` to 1".to_owned();
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let filtered = status.lines().any(|line| {
        line.strip_prefix("Seccomp:")
            .is_some_and(|mode| mode.trim() == "2")
    });
    if filtered {
        return "start the container around this process with `--security-opt seccomp=unconfined` \
                (Docker, Podman) or `seccompProfile: {type: Unconfined}` (Kubernetes), so that user \
                namespaces are allowed"
            .to_owned();
    }
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return "set the sysctl `kernel.apparmor_restrict_unprivileged_userns` to 0".to_owned();
    }
    "allow user namespaces to this user, or run as root".to_owned()
}

fn no_range(file: &str, name: &str) -> SandboxError {
    SandboxError::NotPermitted {
        what: "use more than one user id".to_owned(),
        hint: format!(
            "as root, give user `{name}` a range of ids with `usermod --add-subuids 100000-165535 \
             --add-subgids 100000-165535 {name}`, or run rbuild as root"
        ),
        source: io::Error::other(format!("{file} has no range for `{name}`")),
    }
}

fn find_program(name: &str) -> Result<PathBuf, SandboxError> {
    PROGRAM_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
        .ok_or_else(|| SandboxError::NotPermitted {
            what: "map user ids".to_owned(),
            hint: "install the package `uidmap` (Debian, Ubuntu) or `shadow-utils` (Fedora), or \
                   run as root"
                .to_owned(),
            source: io::Error::new(
                io::ErrorKind::NotFound,
                format!("the program `{name}` is missing"),
            ),
        })
}

/// The name of a user in `/etc/passwd`; the number where there is none.
fn user_name(uid: u32) -> String {
    let passwd = fs::read(Path::new("/etc/passwd")).unwrap_or_default();
    name_in(&String::from_utf8_lossy(&passwd), uid).unwrap_or_else(|| uid.to_string())
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Ranges of `subuid(5)` for a user: first id and count.
fn subordinate(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let first = fields.next()?.parse().ok()?;
            let count = fields.next()?.parse().ok().filter(|&count| count > 0)?;
            (owner == name || owner == uid).then_some((first, count))
        })
        .collect()
}

/// Arguments of `newuidmap` after the process: 0 is the user's own id, then the ranges from 1 on.
fn map_arguments(own: u32, ranges: &[(u32, u32)]) -> Vec<String> {
    let mut map = vec![(0, own, 1)];
    let mut next = 1_u32;
    for &(first, count) in ranges {
        map.push((next, first, count));
        next = next.saturating_add(count);
    }
    map.into_iter()
        .flat_map(|(inside, outside, count)| [inside, outside, count])
        .map(|number| number.to_string())
        .collect()
}

/// Lines of an `id_map` file: first id inside, first id outside, count.
fn parse_map(text: &str) -> Vec<[u64; 3]> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
            Some([numbers.next()??, numbers.next()??, numbers.next()??])
        })
        .collect()
}

/// The map that gives a child namespace all ids of this one, under the same numbers.
fn identity_map(map: &[[u64; 3]]) -> String {
    let lines: Vec<String> = map
        .iter()
        .map(|[inside, _, count]| format!("{inside} {inside} {count}\n"))
        .collect();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "joe:100000:65536\nann:1:2\n1000:300000:10\nbad\njoe:x:1\njoe:5:0\n";
        assert_eq!(
            subordinate(text, "joe", 1000),
            [(100_000, 65536), (300_000, 10)]
        );
        assert!(subordinate(text, "eve", 7).is_empty());
    }

    #[test]
    fn own_id_is_root_and_ranges_follow() {
        assert_eq!(
            map_arguments(1000, &[(100_000, 65536), (300_000, 10)]).join(" "),
            "0 1000 1 1 100000 65536 65537 300000 10"
        );
    }

    #[test]
    fn users_have_names() {
        let passwd = "root:x:0:0::/root:/bin/sh\njoe:x:1000:100::/home/joe:/bin/sh\n";
        assert_eq!(name_in(passwd, 1000).as_deref(), Some("joe"));
        assert_eq!(name_in(passwd, 1001), None);
    }

    #[test]
    fn maps_are_read_and_repeated() {
        let map = parse_map("         0       1000          1\n         1     100000      65536\n");
        assert_eq!(map, [[0, 1000, 1], [1, 100_000, 65536]]);
        assert_eq!(identity_map(&map), "0 0 1\n1 1 65536\n");
    }
}
