//! Compressed layers: readable by everybody, the same bytes every time.

use std::fs;
use std::io::Read;
use std::process::Command;

use rbuild_cache::{
    Compression, CompressionKind, Layer, RewriteTimestamps, StreamKind, detect_and_decompress,
};

use crate::support::{TestStore, listing, pipe};

/// A layer of a few megabytes of text that compresses, and some noise that does not.
fn some_layer(test: &TestStore) -> Layer {
    test.layer(&[], |root| {
        let mut text = String::new();
        for number in 0..300_000_u32 {
            text += &format!("line {number} {}\n", number.wrapping_mul(2_654_435_761));
        }
        fs::write(root.join("text"), text).unwrap();
        let mut noise = vec![0; 3 << 20];
        let mut state = 88_172_645_463_325_252_u64;
        for byte in &mut noise {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        fs::write(root.join("noise"), noise).unwrap();
        fs::write(root.join("small"), b"x").unwrap();
    })
}

fn blob(test: &TestStore, layer: &Layer, kind: CompressionKind, level: Option<i32>) -> Vec<u8> {
    let compression = Compression {
        kind,
        level,
        force: true,
    };
    let made = test
        .store
        .layer_blob(layer.diff_id(), &compression)
        .unwrap();
    assert_eq!(made.kind, kind);
    test.store.read_blob(&made.blob.digest, 1 << 30).unwrap()
}

#[test]
fn gzip_is_read_by_gzip_and_python() {
    let test = TestStore::new();
    let layer = some_layer(&test);
    let tar = test.tar(&layer);
    for level in [None, Some(0), Some(1), Some(9)] {
        let bytes = blob(&test, &layer, CompressionKind::Gzip, level);
        assert!(
            pipe(Command::new("gzip").arg("-dc"), &bytes) == tar,
            "level {level:?}"
        );
        let script =
            "import gzip,sys;sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
        assert!(pipe(Command::new("python3").args(["-c", script]), &bytes) == tar);
    }
}

#[test]
fn zstd_is_read_by_zstd() {
    let test = TestStore::new();
    let layer = some_layer(&test);
    let tar = test.tar(&layer);
    for level in [None, Some(1), Some(-3)] {
        let bytes = blob(&test, &layer, CompressionKind::Zstd, level);
        assert!(
            pipe(Command::new("zstd").arg("-dc"), &bytes) == tar,
            "level {level:?}"
        );
    }
}

#[test]
fn same_layer_gives_the_same_bytes_in_every_store() {
    let (one, two) = (TestStore::new(), TestStore::new());
    let first = some_layer(&one);
    let tar = one.tar(&first);
    let digest = two.store.put_blob(&tar).unwrap().digest;
    let second = two.store.unpack(&digest, first.diff_id()).unwrap();
    for kind in [
        CompressionKind::Gzip,
        CompressionKind::Zstd,
        CompressionKind::Uncompressed,
    ] {
        assert!(
            blob(&one, &first, kind, None) == blob(&two, &second, kind, None),
            "{}",
            kind.name()
        );
    }
}

#[test]
fn layer_without_entries_compresses() {
    let test = TestStore::new();
    let layer = test.layer(&[], |_| {});
    for kind in [CompressionKind::Gzip, CompressionKind::Zstd] {
        let bytes = blob(&test, &layer, kind, None);
        let (_, mut plain) = detect_and_decompress(bytes.as_slice()).unwrap();
        let mut tar = Vec::new();
        plain.read_to_end(&mut tar).unwrap();
        assert_eq!(tar, vec![0; 1024]);
    }
}

#[test]
fn existing_blob_is_taken_unless_forced() {
    let test = TestStore::new();
    let layer = test.layer(&[], |root| fs::write(root.join("f"), b"f").unwrap());
    let wish = |kind, force| Compression {
        kind,
        level: None,
        force,
    };
    let store = &test.store;
    let gzip = store
        .layer_blob(layer.diff_id(), &wish(CompressionKind::Gzip, false))
        .unwrap();
    let zstd = store
        .layer_blob(layer.diff_id(), &wish(CompressionKind::Zstd, false))
        .unwrap();
    assert_eq!(gzip, zstd, "the blob that is there is taken");
    let forced = store
        .layer_blob(layer.diff_id(), &wish(CompressionKind::Zstd, true))
        .unwrap();
    assert_eq!(forced.kind, CompressionKind::Zstd);
    // Both are there now, so each wish finds its own.
    assert_eq!(
        store
            .layer_blob(layer.diff_id(), &wish(CompressionKind::Zstd, false))
            .unwrap(),
        forced
    );
    assert_eq!(
        store
            .layer_blob(layer.diff_id(), &wish(CompressionKind::Gzip, true))
            .unwrap(),
        gzip
    );
}

#[test]
fn later_times_are_clamped_and_earlier_ones_stay() {
    let test = TestStore::new();
    let layer = test.layer(&[], |root| {
        for (name, time) in [("old", 1_000), ("new", 2_000_000_000)] {
            fs::write(root.join(name), b"").unwrap();
            crate::support::set_mtime(&root.join(name), time, 0);
        }
    });
    let mut tar = Vec::new();
    let rewrite = Some(RewriteTimestamps { epoch: 1_000_000 });
    let diff_id = test
        .store
        .layer_tar(layer.diff_id(), &mut tar, rewrite)
        .unwrap();
    assert_ne!(&diff_id, layer.diff_id());
    assert_eq!(diff_id.digest(), &rbuild_cache::Digest::of(&tar));
    let script = "import tarfile,sys\nfor m in tarfile.open(fileobj=sys.stdin.buffer,mode='r|'): print(m.name, m.mtime)";
    let times = pipe(Command::new("python3").args(["-c", script]), &tar);
    assert_eq!(String::from_utf8(times).unwrap(), "new 1000000\nold 1000\n");
    assert_eq!(listing(&tar).len(), 2);
}

#[test]
fn streams_of_other_programs_are_recognised() {
    let text = "some text that is long enough to be worth it, long enough, long enough".repeat(99);
    for (program, kind) in [
        ("cat", StreamKind::Plain),
        ("gzip", StreamKind::Gzip),
        ("bzip2", StreamKind::Bzip2),
        ("xz", StreamKind::Xz),
        ("zstd", StreamKind::Zstd),
    ] {
        let module = match program {
            "bzip2" => Some("bz2"),
            "xz" => Some("lzma"),
            _ => None,
        };
        // Python's modules stand in where the programs are not installed.
        let bytes = match module {
            Some(module) => {
                let script = format!(
                    "import {module},sys;sys.stdout.buffer.write({module}.compress(sys.stdin.buffer.read()))"
                );
                pipe(
                    Command::new("python3").args(["-c", &script]),
                    text.as_bytes(),
                )
            }
            None => pipe(&mut Command::new(program), text.as_bytes()),
        };
        // Two streams one after the other are one, as for the programs themselves.
        let twice = [bytes.as_slice(), bytes.as_slice()].concat();
        let (found, mut plain) = detect_and_decompress(twice.as_slice()).unwrap();
        assert_eq!(found, kind, "{program}");
        let mut out = String::new();
        plain.read_to_string(&mut out).unwrap();
        assert!(out == [text.as_str(), text.as_str()].concat(), "{program}");
    }
}
