//! rbuild's own cache: a record for each step in a repository of a registry.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::machine::{build, context, push_base};
use crate::args;
use crate::support::TestEnv;
use crate::support::process::Outcome;
use crate::support::registry::{Action, Proxy, Registry};

fn records(name: &str) -> String {
    format!("type=records,ref={name}")
}

/// How many steps had to run.
fn missed(outcome: &Outcome) -> usize {
    let lines = outcome.stderr.lines();
    lines.filter(|line| line.contains(" miss: ")).count()
}

/// Bytes of all blobs that were downloaded through the proxy.
fn downloaded(proxy: &Proxy) -> usize {
    proxy.blob_bytes()
}

#[test]
fn an_empty_machine_finds_all_steps_in_three_round_trips() {
    let registry = Registry::plain();
    let (base, cache) = (registry.name("base"), registry.name("cache"));
    push_base(&base);
    let env = TestEnv::new();
    let first = context(&env, &base, "echo first >/last");
    let to = format!("{},mode=max", records(&cache));
    build(&env, &first, &["-t", "app", "--cache-to", &to]).ok();

    // All five steps are asked for at once: nobody gets an answer before the last has asked.
    let all = Barrier::new(5);
    let proxy = Proxy::before(&registry, move |_, target, _| {
        if target.contains("/manifests/step-") {
            all.wait();
        }
        Action::Forward
    });
    let fresh = TestEnv::new();
    let same = context(&fresh, &proxy.name("base"), "echo first >/last");
    let from = records(&proxy.name("cache"));
    // Elsewhere https is spoken; on loopback a client has to find out.
    let host = proxy.name("");
    let host = host.trim_end_matches('/');
    let place = format!("xdg/docker/certs.d/{host}/hosts.toml");
    fresh.files("", &[(&place, &format!("[host.\"http://{host}\"]\n"))]);
    let outcome = fresh
        .rbuild(args![
            "build",
            "--progress",
            "plain",
            "-o",
            "type=cacheonly",
            "--cache-from",
            from,
            same
        ])
        .env("XDG_CONFIG_HOME", fresh.join("xdg"))
        .run()
        .ok();
    assert_eq!(missed(&outcome), 0, "{}", outcome.stderr);
    assert_eq!(proxy.seen("GET", "/manifests/step-").len(), 5);
    // Manifest and config of the base come before, one after the other, and that is all.
    assert_eq!(proxy.requests(), 7, "{:?}", proxy.seen("GET", "/"));
    assert_eq!(proxy.seen("GET", "/base/").len(), 2);
    assert!(downloaded(&proxy) < 4096);
}

#[test]
fn another_machine_downloads_only_what_the_changed_step_reads() {
    let registry = Registry::plain();
    let (base, cache) = (registry.name("base"), registry.name("cache"));
    push_base(&base);
    let env = TestEnv::new();
    let first = context(&env, &base, "echo first >/last");
    let to = format!("{},mode=max", records(&cache));
    build(&env, &first, &["-t", "app", "--cache-to", &to]).ok();

    let proxy = Proxy::before(&registry, |_, _, _| Action::Forward);
    let fresh = TestEnv::new();
    let (from, app) = (records(&proxy.name("cache")), proxy.name("app"));
    // Nothing has changed: no layer comes down, and all layers are mounted.
    let same = context(&fresh, &base, "echo first >/last");
    let flags = ["-t", &app, "--push", "--cache-from", &from];
    let outcome = build(&fresh, &same, &flags).ok();
    assert_eq!(missed(&outcome), 0, "{}", outcome.stderr);
    assert!(
        downloaded(&proxy) < 4096,
        "{:?}",
        proxy.seen("GET", "/blobs/")
    );

    // The last step reads its own stage, but not the 4 MB that another stage has made.
    let changed = context(&fresh, &base, "cat /one /tool /file >/last");
    let outcome = build(&fresh, &changed, &["-t", "app", "--cache-from", &from]).ok();
    assert_eq!(missed(&outcome), 1, "{}", outcome.stderr);
    let bytes = downloaded(&proxy);
    assert!(bytes > 100 && bytes < 100_000, "{bytes}");
    let ran = ["run", "--rm", "app", "cat", "/last"];
    assert_eq!(fresh.rbuild(ran).run().ok().out(), "one\ntool\ncontent\n");
    // What the store has is not asked for.
    let before = proxy.requests();
    build(&fresh, &changed, &["-t", "app", "--cache-from", &from]).ok();
    let asked = proxy.seen("GET", "/manifests/step-").len();
    assert!(proxy.requests() - before <= asked, "{before} {asked}");
    fresh.assert_sound_store();

    // A changed file is a miss, whatever the cache says.
    let other = TestEnv::new();
    let changed = context(&other, &base, "cat /file >/last");
    std::fs::write(changed.join("file"), "other\n").unwrap();
    build(&other, &changed, &["-t", "app", "--cache-from", &from]).ok();
    assert_eq!(other.rbuild(ran).run().ok().out(), "other\n");
}

#[test]
fn records_and_layers_are_sent_while_later_steps_run() {
    let registry = Registry::plain();
    let base = registry.name("base");
    push_base(&base);
    let proxy = Proxy::before(&registry, |_, _, _| Action::Forward);
    let env = TestEnv::new();
    let dockerfile = format!(
        "FROM {base}\nRUN head -c 3000000 /dev/urandom >/data\nRUN echo waiting && sleep 1000\n"
    );
    let folder = env.dockerfile("context", &dockerfile);
    let (to, app) = (records(&proxy.name("cache")), proxy.name("app"));
    let flags = ["-t", &app, "--push", "--cache-to", &to];
    let mut args = args!["build", "--progress", "plain"].to_vec();
    args.extend(flags.iter().map(Into::into));
    args.push(folder.into());
    let running = env.rbuild(args).spawn();
    running.wait_for_line("waiting");
    // The last step does not end before both have arrived.
    proxy.wait_for(&[("PUT", "/app/blobs/uploads/"), ("PUT", "/manifests/step-")]);
    running.signal(rustix::process::Signal::INT);
    running.wait().exits(130);
    // What was interrupted is as good as done for the next machine.
    let fresh = TestEnv::new();
    let dockerfile = format!("FROM {base}\nRUN head -c 3000000 /dev/urandom >/data\nRUN true\n");
    let folder = fresh.dockerfile("context", &dockerfile);
    let from = records(&registry.name("cache"));
    let outcome = build(&fresh, &folder, &["-t", "app", "--cache-from", &from]).ok();
    assert_eq!(missed(&outcome), 1, "{}", outcome.stderr);
    env.assert_sound_store();
}

#[test]
fn modes_sizes_and_ages_choose_what_is_kept() {
    let registry = Registry::plain();
    let base = registry.name("base");
    push_base(&base);
    let env = TestEnv::new();
    let app = context(&env, &base, "echo x >/last");
    let write = |cache: &str, more: &str| {
        let to = format!("{}{more}", records(&registry.name(cache)));
        let outcome = build(&env, &app, &["--cache-to", &to]).ok();
        assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    };
    write("min", "");
    write("max", ",mode=max");
    write("small", ",mode=max,max-layer-size=1MB,compression=zstd");
    let found = |cache: &str, more: &str| {
        let fresh = TestEnv::new();
        let same = context(&fresh, &base, "echo x >/last");
        let from = format!("{}{more}", records(&registry.name(cache)));
        let flags = ["-o", "type=cacheonly", "--cache-from", &from];
        let outcome = build(&fresh, &same, &flags).ok();
        eprintln!("{cache}{more}: {}", outcome.stderr);
        missed(&outcome)
    };
    assert_eq!(found("max", ""), 0);
    // The other stage runs; its layer is another one, but the file that is copied is the same.
    assert_eq!(found("min", ""), 1);
    assert_eq!(found("small", ""), 1);
    assert_eq!(found("max", ",max-age=1h"), 0);
    assert_eq!(found("max", ",max-age=1ms"), 5);
    let fresh = TestEnv::new();
    let same = context(&fresh, &base, "echo x >/last");
    let from = records(&registry.name("max"));
    let flags = [
        "-o",
        "type=cacheonly",
        "--cache-ttl=1ms",
        "--cache-from",
        &from,
    ];
    assert_eq!(missed(&build(&fresh, &same, &flags).ok()), 5);
}

#[test]
fn a_step_is_not_taken_for_another_input_than_it_had() {
    let registry = Registry::plain();
    let (base, cache) = (registry.name("base"), registry.name("cache"));
    push_base(&base);
    let dockerfile = format!(
        "FROM {base}\nRUN head -c 100000 /dev/urandom >/random\nRUN head -c 10 /random >/part\n"
    );
    let env = TestEnv::new();
    let folder = env.dockerfile("context", &dockerfile);
    // The first step's layer stays out, so whoever comes next has to run the step.
    let to = format!("{},max-layer-size=20kB", records(&cache));
    build(&env, &folder, &["-t", "app", "--cache-to", &to]).ok();
    let fresh = TestEnv::new();
    let folder = fresh.dockerfile("context", &dockerfile);
    let from = records(&cache);
    let outcome = build(&fresh, &folder, &["-t", "app", "--cache-from", &from]).ok();
    assert_eq!(missed(&outcome), 2, "{}", outcome.stderr);
    let same = "head -c 10 /random | cmp - /part";
    fresh
        .rbuild(["run", "--rm", "app", "sh", "-c", same])
        .run()
        .ok();
}

#[test]
fn a_registry_that_fails_never_fails_the_build() {
    let registry = Registry::plain();
    let (base, cache) = (registry.name("base"), registry.name("cache"));
    push_base(&base);
    let env = TestEnv::new();
    let app = context(&env, &base, "echo x >/last");
    // It cannot be read and not be written.
    let proxy = Proxy::before(&registry, |_, _, _| Action::Answer(403, "X-Nothing: x"));
    let dead = records(&proxy.name("cache"));
    let flags = ["-t", "app", "--cache-from", &dead, "--cache-to", &dead];
    let outcome = build(&env, &app, &flags).ok();
    let said = &outcome.stderr;
    assert!(said.contains("going on without them"), "{said}");
    assert!(said.contains("exporting cache to"), "{said}");
    // One that failed is not asked for every step.
    assert_eq!(said.matches("going on without them").count(), 1, "{said}");

    // It answers for records, and then dies.
    build(
        &env,
        &app,
        &["--cache-to", &format!("{},mode=max", records(&cache))],
    )
    .ok();
    let to = format!("type=registry,ref={},mode=max", registry.name("other"));
    build(&env, &app, &["--cache-to", &to]).ok();
    let configs = AtomicUsize::new(0);
    let proxy = Proxy::before(&registry, move |method, target, _| {
        // The one is read by three requests: for name, manifest and config.
        let config = target.contains("/other/") && configs.fetch_add(1, Ordering::SeqCst) < 3;
        if method == "GET" && target.contains("/blobs/") && !target.contains("/base/") && !config {
            Action::Answer(500, "X-Nothing: x")
        } else {
            Action::Forward
        }
    });
    for (kind, name) in [("records", "cache"), ("registry", "other")] {
        let from = format!("type={kind},ref={}", proxy.name(name));
        let fresh = TestEnv::new();
        let folder = context(&fresh, &proxy.name("base"), "cat /one /tool /file >/last");
        let outcome = build(&fresh, &folder, &["-t", "app", "--cache-from", &from]).ok();
        let said = &outcome.stderr;
        assert!(
            said.contains("does not deliver what it has promised"),
            "{said}"
        );
        let ran = ["run", "--rm", "app", "cat", "/last"];
        assert_eq!(fresh.rbuild(ran).run().ok().out(), "one\ntool\ncontent\n");
        fresh.assert_sound_store();
    }
}

#[test]
fn records_that_lie_are_not_believed() {
    let registry = Registry::plain();
    let (base, cache) = (registry.name("base"), registry.name("cache"));
    push_base(&base);
    let env = TestEnv::new();
    let app = context(&env, &base, "echo x >/last");
    build(&env, &app, &["--cache-to", &records(&cache)]).ok();
    // A layer with a wrong byte, a manifest with one.
    for part in ["/cache/blobs/", "/manifests/step-"] {
        let proxy = Proxy::before(&registry, move |method, target, _| {
            if method == "GET" && target.contains(part) {
                Action::Flip(40)
            } else {
                Action::Forward
            }
        });
        let fresh = TestEnv::new();
        let same = context(&fresh, &base, "cat /one >/last");
        let from = records(&proxy.name("cache"));
        let outcome = build(&fresh, &same, &["-t", "app", "--cache-from", &from]).ok();
        assert!(outcome.stderr.contains("warning"), "{}", outcome.stderr);
        let ran = ["run", "--rm", "app", "cat", "/last"];
        assert_eq!(fresh.rbuild(ran).run().ok().out(), "one\n");
        fresh.assert_sound_store();
    }
}

#[test]
fn cache_mounts_travel_and_only_what_is_new_in_them() {
    let registry = Registry::plain();
    let base = registry.name("base");
    push_base(&base);
    let step = |env: &TestEnv, command: &str| {
        let text = format!("FROM {base}\nRUN --mount=type=cache,target=/cache {command}\n");
        env.dockerfile("context", &text)
    };
    let both = |proxy: &Proxy| format!("{},mounts=true", records(&proxy.name("cache")));
    let run = |env: &TestEnv, command: &str, proxy: &Proxy| {
        let cache = both(proxy);
        let folder = step(env, command);
        let flags = ["-t", "app", "--cache-from", &cache, "--cache-to", &cache];
        build(env, &folder, &flags).ok()
    };
    let forward = || Proxy::before(&registry, |_, _, _| Action::Forward);
    let seen = |env: &TestEnv| {
        let cat = ["run", "--rm", "app", "cat", "/seen"];
        env.rbuild(cat).run().ok().out()
    };
    let (env, first) = (TestEnv::new(), forward());
    let fill = "head -c 12000000 /dev/urandom >/cache/data && ln -s data /cache/link && \
                echo one >/cache/version && chmod 640 /cache/version && chown 7:8 /cache/version";
    run(&env, fill, &first);
    let chunks = first.seen("POST", "/cache/blobs/uploads/").len();
    assert!(chunks > 6, "{chunks}");

    // Another machine finds it, changes a little, and sends little.
    let (other, second) = (TestEnv::new(), forward());
    let change = "(stat -c '%a %u:%g %n' /cache/version; cat /cache/version; readlink /cache/link; \
                  wc -c </cache/data) >/seen && echo two >/cache/version";
    run(&other, change, &second);
    assert_eq!(
        seen(&other),
        "640 7:8 /cache/version\none\ndata\n12000000\n"
    );
    assert!(downloaded(&second) > 12_000_000);
    // The layer, the chunk with the version, the order of the chunks.
    let sent = second.seen("POST", "/cache/blobs/uploads/").len();
    assert!(sent < 6 && sent < chunks, "{sent} of {chunks}");
    other.assert_sound_store();

    // A mount that is there is not fetched again; one that is not sound begins empty.
    let third = forward();
    run(&other, "cat /cache/version >/seen", &third);
    assert_eq!(seen(&other), "two\n");
    assert!(downloaded(&third) < 4096);
    let bent = Proxy::before(&registry, |method, target, _| {
        if method == "GET" && target.contains("/cache/blobs/") {
            Action::Flip(40)
        } else {
            Action::Forward
        }
    });
    let fresh = TestEnv::new();
    let outcome = run(&fresh, "ls -A /cache >/seen", &bent);
    let said = &outcome.stderr;
    assert!(
        said.contains("the cache mount cache begins empty"),
        "{said}"
    );
    assert_eq!(seen(&fresh), "");
    fresh.assert_sound_store();
    // What was lost on the way is not lost in the registry.
    let (last, fourth) = (TestEnv::new(), forward());
    run(&last, "cp /cache/version /seen", &fourth);
    assert_eq!(seen(&last), "two\n");
}

#[test]
fn what_all_records_share_is_sent_once() {
    let registry = Registry::plain();
    let proxy = Proxy::before(&registry, |_, _, _| Action::Forward);
    let env = TestEnv::new();
    env.import_busybox();
    let stages: Vec<String> = (0..6)
        .map(|stage| format!("FROM busybox AS s{stage}\nRUN echo {stage} >/f\n"))
        .collect();
    let copies: Vec<String> = (0..6)
        .map(|stage| format!("COPY --from=s{stage} /f /f{stage}\n"))
        .collect();
    let text = format!("{}FROM busybox\n{}", stages.concat(), copies.concat());
    let folder = env.dockerfile("context", &text);
    build(&env, &folder, &[]).ok();
    // All steps are there, so they are sent side by side.
    let to = format!("{},mode=max", records(&proxy.name("cache")));
    let outcome = build(&env, &folder, &["--cache-to", &to]).ok();
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    // The empty config, `{}`.
    let empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    assert_eq!(proxy.seen("PUT", empty).len(), 1);
}
