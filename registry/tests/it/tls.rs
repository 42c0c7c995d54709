//! Encrypted registries: whom we trust, and that nothing is said in the clear instead.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rbuild_registry::{
    Client, ClientCertificate, ClientOptions, Credential, CredentialStore, ProxyConfig,
    RegistryConfig, RegistryError, TransportError,
};

use crate::certificates::Authority;
use crate::proxy::{Proxy, Reply};
use crate::support::{Setup, TestRegistry, TestStore, client, image, location, options, push};

/// A registry with a certificate of an authority that only the test knows.
struct Scene {
    registry: TestRegistry,
    files: tempfile::TempDir,
    authority: Authority,
}

impl Scene {
    fn new(names: &[&str], wants_client: bool) -> Scene {
        let files = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        std::fs::write(files.path().join("ca.pem"), &authority.pem).unwrap();
        let issued = authority.issue(names);
        let registry = TestRegistry::start(|folder| {
            let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
            std::fs::write(&certificate, &issued.certificate).unwrap();
            std::fs::write(&key, issued.key.serialize_pem()).unwrap();
            let clients = if wants_client {
                format!(
                    "    clientcas:\n      - {}\n",
                    files.path().join("ca.pem").display()
                )
            } else {
                String::new()
            };
            Setup {
                http: format!(
                    "  tls:\n    certificate: {}\n    key: {}\n{clients}",
                    certificate.display(),
                    key.display()
                ),
                ..Setup::default()
            }
        });
        Scene {
            registry,
            files,
            authority,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn options(&self, config: RegistryConfig) -> ClientOptions {
        let mut options = options();
        options.registries.insert(self.registry.host(), config);
        options
    }

    fn trusting(&self) -> RegistryConfig {
        RegistryConfig {
            ca_files: vec![self.file("ca.pem")],
            ..RegistryConfig::default()
        }
    }
}

fn round_trip(client: &Client, registry: &TestRegistry) {
    let store = TestStore::new();
    let image = image(&store, &[2 << 20]);
    let location = registry.location("app", "x");
    let digest = push(client, &store, &image, &location);
    assert_eq!(
        client.manifest(&location, digest).unwrap().bytes,
        image.manifest
    );
}

#[test]
fn the_authority_of_a_registry_is_trusted() {
    let scene = Scene::new(&["127.0.0.1"], false);
    round_trip(
        &Client::new(scene.options(scene.trusting())),
        &scene.registry,
    );
    let mut options = options();
    options.ca_bundle = Some(scene.file("ca.pem"));
    round_trip(&Client::new(options), &scene.registry);
}

#[test]
fn an_unknown_authority_is_refused_without_falling_back_to_http() {
    let scene = Scene::new(&["127.0.0.1"], false);
    let error = client().ping(&scene.registry.host()).unwrap_err();
    assert!(
        matches!(
            &error,
            RegistryError::Connection {
                source: TransportError::Certificate(_),
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("certificate authority"));
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let scene = Scene::new(&["other.example"], false);
    let error = Client::new(scene.options(scene.trusting()))
        .ping(&scene.registry.host())
        .unwrap_err();
    assert!(
        matches!(
            &error,
            RegistryError::Connection {
                source: TransportError::Certificate(_),
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn an_insecure_registry_is_taken_as_it_is() {
    let scene = Scene::new(&["other.example"], false);
    let insecure = RegistryConfig {
        insecure: true,
        ..RegistryConfig::default()
    };
    round_trip(
        &Client::new(scene.options(insecure.clone())),
        &scene.registry,
    );
    let plain = TestRegistry::plain();
    let mut options = options();
    options.registries.insert(plain.host(), insecure);
    round_trip(&Client::new(options), &plain);
}

#[test]
fn a_client_certificate_is_shown() {
    let scene = Scene::new(&["127.0.0.1"], true);
    let own = scene.authority.issue(&["client"]);
    std::fs::write(scene.file("client.pem"), &own.certificate).unwrap();
    std::fs::write(scene.file("client.key"), own.key.serialize_pem()).unwrap();
    let with = |certificate: &str, key: &str| RegistryConfig {
        client_certificate: Some(ClientCertificate {
            certificate: scene.file(certificate),
            key: scene.file(key),
        }),
        ..scene.trusting()
    };
    round_trip(
        &Client::new(scene.options(with("client.pem", "client.key"))),
        &scene.registry,
    );
    assert!(
        Client::new(scene.options(scene.trusting()))
            .ping(&scene.registry.host())
            .is_err()
    );

    let other = scene.authority.issue(&["other"]);
    std::fs::write(scene.file("other.key"), other.key.serialize_pem()).unwrap();
    std::fs::write(scene.file("junk"), "junk").unwrap();
    for (certificate, key) in [
        ("client.pem", "other.key"),
        ("client.pem", "junk"),
        ("junk", "client.key"),
        ("client.pem", "missing"),
    ] {
        let error = Client::new(scene.options(with(certificate, key)))
            .ping(&scene.registry.host())
            .unwrap_err();
        assert!(
            matches!(
                error,
                RegistryError::Setting { .. } | RegistryError::SettingFile { .. }
            ),
            "{certificate} {key}: {error:?}"
        );
    }
}

#[test]
fn an_authority_file_must_hold_one() {
    let scene = Scene::new(&["127.0.0.1"], false);
    std::fs::write(scene.file("empty"), "").unwrap();
    for name in ["empty", "missing"] {
        let config = RegistryConfig {
            ca_files: vec![scene.file(name)],
            ..RegistryConfig::default()
        };
        let error = Client::new(scene.options(config))
            .ping(&scene.registry.host())
            .unwrap_err();
        assert!(
            matches!(
                error,
                RegistryError::Setting { .. } | RegistryError::SettingFile { .. }
            ),
            "{name}: {error:?}"
        );
    }
}

#[test]
fn plain_http_is_spoken_where_it_is_asked_for() {
    let plain = TestRegistry::plain();
    let mut options = options();
    let config = RegistryConfig {
        plain_http: true,
        ..RegistryConfig::default()
    };
    options.registries.insert(plain.host(), config);
    round_trip(&Client::new(options), &plain);
}

/// Passes bytes on in both directions; the first connections get `greeting` instead.
fn tunnel(upstream: SocketAddr, spoiled: usize, greeting: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut client = stream.unwrap();
            if number < spoiled {
                let _ = client.read(&mut [0; 1024]);
                let _ = client.write_all(greeting);
                continue;
            }
            let mut server = TcpStream::connect(upstream).unwrap();
            let (mut to, mut from) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut server, &mut client));
        }
    });
    port
}

#[test]
fn broken_handshakes_are_tried_again() {
    let scene = Scene::new(&["127.0.0.1"], false);
    for greeting in [&b"\x15\x03\x03\x00\x02\x02\x28"[..], b"garbage", b""] {
        // Two for https and one for http before https works: a try over http in between must not
        // be taken for the truth.
        let port = tunnel(scene.registry.address(), 3, greeting);
        let host = format!("127.0.0.1:{port}");
        let mut options = options();
        options.registries.insert(host.clone(), scene.trusting());
        let client = Client::new(options);
        let error = client
            .resolve(&location(&host, "app", "nowhere"))
            .unwrap_err();
        assert!(error.is_not_found(), "{greeting:?}: {error:?}");
    }
}

#[test]
fn an_encrypted_registry_leads_nowhere_in_the_clear() {
    let scene = Scene::new(&["127.0.0.1"], false);
    let eavesdropper = Proxy::alone(|_| Reply::status(200).into());
    // A registry over TLS, made of a redirecting server: the tunnel ends TLS in the registry, so the
    // challenge comes from a registry that is told a realm without TLS.
    let registry = TestRegistry::start(|folder| {
        let issued = scene.authority.issue(&["127.0.0.1"]);
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, &issued.certificate).unwrap();
        std::fs::write(&key, issued.key.serialize_pem()).unwrap();
        Setup {
            http: format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                key.display()
            ),
            top: format!(
                "auth:\n  token:\n    realm: http://{}/token\n    service: s\n    issuer: i\n    \
                 rootcertbundle: {}\n",
                eavesdropper.host(),
                scene.file("ca.pem").display()
            ),
        }
    });
    let mut options = options();
    options.registries.insert(registry.host(), scene.trusting());
    options.credentials = CredentialStore::new().with_credential(
        &registry.host(),
        Credential::Password {
            username: "u".to_owned(),
            password: "p".to_owned(),
        },
    );
    let error = Client::new(options)
        .resolve(&registry.location("app", "x"))
        .unwrap_err();
    assert!(matches!(error, RegistryError::Protocol { .. }), "{error:?}");
    assert!(
        eavesdropper.seen("GET", "").is_empty(),
        "it was asked in the clear"
    );
}

/// A proxy that makes tunnels to `upstream`, whatever host is asked for; keeps the heads it saw.
fn connect_proxy(upstream: SocketAddr) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut client = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && client.read_line(&mut head).unwrap() > 0 {}
            log.lock().unwrap().push(head);
            client
                .get_mut()
                .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
                .unwrap();
            let mut server = TcpStream::connect(upstream).unwrap();
            let (mut to, mut back) = (
                server.try_clone().unwrap(),
                client.get_ref().try_clone().unwrap(),
            );
            std::thread::spawn(move || std::io::copy(&mut client, &mut to));
            std::thread::spawn(move || std::io::copy(&mut server, &mut back));
        }
    });
    (port, seen)
}

#[test]
fn a_proxy_is_gone_through_unless_the_host_is_excepted() {
    let scene = Scene::new(&["registry.example"], false);
    let (port, seen) = connect_proxy(scene.registry.address());
    let host = "registry.example:5443";
    let mut options = options();
    options.retry.tries = 1;
    options.registries.insert(host.to_owned(), scene.trusting());
    options.proxy = Some(ProxyConfig {
        https: Some(format!("http://someone:word@127.0.0.1:{port}")),
        ..ProxyConfig::default()
    });
    Client::new(options.clone()).ping(host).unwrap();
    let head = seen.lock().unwrap().remove(0);
    assert!(
        head.starts_with("CONNECT registry.example:5443 HTTP/1.1"),
        "{head}"
    );
    assert!(
        head.to_ascii_lowercase()
            .contains("proxy-authorization: basic"),
        "{head}"
    );

    options.proxy.as_mut().unwrap().no_proxy = ".other,registry.example".to_owned();
    assert!(
        Client::new(options).ping(host).is_err(),
        "there is no such host"
    );
    assert!(seen.lock().unwrap().is_empty());
}
