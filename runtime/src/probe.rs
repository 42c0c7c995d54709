//! What this host allows a sandbox to do, found out by trying.
//!
//! Each ability is tried for real: versions, user ids and the presence of files say little about
//! what a container, a security module or a stripped kernel will refuse. Whatever changes the
//! process is tried on a thread of its own that ends with it.

use std::fmt;
use std::io;
use std::os::fd::AsFd as _;

use rustix::mount::{MountAttrFlags, MountPropagationFlags, mount_change};

use crate::cgroup;
use crate::mount::Stage;
use crate::net;
use crate::spec::UpperDir;
use crate::sys;
use crate::wire::Failure;

/// One ability of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ability {
    /// What was tried, such as `overlay` or `network namespace`.
    pub name: &'static str,
    /// Whether it worked.
    pub ok: bool,
    /// Reason of a refusal, version, or what is used instead.
    pub detail: String,
}

/// All abilities that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostReport {
    /// In a fixed order.
    pub abilities: Vec<Ability>,
}

impl HostReport {
    /// Finds an ability by its name.
    pub fn ability(&self, name: &str) -> Option<&Ability> {
        self.abilities.iter().find(|ability| ability.name == name)
    }

    /// Says whether sandboxes can be made at all.
    pub fn can_sandbox(&self) -> bool {
        ["mount namespace", "pid namespace", "overlay"]
            .iter()
            .all(|name| self.ability(name).is_some_and(|ability| ability.ok))
    }

    fn add(&mut self, name: &'static str, result: Result<String, String>) {
        let (ok, detail) = match result {
            Ok(detail) => (true, detail),
            Err(why) => (false, why),
        };
        self.abilities.push(Ability { name, ok, detail });
    }
}

impl fmt::Display for HostReport {
    /// One line an ability: name, yes or no, detail.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Ability { name, ok, detail } in &self.abilities {
            let answer = if *ok { "yes" } else { "no" };
            let line = format!("{name}: {answer} {detail}");
            writeln!(formatter, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Tries what a sandbox needs. Leaves nothing behind; takes a few milliseconds.
pub fn probe() -> HostReport {
    let mut report = HostReport::default();
    let uname = rustix::system::uname();
    report.add("kernel", Ok(uname.release().to_string_lossy().into_owned()));
    let root = rustix::process::geteuid().is_root();
    report.add(
        "root",
        if root {
            Ok(String::new())
        } else {
            Err(String::new())
        },
    );
    for (name, flag) in [
        ("mount namespace", libc::CLONE_NEWNS),
        ("pid namespace", libc::CLONE_NEWPID),
        ("network namespace", libc::CLONE_NEWNET),
        ("cgroup namespace", libc::CLONE_NEWCGROUP),
    ] {
        report.add(
            name,
            on_a_thread(move || sys::unshare(flag).map_err(|e| e.to_string())),
        );
    }
    report.add("user namespace", user_namespace());
    report.add("overlay", on_a_thread(overlay));
    report.add("clone3", known(libc::SYS_clone3, "clone is used instead"));
    report.add(
        "openat2",
        known(libc::SYS_openat2, "needed since Linux 5.6"),
    );
    report.add(
        "mount_setattr",
        known(libc::SYS_mount_setattr, "needed since Linux 5.12"),
    );
    report.add("seccomp", seccomp());
    report.add("cgroup limits", cgroup::describe());
    report.add("private network", on_a_thread(net::probe));
    report.add(
        "network without root",
        net::uplink_program().map(|program| program.to_string()),
    );
    report
}

/// Runs an attempt on a thread that may change its own namespaces.
fn on_a_thread<T: Into<Detail>>(
    attempt: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<String, String> {
    let thread = std::thread::Builder::new()
        .name("probe".into())
        .spawn(move || {
            // A thread shares the file system context with the others until it asks for its own.
            sys::unshare_file_system().map_err(|error| error.to_string())?;
            attempt().map(|detail| detail.into().0)
        });
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err("the attempt panicked".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// What an attempt has to say when it worked.
struct Detail(String);

impl From<()> for Detail {
    fn from((): ()) -> Self {
        Self(String::new())
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        Self(text)
    }
}

pub(crate) fn overlay() -> Result<(), String> {
    let text = |failure: Failure| crate::SandboxError::from(failure).to_string();
    sys::unshare(libc::CLONE_NEWNS).map_err(|error| error.to_string())?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).map_err(|error| error.to_string())?;
    // Attached, as old kernels ask of an upper directory's mount.
    let mut stage = Stage::new().map_err(text)?;
    let place = crate::mount::name_of(stage.as_fd());
    let mut directory = || {
        let (_, name) = stage.fresh_directory().map_err(text)?;
        Ok::<_, String>(std::path::PathBuf::from(format!("{place}/{name}")))
    };
    let lower = directory()?;
    let upper = UpperDir {
        upper: directory()?,
        work: directory()?,
    };
    crate::overlay::mount(&[lower], Some(&upper), MountAttrFlags::empty(), &mut stage)
        .map(drop)
        .map_err(text)
}

/// Tries a system call with arguments that no kernel accepts: only `ENOSYS` means that it is absent.
fn known(number: libc::c_long, otherwise: &str) -> Result<String, String> {
    if sys::is_known(number) {
        Ok(String::new())
    } else {
        Err(otherwise.into())
    }
}

fn seccomp() -> Result<String, String> {
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    match actions {
        Ok(actions) if actions.contains("errno") => Ok(String::new()),
        Ok(_) => Err("the kernel has no filters".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn user_namespace() -> Result<String, String> {
    // A process with threads may not enter one: a process of its own tries.
    sys::try_in_child(0, || sys::unshare(libc::CLONE_NEWUSER))
        .map(|()| String::new())
        .map_err(|error: io::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_report_of_this_host_is_whole() {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let namespaces = || {
            ["mnt", "net", "pid", "cgroup"]
                .map(|name| std::fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap())
        };
        let before = namespaces();
        let report = probe();
        assert!(report.can_sandbox(), "{report}");
        assert!(report.ability("network namespace").unwrap().ok);
        assert!(report.to_string().contains("openat2: yes\n"), "{report}");
        assert_eq!(namespaces(), before);
    }
}
