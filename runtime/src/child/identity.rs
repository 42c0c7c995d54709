//! What the process may do: limits, ids, capabilities, system call filter.

use std::io;

use rustix::process::{Gid, Resource, Uid, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet as Capabilities, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::Report;
use crate::spec::{CapabilitySet, Rlimit, RlimitKind, Seccomp, Security, User};
use crate::sys::{self, Filter};
use crate::userns::has_single_id;
use crate::wire::{InStep as _, Step};

/// Sets resource limits. One that the host refuses is a warning.
pub(super) fn set_rlimits(limits: &[Rlimit], report: &Report<'_>) {
    for limit in limits {
        let resource = resource(limit.resource);
        let value = |value: u64| (value != u64::MAX).then_some(value);
        let wanted = rustix::process::Rlimit {
            current: value(limit.soft),
            maximum: value(limit.hard),
        };
        if let Err(error) = setrlimit(resource, wanted) {
            let error = io::Error::from(error);
            let now = getrlimit(resource);
            let now = now
                .current
                .map_or("unlimited".to_owned(), |value| value.to_string());
            report.warn(format!(
                "could not set the limit `{:?}` to {}:{}, it stays at {now}: {error}",
                limit.resource, limit.soft, limit.hard
            ));
        }
    }
}

fn resource(kind: RlimitKind) -> Resource {
    match kind {
        RlimitKind::As => Resource::As,
        RlimitKind::Core => Resource::Core,
        RlimitKind::Cpu => Resource::Cpu,
        RlimitKind::Data => Resource::Data,
        RlimitKind::Fsize => Resource::Fsize,
        RlimitKind::Locks => Resource::Locks,
        RlimitKind::Memlock => Resource::Memlock,
        RlimitKind::Msgqueue => Resource::Msgqueue,
        RlimitKind::Nice => Resource::Nice,
        RlimitKind::Nofile => Resource::Nofile,
        RlimitKind::Nproc => Resource::Nproc,
        RlimitKind::Rss => Resource::Rss,
        RlimitKind::Rtprio => Resource::Rtprio,
        RlimitKind::Rttime => Resource::Rttime,
        RlimitKind::Sigpending => Resource::Sigpending,
        RlimitKind::Stack => Resource::Stack,
    }
}

/// Gives up all rights that the command shall not have.
///
/// Inheritable and ambient sets end up empty (CVE-2022-24769). The filter is installed while the
/// right to do so without `no_new_privs` is still there. The default one allows the calls that follow;
/// one that the user brings may not, and comes as late as can be: behind `last`, which is done when the
/// ids have changed.
pub(super) fn give_up_rights(
    security: &Security,
    user: &User,
    filter: Option<&Filter>,
    report: &Report<'_>,
    last: impl FnOnce() -> Step<()>,
) -> Step<()> {
    let single = has_single_id();
    if single && user.uid != 0 {
        become_only_user(user)?;
    }
    let held = capabilities(None).step("read capabilities")?;
    let wanted = if security.privileged {
        CapabilitySet::ALL
    } else {
        security.capabilities
    };
    let kept = held
        .permitted
        .intersection(Capabilities::from_bits_retain(wanted.0));
    let surplus = held.permitted.difference(kept);
    for capability in (0..64).map(|number| Capabilities::from_bits_retain(1 << number)) {
        if surplus.contains(capability) {
            remove_capability_from_bounding_set(capability)
                .step("drop a capability from the bounding set")?;
        }
    }
    clear_ambient_capability_set().step("clear the ambient capabilities")?;
    if security.privileged || security.seccomp == Seccomp::Unconfined {
        // Elsewhere the filter denies keyrings altogether.
        if let Err(error) = sys::join_new_session_keyring() {
            report.warn(format!(
                "the session keyring is shared with the host: {error}"
            ));
        }
    }
    if single && user.uid == 0 {
        report.hand_out_calls()?;
    }
    let (own, filter) = match security.seccomp {
        Seccomp::Profile(_) => (filter, None),
        Seccomp::Default | Seccomp::Unconfined => (None, filter),
    };
    install(filter)?;
    if own.is_some() {
        set_keep_capabilities(true).step("keep the capabilities")?;
    }
    if !single {
        set_ids(user)?;
    }
    // Leaving user 0 has emptied the sets already.
    let left = if user.uid == 0 {
        kept
    } else {
        Capabilities::empty()
    };
    let sets = CapabilitySets {
        effective: left,
        permitted: left,
        inheritable: Capabilities::empty(),
    };
    let rights = (sets, security.no_new_privileges);
    match own {
        None => {
            set_capabilities(None, sets).step("set capabilities")?;
            forbid_new_privileges(rights.1)?;
            last()
        }
        Some(filter) => {
            last()?;
            install_late(filter, held.permitted, rights)
        }
    }
}

fn forbid_new_privileges(forbid: bool) -> Step<()> {
    if forbid {
        set_no_new_privs(true).step("set no_new_privs")?;
    }
    Ok(())
}

fn install(filter: Option<&Filter>) -> Step<()> {
    match filter {
        None => Ok(()),
        Some(filter) => sys::install_seccomp(filter).step("install the system call filter"),
    }
}

/// Installs a filter that may deny everything but what the command does: before it executes, only
/// capabilities are given up, and not even that with `no_new_privs`.
fn install_late(
    filter: &Filter,
    held: Capabilities,
    (sets, no_new_privileges): (CapabilitySets, bool),
) -> Step<()> {
    let step = "set capabilities";
    if no_new_privileges {
        set_capabilities(None, sets).step(step)?;
        forbid_new_privileges(true)?;
        return install(Some(filter));
    }
    let admin = held.intersection(Capabilities::SYS_ADMIN);
    let installing = CapabilitySets {
        effective: sets.effective.union(admin),
        permitted: sets.permitted.union(admin),
        inheritable: Capabilities::empty(),
    };
    set_capabilities(None, installing).step(step)?;
    install(Some(filter))?;
    set_capabilities(None, sets)
        .step(step)
        .map_err(|failure| failure.because("the seccomp profile must allow `capset`"))
}

/// In a user namespace with one id: makes another in which that id has the user's number.
fn become_only_user(user: &User) -> Step<()> {
    sys::unshare(libc::CLONE_NEWUSER).step("make a user namespace for the user")?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{} 0 1", user.uid)),
        ("gid_map", format!("{} 0 1", user.gid)),
    ] {
        let path = format!("/proc/self/{file}");
        std::fs::write(&path, text).step_at("map the user's id", path)?;
    }
    Ok(())
}

fn set_ids(user: &User) -> Step<()> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups).step("set groups")?;
    let gid = Gid::from_raw(user.gid);
    set_thread_res_gid(gid, gid, gid).step("set the group id")?;
    let uid = Uid::from_raw(user.uid);
    set_thread_res_uid(uid, uid, uid).step("set the user id")
}
