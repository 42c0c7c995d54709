//! Registries that misbehave: the build succeeds after another try, or fails with a clear error.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::args;
use crate::support::TestEnv;
use crate::support::process::Outcome;
use crate::support::random::Random;
use crate::support::registry::{Action, Proxy, Registry};

/// What a proxy does with a request: method, target, how many such came before.
type Script = fn(&str, &str, usize) -> Action;

/// A registry that has `base`, made of busybox.
fn registry() -> Registry {
    let (env, registry) = (TestEnv::new(), Registry::plain());
    env.import_busybox();
    let name = registry.name("base");
    env.rbuild(["tag", "busybox", &name]).run().ok();
    env.rbuild(["push", &name]).run().ok();
    registry
}

/// Builds on the base through a proxy with this script, and pushes.
fn build(
    env: &TestEnv,
    registry: &Registry,
    script: impl Fn(&str, &str, usize) -> Action + Send + Sync + 'static,
) -> Outcome {
    let proxy = Proxy::before(registry, script);
    let dockerfile = format!("FROM {}\nRUN echo built >/built\n", proxy.name("base"));
    let context = env.dockerfile("context", &dockerfile);
    let app = proxy.name("app");
    env.rbuild(args![
        "build",
        "--progress",
        "plain",
        "-t",
        app,
        "--push",
        context
    ])
    .run()
}

#[test]
fn what_passes_is_tried_again() {
    let registry = registry();
    let failing: [(&str, Script); 6] = [
        ("answered 503", |_, target, number| match number {
            0 if target.contains("/manifests/") => Action::Answer(503, "X-Nothing: x"),
            _ => Action::Forward,
        }),
        ("answered 429", |_, target, number| match number {
            0 if target.contains("/manifests/") => Action::Answer(429, "Retry-After: 1"),
            _ => Action::Forward,
        }),
        ("", |method, target, number| match (method, number) {
            // More than the config has, so that a layer is cut.
            ("GET", 0) if target.contains("/blobs/") => Action::Cut(5000),
            _ => Action::Forward,
        }),
        ("", |method, target, number| match (method, number) {
            ("GET", 0) if target.contains("/blobs/") => Action::Flip(100),
            _ => Action::Forward,
        }),
        ("answered 500", |method, _, number| match (method, number) {
            ("POST" | "PATCH", 0) => Action::Answer(500, "X-Nothing: x"),
            _ => Action::Forward,
        }),
        ("answered 502", |method, _, number| match (method, number) {
            ("PUT", 0) => Action::Answer(502, "X-Nothing: x"),
            _ => Action::Forward,
        }),
    ];
    for (text, script) in failing {
        let env = TestEnv::new();
        let outcome = build(&env, &registry, script).ok();
        if !text.is_empty() {
            assert!(outcome.stderr.contains(text), "{}", outcome.stderr);
            assert!(
                outcome.stderr.contains("trying again in"),
                "{}",
                outcome.stderr
            );
        }
        env.rbuild(["pull", &registry.name("app")]).run().ok();
        let run = ["run", "--rm", &registry.name("app"), "cat", "/built"];
        assert_eq!(env.rbuild(run).run().ok().out(), "built\n");
        env.assert_sound_store();
    }
}

#[test]
fn wrong_bytes_are_never_accepted() {
    let registry = registry();
    let env = TestEnv::new();
    let outcome = build(&env, &registry, |method, target, _| {
        if method == "GET" && target.contains("/blobs/") {
            Action::Flip(100)
        } else {
            Action::Forward
        }
    });
    let outcome = outcome.exits(1);
    assert!(
        outcome.stderr.contains("is corrupt: expected sha256:"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("its content hashes to sha256:"),
        "{}",
        outcome.stderr
    );
    env.assert_sound_store();
    let outcome = build(&env, &registry, |_, target, _| {
        if target.contains("/manifests/latest") {
            Action::WrongDigest
        } else {
            Action::Forward
        }
    });
    outcome.exits(1).says("failed to resolve source metadata");
    // The same store builds when the registry behaves.
    build(&env, &registry, |_, _, _| Action::Forward).ok();
    env.assert_sound_store();
}

#[test]
fn a_registry_that_stays_broken_is_told() {
    let registry = registry();
    let env = TestEnv::new();
    let outcome = build(&env, &registry, |_, _, _| {
        Action::Answer(401, "X-Nothing: x")
    });
    outcome.exits(1).says("rbuild login 127.0.0.1");
    let outcome = build(&env, &registry, |method, _, _| match method {
        "POST" => Action::Answer(403, "X-Nothing: x"),
        _ => Action::Forward,
    });
    let outcome = outcome.exits(1);
    assert!(
        outcome.stderr.contains("exporting to image"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("403") || outcome.stderr.contains("refused"),
        "{}",
        outcome.stderr
    );
    env.assert_sound_store();
}

#[test]
fn a_registry_that_says_nothing_can_be_left() {
    let registry = registry();
    let env = TestEnv::new();
    let proxy = Proxy::before(&registry, |method, target, _| {
        // The manifest comes, blobs do not.
        if method == "GET" && target.contains("/blobs/") {
            Action::Silence
        } else {
            Action::Forward
        }
    });
    let context = env.dockerfile(
        "context",
        &format!("FROM {}\nRUN true\n", proxy.name("base")),
    );
    let running = env
        .rbuild(args!["build", "--progress", "plain", context])
        .spawn();
    running.wait_for_line("load metadata for");
    while proxy.seen("GET", "/blobs/").is_empty() {
        std::thread::yield_now();
    }
    running.signal(rustix::process::Signal::INT);
    running.wait().exits(130);
    env.assert_sound_store();
}

/// What is said of a fault, and the fault.
type Lasting = (&'static str, fn() -> Action);

/// A fault of manifests that never passes, and what a pull says of it.
const LASTING: [Lasting; 7] = [
    ("redirect", || {
        Action::Answer(307, "Location: /v2/loop/manifests/x")
    }),
    ("manifest_bytes", || Action::Endless),
    ("hashes to", || Action::Flip(40)),
    ("answered 500", || Action::Answer(500, "X-Nothing: x")),
    ("answered 429", || Action::Answer(429, "Retry-After: 10000")),
    ("gave up after 5 tries", || Action::Cut(40)),
    ("sha256:0000", || Action::WrongDigest),
];

/// Applies a fault to the manifests that a client reads.
fn lasting(action: Action, method: &str, target: &str) -> Action {
    // Only this one can be seen in an answer without a body.
    let reads = method == "GET" || matches!(action, Action::WrongDigest) && method == "HEAD";
    if reads && target.contains("/manifests/") {
        action
    } else {
        Action::Forward
    }
}

#[test]
fn what_does_not_pass_is_told_by_pull_and_push() {
    let registry = registry();
    for (text, action) in LASTING {
        let env = TestEnv::new();
        // Redirections of manifests lead to manifests, and so on.
        let proxy = Proxy::before(&registry, move |method, target, _| {
            lasting(action(), method, target)
        });
        let outcome = env.rbuild(["pull", &proxy.name("base")]).run().exits(1);
        let said = &outcome.stderr;
        assert!(said.contains(text), "{text}: {said}");
        assert!(!said.contains("panicked"), "{said}");
        env.assert_sound_store();
        // The same of a manifest that is pushed: what the registry has is looked at.
        env.import_busybox();
        let name = proxy.name("pushed");
        env.rbuild(["tag", "busybox", &name]).run().ok();
        let outcome = env.rbuild(["push", &name]).run();
        // What is read back by its digest needs no header.
        let outcome = match text {
            "sha256:0000" => outcome.ok(),
            _ => outcome.exits(1),
        };
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        env.assert_sound_store();
    }
}

#[test]
fn what_does_not_pass_never_fails_a_build_with_a_cache() {
    let registry = registry();
    let env = TestEnv::new();
    let dockerfile = format!("FROM {}\nRUN echo built >/built\n", registry.name("base"));
    let context = env.dockerfile("context", &dockerfile);
    for kind in ["registry", "records"] {
        let to = format!("type={kind},ref={}", registry.name(kind));
        env.rbuild(args!["build", "--cache-to", to, context])
            .run()
            .ok();
    }
    for (text, action) in LASTING {
        let proxy = Proxy::before(&registry, move |method, target, _| {
            lasting(action(), method, target)
        });
        for kind in ["registry", "records"] {
            let fresh = TestEnv::new();
            let context = fresh.dockerfile("context", &dockerfile);
            let from = format!("type={kind},ref={}", proxy.name(kind));
            let flags = args!["build", "-t", "app", "--cache-from", from, context];
            let outcome = fresh.rbuild(flags).run().ok();
            let said = &outcome.stderr;
            assert!(said.contains("1 warning found"), "{kind} {text}: {said}");
            let run = ["run", "--rm", "app", "cat", "/built"];
            assert_eq!(fresh.rbuild(run).run().ok().out(), "built\n");
        }
    }
}

#[test]
fn caches_are_written_and_read_with_tokens_that_expire_and_answers_that_drip() {
    let registry = registry();
    let steps: Vec<String> = (0..12)
        .map(|i| format!("RUN echo {i} >/step{i}\n"))
        .collect();
    let steps = steps.concat();
    let dockerfile = format!("FROM {}\n{steps}", registry.name("base"));
    let env = TestEnv::new();
    let context = env.dockerfile("context", &dockerfile);
    for kind in ["registry", "records"] {
        // More than is ever asked for at once: a new token is good for each of them.
        let expiring = Proxy::with_tokens(&registry, 20);
        let to = format!("type={kind},ref={}", expiring.name(kind));
        let outcome = env.rbuild(args!["build", "--cache-to", to, context]).run();
        let said = outcome.ok().stderr;
        assert!(!said.contains("warning"), "{kind}: {said}");
        assert!(expiring.expired() > 0, "{kind}: no token has expired");
        let slow = Proxy::before(&registry, |_, _, _| Action::Drip);
        for (fault, proxy) in [("expiring", expiring), ("slow", slow)] {
            let fresh = TestEnv::new();
            // One step more reads all layers of the others.
            let more = format!("{dockerfile}RUN cat /step* >/all\n");
            let context = fresh.dockerfile("context", &more);
            let from = format!("type={kind},ref={}", proxy.name(kind));
            let flags = args![
                "build",
                "--progress",
                "plain",
                "-t",
                "app",
                "--cache-from",
                from,
                context
            ];
            let said = fresh.rbuild(flags).run().ok().stderr;
            let ran = said.lines().filter(|line| line.contains(" miss: ")).count();
            assert_eq!(ran, 1, "{kind} {fault}: {said}");
            assert!(!said.contains("warning"), "{kind} {fault}: {said}");
            let run = ["run", "--rm", "app", "cat", "/all"];
            let out = fresh.rbuild(run).run().ok().out();
            assert_eq!(out.lines().count(), 12, "{out}");
            fresh.assert_sound_store();
        }
    }
}

/// Pulls until `bytes` of the layer are on disk, and is killed then.
fn killed_half_way(env: &TestEnv, name: &str, bytes: u64) {
    let mut pull = env.rbuild(["pull", name]).spawn();
    let deadline = Instant::now() + Duration::from_mins(1);
    let on_disk = || -> u64 {
        let found = fs::read_dir(env.store().join("partial"));
        let found = found.into_iter().flatten().flatten();
        found
            .map(|entry| entry.metadata().map_or(0, |found| found.len()))
            .sum()
    };
    while on_disk() < bytes {
        assert!(Instant::now() < deadline, "{} bytes came", on_disk());
        std::thread::sleep(Duration::from_millis(20));
    }
    pull.kill();
    pull.wait();
}

#[test]
fn a_pull_that_was_killed_goes_on_where_it_was() {
    const SIZE: usize = 6 << 20;
    let (builder, registry) = (TestEnv::new(), Registry::plain());
    let context = builder.dockerfile("context", "FROM scratch\nCOPY data /\n");
    fs::write(context.join("data"), Random::new(1).bytes(SIZE)).unwrap();
    let name = registry.name("large");
    builder
        .rbuild(args!["-t", &name, "--push", context])
        .run()
        .ok();

    // The layer is cut, and what is asked for then is never answered. Only the layer is so long that
    // it is cut.
    let proxy = Proxy::before(&registry, |method, target, number| match (method, number) {
        ("GET", 0) if target.contains("/blobs/") => Action::Cut(4 << 20),
        ("GET", 1) if target.contains("/blobs/") => Action::Silence,
        _ => Action::Forward,
    });
    let env = TestEnv::new();
    killed_half_way(&env, &proxy.name("large"), 3 << 20);
    let before = proxy.blob_bytes();
    let proxy = Proxy::before(&registry, |_, _, _| Action::Forward);
    env.rbuild(["pull", &proxy.name("large")]).run().ok();
    let after = proxy.blob_bytes();
    assert!(
        after < SIZE - (2 << 20),
        "{before} bytes first, {after} then"
    );
    assert_eq!(
        fs::read_dir(env.store().join("partial")).unwrap().count(),
        0
    );
    env.assert_sound_store();
}

#[test]
fn a_damaged_beginning_is_downloaded_again_and_a_forgotten_one_is_pruned() {
    const SIZE: usize = 6 << 20;
    let (builder, registry) = (TestEnv::new(), Registry::plain());
    let context = builder.dockerfile("context", "FROM scratch\nCOPY data /\n");
    fs::write(context.join("data"), Random::new(2).bytes(SIZE)).unwrap();
    let name = registry.name("large");
    builder
        .rbuild(args!["-t", &name, "--push", context])
        .run()
        .ok();
    let halting = || {
        Proxy::before(&registry, |method, target, number| match (method, number) {
            ("GET", 0) if target.contains("/blobs/") => Action::Cut(4 << 20),
            ("GET", 1) if target.contains("/blobs/") => Action::Silence,
            _ => Action::Forward,
        })
    };
    let env = TestEnv::new();
    let proxy = halting();
    killed_half_way(&env, &proxy.name("large"), 3 << 20);
    let partial = || fs::read_dir(env.store().join("partial")).unwrap().flatten();
    let path = partial().next().unwrap().path();
    // As a power cut may leave it.
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all(&[0; 4096])
        .unwrap();
    env.rbuild(["pull", &name]).run().ok();
    env.assert_sound_store();
    assert_eq!(partial().count(), 0);

    let env = TestEnv::new();
    let proxy = halting();
    killed_half_way(&env, &proxy.name("large"), 3 << 20);
    let count = || fs::read_dir(env.store().join("partial")).unwrap().count();
    env.rbuild(["prune", "-f"]).run().ok();
    assert_eq!(count(), 1, "it may still be gone on with");
    let freed = env.rbuild(["prune", "-a", "-f"]).run().ok().out();
    assert_eq!(count(), 0);
    assert!(!freed.contains("space: 0B"), "{freed}");
}
