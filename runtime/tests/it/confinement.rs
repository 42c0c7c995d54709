//! What the process may not do: capabilities, system calls, descriptors, ids.

use rbuild_runtime::{CapabilitySet, ExitStatus, Network, Rlimit, RlimitKind, Seccomp, User};

use crate::support::Host;

/// The sets as `docker run` shows them for user 0.
const ROOT: &str = "CapInh:\t0000000000000000
CapPrm:\t00000000a80425fb
CapEff:\t00000000a80425fb
CapBnd:\t00000000a80425fb
CapAmb:\t0000000000000000";

#[test]
fn root_capabilities_of_user_0_are_those_of_docker() {
    assert_eq!(Host::new().sh("grep ^Cap /proc/self/status"), ROOT);
}

#[test]
fn root_other_users_hold_no_capabilities() {
    let host = Host::new();
    let mut sandbox = host.shell("grep ^Cap /proc/self/status; id -u; id -g; id -G; umask");
    sandbox.process.user = User {
        uid: 1000,
        gid: 1001,
        groups: vec![1001, 5, 77],
    };
    let none = "0000000000000000";
    let expected = format!(
        "CapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t00000000a80425fb\nCapAmb:\t{none}\n\
         1000\n1001\n1001 5 77\n0022"
    );
    assert_eq!(host.run(&sandbox).text(), expected);
}

#[test]
fn root_capabilities_can_be_dropped_altogether_or_kept_altogether() {
    let host = Host::new();
    let mut sandbox = host.shell("grep ^CapEff /proc/self/status");
    sandbox.security.capabilities = CapabilitySet::EMPTY;
    assert_eq!(host.run(&sandbox).text(), "CapEff:\t0000000000000000");
    sandbox.security.privileged = true;
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = all
        .lines()
        .find(|line| line.starts_with("CapEff"))
        .unwrap()
        .to_owned();
    assert_eq!(host.run(&sandbox).text(), all);
}

#[test]
fn root_no_new_privileges_is_off_unless_asked_for() {
    let host = Host::new();
    let mut sandbox = host.shell("grep NoNewPrivs /proc/self/status");
    assert_eq!(host.run(&sandbox).text(), "NoNewPrivs:\t0");
    sandbox.security.no_new_privileges = true;
    assert_eq!(host.run(&sandbox).text(), "NoNewPrivs:\t1");
}

#[test]
fn root_no_descriptor_of_the_host_is_open() {
    let host = Host::new();
    // The fourth is the directory that `ls` reads.
    assert_eq!(host.sh("ls /proc/self/fd"), "0\n1\n2\n3");
    let links = host.sh("for fd in 0 1 2; do readlink /proc/self/fd/$fd; done");
    assert!(
        links.lines().all(|link| link.starts_with("pipe:")),
        "{links}"
    );
}

#[test]
fn root_the_filter_denies_what_docker_denies() {
    let host = Host::new();
    assert_eq!(host.sh("grep ^Seccomp: /proc/self/status"), "Seccomp:\t2");
    for script in [
        "mount -t tmpfs none /tmp || mount -t proc none /proc",
        "unshare -m true",
        "hostname other",
        "umount /proc",
    ] {
        let outcome = host.run(&host.shell(script));
        assert_ne!(outcome.status, ExitStatus::Code(0), "{script}");
        let said = &outcome.stderr;
        assert!(
            said.contains("not permitted") || said.contains("are you root"),
            "{script}: {said}"
        );
    }
}

#[test]
fn root_unconfined_sandboxes_have_no_filter() {
    let host = Host::new();
    let mut sandbox = host.shell("grep ^Seccomp: /proc/self/status");
    sandbox.security.seccomp = Seccomp::Unconfined;
    assert_eq!(host.run(&sandbox).text(), "Seccomp:\t0");
}

#[test]
fn root_ordinary_work_passes_the_filter() {
    let host = Host::new();
    host.sh(
        "mkdir /a && touch /a/b && chown 5:6 /a/b && chmod 4755 /a/b && mv /a /c && ln /c/b /d \
             && chroot / true && mknod /n c 1 3 && (sleep 0.01 & wait) && rm -r /c /d /n",
    );
}

#[test]
fn root_devices_made_inside_do_not_open() {
    let host = Host::new();
    for place in ["/disk", "/dev/disk", "/tmp/disk"] {
        let script = format!("mknod {place} c 1 3 && cat {place}");
        let outcome = host.run(&host.shell(&script));
        assert!(
            outcome.stderr.contains("Permission denied"),
            "{place}: {outcome:?}"
        );
    }
}

#[test]
fn root_resource_limits_are_set_and_refusals_are_warnings() {
    let host = Host::new();
    let mut sandbox = host.shell("ulimit -n; ulimit -Hn");
    sandbox.rlimits = vec![Rlimit {
        resource: RlimitKind::Nofile,
        soft: 100,
        hard: 200,
    }];
    let outcome = host.run(&sandbox);
    assert_eq!(outcome.text(), "100\n200");
    assert!(outcome.warnings.is_empty());
    // More than /proc/sys/fs/nr_open allows.
    sandbox.rlimits[0] = Rlimit {
        resource: RlimitKind::Nofile,
        soft: u64::MAX - 1,
        hard: u64::MAX - 1,
    };
    let outcome = host.run(&sandbox);
    assert!(
        outcome.warnings[0].contains("Nofile"),
        "{:?}",
        outcome.warnings
    );
}

#[test]
fn root_network_none_has_loopback_only() {
    let host = Host::new();
    let mut sandbox = host.shell("ls /sys/class/net; ifconfig lo | grep -c UP; nc -z 192.0.2.1 80");
    sandbox.network = Network::None;
    let outcome = host.run(&sandbox);
    assert_eq!(outcome.stdout.trim_end(), "lo\n1");
    assert_eq!(outcome.status, ExitStatus::Code(1));
}

#[test]
fn root_network_host_shows_the_interfaces_of_the_host() {
    let host = Host::new();
    let mut sandbox = host.shell("ls /sys/class/net");
    sandbox.network = Network::Host;
    let mut expected: Vec<String> = std::fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    expected.sort();
    let own = |name: &&str| !name.starts_with("rb");
    let found: Vec<String> = host
        .run(&sandbox)
        .text()
        .lines()
        .filter(own)
        .map(str::to_owned)
        .collect();
    expected.retain(|name| !name.starts_with("rb"));
    assert_eq!(found, expected);
}

#[test]
fn root_the_program_file_cannot_be_written_through_a_sandbox() {
    // CVE-2019-5736: what executes the command is this very program, on a mount without writes.
    let host = Host::new();
    let (_output, stdout) = crate::support::pipe();
    let (_errors, stderr) = crate::support::pipe();
    let stdio = rbuild_runtime::Stdio {
        stdin: None,
        stdout,
        stderr,
    };
    let running = host
        .runtime
        .spawn(&host.sandbox(&["sleep", "1000"]), stdio)
        .unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid())).unwrap();
    let spawner = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
    let executable = format!("/proc/{spawner}/exe");
    let own = std::fs::read_link("/proc/self/exe").unwrap();
    let flags = rustix::fs::statvfs(executable.as_str()).unwrap().f_flag;
    assert!(
        flags.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        "{flags:?}"
    );
    // A script whose interpreter is "whoever executes me" gets nothing to write to either.
    let script = "#!/proc/self/exe\n";
    std::fs::write(host.path("layer/file"), script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(host.path("layer/file"), executable).unwrap();
    let digest = std::fs::read(&own).unwrap();
    let _ = host.try_run(&host.sandbox(&["/file"]));
    assert!(
        std::fs::read(&own).unwrap() == digest,
        "the program file has changed"
    );
}
