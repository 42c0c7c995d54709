//! Getting in: passwords, tokens, and who gets them.

use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_registry::{
    Client, ClientOptions, Credential, CredentialStore, Notice, PushOutcome, RegistryError,
};

use crate::proxy::{Action, Proxy, Reply, first};
use crate::support::{
    PASSWORD, TestRegistry, TestStore, USER, bytes, client, image, no_progress, options,
    options_with_notices, push,
};
use crate::tokens::{REFRESH, TokenServer};

fn password() -> Credential {
    Credential::Password {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
    }
}

fn wrong_password() -> Credential {
    Credential::Password {
        username: USER.to_owned(),
        password: "wrong".to_owned(),
    }
}

fn options_for(host: &str, credential: Credential) -> ClientOptions {
    ClientOptions {
        credentials: CredentialStore::new().with_credential(host, credential),
        ..options()
    }
}

fn client_for(host: &str, credential: Credential) -> Client {
    Client::new(options_for(host, credential))
}

#[test]
fn a_registry_with_passwords_lets_only_the_right_one_in() {
    let registry = TestRegistry::with_password();
    let store = TestStore::new();
    let image = image(&store, &[2 << 20]);
    let location = registry.location("app", "x");
    let known = client_for(&registry.host(), password());
    known.ping(&registry.host()).unwrap();
    let digest = push(&known, &store, &image, &location);
    assert_eq!(known.resolve(&location).unwrap().descriptor.digest, digest);

    let error = client().resolve(&location).unwrap_err();
    let RegistryError::Unauthorized {
        with_credentials, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(!with_credentials);
    assert!(error.hint().unwrap().contains("rbuild login"));

    let wrong = client_for(&registry.host(), wrong_password());
    let error = wrong.resolve(&location).unwrap_err();
    assert!(
        matches!(
            error,
            RegistryError::Unauthorized {
                with_credentials: true,
                ..
            }
        ),
        "{error}"
    );
    assert!(!format!("{error:?} {error}").contains("wrong"));
}

#[test]
fn login_checks_passwords() {
    let registry = TestRegistry::with_password();
    let host = registry.host();
    let login = client().login(&host, &password()).unwrap();
    assert_eq!(login.credential, password());
    let error = client().login(&host, &wrong_password()).unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
    assert!(client().ping(&host).is_err());

    let tokens = TokenServer::start();
    let registry = tokens.registry();
    client().login(&registry.host(), &password()).unwrap();
    let error = client()
        .login(&registry.host(), &wrong_password())
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
    let refresh = Credential::IdentityToken(REFRESH.to_owned());
    client().login(&registry.host(), &refresh).unwrap();
}

#[test]
fn tokens_are_fetched_and_kept() {
    let tokens = TokenServer::start();
    let registry = tokens.registry();
    let store = TestStore::new();
    let image = image(&store, &[100, 2 << 20]);
    let location = registry.location("private/app", "x");
    let known = client_for(&registry.host(), password());
    push(&known, &store, &image, &location);
    let asked = tokens.asked();
    assert!(asked <= 2, "{asked} tokens for one push");
    known.resolve(&location).unwrap();
    known.resolve(&location).unwrap();
    assert!(tokens.asked() <= asked + 1);
    for request in tokens.proxy.seen("GET", "/token") {
        assert!(request.target.contains("service=test-service"));
        assert!(
            request
                .target
                .contains("scope=repository%3Aprivate%2Fapp%3Apull")
        );
    }
    assert!(
        client().resolve(&location).is_err(),
        "strangers may not pull"
    );
}

#[test]
fn strangers_get_anonymous_tokens() {
    let tokens = TokenServer::start();
    let registry = tokens.registry();
    let store = TestStore::new();
    let image = image(&store, &[1]);
    let location = registry.location("public/app", "x");
    push(
        &client_for(&registry.host(), password()),
        &store,
        &image,
        &location,
    );
    let document = client().resolve(&location).unwrap();
    client()
        .manifest(&location, document.descriptor.digest)
        .unwrap();
    let error = client()
        .push_manifest(&location, &image.manifest, crate::support::MANIFEST)
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
}

#[test]
fn a_refresh_token_is_exchanged() {
    let tokens = TokenServer::start();
    let registry = tokens.registry();
    let store = TestStore::new();
    let image = image(&store, &[1]);
    let location = registry.location("private/app", "x");
    let refresh = Credential::IdentityToken(REFRESH.to_owned());
    push(
        &client_for(&registry.host(), refresh),
        &store,
        &image,
        &location,
    );
    assert!(!tokens.proxy.seen("POST", "/token").is_empty());
    let wrong = Credential::IdentityToken("wrong".to_owned());
    let error = client_for(&registry.host(), wrong)
        .resolve(&location)
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
}

#[test]
fn an_expired_token_is_renewed_once_for_a_request() {
    let tokens = TokenServer::start();
    // Expired when they come: the registry allows a minute of difference between clocks.
    *tokens.life.lock().unwrap() = -3600;
    let registry = tokens.registry();
    let error = client_for(&registry.host(), password())
        .resolve(&registry.location("private/app", "x"))
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
    assert!(tokens.asked() <= 2, "{} tokens", tokens.asked());
}

#[test]
fn a_token_that_expires_during_an_upload_is_renewed_and_the_upload_goes_on() {
    for method in ["PATCH", "PUT"] {
        let tokens = TokenServer::start();
        let registry = tokens.registry();
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"test-service\"",
            tokens.proxy.host()
        );
        // The first one is refused as the registry does it when a token has expired.
        let proxy = Proxy::before(
            registry.address(),
            first(1, method, "/uploads/", move |_| {
                Reply::status(401)
                    .header("WWW-Authenticate", realm.clone())
                    .into()
            }),
        );
        let store = TestStore::new();
        let blob = store.put(&bytes(3 << 20, 4));
        // Each token differs from the one before, as those of real servers do.
        let life = tokens.life.clone();
        let progress = move |_| *life.lock().unwrap() += 1;
        let known = client_for(&proxy.host(), password());
        let location = proxy.location("private/app", "x");
        let outcome = known
            .push_blob(&location, &store.store, &blob, None, &progress)
            .unwrap();
        assert_eq!(outcome, PushOutcome::Uploaded, "{method}");
        assert_eq!(proxy.seen(method, "/uploads/").len(), 2, "{method}");
        assert_eq!(
            proxy.seen("POST", "/uploads/").len(),
            1,
            "{method}: begun anew"
        );
        assert_eq!(tokens.asked(), 2, "{method}");
        assert!(known.has_blob(&location, &blob).unwrap());
    }
}

#[test]
fn a_server_that_never_likes_a_token_is_given_up() {
    let count = AtomicUsize::new(0);
    let tokens = Proxy::alone(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        Reply::status(200)
            .body(format!("{{\"access_token\":\"t{number}\"}}"))
            .into()
    });
    let realm = format!("Bearer realm=\"http://{}/\"", tokens.host());
    let proxy = Proxy::alone(move |_| {
        Reply::status(401)
            .header("WWW-Authenticate", realm.clone())
            .into()
    });
    let error = client().resolve(&proxy.location("app", "x")).unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error}"
    );
    assert_eq!(
        tokens.seen("GET", "").len(),
        1,
        "one new token for a request"
    );
}

#[test]
fn token_servers_that_fail_are_asked_again_and_nonsense_is_refused() {
    let failures = AtomicUsize::new(0);
    let tokens = Proxy::alone(move |request| {
        if request.target.starts_with("/bad") {
            return Reply::status(200)
                .body("{\"token\":\"a\\r\\nX-Injected: 1\"}")
                .into();
        }
        if request.target.starts_with("/huge") {
            return Reply::status(200).body(vec![b' '; 2 << 20]).into();
        }
        match failures.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::status(503).into(),
            1 => Action::Close,
            _ => Reply::status(200).body("{\"token\":\"good\"}").into(),
        }
    });
    let registry = |path: &str| {
        let realm = format!("Bearer realm=\"http://{}{path}\"", tokens.host());
        Proxy::alone(move |request| {
            if request.header("authorization") == Some("Bearer good") {
                return Reply::status(200).into();
            }
            Reply::status(401)
                .header("WWW-Authenticate", realm.clone())
                .into()
        })
    };
    client().ping(&registry("/t").host()).unwrap();
    for path in ["/bad", "/huge"] {
        let error = client().ping(&registry(path).host()).unwrap_err();
        assert!(
            matches!(
                error,
                RegistryError::Protocol { .. } | RegistryError::Limit { .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn many_threads_share_one_token() {
    let tokens = TokenServer::start();
    let registry = tokens.registry();
    let store = TestStore::new();
    let image = image(&store, &[1]);
    let location = registry.location("public/app", "x");
    push(
        &client_for(&registry.host(), password()),
        &store,
        &image,
        &location,
    );
    let before = tokens.asked();
    let stranger = client();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| stranger.resolve(&location).unwrap());
        }
    });
    assert_eq!(tokens.asked() - before, 1);
}

#[test]
fn credentials_that_cannot_be_looked_up_are_told_and_done_without() {
    let tokens = TokenServer::start();
    let registry = tokens.registry();
    let store = TestStore::new();
    let image = image(&store, &[1]);
    let location = registry.location("public/app", "x");
    push(
        &client_for(&registry.host(), password()),
        &store,
        &image,
        &location,
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, r#"{"credsStore":"rbuild-test-not-there"}"#).unwrap();
    let (mut options, notices) = options_with_notices();
    options.credentials = CredentialStore::new().with_file(&file);
    Client::new(options).resolve(&location).unwrap();
    let notices = notices.lock().unwrap();
    assert!(
        matches!(&notices[..], [Notice::NoCredentials { cause, .. }]
            if cause.contains("docker-credential-rbuild-test-not-there")),
        "{notices:?}"
    );
}

#[test]
fn no_secret_is_in_what_can_be_printed() {
    let options = options_for("h", password());
    assert!(!format!("{options:?}").contains(PASSWORD));
    let registry = TestRegistry::with_password();
    let client = client_for(&registry.host(), password());
    let error = client
        .resolve(&registry.location("app", "nowhere"))
        .unwrap_err();
    assert!(!format!("{error:?} {error} {client:?}").contains(PASSWORD));
    assert!(!registry.log().contains(PASSWORD));
}

#[test]
fn a_token_is_asked_for_one_repository_only() {
    let tokens = TokenServer::start();
    let registry = tokens.registry();
    let store = TestStore::new();
    let known = client_for(&registry.host(), password());
    for name in ["private/one", "private/two"] {
        let blob = store.put(name.as_bytes());
        let location = registry.location(name, "x");
        known
            .push_blob(&location, &store.store, &blob, None, &no_progress)
            .unwrap();
    }
    let asked = tokens.proxy.seen("GET", "/token");
    let names = |name: &str| {
        asked
            .iter()
            .filter(|request| request.target.contains(name))
            .count()
    };
    assert_eq!((names("private%2Fone"), names("private%2Ftwo")), (1, 1));
    assert_eq!(asked.len(), 2);
}
