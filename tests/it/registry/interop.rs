//! What rbuild pushes, others pull, and the reverse, with the same digests.

use serde_json::Value;

use crate::args;
use crate::support::process::with_path;
use crate::support::registry::Registry;
use crate::support::{Outcome, TestEnv, base, needs};

/// `skopeo ARGS…` with its files in the test's directory.
#[track_caller]
fn skopeo(env: &TestEnv, args: &[std::ffi::OsString]) -> Outcome {
    env.host(needs::program("skopeo", "skopeo"))
        .env("HOME", env.join("skopeo"))
        .args(["--insecure-policy"])
        .args(args)
        .run()
        .ok()
}

/// Digest of what a name points to, as skopeo sees it.
#[track_caller]
fn remote_digest(env: &TestEnv, name: &str) -> String {
    let place = format!("docker://{name}");
    let args = args![
        "inspect",
        "--tls-verify=false",
        "--format",
        "{{.Digest}}",
        place
    ];
    skopeo(env, &args).out().trim().to_owned()
}

#[track_caller]
fn raw(env: &TestEnv, name: &str) -> Value {
    let place = format!("docker://{name}");
    let args = args!["inspect", "--tls-verify=false", "--raw", place];
    serde_json::from_slice(&skopeo(env, &args).stdout).unwrap()
}

/// The digest in the last line of a push.
#[track_caller]
fn pushed_digest(outcome: &Outcome) -> String {
    let out = outcome.out();
    let last = out.lines().last().unwrap();
    let digest = last.split(' ').find(|word| word.starts_with("sha256:"));
    digest
        .unwrap_or_else(|| panic!("no digest: {out}"))
        .to_owned()
}

#[test]
fn others_pull_what_was_pushed() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    env.import_busybox();
    let context = env.dockerfile(
        "c",
        "FROM busybox\nRUN echo hello >/hello\nCMD [\"cat\", \"/hello\"]\n",
    );
    let name = registry.name("team/app:1.0");
    env.build(&name, &context);
    let pushed = env.rbuild(["push", &name]).run().ok();
    let out = pushed.out();
    let repository = registry.name("team/app");
    assert!(
        out.starts_with(&format!("The push refers to repository [{repository}]\n")),
        "{out}"
    );
    assert_eq!(out.matches(": Pushed\n").count(), 2, "{out}");
    let digest = pushed_digest(&pushed);
    assert!(
        out.contains(&format!("1.0: digest: {digest} size: ")),
        "{out}"
    );
    assert_eq!(remote_digest(&env, &name), digest);

    // The image keeps its identity, and is known by what the registry has.
    let repo_digest = env.inspect(&name, "{{index .RepoDigests 0}}");
    assert_eq!(repo_digest, format!("{repository}@{digest}"));
    let again = env.rbuild(["push", &name]).run().ok();
    assert_eq!(pushed_digest(&again), digest);
    assert_eq!(again.out().matches(": Layer already exists\n").count(), 2);
    let quiet = env.rbuild(["push", "-q", &name]).run().ok();
    assert_eq!(quiet.out(), format!("{name}\n"));

    // skopeo checks every digest on its way.
    let copy = with_path("oci:", &env.join("copied"));
    let place = format!("docker://{name}");
    skopeo(
        &env,
        &args!["copy", "-q", "--src-tls-verify=false", place, copy],
    );
    let podman = |args: &[&str]| {
        env.host(needs::program("podman", "podman"))
            .env("HOME", env.join("podman-home"))
            .args(["--root", env.join("podman").to_str().unwrap()])
            .args(["--runroot", env.join("podman-run").to_str().unwrap()])
            .args(["--storage-driver", "vfs"])
            .args(args)
            .run()
            .ok()
            .out()
    };
    podman(&["pull", "-q", "--tls-verify=false", &name]);
    let seen = podman(&["image", "inspect", "--format", "{{.Digest}}", &name]);
    assert_eq!(seen.trim(), digest);
    env.assert_sound_store();
}

#[test]
fn what_others_pushed_is_pulled_and_pushed_on_byte_for_byte() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    let (first, second) = (registry.name("bb"), registry.name("copies/bb:x"));
    let source = format!("oci:{}:latest", base::bb_layout().display());
    let place = format!("docker://{first}");
    skopeo(
        &env,
        &args!["copy", "-q", "--dest-tls-verify=false", source, place],
    );
    let digest = remote_digest(&env, &first);

    let pulled = env.rbuild(["pull", &first]).run().ok().out();
    let lines: Vec<&str> = pulled.lines().collect();
    assert_eq!(lines[0], "latest: Pulling from bb");
    assert!(lines[1].ends_with(": Pull complete"), "{pulled}");
    assert_eq!(lines[lines.len() - 3], format!("Digest: {digest}"));
    let status = format!("Status: Downloaded newer image for {first}:latest");
    assert_eq!(lines[lines.len() - 2], status);
    assert_eq!(lines[lines.len() - 1], format!("{first}:latest"));
    let again = env.rbuild(["pull", &first]).run().ok().out();
    assert!(again.contains(": Already exists\n"), "{again}");
    assert!(again.contains("Status: Image is up to date for"), "{again}");
    let ran = env
        .rbuild(["run", "--rm", &first, "echo", "it runs"])
        .run()
        .ok();
    assert_eq!(ran.out(), "it runs\n");

    env.rbuild(["tag", &first, &second]).run().ok();
    env.rbuild(["push", &second]).run().ok();
    assert_eq!(remote_digest(&env, &second), digest);
    // By digest, and quietly.
    let by_digest = format!("{first}@{digest}");
    let quiet = env.rbuild(["pull", "-q", &by_digest]).run().ok().out();
    assert_eq!(quiet, format!("{by_digest}\n"));
    env.assert_sound_store();
}

#[test]
fn run_pulls_what_is_missing() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    env.import_busybox();
    let name = registry.name("tool");
    env.rbuild(["tag", "busybox", &name]).run().ok();
    env.rbuild(["push", &name]).run().ok();
    let fresh = TestEnv::new();
    let never = ["run", "--pull", "never", &name, "true"];
    fresh.rbuild(never).run().exits(125).says("No such image");
    let outcome = fresh.rbuild(["run", &name, "echo", "hi"]).run().ok();
    assert_eq!(outcome.out(), "hi\n");
    let found = format!("Unable to find image '{name}' locally");
    assert!(outcome.stderr.starts_with(&found), "{}", outcome.stderr);
    drop(registry);
    let outcome = fresh.rbuild(["run", &name, "echo", "hi"]).run().ok();
    assert_eq!(outcome.stderr, "");
    let always = ["run", "--pull=always", &name, "true"];
    fresh
        .rbuild(always)
        .run()
        .exits(125)
        .says("connection refused");
}

#[test]
fn all_tags_travel_together() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    env.import_busybox();
    for tag in ["1", "2", "latest"] {
        let name = registry.name(&format!("app:{tag}"));
        env.rbuild(["tag", "busybox", &name]).run().ok();
    }
    env.rbuild(["push", "-a", &registry.name("app")]).run().ok();
    let other = TestEnv::new();
    other
        .rbuild(["pull", "-a", &registry.name("app")])
        .run()
        .ok();
    let images = other
        .rbuild(["images", "--format", "{{.Tag}}"])
        .run()
        .ok()
        .out();
    let mut tags: Vec<&str> = images.lines().collect();
    tags.sort_unstable();
    assert_eq!(tags, ["1", "2", "latest"]);
    let wrong = registry.name("app:1");
    other
        .rbuild(["pull", "-a", &wrong])
        .run()
        .exits(2)
        .says("tag can't be used");
}

#[test]
fn a_build_is_pushed_for_several_platforms() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    let context = env.files(
        "c",
        &[
            (
                "Dockerfile",
                "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n",
            ),
            ("amd64", "amd"),
            ("arm64", "arm"),
        ],
    );
    let (name, more) = (registry.name("multi:1"), registry.name("multi:2"));
    let metadata = env.join("metadata.json");
    env.rbuild(args![
        "build",
        "--platform",
        "linux/amd64,linux/arm64",
        "-t",
        name,
        "-t",
        more,
        "--push",
        "--metadata-file",
        metadata,
        context
    ])
    .run()
    .ok();
    let index = raw(&env, &name);
    let architectures: Vec<&str> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["platform"]["architecture"].as_str().unwrap())
        .collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    assert_eq!(raw(&env, &more), index);
    let metadata: Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    let digest = remote_digest(&env, &name);
    assert_eq!(metadata["containerimage.digest"], digest.as_str());
    // `--push` alone keeps nothing in the store.
    assert_eq!(env.rbuild(["images", "-q"]).run().ok().out(), "");

    env.rbuild(["pull", "--platform", "linux/arm64", &name])
        .run()
        .ok();
    assert_eq!(env.inspect(&name, "{{.Architecture}}"), "arm64");
    // Only one platform is here, so only that one can be pushed on.
    let single = registry.name("single");
    env.rbuild(["tag", &name, &single]).run().ok();
    env.rbuild(["push", &single])
        .run()
        .ok()
        .says("not all platforms");
    assert!(raw(&env, &single)["config"].is_object());
    env.rbuild(["pull", &name]).run().ok();
    assert_eq!(env.inspect(&name, "{{.Architecture}}"), "amd64");
    env.rbuild(["push", &single]).run().ok();
    assert_eq!(remote_digest(&env, &single), digest);
    env.assert_sound_store();
}

#[test]
fn outputs_push() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    let context = env.files(
        "c",
        &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "text")],
    );
    let name = registry.name("out");
    let stored =
        format!("type=image,name={name},push=true,compression=zstd,force-compression=true");
    env.rbuild(args!["build", "-o", stored, context]).run().ok();
    let manifest = raw(&env, &name);
    let media_type = manifest["layers"][0]["mediaType"].as_str().unwrap();
    assert!(media_type.ends_with("tar+zstd"), "{media_type}");
    assert_eq!(env.inspect(&name, "{{.Os}}"), "linux");
    let by_digest = format!(
        "type=registry,name={},push-by-digest=true",
        registry.name("pinned")
    );
    let metadata = env.join("metadata.json");
    env.rbuild(args![
        "build",
        "-o",
        by_digest,
        "--metadata-file",
        metadata,
        context
    ])
    .run()
    .ok();
    let metadata: Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    let pinned = format!("{}@{digest}", registry.name("pinned"));
    assert!(raw(&env, &pinned)["config"].is_object());
    env.rbuild(["pull", &registry.name("pinned")])
        .run()
        .exits(1)
        .says("not found");
    env.rbuild(args!["build", "--push", context])
        .run()
        .fails_with("tag is needed when pushing to registry");
}

#[test]
fn images_of_registries_are_put_together() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    let context = env.files(
        "c",
        &[
            (
                "Dockerfile",
                "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n",
            ),
            ("f", "f"),
        ],
    );
    let mut digests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let name = registry.name(&format!("parts/{architecture}"));
        let platform = format!("linux/{architecture}");
        env.rbuild(args!["--platform", platform, "-t", name, "--push", context])
            .run()
            .ok();
        digests.push(remote_digest(&env, &name));
    }
    let (one, two) = (registry.name("parts/amd64"), registry.name("parts/arm64"));
    let name = registry.name("whole:1");
    let dry = env
        .rbuild(["imagetools", "create", "--dry-run", &one, &two])
        .run()
        .ok();
    let created = env
        .rbuild(["imagetools", "create", "-t", &name, &one])
        .run()
        .ok();
    assert_eq!(created.out(), format!("{name}@{}\n", digests[0]));
    env.rbuild(["imagetools", "create", "-t", &name, "--append", &two])
        .run()
        .ok();
    let index = raw(&env, &name);
    assert_eq!(serde_json::from_slice::<Value>(&dry.stdout).unwrap(), index);
    for (position, digest) in digests.iter().enumerate() {
        assert_eq!(index["manifests"][position]["digest"], digest.as_str());
    }
    // All that it needs is there, in a repository of its own.
    let fresh = TestEnv::new();
    fresh
        .rbuild(["pull", "--platform", "linux/arm64", &name])
        .run()
        .ok();
    assert_eq!(fresh.inspect(&name, "{{.Architecture}}"), "arm64");
    let shown = env
        .rbuild(["imagetools", "inspect", &name])
        .run()
        .ok()
        .out();
    assert!(shown.contains("Platform:  linux/arm64\n"), "{shown}");
    assert!(
        shown.contains(&format!("Digest:    {}", remote_digest(&env, &name))),
        "{shown}"
    );
    let plain = env.rbuild(["manifest", "inspect", &name]).run().ok();
    assert_eq!(
        plain.stdout,
        env.rbuild(["imagetools", "inspect", "--raw", &name])
            .run()
            .ok()
            .stdout
    );
    env.rbuild(["imagetools", "create", &one])
        .run()
        .fails_with("can't push without tags");
}

/// podman or buildah with a store in the test's directory.
#[track_caller]
fn peer(env: &TestEnv, program: &str, args: &[&str]) -> String {
    let root = env.join(&format!("{program}-store"));
    let state = env.join(&format!("{program}-run"));
    env.host(needs::program(program, program))
        .env("HOME", env.join("peer-home"))
        .args(["--root", root.to_str().unwrap()])
        .args(["--runroot", state.to_str().unwrap()])
        .args(["--storage-driver", "vfs"])
        .args(args)
        .run()
        .ok()
        .out()
}

#[test]
fn what_podman_and_buildah_push_is_pulled_run_and_built_upon() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    env.import_busybox();
    let base = registry.name("base");
    env.rbuild(["tag", "busybox", &base]).run().ok();
    env.rbuild(["push", &base]).run().ok();
    for program in ["podman", "buildah"] {
        let name = registry.name(&format!("from-{program}"));
        peer(&env, program, &["pull", "-q", "--tls-verify=false", &base]);
        let target = format!("docker://{name}");
        let push = ["push", "-q", "--tls-verify=false", &base, &target];
        peer(&env, program, &push);
        let digest = remote_digest(&env, &name);
        let fresh = TestEnv::new();
        fresh.rbuild(["pull", "-q", &name]).run().ok();
        let repo_digest = fresh.inspect(&name, "{{index .RepoDigests 0}}");
        assert!(repo_digest.ends_with(&digest), "{repo_digest} {digest}");
        let ran = fresh.rbuild(["run", "--rm", &name, "echo", program]).run();
        assert_eq!(ran.ok().out(), format!("{program}\n"));
        let context = fresh.dockerfile("c", &format!("FROM {name}\nRUN echo up >/up\n"));
        fresh.build("up", &context);
        // Pushed on, it is the same to the byte.
        let copy = registry.name(&format!("copy-{program}"));
        fresh.rbuild(["tag", &name, &copy]).run().ok();
        fresh.rbuild(["push", &copy]).run().ok();
        assert_eq!(remote_digest(&env, &copy), digest);
        fresh.assert_sound_store();
    }
    // What is built is pulled and its layers are found by both.
    let context = env.dockerfile("c", &format!("FROM {base}\nRUN echo built >/built\n"));
    let app = registry.name("app");
    env.rbuild(args!["build", "-t", app, "--push", context])
        .run()
        .ok();
    for program in ["podman", "buildah"] {
        peer(&env, program, &["pull", "-q", "--tls-verify=false", &app]);
        let format = match program {
            "podman" => ["image", "inspect", "--format", "{{.Digest}}", &app].to_vec(),
            _ => ["inspect", "--format", "{{.FromImageDigest}}", &app].to_vec(),
        };
        assert_eq!(
            peer(&env, program, &format).trim(),
            remote_digest(&env, &app)
        );
    }
}

#[test]
fn lists_of_manifests_are_put_together_and_pushed() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    let context = env.files(
        "c",
        &[
            (
                "Dockerfile",
                "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n",
            ),
            ("f", "f"),
        ],
    );
    let mut names = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let name = registry.name(&format!("parts/{architecture}"));
        let platform = format!("linux/{architecture}");
        env.rbuild(args!["--platform", platform, "-t", name, "--push", context])
            .run()
            .ok();
        names.push(name);
    }
    let list = registry.name("list:1");
    let manifest = |args: &[&str]| env.rbuild([&["manifest"], args].concat()).run();
    let created = manifest(&["create", &list, &names[0]]).ok();
    assert_eq!(created.out(), format!("Created manifest list {list}\n"));
    manifest(&["create", &list, &names[1]])
        .exits(1)
        .says("is there already");
    manifest(&["create", "--amend", &list, &names[1]]).ok();
    manifest(&["annotate", "--variant", "v8", &list, &names[1]]).ok();
    manifest(&["annotate", "--os", "x", &list, "nothing"])
        .exits(1)
        .says("has no image");
    manifest(&["create", &registry.name("other"), &registry.name("none")])
        .exits(1)
        .says("not found");
    let shown = manifest(&["inspect", &list]).ok();
    let pushed = manifest(&["push", "--purge", &list]).ok();
    assert_eq!(pushed.out().trim(), remote_digest(&env, &list));
    let index = raw(&env, &list);
    assert_eq!(
        serde_json::from_slice::<Value>(&shown.stdout).unwrap(),
        index
    );
    assert_eq!(index["manifests"][1]["platform"]["variant"], "v8");
    let digest = remote_digest(&env, &names[1]);
    assert_eq!(index["manifests"][1]["digest"], digest.as_str());
    // Forgotten here, it is shown from the registry.
    manifest(&["push", &list]).exits(1).says("No such manifest");
    manifest(&["rm", &list]).exits(1).says("No such manifest");
    assert_eq!(manifest(&["inspect", &list]).ok().stdout, shown.stdout);
    let fresh = TestEnv::new();
    fresh
        .rbuild(["pull", "--platform", "linux/arm64", &list])
        .run()
        .ok();
    assert_eq!(fresh.inspect(&list, "{{.Architecture}}"), "arm64");
}

#[test]
fn registries_are_searched() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    env.import_busybox();
    for name in ["team/tool", "team/toolbox", "else"] {
        let name = registry.name(name);
        env.rbuild(["tag", "busybox", &name]).run().ok();
        env.rbuild(["push", &name]).run().ok();
    }
    let search = |args: &[&str]| env.rbuild([&["search"], args].concat()).run();
    let found = search(&[&registry.name("tool")]).ok().out();
    let lines: Vec<&str> = found.lines().collect();
    assert!(lines[0].starts_with("NAME"), "{found}");
    assert_eq!(lines.len(), 3, "{found}");
    assert!(lines[1].starts_with(&registry.name("team/tool")), "{found}");
    let one = [
        "--limit",
        "1",
        "--format",
        "{{.Name}}",
        &registry.name("tool"),
    ];
    assert_eq!(
        search(&one).ok().out(),
        format!("{}\n", registry.name("team/tool"))
    );
    search(&["--filter", "x=1", &registry.name("tool")])
        .exits(1)
        .says("invalid filter");
    search(&[&registry.name("")])
        .exits(1)
        .says("nothing to look for");
    let host = registry.name("tool");
    drop(registry);
    search(&[&host]).exits(1).says("connection refused");
}

#[test]
fn all_platforms_stay_whole_from_pull_to_push_and_through_archives() {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    let context = env.files(
        "c",
        &[
            (
                "Dockerfile",
                "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n",
            ),
            ("amd64", "amd"),
            ("arm64", "arm"),
        ],
    );
    let (name, copy) = (registry.name("multi"), registry.name("copy/multi"));
    let platforms = "linux/amd64,linux/arm64";
    env.rbuild(args![
        "--platform",
        platforms,
        "-t",
        name,
        "--push",
        context
    ])
    .run()
    .ok();
    let digest = remote_digest(&env, &name);
    let fresh = TestEnv::new();
    fresh.rbuild(["pull", "--all-platforms", &name]).run().ok();
    assert_eq!(fresh.inspect(&name, "{{.Architecture}}"), "amd64");
    fresh.rbuild(["tag", &name, &copy]).run().ok();
    fresh.rbuild(["push", &copy]).run().ok();
    assert_eq!(remote_digest(&env, &copy), digest);
    let archive = fresh.join("image.tar");
    fresh.rbuild(args!["save", "-o", archive, name]).run().ok();
    let other = TestEnv::new();
    other.rbuild(args!["load", "-i", archive]).run().ok();
    let again = registry.name("again/multi");
    other.rbuild(["tag", &name, &again]).run().ok();
    other.rbuild(["push", &again]).run().ok();
    assert_eq!(remote_digest(&env, &again), digest);
    other.assert_sound_store();
    fresh
        .rbuild([
            "pull",
            "--all-platforms",
            "--platform",
            "linux/arm64",
            &name,
        ])
        .run()
        .exits(2);
}
