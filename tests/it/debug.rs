//! `rbuild debug` and `--on-error=shell`: the exact state around a step.

use std::fs;

use crate::args;
use crate::support::process::with_path;
use crate::support::{Outcome, TestEnv, needs};

/// A build that fails in its last step, after having written something there.
const FAILING: &str = "FROM busybox
ENV COLOUR=green
WORKDIR /work
COPY given .
RUN echo one >first && mkdir dir
USER 1000:1000
RUN --mount=type=cache,target=/c,mode=777 --mount=type=tmpfs,target=/t \\
    echo cached >/c/f; echo half >/tmp/half; id -u; exit 9
";

fn failed(env: &TestEnv) {
    env.import_busybox();
    let context = env.files("c", &[("Dockerfile", FAILING), ("given", "g")]);
    let outcome = env.rbuild(args!["-t", "x", context]).run();
    outcome
        .fails_with("exit code: 9")
        .says("note: ran as user 1000:1000 in /work, with cache on /c, tmpfs on /t")
        .says("hint: `rbuild debug` opens a shell in what the step left");
}

fn debug(env: &TestEnv, args: &[&str], script: &str) -> Outcome {
    let invocation = env.rbuild(["debug"].iter().chain(args));
    invocation.stdin(script).run()
}

#[test]
fn a_shell_opens_in_what_the_failed_step_left() {
    let env = TestEnv::new();
    failed(&env);
    let script = "id -u; id -g; pwd; echo $COLOUR; cat /tmp/half /c/f first given; \
                  grep -c ' /t tmpfs' /proc/mounts; echo new >/tmp/new; exit 5\n";
    let outcome = debug(&env, &[], script).exits(5);
    assert_eq!(
        outcome.out(),
        "1000\n1000\n/work\ngreen\nhalf\ncached\none\ng1\n"
    );
    let outcome = outcome.says("what was left by [5/5] RUN --mount");
    assert!(
        outcome.stderr.contains("its command: "),
        "{}",
        outcome.stderr
    );
    // What was done there is gone, what the step left is still there.
    let again = debug(&env, &["last"], "ls /tmp\n").ok();
    assert_eq!(again.out(), "half\n");
    env.assert_sound_store();
}

#[test]
fn any_step_can_be_looked_at_before_and_after() {
    let env = TestEnv::new();
    failed(&env);
    let list = debug(&env, &["--list"], "").ok().out();
    assert_eq!(list.lines().count(), 4, "{list}");
    assert!(list.contains("4  failed   [5/5] RUN"), "{list}");
    let ls = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["--", "ls", "/work"]);
        debug(&env, &all, "")
    };
    assert_eq!(ls(&["--before"]).ok().out(), "dir\nfirst\ngiven\n");
    assert_eq!(
        ls(&["--step", "echo one"]).ok().out(),
        "dir\nfirst\ngiven\n"
    );
    assert_eq!(ls(&["--step", "3", "--before"]).ok().out(), "given\n");
    assert_eq!(ls(&["--step", "COPY"]).ok().out(), "given\n");
    assert_eq!(ls(&["--step", "COPY", "--before"]).ok().out(), "");
    for (step, error) in [
        ("9", "the build has no step 9"),
        ("nonsense", "the build has no step \"nonsense\""),
        ("RUN", "several steps have \"RUN\" in their names"),
    ] {
        let outcome = debug(&env, &["--step", step], "").exits(125);
        outcome.says(error).says("rbuild debug --list");
    }
}

#[test]
fn the_failed_state_goes_with_the_next_build_or_prune() {
    let env = TestEnv::new();
    failed(&env);
    let kept = || {
        let builds = fs::read_dir(env.store().join("builds")).unwrap();
        builds
            .filter(|build| build.as_ref().unwrap().path().extension().is_some())
            .count()
    };
    assert_eq!(kept(), 1);
    env.rbuild(["prune", "-f"]).run().ok();
    assert_eq!(kept(), 0);
    let outcome = debug(&env, &[], "").exits(125);
    outcome
        .says("what the failed step left is not kept any more")
        .says("--before");
    failed(&env);
    assert_eq!(kept(), 1);
    let other = env.dockerfile("other", "FROM busybox\nRUN echo fine >/fine\n");
    env.build("other", &other);
    assert_eq!(kept(), 0);
    // The state after the steps of a build that went well.
    assert_eq!(
        debug(&env, &["other", "--", "cat", "/fine"], "").ok().out(),
        "fine\n"
    );
    env.assert_sound_store();
}

#[test]
fn secrets_are_given_again_and_networks_stay_as_they_were() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox\n\
                RUN --network=none --mount=type=secret,id=s,env=TOKEN test \"$TOKEN\" = never\n";
    let context = env.files("c", &[("Dockerfile", text), ("secret", "hunter2-value")]);
    let secret = with_path("id=s,src=", &context.join("secret"));
    env.rbuild(args!["--secret", secret, context])
        .run()
        .fails_with("exit code: 1")
        .says("secret s as $TOKEN, without network");
    let kept = env
        .host("grep")
        .args(args!["-r", "hunter2", env.store()])
        .run();
    assert_eq!(kept.code(), 1, "the secret is in the store: {}", kept.out());
    let script = "echo \"<$TOKEN>\"; ls /sys/class/net\n";
    let without = debug(&env, &[], script).ok();
    assert_eq!(without.out(), "<>\nlo\n");
    without.says("the secret s is not there: give it with `--secret id=s,…`");
    let with = env
        .rbuild(args!["debug", "--secret", secret])
        .stdin(script)
        .run()
        .ok();
    assert_eq!(with.out(), "<hunter2-value>\nlo\n");
}

#[test]
fn an_image_without_a_shell_gets_one() {
    let env = TestEnv::new();
    needs::program("busybox", "busybox-static");
    let context = env.files(
        "c",
        &[
            ("Dockerfile", "FROM scratch\nCOPY a b /\n"),
            ("a", "A"),
            ("b", "B"),
        ],
    );
    env.build("bare", &context);
    let outcome = debug(&env, &["bare"], "cat /a; ls /; pwd | tr / x\n").ok();
    assert_eq!(outcome.out(), "Aa\nb\ndev\netc\nproc\nsys\nx\n");
    outcome.says("the image has no shell of its own: this is");
    let failing = env.dockerfile("d", "FROM bare\nRUN [\"/tool\", \"--now\"]\n");
    env.rbuild(args![failing])
        .run()
        .fails_with("exit code: 1")
        .says("/tool is not in the image");
    assert_eq!(
        debug(&env, &["--", "/.rbuild/bin/ls", "/a"], "").ok().out(),
        "/a\n"
    );
}

#[test]
fn a_failing_build_opens_the_shell_by_itself() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("c", "FROM busybox\nRUN echo half >/half; exit 3\n");
    let outcome = env
        .rbuild(args!["--on-error=shell", "-t", "x", context])
        .stdin("cat /half; exit 7\n")
        .run()
        .exits(1);
    assert_eq!(outcome.out(), "half\n");
    let outcome = outcome.says("exit code: 3");
    outcome.says("what was left by [2/2] RUN");
    // A step that runs no command: its state before.
    let context = env.dockerfile("d", "FROM busybox\nRUN touch /made\nCOPY nothing /\n");
    let outcome = env
        .rbuild(args!["--on-error=shell", "-t", "x", context])
        .stdin("ls /made\n")
        .run()
        .exits(1);
    assert_eq!(outcome.out(), "/made\n");
}

/// Where nothing can be mounted, the shell stands in a copy of the root.
#[test]
fn a_shell_opens_without_namespaces_too() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox\nRUN --mount=type=cache,target=/c echo cached >/c/f; echo half >/half; exit 3\n";
    let context = env.dockerfile("c", text);
    let by_chroot = |invocation: crate::support::process::Invocation| {
        invocation.env("RBUILD_ISOLATION", "chroot")
    };
    by_chroot(env.rbuild(args!["-t", "x", context]))
        .run()
        .fails_with("exit code: 3");
    for _ in 0..2 {
        let look = by_chroot(env.rbuild(["debug"])).stdin("cat /half /c/f; rm /half\n");
        assert_eq!(look.run().ok().out(), "half\ncached\n");
    }
    let before = by_chroot(env.rbuild(["debug", "--before", "--", "ls", "/half"])).run();
    assert_ne!(before.code(), 0);
    env.assert_sound_store();
}

#[test]
fn the_whole_output_of_a_step_is_kept() {
    let env = TestEnv::new();
    env.import_busybox();
    let text = "FROM busybox\nRUN i=0; while [ $i -lt 50000 ]; do echo line-$i; i=$((i+1)); done; exit 4\n";
    let context = env.dockerfile("c", text);
    let outcome = env
        .rbuild(args!["--progress=quiet", context])
        .run()
        .exits(1);
    let line = outcome
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("note: full log: "))
        .unwrap_or_else(|| panic!("no log in:\n{}", outcome.stderr));
    let log = fs::read_to_string(line).unwrap();
    assert_eq!(log.lines().count(), 50_000);
    assert!(log.starts_with("line-0\nline-1\n") && log.ends_with("line-49999\n"));
    let shown = outcome
        .stderr
        .lines()
        .filter(|line| line.contains(" line-4999"));
    assert_eq!(shown.count(), 10);
    assert!(
        outcome.stderr.contains("(49950 lines before)"),
        "{}",
        outcome.stderr
    );
}
