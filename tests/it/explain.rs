//! Why a step ran: `rbuild explain`, `--explain` and the line of a miss.

use std::fs;

use serde_json::Value;

use crate::args;
use crate::support::TestEnv;
use crate::support::progress::{parse, step};

fn explained(env: &TestEnv, arguments: &[&str]) -> Value {
    let outcome = env
        .rbuild(["explain", "--format", "json"].iter().chain(arguments))
        .run()
        .ok();
    serde_json::from_slice(&outcome.stdout).unwrap()
}

fn state_of<'a>(report: &'a Value, text: &str) -> &'a Value {
    let steps = report["steps"].as_array().unwrap();
    let found = steps
        .iter()
        .find(|step| step["name"].as_str().unwrap().contains(text));
    found.unwrap_or_else(|| panic!("no step {text:?} in {report:#}"))
}

#[test]
fn a_miss_names_the_files_that_changed_and_counts_the_rest() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nCOPY src/ /src\n");
    fs::create_dir(context.join("src")).unwrap();
    for i in 0..1204 {
        fs::write(context.join(format!("src/{i:04}")), "old").unwrap();
    }
    env.build("x", &context);
    for i in [3, 1000] {
        fs::write(context.join(format!("src/{i:04}")), "new").unwrap();
    }
    fs::write(context.join("src/more"), "").unwrap();
    let outcome = env.build("x", &context);
    let steps = parse(&outcome.stderr);
    assert_eq!(
        step(&steps, "COPY src/").miss.as_deref(),
        Some("2 of 1,205 files changed: src/0003, src/1000 (+1 new)")
    );
    let text = env.rbuild(["explain"]).run().ok().out();
    assert!(
        text.contains("miss: COPY src/ /src — 2 of 1,205 files changed"),
        "{text}"
    );
    assert!(text.contains("            + src/more\n"), "{text}");
}

#[test]
fn the_whole_build_is_told_step_by_step_and_by_image() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox\nARG VERSION\nENV mode=fast\nWORKDIR /w\n\
                RUN echo $VERSION >v\nRUN echo after >w\n";
    let context = env.dockerfile("c", text);
    let build = |version: &str| {
        let version = format!("VERSION={version}");
        env.rbuild(args![
            "-t",
            "app",
            "--build-arg",
            version,
            "--explain=json",
            context
        ])
        .run()
        .ok()
    };
    build("1.2");
    let outcome = build("1.3");
    let report: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(report, explained(&env, &["--last"]));
    assert_eq!(report, explained(&env, &["app"]));
    assert_eq!(state_of(&report, "WORKDIR")["state"], "hit");
    let first = state_of(&report, ">v");
    assert_eq!(first["state"], "ran");
    assert_eq!(first["reason"], r#"ARG VERSION "1.2" → "1.3""#);
    assert_eq!(first["changes"][0]["part"], "ARG VERSION");
    assert_eq!(first["size"], 4);
    let second = state_of(&report, ">w");
    let both = r#"ARG VERSION "1.2" → "1.3""#;
    assert_eq!(second["reason"], both, "the argument is in scope here, too");
    // Another build in between does not hide what is known of the image.
    let other = env.dockerfile("other", "FROM busybox\nRUN echo other\n");
    env.build("other", &other);
    assert_eq!(report, explained(&env, &["app"]));
    let last = explained(&env, &[]);
    assert_eq!(
        state_of(&last, "RUN echo other")["reason"],
        "first build of this step"
    );
    env.rbuild(["explain", "busybox"])
        .run()
        .fails_with("it is not known how busybox was built");
}

#[test]
fn a_step_above_is_named_when_only_that_changed() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("c", "FROM busybox\nCOPY a /\nRUN echo done\n");
    fs::write(context.join("a"), "1").unwrap();
    env.build("x", &context);
    fs::write(context.join("a"), "2").unwrap();
    let outcome = env.build("x", &context);
    let steps = parse(&outcome.stderr);
    assert_eq!(step(&steps, "COPY a").miss.as_deref(), Some("a changed"));
    assert_eq!(
        step(&steps, "RUN echo").miss.as_deref(),
        Some("parent step [2/3] changed")
    );
}

#[test]
fn a_failed_build_is_told_too_and_secrets_are_not() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox\n\
                RUN --mount=type=secret,id=s,env=TOKEN test -n \"$TOKEN\" && exit 3\n\
                RUN echo never\n";
    let context = env.files("c", &[("Dockerfile", text), ("secret", "hunter2-value")]);
    let secret = crate::support::process::with_path("id=s,src=", &context.join("secret"));
    let failed = env
        .rbuild(args!["--secret", secret, "--explain", context])
        .run()
        .exits(1);
    assert!(failed.out().contains("failed"), "{}", failed.out());
    let report = explained(&env, &[]);
    assert_eq!(state_of(&report, "exit 3")["state"], "failed");
    assert_eq!(state_of(&report, "echo never")["state"], "notReached");
    assert!(report["error"].as_str().unwrap().contains("exit code: 3"));
    let told = format!("{report}{}", failed.text());
    assert!(!told.contains("hunter2-value"), "{told}");
}

#[test]
fn an_explanation_does_not_mix_with_an_archive_on_standard_output() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nCOPY Dockerfile /\n");
    let outcome = env.rbuild(args!["-o", "-", "--explain", context]).run();
    outcome
        .exits(2)
        .says("cannot be used together")
        .says("rbuild explain");
    env.rbuild(["explain"])
        .run()
        .fails_with("nothing has been built on this store yet");
}
