//! A container made by podman, with the binary in it and the test's directory in sight.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::args;
use crate::support::process::{Invocation, with_path};
use crate::support::{TestEnv, base, needs};

pub(super) struct Container {
    pub(super) env: TestEnv,
    /// Podman's own files: not in sight of the container, whose root is there too.
    outside: TestEnv,
    root: PathBuf,
    flags: Vec<String>,
}

impl Container {
    /// A container with what Docker's default profile denies, and these flags of `podman run`.
    pub(super) fn like_docker(flags: &[&str]) -> Self {
        let profile = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/fixtures/seccomp/docker-denies.json"
        );
        let profile = format!("--security-opt=seccomp={profile}");
        Self::new(&[&[profile.as_str()], flags].concat())
    }

    /// A container with these flags of `podman run`.
    pub(super) fn new(flags: &[&str]) -> Self {
        let env = TestEnv::new();
        needs::program("podman", "podman");
        let outside = TestEnv::new();
        let root = outside.join("rootfs");
        fs::create_dir(&root).unwrap();
        let unpacked = Command::new(needs::program("tar", "tar"))
            .arg("-xf")
            .arg(base::busybox_rootfs())
            .arg("-C")
            .arg(&root)
            .status()
            .unwrap();
        assert!(unpacked.success());
        // Without a single library: the program is linked statically.
        fs::copy(env!("CARGO_BIN_EXE_rbuild"), root.join("bin/rbuild")).unwrap();
        Self {
            env,
            outside,
            root,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        }
    }

    /// Gives the test's directory to the user of the container.
    pub(super) fn give_to(&self, uid: u32) {
        for name in ["", "home", "tmp"] {
            std::os::unix::fs::chown(self.env.join(name), Some(uid), Some(uid)).unwrap();
        }
    }

    /// `rbuild ARGS…` in the container.
    ///
    /// crun refuses hosts with both versions of control groups: it gets a view with one.
    pub(super) fn rbuild(&self, args: Vec<OsString>) -> Invocation {
        let script = "for point in $(awk '$5 ~ \"^/sys/fs/cgroup\" {print $5}' /proc/self/mountinfo \
             | sort -r); do umount -l $point; done; mount -t cgroup2 none /sys/fs/cgroup; exec \"$@\"";
        let directory = self.env.path();
        let volume = format!("{0}:{0}", directory.display());
        let store = with_path("RBUILD_ROOT=", &self.env.store());
        self.env
            .host(needs::program("unshare", "util-linux"))
            .env("HOME", self.outside.join("podman-home"))
            .args([
                "--mount",
                "--propagation",
                "private",
                "bash",
                "-c",
                script,
                "sh",
            ])
            .arg(needs::program("podman", "podman"))
            .arg("--root")
            .arg(self.outside.join("podman"))
            .arg("--runroot")
            .arg(self.outside.join("podman-run"))
            .args(["run", "--rm", "--network=host", "--cgroups=disabled"])
            .args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"])
            .args(&self.flags)
            .args(args![
                "--volume",
                volume,
                "--env",
                store,
                "--env",
                "HOME=/tmp"
            ])
            .args(args!["--rootfs", &self.root, "/bin/rbuild"])
            .args(args)
    }

    pub(super) fn import_busybox(&self) {
        let archive = super::archive(&self.env);
        self.rbuild(args!["import", archive, "busybox"].into())
            .run()
            .ok();
    }
}
