//! What a container may do and what it sees, value by value as Docker has it for the same flags.

use std::collections::{BTreeMap, BTreeSet};

use crate::args;
use crate::support::process::Outcome;
use crate::support::{TestEnv, needs};

/// Capabilities of the default set.
const USUAL: &str = "00000000a80425fb";
const NONE: &str = "0000000000000000";

fn with_busybox() -> TestEnv {
    let env = TestEnv::new();
    env.import_busybox();
    env
}

fn sh(env: &TestEnv, flags: &[&str], script: &str) -> Outcome {
    env.rbuild(["run", "--rm", "--network=none"])
        .args(flags)
        .args(["busybox", "sh", "-c", script])
        .run()
}

/// A field of `/proc/PID/status`.
fn field(status: &str, name: &str) -> String {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
        .to_owned()
}

#[test]
fn capabilities_and_filters_are_those_of_docker() {
    let env = with_busybox();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = field(&own, "CapBnd");
    // Flags; permitted and effective set; bounding set; no_new_privs and seccomp.
    let with_net_admin = "00000000a80435fb";
    let chown = "0000000000000001";
    let cases: [(&[&str], &str, &str, &str); 12] = [
        (&[], USUAL, USUAL, "0 2"),
        (&["--user=1000"], NONE, USUAL, "0 2"),
        (&["--user=1000:5"], NONE, USUAL, "0 2"),
        (
            &["--cap-add=NET_ADMIN"],
            with_net_admin,
            with_net_admin,
            "0 2",
        ),
        (
            &["--cap-add=NET_ADMIN", "-u1000"],
            NONE,
            with_net_admin,
            "0 2",
        ),
        (&["--cap-drop=ALL"], NONE, NONE, "0 2"),
        (&["--cap-drop=ALL", "--cap-add=CHOWN"], chown, chown, "0 2"),
        (
            &["--cap-drop=ALL", "--cap-add=CHOWN", "-u1000"],
            NONE,
            chown,
            "0 2",
        ),
        (&["--privileged"], &all, &all, "0 0"),
        (&["--privileged", "--user=1000"], NONE, &all, "0 0"),
        (&["--security-opt=no-new-privileges"], USUAL, USUAL, "1 2"),
        (&["--security-opt=seccomp=unconfined"], USUAL, USUAL, "0 0"),
    ];
    for (flags, held, bounding, rest) in cases {
        let status = sh(&env, flags, "cat /proc/self/status").ok().out();
        let read = |name: &str| field(&status, name);
        assert_eq!(
            [read("CapPrm"), read("CapEff"), read("CapBnd")],
            [held, held, bounding],
            "{flags:?}"
        );
        // Not even root's can be inherited (CVE-2022-24769).
        assert_eq!([read("CapInh"), read("CapAmb")], [NONE, NONE], "{flags:?}");
        let filters = format!("{} {}", read("NoNewPrivs"), read("Seccomp"));
        assert_eq!(filters, rest, "{flags:?}");
    }
}

#[test]
fn a_process_that_joins_has_the_rights_of_its_container() {
    let env = with_busybox();
    env.rbuild([
        "run",
        "-d",
        "--network=none",
        "--cap-drop=ALL",
        "--cap-add=CHOWN",
    ])
    .args(["--security-opt=no-new-privileges", "--name=box", "busybox"])
    .args(["sleep", "1000"])
    .run()
    .ok();
    let exec = |flags: &[&str]| {
        let script = "cat /proc/self/status";
        env.rbuild(["exec"])
            .args(flags)
            .args(["box", "sh", "-c", script])
            .run()
            .ok()
            .out()
    };
    let chown = "0000000000000001";
    for (flags, held) in [(&[][..], chown), (&["-u", "7"][..], NONE)] {
        let status = exec(flags);
        let names = [
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
        ];
        let found = names.map(|name| field(&status, name));
        assert_eq!(
            found,
            [NONE, held, held, chown, NONE, "1", "2"],
            "{flags:?}"
        );
    }
    env.rbuild(["rm", "-f", "box"]).run().ok();
}

/// What is mounted in a container: the options of each place, without those of times.
fn mounts(env: &TestEnv, flags: &[&str]) -> BTreeMap<String, String> {
    let table = sh(env, flags, "cat /proc/self/mountinfo").ok().out();
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(4);
        let place = fields.next().unwrap().to_owned();
        let options = fields.next().unwrap().split(',');
        let options: Vec<_> = options.filter(|name| *name != "relatime").collect();
        (place, options.join(","))
    };
    table.lines().map(mount).collect()
}

#[test]
fn mounts_are_those_of_docker() {
    let env = with_busybox();
    let found = mounts(&env, &[]);
    let usual = [
        ("/", "rw,nodev"),
        ("/dev", "rw,nosuid,nodev"),
        ("/dev/mqueue", "rw,nosuid,nodev,noexec"),
        ("/dev/pts", "rw,nosuid,noexec"),
        ("/dev/shm", "rw,nosuid,nodev,noexec"),
        ("/etc/hostname", "rw,nosuid,nodev"),
        ("/etc/hosts", "rw,nosuid,nodev"),
        ("/etc/resolv.conf", "rw,nosuid,nodev"),
        ("/proc", "rw,nosuid,nodev,noexec"),
        ("/proc/bus", "ro,nosuid,nodev,noexec"),
        ("/proc/fs", "ro,nosuid,nodev,noexec"),
        ("/proc/irq", "ro,nosuid,nodev,noexec"),
        ("/proc/sys", "ro,nosuid,nodev,noexec"),
        ("/sys", "ro,nosuid,nodev,noexec"),
    ];
    for (place, options) in usual {
        assert_eq!(
            found.get(place).map(String::as_str),
            Some(options),
            "{place}"
        );
    }
    let hidden = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ];
    for place in hidden {
        if std::path::Path::new(place).exists() {
            let options = found
                .get(place)
                .unwrap_or_else(|| panic!("{place} is open"));
            assert!(options.starts_with("ro,"), "{place}: {options}");
        }
    }
    // Whoever looks through everything meets no directory that is shut in their face.
    let script = "ls /proc/acpi /sys/firmware | grep -v ':$'; ! find /proc/acpi /sys/firmware -type f | grep .";
    sh(&env, &["--user=1000"], script).ok();
    let open = mounts(&env, &["--security-opt=systempaths=unconfined"]);
    let below: Vec<_> = open
        .keys()
        .filter(|place| place.starts_with("/proc/") || place.starts_with("/sys/firmware"))
        .collect();
    assert_eq!(below, [""; 0], "nothing is hidden");
    assert_eq!(open["/sys"], "ro,nosuid,nodev,noexec");
    let privileged = mounts(&env, &["--privileged"]);
    assert_eq!(privileged["/sys"], "rw,nosuid,nodev,noexec");
    assert_eq!(privileged["/"], "rw");
}

#[test]
fn a_container_may_change_its_own_names() {
    let env = with_busybox();
    let script = "echo 10.9.8.7 elsewhere >>/etc/hosts && grep -c elsewhere /etc/hosts";
    assert_eq!(sh(&env, &[], script).ok().out(), "1\n");
    assert_eq!(
        sh(&env, &[], "grep -c elsewhere /etc/hosts").exits(1).out(),
        "0\n"
    );
    sh(&env, &["--read-only"], script)
        .exits(1)
        .says("Read-only file system");
}

#[test]
fn labels_and_profiles_that_do_not_exist_here_are_refused_by_name() {
    let env = with_busybox();
    for option in ["label=disable", "apparmor=unconfined"] {
        sh(&env, &["--security-opt", option], "true").ok();
    }
    for option in [
        "label=type:container_t",
        "apparmor=docker-default",
        "systempaths=x",
    ] {
        let outcome = sh(&env, &["--security-opt", option], "true");
        assert_ne!(outcome.status.code(), Some(0), "{option}");
        outcome.says(option);
    }
}

/// The devices in `/dev` and where they lie: type, numbers, mode and owner of each.
const DEVICES: &str = "cd /dev; find . -xdev -type c -o -xdev -type b | \
                       xargs stat -c '%n %F %t:%T %a %u:%g' | sort";

#[test]
fn privileged_containers_have_the_devices_of_this_machine() {
    let env = TestEnv::new();
    env.import_busybox();
    let of_host = || -> BTreeSet<String> {
        let sh = needs::program("sh", "dash");
        let told = env.host(sh).args(["-c", DEVICES]).run().ok();
        let own = |line: &&str| !line.starts_with("./pts/") && !line.starts_with("./console ");
        // Those that every container has are made for it; who owns terminals changes.
        let usual = |line: &&str| {
            let name = line.split(' ').next().unwrap();
            [
                "./null",
                "./zero",
                "./full",
                "./random",
                "./urandom",
                "./tty",
                "./ptmx",
            ]
            .contains(&name)
                || name.starts_with("./tty")
        };
        let out = told.out();
        let lines = out.lines().filter(own).filter(|line| !usual(line));
        lines.map(str::to_owned).collect()
    };
    let run = |options: &[&str], script: &str| {
        let start = env.rbuild(["run", "--rm", "--network=none"]).args(options);
        start.args(["busybox", "sh", "-c", script]).run().ok().out()
    };
    // Loop devices come and go with other tests.
    let before = of_host();
    let seen = run(&["--privileged"], DEVICES);
    let after = of_host();
    let seen: BTreeSet<String> = seen.lines().map(str::to_owned).collect();
    let missing: Vec<_> = before
        .intersection(&after)
        .filter(|line| !seen.contains(*line))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}\n{seen:#?}");
    assert!(
        !before.is_empty(),
        "this machine has no devices to look for"
    );
    // They are its own: what it does to them is not seen outside.
    let change =
        format!("chmod 777 /dev/loop-control /dev/fuse; rm -f /dev/loop-control; {DEVICES}");
    let changed = run(&["--privileged"], &change);
    assert!(!changed.contains("loop-control"), "{changed}");
    assert_eq!(
        before.intersection(&of_host()).count(),
        before.intersection(&after).count()
    );
    let usual = run(&[], DEVICES);
    assert_eq!(
        usual
            .lines()
            .filter(|line| !line.starts_with("./pts/"))
            .count(),
        6,
        "{usual}"
    );
    // A node that says so works.
    let script = "mknod /mine c 1 5 && head -c 3 /mine | wc -c; dd if=/dev/zero bs=5 count=1 2>/dev/null | wc -c";
    assert_eq!(run(&["--privileged"], script), "3\n5\n");
}

#[test]
fn privileged_steps_have_the_devices_that_buildkit_gives() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = format!(
        "# syntax=docker/dockerfile:1-labs\nFROM busybox\nRUN --security=insecure <<EOF\n{DEVICES}\nEOF\n\
         RUN <<EOF\n{DEVICES}\nEOF\n"
    );
    let context = env.dockerfile("c", &text);
    let allow = "--allow=security.insecure";
    let told = env.rbuild(args!["--progress=plain", allow, context]).run();
    let steps = crate::support::progress::parse(&told.ok().stderr);
    let log = |name: &str| crate::support::progress::step(&steps, name).log.clone();
    let privileged = log("RUN --security=insecure");
    for device in [
        "./kmsg character special file 1:b 666 0:0",
        "./cuse character special file a:cb 666 0:0",
        "./fuse character special file a:e5 666 0:0",
        "./kvm character special file a:e8 666 0:0",
        "./net/tun character special file a:c8 666 0:0",
        "./loop-control character special file a:ed 666 0:0",
        "./loop0 block special file 7:0 666 0:0",
        "./loop7 block special file 7:7 666 0:0",
    ] {
        assert!(
            privileged.iter().any(|line| line == device),
            "{device}: {privileged:#?}"
        );
    }
    let usual = log("RUN <<EOF");
    assert!(
        !usual
            .iter()
            .any(|line| line.contains("loop") || line.contains("fuse")),
        "{usual:#?}"
    );
}

#[test]
fn privileged_containers_of_a_user_have_the_devices_that_the_user_may_open() {
    let user = crate::rootless::User::new("rbuild-test:300000:65536\n");
    user.import_busybox();
    let run = args![
        "run",
        "--rm",
        "--network=none",
        "--privileged",
        "busybox",
        "sh",
        "-c",
        DEVICES
    ];
    let told = user.rbuild_after(crate::rootless::OPEN_TUN, run).run().ok();
    let seen = told.out();
    assert!(
        seen.contains("./net/tun character special file a:c8 666 "),
        "{seen}"
    );
    assert!(
        !seen.contains("./kmsg ") || seen.contains("./kmsg character special file 1:b 64"),
        "{seen}"
    );
    assert!(!seen.contains("./loop-control"), "{seen}");
}
