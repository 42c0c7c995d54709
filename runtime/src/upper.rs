//! Whether overlay can write to a file system, found out by trying where its type does not tell.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::statfs;
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};

use crate::overlay;
use crate::spec::UpperDir;

/// `f_type` of overlay, which does not lie on itself.
const OVERLAY: i64 = 0x794c_7630;

/// `f_type` of file systems that overlay writes to: ext4, xfs, btrfs, tmpfs.
const WILLING: [i64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];

/// Why overlay cannot have its upper directory in a directory; none if it can, or if only a mount
/// namespace of its own could tell. Where it is tried, that happens in a new directory, which is
/// removed again.
///
/// # Errors
///
/// The directory cannot be looked at or written to.
pub fn overlay_refusal(directory: &Path) -> io::Result<Option<String>> {
    if !is_known() {
        return Ok(Some("this kernel has no overlay file system".to_owned()));
    }
    let kind = statfs(directory)?.f_type as i64;
    if kind == OVERLAY {
        let why = "the store lies on an overlay file system, and overlay writes to no other";
        return Ok(Some(why.to_owned()));
    }
    if WILLING.contains(&kind) {
        return Ok(None);
    }
    let place = directory.join(format!("overlay-attempt-{}", std::process::id()));
    let paths = ["lower", "upper", "work"].map(|name| place.join(name));
    for path in &paths {
        std::fs::create_dir_all(path)?;
    }
    let [lower, upper, work] = paths;
    let tried = overlay::attempt(&lower, &UpperDir { upper, work });
    std::fs::remove_dir_all(&place)?;
    Ok(match tried {
        Ok(()) => None,
        // Here nothing may be mounted; where the sandbox is made that may be another matter.
        Err(failure) if failure.errno == Errno::PERM.raw_os_error() => None,
        Err(failure) => {
            let error = io::Error::from_raw_os_error(failure.errno);
            Some(format!(
                "overlay does not write to the store's file system ({error})"
            ))
        }
    })
}

/// Whether the kernel knows overlay, as far as this process may ask.
fn is_known() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(look_for_it)
}

fn look_for_it() -> bool {
    // To let go of what the other way opens takes a grace period of the kernel.
    let listed = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if listed.lines().any(|line| line == "nodev\toverlay") {
        return true;
    }
    let opened = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
    !matches!(opened, Err(Errno::NODEV))
}
