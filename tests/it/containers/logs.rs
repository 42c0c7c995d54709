//! Logs that are limited, carry details, or are not kept.

use std::fs;

use super::life::until;
use super::{states, told, with_busybox};

#[test]
fn a_log_is_kept_within_its_limits_and_followed_through_its_files() {
    let env = with_busybox();
    // As slow as its reader, so that the reader misses nothing.
    let script = "i=0; while read line; do i=$((i+1)); echo number $i; done; exit 3";
    told(
        &env,
        &[
            "create",
            "-i",
            "--name",
            "talks",
            "--log-opt",
            "max-size=2k",
            "--log-opt",
            "max-file=3",
            "busybox",
            "sh",
            "-c",
            script,
        ],
    );
    let lines = "x\n".repeat(300);
    let shown = env
        .rbuild(["start", "-ai", "talks"])
        .stdin(lines)
        .run()
        .exits(3);
    assert_eq!(shown.out().lines().count(), 300);
    let id = told(&env, &["ps", "-aq", "--no-trunc"]);
    let directory = env.store().join("containers").join(id);
    let mut files: Vec<(String, u64)> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                entry.metadata().unwrap().len(),
            )
        })
        .filter(|(name, _)| name.starts_with("log"))
        .collect();
    files.sort();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["log", "log.1", "log.2"]);
    assert!(files.iter().all(|(_, size)| *size < 2300), "{files:?}");
    let kept = told(&env, &["logs", "talks"]);
    let kept: Vec<&str> = kept.lines().collect();
    let wanted: Vec<String> = (301 - kept.len()..301)
        .map(|i| format!("number {i}"))
        .collect();
    assert_eq!(kept, wanted);
    assert!((30..100).contains(&kept.len()), "{kept:?}");
    assert_eq!(told(&env, &["logs", "-n", "1", "talks"]), "number 300");
    let shown = "{{.HostConfig.LogConfig.Type}} {{json .HostConfig.LogConfig.Config}}";
    assert_eq!(
        told(&env, &["inspect", "-f", shown, "talks"]),
        "json-file {\"max-file\":\"3\",\"max-size\":\"2048\"}"
    );
    told(&env, &["rm", "talks"]);
    assert!(!directory.exists());
}

#[test]
fn details_stand_before_each_line_and_a_log_that_is_not_kept_cannot_be_shown() {
    let env = with_busybox();
    told(
        &env,
        &[
            "run",
            "-d",
            "--name",
            "job",
            "-l",
            "stage=test",
            "-l",
            "other=x",
            "-e",
            "WHO=me",
            "--log-opt",
            "labels=stage,nope",
            "--log-opt",
            "env=WHO",
            "busybox",
            "echo",
            "hello",
        ],
    );
    told(&env, &["wait", "job"]);
    assert_eq!(
        told(&env, &["logs", "--details", "job"]),
        "WHO=me,stage=test hello"
    );
    assert_eq!(told(&env, &["logs", "job"]), "hello");
    let out = told(
        &env,
        &[
            "run",
            "--log-driver",
            "none",
            "--name",
            "quiet",
            "busybox",
            "echo",
            "hi",
        ],
    );
    assert_eq!(out, "hi");
    env.rbuild(["logs", "quiet"])
        .run()
        .fails_with("the log driver `none` of the container keeps nothing");
    env.rbuild(["run", "--log-driver", "syslog", "busybox", "true"])
        .run()
        .exits(125)
        .says("the log driver `syslog`");
    env.rbuild(["run", "--log-opt", "colour=red", "busybox", "true"])
        .run()
        .exits(125)
        .says("unknown log opt 'colour' for json-file log driver");
    told(&env, &["rm", "job", "quiet"]);
}

#[test]
fn a_log_is_followed_through_the_restarts_of_its_container() {
    let env = with_busybox();
    let script = "echo x >> /count; n=$(wc -l < /count); echo life $n >&2; sleep 0.1; exit 1";
    told(
        &env,
        &[
            "create",
            "--name",
            "lives",
            "--restart",
            "on-failure:2",
            "busybox",
            "sh",
            "-c",
            script,
        ],
    );
    told(&env, &["start", "lives"]);
    let log = env.rbuild(["logs", "-f", "lives"]).run().ok();
    assert_eq!(log.stderr, "life 1\nlife 2\nlife 3\n");
    until(
        || states(&env),
        |states| states == &["lives exited Exited (1)"],
    );
    told(&env, &["rm", "lives"]);
}
