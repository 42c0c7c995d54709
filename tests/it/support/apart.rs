//! A thread with a network and mounts of its own: what it starts sees no other, and nobody else its.

use std::process::Command;

use rustix::thread::UnshareFlags;

use super::needs;

/// Runs `body` on a thread whose network namespace has nothing but `lo`, and whose mounts are seen by
/// what it starts only. `/run` is empty there.
pub(crate) fn apart<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    let run = || {
        #[expect(
            deprecated,
            reason = "it is unsafe with tables of descriptors only, which stay shared"
        )]
        rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS).unwrap();
        sh("mount --make-rprivate / && mount -t tmpfs none /run && ip link set lo up");
        body()
    };
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A script that sets something up, with the programs of the host.
#[track_caller]
pub(crate) fn sh(script: &str) {
    needs::program("ip", "iproute2");
    let done = Command::new(needs::program("sh", "dash"))
        .env("PATH", needs::PROGRAM_PATH)
        .args(["-ec", script])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{script}: {}: {told}", done.status);
}
