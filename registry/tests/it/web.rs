//! Files from plain web addresses, and servers that are slow or want to know too much.

use std::io;
use std::time::Duration;

use rbuild_registry::{Client, RegistryError, RetryPolicy, Timeouts, WebRequest, WebSink};

use crate::proxy::{Action, Proxy, Reply};
use crate::support::{client, options};

#[derive(Default)]
struct Kept(Vec<u8>);

impl WebSink for Kept {
    fn restart(&mut self) -> io::Result<()> {
        self.0.clear();
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], _: Option<u64>) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn request(proxy: &Proxy, path: &str) -> WebRequest {
    WebRequest {
        url: format!("http://{}{path}", proxy.host()),
        known: Vec::new(),
        limit: 1 << 20,
    }
}

/// A client that loses its patience quickly.
fn impatient() -> Client {
    let mut options = options();
    options.retry = RetryPolicy {
        tries: 2,
        ..options.retry
    };
    options.timeouts = Timeouts {
        stall: Duration::from_millis(200),
        ..options.timeouts
    };
    Client::new(options)
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let proxy = Proxy::alone(|_| Action::Silence);
    let error = impatient()
        .web_get(&request(&proxy, "/f"), &mut Kept::default())
        .unwrap_err();
    let RegistryError::GaveUp {
        tries: 2, source, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(
        matches!(*source, RegistryError::Stalled { .. }),
        "{source:?}"
    );
}

#[test]
fn a_file_is_not_sent_again_when_it_is_known() {
    let proxy = Proxy::alone(|request| {
        let reply = match request.header("if-none-match") {
            Some("\"b\", \"a\"") => Reply::status(304).header("ETag", "W/\"a\""),
            _ => Reply::status(200).header("ETag", "\"a\"").body("content"),
        };
        reply.into()
    });
    let mut kept = Kept::default();
    let mut request = request(&proxy, "/f");
    let answer = client().web_get(&request, &mut kept).unwrap();
    assert_eq!(
        (answer.unchanged, kept.0.as_slice()),
        (false, b"content".as_slice())
    );
    assert_eq!(answer.etag.as_deref(), Some("\"a\""));
    request.known = vec!["\"b\"".to_owned(), "\"a\"".to_owned()];
    for answer in [
        client().web_head(&request).unwrap(),
        client().web_get(&request, &mut kept).unwrap(),
    ] {
        assert!(answer.unchanged);
        assert_eq!(answer.etag.as_deref(), Some("W/\"a\""));
    }
}

#[test]
fn a_password_stays_with_the_server_it_is_for() {
    let other = Proxy::alone(|request| {
        let known = request.header("authorization").is_some();
        Reply::status(200).body(format!("{known}")).into()
    });
    let target = format!("http://{}/f", other.host());
    let first = Proxy::alone(move |request| {
        assert!(request.header("authorization").is_some());
        Reply::redirect(302, target.clone()).into()
    });
    let mut kept = Kept::default();
    let request = WebRequest {
        url: format!("http://user:geheim@{}/f", first.host()),
        limit: 100,
        ..WebRequest::default()
    };
    client().web_get(&request, &mut kept).unwrap();
    assert_eq!(kept.0, b"false");
}

#[test]
fn an_announced_size_over_the_limit_is_refused_at_once() {
    let proxy = Proxy::alone(|_| Reply::status(200).body(vec![0; 2000]).into());
    let request = WebRequest {
        limit: 1000,
        ..request(&proxy, "/f")
    };
    let mut kept = Kept::default();
    let error = client().web_get(&request, &mut kept).unwrap_err();
    assert!(
        matches!(
            error,
            RegistryError::TooLarge {
                limit: 1000,
                seen: 2000,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(kept.0.is_empty());
}
