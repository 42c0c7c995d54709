//! Layers whose tree lies over that of an older version: like whole ones to everybody, and never
//! without what they lie over.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rbuild_cache::{
    CommitOptions, Compression, ItemCondition, Layer, PruneOptions, RootView, UsageKind,
};

use crate::recovery::{boot, flip};
use crate::support::{Overlay, TestStore, need_root};

/// Files in a layer, and the directories that they are in.
const FILES: usize = 60;
const ENTRIES: u64 = 66;

fn options() -> CommitOptions {
    CommitOptions {
        written_here: true,
        versions: true,
        ..CommitOptions::default()
    }
}

/// Writes some of the files, with the directories that they are in.
fn fill(root: &Path, wanted: impl Fn(usize) -> bool, text: impl Fn(usize) -> Vec<u8>) -> u64 {
    let mut entries = 0;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_001);
    for number in (0..FILES).filter(|number| wanted(*number)) {
        let directory = root.join(format!("d{}", number / 10));
        entries += 1 + u64::from(!directory.exists());
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(format!("f{number}"));
        fs::write(&path, text(number)).unwrap();
        for path in [&path, &directory] {
            fs::File::open(path).unwrap().set_modified(time).unwrap();
        }
    }
    entries
}

/// Large enough for several checkpoints.
fn text(number: usize) -> Vec<u8> {
    vec![b'a' + (number % 26) as u8; 64 << 10]
}

fn first(test: &TestStore) -> Layer {
    let draft = test.store.draft_on(&[]).unwrap();
    assert_eq!(fill(draft.upper(), |_| true, text), ENTRIES);
    draft.commit(&[], &options()).unwrap()
}

/// A new version with other text in some files.
fn next(test: &TestStore, old: &Layer, changed: &[usize]) -> Layer {
    let draft = test.store.draft_on(&[]).unwrap();
    let own = fill(
        draft.upper(),
        |number| changed.contains(&number),
        |_| b"changed".to_vec(),
    );
    let made = draft.commit_over(old, ENTRIES - own, &[], &options());
    made.unwrap().unwrap()
}

/// The same made whole, in a store of its own.
fn whole(changed: &[usize]) -> (TestStore, Layer) {
    let test = TestStore::new();
    let draft = test.store.draft_on(&[]).unwrap();
    fill(
        draft.upper(),
        |_| true,
        |number| {
            if changed.contains(&number) {
                b"changed".to_vec()
            } else {
                text(number)
            }
        },
    );
    let layer = draft.commit(&[], &options()).unwrap();
    (test, layer)
}

#[test]
fn a_version_gives_the_tar_of_a_whole_layer() {
    let test = TestStore::new();
    let old = first(&test);
    for changed in [&[59][..], &[0], &[0, 30, 59], &[31, 32]] {
        let (other, expected) = whole(changed);
        let layer = next(&test, &old, changed);
        assert!(layer.under().is_some());
        assert_eq!(layer.diff_id(), expected.diff_id(), "{changed:?}");
        let sizes = |layer: &Layer| (layer.size(), layer.entries(), layer.content_size());
        assert_eq!(sizes(&layer), sizes(&expected));
        assert!(test.tar(&layer) == other.tar(&expected));
        // And found again by another process.
        let again = crate::support::open(test.store.root());
        let again = again.layer(layer.diff_id()).unwrap().unwrap();
        assert!(again.under().is_some());
        // A version of a version lies over the same tree.
        let later = next(&test, &layer, &[changed, &[44]].concat());
        assert_eq!(later.under().unwrap().diff_id(), old.diff_id());
        assert_eq!(
            later.diff_id(),
            whole(&[changed, &[44]].concat()).1.diff_id()
        );
    }
    assert_eq!(test.store.fsck(false).unwrap().problems, [""; 0]);
}

#[test]
fn needs_root_everybody_sees_all_of_a_version() {
    need_root();
    let test = TestStore::new();
    let base = test.layer(&[], |root| {
        fs::create_dir(root.join("d3")).unwrap();
        fs::write(root.join("d3/below"), "base").unwrap();
    });
    let old = first(&test);
    let layer = next(&test, &old, &[30]);
    let layers = [base, layer.clone()];
    let mounted = Overlay::mount(&layers, None);
    let view = RootView::new(&layers);
    for (path, size) in [
        ("d3/f30", 7),
        ("d3/f31", 64 << 10),
        ("d0/f0", 64 << 10),
        ("d3/below", 4),
    ] {
        assert_eq!(
            fs::metadata(mounted.path().join(path)).unwrap().len(),
            size,
            "{path}"
        );
        let found = view.lookup(path, rbuild_cache::Follow::None).unwrap();
        assert_eq!(found.unwrap().metadata.size, size, "{path}");
    }
    assert_eq!(fs::read_dir(mounted.path().join("d3")).unwrap().count(), 11);
    let mut differences = Vec::new();
    let mut note = |found: rbuild_cache::LayerDifference| {
        differences.push(String::from_utf8(found.path).unwrap());
        true
    };
    let compared = test
        .store
        .compare_layers(old.diff_id(), layer.diff_id(), &mut note);
    compared.unwrap();
    assert_eq!(differences, ["d3/f30"]);
}

#[test]
fn what_is_not_exactly_the_layer_is_none() {
    let test = TestStore::new();
    let old = first(&test);
    let before = fs::read_dir(test.store.root().join("trees"))
        .unwrap()
        .count();
    for left in [ENTRIES - 1, ENTRIES - 3, 0] {
        let draft = test.store.draft_on(&[]).unwrap();
        fill(draft.upper(), |number| number == 5, |_| b"changed".to_vec());
        let made = draft.commit_over(&old, left, &[], &options()).unwrap();
        assert!(made.is_none(), "{left} left of {ENTRIES}");
    }
    let after = fs::read_dir(test.store.root().join("trees"))
        .unwrap()
        .count();
    assert_eq!(before, after);
}

#[test]
fn what_comes_before_the_first_change_is_not_read() {
    let test = TestStore::new();
    let old = first(&test);
    // With what is at the beginning damaged, only a hash that goes on further back is right.
    let path = old.path().join("d0/f0");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, vec![b'?'; 64 << 10]).unwrap();
    fs::File::open(&path).unwrap().set_modified(time).unwrap();
    let late = next(&test, &old, &[59]);
    assert_eq!(late.diff_id(), whole(&[59]).1.diff_id());
    // An early change is in front of it.
    let early = next(&test, &old, &[1]);
    assert_ne!(early.diff_id(), whole(&[1]).1.diff_id());
    // Without the memos everything is read.
    for memo in fs::read_dir(test.store.root().join("memo")).unwrap() {
        fs::write(memo.unwrap().path(), "damaged").unwrap();
    }
    let read = next(&test, &old, &[58]);
    assert_ne!(read.diff_id(), whole(&[58]).1.diff_id());
}

#[test]
fn a_lower_tree_stays_as_long_as_what_lies_over_it() {
    let test = TestStore::new();
    let old = first(&test);
    let layer = next(&test, &old, &[7]);
    let everything = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    let lease = test.store.lease().unwrap();
    lease.protect(layer.diff_id().digest()).unwrap();
    test.store.release_published();
    let report = test.store.prune(&everything).unwrap();
    assert_eq!(report.layers, []);
    let usage = test.store.usage().unwrap();
    let layers = usage
        .items
        .iter()
        .filter(|item| item.kind == UsageKind::Layer);
    let sizes: Vec<(u64, bool)> = layers.map(|item| (item.size, item.reclaimable)).collect();
    assert_eq!(sizes, [(FILES as u64 * (64 << 10), false), (7, false)]);
    assert_eq!(test.store.fsck(false).unwrap().problems, [""; 0]);
    drop(lease);
    let only_it = PruneOptions {
        all: true,
        only: vec![ItemCondition::Id(old.diff_id().hex())],
        ..PruneOptions::default()
    };
    assert_eq!(test.store.prune(&only_it).unwrap().layers, []);
    let report = test.store.prune(&everything).unwrap();
    assert_eq!(report.layers, [*layer.diff_id(), *old.diff_id()]);
    assert_eq!(
        fs::read_dir(test.store.root().join("trees"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn without_its_lower_tree_a_version_does_not_count() {
    let test = TestStore::new();
    let old = first(&test);
    let layer = next(&test, &old, &[7]);
    let seal = |layer: &Layer| {
        let name = format!("trees/{}.seal", layer.diff_id().hex());
        test.store.root().join(name)
    };
    fs::remove_file(seal(&old)).unwrap();
    let again = crate::support::open(test.store.root());
    assert!(again.layer(layer.diff_id()).unwrap().is_none());
    let report = again.fsck(true).unwrap();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(report.problems[0].contains("has lost the layer that its tree lies over"));
    assert!(!seal(&layer).exists() && !layer.path().exists() && !old.path().exists());
    // It is made again like any other.
    let old = first(&test);
    assert_eq!(next(&test, &old, &[7]).diff_id(), layer.diff_id());
}

#[test]
fn the_blob_of_a_version_takes_blocks_over_unless_they_are_damaged() {
    let compression = Compression::default();
    let (other, expected) = whole(&[59]);
    let expected = other.store.layer_blob(expected.diff_id(), &compression);
    let expected = expected.unwrap().blob.digest;
    for damaged in [false, true] {
        let test = TestStore::new();
        let old = first(&test);
        test.store.note_version(old.diff_id(), None);
        let blob = test.store.layer_blob(old.diff_id(), &compression);
        let hex = blob.unwrap().blob.digest.hex();
        let layer = next(&test, &old, &[59]);
        test.store
            .note_version(layer.diff_id(), Some(old.diff_id()));
        // What is taken over need not be read.
        let path = if damaged {
            let blobs = test.store.root().join("blobs/sha256");
            blobs.join(&hex[..2]).join(&hex)
        } else {
            old.path().join("d0/f0")
        };
        let mut bytes = fs::read(&path).unwrap();
        bytes[100] ^= 1;
        fs::write(&path, bytes).unwrap();
        let made = test.store.layer_blob(layer.diff_id(), &compression);
        assert_eq!(made.unwrap().blob.digest, expected, "damaged: {damaged}");
    }
}

#[test]
fn versions_are_checked_with_what_they_lie_over_after_a_boot() {
    /// What happens to the older and the newer version, and which of them are there after the boot.
    type Case = (&'static str, fn(&Layer, &Layer), [bool; 2]);
    let cases: [Case; 4] = [
        ("nothing", |_, _| {}, [true, true]),
        (
            "the newer has another byte",
            |_, new| flip(&new.path().join("d3/f30")),
            [true, false],
        ),
        (
            "the older has another byte where it shows through",
            |old, _| flip(&old.path().join("d0/f0")),
            [false, false],
        ),
        (
            "the older is gone",
            |old, _| fs::remove_dir_all(old.path()).unwrap(),
            [false, false],
        ),
    ];
    for (what, damage, expected) in cases {
        let test = TestStore::new();
        let old = first(&test);
        let new = next(&test, &old, &[30]);
        boot(&test);
        damage(&old, &new);
        let store = crate::support::open(test.store.root());
        let there = [&old, &new].map(|layer| store.layer(layer.diff_id()).unwrap().is_some());
        assert_eq!(there, expected, "{what}");
        for (layer, there) in [&old, &new].into_iter().zip(expected) {
            assert_eq!(layer.path().exists(), there, "{what}");
        }
        let lost = expected.iter().filter(|there| !**there).count();
        assert_eq!(
            store.warnings().len(),
            lost,
            "{what}: {:?}",
            store.warnings()
        );
        // What was lost is made again, over what is left.
        let old = first(&test);
        let new = next(&test, &old, &[30]);
        assert!(new.under().is_some());
        assert_eq!(new.diff_id(), whole(&[30]).1.diff_id(), "{what}");
        assert_eq!(store.fsck(false).unwrap().problems, [""; 0], "{what}");
    }
}

#[test]
fn a_checked_version_is_trusted_after_the_next_boot() {
    let test = TestStore::new();
    let old = first(&test);
    let new = next(&test, &old, &[30]);
    boot(&test);
    drop(crate::support::open(test.store.root()));
    flip(&old.path().join("d0/f0"));
    boot(&test);
    let store = crate::support::open(test.store.root());
    assert_eq!(store.warnings(), [""; 0]);
    assert!(store.layer(new.diff_id()).unwrap().is_some());
}
