//! Mistakes in a Dockerfile that only its run can show: each is told with its line, and leaves
//! nothing behind.

use crate::args;
use crate::support::process::with_path;
use crate::support::{TestEnv, base};

/// Builds, expects a failure that shows the line, and looks for what it left.
#[track_caller]
fn fails(env: &TestEnv, dockerfile: &str, line: u32, text: &str) -> String {
    let context = env.files("c", &[("Dockerfile", dockerfile), ("f", "F")]);
    let outcome = env
        .rbuild(args![
            "--build-context",
            with_path("bb=oci-layout://", &base::bb_layout()),
            context
        ])
        .run()
        .fails_with(text)
        .says(&format!("   {line} | >>> "));
    env.assert_sound_store();
    let left = std::fs::read_dir(env.store().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "left in the store's tmp");
    outcome.stderr
}

#[test]
fn a_cache_mount_on_a_file_is_told() {
    let env = TestEnv::new();
    let dockerfile = "FROM bb\nRUN --mount=type=cache,target=/etc/passwd true\n";
    fails(&env, dockerfile, 2, "/etc/passwd");
}

#[test]
fn a_cache_mount_filled_from_a_file_is_told() {
    let env = TestEnv::new();
    let dockerfile =
        "FROM bb\nFROM bb\nRUN --mount=type=cache,from=0,source=/etc/passwd,target=/c ls -l /c\n";
    fails(&env, dockerfile, 3, "/etc/passwd");
    // The second build must not find a cache that was made half.
    fails(&env, dockerfile, 3, "/etc/passwd");
}

#[test]
fn a_secret_that_was_not_given_is_told() {
    let env = TestEnv::new();
    let dockerfile = "FROM bb\nRUN --mount=type=secret,id=token,required true\n";
    let text = fails(&env, dockerfile, 2, "secret token: not found");
    assert!(text.contains("--secret id=token,src=FILE"), "{text}");
}

#[test]
fn a_source_outside_the_context_is_told() {
    let env = TestEnv::new();
    env.files("outside", &[("secret", "S")]);
    let context = env.files("c", &[]);
    std::os::unix::fs::symlink("../outside", context.join("relative")).unwrap();
    std::os::unix::fs::symlink(env.join("outside"), context.join("absolute")).unwrap();
    for path in ["relative/secret", "absolute/secret", "../outside/secret"] {
        let dockerfile = format!("FROM scratch\nCOPY {path} /\n");
        fails(&env, &dockerfile, 2, "not found");
        let dockerfile = format!("FROM bb\nRUN --mount=source={path},target=/m true\n");
        fails(&env, &dockerfile, 2, "not found");
    }
}

#[test]
fn a_checksum_that_does_not_fit_is_told_before_anything_is_asked() {
    let env = TestEnv::new();
    for (line, text) in [
        (
            "ADD --checksum=sha256:12 http://nowhere.invalid/f /",
            "invalid checksum digest format",
        ),
        (
            "ADD --checksum=sha256:12 f /",
            "checksum requires HTTP(S) or Git sources",
        ),
        (
            "ADD --checksum=x http://nowhere.invalid/f f /d/",
            "checksum can't be specified for multiple sources",
        ),
        (
            "ADD https://nowhere.invalid/r.git?foo=1 /",
            "unexpected query \"foo\"",
        ),
        (
            "COPY http://nowhere.invalid/f /",
            "source can't be a URL for COPY",
        ),
        (
            "COPY git@nowhere.invalid:f /",
            "source can't be a git ref for COPY",
        ),
        (
            "ADD http://user:geheim@nowhere.inv\u{e4}lid/ /",
            "cannot be asked for",
        ),
    ] {
        fails(&env, &format!("FROM scratch\n{line}\n"), 2, text);
    }
}
