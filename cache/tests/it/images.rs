//! Images and their names.

use rbuild_cache::{DiffId, Digest, ImageRecord, StoreError};

use crate::support::{TestStore, open};

/// An image whose manifest is in the store.
pub(crate) fn image(test: &TestStore, text: &str, layers: &[DiffId]) -> ImageRecord {
    let config = test
        .store
        .put_blob(format!("{{\"config\":\"{text}\"}}").as_bytes())
        .unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": { "digest": config.digest, "size": config.size, "mediaType": "c" },
        "layers": [],
    });
    let manifest = test
        .store
        .put_blob(manifest.to_string().as_bytes())
        .unwrap();
    ImageRecord {
        manifest: manifest.digest,
        manifest_media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        manifest_size: manifest.size,
        config: config.digest,
        created: Some("2026-11-21T00:00:00Z".to_owned()),
        size: 123,
        layers: layers.to_vec(),
    }
}

const NAME: &str = "docker.io/library/hello:latest";

#[test]
fn name_moves_from_image_to_image() {
    let test = TestStore::new();
    let (one, two) = (image(&test, "1", &[]), image(&test, "2", &[]));
    assert_eq!(test.store.image(NAME).unwrap(), None);
    assert_eq!(test.store.tag(NAME, &one).unwrap(), None);
    assert_eq!(
        test.store.tag(NAME, &one).unwrap(),
        None,
        "the same again is no change"
    );
    assert_eq!(test.store.tag(NAME, &two).unwrap(), Some(one.clone()));
    assert_eq!(test.store.image(NAME).unwrap(), Some(two.clone()));
    test.store.tag("example.org/b:1", &two).unwrap();
    let listed: Vec<_> = test
        .store
        .images()
        .unwrap()
        .into_iter()
        .map(|entry| (entry.names, entry.record))
        .collect();
    let both = vec![NAME.to_owned(), "example.org/b:1".to_owned()];
    assert_eq!(listed, [(both.clone(), two.clone()), (vec![], one.clone())]);
    let found = test.store.image_with_manifest(&two.manifest).unwrap();
    assert_eq!(
        found.map(|entry| (entry.names, entry.record)),
        Some((both, two.clone()))
    );
    let unknown = Digest::of(b"no image");
    assert!(test.store.image_with_manifest(&unknown).unwrap().is_none());
    assert!(test.store.untag(NAME).unwrap());
    assert!(!test.store.untag(NAME).unwrap());
    assert!(test.store.remove_image(&two.manifest).unwrap());
    assert!(!test.store.remove_image(&two.manifest).unwrap());
    assert_eq!(test.store.image("example.org/b:1").unwrap(), None);
    // Another process sees the same.
    let again = open(test.store.root());
    assert_eq!(again.images().unwrap().len(), 1);
}

#[test]
fn image_is_found_by_a_prefix_of_its_id_or_digest() {
    let test = TestStore::new();
    let images: Vec<_> = (0..30).map(|n| image(&test, &n.to_string(), &[])).collect();
    for image in &images {
        test.store.put_image(image).unwrap();
    }
    let find = |query: &str| test.store.find_image(query);
    for image in &images {
        for digest in [image.config, image.manifest] {
            let found = find(&digest.hex()).unwrap().unwrap();
            assert_eq!(&found.record, image);
            assert_eq!(
                find(&digest.to_string()[..19]).unwrap().unwrap().record,
                *image
            );
        }
    }
    // 60 digests and 16 first digits.
    let ambiguous = (0..16).any(|digit| {
        matches!(find(&format!("{digit:x}")), Err(StoreError::Ambiguous { matches, .. }) if matches > 1)
    });
    assert!(ambiguous);
    for query in ["", "sha256:", "xyz", "a%", "A", "*", "..", &"0".repeat(65)] {
        assert!(find(query).unwrap().is_none(), "{query}");
    }
}

#[test]
fn image_without_its_manifest_is_refused() {
    let test = TestStore::new();
    let mut image = image(&test, "x", &[]);
    image.manifest = Digest::of(b"not there");
    assert!(matches!(
        test.store.tag(NAME, &image),
        Err(StoreError::MissingBlob { .. })
    ));
    assert!(matches!(
        test.store.put_image(&image),
        Err(StoreError::MissingBlob { .. })
    ));
    assert_eq!(test.store.image(NAME).unwrap(), None);
}
