//! `/dev`, `/proc`, `/sys`, host name, namespaces.

use std::path::Path;

use crate::support::Host;

#[test]
fn root_devices_are_those_of_docker_and_work() {
    let host = Host::new();
    let listing = host.sh("cd /dev; for n in *; do stat -c '%n %F' $n; done");
    let expected = "core symbolic link
fd symbolic link
full character special file
mqueue directory
null character special file
ptmx symbolic link
pts directory
random character special file
shm directory
stderr symbolic link
stdin symbolic link
stdout symbolic link
tty character special file
urandom character special file
zero character special file";
    assert_eq!(listing, expected);
    host.sh("echo x > /dev/null && head -c 8 /dev/urandom | wc -c && head -c 1 /dev/zero > /tmp/z");
    assert_eq!(
        host.sh("cd /dev; stat -c %a null zero shm mqueue pts . | tr '\\n' ' '"),
        "666 666 1777 1777 755 755"
    );
    let outcome = host.run(&host.shell("echo x > /dev/full"));
    assert!(outcome.stderr.contains("No space left"), "{outcome:?}");
}

#[test]
fn root_a_changed_device_does_not_reach_the_host() {
    use std::os::unix::fs::MetadataExt as _;
    let host = Host::new();
    let before = std::fs::metadata("/dev/null").unwrap().mode();
    host.sh("chmod 600 /dev/null && chown 7 /dev/zero");
    assert_eq!(std::fs::metadata("/dev/null").unwrap().mode(), before);
    assert_eq!(
        host.sh("stat -c %a:%u /dev/null /dev/zero"),
        "666:0\n666:0",
        "nor the next sandbox"
    );
}

#[test]
fn root_dev_shm_has_the_size_that_was_asked_for() {
    let host = Host::new();
    let mut sandbox = host.shell("df -k /dev/shm | tail -n 1 | sed 's/  */ /g' | cut -d' ' -f2");
    assert_eq!(host.run(&sandbox).text(), "65536");
    sandbox.shm_size = 1 << 20;
    assert_eq!(host.run(&sandbox).text(), "1024");
}

#[test]
fn root_the_command_is_process_1_and_sees_only_its_own() {
    let host = Host::new();
    assert_eq!(host.sh("echo $$; cd /proc; echo [0-9]*"), "1\n1");
    assert_eq!(host.sh("readlink /proc/self/ns/pid | wc -l"), "1");
}

#[test]
fn root_all_namespaces_are_new() {
    let host = Host::new();
    let inside = host.sh("for n in mnt pid ipc uts cgroup net; do readlink /proc/self/ns/$n; done");
    for (name, inside) in ["mnt", "pid", "ipc", "uts", "cgroup", "net"]
        .iter()
        .zip(inside.lines())
    {
        let outside = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(Path::new(inside), outside, "{name}");
    }
}

#[test]
fn root_the_usual_paths_are_hidden_or_write_protected() {
    let host = Host::new();
    assert_eq!(
        host.sh("cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c"),
        "0"
    );
    assert_eq!(
        host.sh("ls -A /proc/scsi /proc/acpi /sys/firmware 2>/dev/null | grep -v :"),
        ""
    );
    for path in [
        "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger",
        "/sys/kernel/mm/ksm/run",
    ] {
        if Path::new(path).exists() {
            let outcome = host.run(&host.shell(&format!("echo 0 > {path}")));
            assert!(outcome.stderr.contains("Read-only"), "{path}: {outcome:?}");
        }
    }
    let mounts = host.sh("cat /proc/mounts");
    for (place, option) in [
        ("/sys", "ro,"),
        ("/proc/sys", "ro,"),
        ("/proc", "rw,"),
        ("/dev", "rw,"),
    ] {
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some(place));
        let line = line.unwrap_or_else(|| panic!("{place} is not mounted: {mounts}"));
        assert!(
            line.split(' ').nth(3).unwrap().starts_with(option),
            "{line}"
        );
    }
}

#[test]
fn root_privileged_sandboxes_may_write_where_others_may_not() {
    let host = Host::new();
    let mut sandbox =
        host.shell("hostname other && mount -t tmpfs none /mnt && test -w /proc/sys && hostname");
    sandbox.security.privileged = true;
    assert_eq!(host.run(&sandbox).text(), "other");
}

#[test]
fn root_the_host_name_is_the_one_given() {
    let host = Host::new();
    let mut sandbox = host.shell("hostname");
    sandbox.hostname = "buildkitsandbox".into();
    assert_eq!(host.run(&sandbox).text(), "buildkitsandbox");
}

#[test]
fn root_a_linked_or_missing_system_directory_is_refused() {
    for name in ["proc", "sys", "dev"] {
        let host = Host::new();
        let place = host.path("layer").join(name);
        std::fs::remove_dir(&place).unwrap();
        std::os::unix::fs::symlink("/tmp", &place).unwrap();
        let error = host.refused(&host.shell("true"));
        assert!(error.contains(&format!("mount /{name}")), "{error}");
        assert!(error.contains("symbolic link"), "{error}");
        std::fs::remove_file(&place).unwrap();
        let error = host.refused(&host.shell("true"));
        assert!(error.contains("missing in the root"), "{error}");
    }
}

#[test]
fn root_a_device_of_the_image_cannot_be_used_as_mask() {
    // CVE-2025-31133: the image brings a link in place of /dev/null.
    let host = Host::new();
    std::os::unix::fs::symlink("/proc/sys/kernel/core_pattern", host.path("layer/dev/null"))
        .unwrap();
    assert_eq!(
        host.sh("cat /proc/keys | wc -c; stat -c %F /dev/null"),
        "0\ncharacter special file"
    );
}

#[test]
fn root_the_working_directory_stays_inside() {
    let host = Host::new();
    let mut sandbox = host.sandbox(&["pwd"]);
    sandbox.process.cwd = "/work dir".into();
    assert_eq!(host.run(&sandbox).text(), "/work dir");
    // CVE-2024-21626: a descriptor that leads out.
    for number in 0..20 {
        sandbox.process.cwd = format!("/proc/self/fd/{number}").into();
        let error = host.refused(&sandbox);
        assert!(error.contains("working directory"), "{error}");
    }
    std::os::unix::fs::symlink("/../../../..", host.path("layer/up")).unwrap();
    sandbox.process.cwd = "/up/etc".into();
    assert_eq!(host.run(&sandbox).text(), "/etc");
    sandbox.process.cwd = "/none".into();
    assert!(host.refused(&sandbox).contains("/none"));
}
