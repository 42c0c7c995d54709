//! How long a command takes that does nothing, in a sandbox of its own. Needs root and a static busybox.

#![allow(missing_docs, reason = "made by the macros of criterion")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use rbuild_runtime::{ExitStatus, RootFs, Runtime, RuntimeOptions, Sandbox, Stdio, UpperDir};

/// Fills a layer; returns its directory.
fn layer(place: &Path) -> PathBuf {
    let layer = place.join("layer");
    for name in ["bin", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(layer.join(name)).expect("a directory");
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox")).expect("a static busybox");
    layer
}

fn null() -> Stdio {
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.expect("/dev/null");
    Stdio {
        stdin: None,
        stdout: null.try_clone().expect("a descriptor").into(),
        stderr: null.into(),
    }
}

fn spawning(criterion: &mut Criterion) {
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let layer = layer(directory.path());
    let options = RuntimeOptions {
        state_dir: directory.path().join("state"),
    };
    let runtime = Runtime::start(options).expect("a runtime");
    let mut number = 0;
    let mut fresh = || {
        number += 1;
        let place = directory.path().join(number.to_string());
        let upper = UpperDir {
            upper: place.join("upper"),
            work: place.join("work"),
        };
        fs::create_dir_all(&upper.upper).expect("a directory");
        fs::create_dir_all(&upper.work).expect("a directory");
        let root = RootFs {
            lowers: vec![layer.clone()],
            upper: Some(upper),
            readonly: false,
            plain: None,
        };
        Sandbox::new(root, ["/bin/busybox", "true"])
    };
    let run = |sandbox: Sandbox| {
        let mut running = runtime.spawn(&sandbox, null()).expect("a sandbox");
        assert_eq!(running.wait().expect("its end"), ExitStatus::Code(0));
    };
    // The first one starts the spawner.
    run(fresh());
    criterion.bench_function("sandbox", |bencher| {
        bencher.iter_batched(&mut fresh, run, BatchSize::PerIteration);
    });
}

criterion_group!(benches, spawning);
criterion_main!(benches);
