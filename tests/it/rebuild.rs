//! The build cache: what is run again after a change, and what is not.

use std::fs;
use std::time::Duration;

use crate::args;
use crate::support::TestEnv;
use crate::support::progress::{parse, ran_and_cached, step};

/// Steps of the hello fixture without its `FROM` lines: `WORKDIR /work` of two stages is one step.
const STEPS: usize = 9;

#[test]
fn a_second_identical_build_runs_no_step_and_gives_the_same_image() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.fixture("hello");
    let first = env.build("hello", &context);
    let id = env.inspect("hello", "{{.Id}}");
    let (ran, cached) = ran_and_cached(&first.stderr);
    assert_eq!((ran.len(), cached.len()), (STEPS, 0), "{}", first.stderr);
    let second = env.build("hello", &context);
    let (ran, cached) = ran_and_cached(&second.stderr);
    assert_eq!((ran.len(), cached.len()), (0, STEPS), "{}", second.stderr);
    assert_eq!(env.inspect("hello", "{{.Id}}"), id);
    assert!(
        second.elapsed < Duration::from_secs(1),
        "took {:?}",
        second.elapsed
    );
}

#[test]
fn quiet_prints_the_image_id_and_nothing_else() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.fixture("hello");
    let outcome = env
        .rbuild(args!["build", "-q", "-t", "hello", context])
        .run()
        .ok();
    assert_eq!(outcome.out().trim_end(), env.inspect("hello", "{{.Id}}"));
    assert_eq!(outcome.stderr, "");
}

#[test]
fn the_word_build_may_be_left_out_and_options_may_follow_the_path() {
    let env = TestEnv::new();
    let context = env.files(
        "c",
        &[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "A")],
    );
    let with = env
        .rbuild(args!["build", "-q", "-t", "x", context])
        .run()
        .ok();
    let without = env.rbuild(args![context, "-q", "-t", "x"]).run().ok();
    assert_eq!(with.out(), without.out());
}

#[test]
fn a_changed_file_runs_only_what_depends_on_it_and_is_named_as_the_reason() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.fixture("hello");
    env.build("hello", &context);
    fs::write(context.join("names.txt"), "Grace\nAda\nEdsger\nBarbara\n").unwrap();
    let outcome = env.build("hello", &context);
    let (ran, cached) = ran_and_cached(&outcome.stderr);
    let words = [
        "COPY names.txt .",
        "RUN sort names.txt >sorted",
        "COPY --from=names",
    ];
    assert_eq!(ran.len(), 4, "{}", outcome.stderr);
    for word in words {
        assert!(
            ran.iter().any(|title| title.contains(word)),
            "{word} in {ran:?}"
        );
    }
    assert!(
        cached.iter().any(|title| title.contains("greeter")),
        "{cached:?}"
    );
    let steps = parse(&outcome.stderr);
    let reason = step(&steps, "COPY names.txt .")
        .miss
        .as_deref()
        .unwrap_or_default();
    assert!(
        reason.contains("names.txt"),
        "reason of the miss: {reason:?}"
    );
}

#[test]
fn a_step_rebuilt_into_the_same_content_is_a_hit_downstream() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.fixture("hello");
    env.build("hello", &context);
    // Another order, sorted into the same result.
    fs::write(context.join("names.txt"), "Ada\nGrace\nEdsger\n").unwrap();
    let outcome = env.build("hello", &context);
    let (ran, cached) = ran_and_cached(&outcome.stderr);
    assert_eq!(ran.len(), 2, "{}", outcome.stderr);
    assert!(
        cached
            .iter()
            .any(|title| title.contains("COPY --from=names")),
        "{cached:?}"
    );
}

#[test]
fn no_cache_runs_every_step_again() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.fixture("hello");
    env.build("hello", &context);
    let again = env
        .rbuild(args!["--no-cache", "--progress", "plain", context])
        .run()
        .ok();
    let (ran, cached) = ran_and_cached(&again.stderr);
    assert_eq!((ran.len(), cached.len()), (STEPS, 0), "{}", again.stderr);
}

#[test]
fn a_changed_build_argument_is_named_as_the_reason() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.fixture("hello");
    env.build("hello", &context);
    let again = env
        .rbuild(args![
            "--build-arg",
            "GREETING=Hi",
            "-t",
            "hi",
            "--progress",
            "plain",
            context
        ])
        .run()
        .ok();
    let steps = parse(&again.stderr);
    let run = step(&steps, "RUN sed");
    assert!(!run.cached, "{}", again.stderr);
    let reason = run.miss.as_deref().unwrap_or_default();
    assert!(
        reason.contains("GREETING"),
        "reason of the miss: {reason:?}"
    );
    let output = env.rbuild(["run", "--rm", "hi"]).run().ok();
    assert!(output.out().starts_with("Hi, Ada!\n"), "{}", output.out());
}
