//! Base images from registries: found, downloaded when they are read, asked for again or not.

use crate::args;
use crate::support::process::Outcome;
use crate::support::registry::{Action, Proxy, Registry};
use crate::support::{TestEnv, base};

/// Pushes busybox with a layer above, from a store of its own.
fn push_base(name: &str, text: &str) {
    let env = TestEnv::new();
    let archive = base::busybox_rootfs();
    env.rbuild(args!["import", archive, "busybox"]).run().ok();
    let dockerfile = format!("FROM busybox\nRUN echo {text} >/base\n");
    let context = env.dockerfile("base", &dockerfile);
    env.rbuild(args!["-t", name, "--push", context]).run().ok();
}

fn build(env: &TestEnv, dockerfile: &str, more: &[&str]) -> Outcome {
    let context = env.dockerfile("context", dockerfile);
    let mut args = args!["build", "--progress", "plain"].to_vec();
    args.extend(more.iter().map(Into::into));
    args.push(context.into());
    env.rbuild(args).run()
}

#[test]
fn layers_of_a_base_are_downloaded_when_a_step_reads_them() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    push_base(&registry.name("base:1"), "one");
    let proxy = Proxy::before(&registry, |_, _, _| Action::Forward);
    let (base, app) = (proxy.name("base:1"), proxy.name("app"));

    // Only the config is needed; the layers are mounted from the base's repository.
    let metadata_only = format!("FROM {base}\nENV A=b\nLABEL c=d\n");
    build(&env, &metadata_only, &["-t", &app, "--push"]).ok();
    assert!(
        proxy.blob_bytes() < 4096,
        "{:?}",
        proxy.seen("GET", "/blobs/")
    );
    let mounts = proxy.seen("POST", "mount=sha256");
    assert_eq!(mounts.len(), 2, "{mounts:?}");

    // A linked copy does not read the base either.
    let linked =
        format!("FROM scratch AS f\nCOPY Dockerfile /f\nFROM {base}\nCOPY --link --from=f /f /\n");
    build(&env, &linked, &["-t", &app, "--push"]).ok();
    assert!(
        proxy.blob_bytes() < 8192,
        "{:?}",
        proxy.seen("GET", "/blobs/")
    );

    // A command reads all.
    let reads = format!("FROM {base}\nRUN cat /base >/copy\n");
    let built = build(&env, &reads, &["-t", &app, "--push"]).ok();
    assert!(
        built.stderr.contains("[internal] load metadata for"),
        "{}",
        built.stderr
    );
    let downloaded = proxy.blob_bytes();
    assert!(downloaded > 100_000, "{downloaded}");
    // From now on the base is in the store under its name: nobody is asked.
    let before = proxy.requests();
    build(&env, &reads, &["-t", "local"]).ok();
    assert_eq!(proxy.requests(), before);
    assert_eq!(proxy.blob_bytes(), downloaded);

    let other = TestEnv::new();
    other.rbuild(["pull", &app]).run().ok();
    let ran = other
        .rbuild(["run", "--rm", &app, "cat", "/copy"])
        .run()
        .ok();
    assert_eq!(ran.out(), "one\n");
    env.assert_sound_store();
}

#[test]
fn the_store_comes_first_unless_pull_asks() {
    let env = TestEnv::new();
    let registry = Registry::plain();
    let base = registry.name("base");
    push_base(&base, "old");
    let dockerfile = format!("FROM {base}\nRUN cp /base /copy\n");
    let content = |more: &[&str]| {
        let mut flags = vec!["-t", "result"];
        flags.extend(more);
        build(&env, &dockerfile, &flags).ok();
        env.rbuild(["run", "--rm", "result", "cat", "/copy"])
            .run()
            .ok()
            .out()
    };
    assert_eq!(content(&[]), "old\n");
    push_base(&base, "new");
    assert_eq!(content(&[]), "old\n");
    assert_eq!(content(&["--pull"]), "new\n");
    assert_eq!(content(&["--pull=never"]), "new\n");
    push_base(&base, "newest");
    assert_eq!(content(&["--pull=newer"]), "newest\n");
    drop(registry);
    // Without any network.
    assert_eq!(content(&[]), "newest\n");
    assert_eq!(content(&["--pull=newer"]), "newest\n");
    build(&env, &dockerfile, &["--pull"])
        .fails_with("failed to resolve source metadata for")
        .says("connection refused");
    let unknown = format!("FROM {base}-x\n");
    build(&env, &unknown, &["--pull=never"]).fails_with("not in the image store");
}

#[test]
fn images_are_named_by_contexts_digests_and_copies() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    let (one, two) = (registry.name("one"), registry.name("two"));
    push_base(&one, "one");
    push_base(&two, "two");
    let context = format!("tools=docker-image://{one}");
    let dockerfile = format!(
        "FROM tools\nCOPY --from={two} /base /two\nRUN --mount=from={two},target=/m cp /m/base /three\n"
    );
    build(
        &env,
        &dockerfile,
        &["-t", "result", "--build-context", &context],
    )
    .ok();
    let ran = ["run", "--rm", "result", "cat", "/base", "/two", "/three"];
    assert_eq!(env.rbuild(ran).run().ok().out(), "one\ntwo\ntwo\n");

    let digest = env.inspect(&one, "{{index .RepoDigests 0}}");
    let other = TestEnv::new();
    let pinned = format!("FROM {digest}\nRUN test -f /base\n");
    build(&other, &pinned, &[]).ok();
    drop(registry);
    // What a digest means cannot have changed.
    build(&other, &format!("{pinned}RUN cp /base /b\n"), &["--pull"]).ok();
}

#[test]
fn a_base_that_cannot_be_had_is_told_with_its_line() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    push_base(&registry.name("base"), "x");
    let missing = registry.name("missing:1");
    let outcome = build(&env, &format!("FROM scratch\nFROM {missing}\n"), &[]);
    let outcome = outcome.fails_with(&format!(
        "{missing}: failed to resolve source metadata for {missing}: {missing}: not found"
    ));
    assert!(
        outcome.stderr.contains("2 | >>> FROM"),
        "{}",
        outcome.stderr
    );
    let name = registry.name("base");
    let arm = format!("FROM scratch AS a\nCOPY Dockerfile /\nFROM {name}\n");
    let context = env.dockerfile("multi", "FROM scratch\nCOPY Dockerfile /\n");
    let multi = registry.name("multi");
    let platforms = "linux/amd64,linux/arm64";
    env.rbuild(args![
        "-t",
        multi,
        "--platform",
        platforms,
        "--push",
        context
    ])
    .run()
    .ok();
    build(&env, &arm, &[]).ok();
    build(&env, &format!("FROM --platform=linux/s390x {multi}\n"), &[])
        .fails_with("failed to resolve source metadata")
        .says("available: linux/amd64, linux/arm64");
}
