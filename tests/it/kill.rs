//! Killing the command at any moment loses nothing and leaves nothing.

use std::time::Duration;

use rustix::process::Signal;

use crate::args;
use crate::support::{TestEnv, leftovers};

mod anywhere;
mod network;

/// The step waits as long as the secret, which is no part of its identity, says so.
const GATED: &str = "FROM busybox\n\
    RUN echo first >/first\n\
    RUN --mount=type=secret,id=gate sleep 1000 & echo half >/result; \
    if grep -q shut /run/secrets/gate; then echo at-the-gate; sleep 1000; fi; \
    kill $!; echo whole >/result\n";

#[test]
fn kill_9_in_the_middle_of_a_run() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("c", GATED);
    let secret = |state: &str| {
        let file = env.files("secrets", &[("gate", state)]).join("gate");
        format!("id=gate,src={}", file.display())
    };
    let shut = secret("shut");
    let mut build = env
        .rbuild(args![
            "build",
            "--progress",
            "plain",
            "--secret",
            shut,
            context
        ])
        .spawn();
    build.wait_for_line(" at-the-gate");
    build.kill();
    assert_eq!(build.wait().code(), 137);
    let left = leftovers::wait_until_gone(env.path());
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    env.assert_sound_store();
    let open = secret("open");
    let outcome = env
        .rbuild(args![
            "build",
            "--progress",
            "plain",
            "--secret",
            open,
            "-t",
            "x",
            context
        ])
        .run()
        .ok();
    let (ran, cached) = crate::support::progress::ran_and_cached(&outcome.stderr);
    assert_eq!((ran.len(), cached.len()), (1, 1), "{}", outcome.stderr);
    let output = env
        .rbuild(["run", "--rm", "x", "cat", "/first", "/result"])
        .run()
        .ok();
    assert_eq!(output.out(), "first\nwhole\n");
}

#[test]
fn interrupt_ends_a_build_in_good_order() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("c", "FROM busybox\nRUN echo at-the-gate; sleep 1000\n");
    for signal in [Signal::INT, Signal::TERM] {
        let build = env
            .rbuild(args!["build", "--progress", "plain", context])
            .spawn();
        build.wait_for_line(" at-the-gate");
        build.signal(signal);
        let outcome = build.wait();
        assert_ne!(outcome.code(), 0, "{}", outcome.stderr);
        assert!(outcome.elapsed < Duration::from_mins(1));
        let left = leftovers::wait_until_gone(env.path());
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }
    env.assert_sound_store();
}

/// Kills at many moments of a whole build, each time going on with the same store.
#[test]
fn kill_9_at_any_moment() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.fixture("hello");
    for step in 1..=24 {
        let mut build = env.rbuild(args!["build", "-t", "hello", context]).spawn();
        // Not a wait for something: the moment of the kill is what this test varies.
        std::thread::sleep(Duration::from_millis(step * 12));
        build.kill();
        build.wait();
        let left = leftovers::wait_until_gone(env.path());
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }
    env.assert_sound_store();
    env.build("hello", &context);
    let output = env.rbuild(["run", "--rm", "hello"]).run().ok();
    assert!(
        output.out().ends_with("3 greetings from greeter in /srv\n"),
        "{}",
        output.out()
    );
    env.assert_sound_store();
}
