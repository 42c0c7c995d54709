//! What a `RUN` step sees of the world.

use crate::args;
use crate::support::TestEnv;
use crate::support::progress::{parse, step};

/// Output lines of `RUN script` over busybox.
fn run(env: &TestEnv, flags: &[&str], script: &str) -> Vec<String> {
    let text = format!("FROM busybox\nRUN <<EOF\n{script}\nEOF\n");
    let context = env.dockerfile("sandbox", &text);
    let outcome = env
        .rbuild(["build", "--progress", "plain", "--no-cache"])
        .args(flags)
        .args(args![context])
        .run()
        .ok();
    step(&parse(&outcome.stderr), "RUN <<EOF").log.clone()
}

#[test]
fn the_world_of_a_step_is_that_of_buildkit() {
    let env = TestEnv::new();
    env.import_busybox();
    let lines = run(
        &env,
        &[],
        "hostname\numask\npwd\nid\ngrep -E 'Cap(Eff|Bnd|Prm)|Seccomp:|NoNewPrivs' /proc/self/status\n\
         cat /etc/hosts\necho $HOME $$",
    );
    let lines: Vec<_> = lines.iter().map(|line| line.replace('\t', " ")).collect();
    assert_eq!(
        lines,
        [
            "buildkitsandbox",
            "0022",
            "/",
            "uid=0(root) gid=0(root) groups=0(root)",
            "CapPrm: 00000000a80425fb",
            "CapEff: 00000000a80425fb",
            "CapBnd: 00000000a80425fb",
            "NoNewPrivs: 0",
            "Seccomp: 2",
            "127.0.0.1 localhost buildkitsandbox",
            "::1 localhost ip6-localhost ip6-loopback",
            "/root 1",
        ]
    );
}

#[test]
fn devices_and_kernel_trees_are_those_of_containers() {
    let env = TestEnv::new();
    env.import_busybox();
    let lines = run(
        &env,
        &[],
        "ls /dev | tr '\\n' ' '; echo\n\
         (echo x >/sys/kernel/mm/ksm/run) 2>/dev/null || echo sys is read-only\n\
         (echo x >/proc/sys/kernel/hostname) 2>/dev/null || echo proc/sys is read-only\n\
         cat /proc/keys | wc -c\nls /proc/self/fd | wc -l\ndf -k /dev/shm | tail -1 | awk '{print $2}'\n\
         readlink /proc/1/exe >/dev/null && ps | wc -l",
    );
    for device in [
        "full", "null", "random", "tty", "urandom", "zero", "pts", "shm", "ptmx",
    ] {
        assert!(
            lines[0].split(' ').any(|name| name == device),
            "no /dev/{device}: {}",
            lines[0]
        );
    }
    assert!(
        !lines[0].contains("sda") && !lines[0].contains("vda"),
        "{}",
        lines[0]
    );
    assert_eq!(lines[1..3], ["sys is read-only", "proc/sys is read-only"]);
    assert_eq!(lines[3], "0", "/proc/keys is masked");
    // 0, 1, 2 and the listing's own.
    assert_eq!(lines[4], "4", "descriptors leak into the step");
    assert_eq!(lines[5], "65536");
}

#[test]
fn dangerous_calls_are_denied() {
    let env = TestEnv::new();
    env.import_busybox();
    let lines = run(
        &env,
        &[],
        "mount -t tmpfs none /tmp 2>/dev/null || echo no mount\n\
         unshare -m true 2>/dev/null || echo no unshare\n\
         chroot / true && echo chroot\n\
         mknod /tmp/null c 1 3 && echo mknod\n\
         dmesg >/dev/null 2>&1 || echo no dmesg\n\
         hostname other 2>/dev/null || echo no hostname",
    );
    assert_eq!(
        lines,
        [
            "no mount",
            "no unshare",
            "chroot",
            "mknod",
            "no dmesg",
            "no hostname"
        ]
    );
}

#[test]
fn the_host_is_out_of_sight() {
    let env = TestEnv::new();
    env.import_busybox();
    env.files("secret-of-the-host", &[("x", "x")]);
    let needle = env.path().file_name().unwrap().to_str().unwrap().to_owned();
    let script = format!("ls /tmp\ngrep -c {needle} /proc/1/environ\nls / | tr '\\n' ' '");
    let lines = run(&env, &[], &script);
    assert_eq!(lines, ["0", "bin dev etc home proc root sys tmp usr var "]);
}

#[test]
fn a_daemon_of_a_step_ends_with_it() {
    let env = TestEnv::new();
    env.import_busybox();
    let lines = run(&env, &[], "(sleep 1000 >/dev/null 2>&1 &)\necho gone on");
    assert_eq!(lines, ["gone on"]);
    let left = crate::support::leftovers::wait_until_gone(env.path());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn network_modes_of_a_build() {
    let env = TestEnv::new();
    env.import_busybox();
    let count = "ip -o link | wc -l";
    assert_eq!(run(&env, &["--network", "none"], count), ["1"]);
    assert_eq!(run(&env, &[], count), ["2"]);
    let host = std::fs::read_dir("/sys/class/net").unwrap().count();
    let seen = run(
        &env,
        &["--network", "host", "--allow", "network.host"],
        count,
    );
    assert!(seen[0].parse::<usize>().unwrap() >= host.min(1), "{seen:?}");
}

#[test]
fn secrets_reach_their_step_and_no_layer() {
    let env = TestEnv::new();
    env.import_busybox();
    let secret = env
        .files("s", &[("token", "TOP-SECRET-TOKEN")])
        .join("token");
    let context = env.dockerfile(
        "c",
        "FROM busybox\nRUN --mount=type=secret,id=t,env=TOKEN \
         --mount=type=secret,id=t,target=/key,mode=0440 \
         wc -c </key && echo ${#TOKEN} && stat -c %a /key\n",
    );
    let archive = env.join("out.tar");
    let outcome = env
        .rbuild(["build", "--progress", "plain", "--no-cache", "--secret"])
        .args(args![format!("id=t,src={}", secret.display())])
        .args(args![
            "-o",
            format!(
                "type=oci,compression=uncompressed,dest={}",
                archive.display()
            )
        ])
        .args(args![context])
        .run()
        .ok();
    let steps = parse(&outcome.stderr);
    assert_eq!(step(&steps, "RUN --mount").log, ["16", "16", "440"]);
    for file in walkdir::WalkDir::new(env.store())
        .into_iter()
        .map(Result::unwrap)
    {
        if file.file_type().is_file() {
            assert_no_secret(&std::fs::read(file.path()).unwrap(), file.path());
        }
    }
    assert_no_secret(&std::fs::read(&archive).unwrap(), &archive);
}

#[track_caller]
fn assert_no_secret(bytes: &[u8], of: &std::path::Path) {
    let found = bytes
        .windows(16)
        .any(|window| window == b"TOP-SECRET-TOKEN");
    assert!(!found, "the secret is in {}", of.display());
}

#[test]
fn rights_of_steps_can_be_given_and_taken() {
    let env = TestEnv::new();
    env.import_busybox();
    let show = "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status";
    let seen = |flags: &[&str]| -> Vec<String> {
        let lines = run(&env, flags, show);
        lines.iter().map(|line| line.replace('\t', " ")).collect()
    };
    let flags = [
        "--cap-drop=ALL",
        "--cap-add=CHOWN,NET_ADMIN",
        "--security-opt=no-new-privileges",
    ];
    let usual = ["CapEff: 0000000000001001", "NoNewPrivs: 1", "Seccomp: 2"];
    assert_eq!(seen(&flags), usual);
    let open = seen(&["--security-opt", "seccomp=unconfined"]);
    assert_eq!(open[1..], ["NoNewPrivs: 0", "Seccomp: 0"]);
    // Other rights are another step.
    let context = env.dockerfile("c", "FROM busybox\nRUN true\n");
    env.rbuild(args!["build", &context]).run().ok();
    let with = |flag: &str| {
        let told = env
            .rbuild(args!["build", "--progress", "plain", flag, &context])
            .run();
        told.ok().stderr.contains("miss:")
    };
    assert!(with("--cap-drop=CHOWN"));
    assert!(!with("--cap-drop=CHOWN"));
    env.rbuild(["build", "--security-opt", "apparmor=docker-default", "."])
        .run()
        .exits(1)
        .says("AppArmor");
}
