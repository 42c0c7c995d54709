//! `rbuild run`: exit status, environment, user, directories, volumes, standard input.

use std::fs;

use rustix::process::Signal;

use crate::args;
use crate::support::{Outcome, TestEnv};

fn with_busybox() -> TestEnv {
    let env = TestEnv::new();
    env.import_busybox();
    env
}

/// `rbuild run --rm OPTIONS busybox sh -c SCRIPT`.
fn sh(env: &TestEnv, options: &[&str], script: &str) -> Outcome {
    env.rbuild(["run", "--rm"])
        .args(options)
        .args(["busybox", "sh", "-c", script])
        .run()
}

#[test]
fn the_exit_status_is_passed_on() {
    let env = with_busybox();
    for status in [0, 1, 7, 125, 255] {
        sh(&env, &[], &format!("exit {status}")).exits(status);
    }
    // The first process of a container cannot be killed from inside; below `--init` it can.
    sh(&env, &["--init"], "kill -9 $$; sleep 10").exits(137);
    sh(&env, &["--init"], "kill -15 $$; sleep 10").exits(143);
}

#[test]
fn commands_that_cannot_run_have_their_own_statuses() {
    let env = with_busybox();
    let run = |command: &str| env.rbuild(["run", "--rm", "busybox", command]).run();
    run("/not-there").exits(127).says("/not-there");
    run("not-in-path").exits(127).says("not-in-path");
    run("/etc/passwd").exits(126).says("/etc/passwd");
    run("/etc").exits(126).says("/etc");
    env.rbuild(["run", "--rm", "absent-image", "true"])
        .run()
        .exits(125)
        .says("absent-image");
    env.rbuild(["run", "--no-such-flag", "busybox"])
        .run()
        .exits(125)
        .says("--no-such-flag");
}

#[test]
fn output_streams_stay_apart() {
    let env = with_busybox();
    let outcome = sh(&env, &[], "echo out; echo err >&2").ok();
    assert_eq!(
        (outcome.out().as_str(), outcome.stderr.as_str()),
        ("out\n", "err\n")
    );
}

#[test]
fn the_environment_is_the_images_and_what_was_asked_for() {
    let env = with_busybox();
    let context = env.dockerfile("c", "FROM busybox\nENV A=image B=image\nCMD [\"env\"]\n");
    env.build("x", &context);
    let file = env
        .files("f", &[("list", "# comment\nC=file\nFROM_CALLER\n")])
        .join("list");
    let outcome = env
        .rbuild(args![
            "run",
            "--rm",
            "-e",
            "B=flag",
            "-e",
            "CALLER",
            "--env-file",
            file,
            "x"
        ])
        .env("CALLER", "yes")
        .env("FROM_CALLER", "too")
        .env("NOT_ASKED_FOR", "no")
        .run()
        .ok();
    let text = outcome.out();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    let hostname = lines
        .iter()
        .find(|line| line.starts_with("HOSTNAME="))
        .copied();
    lines.retain(|line| !line.starts_with("HOSTNAME="));
    assert_eq!(
        lines,
        [
            "A=image",
            "B=flag",
            "C=file",
            "CALLER=yes",
            "FROM_CALLER=too",
            "HOME=/root",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]
    );
    assert_eq!(
        hostname.map(str::len),
        Some("HOSTNAME=".len() + 12),
        "{text}"
    );
}

#[test]
fn users_and_directories() {
    let env = with_busybox();
    let id = |options: &[&str]| sh(&env, options, "id; pwd; echo $HOME").ok().out();
    assert_eq!(
        id(&[]),
        "uid=0(root) gid=0(root) groups=0(root)\n/\n/root\n"
    );
    assert_eq!(
        id(&["-u", "app"]),
        "uid=1001(app) gid=1002(app) groups=50(staff),1002(app)\n/\n/home/app\n"
    );
    assert_eq!(
        id(&["-u", "4242:50"]),
        "uid=4242 gid=50(staff) groups=50(staff)\n/\n/\n"
    );
    assert_eq!(
        id(&["-w", "/tmp/made/on/demand"]).lines().nth(1),
        Some("/tmp/made/on/demand")
    );
    let unknown = sh(&env, &["-u", "nobody-here"], "true").exits(125);
    assert!(unknown.stderr.contains("nobody-here"), "{}", unknown.stderr);
}

#[test]
fn entrypoint_and_command() {
    let env = with_busybox();
    let text = "FROM busybox\nENTRYPOINT [\"echo\", \"entry\"]\nCMD [\"default\"]\n";
    env.build("x", &env.dockerfile("c", text));
    let run = |args: &[&str]| env.rbuild(["run", "--rm"]).args(args).run().ok().out();
    assert_eq!(run(&["x"]), "entry default\n");
    assert_eq!(run(&["x", "given", "--flag"]), "entry given --flag\n");
    assert_eq!(run(&["--entrypoint", "basename", "x", "/a/b"]), "b\n");
    // Another entrypoint drops the image's command.
    assert_eq!(run(&["--entrypoint", "echo", "x"]), "\n");
}

#[test]
fn volumes_are_bound() {
    let env = with_busybox();
    let shared = env.files("shared", &[("in", "from the host")]);
    let volume = format!("{}:/mnt/deep/v", shared.display());
    let outcome = sh(
        &env,
        &["-v", &volume],
        "cat /mnt/deep/v/in; echo back >/mnt/deep/v/out",
    );
    assert_eq!(outcome.ok().out(), "from the host");
    assert_eq!(fs::read_to_string(shared.join("out")).unwrap(), "back\n");
    let read_only = format!("{volume}:ro");
    sh(&env, &["-v", &read_only], "echo x >/mnt/deep/v/out")
        .exits(1)
        .says("Read-only");
    assert_eq!(fs::read_to_string(shared.join("out")).unwrap(), "back\n");
    let bind = format!("type=bind,src={},dst=/b,readonly", shared.display());
    let text = sh(
        &env,
        &["--mount", &bind],
        "cat /b/in; touch /b/x || echo ro",
    )
    .ok()
    .out();
    assert_eq!(text, "from the hostro\n");
    let missing = format!("type=bind,src={}/nope,dst=/b", shared.display());
    sh(&env, &["--mount", &missing], "true")
        .exits(125)
        .says("nope");
    let text = sh(&env, &["--tmpfs", "/t:size=1m"], "df -k /t | tail -1")
        .ok()
        .out();
    assert!(text.contains(" 1024 "), "{text}");
}

#[test]
fn changes_are_thrown_away() {
    let env = with_busybox();
    sh(
        &env,
        &[],
        "echo x >/made; rm /etc/hostname; echo y >>/etc/passwd",
    )
    .ok();
    let text = sh(&env, &[], "ls /made; cat /etc/passwd | wc -l").ok();
    assert_eq!(text.out(), "4\n");
    sh(&env, &["--read-only"], "echo x >/made")
        .exits(1)
        .says("Read-only");
    env.assert_sound_store();
}

#[test]
fn standard_input_is_passed_on_when_asked_for() {
    let env = with_busybox();
    let run = |flags: &[&str]| {
        env.rbuild(["run", "--rm"])
            .args(flags)
            .args(["busybox", "wc", "-c"])
            .stdin("12345")
    };
    assert_eq!(run(&["-i"]).run().ok().out(), "5\n");
    assert_eq!(run(&[]).run().ok().out(), "0\n");
    // Much of it, through to the end, while the output flows as well.
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|i| (i % 251) as u8).collect();
    let cat = env
        .rbuild(["run", "--rm", "-i", "busybox", "cat"])
        .stdin(bytes.clone())
        .run()
        .ok();
    assert!(
        cat.stdout == bytes,
        "`cat` gave {} of {} bytes",
        cat.stdout.len(),
        bytes.len()
    );
}

#[test]
fn networks_and_names() {
    let env = with_busybox();
    let text = sh(&env, &["--network", "none"], "ip -o link | wc -l")
        .ok()
        .out();
    assert_eq!(text, "1\n", "the loopback alone");
    let named = sh(
        &env,
        &["--hostname", "box", "--add-host", "other:10.1.2.3"],
        "hostname; grep other /etc/hosts | tr '\\t' ' '",
    )
    .ok();
    assert_eq!(named.out(), "box\n10.1.2.3 other\n");
    let interfaces = sh(&env, &[], "ip -o link | wc -l").ok().out();
    assert_eq!(interfaces, "2\n", "the loopback and one more");
}

#[test]
fn signals_are_forwarded() {
    let env = with_busybox();
    let script = "trap 'echo caught; exit 3' TERM; echo ready >&2; sleep 1000 & wait";
    let container = env
        .rbuild(["run", "--rm", "busybox", "sh", "-c", script])
        .spawn();
    container.wait_for_line("ready");
    container.signal(Signal::TERM);
    let outcome = container.wait().exits(3);
    assert_eq!(outcome.out(), "caught\n");
}

#[test]
fn a_killed_run_leaves_no_process() {
    let env = with_busybox();
    let script = "sleep 1000 & echo ready >&2; sleep 1000";
    let mut container = env
        .rbuild(["run", "--rm", "busybox", "sh", "-c", script])
        .spawn();
    container.wait_for_line("ready");
    container.kill();
    container.wait().exits(137);
    // The environment's own end checks that nothing is left.
}

#[test]
fn what_run_does_not_know_yet_is_refused() {
    let env = with_busybox();
    for flags in [&["--gpus", "all"][..], &["--cpu-rt-runtime", "1"]] {
        let outcome = env
            .rbuild(["run"])
            .args(flags)
            .args(["busybox", "true"])
            .run()
            .exits(125);
        assert!(
            outcome.stderr.contains("not supported"),
            "{flags:?}: {}",
            outcome.stderr
        );
    }
}
