//! The files of a container as it sees them: its root with everything that is mounted in it.
//!
//! Nothing is executed in the container and nothing of it is loaded (CVE-2019-14271): there is only a
//! descriptor of its root directory, and whoever uses it resolves names with it as the root
//! (CVE-2018-15664).
//!
//! Of a container that runs, its monitor hands the root out, which alone can tell the container's first
//! process from another one that got the same number. One that does not run has no mounts: a thread
//! makes them in a mount namespace of its own, which goes when the thread ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};

use super::control::{Order, Reply};
use super::error::ContainerError;
use super::{Changing, Container, fresh_work_directories};
use crate::error::SandboxError;
use crate::mount::Stage;
use crate::spec::Sandbox;
use crate::sys;
use crate::wire::{InStep as _, Step};

/// The root of a container, with its mounts.
#[derive(Debug)]
pub struct Files {
    root: OwnedFd,
    /// Of a container that does not run.
    mounted: Option<Mounted>,
}

/// Mounts that are there as long as this is.
#[derive(Debug)]
struct Mounted {
    /// The thread ends when this is dropped.
    hold: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Keeps the container from being started meanwhile.
    _changing: Changing,
}

impl Files {
    /// A path that means the root directory, in this process.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()))
    }

    /// Whether the container runs, so that its files may change meanwhile.
    pub fn is_live(&self) -> bool {
        self.mounted.is_none()
    }
}

impl AsFd for Files {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.hold.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has let go, too.
            let _ = thread.join();
        }
    }
}

impl Container {
    /// Opens its root directory. One that does not run cannot be started before the result is dropped.
    ///
    /// # Errors
    ///
    /// It is just being started or removed, or what it mounts cannot be mounted.
    pub fn files(&self) -> Result<Files, ContainerError> {
        match self.ask(&Order::Root, &[]) {
            Ok(connection) => {
                let failed = |source| ContainerError::Monitor {
                    action: "open the root of the container",
                    source,
                };
                let (reply, descriptors) = connection.reply().map_err(failed)?;
                match (reply, descriptors.into_iter().next()) {
                    (Reply::Done, Some(root)) => {
                        return Ok(Files {
                            root,
                            mounted: None,
                        });
                    }
                    (Reply::Failed { message, .. }, _) => {
                        return Err(failed(io::Error::other(message)));
                    }
                    _ => return Err(failed(io::ErrorKind::InvalidData.into())),
                }
            }
            Err(ContainerError::NotRunning(_)) => {}
            Err(error) => return Err(error),
        }
        let changing = self.change()?;
        let (root, mounted) = mount(&self.config.sandbox, changing)?;
        Ok(Files {
            root,
            mounted: Some(mounted),
        })
    }
}

/// Opens the root of a process that its pidfd shows to be the one that is meant.
pub(super) fn root_of(pid: u32, pidfd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())?;
    // It is still there, so nobody else had its number when the directory was opened.
    sys::send_signal(pidfd, 0)?;
    Ok(root)
}

/// Mounts the root of a sandbox with its mounts, in a thread with a mount namespace of its own.
fn mount(sandbox: &Sandbox, changing: Changing) -> Result<(OwnedFd, Mounted), ContainerError> {
    let failed = |source| ContainerError::Monitor {
        action: "mount the container's files",
        source,
    };
    fresh_work_directories(sandbox).map_err(failed)?;
    let (hold, held) = channel::<()>();
    let (tell, told) = channel();
    let sandbox = mountable(sandbox);
    let body = move || {
        let made = assemble(&sandbox);
        // The caller waits for it.
        let _ = tell.send(made);
        // Nothing is sent: this ends when the other end is dropped.
        let _ = held.recv();
    };
    let thread = Builder::new().name("files".into()).spawn(body);
    let mounted = Mounted {
        hold: Some(hold),
        thread: Some(thread.map_err(failed)?),
        _changing: changing,
    };
    match told.recv() {
        Ok(Ok(root)) => Ok((root, mounted)),
        Ok(Err(failure)) => Err(failed(io::Error::other(SandboxError::from(failure)))),
        Err(_) => Err(failed(io::Error::other("its thread has ended"))),
    }
}

/// Without what a container has only while it runs: devices, processes, the kernel's settings.
fn mountable(sandbox: &Sandbox) -> Sandbox {
    let mut sandbox = sandbox.clone();
    sandbox.mounts.retain(|mount| {
        !["/dev", "/proc", "/sys"]
            .iter()
            .any(|tree| mount.target.starts_with(tree))
    });
    sandbox
}

fn assemble(sandbox: &Sandbox) -> Step<OwnedFd> {
    sys::unshare(libc::CLONE_NEWNS).step("make a mount namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).step("make all mounts private")?;
    let mut stage = Stage::new()?;
    crate::child::root_with_mounts(sandbox, &mut stage)
}
