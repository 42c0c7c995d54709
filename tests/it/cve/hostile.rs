//! A step that tries everything at once changes nothing outside and leaves nothing behind.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::args;
use crate::rootless::User;
use crate::support::process::Invocation;
use crate::support::progress::{parse, step};
use crate::support::{TestEnv, debian, leftovers};

/// Each line says `held` or what got through.
const SCRIPT: &str = r#"
try() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "THROUGH $what"; else echo "held $what"; fi; }
write() { echo "$2" >"$1"; }
# With a single id a device that is made is noted down, and is an empty file here.
readable() { test "$(head -c 1 "$1" | wc -c)" = 1; }
try mount mount -t tmpfs none /mnt
try bind mount --bind / /mnt
try remount mount -o remount,rw /sys
try unshare unshare -m true
try userns unshare -r true
try sysctl write /proc/sys/kernel/core_pattern '|/evil'
try sysctl2 write /proc/sys/kernel/panic 1
try sysrq write /proc/sysrq-trigger b
try sys write /sys/kernel/mm/ksm/run 1
try uevent write /sys/kernel/uevent_helper /evil
try release mkdir /sys/fs/cgroup/evil
try release2 mkdir /sys/fs/cgroup/memory/evil
for group in '' /memory /devices /pids /systemd; do
    try "agent$group" write /sys/fs/cgroup$group/release_agent /evil
    try "notify$group" write /sys/fs/cgroup$group/notify_on_release 1
done
try kmsg cat /dev/kmsg
try kcore head -c 1 /proc/kcore
try dmesg dmesg
try hostname hostname evil
# busybox says that it failed and exits with 0.
date -s 2001-01-01 >/dev/null 2>&1; try date test $(date +%Y) = 2001
try swapoff swapoff -a
try module insmod /evil.ko
try nice renice -n -10 1
try reboot reboot -f
mknod /disk b 254 0 && try disk readable /disk
mknod /mem c 1 1 && try mem readable /mem
mknod /vda b 252 0 && try vda readable /vda
try shm dd if=/dev/zero of=/dev/shm/fill bs=1M count=100
df -k /dev/shm | tail -1 | awk '{print "shm", $2}'
(sleep 1000 &)
(setsid sleep 1000 &)
echo end
"#;

/// One rung: its world, and how the binary is run there.
struct Rung<'a> {
    name: &'a str,
    env: &'a TestEnv,
    rbuild: &'a dyn Fn(Vec<OsString>) -> Invocation,
}

/// Calls `check` for root, for a user with ranges of ids and for one with a single id.
#[track_caller]
fn on_every_rung(check: impl Fn(&Rung<'_>)) {
    let env = TestEnv::new();
    env.import_busybox();
    check(&Rung {
        name: "root",
        env: &env,
        rbuild: &|args| env.rbuild(args),
    });
    for (name, ranges) in [
        ("rootless", "rbuild-test:300000:65536\n"),
        ("single-id", "somebody:1000:10\n"),
    ] {
        let user = User::new(ranges);
        user.import_busybox();
        let rbuild = |args: Vec<OsString>| user.rbuild(args);
        check(&Rung {
            name,
            env: &user.env,
            rbuild: &rbuild,
        });
    }
}

#[test]
fn a_step_that_tries_everything_changes_nothing() {
    on_every_rung(|rung| {
        let name = rung.name;
        let canary = super::listing(&rung.env.files("outside", &[("canary", "untouched")]));
        let before = host();
        let text = format!("FROM busybox\nRUN mkdir /mnt\nRUN <<EOF{SCRIPT}EOF\n");
        let context = rung.env.dockerfile("c", &text);
        let build = args!["build", "--progress=plain", "--no-cache", context];
        let told = (rung.rbuild)(build.into()).run().ok();
        let is_named = told.stderr.contains(&format!("isolation {name}:"));
        assert_eq!(is_named, name != "root", "{}", told.stderr);
        let steps = parse(&told.stderr);
        let lines = &step(&steps, "RUN <<EOF").log;
        let through: Vec<_> = lines
            .iter()
            .filter(|line| line.contains("THROUGH"))
            .collect();
        assert!(through.is_empty(), "{name}: {through:#?}");
        assert!(lines.len() > 20, "{name}: {lines:#?}");
        assert_eq!(&lines[lines.len() - 2..], ["shm 65536", "end"], "{name}");
        assert_eq!(host(), before, "{name}");
        assert_eq!(super::listing(&rung.env.join("outside")), canary, "{name}");
        let left = leftovers::wait_until_gone(rung.env.path());
        assert!(left.is_empty(), "{name}: {left:?}");
    });
}

/// System calls that no program of busybox makes, made by Python.
#[test]
fn system_calls_that_reach_the_kernel_are_denied() {
    let calls = [
        ("ptrace of another", 101, "16, 1, 0, 0"),
        ("kexec_load", 246, "0, 0, 0, 0"),
        ("keyctl", 250, "0, -3, 0, 0"),
        ("add_key", 248, "0, 0, 0, 0"),
        ("bpf", 321, "0, 0, 0, 0"),
        ("perf_event_open", 298, "0, 0, -1, -1"),
        ("init_module", 175, "0, 0, 0, 0"),
        ("userfaultfd", 323, "0, 0, 0, 0"),
        ("open_by_handle_at", 304, "-1, 0, 0, 0"),
        ("setns", 308, "-1, 0, 0, 0"),
        ("pivot_root", 155, "0, 0, 0, 0"),
        ("io_uring_setup", 425, "1, 0, 0, 0"),
        ("fsopen", 430, "0, 0, 0, 0"),
        ("clone of a user namespace", 56, "0x10000011, 0, 0, 0"),
    ];
    // perl is in every Debian base; a static one is not in busybox, so the host's root serves.
    let lines: Vec<String> = calls
        .iter()
        .map(|(name, number, arguments)| {
            format!("$!=0; syscall({number}, {arguments}, 0, 0); print \"{name} \", $!+0, \"\\n\";")
        })
        .collect();
    let perl = lines.concat();
    on_every_rung(|rung| {
        let copy = rung.env.join("debian.tar");
        fs::copy(debian::rootfs(), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
        let import = args!["import", copy, "debian:bookworm"];
        (rung.rbuild)(import.into()).timeout(300).run().ok();
        let run = args![
            "run",
            "--rm",
            "--network=none",
            "debian:bookworm",
            "perl",
            "-e",
            &perl
        ];
        let ran = (rung.rbuild)(run.into()).run().ok();
        let out = ran.out();
        for line in out.lines() {
            let error = line.rsplit(' ').next().unwrap();
            // EPERM, ENOSYS; ptrace is allowed, but there is nobody in reach.
            let held = ["1", "38"].contains(&error) || line.starts_with("ptrace") && error != "0";
            assert!(held, "{}: {out}", rung.name);
        }
        assert_eq!(out.lines().count(), calls.len(), "{}: {out}", rung.name);
    });
}

/// What a step might have changed.
fn host() -> Vec<String> {
    let mut seen: Vec<String> = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/panic",
        "/proc/sys/kernel/hostname",
        "/proc/swaps",
        "/sys/kernel/mm/ksm/run",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/memory/notify_on_release",
    ]
    .iter()
    .map(|path| fs::read_to_string(path).unwrap_or_default())
    .collect();
    let groups = walkdir::WalkDir::new("/sys/fs/cgroup").max_depth(3);
    let evil = groups
        .into_iter()
        .flatten()
        .filter(|found| found.file_name() == "evil");
    seen.extend(evil.map(|found| found.path().display().to_string()));
    seen
}
