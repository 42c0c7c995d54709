//! A small file system for a store, which only the commands of one test see.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::process::Invocation;
use super::{TestEnv, needs};

/// A file system in a mount namespace of its own; gone with the value.
pub(crate) struct Disk {
    /// Keeps the namespace; ends when its standard input is closed.
    holder: Child,
    mount: PathBuf,
}

/// What a disk is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Tmpfs,
    /// ext4 on a file, by a loop device.
    Ext4,
    /// An overlay, as the root of an ordinary container is one: overlay does not write to it.
    Overlay,
}

impl Disk {
    /// Makes a disk of about this many bytes.
    pub(crate) fn new(env: &TestEnv, kind: Kind, bytes: u64) -> Disk {
        let mount = env.join("disk");
        std::fs::create_dir(&mount).unwrap();
        let script = match kind {
            Kind::Tmpfs => format!("mount -t tmpfs -o size={bytes} none \"$1\""),
            Kind::Ext4 => {
                needs::program("mkfs.ext4", "e2fsprogs");
                format!(
                    "truncate -s {bytes} \"$1.img\" && mkfs.ext4 -q -m 0 \"$1.img\" && \
                     mount -o loop \"$1.img\" \"$1\""
                )
            }
            Kind::Overlay => format!(
                "mkdir \"$1.tmpfs\" && mount -t tmpfs -o size={bytes} none \"$1.tmpfs\" && \
                 mkdir \"$1.tmpfs/lower\" \"$1.tmpfs/upper\" \"$1.tmpfs/work\" && cd \"$1.tmpfs\" && \
                 mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none \"$1\""
            ),
        };
        Disk::mounted(mount, &script)
    }

    /// The disk of [`Kind::Ext4`] as it would be found if the power went now: with what has reached the device.
    pub(crate) fn after_power_cut(&self, env: &TestEnv) -> Disk {
        let mount = env.join("after");
        std::fs::create_dir(&mount).unwrap();
        let image = |mount: &Path| mount.with_extension("img");
        std::fs::copy(image(&self.mount), image(&mount)).unwrap();
        Disk::mounted(mount, "mount -o loop \"$1.img\" \"$1\"")
    }

    /// Mounts with a script that gets the place as its argument.
    fn mounted(mount: PathBuf, script: &str) -> Disk {
        let mut holder = Command::new(needs::program("unshare", "util-linux"))
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg(format!("{script} && echo ready && read -r end"))
            .args([Path::new("sh"), &mount])
            .env_clear()
            .env("PATH", needs::PROGRAM_PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n", "the small disk could not be made");
        Disk { holder, mount }
    }

    /// Where the commands of [`rbuild`](Self::rbuild) see a file of the disk.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }

    /// Where the test sees it.
    pub(crate) fn seen(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.mount.strip_prefix("/").unwrap()).join(name)
    }

    /// `rbuild ARGS…` with its store on this disk.
    pub(crate) fn rbuild<S: AsRef<std::ffi::OsStr>>(
        &self,
        env: &TestEnv,
        args: impl IntoIterator<Item = S>,
    ) -> Invocation {
        self.run(env, &[env!("CARGO_BIN_EXE_rbuild")]).args(args)
    }

    /// Another program, with the same store.
    pub(crate) fn run(&self, env: &TestEnv, program: &[&str]) -> Invocation {
        env.host(needs::program("nsenter", "util-linux"))
            .env("RBUILD_ROOT", self.path("store"))
            .args(["-m", "-t", &self.holder.id().to_string(), "--"])
            .args(program)
    }

    /// Bytes that are free.
    pub(crate) fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(self.seen("")).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Takes all but this many bytes.
    pub(crate) fn leave(&self, bytes: u64) {
        let mut ballast = self.free().saturating_sub(bytes);
        let file = std::fs::File::create(self.seen("ballast")).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        // Keeping books of what is taken needs some space, too.
        while ballast > 0
            && let Err(error) = rustix::fs::fallocate(&file, flags, 0, ballast)
        {
            assert_eq!(error, rustix::io::Errno::NOSPC);
            ballast = ballast.saturating_sub(16 << 10);
        }
    }

    /// Gives what [`leave`](Self::leave) took back.
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.seen("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // Nobody can be told here; the environment looks for what is left.
        let _ = self.holder.wait();
    }
}
