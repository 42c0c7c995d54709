//! Damage of every kind: found, told, and out of the way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rbuild_cache::{BuildRecord, Compression, CompressionKind, DiffId, Digest, Layer};

use crate::archive::{Archive, file};
use crate::images::image;
use crate::support::{TestStore, need_root, open};

/// Changes a byte of a file, so that only its content tells.
pub(crate) fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    let mode = fs::metadata(path).unwrap().permissions();
    let times = fs::metadata(path).unwrap().modified().unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
    fs::File::open(path).unwrap().set_modified(times).unwrap();
}

fn blob_path(test: &TestStore, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    test.store
        .root()
        .join("blobs/sha256")
        .join(&hex[..2])
        .join(hex)
}

/// Makes the store believe that the machine has booted since.
pub(crate) fn boot(test: &TestStore) {
    let root = test.store.root();
    fs::write(root.join("boot"), "another boot").unwrap();
    for entry in fs::read_dir(root.join("trees")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "seal")
        {
            let mut seal: serde_json::Value =
                serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            seal["boot"] = "another boot".into();
            fs::write(&path, seal.to_string()).unwrap();
        }
    }
}

fn layer(test: &TestStore, text: &str) -> Layer {
    test.layer(&[], |root| fs::write(root.join("f"), text).unwrap())
}

fn foreign(test: &TestStore, text: &str) -> (Layer, Digest) {
    let tar = Archive::of([file("zz", text), file("aa", text)]);
    let blob = test.store.put_blob(&tar).unwrap().digest;
    let layer = test
        .store
        .unpack(&blob, &DiffId::from_digest(Digest::of(&tar)))
        .unwrap();
    (layer, blob)
}

#[test]
fn needs_root_what_was_not_flushed_is_checked_after_a_boot() {
    need_root();
    let test = TestStore::new();
    let (good, bad) = (layer(&test, "good"), layer(&test, "bad"));
    let (outside, outside_blob) = foreign(&test, "foreign");
    let good_blob = test.store.put_blob(b"good blob").unwrap().digest;
    let bad_blob = test.store.put_blob(b"bad blob").unwrap().digest;
    let torn = layer(&test, "torn seal");
    flip(&bad.path().join("f"));
    flip(&blob_path(&test, &bad_blob));
    boot(&test);
    let seal = test
        .store
        .root()
        .join(format!("trees/{}.seal", torn.diff_id().hex()));
    fs::write(&seal, &fs::read(&seal).unwrap()[..20]).unwrap();
    let store = open(test.store.root());
    assert!(store.layer(good.diff_id()).unwrap().is_some());
    assert!(store.layer(bad.diff_id()).unwrap().is_none());
    assert!(store.layer(torn.diff_id()).unwrap().is_none());
    assert!(!torn.path().exists());
    assert!(store.has_blob(&good_blob));
    assert!(!store.has_blob(&bad_blob));
    let warnings = store.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().any(|text| text.contains(&bad_blob.hex())));
    assert!(
        warnings
            .iter()
            .any(|text| text.contains(&bad.diff_id().hex()))
    );
    // It cannot be checked, so it is unpacked again.
    assert!(store.layer(outside.diff_id()).unwrap().is_none());
    assert!(store.unpack(&outside_blob, outside.diff_id()).is_ok());
    // Once checked, it is known to be on disk, and the next boot asks nothing.
    drop(store);
    flip(&good.path().join("f"));
    fs::write(test.store.root().join("boot"), "yet another boot").unwrap();
    let store = open(test.store.root());
    assert!(store.layer(good.diff_id()).unwrap().is_some());
    assert!(store.warnings().is_empty());
}

#[test]
fn needs_root_what_was_flushed_is_trusted_after_a_boot() {
    need_root();
    let test = TestStore::new();
    let (outside, blob) = foreign(&test, "foreign");
    test.store
        .tag("a:b", &image(&test, "i", &[*outside.diff_id()]))
        .unwrap();
    let mode = fs::metadata(blob_path(&test, &blob))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o444);
    boot(&test);
    let store = open(test.store.root());
    assert!(store.layer(outside.diff_id()).unwrap().is_some());
    assert!(store.warnings().is_empty());
}

#[test]
fn needs_root_fsck_finds_every_kind_of_damage_and_repairs_it() {
    need_root();
    let test = TestStore::new();
    let made = layer(&test, "made here");
    let (outside, _) = foreign(&test, "from outside");
    let (chmodded, _) = foreign(&test, "another from outside");
    let sound = layer(&test, "sound");
    let tagged = image(&test, "i", &[*sound.diff_id()]);
    test.store.tag("a:b", &tagged).unwrap();
    let record = BuildRecord {
        key: Digest::of(b"k"),
        step: "s".into(),
        name: "RUN".into(),
        layers: vec![*made.diff_id()],
        parts: Vec::new(),
        detail: serde_json::Value::Null,
        created_unix: 1,
        elapsed_ms: 1,
    };
    test.store.put_record(&record).unwrap();
    assert_eq!(
        test.store.fsck(false).unwrap().problems,
        Vec::<String>::new()
    );

    flip(&made.path().join("f"));
    flip(&outside.path().join("aa"));
    fs::set_permissions(
        chmodded.path().join("zz"),
        fs::Permissions::from_mode(0o777),
    )
    .unwrap();
    let lost = test.store.put_blob(b"lost").unwrap().digest;
    flip(&blob_path(&test, &lost));
    fs::write(test.store.root().join("blobs/sha256/ab.tmp"), b"stray").unwrap();
    let trees = test.store.root().join("trees");
    for digit in ["0", "1"] {
        fs::create_dir(trees.join(digit.repeat(64))).unwrap();
    }
    fs::write(trees.join(format!("{}.seal", "0".repeat(64))), "torn").unwrap();
    fs::remove_file(blob_path(&test, &tagged.config)).unwrap();

    let report = test.store.fsck(false).unwrap();
    let has = |what: &str| report.problems.iter().any(|problem| problem.contains(what));
    assert!(
        has(&format!("layer {} hashes to", made.diff_id())),
        "{:?}",
        report.problems
    );
    assert!(has(&format!(
        "layer {} has another content in `/aa`",
        outside.diff_id()
    )));
    assert!(has(&format!(
        "layer {} has other files or metadata",
        chmodded.diff_id()
    )));
    assert!(has(&format!("blob {lost} hashes to")));
    assert!(has("ab.tmp` is no blob"));
    assert!(has("has no valid seal"));
    let unfinished = trees.join("1".repeat(64));
    assert!(!unfinished.exists(), "no damage, but garbage");
    assert!(has(&format!("image `a:b` has lost blob {}", tagged.config)));
    assert_eq!(report.problems.len(), 7, "{:?}", report.problems);
    assert_eq!(report.repaired, 0);

    let report = test.store.fsck(true).unwrap();
    // The record has lost its layer only now.
    assert_eq!(report.problems.len(), 8, "{:?}", report.problems);
    assert_eq!(report.repaired, 7, "a lost config cannot be repaired");
    let report = test.store.fsck(false).unwrap();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(test.store.layer(sound.diff_id()).unwrap().is_some());
    assert!(test.store.layer(made.diff_id()).unwrap().is_none());
    assert!(test.store.image("a:b").unwrap().is_some(), "the name stays");
}

#[test]
fn damaged_database_is_set_aside_and_told() {
    for damage in ["all", "header", "pages"] {
        let test = TestStore::new();
        let kept = layer(&test, "kept");
        let root = test.directory.path().join("damaged");
        {
            let store = open(&root);
            for number in 0..200 {
                let text = number.to_string();
                let blob = store.put_blob(text.as_bytes()).unwrap();
                let mut record = image(&test, &text, &[*kept.diff_id()]);
                record.manifest = blob.digest;
                store.put_image(&record).unwrap();
            }
            // So that the database itself and not its log is what counts.
            store.prune(&rbuild_cache::PruneOptions::default()).unwrap();
        }
        let database = root.join("meta.db");
        let mut bytes = fs::read(&database).unwrap();
        assert!(bytes.len() > 16 << 10);
        let range = match damage {
            "all" => 0..bytes.len(),
            "header" => 0..100,
            _ => 4096..bytes.len(),
        };
        for byte in &mut bytes[range] {
            *byte = byte.wrapping_mul(31).wrapping_add(7);
        }
        fs::write(&database, bytes).unwrap();
        let _ = fs::remove_file(root.join("meta.db-wal"));
        let store = open(&root);
        let images = store.images().unwrap();
        assert!(images.is_empty(), "{damage}");
        let warnings = store.warnings();
        assert!(warnings[0].contains("damaged"), "{damage}: {warnings:?}");
        assert!(root.join("meta.db.damaged-1").exists());
        // And everything goes on: blobs are where they were.
        assert!(store.has_blob(&Digest::of(b"7")));
        let record = image(&test, "new", &[]);
        store
            .put_blob(&test.store.read_blob(&record.manifest, 1 << 20).unwrap())
            .unwrap();
        store.tag("new:1", &record).unwrap();
        assert!(open(&root).image("new:1").unwrap().is_some());
        assert!(open(&root).warnings().is_empty());
    }
}

#[test]
fn needs_root_layer_finds_its_blob_again_without_the_database() {
    need_root();
    let test = TestStore::new();
    let (outside, blob) = foreign(&test, "foreign");
    let root = test.store.root().to_path_buf();
    for name in ["meta.db", "meta.db-wal", "meta.db-shm"] {
        fs::remove_file(root.join(name)).unwrap();
    }
    let store = open(&root);
    let found = store
        .layer_blob(outside.diff_id(), &Compression::default())
        .unwrap();
    assert_eq!(found.blob.digest, blob);
    assert_eq!(found.kind, CompressionKind::Uncompressed);
}

#[test]
fn tree_without_a_seal_is_no_layer_and_is_replaced() {
    let test = TestStore::new();
    let first = layer(&test, "x");
    let seal = test
        .store
        .root()
        .join(format!("trees/{}.seal", first.diff_id().hex()));
    fs::remove_file(&seal).unwrap();
    fs::write(first.path().join("junk"), b"half made").unwrap();
    assert!(test.store.layer(first.diff_id()).unwrap().is_none());
    let second = layer(&test, "x");
    assert_eq!(second.diff_id(), first.diff_id());
    assert!(!second.path().join("junk").exists());
    assert!(seal.exists());
}
