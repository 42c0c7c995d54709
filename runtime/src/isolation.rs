//! The ladder of isolation: what a command has around it, by what the host allows.
//!
//! The rungs are tried from the top, for real, in a copy of this process: user ids, versions and the
//! presence of files say little about what a container or a security module will refuse.

use std::fmt;
use std::io;
use std::sync::OnceLock;

use rustix::thread::{CapabilitySet, capabilities};
use serde::{Deserialize, Serialize};

use crate::mount::FileSystem;
use crate::probe;
use crate::userns::{self, in_user_namespace};
use crate::{SandboxError, sys};

/// A rung of the ladder, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Isolation {
    /// Root with all namespaces.
    Root,
    /// A user namespace with ranges of ids.
    Rootless,
    /// A user namespace with one id; owners are recorded.
    SingleId,
    /// A user namespace that cannot have a `/proc` of its own: in a container.
    Nested,
    /// Root of a container that cannot make namespaces: `chroot`.
    Chroot,
    /// No command can run.
    Nothing,
}

impl Isolation {
    /// All rungs, the best first.
    pub const LADDER: [Self; 6] = [
        Self::Root,
        Self::Rootless,
        Self::SingleId,
        Self::Nested,
        Self::Chroot,
        Self::Nothing,
    ];

    /// Its name, as flags and messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Rootless => "rootless",
            Self::SingleId => "single-id",
            Self::Nested => "nested",
            Self::Chroot => "chroot",
            Self::Nothing => "none",
        }
    }

    /// What a command has around it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Root => "root, with namespaces of its own",
            Self::Rootless => "user namespace with ranges of ids",
            Self::SingleId => "user namespace with one id, owners of files are recorded",
            Self::Nested => "user namespace in a container, with the container's /proc",
            Self::Chroot => "root of a container, by chroot",
            Self::Nothing => "commands cannot run",
        }
    }

    /// What is not possible there; nothing for the best.
    pub fn cannot(self) -> &'static [&'static str] {
        match self {
            Self::Root => &[],
            Self::Rootless => &["making device nodes"],
            Self::SingleId => &[
                "seeing recorded owners with `stat`, `ls` or `find`: files look like root's",
                "becoming root again by set-user-id programs such as `sudo`",
            ],
            Self::Nested => &["`--security=insecure`", "making device nodes"],
            Self::Chroot => &[
                "/proc and /sys",
                "protection beyond that of the container around it",
                "networks other than the host's",
                "`--security=insecure`",
                "`--mount=type=tmpfs` in memory",
            ],
            Self::Nothing => &["RUN", "`rbuild run`"],
        }
    }

    /// Finds a rung by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::LADDER.into_iter().find(|rung| rung.name() == name)
    }

    /// Says whether sandboxes have namespaces.
    pub(crate) fn has_namespaces(self) -> bool {
        !matches!(self, Self::Chroot | Self::Nothing)
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Where this process stands.
#[derive(Debug)]
pub struct Ground {
    /// The rung.
    pub isolation: Isolation,
    /// Why the better ones are out of reach, the best first.
    pub refused: Vec<(Isolation, SandboxError)>,
}

/// The rung of this process, once [`settle`] has found it.
static CURRENT: OnceLock<Isolation> = OnceLock::new();

/// Returns the rung that this process has settled on; root's where it has not.
pub fn isolation() -> Isolation {
    CURRENT.get().copied().unwrap_or(Isolation::Root)
}

/// Takes over the rung of the program that has started this process.
pub fn inherit(isolation: Isolation) {
    // Whoever inherits does not settle.
    let _ = CURRENT.set(isolation);
}

/// Finds the best rung that the host allows, or tries the wanted one only, and moves this process onto
/// it: most rungs are in a user namespace.
///
/// The caller must have a single thread. To be called once.
///
/// # Errors
///
/// Why the wanted one is out of reach. Without a wish the last rung is always there.
pub fn settle(wanted: Option<Isolation>) -> Result<Ground, SandboxError> {
    let mut refused = Vec::new();
    let found = match wanted {
        Some(rung) => step_on(rung)?,
        None => climb(&mut refused),
    };
    let _ = CURRENT.set(found);
    Ok(Ground {
        isolation: found,
        refused,
    })
}

/// Moves this process onto the rung, and into the user namespace, of another process: only there can its
/// network be shared. Nothing happens if both are in one already.
///
/// The caller must have a single thread. To be called once, in place of [`settle`].
///
/// # Errors
///
/// Why its namespace cannot be joined.
pub fn settle_beside(pid: u32) -> Result<Option<Ground>, SandboxError> {
    if !userns::enter_of(pid)? {
        return Ok(None);
    }
    let found = match () {
        () if !has_own_proc() => Isolation::Nested,
        () if userns::has_single_id() => Isolation::SingleId,
        () => Isolation::Rootless,
    };
    let _ = CURRENT.set(found);
    Ok(Some(Ground {
        isolation: found,
        refused: Vec::new(),
    }))
}

fn climb(refused: &mut Vec<(Isolation, SandboxError)>) -> Isolation {
    for rung in Isolation::LADDER {
        if rung == Isolation::Nested {
            // Not chosen but found, on the two before it.
            continue;
        }
        match step_on(rung) {
            Ok(Isolation::Rootless | Isolation::SingleId) if !has_own_proc() => {
                return Isolation::Nested;
            }
            Ok(found) => return found,
            Err(error) => refused.push((rung, error)),
        }
    }
    Isolation::Nothing
}

/// Tries one rung and moves onto it.
fn step_on(rung: Isolation) -> Result<Isolation, SandboxError> {
    match rung {
        Isolation::Root => {
            try_root()?;
            if !in_user_namespace() {
                return Ok(rung);
            }
            // Somebody has made a user namespace around us.
            Ok(if userns::has_single_id() {
                Isolation::SingleId
            } else {
                Isolation::Rootless
            })
        }
        Isolation::Rootless => {
            try_user_namespace()?;
            userns::enter_with_ranges()?;
            Ok(rung)
        }
        Isolation::SingleId => {
            if !userns::is_unmapped() {
                try_user_namespace()?;
            }
            userns::enter_with_single_id()?;
            Ok(rung)
        }
        Isolation::Nested => {
            try_user_namespace()?;
            userns::enter_with_ranges().or_else(|_| userns::enter_with_single_id())?;
            Ok(rung)
        }
        Isolation::Chroot => try_chroot().map(|()| rung),
        Isolation::Nothing => Ok(rung),
    }
}

/// Mounts an overlay in a mount namespace of its own.
fn mount_something() -> io::Result<()> {
    probe::overlay().map_err(|_| io::Error::from_raw_os_error(libc::EPERM))
}

fn try_root() -> Result<(), SandboxError> {
    let refused = |source: io::Error, hint: &str| SandboxError::NotPermitted {
        what: "mount as root".to_owned(),
        hint: hint.to_owned(),
        source,
    };
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    if !held.contains(CapabilitySet::SYS_ADMIN) {
        let hint = if rustix::process::geteuid().is_root() {
            "start the container around this process with `--privileged`"
        } else {
            "run as root, for example with `sudo`"
        };
        let source = io::Error::other("this process has not CAP_SYS_ADMIN");
        return Err(refused(source, hint));
    }
    // Root of a machine need not be asked.
    let all = CapabilitySet::SYS_MODULE | CapabilitySet::SYS_RAWIO | CapabilitySet::SYS_BOOT;
    if held.contains(all) && !in_user_namespace() {
        return Ok(());
    }
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    sys::try_in_child(namespaces, mount_something).map_err(|source| {
        refused(
            source,
            "start the container around this process with `--privileged`",
        )
    })
}

/// Makes a user namespace and mounts in it: some hosts allow the one without the other.
fn try_user_namespace() -> Result<(), SandboxError> {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    sys::try_in_child(namespaces, || {
        userns::map_single_id(uid, gid)?;
        mount_something()
    })
    .map_err(|source| SandboxError::NotPermitted {
        what: "mount in a user namespace".to_owned(),
        hint: userns::setting_that_forbids(),
        source,
    })
}

/// Tries to mount a `/proc` for a pid namespace: refused where parts of the one outside are hidden.
fn has_own_proc() -> bool {
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    let mount = || {
        let mounted =
            FileSystem::new("proc").and_then(|proc| proc.mount(crate::mount::NO_SUID_DEV));
        mounted
            .map(drop)
            .map_err(|failure| io::Error::from_raw_os_error(failure.errno))
    };
    sys::try_in_child(namespaces, mount).is_ok()
}

fn try_chroot() -> Result<(), SandboxError> {
    let refused = |source: io::Error, hint: &str| SandboxError::NotPermitted {
        what: "use chroot".to_owned(),
        hint: hint.to_owned(),
        source,
    };
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let needed = [
        (CapabilitySet::SYS_CHROOT, "SYS_CHROOT"),
        (CapabilitySet::CHOWN, "CHOWN"),
        (CapabilitySet::DAC_OVERRIDE, "DAC_OVERRIDE"),
        (CapabilitySet::FOWNER, "FOWNER"),
        (CapabilitySet::SETUID, "SETUID"),
        (CapabilitySet::SETGID, "SETGID"),
    ];
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|(capability, _)| !held.contains(*capability))
        .map(|(_, name)| name)
        .collect();
    if !missing.is_empty() {
        let source = io::Error::other(format!("missing capabilities: {}", missing.join(", ")));
        return Err(refused(
            source,
            "start the container around this process as root with its default capabilities",
        ));
    }
    sys::try_in_child(0, || Ok(rustix::process::chroot(c"/")?))
        .map_err(|source| refused(source, "allow the system call `chroot`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rung_is_found_by_its_name() {
        for rung in Isolation::LADDER {
            assert_eq!(Isolation::from_name(rung.name()), Some(rung));
        }
        assert_eq!(Isolation::from_name("oci"), None);
        assert!(Isolation::Root < Isolation::Nothing);
    }
}
