//! Uploads to servers that fail: every row of the fault model that concerns writing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rbuild_cache::Digest;
use rbuild_registry::{Client, Descriptor, PushOutcome, RegistryError};

use crate::proxy::{Action, Proxy, Reply, Seen, first};
use crate::support::{
    MANIFEST, TestRegistry, TestStore, bytes, client, image, no_progress, options, push,
};

/// Large enough to be sent in pieces of its own.
const LARGE: usize = 3 << 20;

struct Scene {
    registry: TestRegistry,
    store: TestStore,
    blob: Descriptor,
}

impl Scene {
    fn new(size: usize) -> Scene {
        let store = TestStore::new();
        let blob = store.put(&bytes(size, 9));
        Scene {
            registry: TestRegistry::plain(),
            store,
            blob,
        }
    }

    fn behind(&self, script: impl Fn(&Seen) -> Action + Send + Sync + 'static) -> Proxy {
        Proxy::before(self.registry.address(), script)
    }

    fn push(&self, client: &Client, proxy: &Proxy) -> Result<PushOutcome, RegistryError> {
        client.push_blob(
            &proxy.location("app", "x"),
            &self.store.store,
            &self.blob,
            None,
            &no_progress,
        )
    }

    /// The registry itself has the right bytes.
    fn assert_there(&self) {
        let target = TestStore::new();
        client()
            .fetch_blob(
                &self.registry.location("app", "x"),
                &self.blob,
                &target.store,
                &no_progress,
            )
            .unwrap();
        assert!(target.get(&self.blob.digest) == self.store.get(&self.blob.digest));
    }

    /// Pushing works in spite of what happens.
    fn survives(&self, script: impl Fn(&Seen) -> Action + Send + Sync + 'static) -> Proxy {
        let proxy = self.behind(script);
        assert_eq!(self.push(&client(), &proxy).unwrap(), PushOutcome::Uploaded);
        self.assert_there();
        proxy
    }
}

#[test]
fn an_upload_survives_failures_at_every_step() {
    for (method, part) in [
        ("HEAD", "/blobs/"),
        ("POST", "/uploads/"),
        ("PATCH", "/uploads/"),
        ("PUT", "/uploads/"),
    ] {
        let scene = Scene::new(LARGE);
        scene.survives(first(2, method, part, |number| match number {
            0 => Reply::status(503).into(),
            _ => Action::Close,
        }));
    }
}

#[test]
fn a_cut_upload_goes_on_or_begins_anew() {
    let scene = Scene::new(LARGE);
    scene.survives(first(1, "PATCH", "/uploads/", |_| {
        Action::CutRequest(1 << 20)
    }));
}

#[test]
fn a_lost_answer_to_a_piece_does_not_spoil_the_upload() {
    let scene = Scene::new(LARGE);
    // Debian's registry signs the offset into the URL of the session: after a lost answer it cannot
    // be asked any more, and the blob begins anew.
    scene.survives(first(1, "PATCH", "/uploads/", |_| {
        Action::ForwardThenReply(Reply::status(502))
    }));
}

/// A registry written for this test that can be asked how far an upload got.
fn careful_registry(content_length: usize, fail_first: fn(usize) -> Option<u16>) -> Proxy {
    let patches = AtomicUsize::new(0);
    let offset = AtomicUsize::new(0);
    Proxy::alone(move |request| {
        let here = |status| {
            let last = offset.load(Ordering::SeqCst).saturating_sub(1);
            Reply::status(status)
                .header("Location", "/v2/app/blobs/uploads/1")
                .header("Range", format!("0-{last}"))
        };
        match request.method.as_str() {
            "HEAD" => Reply::status(404).into(),
            "POST" => here(202).into(),
            "GET" if request.target.contains("/uploads/") => here(204).into(),
            "PATCH" => {
                let number = patches.fetch_add(1, Ordering::SeqCst);
                let length: usize = request.header("content-length").unwrap().parse().unwrap();
                if let Some(status) = fail_first(number) {
                    // Half of it arrived.
                    offset.fetch_add(length / 2, Ordering::SeqCst);
                    return Reply::status(status).into();
                }
                offset.fetch_add(length, Ordering::SeqCst);
                here(202).into()
            }
            "PUT" => {
                let whole = offset.load(Ordering::SeqCst) == content_length;
                Reply::status(if whole { 201 } else { 400 }).into()
            }
            _ => Reply::status(200).into(),
        }
    })
}

#[test]
fn an_upload_goes_on_at_the_offset_that_the_server_tells() {
    for status in [500, 416] {
        let store = TestStore::new();
        let blob = store.put(&bytes(LARGE, 9));
        let proxy = match status {
            500 => careful_registry(LARGE, |number| (number == 0).then_some(500)),
            _ => careful_registry(LARGE, |number| (number == 0).then_some(416)),
        };
        let outcome = client()
            .push_blob(
                &proxy.location("app", "x"),
                &store.store,
                &blob,
                None,
                &no_progress,
            )
            .unwrap();
        assert_eq!(outcome, PushOutcome::Uploaded);
        let patches = proxy.seen("PATCH", "/uploads/");
        assert_eq!(patches.len(), 2, "{status}");
        let half = LARGE / 2;
        let expected = format!("{half}-{}", LARGE - 1);
        assert_eq!(patches[1].header("content-range"), Some(expected.as_str()));
        assert_eq!(
            proxy.seen("POST", "").len(),
            1,
            "the session was thrown away"
        );
    }
}

#[test]
fn a_lost_session_begins_that_blob_anew() {
    for (status, method) in [(404, "PATCH"), (416, "PATCH"), (404, "PUT"), (416, "PUT")] {
        let scene = Scene::new(LARGE);
        let proxy = scene.survives(first(1, method, "/uploads/", move |_| {
            Reply::status(status).into()
        }));
        assert!(
            proxy.seen("POST", "/uploads/").len() <= 2,
            "{status} {method}"
        );
    }
    let scene = Scene::new(1000);
    let proxy = scene.survives(first(1, "PUT", "/uploads/", |_| Reply::status(404).into()));
    assert_eq!(proxy.seen("POST", "/uploads/").len(), 2);
}

#[test]
fn a_session_that_is_lost_again_and_again_ends_in_an_error() {
    let scene = Scene::new(1000);
    let proxy = scene.behind(|request| {
        if request.is("PUT", "/uploads/") {
            Reply::status(404).into()
        } else {
            Action::Forward
        }
    });
    let error = scene.push(&client(), &proxy).unwrap_err();
    assert!(
        matches!(error, RegistryError::GaveUp { tries: 5, .. }),
        "{error}"
    );
}

#[test]
fn a_server_that_takes_nothing_is_given_up() {
    let proxy = Proxy::alone(|request| match request.method.as_str() {
        "HEAD" => Reply::status(404).into(),
        "GET" if !request.target.contains("uploads") => Reply::status(200).into(),
        _ => Reply::status(202)
            .header("Location", "/v2/app/blobs/uploads/1")
            .header("Range", "0-0")
            .into(),
    });
    let store = TestStore::new();
    let blob = store.put(&bytes(LARGE, 9));
    let error = client()
        .push_blob(
            &proxy.location("app", "x"),
            &store.store,
            &blob,
            None,
            &no_progress,
        )
        .unwrap_err();
    assert!(matches!(error, RegistryError::GaveUp { .. }), "{error}");
}

#[test]
fn the_answer_to_the_last_request_may_get_lost() {
    for size in [1000, LARGE] {
        let scene = Scene::new(size);
        let proxy = scene.survives(first(1, "PUT", "/uploads/", |_| {
            Action::ForwardThenReply(Reply::status(504))
        }));
        assert_eq!(
            proxy.seen("PUT", "/uploads/").len(),
            1,
            "it was there already"
        );
    }
}

#[test]
fn bytes_bent_on_the_way_are_sent_again() {
    let scene = Scene::new(1000);
    let bent = Reply::status(400).body(r#"{"errors":[{"code":"DIGEST_INVALID","message":"x"}]}"#);
    let proxy = scene.survives(first(1, "PUT", "/uploads/", move |_| bent.clone().into()));
    assert_eq!(proxy.seen("PUT", "/uploads/").len(), 2);
}

#[test]
fn a_refused_mount_becomes_an_upload() {
    for status in [202, 400, 401, 403, 404, 405] {
        let scene = Scene::new(1000);
        let elsewhere = scene.registry.location("other", "x");
        client()
            .push_blob(
                &elsewhere,
                &scene.store.store,
                &scene.blob,
                None,
                &no_progress,
            )
            .unwrap();
        let proxy = scene.behind(
            move |request| match (request.is("POST", "mount="), status) {
                (true, 202) => Reply::redirect(202, "/lost").into(),
                (true, _) => Reply::status(status).into(),
                _ if request.target.starts_with("/lost") => Reply::status(404).into(),
                _ => Action::Forward,
            },
        );
        let outcome = client()
            .push_blob(
                &proxy.location("app", "x"),
                &scene.store.store,
                &scene.blob,
                Some("other"),
                &no_progress,
            )
            .unwrap();
        assert_eq!(outcome, PushOutcome::Uploaded, "{status}");
        scene.assert_there();
    }
}

#[test]
fn a_server_that_stops_reading_or_never_answers_counts_as_a_cut() {
    let scene = Scene::new(32 << 20);
    let proxy = scene.behind(first(2, "PATCH", "/uploads/", |number| match number {
        0 => Action::Deafness,
        _ => Action::Silence,
    }));
    let mut options = options();
    options.timeouts.stall = Duration::from_millis(300);
    options.timeouts.commit = Duration::from_millis(900);
    assert_eq!(
        scene.push(&Client::new(options), &proxy).unwrap(),
        PushOutcome::Uploaded
    );
    scene.assert_there();
}

#[test]
fn a_refusal_in_the_middle_of_a_body_is_told() {
    // Closes with the body unread: the connection is reset, and only asking first shows why.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        use std::io::{BufRead, BufReader, Write};
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap_or(0) > 0 {}
            let answer = match head.split(' ').next() {
                Some("GET") if head.contains("uploads") => {
                    "204 x\r\nLocation: /v2/a/blobs/uploads/1\r\nRange: 0-0"
                }
                Some("GET") => "200 x\r\nContent-Length: 0",
                Some("HEAD") => "404 x\r\nContent-Length: 0",
                Some("POST") => "202 x\r\nContent-Length: 0\r\nLocation: /v2/a/blobs/uploads/1",
                _ => "413 x\r\nContent-Length: 0",
            };
            let text = format!("HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n");
            let _ = stream.get_mut().write_all(text.as_bytes());
        }
    });
    let store = TestStore::new();
    let blob = store.put(&bytes(64 << 20, 9));
    let location = crate::support::location(&format!("127.0.0.1:{port}"), "a", "x");
    let error = client()
        .push_blob(&location, &store.store, &blob, None, &no_progress)
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Status { status: 413, .. }),
        "{error:?}"
    );
}

#[test]
fn a_pushed_manifest_is_read_back_by_its_digest() {
    let registry = TestRegistry::plain();
    let store = TestStore::new();
    let image = image(&store, &[10]);
    let proxy = Proxy::before(registry.address(), |_| Action::Forward);
    let location = proxy.location("app", "x");
    let digest = push(&client(), &store, &image, &location);
    assert_eq!(proxy.seen("GET", &format!("manifests/{digest}")).len(), 1);

    let bent = Proxy::before(registry.address(), |request| {
        if request.is("GET", "/manifests/") {
            Action::Flip(20)
        } else {
            Action::Forward
        }
    });
    let error = client()
        .push_manifest(&bent.location("app", "x"), &image.manifest, MANIFEST)
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::DigestMismatch { .. }),
        "{error}"
    );

    let liar = Proxy::before(registry.address(), |request| {
        if request.is("PUT", "/manifests/") {
            Action::SetHeader("Docker-Content-Digest", Digest::of(b"x").to_string())
        } else {
            Action::Forward
        }
    });
    let error = client()
        .push_manifest(&liar.location("app", "x"), &image.manifest, MANIFEST)
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::DigestMismatch { .. }),
        "{error}"
    );
}

#[test]
fn two_who_push_the_same_tag_both_succeed_and_the_last_one_has_it() {
    let registry = TestRegistry::plain();
    let store = TestStore::new();
    let client = client();
    let location = registry.location("app", "x");
    let images: Vec<_> = (1..5).map(|size| image(&store, &[size])).collect();
    std::thread::scope(|scope| {
        for image in &images {
            scope.spawn(|| push(&client, &store, image, &location));
        }
    });
    let winner = client.resolve(&location).unwrap().descriptor.digest;
    assert!(
        images
            .iter()
            .any(|image| Digest::of(&image.manifest) == winner)
    );
}

#[test]
fn a_blob_of_another_size_than_described_is_not_sent() {
    let mut scene = Scene::new(1000);
    scene.blob.size = 1001;
    let proxy = scene.behind(|_| Action::Forward);
    let error = scene.push(&client(), &proxy).unwrap_err();
    assert!(
        matches!(error, RegistryError::SizeMismatch { .. }),
        "{error}"
    );
    assert!(proxy.seen("POST", "").is_empty());
}
