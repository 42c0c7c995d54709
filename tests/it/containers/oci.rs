//! Podman runs images in this sandbox, behind the command line of runc.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::life::until;
use crate::args;
use crate::support::process::Invocation;
use crate::support::{TestEnv, needs};

/// Podman with a store of its own, and this program as its runtime.
struct Podman {
    env: TestEnv,
    runtime: PathBuf,
    /// Outside of what has to be empty at the end: podman leaves its locks.
    outside: tempfile::TempDir,
}

impl Podman {
    fn new() -> Podman {
        let env = TestEnv::new();
        let runtime = env.join("rbuild-oci");
        symlink(env!("CARGO_BIN_EXE_rbuild"), &runtime).unwrap();
        let podman = Podman {
            env,
            runtime,
            outside: tempfile::tempdir().unwrap(),
        };
        let env = &podman.env;
        env.import_busybox();
        let context = env.dockerfile(
            "app",
            "FROM busybox\nENV GREETING=hello\nWORKDIR /work\nCMD [\"sh\", \"-c\", \"echo $GREETING from $PWD\"]\n",
        );
        env.build("app", &context);
        let archive = env.join("app.tar");
        env.rbuild(args!["save", "-o", &archive, "app"]).run().ok();
        podman
            .podman(&["load", "-i", archive.to_str().unwrap()])
            .run()
            .ok();
        podman
    }

    fn podman(&self, arguments: &[&str]) -> Invocation {
        needs::program("conmon", "conmon");
        let at = |name: &str| self.outside.path().join(name);
        self.env
            .host(needs::program("podman", "podman"))
            .env("HOME", at("home"))
            .env("TMPDIR", self.outside.path())
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"))
            .arg("--tmpdir")
            .arg(at("tmp"))
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .arg("--runtime")
            .arg(&self.runtime)
            .args(arguments)
    }

    /// `podman run` with what is common to all of them.
    fn run(&self, arguments: &[&str]) -> Invocation {
        self.podman(&["run", "--network", "none"]).args(arguments)
    }

    fn told(&self, arguments: &[&str]) -> String {
        self.podman(arguments).run().ok().out().trim().to_owned()
    }
}

#[test]
fn podman_runs_an_image_in_this_sandbox() {
    let podman = Podman::new();
    let out = podman.run(&["--rm", "app"]).run().ok().out();
    assert_eq!(out, "hello from /work\n");
    let script = "echo $0; hostname; id -u; ls -d /proc/self /dev/null /sys/class; \
                  ls -d /run/.containerenv; mount | grep -c ' / '; \
                  grep -c : /proc/net/dev; cat >&2; exit 7";
    let outcome = podman
        .run(&[
            "-i",
            "--rm",
            "--hostname",
            "inside",
            "-u",
            "5:6",
            "app",
            "sh",
            "-c",
            script,
        ])
        .stdin("through\n")
        .run()
        .exits(7);
    assert_eq!(
        outcome.out(),
        "sh\ninside\n5\n/dev/null\n/proc/self\n/sys/class\n/run/.containerenv\n1\n1\n"
    );
    assert_eq!(outcome.stderr, "through\n");
    let id = podman.env.join("id");
    let named = ["--rm", "--cidfile", id.to_str().unwrap(), "app", "nope"];
    podman.run(&named).run().exits(127);
    let id = std::fs::read_to_string(id).unwrap();
    assert!(!id.is_empty());
    let groups = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-name", &format!("libpod-{}", id.trim())])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&groups.stdout),
        "",
        "what was not made left its group"
    );
    podman.run(&["--rm", "app", "/etc"]).run().exits(126);
    podman.run(&["--rm", "app", "sh", "-c", "kill -9 $$"]).run();
    // Rights and limits are those that podman asks for.
    let script = "grep CapEff /proc/self/status; touch /x; touch /data/x; ulimit -n; umask";
    let outcome = podman
        .run(&[
            "--rm",
            "--cap-drop",
            "all",
            "--cap-add",
            "chown",
            "--read-only",
            "--tmpfs",
            "/data",
            "--ulimit",
            "nofile=99:99",
            "app",
            "sh",
            "-c",
            script,
        ])
        .run()
        .ok();
    assert_eq!(outcome.out(), "CapEff:\t0000000000000001\n99\n0022\n");
    assert!(
        outcome.stderr.contains("/x: Read-only file system"),
        "{}",
        outcome.stderr
    );
    // The filter of calls is podman's own.
    let out = podman
        .run(&["--rm", "app", "grep", "Seccomp:", "/proc/self/status"])
        .run()
        .ok()
        .out();
    assert_eq!(out, "Seccomp:\t2\n");
    podman
        .run(&["--rm", "--device", "/dev/loop0", "app", "true"])
        .run()
        .says("the device `/dev/loop0` of the container's configuration is not supported");
}

#[test]
fn podman_looks_after_containers_in_this_sandbox() {
    let podman = Podman::new();
    let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 1 & wait $!; done";
    podman
        .run(&["-d", "--name", "web", "app", "sh", "-c", script])
        .run()
        .ok();
    until(|| podman.told(&["logs", "web"]), |log| log == "ready");
    let state = "{{.State.Status}} {{.State.Running}}";
    assert_eq!(
        podman.told(&["inspect", "-f", state, "web"]),
        "running true"
    );
    assert_eq!(
        podman.told(&[
            "exec",
            "-e",
            "A=b",
            "web",
            "sh",
            "-c",
            "echo $A; hostname > /name; pwd"
        ]),
        "b\n/work"
    );
    podman
        .podman(&["exec", "web", "sh", "-c", "exit 9"])
        .run()
        .exits(9);
    podman.podman(&["exec", "web", "nope"]).run().exits(127);
    assert!(podman.told(&["top", "web", "args"]).contains("sh -c trap"));
    podman.told(&["stop", "-t", "60", "web"]);
    assert_eq!(
        podman.told(&["inspect", "-f", "{{.State.ExitCode}}", "web"]),
        "3"
    );
    podman.told(&["start", "web"]);
    podman.told(&["kill", "web"]);
    until(
        || {
            podman.told(&[
                "inspect",
                "-f",
                "{{.State.Status}} {{.State.ExitCode}}",
                "web",
            ])
        },
        |state| state == "exited 137",
    );
    podman.told(&["rm", "web"]);
    assert_eq!(podman.told(&["ps", "-aq"]), "");
}
