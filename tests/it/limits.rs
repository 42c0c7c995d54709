//! Limits of memory, processors and processes, for steps and containers.

use crate::args;
use crate::support::TestEnv;
use crate::support::progress::{parse, step};

/// Output lines of `RUN script` over busybox with more flags.
fn run(env: &TestEnv, flags: &[&str], script: &str) -> Vec<String> {
    let text = format!("FROM busybox\nRUN <<EOF\n{script}\nEOF\n");
    let context = env.dockerfile("limits", &text);
    let outcome = env
        .rbuild(["build", "--progress", "plain", "--no-cache"])
        .args(flags)
        .args(args![context])
        .run()
        .ok();
    assert!(
        !outcome.stderr.contains("not in force"),
        "{}",
        outcome.stderr
    );
    step(&parse(&outcome.stderr), "RUN <<EOF").log.clone()
}

/// Reads a file of the step's own group, of version 1 or 2.
fn own(controller: &str, legacy: &str, unified: &str) -> String {
    format!("cat /sys/fs/cgroup/{controller}/{legacy} 2>/dev/null || cat /sys/fs/cgroup/{unified}")
}

#[test]
fn steps_have_the_limits_that_were_asked_for() {
    let env = TestEnv::new();
    env.import_busybox();
    let script = [
        own("memory", "memory.limit_in_bytes", "memory.max"),
        own("pids", "pids.max", "pids.max"),
        own("cpu", "cpu.cfs_quota_us", "cpu.max"),
        own("cpu", "cpu.shares", "cpu.weight"),
        own("cpuset", "cpuset.cpus", "cpuset.cpus"),
        own("memory", "memory.soft_limit_in_bytes", "memory.low"),
    ]
    .join("\n");
    let flags = [
        "--memory=64m",
        "--memory-reservation=32m",
        "--resource=pids=50,cpu-shares=512",
        "--cpus=0.5",
        "--cpuset-cpus=0",
    ];
    let lines = run(&env, &flags, &script);
    assert_eq!(lines[0], "67108864");
    assert_eq!(lines[1], "50");
    assert!(lines[2].starts_with("50000"), "{lines:?}");
    assert!(lines[3] == "512" || lines[3] == "20", "{lines:?}");
    assert_eq!(lines[4], "0");
    assert_eq!(lines[5], "33554432");
    // The same limits for a container; they change no result, so the step above is known.
    let ran = env
        .rbuild([
            "run",
            "--rm",
            "--network=none",
            "--memory=64m",
            "--cpu-quota=20000",
            "busybox",
        ])
        .args(["sh", "-c", &script])
        .run();
    let out = ran.out();
    assert!(
        out.starts_with("67108864\n") && out.contains("20000"),
        "{}",
        ran.text()
    );
}

#[test]
fn a_step_that_needs_too_much_memory_is_told_so() {
    let env = TestEnv::new();
    env.import_busybox();
    let greedy = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let context = env.dockerfile(
        "c",
        &format!("FROM busybox\nRUN {greedy}; true && {greedy}\n"),
    );
    env.rbuild(args![
        "build",
        "--memory=32m",
        "--memory-swap=32m",
        &context
    ])
    .run()
    .exits(1)
    .says("out of memory")
    .says("--memory");
    env.rbuild([
        "run",
        "--rm",
        "--network=none",
        "--memory=32m",
        "--memory-swap=32m",
        "busybox",
    ])
    .args(["sh", "-c", greedy])
    .run()
    .exits(137)
    .says("out of memory (limit 32");
}

#[test]
fn a_fork_bomb_ends_at_its_limit() {
    let env = TestEnv::new();
    env.import_busybox();
    // Without the limit it would end, too, but with two hundred processes. A shell that cannot fork
    // ends; the one that counts starts nothing.
    let bomb = "(i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done) 2>/dev/null\n\
         set -- /proc/[0-9]*\necho $#";
    let lines = run(&env, &["--pids-limit=40"], bomb);
    let most: usize = lines.last().unwrap().parse().unwrap();
    assert!((30..=40).contains(&most), "{lines:?}");
    let left = crate::support::leftovers::wait_until_gone(env.path());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn groups_below_a_parent_are_removed_with_it() {
    let env = TestEnv::new();
    env.import_busybox();
    let parent = format!("rbuild-test-{}", std::process::id());
    let flag = format!("--cgroup-parent=/{parent}/inner");
    let lines = run(
        &env,
        &[&flag, "--memory=64m"],
        "cat /proc/self/cgroup | wc -l; echo ran",
    );
    assert_eq!(lines.last().map(String::as_str), Some("ran"));
    for found in walkdir::WalkDir::new("/sys/fs/cgroup").max_depth(3) {
        let found = found.unwrap();
        assert_ne!(
            found.file_name().to_str(),
            Some(parent.as_str()),
            "{found:?}"
        );
    }
    env.rbuild(["build", "--cgroup-parent=/../x", "."])
        .run()
        .exits(1)
        .says("invalid --cgroup-parent");
}

#[test]
fn without_the_right_to_limit_a_build_says_so_and_goes_on() {
    let user = crate::rootless::User::new("rbuild-test:300000:65536\n");
    user.import_busybox();
    let context = user.env.dockerfile("c", "FROM busybox\nRUN echo ran\n");
    let told = user
        .rbuild(args![
            "build",
            "--progress",
            "plain",
            "--memory=64m",
            "--no-cache",
            context
        ])
        .run()
        .ok();
    assert!(
        told.text().contains("the memory limit is not in force"),
        "{}",
        told.text()
    );
}
