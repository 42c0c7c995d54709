//! The half of a sandbox that depends neither on its root nor on its command: `/proc`, `/dev` and `/sys`.
//!
//! It is made in the stage and moved into the root when that is there. So it can be made ahead, while the
//! command before still runs.

use std::os::fd::BorrowedFd;

use super::devices::{self, Devices};
use super::kernel::{self, Cover};
use crate::cgroup::Cgroup;
use crate::mount::{Detached, Stage};
use crate::spec::Frame;
use crate::wire::{InStep as _, Step};

/// See the module's text.
pub(super) struct Half {
    pub(super) stage: Stage,
    pub(super) cover: Cover,
    pub(super) devices: Devices,
    proc: Detached,
    sys: Detached,
}

impl Half {
    /// Makes it, in the mount namespace of the sandbox and with the umask 0.
    pub(super) fn make(frame: &Frame, cgroup: Option<&Cgroup>) -> Step<Self> {
        let proc = kernel::make_proc(frame)?;
        let mut stage = Stage::new()?;
        let cover = Cover::new(&mut stage)?;
        kernel::stage_proc(&proc, frame, &cover, &mut stage)?;
        let devices = devices::make(frame, &mut stage)?;
        let sys = kernel::make_sys(frame, &cover, &mut stage, cgroup)?;
        Ok(Self {
            stage,
            cover,
            devices,
            proc,
            sys,
        })
    }

    /// Moves it into the root.
    pub(super) fn move_into(&self, root: BorrowedFd<'_>) -> Step<()> {
        for (name, mount) in [
            ("proc", &self.proc),
            ("dev", &self.devices.dev),
            ("sys", &self.sys),
        ] {
            let target = kernel::system_directory(root, name)?;
            mount.attach(target).step(format!("mount /{name}"))?;
        }
        Ok(())
    }
}
