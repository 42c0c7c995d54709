//! Bad input: one clear message with its place, exit status 1, a sound store.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::args;
use crate::support::process::{Outcome, with_path};
use crate::support::{TestEnv, needs};

/// A build in `env` that must fail with `error`, pointing at `place` and showing `excerpt`.
#[track_caller]
fn fails(env: &TestEnv, dockerfile: &str, error: &str, place: &str, excerpt: &str) -> Outcome {
    let context = env.dockerfile("bad", dockerfile);
    let outcome = env
        .rbuild(args!["build", "--progress", "plain", "-t", "bad", context])
        .run();
    let outcome = outcome.fails_with(error);
    let text = format!("\n{}", outcome.stderr);
    for part in [
        format!("\n{place}\n--------------------\n"),
        format!(" | >>> {excerpt}\n"),
    ] {
        assert!(text.contains(&part), "no {part:?} in:{text}");
    }
    let images = env.rbuild(["images", "-q", "bad"]).run().ok();
    assert_eq!(images.out(), "", "a failed build must not make an image");
    env.assert_sound_store();
    outcome
}

#[test]
fn no_dockerfile() {
    let env = TestEnv::new();
    let context = env.files("empty", &[]);
    env.rbuild(args![context])
        .run()
        .fails_with("failed to read dockerfile: open Dockerfile: no such file or directory");
    env.rbuild(args![context, "-f", "nope.Dockerfile"])
        .run()
        .fails_with("nope.Dockerfile");
    let missing = env.join("missing");
    env.rbuild(args![missing]).run().fails_with("missing");
}

#[test]
fn unknown_instruction() {
    let env = TestEnv::new();
    let text = "FROM scratch\nCPOY a /\n";
    let error = "dockerfile parse error on line 2: unknown instruction: CPOY (did you mean COPY?)";
    fails(&env, text, error, "Dockerfile:2", "CPOY a /");
}

#[test]
fn missing_copy_source() {
    let env = TestEnv::new();
    let error = "\"/not-there\": not found";
    fails(
        &env,
        "FROM scratch\nCOPY not-there /\n",
        error,
        "Dockerfile:2",
        "COPY not-there /",
    );
}

#[test]
fn missing_base() {
    let env = TestEnv::new();
    let text = "FROM scratch\nFROM not-there.invalid/base:1\nRUN true\n";
    let line = "FROM not-there.invalid/base:1";
    fails(&env, text, "not-there.invalid/base:1", "Dockerfile:2", line);
}

#[test]
fn failing_run_shows_its_output_and_status() {
    let env = TestEnv::new();
    env.import_busybox();
    let outcome = fails(
        &env,
        "FROM busybox\nRUN echo to-out; \\\n    echo to-err >&2; exit 3\n",
        "process \"/bin/sh -c echo to-out;     echo to-err >&2; exit 3\" \
         did not complete successfully: exit code: 3",
        "Dockerfile:2",
        "RUN echo to-out; \\",
    );
    // Once while it ran, once above the error.
    for word in ["to-out", "to-err"] {
        let lines = outcome
            .stderr
            .lines()
            .filter(|line| line.ends_with(&format!(" {word}")));
        assert!(lines.count() >= 2, "{word} twice in:\n{}", outcome.stderr);
    }
}

#[test]
fn a_failed_build_keeps_what_succeeded() {
    let env = TestEnv::new();
    env.import_busybox();
    fails(
        &env,
        "FROM busybox\nRUN echo 1 >/a\nRUN false\n",
        "exit code: 1",
        "Dockerfile:3",
        "RUN false",
    );
    let context = env.dockerfile("bad", "FROM busybox\nRUN echo 1 >/a\nRUN true\n");
    let outcome = env.build("good", &context);
    let (ran, cached) = crate::support::progress::ran_and_cached(&outcome.stderr);
    assert_eq!((ran.len(), cached.len()), (1, 1), "{}", outcome.stderr);
}

/// Root without the right to read everything is an ordinary user to a file of mode 0.
#[test]
fn unreadable_context_file() {
    let env = TestEnv::new();
    let setpriv = needs::program("setpriv", "util-linux");
    let context = env.files(
        "c",
        &[
            ("Dockerfile", "FROM scratch\nCOPY d /d\n"),
            ("d/locked", "x"),
            ("d/open", "y"),
        ],
    );
    let locked = context.join("d/locked");
    chown(&locked, Some(1234), Some(1234)).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let outcome = env
        .host(setpriv)
        .args(["--bounding-set=-dac_override,-dac_read_search", "--"])
        .args(args![
            env!("CARGO_BIN_EXE_rbuild"),
            "build",
            "--progress",
            "plain",
            context
        ])
        .run();
    outcome
        .fails_with("could not read")
        .says("d/locked")
        .says("permission denied");
    env.assert_sound_store();
}

/// Runs `rbuild ARGS…` where `directory` is a file system of `size` bytes, of nobody else's sight.
fn on_small_disk(env: &TestEnv, directory: &str, size: u64, args: &str) -> Outcome {
    needs::program("unshare", "util-linux");
    let rbuild = env!("CARGO_BIN_EXE_rbuild");
    let script = format!(
        "mount -t tmpfs -o size={size} none '{directory}' && {{ '{rbuild}' {args}; s=$?; \
         find '{directory}' -type f -name '*.tar*' | sed 's/^/LEFT /'; exit $s; }}"
    );
    env.host("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &script])
        .run()
}

#[test]
fn full_destination() {
    let env = TestEnv::new();
    let context = env.files("c", &[("Dockerfile", "FROM scratch\nCOPY big /\n")]);
    // Incompressible, so that it does not fit in any form.
    fs::write(context.join("big"), noise(300_000)).unwrap();
    let small = env.files("small", &[]);
    let small = small.to_str().unwrap();
    for kind in ["oci", "docker", "tar"] {
        let args = format!(
            "-o type={kind},dest='{small}'/out.tar '{}'",
            context.display()
        );
        on_small_disk(&env, small, 100_000, &args)
            .fails_with("out.tar")
            .says("no space left on device");
    }
    let args = format!("-o '{small}'/tree '{}'", context.display());
    on_small_disk(&env, small, 100_000, &args)
        .exits(1)
        .says("no space left on device");
    env.assert_sound_store();
}

#[test]
fn full_store() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile(
        "c",
        "FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=64 2>/dev/null && echo written\n",
    );
    let archive = crate::support::base::busybox_rootfs();
    let store = env.files("small-store", &[]);
    let rbuild = env!("CARGO_BIN_EXE_rbuild");
    // Full, then with room: the same store must come right by itself.
    let script = format!(
        "mount -t tmpfs -o size=24m none '{store}' && export RBUILD_ROOT='{store}' \
         && '{rbuild}' import '{archive}' busybox >&2 \
         && ! '{rbuild}' build --progress plain '{context}' && echo FAILED-AS-IT-SHOULD >&2 \
         && '{rbuild}' fsck >&2 && mount -o remount,size=400m '{store}' \
         && '{rbuild}' build --progress plain -t big '{context}' && '{rbuild}' fsck >&2 \
         && '{rbuild}' run --rm big sh -c 'wc -c </big'",
        store = store.display(),
        archive = archive.display(),
        context = context.display(),
    );
    let outcome = env
        .host(needs::program("unshare", "util-linux"))
        .args(["-m", "--propagation", "private", "sh", "-c", &script])
        .run()
        .ok();
    assert!(
        outcome.stderr.contains("FAILED-AS-IT-SHOULD"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.out().trim(), (64 << 20).to_string());
}

/// Bytes that do not compress; the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nENV a=b\n");
    for flag in ["--stdin", "--hooks-dir=x"] {
        let name = flag.split('=').next().unwrap();
        env.rbuild(args![flag, context])
            .run()
            .fails_with(name)
            .says("not supported");
    }
    let outcome = env.rbuild(["--no-such-option", "."]).run();
    assert_ne!(outcome.code(), 0);
    assert!(
        outcome.stderr.contains("--no-such-option"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn bad_values_are_refused_before_any_work() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nENV a=b\n");
    for (args, error) in [
        (
            vec!["-t", "A:b"],
            "invalid reference format: repository name (library/A) must be lowercase",
        ),
        (vec!["-o", "type=nonsense"], "nonsense"),
        (
            vec!["-o", "type=oci,dest=/nonexistent-directory/x.tar"],
            "/nonexistent-directory",
        ),
        (
            vec!["--secret", "id=x,src=/nonexistent-secret"],
            "/nonexistent-secret",
        ),
        (vec!["--platform", "a/b/c/d"], "a/b/c/d"),
        (vec!["--target", "nowhere"], "nowhere"),
        (
            vec!["--build-context", "x=/nonexistent-context"],
            "/nonexistent-context",
        ),
    ] {
        let outcome = env.rbuild(&args).args(args![context]).run();
        outcome.fails_with(error);
    }
    let layout = with_path("bb=oci-layout://", &env.join("no-layout"));
    let context = env.dockerfile("d", "FROM bb\nENV a=b\n");
    env.rbuild(args!["--build-context", layout, context])
        .run()
        .fails_with("no-layout");
}
