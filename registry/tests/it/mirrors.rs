//! Mirrors: asked first, believed only as far as digests go, and never a reason to fail.

use rbuild_registry::{Client, Mirror, Namespace, Notice, PushOutcome, RegistryError};

use crate::proxy::{Action, Proxy, Reply};
use crate::support::{
    Image, TestRegistry, TestStore, client, image, no_progress, options_with_notices, push,
};

/// A registry, another one as its mirror, and an image that both have.
struct Scene {
    registry: TestRegistry,
    mirror: TestRegistry,
    store: TestStore,
    image: Image,
}

impl Scene {
    fn new() -> Scene {
        let (registry, mirror) = (TestRegistry::plain(), TestRegistry::plain());
        let store = TestStore::new();
        let image = image(&store, &[1000]);
        push(&client(), &store, &image, &registry.location("app", "x"));
        push(
            &client(),
            &store,
            &image,
            &mirror.location("cache/app", "x"),
        );
        Scene {
            registry,
            mirror,
            store,
            image,
        }
    }
}

type Notices = std::sync::Arc<std::sync::Mutex<Vec<Notice>>>;

fn client_with(registry: &str, mirror: &str, resolve: bool) -> (Client, Notices) {
    let (mut options, notices) = options_with_notices();
    options.namespaces.push(Namespace {
        prefix: registry.to_owned(),
        mirrors: vec![Mirror {
            host: mirror.to_owned(),
            prefix: "cache".to_owned(),
            resolve,
        }],
        ..Namespace::default()
    });
    (Client::new(options), notices)
}

fn failed(notices: &Notices) -> usize {
    notices
        .lock()
        .unwrap()
        .iter()
        .filter(|notice| matches!(notice, Notice::MirrorFailed { .. }))
        .count()
}

#[test]
fn a_mirror_is_asked_instead_of_the_registry() {
    let scene = Scene::new();
    let (before, behind) = (
        Proxy::before(scene.registry.address(), |_| Action::Forward),
        Proxy::before(scene.mirror.address(), |_| Action::Forward),
    );
    let (client, notices) = client_with(&before.host(), &behind.host(), true);
    let location = before.location("app", "x");
    let digest = client.resolve(&location).unwrap().descriptor.digest;
    client.manifest(&location, digest).unwrap();
    let target = TestStore::new();
    client
        .fetch_blob(
            &location,
            &scene.image.layers[0],
            &target.store,
            &no_progress,
        )
        .unwrap();
    assert!(before.seen("GET", "app").is_empty() && before.seen("HEAD", "app").is_empty());
    let asked = behind.seen("GET", "/v2/cache/app/");
    assert_eq!(asked.len(), 2);
    let ns = format!("ns={}", before.host().replace(':', "%3A"));
    assert!(asked.iter().all(|request| request.target.contains(&ns)));
    assert_eq!(failed(&notices), 0);
}

#[test]
fn what_a_mirror_cannot_do_the_registry_does() {
    let scene = Scene::new();
    let location = scene.registry.location("app", "x");
    for status in [404, 401, 403, 429, 500, 503] {
        let mirror = Proxy::alone(move |_| Reply::status(status).into());
        let (client, notices) = client_with(&scene.registry.host(), &mirror.host(), true);
        let digest = client.resolve(&location).unwrap().descriptor.digest;
        client.manifest(&location, digest).unwrap();
        assert_eq!(failed(&notices), 2, "{status}");
    }
    let nobody = format!("127.0.0.1:{}", crate::support::free_port());
    let (client, notices) = client_with(&scene.registry.host(), &nobody, true);
    client.resolve(&location).unwrap();
    assert_eq!(failed(&notices), 1);
}

#[test]
fn wrong_bytes_of_a_mirror_are_replaced_by_those_of_the_registry() {
    let scene = Scene::new();
    let mirror = Proxy::before(scene.mirror.address(), |request| {
        if request.is("GET", "/v2/cache/") {
            Action::Flip(30)
        } else {
            Action::Forward
        }
    });
    let (client, notices) = client_with(&scene.registry.host(), &mirror.host(), true);
    let location = scene.registry.location("app", "x");
    let digest = client.resolve(&location).unwrap().descriptor.digest;
    assert_eq!(
        client.manifest(&location, digest).unwrap().bytes,
        scene.image.manifest
    );
    let target = TestStore::new();
    let layer = &scene.image.layers[0];
    client
        .fetch_blob(&location, layer, &target.store, &no_progress)
        .unwrap();
    assert!(target.get(&layer.digest) == scene.store.get(&layer.digest));
    assert_eq!(failed(&notices), 2);
}

#[test]
fn a_download_that_a_mirror_breaks_off_is_finished_by_the_registry() {
    let scene = Scene::new();
    let mirror = Proxy::before(scene.mirror.address(), |request| {
        if request.is("GET", "/v2/cache/app/blobs/") {
            match request.header("range") {
                None => Action::CutAnswer(700),
                Some(_) => Reply::status(503).into(),
            }
        } else {
            Action::Forward
        }
    });
    let before = Proxy::before(scene.registry.address(), |_| Action::Forward);
    let (client, _) = client_with(&before.host(), &mirror.host(), true);
    let target = TestStore::new();
    client
        .fetch_blob(
            &before.location("app", "x"),
            &scene.image.layers[0],
            &target.store,
            &no_progress,
        )
        .unwrap();
    assert_eq!(
        before.seen("GET", "/blobs/")[0].header("range"),
        Some("bytes=700-")
    );
}

#[test]
fn a_mirror_that_may_not_resolve_is_asked_for_digests_only() {
    let scene = Scene::new();
    let mirror = Proxy::before(scene.mirror.address(), |_| Action::Forward);
    let (client, _) = client_with(&scene.registry.host(), &mirror.host(), false);
    let location = scene.registry.location("app", "x");
    let digest = client.resolve(&location).unwrap().descriptor.digest;
    assert!(mirror.seen("HEAD", "").is_empty());
    client.manifest(&location, digest).unwrap();
    assert_eq!(mirror.seen("GET", "/manifests/").len(), 1);
}

#[test]
fn nothing_is_pushed_to_a_mirror() {
    let scene = Scene::new();
    let mirror = Proxy::before(scene.mirror.address(), |_| Action::Forward);
    let (client, _) = client_with(&scene.registry.host(), &mirror.host(), true);
    let blob = scene.store.put(b"new");
    let outcome = client
        .push_blob(
            &scene.registry.location("app", "x"),
            &scene.store.store,
            &blob,
            None,
            &no_progress,
        )
        .unwrap();
    assert_eq!(outcome, PushOutcome::Uploaded);
    assert!(mirror.seen("POST", "").is_empty() && mirror.seen("PUT", "").is_empty());
}

/// A client for which names below `path` of a registry are to be had as `cache/…` elsewhere.
fn client_instead(registry: &str, path: &str, instead: &str) -> Client {
    let (mut options, _) = options_with_notices();
    let place = |host: &str, prefix: &str| Mirror {
        host: host.to_owned(),
        prefix: prefix.to_owned(),
        resolve: true,
    };
    options.namespaces = vec![
        Namespace {
            prefix: registry.to_owned(),
            instead: Some(place("127.0.0.1:1", "")),
            ..Namespace::default()
        },
        Namespace {
            prefix: format!("{registry}/{path}"),
            instead: Some(place(instead, "cache")),
            ..Namespace::default()
        },
        Namespace {
            prefix: format!("{registry}/{path}/secret"),
            blocked: true,
            ..Namespace::default()
        },
    ];
    Client::new(options)
}

#[test]
fn a_part_of_a_registry_lies_elsewhere_for_pulls_and_pushes() {
    let scene = Scene::new();
    let registry = Proxy::before(scene.registry.address(), |_| Action::Forward);
    let client = client_instead(&registry.host(), "team/a", &scene.mirror.host());
    let location = registry.location("team/a/app", "x");
    let digest = client.resolve(&location).unwrap().descriptor.digest;
    client.manifest(&location, digest).unwrap();
    let blob = scene.store.put(b"new");
    let store = &scene.store.store;
    let outcome = client.push_blob(&location, store, &blob, Some("team/a/b"), &no_progress);
    assert_eq!(outcome.unwrap(), PushOutcome::Uploaded);
    let mirrored = scene.mirror.location("cache/app", "x");
    assert!(crate::support::client().has_blob(&mirrored, &blob).unwrap());
    // Nothing of that went to the registry itself.
    assert!(registry.seen("", "").is_empty());
    let blocked = registry.location("team/a/secret/app", "x");
    let error = client.resolve(&blocked).unwrap_err();
    assert!(matches!(error, RegistryError::Blocked { .. }), "{error}");
    // A longer name that only begins so is not meant.
    assert!(client.resolve(&registry.location("team/ab", "x")).is_err());
    assert!(registry.seen("", "").is_empty());
}
