//! Manifests that a client must not accept.

use rbuild_cache::Digest;
use rbuild_registry::{Client, DocumentError, RegistryError};
use serde_json::{Value, json};

use crate::proxy::{Action, Proxy, Reply};
use crate::support::{INDEX, MANIFEST, TestRegistry, TestStore, bytes, client, image, push};

/// What a client makes of these bytes, sent with this type.
fn read(content: &[u8], content_type: &'static str) -> Result<(), DocumentError> {
    let body = content.to_vec();
    let proxy = Proxy::alone(move |request| {
        if request.target.contains("/manifests/") {
            let reply = Reply::status(200).body(body.clone());
            return match content_type {
                "" => reply,
                _ => reply.header("Content-Type", content_type),
            }
            .into();
        }
        Reply::status(200).into()
    });
    match client().manifest(&proxy.location("app", "x"), Digest::of(content)) {
        Ok(document) => {
            assert_eq!(document.bytes, content);
            Ok(())
        }
        Err(RegistryError::Document { source, .. }) => Err(source),
        Err(other) => panic!("{other:?}"),
    }
}

fn descriptor(seed: &str, size: &Value) -> Value {
    json!({ "mediaType": "x", "digest": Digest::of(seed.as_bytes()), "size": size })
}

fn manifest(layers: &[Value]) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("config", &json!(1)), "layers": layers,
    })
}

fn read_json(document: &Value) -> Result<(), DocumentError> {
    read(document.to_string().as_bytes(), "")
}

#[test]
fn good_documents_are_read() {
    read_json(&manifest(&[
        descriptor("a", &json!(1)),
        descriptor("a", &json!(1)),
    ]))
    .unwrap();
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor("a", &json!(1))] });
    read(index.to_string().as_bytes(), INDEX).unwrap();
    let docker = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": descriptor("c", &json!(1)), "layers": [],
    });
    let content_type = "application/vnd.docker.distribution.manifest.v2+json; charset=utf-8";
    read(docker.to_string().as_bytes(), content_type).unwrap();
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let mut both = manifest(&[]);
    both["manifests"] = json!([]);
    let mut as_index = manifest(&[]);
    as_index["mediaType"] = json!(INDEX);
    let as_manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "manifests": [] });
    for document in [&both, &as_index, &as_manifest] {
        let error = read_json(document).unwrap_err();
        assert!(
            matches!(error, DocumentError::Ambiguous(_)),
            "{document}: {error}"
        );
    }
    let text = manifest(&[]).to_string();
    let error = read(text.as_bytes(), INDEX).unwrap_err();
    assert!(matches!(error, DocumentError::Ambiguous(_)), "{error}");
    // The same key twice: which one counts depends on who reads it.
    let twice = text.replacen("\"schemaVersion\"", "\"layers\":[],\"schemaVersion\"", 1);
    let error = read(twice.as_bytes(), "").unwrap_err();
    assert!(matches!(error, DocumentError::Malformed(_)), "{error}");
}

#[test]
fn sizes_that_are_none_are_refused() {
    for size in [json!(-1), json!(1.5), json!("1"), json!(null), json!(1e30)] {
        let error = read_json(&manifest(&[descriptor("a", &size)])).unwrap_err();
        assert!(
            matches!(error, DocumentError::Malformed(_)),
            "{size}: {error}"
        );
    }
    let two = [descriptor("a", &json!(1)), descriptor("a", &json!(2))];
    let error = read_json(&manifest(&two)).unwrap_err();
    assert!(matches!(error, DocumentError::Ambiguous(_)), "{error}");
}

#[test]
fn digests_that_are_none_are_refused() {
    for digest in [
        "sha256:../../etc/passwd",
        "sha256:ab",
        "md5:x",
        "",
        &"A".repeat(71),
    ] {
        let layer = json!({ "mediaType": "x", "digest": digest, "size": 1 });
        let error = read_json(&manifest(&[layer])).unwrap_err();
        assert!(
            matches!(error, DocumentError::Malformed(_)),
            "{digest}: {error}"
        );
    }
}

#[test]
fn what_is_not_a_manifest_is_refused() {
    for text in [
        "",
        "[]",
        "{}",
        "null",
        "\"x\"",
        "{\"schemaVersion\":3}",
        "<html>",
    ] {
        assert!(read(text.as_bytes(), "").is_err(), "{text}");
    }
    let schema1 = json!({ "schemaVersion": 1, "fsLayers": [], "history": [] });
    let error = read_json(&schema1).unwrap_err();
    assert!(error.to_string().contains("schema 1"), "{error}");
    let mut unknown = manifest(&[]);
    unknown["mediaType"] = json!("application/x-other");
    let error = read_json(&unknown).unwrap_err();
    assert!(matches!(error, DocumentError::Unsupported(_)), "{error}");
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    assert!(read(deep.as_bytes(), "").is_err());
}

#[test]
fn duplicates_are_refused() {
    let entry = descriptor("a", &json!(1));
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry, entry],
    });
    let error = read_json(&index).unwrap_err();
    assert!(matches!(error, DocumentError::Duplicate(_)), "{error}");
    let error = read_json(&manifest(&[descriptor("config", &json!(1))])).unwrap_err();
    assert!(matches!(error, DocumentError::Duplicate(_)), "{error}");
}

#[test]
fn limits_are_kept_and_named() {
    let layers = |count: usize| {
        let layers = (0..count).map(|number| descriptor(&number.to_string(), &json!(1)));
        manifest(&layers.collect::<Vec<_>>())
    };
    read_json(&layers(5000)).unwrap();
    let error = read_json(&layers(5001)).unwrap_err();
    assert_eq!(
        error,
        DocumentError::Limit {
            limit: "layers",
            seen: 5001,
            allowed: 5000
        }
    );

    let mut padded = manifest(&[]).to_string().into_bytes();
    padded.resize(16 << 20, b' ');
    read(&padded, "").unwrap();
    padded.push(b' ');
    let error = read(&padded, "").unwrap_err();
    assert!(
        matches!(
            error,
            DocumentError::Limit {
                limit: "manifest_bytes",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_manifest_without_end_is_not_read_to_the_end() {
    let proxy = Proxy::alone(|request| {
        if request.target.contains("/manifests/") {
            return Reply {
                endless: true,
                ..Reply::status(200).body(bytes(1 << 20, 1))
            }
            .into();
        }
        Reply::status(200).into()
    });
    let error = client()
        .manifest(&proxy.location("app", "x"), Digest::of(b"x"))
        .unwrap_err();
    assert!(
        matches!(
            error,
            RegistryError::Document {
                source: DocumentError::Limit {
                    limit: "manifest_bytes",
                    ..
                },
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_manifest_with_other_bytes_is_asked_for_once_more() {
    let registry = TestRegistry::plain();
    let store = TestStore::new();
    let image = image(&store, &[1]);
    let digest = push(&client(), &store, &image, &registry.location("app", "x"));
    let proxy = Proxy::before(registry.address(), |request| {
        if request.is("GET", "/manifests/") {
            Action::Flip(10)
        } else {
            Action::Forward
        }
    });
    let error = client()
        .manifest(&proxy.location("app", "x"), digest)
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::DigestMismatch { expected, .. } if expected == digest),
        "{error}"
    );
    assert_eq!(proxy.seen("GET", "/manifests/").len(), 2);
}

#[test]
fn a_wrong_digest_header_does_not_get_through() {
    let registry = TestRegistry::plain();
    let store = TestStore::new();
    let image = image(&store, &[1]);
    let location = registry.location("app", "x");
    let digest = push(&client(), &store, &image, &location);
    let wrong = Digest::of(b"wrong");
    let proxy = Proxy::before(registry.address(), move |request| {
        if request.target.contains("/manifests/") {
            Action::SetHeader("Docker-Content-Digest", wrong.to_string())
        } else {
            Action::Forward
        }
    });
    // A tag may point anywhere, so the header is taken for what it says; nothing has that digest.
    let client = client();
    let resolved = client.resolve(&proxy.location("app", "x")).unwrap();
    assert_eq!(resolved.descriptor.digest, wrong);
    assert!(client.manifest(&proxy.location("app", "x"), wrong).is_err());
    // By digest it is a contradiction.
    let mut by_digest = proxy.location("app", "x");
    by_digest.reference = rbuild_registry::Reference::Digest(digest);
    let error = client.resolve(&by_digest).unwrap_err();
    assert!(
        matches!(error, RegistryError::DigestMismatch { .. }),
        "{error}"
    );
}

#[test]
fn a_registry_that_does_not_answer_head_fully_is_asked_by_get() {
    let registry = TestRegistry::plain();
    let store = TestStore::new();
    let image = image(&store, &[1]);
    let digest = push(&client(), &store, &image, &registry.location("app", "x"));
    for status in [200, 405, 501] {
        let proxy = Proxy::before(registry.address(), move |request| {
            if request.is("HEAD", "/manifests/") {
                Reply::status(status).into()
            } else {
                Action::Forward
            }
        });
        let resolved = client().resolve(&proxy.location("app", "x")).unwrap();
        assert_eq!(resolved.descriptor.digest, digest, "{status}");
    }
}

/// Puts documents where a chain of indexes leads to a manifest; returns the outermost digest.
fn nested(client: &Client, registry: &TestRegistry, depth: usize) -> Digest {
    let store = TestStore::new();
    let image = image(&store, &[1]);
    let mut location = registry.location("app", "x");
    let mut digest = push(client, &store, &image, &location);
    let (mut media_type, mut size) = (MANIFEST, image.manifest.len());
    for level in 0..depth {
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX, "annotations": { "level": level.to_string() },
            "manifests": [{ "mediaType": media_type, "digest": digest, "size": size }],
        });
        let bytes = index.to_string().into_bytes();
        location.reference = rbuild_registry::Reference::Digest(Digest::of(&bytes));
        digest = client.push_manifest(&location, &bytes, INDEX).unwrap();
        (media_type, size) = (INDEX, bytes.len());
    }
    digest
}

#[test]
fn indexes_may_be_nested_twice_and_not_deeper() {
    let registry = TestRegistry::plain();
    let client = client();
    let location = registry.location("app", "x");
    let mut first = |_: &[rbuild_registry::IndexEntry]| Some(0);
    for depth in 0..=2 {
        let digest = nested(&client, &registry, depth);
        let chain = client
            .manifest_chain(&location, digest, &mut first)
            .unwrap();
        assert_eq!(chain.len(), depth + 1);
    }
    let digest = nested(&client, &registry, 3);
    let error = client
        .manifest_chain(&location, digest, &mut first)
        .unwrap_err();
    assert!(
        matches!(
            error,
            RegistryError::Document {
                source: DocumentError::Limit {
                    limit: "index_depth",
                    ..
                },
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_index_that_lies_about_its_entries_is_refused() {
    let registry = TestRegistry::plain();
    let store = TestStore::new();
    let image = image(&store, &[1]);
    let client = client();
    let location = registry.location("app", "x");
    let digest = push(&client, &store, &image, &location);
    let good = image.manifest.len();
    for (size, media_type) in [(good + 1, MANIFEST), (good, INDEX)] {
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX,
            "manifests": [{ "mediaType": media_type, "digest": digest, "size": size }],
        });
        let index = client
            .push_manifest(&location, index.to_string().as_bytes(), INDEX)
            .unwrap();
        let error = client
            .manifest_chain(&location, index, &mut |_| Some(0))
            .unwrap_err();
        assert!(
            matches!(
                error,
                RegistryError::SizeMismatch { .. } | RegistryError::Document { .. }
            ),
            "{error}"
        );
    }
}
