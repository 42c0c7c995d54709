//! The kernel's switches for forwarding, interface by interface.
//!
//! Only the interface at which a packet comes in decides whether it may be forwarded. So the bridge
//! needs the switch, and each interface at which answers arrive; `ip_forward`, which throws all of
//! them, is left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const ALL: &str = "/proc/sys/net/ipv4/ip_forward";

fn switch(interface: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv4/conf")
        .join(interface)
        .join("forwarding")
}

fn is_on(path: &Path) -> io::Result<bool> {
    Ok(fs::read_to_string(path)?.trim() == "1")
}

/// Returns those of the interfaces that do not forward.
pub(super) fn missing(interfaces: Vec<String>) -> io::Result<Vec<String>> {
    let mut missing = Vec::new();
    for interface in interfaces {
        if !is_on(&switch(&interface))? {
            missing.push(interface);
        }
    }
    Ok(missing)
}

/// Switches forwarding on.
pub(super) fn enable(interface: &str) -> io::Result<()> {
    let path = switch(interface);
    if is_on(&path)? {
        Ok(())
    } else {
        fs::write(path, "1")
    }
}

/// Switches forwarding off again, unless somebody has switched it on for all meanwhile.
pub(super) fn restore<'a>(interfaces: impl Iterator<Item = &'a String>) -> io::Result<()> {
    if is_on(Path::new(ALL))? {
        return Ok(());
    }
    for interface in interfaces {
        match fs::write(switch(interface), "0") {
            // An interface that has gone took its switch along.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}
