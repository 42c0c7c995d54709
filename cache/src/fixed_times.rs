//! One time for everything in a layer that is being made, so that no clock shows in it.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};

use crate::entry::FileKind;
use crate::error::StoreError;
use crate::sys;
use crate::view::join;

/// Gives everything at and below `root` the time `seconds` since 1970.
///
/// The time of a directory does not depend on when those of its entries are set, so the order does
/// not matter; directories wait on a list instead of the stack.
pub(crate) fn set_all(root: &OwnedFd, seconds: i64) -> Result<(), StoreError> {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let list = sys::open_beneath(root, &path, sys::LIST)
            .map_err(StoreError::inside("open the directory", &path))?;
        let names =
            sys::sorted_names(&list).map_err(StoreError::inside("list the directory", &path))?;
        for name in names {
            let child = join(&path, &name);
            let found = sys::lstat(&list, &name).map_err(StoreError::inside("look at", &child))?;
            rustix::fs::utimensat(&list, name.as_slice(), &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(StoreError::inside("set the times of", &child))?;
            if found.is_some_and(|found| found.kind == FileKind::Directory) {
                waiting.push(child);
            }
        }
    }
    let top = rustix::fs::openat(root, ".", sys::LIST, Mode::empty())
        .map_err(StoreError::inside("open the directory", b""))?;
    rustix::fs::futimens(&top, &times).map_err(StoreError::inside("set the times of", b""))
}
