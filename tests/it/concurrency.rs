//! Several processes on one store.

use std::fs;

use rustix::process::Signal;

use crate::args;
use crate::support::TestEnv;
use crate::support::process::with_path;

mod storm;

#[test]
fn two_builds_of_the_same_step_at_once_run_it_once() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile(
        "c",
        "FROM busybox\nRUN sleep 1; cat /proc/sys/kernel/random/uuid >/random\n",
    );
    let build = |name: &str| env.rbuild(args!["build", "-t", name, context]).spawn();
    let (one, two) = (build("one"), build("two"));
    one.wait().ok();
    two.wait().ok();
    let layers = |name: &str| env.inspect(name, "{{json .RootFS.Layers}}");
    assert_eq!(layers("one"), layers("two"));
    env.assert_sound_store();
}

#[test]
fn many_different_builds_at_once_share_a_store() {
    let env = TestEnv::new();
    env.import_busybox();
    let started: Vec<_> = (0..6)
        .map(|i| {
            let text = format!("FROM busybox\nRUN echo shared >/s\nRUN echo {i} >/own\n");
            let context = env.dockerfile(&format!("c{i}"), &text);
            let output = with_path("type=tar,dest=", &env.join(&format!("{i}.tar")));
            let name = format!("own-{i}");
            (
                i,
                env.rbuild(args!["-t", name, "-o", "type=image", "-o", output, context])
                    .spawn(),
            )
        })
        .collect();
    for (_, build) in started {
        build.wait().ok();
    }
    for i in 0..6 {
        let name = format!("own-{i}");
        let output = env
            .rbuild(["run", "--rm", &name, "cat", "/s", "/own"])
            .run()
            .ok();
        assert_eq!(output.out(), format!("shared\n{i}\n"));
    }
    env.assert_sound_store();
}

/// A step that adds a line to a file which the builds share, and takes long enough to be met.
fn counted(step: &str) -> String {
    format!(
        "RUN --mount=type=cache,id=runs,target=/runs,sharing=locked \\\n    \
         echo {step} >>/runs/log; sleep 0.2; echo {step} >/{step}\n"
    )
}

/// How often each step ran, from the lines that it left.
fn runs(env: &TestEnv) -> std::collections::BTreeMap<String, usize> {
    let text = "FROM busybox\nRUN --mount=type=cache,id=runs,target=/runs cp /runs/log /log\n";
    let context = env.dockerfile("read-runs", text);
    let output = env.join("runs");
    env.rbuild(args!["--no-cache", "-o", output, context])
        .run()
        .ok();
    let mut counts = std::collections::BTreeMap::new();
    for line in std::fs::read_to_string(output.join("log")).unwrap().lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn twenty_overlapping_builds_at_once_run_each_shared_step_once() {
    let env = TestEnv::new();
    env.import_busybox();
    let builds: Vec<_> = (0..20)
        .map(|i| {
            // Every build shares the first step with all others, the second with every fourth, and
            // a stage with every third; the last step is its own.
            let text = format!(
                "FROM busybox AS side\n{side}FROM busybox\n{all}{some}\
                 COPY --from=side /side{third} /\n{own}",
                side = counted(&format!("side{}", i % 3)),
                all = counted("all"),
                some = counted(&format!("some{}", i % 4)),
                third = i % 3,
                own = counted(&format!("own{i}")),
            );
            let context = env.dockerfile(&format!("c{i}"), &text);
            let name = format!("image-{i}");
            env.rbuild(args!["-t", name, context]).timeout(300).spawn()
        })
        .collect();
    for build in builds {
        build.wait().ok();
    }
    let counts = runs(&env);
    let mut wanted = std::collections::BTreeMap::from([("all".to_owned(), 1)]);
    wanted.extend((0..3).map(|i| (format!("side{i}"), 1)));
    wanted.extend((0..4).map(|i| (format!("some{i}"), 1)));
    wanted.extend((0..20).map(|i| (format!("own{i}"), 1)));
    assert_eq!(counts, wanted);
    for i in [0, 7, 19] {
        let [all, some, own] = [
            "all".to_owned(),
            format!("some{}", i % 4),
            format!("own{i}"),
        ];
        let name = format!("image-{i}");
        let side = format!("/side{}", i % 3);
        let files = ["/all", &format!("/{some}"), &side, &format!("/{own}")].map(str::to_owned);
        let cat = ["run", "--rm", &name, "cat"].map(str::to_owned);
        let output = env.rbuild(cat.iter().chain(&files)).run().ok();
        assert_eq!(
            output.out(),
            format!("{all}\n{some}\n{}\n{own}\n", &side[1..])
        );
    }
    env.assert_sound_store();
}

#[test]
fn who_waits_for_a_killed_build_runs_the_step_itself() {
    let env = TestEnv::new();
    env.import_busybox();
    // The first run finds no mark and never ends; the second one does.
    let text = "FROM busybox\nRUN --mount=type=cache,id=k,target=/k,sharing=shared \\\n    \
                if test -e /k/mark; then echo second >/done; \
                else touch /k/mark; echo b${x}egun; sleep 1000; fi\n";
    let context = env.dockerfile("c", text);
    let build = |name: &str| {
        let plain = ["--progress", "plain", "-t", name].map(std::ffi::OsString::from);
        let arguments = plain.into_iter().chain(args![context]);
        env.rbuild(arguments).spawn()
    };
    let mut first = build("first");
    first.wait_for_line("begun");
    let second = build("second");
    second.wait_for_line("waiting for another build");
    first.kill();
    assert_eq!(first.wait().code(), 128 + 9);
    second.wait().ok();
    let output = env.rbuild(["run", "--rm", "second", "cat", "/done"]).run();
    assert_eq!(output.ok().out(), "second\n");
    env.assert_sound_store();
}

#[test]
fn who_waits_for_another_build_can_be_stopped() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("c", "FROM busybox\nRUN echo b${x}egun; sleep 1000\n");
    let build = || {
        env.rbuild(args!["--progress", "plain", context])
            .timeout(60)
            .spawn()
    };
    let first = build();
    first.wait_for_line("begun");
    let second = build();
    second.wait_for_line("waiting for another build");
    for build in [second, first] {
        build.signal(Signal::INT);
        let outcome = build.wait();
        assert_eq!(outcome.code(), 130, "{}", outcome.stderr);
    }
    env.assert_sound_store();
}

#[test]
fn steps_with_the_same_two_locked_caches_do_not_wait_for_each_other_for_ever() {
    let env = TestEnv::new();
    env.import_busybox();
    let mount = |id: &str| format!("--mount=type=cache,id={id},target=/{id},sharing=locked");
    let started: Vec<_> = (0..6)
        .map(|i| {
            let (one, two) = if i % 2 == 0 { ("a", "b") } else { ("b", "a") };
            let text = format!(
                "FROM busybox\nRUN {} {} sleep 0.1; echo {i}\n",
                mount(one),
                mount(two)
            );
            let context = env.dockerfile(&format!("c{i}"), &text);
            env.rbuild(args![context]).timeout(60).spawn()
        })
        .collect();
    for build in started {
        build.wait().ok();
    }
}

#[test]
fn an_interrupt_stops_every_step_and_leaves_nothing() {
    let env = TestEnv::new();
    env.import_busybox();
    // Two commands that do not want to end, and a third step that waits for both.
    let stubborn = |name: &str| {
        format!(
            "FROM busybox AS {name}\nRUN trap '' INT TERM; echo {name}${{x}}-begun; sleep 1000\n"
        )
    };
    let text = format!(
        "{}{}FROM busybox\nCOPY --from=one / /1\nCOPY --from=two / /2\n",
        stubborn("one"),
        stubborn("two")
    );
    let context = env.dockerfile("c", &text);
    for signal in [Signal::INT, Signal::TERM] {
        let build = env
            .rbuild(args!["--progress", "plain", "-t", "x", context])
            .timeout(60)
            .spawn();
        build.wait_for_line("one-begun");
        build.signal(signal);
        let outcome = build.wait();
        let status = if signal == Signal::INT { 130 } else { 143 };
        assert_eq!(outcome.code(), status, "{}", outcome.stderr);
        // Processes, mounts and files of the environment are looked at when it is dropped.
        let unfinished = fs::read_dir(env.store().join("tmp")).unwrap().count();
        assert_eq!(unfinished, 0, "{}", outcome.stderr);
    }
    let images = env.rbuild(["images", "-q", "x"]).run().ok();
    assert_eq!(images.out(), "");
    env.assert_sound_store();
}

#[test]
fn an_interrupt_ends_an_export_that_has_begun() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nCOPY big /big\n");
    // Enough for seconds of compression.
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..25_000_000)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    fs::write(context.join("big"), noise).unwrap();
    let archive = env.join("out.tar");
    let output = with_path(
        "type=oci,compression=gzip,compression-level=9,dest=",
        &archive,
    );
    let build = env
        .rbuild(args!["--progress", "plain", "-o", output, context])
        .timeout(60)
        .spawn();
    build.wait_for_line("exporting to image");
    build.signal(Signal::INT);
    build.wait().exits(130);
    assert!(!archive.exists());
    let unfinished = fs::read_dir(env.store().join("tmp")).unwrap().count();
    assert_eq!(unfinished, 0);
    env.assert_sound_store();
}
