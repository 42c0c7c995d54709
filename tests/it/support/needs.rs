//! Tools and rights a test needs; what is missing fails the test with the way out.

use std::path::{Path, PathBuf};

/// Where programs of the host are looked for, whatever the caller's `PATH` is.
pub(crate) const PROGRAM_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the path of a host program, or fails and names the Debian package that has it.
pub(crate) fn program(name: &str, package: &str) -> PathBuf {
    find(name).unwrap_or_else(|| {
        panic!("this test needs `{name}`: install the Debian package `{package}` (tests/run does)")
    })
}

fn find(name: &str) -> Option<PathBuf> {
    PROGRAM_PATH
        .split(':')
        .map(|directory| Path::new(directory).join(name))
        .find(|p| p.is_file())
}

/// Fails unless the tests run as root.
pub(crate) fn root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "the end-to-end tests need root (owners, mounts, namespaces): run them as root"
    );
}

/// Returns the path of a statically linked busybox.
pub(crate) fn static_busybox() -> PathBuf {
    let path = program("busybox", "busybox-static");
    let bytes = std::fs::read(&path).unwrap();
    assert!(
        !has_interpreter(&bytes),
        "{} is linked dynamically and cannot be the only program of an image: \
         install the Debian package `busybox-static` in place of `busybox`",
        path.display()
    );
    path
}

/// Whether a 64-bit little-endian ELF file asks for a dynamic loader (a `PT_INTERP` header).
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(elf[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    assert_eq!(
        &elf[..6],
        b"\x7fELF\x02\x01",
        "busybox is not a 64-bit little-endian ELF file"
    );
    let (table, size, count) = (
        u64_at(32) as usize,
        u16_at(54) as usize,
        u16_at(56) as usize,
    );
    (0..count).any(|i| u32_at(table + i * size) == PT_INTERP)
}
