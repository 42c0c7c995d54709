//! `--security-opt seccomp=FILE`: filters of system calls that users bring.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::args;
use crate::support::{Outcome, TestEnv};

fn profile(env: &TestEnv, name: &str, content: &Value) -> PathBuf {
    let files = env.files(name, &[("profile.json", &content.to_string())]);
    files.join("profile.json")
}

fn option(profile: &std::path::Path) -> String {
    format!("--security-opt=seccomp={}", profile.display())
}

/// `rbuild run --rm OPTIONS busybox sh -c SCRIPT`.
fn sh(env: &TestEnv, options: &[&str], script: &str) -> Outcome {
    env.rbuild(["run", "--rm", "--network=none"])
        .args(options)
        .args(["busybox", "sh", "-c", script])
        .run()
}

/// Everything but some calls, in Docker's form.
fn denying() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30},
            {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO",
             "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 11,
             "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_NE"}]},
        ],
    })
}

#[test]
fn a_profile_decides_which_calls_a_container_makes() {
    let env = TestEnv::new();
    env.import_busybox();
    let option = option(&profile(&env, "p", &denying()));
    let script = "mkdir /tmp/d || touch /tmp/f && ls /tmp\nkill -0 $$ && echo asked\nkill -1 $$\n\
                  hostname other; hostname";
    let outcome = sh(&env, &[&option, "--hostname=here"], script).ok();
    assert_eq!(outcome.out(), "f\nasked\nhere\n");
    for text in ["Read-only file system", "Resource temporarily unavailable"] {
        assert!(outcome.stderr.contains(text), "{}", outcome.stderr);
    }
    // A condition on capabilities is about those that the container has.
    let outcome = sh(
        &env,
        &[&option, "--cap-add=SYS_ADMIN"],
        "hostname other; hostname",
    )
    .ok();
    assert_eq!(outcome.out(), "other\n");
    // It holds for all rights, since it was asked for, and for who comes later.
    sh(&env, &[&option, "--privileged"], "mkdir /tmp/d")
        .exits(1)
        .says("Read-only file system");
    env.rbuild([
        "run",
        "-d",
        "--name=web",
        "--network=none",
        &option,
        "busybox",
        "sleep",
        "1000",
    ])
    .run()
    .ok();
    env.rbuild(["exec", "web", "mkdir", "/tmp/d"])
        .run()
        .exits(1)
        .says("Read-only file system");
    env.rbuild(["rm", "-f", "web"]).run().ok();
}

#[test]
fn a_profile_need_not_allow_what_prepares_a_container() {
    let env = TestEnv::new();
    env.import_busybox();
    // What busybox needs to tell its user; neither `setuid` nor `setgroups` nor `prctl`.
    let calls = [
        "arch_prctl",
        "brk",
        "close",
        "execve",
        "exit",
        "exit_group",
        "fcntl",
        "fstat",
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getrandom",
        "getuid",
        "ioctl",
        "mmap",
        "mprotect",
        "munmap",
        "newfstatat",
        "open",
        "openat",
        "prlimit64",
        "read",
        "readlink",
        "readlinkat",
        "rseq",
        "set_robust_list",
        "set_tid_address",
        "statx",
        "write",
    ];
    let allowing = |more: &[&str]| {
        let names: Vec<&str> = calls.iter().chain(more).copied().collect();
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
        })
    };
    let id = |option: &str, more: &[&str]| {
        env.rbuild(["run", "--rm", "--network=none", "--user=1000:100", option])
            .args(more)
            .args(["busybox", "id", "-u"])
            .run()
    };
    let strict = option(&profile(&env, "strict", &allowing(&[])));
    let outcome = id(&strict, &["--security-opt=no-new-privileges"]).ok();
    assert_eq!(outcome.out(), "1000\n");
    let with_capset = option(&profile(&env, "capset", &allowing(&["capset"])));
    assert_eq!(id(&with_capset, &[]).ok().out(), "1000\n");
}

#[test]
fn steps_of_a_build_run_under_a_profile() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("c", "FROM busybox\nRUN mkdir /made || touch /not-made\n");
    let open = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    let build = |profile: &Value, tag: &str| {
        let file = self::profile(&env, "p", profile);
        env.rbuild(args!["build", "-t", tag, option(&file), &context])
            .run()
            .ok();
    };
    let names = |tag: &str| list(&env, tag);
    build(&denying(), "denied");
    assert_eq!(names("denied"), "not-made\n");
    // What the profile says is part of the step, not where it lies.
    build(&open, "open");
    assert_eq!(names("open"), "made\n");
    build(&denying(), "again");
    assert_eq!(names("again"), "not-made\n");
}

/// Names in the root of an image that a step made.
fn list(env: &TestEnv, image: &str) -> String {
    env.rbuild([
        "run",
        "--rm",
        "--network=none",
        image,
        "sh",
        "-c",
        "cd /; ls -d *made",
    ])
    .run()
    .ok()
    .out()
}

#[test]
fn a_profile_that_cannot_be_used_is_told_before_anything_runs() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("c", "FROM busybox\nRUN true\n");
    let missing = env.path().join("missing.json");
    let text = env
        .files("text", &[("profile.json", "not json")])
        .join("profile.json");
    let action = profile(
        &env,
        "action",
        &json!({"defaultAction": "SCMP_ACT_PERHAPS"}),
    );
    let notify = profile(&env, "notify", &json!({"defaultAction": "SCMP_ACT_NOTIFY"}));
    for (file, want) in [
        (missing, "no such file or directory"),
        (text, "no seccomp profile in JSON"),
        (action, "unknown action \"SCMP_ACT_PERHAPS\""),
        (notify, "`SCMP_ACT_NOTIFY` is not supported"),
    ] {
        let shown = file.display().to_string();
        sh(&env, &[&option(&file)], "echo ran")
            .exits(125)
            .says(want)
            .says(&shown);
        env.rbuild(args!["build", option(&file), &context])
            .run()
            .exits(1)
            .says(want)
            .says(&shown);
    }
}
