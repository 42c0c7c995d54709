//! The build cache, locks, cache mounts: what several processes share.

use std::fs;

use rbuild_cache::{BuildRecord, DiffId, Digest, StoreError, StoreOptions};

use crate::support::{TestStore, open};

fn record(key: &str, step: &str, layers: &[DiffId], created: i64) -> BuildRecord {
    BuildRecord {
        key: Digest::of(key.as_bytes()),
        step: step.to_owned(),
        name: format!("RUN {key}"),
        layers: layers.to_vec(),
        parts: vec![
            ("command".to_owned(), key.to_owned()),
            ("user".to_owned(), "0".to_owned()),
        ],
        detail: serde_json::json!({ "n": [1, 2], "text": "ü\u{0}" }),
        created_unix: created,
        elapsed_ms: 17,
    }
}

#[test]
fn record_comes_back_as_it_was() {
    let test = TestStore::new();
    let layer = test.layer(&[], |root| fs::write(root.join("f"), b"f").unwrap());
    let written = record("a", "stage/1", &[*layer.diff_id()], 10);
    test.store.put_record(&written).unwrap();
    assert_eq!(
        open(test.store.root()).record(&written.key).unwrap(),
        Some(written)
    );
    assert_eq!(test.store.record(&Digest::of(b"other")).unwrap(), None);
}

#[test]
fn a_writer_leaves_no_long_log_for_others_to_read() {
    let test = TestStore::new();
    let wal = test.store.root().join("meta.db-wal");
    let length = || fs::metadata(&wal).map_or(0, |found| found.len());
    let write = |count: u32, begin: &str| {
        let writer = open(test.store.root());
        for number in 0..count {
            let mut record = record(&format!("{begin}{number}"), "s", &[], 10);
            record.detail = serde_json::json!({ "text": "x".repeat(10_000) });
            writer.put_record(&record).unwrap();
        }
    };
    // A few are not worth the flush.
    write(3, "few");
    assert!((1..512 << 10).contains(&length()), "{}", length());
    write(60, "many");
    assert_eq!(length(), 0);
    for key in ["few2", "many59"] {
        let key = Digest::of(key.as_bytes());
        assert!(open(test.store.root()).record(&key).unwrap().is_some());
    }
}

#[test]
fn records_of_a_step_are_listed_most_recent_first() {
    let test = TestStore::new();
    for (key, step, created) in [
        ("a", "s", 10),
        ("b", "s", 30),
        ("c", "other", 40),
        ("d", "s", 20),
    ] {
        test.store
            .put_record(&record(key, step, &[], created))
            .unwrap();
    }
    let names: Vec<_> = test
        .store
        .records_by_name("s")
        .unwrap()
        .into_iter()
        .map(|record| record.name)
        .collect();
    assert_eq!(names, ["RUN b", "RUN d", "RUN a"]);
}

#[test]
fn record_without_its_layer_is_a_miss_and_goes() {
    let test = TestStore::new();
    let layer = test.layer(&[], |root| fs::write(root.join("f"), b"f").unwrap());
    let written = record("a", "s", &[*layer.diff_id()], 10);
    test.store.put_record(&written).unwrap();
    let seal = test
        .store
        .root()
        .join(format!("trees/{}.seal", layer.diff_id().hex()));
    fs::remove_file(seal).unwrap();
    assert_eq!(test.store.record(&written.key).unwrap(), None);
    assert!(test.store.records_by_name("s").unwrap().is_empty());
    assert!(matches!(
        test.store.put_record(&written),
        Err(StoreError::MissingLayer { .. })
    ));
}

#[test]
fn looking_up_writes_nothing_to_the_database() {
    let test = TestStore::new();
    let layer = test.layer(&[], |root| fs::write(root.join("f"), b"f").unwrap());
    let written = record("a", "s", &[*layer.diff_id()], 10);
    test.store.put_record(&written).unwrap();
    let image = crate::images::image(&test, "x", &[*layer.diff_id()]);
    test.store.tag("a/b:c", &image).unwrap();
    let state = || {
        ["meta.db", "meta.db-wal"].map(|name| {
            let found = fs::metadata(test.store.root().join(name)).unwrap();
            (found.len(), found.modified().unwrap())
        })
    };
    let before = state();
    let again = open(test.store.root());
    again.record(&written.key).unwrap().unwrap();
    again.tag("a/b:c", &image).unwrap();
    again.images().unwrap();
    drop(again);
    assert_eq!(state(), before);
}

#[test]
fn named_locks_keep_processes_apart() {
    let test = TestStore::new();
    let other = open(test.store.root());
    let held = test.store.lock("step ../../x").unwrap();
    assert!(other.try_lock("step ../../x").unwrap().is_none());
    assert!(other.try_lock("another").unwrap().is_some());
    let waiting = std::thread::spawn(move || {
        let _lock = other.lock("step ../../x").unwrap();
    });
    drop(held);
    waiting.join().unwrap();
}

#[test]
fn cache_mounts_of_any_id_stay_in_their_place() {
    let test = TestStore::new();
    let long = "x".repeat(5000);
    let ids = [
        "",
        "../../x",
        "/abs",
        "a/../../b",
        "nul\0byte",
        &long,
        "a",
        "A",
    ];
    let mut paths = Vec::new();
    for id in ids {
        let mount = test.store.cache_mount(id).unwrap();
        assert!(mount.created);
        assert_eq!(
            mount.path.parent().unwrap(),
            test.store.root().join("mounts")
        );
        assert_eq!(fs::read_dir(&mount.path).unwrap().count(), 0);
        let again = test.store.cache_mount(id).unwrap();
        assert!(!again.created);
        assert_eq!(again.path, mount.path);
        paths.push(mount.path);
    }
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), ids.len());
    let memo = test.store.memo_path("../../etc/passwd");
    assert_eq!(memo.parent().unwrap(), test.store.root().join("memo"));
    assert!(memo.parent().unwrap().is_dir());
}

#[test]
fn many_open_the_same_new_store_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let threads: Vec<_> = (0..8_u8)
        .map(|number| {
            let root = root.clone();
            std::thread::spawn(move || {
                let store = open(&root);
                for round in 0..5_u8 {
                    // Everybody writes the same and something of his own.
                    store.put_blob(&[round; 1000]).unwrap();
                    store.put_blob(&[number, round]).unwrap();
                    let draft = store.draft().unwrap();
                    fs::write(draft.upper().join("f"), [round]).unwrap();
                    crate::support::set_mtime(&draft.upper().join("f"), 1, 0);
                    let layer = draft
                        .commit(&[], &rbuild_cache::CommitOptions::default())
                        .unwrap();
                    let key = format!("{number}-{round}");
                    store
                        .put_record(&record(&key, "s", &[*layer.diff_id()], 1))
                        .unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let store = open(&root);
    for number in 0..8 {
        for round in 0..5 {
            assert!(store.has_blob(&Digest::of(&[number, round])));
            let key = Digest::of(format!("{number}-{round}").as_bytes());
            assert!(store.record(&key).unwrap().is_some());
        }
    }
    let report = store.fsck(false).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.blobs, report.layers), (45, 5));
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
}

#[test]
fn store_is_closed_to_other_users() {
    use std::os::unix::fs::PermissionsExt;
    let test = TestStore::new();
    let mode = fs::metadata(test.store.root())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn directory_of_somebody_else_does_not_become_a_store() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.path().join("thesis.tex"), b"").unwrap();
    let Err(error) = rbuild_cache::Store::open(directory.path(), &StoreOptions::default()) else {
        panic!("it was taken");
    };
    assert!(matches!(error, StoreError::Format { .. }), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let mode = fs::metadata(directory.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn store_of_another_format_is_refused() {
    let test = TestStore::new();
    fs::write(test.store.root().join("format"), "rbuild-store 999\n").unwrap();
    let Err(error) = rbuild_cache::Store::open(test.store.root(), &StoreOptions::default()) else {
        panic!("it was opened");
    };
    assert!(error.to_string().contains("format 999"), "{error}");
}
