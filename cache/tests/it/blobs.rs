//! Blobs: verified, published whole or not at all, also when the writer is killed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rbuild_cache::{Digest, StoreError};

use crate::support::{TestStore, open, tree_of};

#[test]
fn blob_is_found_by_its_digest() {
    let test = TestStore::new();
    let mut writer = test.store.blob_writer().unwrap();
    writer.write_all(b"hello ").unwrap();
    writer.write_all(b"blob").unwrap();
    let info = writer.commit(None).unwrap();
    assert_eq!(info.digest, Digest::of(b"hello blob"));
    assert_eq!(info.size, 10);
    assert!(test.store.has_blob(&info.digest));
    assert_eq!(test.store.blob_size(&info.digest).unwrap(), Some(10));
    assert_eq!(
        test.store.read_blob(&info.digest, 10).unwrap(),
        b"hello blob"
    );
    assert!(matches!(
        test.store.read_blob(&info.digest, 9),
        Err(StoreError::Limit { .. })
    ));
    assert_eq!(test.store.put_blob(b"hello blob").unwrap(), info);
    let missing = Digest::of(b"nothing");
    assert!(matches!(
        test.store.open_blob(&missing),
        Err(StoreError::MissingBlob { .. })
    ));
    assert_eq!(test.store.blob_size(&missing).unwrap(), None);
}

#[test]
fn blob_with_another_digest_is_not_published() {
    let test = TestStore::new();
    let mut writer = test.store.blob_writer().unwrap();
    writer.write_all(b"evil").unwrap();
    let error = writer.commit(Some(&Digest::of(b"good"))).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { what: "blob", .. }));
    for content in [b"evil", b"good"] {
        assert!(!test.store.has_blob(&Digest::of(content)));
    }
    assert_eq!(
        fs::read_dir(test.store.root().join("tmp")).unwrap().count(),
        0
    );
}

#[test]
fn abandoned_writer_leaves_nothing() {
    let test = TestStore::new();
    let before = tree_of(test.store.root());
    let mut writer = test.store.blob_writer().unwrap();
    writer.write_all(&vec![1; 1 << 20]).unwrap();
    drop(writer);
    // The lock that writers share stays.
    let after: Vec<_> = tree_of(test.store.root())
        .into_iter()
        .filter(|path| !path.starts_with(test.store.root().join("locks")))
        .collect();
    let before: Vec<_> = before
        .into_iter()
        .filter(|path| !path.starts_with(test.store.root().join("locks")))
        .collect();
    assert_eq!(after, before);
}

#[test]
fn published_blobs_cannot_be_written() {
    let test = TestStore::new();
    let info = test.store.put_blob(b"x").unwrap();
    let file = test.store.open_blob(&info.digest).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o222, 0);
    test.store.sync().unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o444);
}

const CHILD: &str = "RBUILD_TEST_BLOB_CHILD";

/// Not a test of its own: what the next test starts and kills.
#[test]
fn child_that_writes_blobs_for_ever() {
    let Some(root) = std::env::var_os(CHILD) else {
        return;
    };
    let store = open(root.as_ref());
    let mut number = 0_u64;
    loop {
        number += 1;
        let mut writer = store.blob_writer().unwrap();
        for _ in 0..16 {
            writer.write_all(&vec![number as u8; 64 << 10]).unwrap();
        }
        let _scratch = store.scratch().unwrap();
        writer.write_all(&number.to_le_bytes()).unwrap();
        writer.commit(None).unwrap();
        if number == 2 {
            // Tells the parent that the loop runs.
            let mut out = std::io::stdout();
            out.write_all(b"in the loop\n").unwrap();
            out.flush().unwrap();
        }
    }
}

#[test]
fn killed_writer_leaves_no_half_blob_and_its_garbage_is_collected() {
    let test = TestStore::new();
    let root = test.directory.path().join("killed");
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "blobs::child_that_writes_blobs_for_ever",
                "--nocapture",
            ])
            .env(CHILD, &root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("in the loop"))));
        std::thread::sleep(std::time::Duration::from_millis(3 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(&root);
        assert_eq!(
            fs::read_dir(root.join("tmp")).unwrap().count(),
            0,
            "garbage in tmp"
        );
        let mut blobs = 0;
        for path in tree_of(&root.join("blobs")) {
            if path.is_file() {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                assert_eq!(Digest::of(&fs::read(&path).unwrap()).hex(), name);
                blobs += 1;
            }
        }
        assert!(blobs >= 2);
        assert!(store.warnings().is_empty(), "{:?}", store.warnings());
    }
}

#[test]
fn living_process_keeps_its_unfinished_things() {
    let test = TestStore::new();
    let scratch = test.store.scratch().unwrap();
    let mut writer = test.store.blob_writer().unwrap();
    writer.write_all(b"unfinished").unwrap();
    let again = open(test.store.root());
    assert!(scratch.path().is_dir());
    drop(again);
    let info = writer.commit(None).unwrap();
    assert!(test.store.has_blob(&info.digest));
    let path = scratch.path().to_path_buf();
    scratch.close().unwrap();
    assert!(!path.exists());
}
