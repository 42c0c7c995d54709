//! The text that a build prints when standard error is no terminal.

use std::fmt::Write as _;

use crate::args;
use crate::support::TestEnv;

/// Replaces times and ids, which differ from run to run.
fn normal(text: &str) -> String {
    let mut normal = String::new();
    for line in text.lines() {
        let words: Vec<String> = line.split(' ').map(normal_word).collect();
        let _ = writeln!(normal, "{}", words.join(" "));
    }
    normal
}

fn normal_word(word: &str) -> String {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_time = |text: &str, places: usize| {
        let parts = text.split_once('.');
        parts.is_some_and(|(whole, rest)| digits(whole) && digits(rest) && rest.len() == places)
    };
    if word.contains("/store/builds/") {
        format!("STORE/{}", word.rsplit('/').next().unwrap_or_default())
    } else if let Some(id) = word.strip_prefix("sha256:") {
        assert!(id.bytes().all(|b| b.is_ascii_hexdigit()), "{word}");
        "sha256:ID".to_owned()
    } else if is_time(word, 3) {
        "T".to_owned()
    } else if word.strip_suffix('s').is_some_and(|text| is_time(text, 1)) {
        "Ts".to_owned()
    } else {
        word.to_owned()
    }
}

#[track_caller]
fn assert_text(got: &str, want: &str) {
    let got = normal(got);
    assert!(got == want, "--- got\n{got}--- want\n{want}---");
}

const DOCKERFILE: &str = "FROM busybox
ENV word=hello
COPY a /a
RUN echo $word; sleep 0.1; echo second >&2; sleep 0.1; echo last
CMD cat /a
";

#[test]
fn a_build_and_its_repetition() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.files("c", &[("Dockerfile", DOCKERFILE), ("a", "A")]);
    let build = || {
        let invocation = env.rbuild(args!["build", "--progress", "plain", "-t", "x:1", context]);
        invocation.run().ok()
    };
    let first = build();
    assert_eq!(first.out(), "");
    assert_text(&first.stderr, FIRST);
    assert_text(&build().stderr, SECOND);
    // Not a terminal: plain without being asked for.
    let unasked = env.rbuild(args!["-t", "x:1", context]).run().ok();
    assert_text(&unasked.stderr, SECOND);
}

const FIRST: &str = "\
#1 [1/3] FROM busybox
#1 CACHED

#2 [2/3] COPY a /a
#2 miss: COPY a — first build of this step
#2 DONE Ts

#3 [3/3] RUN echo hello; sleep 0.1; echo second >&2; sleep 0.1; echo last
#3 miss: RUN — first build of this step
#3 T hello
#3 T second
#3 T last
#3 DONE Ts

 1 warning found:
 - JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 5)
built sha256:ID as x:1
";

const SECOND: &str = "\
#1 [1/3] FROM busybox
#1 CACHED

#2 [2/3] COPY a /a
#2 CACHED

#3 [3/3] RUN echo hello; sleep 0.1; echo second >&2; sleep 0.1; echo last
#3 CACHED

 1 warning found:
 - JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 5)
built sha256:ID as x:1
";

#[test]
fn a_failing_build() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox\n\nRUN true\nRUN echo before; \\\n    exit 3\nRUN never\n\n";
    let context = env.dockerfile("c", text);
    let outcome = env
        .rbuild(args!["build", "--progress", "plain", "-t", "x:1", context])
        .run()
        .exits(1);
    assert_eq!(outcome.out(), "");
    assert_text(&outcome.stderr, FAILED);
}

const FAILED: &str = r#"#1 [1/4] FROM busybox
#1 CACHED

#2 [2/4] RUN true
#2 miss: RUN — first build of this step
#2 DONE Ts

#3 [3/4] RUN echo before;     exit 3
#3 miss: RUN — first build of this step
#3 T before
#3 ERROR: process "/bin/sh -c echo before;     exit 3" did not complete successfully: exit code: 3
------
 > [3/4] RUN echo before;     exit 3:
T before
------
Dockerfile:4
--------------------
   3 |     RUN true
   4 | >>> RUN echo before; \
   5 | >>>     exit 3
   6 |     RUN never
--------------------
ERROR: failed to build: failed to solve: process "/bin/sh -c echo before;     exit 3" did not complete successfully: exit code: 3
note: ran as root in /
note: full log: STORE/step-2.log
hint: `rbuild debug` opens a shell in what the step left
"#;

/// The stream that programs read, with digests, times and ids made steady.
#[test]
fn a_build_for_programs() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.files(
        "c",
        &[("Dockerfile", "FROM busybox\nRUN echo out; exit 3\n")],
    );
    let outcome = env
        .rbuild(args!["--progress", "rawjson", "-t", "x", context])
        .run()
        .exits(1);
    let mut names: Vec<String> = Vec::new();
    let mut text = String::new();
    for line in outcome.stderr.lines().filter(|line| line.starts_with('{')) {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        steady(&mut value, &mut names);
        let _ = writeln!(text, "{value}");
    }
    assert!(text == RAW, "--- got\n{text}--- want\n{RAW}---");
    let after: Vec<&str> = outcome
        .stderr
        .lines()
        .filter(|line| !line.starts_with('{'))
        .collect();
    assert!(
        after
            .iter()
            .any(|line| line.starts_with("ERROR: failed to build")),
        "{after:?}"
    );
}

/// Numbers digests by their first appearance; takes times away.
fn steady(value: &mut serde_json::Value, names: &mut Vec<String>) {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                let time = ["started", "completed", "timestamp"].contains(&name.as_str());
                if time && field.is_string() {
                    *field = Value::from("T");
                } else {
                    steady(field, names);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| steady(value, names)),
        Value::String(text) if text.starts_with("sha256:") => {
            let known = names.iter().position(|name| name == text);
            let number = known.unwrap_or_else(|| {
                names.push(text.clone());
                names.len() - 1
            });
            *text = format!("digest-{number}");
        }
        _ => {}
    }
}

const RAW: &str = r#"{"vertexes":[{"cached":true,"completed":"T","digest":"digest-0","name":"[1/2] FROM busybox","started":"T"},{"cached":true,"completed":"T","digest":"digest-0","name":"[1/2] FROM busybox","started":"T"}]}
{"vertexes":[{"digest":"digest-1","name":"[2/2] RUN echo out; exit 3","started":"T"}]}
{"logs":[{"data":"b3V0Cg==","stream":1,"timestamp":"T","vertex":"digest-1"}]}
{"vertexes":[{"completed":"T","digest":"digest-1","error":"process \"/bin/sh -c echo out; exit 3\" did not complete successfully: exit code: 3","name":"[2/2] RUN echo out; exit 3","started":"T"}]}
"#;
