//! Pruning removes what nobody needs and nothing else.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use rbuild_cache::{
    BuildRecord, CommitOptions, Compression, CompressionKind, DiffId, Digest, Layer, PruneOptions,
    PruneReport, UsageKind,
};

use crate::images::image;
use crate::support::TestStore;

/// Makes everything in the store look as old as can be, and like somebody else's.
fn age(test: &TestStore) {
    test.store.release_published();
    for path in crate::support::tree_of(test.store.root()) {
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let within_tree = path.components().count() > test.store.root().components().count() + 2
            && path.starts_with(test.store.root().join("trees"));
        if !within_tree && !path.is_symlink() {
            // Drafts that were committed are removed beside all else.
            match fs::File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                file => file.unwrap().set_modified(old).unwrap(),
            }
        }
    }
}

fn layer(test: &TestStore, text: &str) -> Layer {
    test.layer(&[], |root| fs::write(root.join("f"), text).unwrap())
}

fn remember(test: &TestStore, key: &str, layer: &Layer) {
    test.store
        .put_record(&BuildRecord {
            key: Digest::of(key.as_bytes()),
            step: key.to_owned(),
            name: format!("RUN {key}"),
            layers: vec![*layer.diff_id()],
            parts: Vec::new(),
            detail: serde_json::Value::Null,
            created_unix: 1,
            elapsed_ms: 1,
        })
        .unwrap();
}

/// Not through the store: looking a layer up counts as using it.
fn is_there(test: &TestStore, layer: &Layer) -> bool {
    let seal = test
        .store
        .root()
        .join(format!("trees/{}.seal", layer.diff_id().hex()));
    assert_eq!(seal.exists(), layer.path().exists());
    seal.exists()
}

#[test]
fn garbage_goes_and_everything_needed_stays() {
    let test = TestStore::new();
    let of_image = layer(&test, "image");
    let of_record = layer(&test, "record");
    let of_lease = layer(&test, "lease");
    let of_pin = layer(&test, "pin");
    let garbage = layer(&test, "garbage");
    let tagged = image(&test, "i", &[*of_image.diff_id()]);
    test.store.tag("a:b", &tagged).unwrap();
    remember(&test, "r", &of_record);
    let compression = Compression {
        kind: CompressionKind::Zstd,
        level: None,
        force: true,
    };
    let blob = test
        .store
        .layer_blob(of_record.diff_id(), &compression)
        .unwrap()
        .blob
        .digest;
    let foreign = test.store.put_blob(b"foreign").unwrap().digest;
    let useless = test.store.put_blob(b"useless").unwrap().digest;
    let lease = test.store.lease().unwrap();
    lease.protect_layer(of_lease.diff_id()).unwrap();
    lease.protect(&foreign).unwrap();
    test.store.pin("container", &[*of_pin.diff_id()]).unwrap();
    age(&test);
    let dry = PruneOptions {
        dry_run: true,
        ..PruneOptions::default()
    };
    let told = test.store.prune(&dry).unwrap();
    assert!(is_there(&test, &garbage));
    let report = test.store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(report, told);
    assert_eq!(report.layers, [*garbage.diff_id()]);
    assert_eq!(report.blobs, [useless]);
    assert_eq!(report.reclaimed, 14);
    for kept in [&of_image, &of_record, &of_lease, &of_pin] {
        assert!(is_there(&test, kept));
    }
    for kept in [tagged.manifest, tagged.config, blob, foreign] {
        assert!(test.store.has_blob(&kept), "{kept}");
    }
    // With the lease and the pin gone, so are their things.
    drop(lease);
    test.store.pin("container", &[]).unwrap();
    age(&test);
    let report = test.store.prune(&PruneOptions::default()).unwrap();
    let mut gone = [*of_lease.diff_id(), *of_pin.diff_id()];
    gone.sort();
    let mut removed = report.layers.clone();
    removed.sort();
    assert_eq!(removed, gone);
    assert_eq!(report.blobs, [foreign]);
    assert_eq!(
        test.store.fsck(false).unwrap().problems,
        Vec::<String>::new()
    );
}

#[test]
fn fresh_things_without_an_owner_are_spared() {
    let test = TestStore::new();
    let fresh = layer(&test, "fresh");
    let blob = test.store.put_blob(b"fresh").unwrap().digest;
    test.store.release_published();
    let report = test.store.prune(&PruneOptions::default()).unwrap();
    assert!(report.layers.is_empty() && report.blobs.is_empty());
    assert!(is_there(&test, &fresh));
    assert!(test.store.has_blob(&blob));

    let all = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    let other = crate::support::open(test.store.root());
    test.store.prune(&all).unwrap();
    assert!(is_there(&test, &fresh), "another process may need it");
    drop(other);
    let report = test.store.prune(&all).unwrap();
    assert_eq!(report.layers, [*fresh.diff_id()]);
    assert_eq!(report.blobs, [blob]);
    assert!(test.store.try_lock("x").unwrap().is_some());
    // The hold is shared again.
    drop(crate::support::open(test.store.root()));
}

#[test]
fn what_only_a_removed_image_needed_goes_at_once() {
    let test = TestStore::new();
    let [own, shared, cached, leased] =
        ["own", "shared", "cached", "leased"].map(|text| layer(&test, text));
    let of = |name: &str, layers: &[&Layer]| {
        let ids: Vec<DiffId> = layers.iter().map(|layer| *layer.diff_id()).collect();
        let record = image(&test, name, &ids);
        test.store.tag(name, &record).unwrap();
        record
    };
    let removed = of("removed:1", &[&own, &shared, &cached, &leased]);
    let kept = of("kept:1", &[&shared]);
    remember(&test, "cached", &cached);
    let compression = Compression {
        kind: CompressionKind::Zstd,
        level: None,
        force: true,
    };
    let made = test.store.layer_blob(own.diff_id(), &compression).unwrap();
    test.store.release_published();
    let lease = test.store.lease().unwrap();
    lease.protect_layer(leased.diff_id()).unwrap();
    // As long as it has a name nothing of it goes.
    let report = test.store.release(std::slice::from_ref(&removed)).unwrap();
    assert_eq!(report, PruneReport::default());
    test.store.remove_image(&removed.manifest).unwrap();
    let report = test.store.release(std::slice::from_ref(&removed)).unwrap();
    assert_eq!(report.layers, [*own.diff_id()]);
    let mut blobs = vec![removed.manifest, removed.config, made.blob.digest];
    blobs.sort();
    assert_eq!(report.blobs, blobs);
    assert!(report.reclaimed > 3);
    for layer in [&shared, &cached, &leased] {
        assert!(is_there(&test, layer));
    }
    assert!(test.store.has_blob(&kept.manifest));
    assert_eq!(
        test.store.fsck(false).unwrap().problems,
        Vec::<String>::new()
    );
    // What is gone cannot get a name again.
    assert!(test.store.tag("again:1", &removed).is_err());
}

/// Making a layer that is there already takes no time, and referring to it takes some.
#[test]
fn what_somebody_publishes_stays_though_it_was_build_cache() {
    let test = TestStore::new();
    let known = layer(&test, "known");
    remember(&test, "known", &known);
    let blob = test.store.put_blob(b"known").unwrap().digest;
    test.store.release_published();
    let maker = crate::support::open(test.store.root());
    let again = maker.draft().unwrap();
    fs::write(again.upper().join("f"), "known").unwrap();
    let again = again.commit(&[], &CommitOptions::default()).unwrap();
    assert_eq!(again.diff_id(), known.diff_id());
    let all = PruneOptions {
        all: true,
        max_used_bytes: Some(0),
        ..PruneOptions::default()
    };
    maker.put_blob(b"known").unwrap();
    age(&test);
    test.store.prune(&all).unwrap();
    assert!(is_there(&test, &known) && test.store.has_blob(&blob));
    drop(maker);
    let report = test.store.prune(&all).unwrap();
    assert_eq!((report.layers.len(), report.blobs.len()), (1, 1));
}

#[test]
fn all_removes_the_build_cache_but_no_image() {
    let test = TestStore::new();
    let shared = layer(&test, "shared");
    let cached = layer(&test, "cached");
    test.store
        .tag("a:b", &image(&test, "i", &[*shared.diff_id()]))
        .unwrap();
    remember(&test, "shared", &shared);
    remember(&test, "cached", &cached);
    let mount = test.store.cache_mount("m").unwrap();
    fs::write(mount.path.join("object"), vec![1; 10_000]).unwrap();
    let used = test.store.cache_mount("used").unwrap();
    let lease = test.store.lease().unwrap();
    lease.protect_cache_mount("used").unwrap();
    test.store.release_published();
    let report = test
        .store
        .prune(&PruneOptions {
            all: true,
            ..PruneOptions::default()
        })
        .unwrap();
    assert_eq!(report.layers, [*cached.diff_id()]);
    assert_eq!((report.records, report.cache_mounts), (2, 1));
    assert!(report.reclaimed >= 10_000);
    assert!(is_there(&test, &shared));
    assert!(!mount.path.exists());
    assert!(used.path.exists());
    assert_eq!(test.store.record(&Digest::of(b"cached")).unwrap(), None);
}

#[test]
fn least_recently_used_goes_first_until_it_is_small_enough() {
    let test = TestStore::new();
    let layers: Vec<_> = (0..4)
        .map(|n| layer(&test, &format!("{n}{}", "x".repeat(999))))
        .collect();
    for (number, layer) in layers.iter().enumerate() {
        remember(&test, &number.to_string(), layer);
        let seal = test
            .store
            .root()
            .join(format!("trees/{}.seal", layer.diff_id().hex()));
        let used = SystemTime::now() - Duration::from_secs(1000 * (10 - number as u64));
        fs::File::open(seal).unwrap().set_modified(used).unwrap();
    }
    test.store.release_published();
    let options = PruneOptions {
        keep_bytes: Some(2500),
        ..PruneOptions::default()
    };
    let report = test.store.prune(&options).unwrap();
    assert_eq!(report.layers.len(), 2);
    assert_eq!(report.records, 2);
    let left: Vec<bool> = layers.iter().map(|layer| is_there(&test, layer)).collect();
    assert_eq!(left, [false, false, true, true]);
    let options = PruneOptions {
        unused_for: Some(Duration::from_mins(125)),
        ..PruneOptions::default()
    };
    assert_eq!(
        test.store.prune(&options).unwrap().layers,
        [*layers[2].diff_id()]
    );
}

#[test]
fn dangling_images_go_when_asked() {
    let test = TestStore::new();
    let (one, two) = (layer(&test, "1"), layer(&test, "2"));
    let old = image(&test, "old", &[*one.diff_id()]);
    let new = image(&test, "new", &[*two.diff_id()]);
    test.store.tag("a:b", &old).unwrap();
    test.store.tag("a:b", &new).unwrap();
    age(&test);
    assert!(
        test.store
            .prune(&PruneOptions::default())
            .unwrap()
            .layers
            .is_empty()
    );
    age(&test);
    let options = PruneOptions {
        dangling_images: true,
        ..PruneOptions::default()
    };
    let report = test.store.prune(&options).unwrap();
    assert_eq!(report.images, std::slice::from_ref(&old));
    assert_eq!(report.layers, [*one.diff_id()]);
    assert!(!test.store.has_blob(&old.manifest) && test.store.has_blob(&new.manifest));
    assert_eq!(test.store.images().unwrap().len(), 1);
}

#[test]
fn blobs_of_an_index_are_kept() {
    let test = TestStore::new();
    let inner = image(&test, "inner", &[]);
    let layer = test.store.put_blob(b"layer blob").unwrap();
    let manifest = serde_json::json!({ "layers": [{ "digest": layer.digest }] });
    let manifest = test
        .store
        .put_blob(manifest.to_string().as_bytes())
        .unwrap();
    let index = serde_json::json!({ "manifests": [
        { "digest": inner.manifest }, { "digest": manifest.digest },
        { "digest": "sha512:00" }, { "digest": Digest::of(b"elsewhere") },
    ]});
    let index = test.store.put_blob(index.to_string().as_bytes()).unwrap();
    let mut record = inner.clone();
    record.manifest = index.digest;
    test.store.tag("multi:1", &record).unwrap();
    age(&test);
    let report = test.store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(report.blobs, []);
    assert!(test.store.has_blob(&layer.digest));
}

#[test]
fn usage_tells_what_is_for_what() {
    let test = TestStore::new();
    let both = layer(&test, "both");
    let cached = layer(&test, "cached!");
    test.store
        .tag("a:b", &image(&test, "i", &[*both.diff_id()]))
        .unwrap();
    remember(&test, "one", &both);
    remember(&test, "two", &cached);
    test.store.cache_mount("m").unwrap();
    test.store.release_published();
    let usage = test.store.usage().unwrap();
    let of = |id: &DiffId| usage.items.iter().find(|item| item.id == id.hex()).unwrap();
    let item = of(both.diff_id());
    assert_eq!((item.kind, item.size), (UsageKind::Layer, 4));
    assert!(item.shared && !item.reclaimable);
    assert_eq!(item.description, "a:b");
    let item = of(cached.diff_id());
    assert!(item.reclaimable && !item.shared);
    assert_eq!((item.size, item.description.as_str()), (7, "RUN two"));
    let kinds = |kind| usage.items.iter().filter(|item| item.kind == kind).count();
    assert_eq!(
        (
            kinds(UsageKind::Blob),
            kinds(UsageKind::Layer),
            kinds(UsageKind::CacheMount)
        ),
        (2, 2, 1)
    );
}

#[test]
fn past_builds_are_forgotten_but_not_those_that_run() {
    let test = TestStore::new();
    let names: Vec<String> = (0..3)
        .map(|_| test.store.new_build().unwrap().name().to_owned())
        .collect();
    let running = test.store.new_build().unwrap();
    assert_eq!(test.store.builds().unwrap().len(), 4);
    test.store.draft().unwrap().keep(&running).unwrap();
    assert!(running.failed_upper().is_some());
    test.store.forget_builds(2).unwrap();
    assert_eq!(
        test.store.builds().unwrap(),
        [names[2].as_str(), running.name()]
    );
    // What a failed step left stays as long as somebody looks at it.
    test.store.forget_builds(0).unwrap();
    assert_eq!(test.store.builds().unwrap(), [running.name()]);
    assert!(running.failed_upper().is_some());
    let name = running.name().to_owned();
    drop(running);
    let opened = test.store.open_build(&name).unwrap().unwrap();
    assert!(opened.failed_upper().is_some());
    drop(opened);
    test.store.forget_builds(9).unwrap();
    let opened = test.store.open_build(&name).unwrap().unwrap();
    assert!(opened.failed_upper().is_none());
    drop(opened);
    test.store.forget_builds(0).unwrap();
    assert!(test.store.open_build(&name).unwrap().is_none());
    assert!(test.store.build_path("../trees").is_none());
    assert_eq!(
        test.store.fsck(false).unwrap().problems,
        Vec::<String>::new()
    );
}
