//! Downloads from servers that fail: every row of the fault model that concerns reading.

use std::time::{Duration, Instant};

use rbuild_cache::Digest;
use rbuild_registry::{Client, Descriptor, Location, Notice, RegistryError, TransportError};

use crate::proxy::{Action, Proxy, Reply, Seen, first};
use crate::support::{
    TestRegistry, TestStore, bytes, client, no_progress, options, options_with_notices,
};

/// A registry with one blob, and a client's empty store.
struct Scene {
    registry: TestRegistry,
    blob: Descriptor,
    content: Vec<u8>,
    target: TestStore,
}

impl Scene {
    fn new(size: usize) -> Scene {
        let registry = TestRegistry::plain();
        let source = TestStore::new();
        let content = bytes(size, 7);
        let blob = source.put(&content);
        client()
            .push_blob(
                &registry.location("app", "x"),
                &source.store,
                &blob,
                None,
                &no_progress,
            )
            .unwrap();
        Scene {
            registry,
            blob,
            content,
            target: TestStore::new(),
        }
    }

    fn behind(&self, script: impl Fn(&Seen) -> Action + Send + Sync + 'static) -> Proxy {
        Proxy::before(self.registry.address(), script)
    }

    fn fetch(&self, client: &Client, location: &Location) -> Result<(), RegistryError> {
        client.fetch_blob(location, &self.blob, &self.target.store, &no_progress)
    }

    /// The blob is there, right, and nothing else.
    fn assert_whole(&self) {
        assert!(
            self.target.get(&self.blob.digest).unwrap() == self.content,
            "wrong bytes"
        );
        assert!(self.target.leftovers().is_empty());
    }

    fn assert_nothing(&self) {
        assert_eq!(self.target.get(&self.blob.digest), None);
        assert!(self.target.leftovers().is_empty());
    }
}

#[test]
fn a_cut_body_is_resumed_where_it_ended() {
    let size = 100_000;
    for cut in [0, 1, 4096, 65_536, size - 1] {
        let scene = Scene::new(size);
        let proxy = scene.behind(first(1, "GET", "/blobs/", move |_| Action::CutAnswer(cut)));
        scene.fetch(&client(), &proxy.location("app", "x")).unwrap();
        scene.assert_whole();
        let requests = proxy.seen("GET", "/blobs/");
        assert_eq!(requests.len(), 2, "cut at {cut}");
        let expected = (cut > 0).then(|| format!("bytes={cut}-"));
        assert_eq!(requests[1].header("range"), expected.as_deref());
    }
}

#[test]
fn a_server_that_ignores_ranges_starts_again() {
    let scene = Scene::new(100_000);
    let proxy = scene.behind({
        let cut = first(1, "GET", "/blobs/", |_| Action::CutAnswer(50_000));
        move |request| match cut(request) {
            Action::Forward => Action::ForwardWithout("range"),
            action => action,
        }
    });
    scene.fetch(&client(), &proxy.location("app", "x")).unwrap();
    scene.assert_whole();
}

#[test]
fn a_wrong_range_is_not_believed() {
    let scene = Scene::new(100_000);
    let whole = scene.content.clone();
    let proxy = scene.behind(move |request| {
        match (request.is("GET", "/blobs/"), request.header("range")) {
            (true, None) if request.header("x-again").is_none() => Action::Forward,
            // Says 206, and sends bytes from the beginning.
            (true, Some(_)) => Reply::status(206)
                .header("Content-Range", "bytes 0-49999/100000")
                .body(&whole[..50_000])
                .into(),
            _ => Action::Forward,
        }
    });
    let cut = Proxy::before(
        ([127, 0, 0, 1], proxy.port).into(),
        first(1, "GET", "/blobs/", |_| Action::CutAnswer(50_000)),
    );
    scene.fetch(&client(), &cut.location("app", "x")).unwrap();
    scene.assert_whole();
}

#[test]
fn five_tries_without_progress_are_enough() {
    let scene = Scene::new(100_000);
    let proxy = scene.behind(|request| {
        if request.is("GET", "/blobs/") {
            Action::CutAnswer(10)
        } else {
            Action::Forward
        }
    });
    let error = scene
        .fetch(&client(), &proxy.location("app", "x"))
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::GaveUp { tries: 5, .. }),
        "{error}"
    );
    assert_eq!(proxy.seen("GET", "/blobs/").len(), 5);
    scene.assert_nothing();
}

#[test]
fn progress_earns_more_tries() {
    let scene = Scene::new(9 << 20);
    let proxy = scene.behind(|request| {
        if request.is("GET", "/blobs/") {
            Action::CutAnswer(1 << 20)
        } else {
            Action::Forward
        }
    });
    scene.fetch(&client(), &proxy.location("app", "x")).unwrap();
    scene.assert_whole();
    assert_eq!(proxy.seen("GET", "/blobs/").len(), 9);
}

#[test]
fn passing_failures_are_tried_again() {
    let scene = Scene::new(1000);
    let proxy = scene.behind(first(4, "GET", "/blobs/", |number| match number {
        0 => Reply::status(500).into(),
        1 => Reply::status(502).body("<html>bad gateway</html>").into(),
        2 => Reply::status(504).into(),
        _ => Action::Close,
    }));
    let (options, notices) = options_with_notices();
    scene
        .fetch(&Client::new(options), &proxy.location("app", "x"))
        .unwrap();
    scene.assert_whole();
    let told: Vec<u32> = notices
        .lock()
        .unwrap()
        .iter()
        .filter_map(|notice| match notice {
            Notice::Retry { repetition, .. } => Some(*repetition),
            _ => None,
        })
        .collect();
    assert_eq!(told, [1, 2, 3, 4]);
}

#[test]
fn a_refusal_for_good_is_not_tried_again() {
    let scene = Scene::new(1000);
    let proxy = scene.behind(|request| {
        if request.is("GET", "/blobs/") {
            Reply::status(451)
                .body(r#"{"errors":[{"code":"DENIED","message":"not \u001b[31m here"}]}"#)
                .into()
        } else {
            Action::Forward
        }
    });
    let error = scene
        .fetch(&client(), &proxy.location("app", "x"))
        .unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, RegistryError::Status { status: 451, .. }),
        "{text}"
    );
    assert!(
        text.contains("DENIED") && !text.contains('\u{1b}'),
        "{text}"
    );
    assert_eq!(proxy.seen("GET", "/blobs/").len(), 1);
}

#[test]
fn retry_after_is_kept_and_told() {
    let scene = Scene::new(1000);
    let proxy = scene.behind(first(1, "GET", "/blobs/", |_| {
        Reply::status(429).header("Retry-After", "1").into()
    }));
    let (options, notices) = options_with_notices();
    let started = Instant::now();
    scene
        .fetch(&Client::new(options), &proxy.location("app", "x"))
        .unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    let notices = notices.lock().unwrap();
    let Some(Notice::Retry { wait, cause, .. }) = notices.first() else {
        panic!("nobody was told: {notices:?}");
    };
    assert_eq!(*wait, Duration::from_secs(1));
    assert!(cause.contains("429"), "{cause}");
}

#[test]
fn retry_after_beyond_the_budget_is_an_error_at_once() {
    let scene = Scene::new(1000);
    let proxy = scene.behind(first(1, "GET", "/blobs/", |_| {
        Reply::status(503).header("Retry-After", "3600").into()
    }));
    let started = Instant::now();
    let error = scene
        .fetch(&client(), &proxy.location("app", "x"))
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Status { status: 503, .. }),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn the_budget_ends_the_tries() {
    let proxy = Proxy::alone(|_| Reply::status(503).into());
    let mut options = options();
    options.retry.tries = u32::MAX;
    options.retry.budget = Duration::from_millis(300);
    let error = Client::new(options)
        .resolve(&proxy.location("app", "x"))
        .unwrap_err();
    // Nothing else could have ended it.
    let RegistryError::GaveUp { tries, .. } = error else {
        panic!("{error}");
    };
    assert!(tries > 0);
}

#[test]
fn silence_counts_as_a_cut() {
    let scene = Scene::new(1000);
    let proxy = scene.behind(first(1, "GET", "/blobs/", |_| Action::Silence));
    let mut options = options();
    options.timeouts.stall = Duration::from_millis(300);
    scene
        .fetch(&Client::new(options), &proxy.location("app", "x"))
        .unwrap();
    scene.assert_whole();
}

#[test]
fn a_trickle_counts_as_a_cut_and_is_resumed() {
    let scene = Scene::new(100_000);
    let proxy = scene.behind(first(1, "GET", "/blobs/", |_| {
        Action::Drip(10, Duration::from_millis(50))
    }));
    let (mut options, notices) = options_with_notices();
    options.timeouts.stall = Duration::from_millis(300);
    scene
        .fetch(&Client::new(options), &proxy.location("app", "x"))
        .unwrap();
    scene.assert_whole();
    let notices = notices.lock().unwrap();
    let Some(Notice::Retry { cause, .. }) = notices.first() else {
        panic!("{notices:?}");
    };
    assert!(cause.contains("less than 1000 bytes a second"), "{cause}");
    let range = proxy.seen("GET", "/blobs/")[1]
        .header("range")
        .map(str::to_owned);
    assert!(range.is_some_and(|range| range != "bytes=0-"));
}

#[test]
fn wrong_bytes_are_asked_for_once_more_and_then_told_with_both_digests() {
    let scene = Scene::new(1000);
    let proxy = scene.behind(first(1, "GET", "/blobs/", |_| Action::Flip(500)));
    scene.fetch(&client(), &proxy.location("app", "x")).unwrap();
    scene.assert_whole();

    let scene = Scene::new(1000);
    let proxy = scene.behind(|request| {
        if request.is("GET", "/blobs/") {
            Action::Flip(500)
        } else {
            Action::Forward
        }
    });
    let error = scene
        .fetch(&client(), &proxy.location("app", "x"))
        .unwrap_err();
    let mut wrong = scene.content.clone();
    wrong[500] ^= 1;
    let RegistryError::DigestMismatch {
        expected, actual, ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((expected, actual), (scene.blob.digest, Digest::of(&wrong)));
    assert_eq!(proxy.seen("GET", "/blobs/").len(), 2);
    scene.assert_nothing();
}

#[test]
fn a_wrong_size_is_refused_before_anything_is_kept() {
    let mut scene = Scene::new(1000);
    let location = scene.registry.location("app", "x");
    for (size, seen) in [(999, 1000), (1001, 1000)] {
        scene.blob.size = size;
        let error = scene.fetch(&client(), &location).unwrap_err();
        let RegistryError::SizeMismatch {
            expected, actual, ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!((expected, actual), (size, seen));
        scene.assert_nothing();
    }
}

#[test]
fn a_body_without_end_is_cut_off_at_the_size() {
    let scene = Scene::new(1000);
    let proxy = scene.behind(|request| {
        if request.is("GET", "/blobs/") {
            Reply {
                endless: true,
                ..Reply::status(200).body(bytes(100_000, 1))
            }
            .into()
        } else {
            Action::Forward
        }
    });
    let error = scene
        .fetch(&client(), &proxy.location("app", "x"))
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::SizeMismatch { .. }),
        "{error}"
    );
    scene.assert_nothing();
}

#[test]
fn a_full_disk_is_not_the_fault_of_the_registry() {
    let scene = Scene::new(1000);
    let location = scene.registry.location("app", "x");
    let tmp = scene.target.store.root().join("tmp");
    std::fs::remove_dir_all(&tmp).unwrap();
    std::fs::write(&tmp, "in the way").unwrap();
    let error = scene.fetch(&client(), &location).unwrap_err();
    assert!(matches!(error, RegistryError::Store(_)), "{error}");
}

#[test]
fn a_registry_that_is_not_there_is_told_with_its_name() {
    let port = crate::support::free_port();
    let location = crate::support::location(&format!("127.0.0.1:{port}"), "app", "x");
    let error = client().resolve(&location).unwrap_err();
    let RegistryError::GaveUp { source, .. } = error else {
        panic!("{error}");
    };
    assert!(
        source.to_string().contains(&format!("127.0.0.1:{port}")),
        "{source}"
    );
    let location = crate::support::location("rbuild-test.invalid", "app", "x");
    let error = client().resolve(&location).unwrap_err();
    assert!(
        matches!(
            &error,
            RegistryError::Connection {
                source: TransportError::UnknownHost,
                ..
            } | RegistryError::GaveUp { .. }
        ),
        "{error}"
    );
}
