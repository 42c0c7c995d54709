//! What layers cost: hashing, making one, the difference to what is below, its tar, compression,
//! unpacking, and finding it again.

#![allow(missing_docs, reason = "made by the macros of criterion")]

use std::fs;
use std::hint::black_box;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rbuild_cache::{
    CommitOptions, Compression, CompressionKind, Digest, Draft, Layer, Store, StoreOptions,
};

/// A smoke run is not optimised and shows only that everything works.
const SMOKE: bool = cfg!(debug_assertions);
/// Files of a layer, of about 2 KB.
const FILES: usize = if SMOKE { 200 } else { 5_000 };
/// Bytes that are hashed and compressed.
const BYTES: usize = if SMOKE { 2 << 20 } else { 64 << 20 };
/// Layers below a step.
const LAYERS: usize = if SMOKE { 5 } else { 50 };

/// A store that goes away with the value. In memory, where that is to be had: what is timed is not
/// the disk.
struct Place {
    store: Store,
    _directory: tempfile::TempDir,
}

fn place() -> Place {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let directory = directory.expect("a directory");
    Place {
        store: open(directory.path()),
        _directory: directory,
    }
}

fn open(directory: &Path) -> Store {
    Store::open(&directory.join("store"), &StoreOptions::default()).expect("a store")
}

/// Another number each time, so that no two layers are the same.
fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Text that compresses about as programs and documents do.
fn text(bytes: usize) -> Vec<u8> {
    let mut state = number() + 1;
    let mut text = Vec::with_capacity(bytes + 64);
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005) + 1;
        text.extend_from_slice(format!("{:x} is not {} ", state >> 40, state >> 56).as_bytes());
    }
    text.truncate(bytes);
    text
}

fn files(draft: &Draft, count: usize) {
    let text = text(2_000);
    for number in 0..count {
        let directory = draft.upper().join(format!("d{}", number / 100));
        if number % 100 == 0 {
            fs::create_dir(&directory).expect("a directory");
        }
        let start = number % 1_000;
        fs::write(directory.join(format!("f{number}")), &text[start..]).expect("a file");
    }
}

fn draft(store: &Store, count: usize) -> Draft {
    let draft = store.draft().expect("a draft");
    files(&draft, count);
    draft
}

fn commit(draft: Draft, parents: &[Layer]) -> Layer {
    let layer = draft.commit(parents, &CommitOptions::default());
    layer.expect("a layer")
}

fn hashing(criterion: &mut Criterion) {
    let bytes = text(BYTES);
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(BYTES as u64));
    group.sample_size(10);
    group.bench_function("one stream", |bencher| {
        bencher.iter(|| Digest::of(black_box(&bytes)));
    });
    group.finish();
}

fn making(criterion: &mut Criterion) {
    let place = place();
    let store = &place.store;
    let below = commit(draft(store, FILES), &[]);
    let mut group = criterion.benchmark_group("layer of files");
    group.throughput(Throughput::Elements(FILES as u64));
    group.sample_size(10);
    group.bench_function("commit", |bencher| {
        let fresh = || draft(store, FILES);
        bencher.iter_batched(fresh, |draft| commit(draft, &[]), BatchSize::PerIteration);
    });
    let parents = [below.clone()];
    group.bench_function("commit over the same files", |bencher| {
        let fresh = || draft(store, FILES);
        bencher.iter_batched(
            fresh,
            |draft| commit(draft, &parents),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("tar", |bencher| {
        bencher.iter(|| {
            let tar = store.layer_tar(below.diff_id(), &mut std::io::sink(), None);
            tar.expect("a tar")
        });
    });
    group.finish();
}

fn compressing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compress");
    group.throughput(Throughput::Bytes(BYTES as u64));
    group.sample_size(10);
    for (name, kind, level) in [
        ("gzip 1", CompressionKind::Gzip, 1),
        ("gzip 6", CompressionKind::Gzip, 6),
        ("zstd 1", CompressionKind::Zstd, 1),
        ("zstd 3", CompressionKind::Zstd, 3),
    ] {
        let compression = Compression {
            kind,
            level: Some(level),
            force: true,
        };
        let fresh = || {
            let place = place();
            let draft = place.store.draft().expect("a draft");
            fs::write(draft.upper().join("file"), text(BYTES)).expect("a file");
            let layer = commit(draft, &[]);
            (place, layer)
        };
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                fresh,
                |(place, layer)| {
                    let blob = place.store.layer_blob(layer.diff_id(), &compression);
                    (blob.expect("a blob"), place)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn unpacking(criterion: &mut Criterion) {
    let from = place();
    let layer = commit(draft(&from.store, FILES), &[]);
    let blob = from
        .store
        .layer_blob(layer.diff_id(), &Compression::default())
        .expect("a blob");
    let mut bytes = Vec::new();
    let mut file = from.store.open_blob(&blob.blob.digest).expect("the blob");
    file.read_to_end(&mut bytes).expect("its bytes");
    let mut group = criterion.benchmark_group("unpack");
    group.throughput(Throughput::Elements(FILES as u64));
    group.sample_size(10);
    group.bench_function("gzip", |bencher| {
        let fresh = || {
            let place = place();
            place.store.put_blob(&bytes).expect("a blob");
            place
        };
        bencher.iter_batched(
            fresh,
            |place| {
                let layer = place.store.unpack(&blob.blob.digest, layer.diff_id());
                (layer.expect("a layer"), place)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn looking_up(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let mut layers: Vec<Layer> = Vec::new();
    for _ in 0..LAYERS {
        let draft = store.draft_on(&layers).expect("a draft");
        fs::write(draft.upper().join("file"), text(10)).expect("a file");
        layers.push(commit(draft, &layers));
    }
    drop(store);
    let mut group = criterion.benchmark_group("look up");
    group.bench_function("open a store and find its layers", |bencher| {
        bencher.iter(|| {
            let store = open(directory.path());
            let known = |layer: &&Layer| store.layer(layer.diff_id()).expect("an answer").is_some();
            assert_eq!(layers.iter().filter(known).count(), LAYERS);
        });
    });
    group.finish();
}

criterion_group!(benches, hashing, making, compressing, unpacking, looking_up);
criterion_main!(benches);
