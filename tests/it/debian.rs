//! Real input on a Debian base: a C program of several files, and a Python application.
//!
//! These need the network: the host's Debian mirror and a Python package index.

use crate::args;
use crate::support::TestEnv;
use crate::support::debian::{certificate_bundle, proxy_build_args, rootfs};
use crate::support::process::with_path;

fn import_debian(env: &TestEnv) {
    let archive = rootfs();
    env.rbuild(args!["import", archive, "debian:bookworm"])
        .timeout(300)
        .run()
        .ok();
}

/// Builds a fixture with more arguments; ten minutes are enough for slow mirrors.
fn build(env: &TestEnv, name: &str, more: &[std::ffi::OsString]) -> crate::support::Outcome {
    let context = env.fixture(name);
    env.rbuild(args!["build", "--progress", "plain", "-t", name])
        .args(proxy_build_args())
        .args(more)
        .args(args![context])
        .timeout(600)
        .run()
        .ok()
}

#[test]
fn a_c_program_is_compiled_in_one_stage_and_runs_in_another() {
    let env = TestEnv::new();
    import_debian(&env);
    build(&env, "cprogram", &[]);
    let run = |args: &[&str]| {
        env.rbuild(["run", "--rm", "cprogram"])
            .args(args)
            .run()
            .ok()
            .out()
    };
    assert_eq!(
        run(&[]),
        "2026 is MMXXVI, 365 days\n1969 is MCMLXIX, 365 days\n"
    );
    assert_eq!(run(&["2024"]), "2024 is MMXXIV, 366 days\n");
    // Only the program came over: no compiler, no sources.
    let gone = "test ! -e /usr/bin/gcc && test ! -e /src && echo gone";
    let output = env
        .rbuild(["run", "--rm", "--entrypoint", "sh", "cprogram", "-c", gone])
        .run()
        .ok();
    assert_eq!(output.out(), "gone\n");
    let layers = env.inspect("cprogram", "{{len .RootFS.Layers}}");
    assert_eq!(layers, "2");
    env.assert_sound_store();
}

#[test]
fn a_python_application_is_installed_tested_and_runs() {
    let env = TestEnv::new();
    import_debian(&env);
    let mut more = Vec::new();
    if let Some(bundle) = certificate_bundle() {
        more.extend(args!["--secret", with_path("id=ca,src=", &bundle)]);
    }
    if let Some(index) = std::env::var_os("PIP_INDEX_URL") {
        let mut argument = std::ffi::OsString::from("PIP_INDEX_URL=");
        argument.push(index);
        more.extend(args!["--build-arg", argument]);
    }
    let outcome = build(&env, "python", &more);
    assert!(outcome.stderr.contains("3 passed"), "{}", outcome.stderr);
    let output = env.rbuild(["run", "--rm", "python"]).run().ok();
    assert_eq!(output.out(), "there are 2 apples\n");
    // The secret was there for its step only: not even its mount point is in the image.
    let gone = "test ! -e /run/secrets && echo gone";
    let output = env
        .rbuild(["run", "--rm", "--entrypoint", "sh", "python", "-c", gone])
        .run()
        .ok();
    assert_eq!(output.out(), "gone\n");
    env.assert_sound_store();
}
