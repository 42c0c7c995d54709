//! The cache that builds on different machines share.

use std::path::Path;

use serde_json::Value;

use super::machine::{build, context, push_base};
use crate::args;
use crate::support::process::{Outcome, with_path};
use crate::support::registry::{Action, Proxy, Registry};
use crate::support::{TestEnv, needs};

/// How many steps were found and how many ran.
fn cached_and_missed(outcome: &Outcome) -> (usize, usize) {
    let lines = || outcome.stderr.lines();
    let cached = lines().filter(|line| line.ends_with(" CACHED")).count();
    (
        cached,
        lines().filter(|line| line.contains(" miss: ")).count(),
    )
}

#[test]
fn another_machine_runs_only_the_changed_step() {
    let registry = Registry::plain();
    let (base, cache) = (registry.name("base"), registry.name("cache:main"));
    push_base(&base);
    let env = TestEnv::new();
    let first = context(&env, &base, "echo first >/last");
    let to = format!("type=registry,ref={cache},mode=max");
    build(&env, &first, &["-t", "app", "--cache-to", &to]).ok();

    let proxy = Proxy::before(&registry, |_, _, _| Action::Forward);
    let fresh = TestEnv::new();
    let from = format!("type=registry,ref={}", proxy.name("cache:main"));
    // Nothing has changed: nothing runs, and no layer of a step is downloaded for a push.
    let app = proxy.name("app");
    let same = context(&fresh, &base, "echo first >/last");
    let outcome = build(
        &fresh,
        &same,
        &["-t", &app, "--push", "--cache-from", &from],
    )
    .ok();
    assert_eq!(cached_and_missed(&outcome).1, 0, "{}", outcome.stderr);
    assert!(
        proxy.blob_bytes() < 8192,
        "{:?}",
        proxy.seen("GET", "/blobs/")
    );

    // The last step reads its own stage, but not the 4 MB that another stage has made.
    let before = proxy.blob_bytes();
    let changed = context(&fresh, &base, "cat /one /tool /file >/last");
    let outcome = build(&fresh, &changed, &["-t", "app", "--cache-from", &from]).ok();
    assert_eq!(cached_and_missed(&outcome).1, 1, "{}", outcome.stderr);
    let downloaded = proxy.blob_bytes() - before;
    assert!(downloaded > 100 && downloaded < 100_000, "{downloaded}");
    let ran = ["run", "--rm", "app", "cat", "/last"];
    assert_eq!(fresh.rbuild(ran).run().ok().out(), "one\ntool\ncontent\n");
    fresh.assert_sound_store();

    // A changed file is a miss, whatever the cache says.
    let other = TestEnv::new();
    let changed = context(&other, &base, "cat /file >/last");
    std::fs::write(changed.join("file"), "other\n").unwrap();
    build(&other, &changed, &["-t", "app", "--cache-from", &from]).ok();
    assert_eq!(other.rbuild(ran).run().ok().out(), "other\n");
}

#[test]
fn the_format_is_buildkits() {
    let registry = Registry::plain();
    let base = registry.name("base");
    push_base(&base);
    let env = TestEnv::new();
    let app = context(&env, &base, "echo x >/last");
    let layout = env.join("cache");
    let to = |mode: &str| format!("type=local,dest={},mode={mode}", layout.display());
    let read = |digest: &str| -> Value {
        let path = layout.join("blobs/sha256").join(&digest["sha256:".len()..]);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let exported = |mode: &str| {
        build(&env, &app, &["--cache-to", &to(mode)]).ok();
        let index = std::fs::read(layout.join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let manifest = read(index["manifests"][0]["digest"].as_str().unwrap());
        let kind = manifest["config"]["mediaType"].as_str().unwrap();
        assert_eq!(kind, "application/vnd.buildkit.cacheconfig.v0");
        let config = read(manifest["config"]["digest"].as_str().unwrap());
        for layer in config["layers"].as_array().unwrap() {
            let listed = manifest["layers"].as_array().unwrap().iter();
            let mut listed = listed.filter(|listed| listed["digest"] == layer["blob"]);
            let diff_id = &layer["annotations"]["diffID"];
            let listed = listed.next().unwrap();
            assert_eq!(
                &listed["annotations"]["containerd.io/uncompressed"],
                diff_id
            );
        }
        let records = config["records"].as_array().unwrap();
        assert!(records[0]["layers"][0]["layer"].is_u64());
        // Records build on records before them, and all but the first of a stage on one.
        let mut links = 0;
        for (position, record) in records.iter().enumerate() {
            let inputs = record["inputs"].as_array().into_iter().flatten();
            for link in inputs.flat_map(|input| input.as_array().unwrap()) {
                assert!(link["link"].as_u64().unwrap() < position as u64);
                links += 1;
            }
        }
        assert!(links >= 3, "{config}");
        (
            config["layers"].as_array().unwrap().len(),
            config["records"].as_array().unwrap().len(),
        )
    };
    // Four steps of the image; the fifth is in another stage. One has an early key.
    assert_eq!(exported("min"), (4, 5));
    assert_eq!(exported("max"), (5, 6));
    let fresh = TestEnv::new();
    let same = context(&fresh, &base, "echo x >/last");
    let from = format!("type=local,src={}", layout.display());
    let outcome = build(&fresh, &same, &["-t", "app", "--cache-from", &from]).ok();
    assert_eq!(cached_and_missed(&outcome).1, 0, "{}", outcome.stderr);
    let ran = ["run", "--rm", "app", "cat", "/last", "/tool"];
    assert_eq!(fresh.rbuild(ran).run().ok().out(), "x\ntool\n");
    // What came from a cache goes into another one.
    let copy = fresh.join("copy");
    let to = format!("type=local,dest={},mode=max", copy.display());
    build(&fresh, &same, &["--cache-from", &from, "--cache-to", &to]).ok();
    let third = TestEnv::new();
    let from = format!("type=local,src={}", copy.display());
    let again = context(&third, &base, "echo x >/last");
    let outcome = build(&third, &again, &["-t", "app", "--cache-from", &from]).ok();
    assert_eq!(cached_and_missed(&outcome).1, 0, "{}", outcome.stderr);
}

#[test]
fn an_image_holds_its_own_cache() {
    let registry = Registry::plain();
    let (base, app) = (registry.name("base"), registry.name("app"));
    push_base(&base);
    let env = TestEnv::new();
    let dockerfile = format!("FROM {base}\nRUN echo one >/one\nCOPY f /f\n");
    let files = env.files("c", &[("Dockerfile", &dockerfile), ("f", "f")]);
    build(
        &env,
        &files,
        &["-t", &app, "--push", "--cache-to", "type=inline"],
    )
    .ok();
    let fresh = TestEnv::new();
    let dockerfile = format!("{dockerfile}RUN cat /one /f >/both\n");
    let files = fresh.files("c", &[("Dockerfile", &dockerfile), ("f", "f")]);
    let outcome = build(&fresh, &files, &["-t", "next", "--cache-from", &app]).ok();
    assert_eq!(cached_and_missed(&outcome).1, 1, "{}", outcome.stderr);
    let ran = ["run", "--rm", "next", "cat", "/both"];
    assert_eq!(fresh.rbuild(ran).run().ok().out(), "one\nf");
}

#[test]
fn a_dead_cache_never_fails_a_build() {
    let registry = Registry::plain();
    let base = registry.name("base");
    push_base(&base);
    let env = TestEnv::new();
    let app = context(&env, &base, "echo x >/last");
    let proxy = Proxy::before(&registry, |_, _, _| Action::Answer(403, "X-Nothing: x"));
    let (dead, missing) = (proxy.name("cache"), registry.name("nothing"));
    let outcome = build(
        &env,
        &app,
        &["-t", "app", "--cache-from", &dead, "--cache-from", &missing],
    );
    let outcome = outcome.ok();
    assert!(
        outcome
            .stderr
            .contains(&format!("importing cache manifest from {dead}:latest"))
    );
    assert!(outcome.stderr.contains("not found"), "{}", outcome.stderr);
    let to = format!("type=registry,ref={dead}");
    build(&env, &app, &["--cache-to", &to]).fails_with("failed exporting cache to");
    let to = format!("{to},ignore-error=true");
    let outcome = build(&env, &app, &["-t", "app", "--cache-to", &to]).ok();
    assert!(
        outcome.stderr.contains("exporting cache to"),
        "{}",
        outcome.stderr
    );
    env.assert_sound_store();
}

/// The fixture is written by hand after the schema; see its README.
#[test]
fn caches_that_buildkit_wrote_are_read_and_found_to_be_of_no_use() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/buildkit-cache");
    let env = TestEnv::new();
    env.import_busybox();
    let folder = env.dockerfile("context", "FROM busybox\nRUN echo built >/built\n");
    for tag in ["manifest", "index"] {
        let from = format!("type=local,src={},tag={tag}", fixture.display());
        let flags = [
            "--no-cache-filter",
            "none",
            "-t",
            "app",
            "--cache-from",
            &from,
        ];
        let outcome = build(&env, &folder, &flags).ok();
        assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
        assert!(
            outcome.stderr.contains("importing cache manifest from"),
            "{}",
            outcome.stderr
        );
    }
    let ran = ["run", "--rm", "app", "cat", "/built"];
    assert_eq!(env.rbuild(ran).run().ok().out(), "built\n");
}

/// The fixture was pushed by a real one: an image with its cache inside.
#[test]
fn an_image_whose_cache_docker_wrote_serves_as_one_and_as_a_base() {
    let registry = Registry::plain();
    let name = registry.name("app:1");
    let env = TestEnv::new();
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/buildkit-cache/recorded");
    env.host(needs::program("skopeo", "skopeo"))
        .args(args![
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            with_path("dir:", &recorded),
            format!("docker://{name}")
        ])
        .run()
        .ok();
    let dockerfile = format!("FROM {name}\nCOPY own /own\n");
    let context = env.files("context", &[("Dockerfile", &dockerfile), ("own", "mine\n")]);
    let outcome = build(&env, &context, &["-t", "app", "--cache-from", &name]).ok();
    assert!(
        outcome.stderr.contains("importing cache manifest from")
            && !outcome.stderr.contains("warning"),
        "{}",
        outcome.stderr
    );
    let image = env.build_layout("app", &context);
    let files: Vec<&str> = image
        .layers
        .iter()
        .flatten()
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(files, ["hello", "world", "more", "own"]);
    // The base's cache describes the base, not what was built on it.
    assert!(image.config.get("moby.buildkit.cache.v0").is_none());
}

/// BuildKit's older form: an index whose entries are the blobs, the config last.
#[test]
fn a_cache_is_an_index_when_that_is_asked_for() {
    let registry = Registry::plain();
    let base = registry.name("base");
    push_base(&base);
    let env = TestEnv::new();
    let app = context(&env, &base, "echo x >/last");
    let layout = env.join("cache");
    let read = |digest: &str| -> Value {
        let path = layout.join("blobs/sha256").join(&digest["sha256:".len()..]);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    for (attributes, index, layer) in [
        (
            "image-manifest=false",
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ),
        (
            "oci-mediatypes=false",
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
    ] {
        let to = format!("type=local,dest={},{attributes}", layout.display());
        build(&env, &app, &["--cache-to", &to]).ok();
        let top = std::fs::read(layout.join("index.json")).unwrap();
        let top: Value = serde_json::from_slice(&top).unwrap();
        let cache = read(top["manifests"][0]["digest"].as_str().unwrap());
        assert_eq!(cache["mediaType"], index);
        let entries = cache["manifests"].as_array().unwrap();
        let (config, layers) = entries.split_last().unwrap();
        let kind = config["mediaType"].as_str().unwrap();
        assert_eq!(kind, "application/vnd.buildkit.cacheconfig.v0");
        assert!(!layers.is_empty() && layers.iter().all(|entry| entry["mediaType"] == layer));
        let listed = read(config["digest"].as_str().unwrap());
        assert_eq!(listed["layers"].as_array().unwrap().len(), layers.len());
        // It serves as a cache from a directory, and from a registry.
        let name = registry.name(&format!("cache:{}", index.len()));
        let remote = format!("type=registry,ref={name},{attributes}");
        build(&env, &app, &["--cache-to", &remote]).ok();
        let local = format!("type=local,src={}", layout.display());
        for from in [local, format!("type=registry,ref={name}")] {
            let fresh = TestEnv::new();
            let app = context(&fresh, &base, "echo x >/last");
            let outcome = build(&fresh, &app, &["-t", "app", "--cache-from", &from]).ok();
            // The stage whose file is copied is not in a cache with mode=min.
            assert!(cached_and_missed(&outcome).1 <= 1, "{}", outcome.stderr);
            let ran = ["run", "--rm", "app", "cat", "/last"];
            assert_eq!(fresh.rbuild(ran).run().ok().out(), "x\n");
        }
    }
}
