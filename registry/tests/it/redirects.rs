//! Redirections: how many, where to, and what goes along.

use rbuild_cache::Digest;
use rbuild_registry::{Client, Credential, CredentialStore, Descriptor, RegistryError};

use crate::proxy::{Action, Proxy, Reply};
use crate::support::{TestStore, client, no_progress, options};

const CONTENT: &[u8] = b"content";

fn blob() -> Descriptor {
    Descriptor {
        media_type: String::new(),
        digest: Digest::of(CONTENT),
        size: CONTENT.len() as u64,
    }
}

fn fetch(client: &Client, proxy: &Proxy) -> Result<(), RegistryError> {
    let store = TestStore::new();
    client.fetch_blob(
        &proxy.location("app", "x"),
        &blob(),
        &store.store,
        &no_progress,
    )
}

/// A client that has a password for this server only.
fn client_known_to(proxy: &Proxy) -> Client {
    let credential = Credential::Password {
        username: "user".to_owned(),
        password: "password".to_owned(),
    };
    let mut options = options();
    options.credentials = CredentialStore::new().with_credential(&proxy.host(), credential);
    Client::new(options)
}

/// A server that wants a password for everything, then answers by `then`.
fn guarded(then: impl Fn() -> Reply + Send + Sync + 'static) -> Proxy {
    Proxy::alone(move |request| {
        if request.header("authorization").is_none() {
            return Reply::status(401)
                .header("WWW-Authenticate", "Basic realm=\"x\"")
                .into();
        }
        then().into()
    })
}

#[test]
fn five_redirections_are_followed_and_not_a_sixth() {
    for (hops, works) in [(5, true), (6, false)] {
        let proxy = Proxy::alone(move |request| {
            let at: usize = match request.target.rsplit_once("hop") {
                Some((_, number)) => number.parse().unwrap(),
                None if request.target.contains("/blobs/") => 0,
                None => return Reply::status(200).into(),
            };
            if at == hops {
                Reply::status(200).body(CONTENT).into()
            } else {
                Reply::redirect(307, format!("/hop{}", at + 1)).into()
            }
        });
        let result = fetch(&client(), &proxy);
        match (works, result) {
            (true, result) => result.unwrap(),
            (false, Err(RegistryError::Redirect { .. })) => {}
            (false, result) => panic!("{result:?}"),
        }
    }
}

#[test]
fn a_loop_is_an_error() {
    let proxy = Proxy::alone(|request| {
        if request.target.contains("/blobs/") {
            Reply::redirect(302, request.target.clone()).into()
        } else {
            Reply::status(200).into()
        }
    });
    let error = fetch(&client(), &proxy).unwrap_err();
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error}");
    assert_eq!(proxy.seen("GET", "/blobs/").len(), 6);
}

#[test]
fn credentials_stay_at_their_host() {
    let other = Proxy::alone(|_| Reply::status(200).body(CONTENT).into());
    let target = format!("http://{}/data?signature=secret", other.host());
    let proxy = guarded(move || Reply::redirect(307, target.clone()));
    fetch(&client_known_to(&proxy), &proxy).unwrap();
    let asked = other.seen("GET", "/data");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
}

#[test]
fn credentials_do_not_come_back_with_a_detour() {
    let home = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let way_back = home.clone();
    let other = Proxy::alone(move |_| {
        Reply::redirect(307, format!("http://{}/chosen", way_back.get().unwrap())).into()
    });
    let target = format!("http://{}/data", other.host());
    let proxy = Proxy::alone(move |request| {
        if request.target == "/chosen" {
            return Reply::status(200).body(CONTENT).into();
        }
        if request.header("authorization").is_none() {
            return Reply::status(401)
                .header("WWW-Authenticate", "Basic realm=\"x\"")
                .into();
        }
        Reply::redirect(307, target.clone()).into()
    });
    home.set(proxy.host()).unwrap();
    fetch(&client_known_to(&proxy), &proxy).unwrap();
    assert_eq!(
        proxy.seen("GET", "/chosen")[0].header("authorization"),
        None
    );
}

#[test]
fn another_host_that_asks_for_credentials_gets_none() {
    // CVE-2020-15157: the other host challenges, hoping for the registry's credentials.
    let other = Proxy::alone(|_| {
        Reply::status(401)
            .header("WWW-Authenticate", "Basic realm=\"give\"")
            .into()
    });
    let target = format!("http://{}/data", other.host());
    let proxy = guarded(move || Reply::redirect(307, target.clone()));
    let error = fetch(&client_known_to(&proxy), &proxy).unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
    for request in other.seen("GET", "") {
        assert_eq!(request.header("authorization"), None);
    }
}

#[test]
fn an_upload_may_go_to_another_host_but_without_credentials() {
    let other = Proxy::alone(|_| Reply::status(201).into());
    let session = format!("http://{}/upload?state=1", other.host());
    let proxy = Proxy::alone(move |request| {
        if request.header("authorization").is_none() {
            return Reply::status(401)
                .header("WWW-Authenticate", "Basic realm=\"x\"")
                .into();
        }
        match request.method.as_str() {
            "HEAD" => Reply::status(404).into(),
            _ => Reply::redirect(202, session.clone()).into(),
        }
    });
    let store = TestStore::new();
    let blob = store.put(CONTENT);
    client_known_to(&proxy)
        .push_blob(
            &proxy.location("app", "x"),
            &store.store,
            &blob,
            None,
            &no_progress,
        )
        .unwrap();
    let sent = other.seen("PUT", "/upload?state=1&digest=sha256%3A");
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header("authorization"), None);
}

#[test]
fn an_upload_is_redirected_with_its_body_or_not_at_all() {
    for (status, works) in [
        (307, true),
        (308, true),
        (301, false),
        (302, false),
        (303, false),
    ] {
        let proxy = Proxy::alone(move |request| match request.method.as_str() {
            "HEAD" => Reply::status(404).into(),
            "POST" => Reply::redirect(202, "/v2/app/blobs/uploads/1").into(),
            "PUT" if request.target.starts_with("/elsewhere") => {
                let whole = request.header("content-length") == Some("7");
                Action::from(Reply::status(if whole { 201 } else { 400 }))
            }
            "PUT" => Reply::redirect(status, "/elsewhere").into(),
            _ => Reply::status(200).into(),
        });
        let store = TestStore::new();
        let blob = store.put(CONTENT);
        let result = client().push_blob(
            &proxy.location("app", "x"),
            &store.store,
            &blob,
            None,
            &no_progress,
        );
        match (works, result) {
            (true, result) => drop(result.unwrap()),
            (false, Err(RegistryError::Redirect { .. })) => {}
            (false, result) => panic!("{status}: {result:?}"),
        }
    }
}

#[test]
fn odd_locations_are_refused() {
    for location in [
        "ftp://x/",
        "http://user:password@x/",
        "http://",
        "file:///etc/passwd",
    ] {
        let proxy = Proxy::alone(move |request| {
            if request.target.contains("/blobs/") {
                Reply::redirect(302, location).into()
            } else {
                Reply::status(200).into()
            }
        });
        let error = fetch(&client(), &proxy).unwrap_err();
        assert!(
            matches!(error, RegistryError::Redirect { .. }),
            "{location}: {error}"
        );
        assert!(!error.to_string().contains("password"), "{error}");
    }
}

#[test]
fn signatures_in_urls_are_not_told() {
    let other = Proxy::alone(|_| Reply::status(410).into());
    let target = format!("http://{}/data?X-Signature=topsecret", other.host());
    let proxy = Proxy::alone(move |request| {
        if request.target.contains("/blobs/") {
            Reply::redirect(302, target.clone()).into()
        } else {
            Reply::status(200).into()
        }
    });
    let error = fetch(&client(), &proxy).unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("topsecret"),
        "{error:?}"
    );
}
