//! What a sandbox that other programs monitor does beside the usual steps.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, mkdirat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, mount_change};

use super::kernel::Cover;
use super::{Report, command};
use crate::held::{self, Held, Namespace};
use crate::mount::{Detached, READ_ONLY, open_in_root};
use crate::spec::{Network, Sandbox};
use crate::sys;
use crate::wire::{self, Failure, InStep as _, Setup, Step};

/// A sandbox that waits.
#[derive(Clone, Copy)]
pub(super) struct Gate<'h> {
    pub(super) held: &'h Held,
    pub(super) gate: BorrowedFd<'h>,
}

impl Gate<'_> {
    /// Enters the namespaces of others, and sets up those of its own.
    pub(super) fn enter_namespaces(&self, sandbox: &Sandbox, report: &Report<'_>) -> Step<()> {
        for (kind, path) in &self.held.joined {
            if *kind != Namespace::Pid {
                held::join(*kind, path)?;
            }
        }
        // Nothing that is mounted from here on is to be seen elsewhere.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change(c"/", private).step("make all mounts private")?;
        if self.held.has(Namespace::Cgroup) {
            sys::unshare(libc::CLONE_NEWCGROUP).step("make a cgroup namespace")?;
        }
        if sandbox.network == Network::None {
            crate::net::loopback_up()?;
        }
        if self.held.has(Namespace::Uts) && !sandbox.hostname.is_empty() {
            super::set_host_name(&sandbox.hostname, report)?;
        }
        super::kernel::tell(&sandbox.kernel)
    }

    /// Hides and protects what is asked for, when all else is in place; what is not there needs neither.
    pub(super) fn cover(&self, whole: &Detached, cover: &Cover, sandbox: &Sandbox) -> Step<()> {
        let root = whole.as_fd();
        for path in &self.held.hidden {
            if let Some(found) = find(root, path)? {
                cover
                    .hide_found(&found)
                    .map_err(|failure| failure.at(path))?;
            }
        }
        for path in &self.held.protected {
            if let Some(found) = find(root, path)? {
                let step = "write-protect";
                let copy = Detached::clone_of_fd_recursive(&found).step_at(step, path)?;
                copy.set(READ_ONLY).step_at(step, path)?;
                copy.attach(&found).step_at(step, path)?;
            }
        }
        if sandbox.root.readonly {
            // Targets of mounts had to be made in it.
            whole.set(READ_ONLY).step("write-protect the root")?;
        }
        Ok(())
    }

    /// Tells that all is ready, and waits.
    pub(super) fn wait(&self, report: &Report<'_>, sandbox: &Sandbox) -> Step<()> {
        command::look_for(&sandbox.process)?;
        let setup = report.0;
        wire::tell(setup, &Setup::Ready, &[]).step("tell that the sandbox is ready")?;
        let mut byte = [0];
        match rustix::io::retry_on_intr(|| rustix::io::read(self.gate, &mut byte)) {
            Ok(1..) => Ok(()),
            // Nobody will start it any more.
            Ok(0) | Err(_) => sys::exit_now(1),
        }
    }
}

/// Attaches a directory as the root, with the places for what every sandbox has.
pub(super) fn attach_root(directory: &Path, attributes: MountAttrFlags) -> Step<Detached> {
    let step = "make the root of";
    let root = Detached::clone_of(CWD, directory).step_at(step, directory)?;
    root.set(attributes).step_at(step, directory)?;
    for name in ["dev", "proc", "sys"] {
        match mkdirat(&root, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Failure::new(step, &error.into()).at(directory.join(name))),
        }
    }
    root.attach_over_root().step("attach the root")?;
    Ok(root)
}

fn find(root: BorrowedFd<'_>, path: &Path) -> Step<Option<OwnedFd>> {
    match open_in_root(root, path, OFlags::empty()) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new("look for", &error).at(path)),
    }
}
