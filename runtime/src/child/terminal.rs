//! The terminal of a sandbox: a pair from its own devpts, so that its name is right inside.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, openat};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::devices::{Devices, new_file};
use crate::mount::Detached;
use crate::spec::User;
use crate::wire::{self, InStep as _, Setup, Step};

/// Opens a pair in a sandbox that runs already, by the names that it has there, and sends the
/// controlling side to the program.
pub(super) fn open_inside(user: &User, setup: BorrowedFd<'_>) -> Step<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open(c"/dev/pts/ptmx", flags, Mode::empty())
        .step_at("open", "/dev/pts/ptmx")?;
    let slave = peer(&master, user)?;
    wire::tell(setup, &Setup::Terminal, &[master.as_fd()]).step("hand out the terminal")?;
    Ok(slave)
}

/// The other side of a terminal, given to the user.
fn peer(master: &OwnedFd, user: &User) -> Step<OwnedFd> {
    unlockpt(master).step("unlock the terminal")?;
    let slave = ioctl_tiocgptpeer(
        master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
    .step("open the terminal")?;
    // Group 5 (tty) stays, as the mount option set it.
    fchown(&slave, Some(Uid::from_raw(user.uid)), None::<Gid>).step("give the terminal away")?;
    Ok(slave)
}

/// Opens the pair, puts it at `/dev/console` and sends the controlling side to the program.
pub(super) fn open(devices: &Devices, user: &User, setup: BorrowedFd<'_>) -> Step<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master =
        openat(&devices.pts, c"ptmx", flags, Mode::empty()).step_at("open", "/dev/ptmx")?;
    let slave = peer(&master, user)?;
    let console = new_file(devices.dev.as_fd(), "console").step_at("make", "/dev/console")?;
    Detached::clone_of_fd(&slave)
        .and_then(|mount| mount.attach(&console))
        .step_at("mount", "/dev/console")?;
    wire::tell(setup, &Setup::Terminal, &[master.as_fd()]).step("hand out the terminal")?;
    Ok(slave)
}
