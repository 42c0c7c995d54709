//! How long it takes to see that a context of 20,000 files has not changed.

#![allow(missing_docs, reason = "made by the macros of criterion")]

use std::fs::{self, FileTimes};
use std::path::Path;
use std::time::UNIX_EPOCH;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rbuild_builder::context_digest;
use rbuild_parser::IgnoreMatcher;

/// A smoke run is not optimised and shows only that everything works.
const DIRECTORIES: usize = if cfg!(debug_assertions) { 20 } else { 200 };
const FILES: usize = 100;

/// 20,000 files of a kilobyte.
fn fill(root: &Path) {
    for directory in 0..DIRECTORIES {
        let directory = root.join(format!("d{}/s{directory}", directory % 20));
        fs::create_dir_all(&directory).expect("a directory");
        for file in 0..FILES {
            let path = directory.join(format!("file{file}.txt"));
            fs::write(&path, format!("{file} ").repeat(300)).expect("a file");
            let file = fs::File::options()
                .write(true)
                .open(&path)
                .expect("the file");
            let old = FileTimes::new().set_modified(UNIX_EPOCH);
            file.set_times(old).expect("the time of the file");
        }
    }
}

fn matcher(text: &str) -> IgnoreMatcher {
    IgnoreMatcher::parse(text.as_bytes()).expect("patterns")
}

fn scanning(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let context = directory.path().join("context");
    fill(&context);
    let digest = |ignore: &str, memo: &Path| {
        context_digest(&context, matcher(ignore), memo).expect("a digest")
    };
    let memo = directory.path().join("memo");
    // Files that are younger than a moment are not remembered; the second call finds them old.
    let first = digest("", &memo);
    assert_eq!(first, digest("", &memo));
    let mut group = criterion.benchmark_group("context");
    group.throughput(Throughput::Elements((DIRECTORIES * FILES) as u64));
    group.bench_function("20,000 unchanged files", |bencher| {
        bencher.iter(|| digest("", &memo));
    });
    let rules = "**/*.log\n.git\nd1*\n!d1/s1\n";
    group.bench_function("20,000 unchanged files, half of them ignored", |bencher| {
        bencher.iter(|| digest(rules, &memo));
    });
    let none = directory.path().join("none");
    group.sample_size(10);
    group.bench_function("20,000 files, nothing known", |bencher| {
        bencher.iter(|| {
            let _ = fs::remove_file(&none);
            digest("", &none)
        });
    });
    group.finish();
}

criterion_group!(benches, scanning);
criterion_main!(benches);
