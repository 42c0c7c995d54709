//! What works when nothing goes wrong.

use std::cell::RefCell;

use rbuild_cache::Digest;
use rbuild_registry::{Client, Contents, Descriptor, PushOutcome, Reference, RegistryError};

use crate::proxy::{Action, Proxy, Reply};
use crate::support::{
    INDEX, MANIFEST, TestRegistry, TestStore, bytes, client, image, no_progress, options, push,
};

#[test]
fn what_was_pushed_is_pulled_byte_for_byte() {
    let registry = TestRegistry::plain();
    let source = TestStore::new();
    let image = image(&source, &[10, 3_000_000]);
    let location = registry.location("some/app", "1.0");
    let client = client();
    let digest = push(&client, &source, &image, &location);
    assert_eq!(digest, Digest::of(&image.manifest));

    let resolved = client.resolve(&location).unwrap().descriptor;
    assert_eq!(resolved.digest, digest);
    assert_eq!(resolved.media_type, MANIFEST);
    assert_eq!(resolved.size, image.manifest.len() as u64);

    let document = client.manifest(&location, digest).unwrap();
    assert_eq!(document.bytes, image.manifest);
    let Contents::Manifest { config, layers } = document.contents else {
        panic!("a manifest was read as an index");
    };
    assert_eq!((&config, &layers), (&image.config, &image.layers));

    let target = TestStore::new();
    for blob in layers.iter().chain([&config]) {
        let reached = RefCell::new(Vec::new());
        let progress = |bytes| reached.borrow_mut().push(bytes);
        client
            .fetch_blob(&location, blob, &target.store, &progress)
            .unwrap();
        assert_eq!(target.get(&blob.digest), source.get(&blob.digest));
        assert_eq!(reached.borrow().last(), Some(&blob.size));
        assert!(reached.borrow().is_sorted(), "progress went back");
    }
    assert!(target.leftovers().is_empty());
}

#[test]
fn a_blob_that_is_there_is_not_sent_and_one_nearby_is_mounted() {
    let registry = TestRegistry::plain();
    let store = TestStore::new();
    let blob = store.put(&bytes(2_000_000, 1));
    let client = client();
    let push = |repository: &str, from| {
        client
            .push_blob(
                &registry.location(repository, "x"),
                &store.store,
                &blob,
                from,
                &no_progress,
            )
            .unwrap()
    };
    assert_eq!(push("one", None), PushOutcome::Uploaded);
    assert_eq!(push("one", None), PushOutcome::Exists);
    assert_eq!(push("two", Some("one")), PushOutcome::Mounted);
    assert_eq!(push("three", Some("nowhere")), PushOutcome::Uploaded);
    let two = registry.location("two", "x");
    assert!(client.has_blob(&two, &blob).unwrap());
    let other = store.put(b"other");
    assert!(!client.has_blob(&two, &other).unwrap());
}

#[test]
fn an_empty_blob_travels_too() {
    let registry = TestRegistry::plain();
    let (source, target) = (TestStore::new(), TestStore::new());
    let blob = source.put(b"");
    let location = registry.location("app", "x");
    let client = client();
    client
        .push_blob(&location, &source.store, &blob, None, &no_progress)
        .unwrap();
    client
        .fetch_blob(&location, &blob, &target.store, &no_progress)
        .unwrap();
    assert_eq!(target.get(&blob.digest).unwrap(), b"");
}

#[test]
fn pieces_of_a_given_size_are_put_together() {
    let registry = TestRegistry::plain();
    let proxy = Proxy::before(registry.address(), |_| Action::Forward);
    let store = TestStore::new();
    let blob = store.put(&bytes(2_500_000, 2));
    let mut options = options();
    options.limits.upload_chunk = 1 << 20;
    let client = Client::new(options);
    let location = proxy.location("app", "x");
    let outcome = client
        .push_blob(&location, &store.store, &blob, None, &no_progress)
        .unwrap();
    assert_eq!(outcome, PushOutcome::Uploaded);
    let ranges: Vec<String> = proxy
        .seen("PATCH", "")
        .iter()
        .map(|request| request.header("content-range").unwrap().to_owned())
        .collect();
    assert_eq!(ranges, ["0-1048575", "1048576-2097151", "2097152-2499999"]);
}

#[test]
fn an_index_is_gone_through_to_the_chosen_manifest() {
    let registry = TestRegistry::plain();
    let store = TestStore::new();
    let client = client();
    let location = registry.location("app", "multi");
    let (first, second) = (image(&store, &[1]), image(&store, &[2]));
    let mut entries = Vec::new();
    for (image, architecture) in [(&first, "amd64"), (&second, "arm64")] {
        let mut by_digest = location.clone();
        by_digest.reference = Reference::Digest(Digest::of(&image.manifest));
        let digest = push(&client, &store, image, &by_digest);
        entries.push(serde_json::json!({
            "mediaType": MANIFEST, "digest": digest, "size": image.manifest.len(),
            "platform": { "os": "linux", "architecture": architecture },
        }));
    }
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": entries,
    });
    let digest = client
        .push_manifest(&location, index.to_string().as_bytes(), INDEX)
        .unwrap();
    let chain = client
        .manifest_chain(&location, digest, &mut |entries| {
            entries.iter().position(|entry| {
                entry
                    .platform
                    .as_ref()
                    .is_some_and(|platform| platform.architecture == "arm64")
            })
        })
        .unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1].bytes, second.manifest);
    let none = client.manifest_chain(&location, digest, &mut |_| None);
    assert!(matches!(none, Err(RegistryError::Document { .. })));
}

#[test]
fn all_tags_are_listed_page_by_page() {
    let registry = TestRegistry::plain();
    let store = TestStore::new();
    let client = client();
    let image = image(&store, &[1]);
    for tag in ["a", "b", "c"] {
        push(&client, &store, &image, &registry.location("app", tag));
    }
    let mut tags = client.tags(&registry.location("app", "x")).unwrap();
    tags.sort();
    assert_eq!(tags, ["a", "b", "c"]);

    let pages = Proxy::alone(|request| {
        let page = |tags: &str| Reply::status(200).body(format!("{{\"tags\":{tags}}}"));
        let next = |reply: Reply, last| {
            reply.header(
                "Link",
                format!("</v2/app/tags/list?n=1&last={last}>; rel=\"next\""),
            )
        };
        match request.target.as_str() {
            "/v2/app/tags/list?n=1000" => next(page("[\"a\"]"), "a").into(),
            "/v2/app/tags/list?n=1&last=a" => next(page("null"), "b").into(),
            "/v2/app/tags/list?n=1&last=b" => page("[\"c\",\"../bad\"]").into(),
            "/v2/loop/tags/list?n=1000" => {
                page("[]").header("Link", "<?n=1000>; rel=\"next\"").into()
            }
            _ => Reply::status(404).into(),
        }
    });
    assert_eq!(
        client.tags(&pages.location("app", "x")).unwrap(),
        ["a", "c"]
    );
    let error = client.tags(&pages.location("loop", "x")).unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
}

#[test]
fn what_is_not_there_is_told_as_that() {
    let registry = TestRegistry::plain();
    let store = TestStore::new();
    let client = client();
    let location = registry.location("app", "nowhere");
    let digest = Digest::of(b"x");
    let error = client.resolve(&location).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let error = client.manifest(&location, digest).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(error.to_string().contains("MANIFEST_UNKNOWN"), "{error}");
    let blob = Descriptor {
        media_type: String::new(),
        digest,
        size: 1,
    };
    let error = client
        .fetch_blob(&location, &blob, &store.store, &no_progress)
        .unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let error = client
        .push_blob(&location, &store.store, &blob, None, &no_progress)
        .unwrap_err();
    assert!(matches!(error, RegistryError::Store(_)), "{error}");
    assert!(client.tags(&location).unwrap_err().is_not_found());
}

#[test]
fn names_that_could_leave_their_place_are_never_sent() {
    let proxy = Proxy::alone(|_| Reply::status(200).into());
    let client = client();
    for (host, repository, tag) in [
        (proxy.host(), "../../secret", "x"),
        (proxy.host(), "app", "../x"),
        (proxy.host(), "app?x=y", "x"),
        (format!("user:pass@{}", proxy.host()), "app", "x"),
    ] {
        let location = crate::support::location(&host, repository, tag);
        let error = client.resolve(&location).unwrap_err();
        assert!(matches!(error, RegistryError::Name(_)), "{error}");
    }
    assert!(proxy.seen("GET", "").is_empty() && proxy.seen("HEAD", "").is_empty());
}

#[test]
fn threads_that_want_the_same_blob_download_it_once() {
    let registry = TestRegistry::plain();
    let source = TestStore::new();
    let blob = source.put(&bytes(500_000, 3));
    let client = client();
    client
        .push_blob(
            &registry.location("app", "x"),
            &source.store,
            &blob,
            None,
            &no_progress,
        )
        .unwrap();
    let proxy = Proxy::before(registry.address(), |_| Action::Forward);
    let location = proxy.location("app", "x");
    let target = TestStore::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                client
                    .fetch_blob(&location, &blob, &target.store, &no_progress)
                    .unwrap();
            });
        }
    });
    assert_eq!(proxy.seen("GET", "/blobs/").len(), 1);
    assert_eq!(target.get(&blob.digest).unwrap().len(), 500_000);
}

#[test]
fn a_manifest_under_another_digest_is_not_pushed() {
    let registry = TestRegistry::plain();
    let mut location = registry.location("app", "x");
    location.reference = Reference::Digest(Digest::of(b"something else"));
    let error = client()
        .push_manifest(&location, b"{}", MANIFEST)
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::DigestMismatch { .. }),
        "{error}"
    );
}

#[test]
fn an_interrupt_ends_a_download_that_hangs() {
    let proxy = Proxy::alone(|request| {
        if request.target.contains("/blobs/") {
            Action::Silence
        } else {
            Reply::status(200).into()
        }
    });
    let store = TestStore::new();
    let client = client();
    let blob = Descriptor {
        media_type: String::new(),
        digest: Digest::of(b"x"),
        size: 1,
    };
    let location = proxy.location("app", "x");
    std::thread::scope(|scope| {
        let download =
            scope.spawn(|| client.fetch_blob(&location, &blob, &store.store, &no_progress));
        while proxy.seen("GET", "/blobs/").is_empty() {
            std::thread::yield_now();
        }
        client.interrupt();
        let error = download.join().unwrap().unwrap_err();
        assert!(
            matches!(error, RegistryError::Interrupted { .. }),
            "{error}"
        );
    });
    let error = client.resolve(&location).unwrap_err();
    assert!(
        matches!(error, RegistryError::Interrupted { .. }),
        "{error}"
    );
}
