//! One exchange with a server: a request, redirections, an answer. Knows nothing of registries but
//! the rule that matters most: an `Authorization` header goes to the origin that it is for.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use rbuild_cache::Digest;
use ureq::SendBody;
use ureq::http::{HeaderMap, Method, header};

use crate::client::Inner;
use crate::connections::transport_error;
use crate::error::{RegistryError, ServerError, TransportError};
use crate::options::Timeouts;
use crate::pace::{Pace, Stalled};
use crate::retry::retry_after;
use crate::url::{Scheme, Url};

/// Bytes of an error body that are read.
const ERROR_BODY: u64 = 64 << 10;

/// Errors of one answer that are told.
const MOST_ERRORS: usize = 4;

/// Letters of a server's message that are told.
const MESSAGE_LENGTH: usize = 300;

/// What is sent.
pub(crate) struct Request<'p> {
    /// For messages: `download blob sha256:…`.
    pub(crate) doing: &'p str,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(header::HeaderName, String)>,
    pub(crate) payload: Payload<'p>,
    /// Longest wait for the answer, where it is not that of a stalled transfer.
    pub(crate) patience: Option<Duration>,
}

/// The body of a request; can be sent again.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'p> {
    /// No body, and no `Content-Length` either.
    None,
    /// These bytes, perhaps none.
    Bytes(&'p [u8]),
    /// A secret: never sent anywhere else than asked.
    Secret(&'p [u8]),
    /// A part of a blob.
    Blob(BlobPart<'p>),
}

/// Some bytes of a file.
#[derive(Clone, Copy)]
pub(crate) struct BlobPart<'p> {
    pub(crate) file: &'p File,
    pub(crate) digest: &'p Digest,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Called with the offset in the blob that was reached.
    pub(crate) progress: &'p dyn Fn(u64),
}

/// What came back. Any status counts as an answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: ureq::Body,
    /// The URL that answered, after redirections.
    pub(crate) url: Url,
    /// Whether it comes from the origin that was asked, so that a challenge in it may be answered.
    pub(crate) from_origin: bool,
}

impl<'p> Request<'p> {
    pub(crate) fn new(doing: &'p str, method: Method, url: Url) -> Request<'p> {
        Request {
            doing,
            method,
            url,
            headers: Vec::new(),
            payload: Payload::None,
            patience: None,
        }
    }

    pub(crate) fn header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn payload(mut self, payload: Payload<'p>) -> Self {
        self.payload = payload;
        self
    }

    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }
}

impl Inner {
    /// Sends a request and follows redirections.
    ///
    /// `authorization` goes to the origin of the request's URL only: it is dropped for good with
    /// the first redirection to another one.
    pub(crate) fn exchange(
        &self,
        request: &Request<'_>,
        authorization: Option<&str>,
    ) -> Result<Answer, RegistryError> {
        let mut url = request.url.clone();
        let mut authorization = authorization;
        let mut from_origin = true;
        let mut followed = 0;
        loop {
            let (status, headers, body) = self.send_once(request, &url, authorization)?;
            if !is_redirection(status) {
                return Ok(Answer {
                    status,
                    headers,
                    body,
                    url,
                    from_origin,
                });
            }
            let refuse = |reason: &str| RegistryError::Redirect {
                doing: request.doing.to_owned(),
                from: url.to_string(),
                reason: reason.to_owned(),
            };
            followed += 1;
            if followed > self.options.limits.redirects {
                return Err(refuse("too many redirections"));
            }
            let next = redirection(request, &url, status, &headers).map_err(refuse)?;
            if next.origin != url.origin {
                from_origin = false;
                authorization = None;
            }
            url = next;
        }
    }

    fn send_once(
        &self,
        request: &Request<'_>,
        url: &Url,
        authorization: Option<&str>,
    ) -> Result<(u16, HeaderMap, ureq::Body), RegistryError> {
        if self.interrupt.is_set() {
            return Err(self.interrupted(request.doing));
        }
        let agent = self.connections.agent(&url.origin)?;
        let mut builder = ureq::http::Request::builder()
            .method(request.method.clone())
            .uri(url.request());
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(authorization) = authorization {
            builder = builder.header(header::AUTHORIZATION, authorization);
        }
        let part = match request.payload {
            Payload::None => None,
            Payload::Bytes(bytes) | Payload::Secret(bytes) => {
                builder = builder.header(header::CONTENT_LENGTH, bytes.len());
                Some(PartReader::Bytes(bytes))
            }
            Payload::Blob(blob) => {
                builder = builder.header(header::CONTENT_LENGTH, blob.length);
                let reader = BlobReader::new(blob, &self.options.timeouts);
                Some(PartReader::Blob(reader))
            }
        };
        let failed = |error| self.failure(request.doing, url, request.payload.digest(), error);
        let answer = match part {
            None => send(&agent, builder.body(()), request.patience),
            Some(mut part) => {
                let body = SendBody::from_reader(&mut part);
                send(&agent, builder.body(body), request.patience)
            }
        };
        let (parts, body) = answer.map_err(failed)?.into_parts();
        tracing::debug!(method = %request.method, %url, status = parts.status.as_u16());
        Ok((parts.status.as_u16(), parts.headers, body))
    }

    /// Says in our terms what went wrong on the way.
    fn failure(
        &self,
        doing: &str,
        url: &Url,
        digest: Option<&Digest>,
        error: ureq::Error,
    ) -> RegistryError {
        if self.interrupt.is_set() {
            return self.interrupted(doing);
        }
        let host = url.origin.authority.clone();
        let stalled = match &error {
            ureq::Error::Timeout(ureq::Timeout::PerRead | ureq::Timeout::PerWrite) => true,
            ureq::Error::Io(error) => inner::<Stalled>(error).is_some(),
            _ => false,
        };
        if stalled {
            return RegistryError::Stalled {
                doing: doing.to_owned(),
                host,
                bytes_per_second: self.options.timeouts.stall_bytes,
                window: self.options.timeouts.stall,
            };
        }
        if let (ureq::Error::Io(error), Some(digest)) = (&error, digest)
            && let Some(BlobFailed(kind, text)) = inner::<BlobFailed>(error)
        {
            return RegistryError::BlobRead {
                digest: *digest,
                source: io::Error::new(*kind, text.clone()),
            };
        }
        RegistryError::Connection {
            doing: doing.to_owned(),
            host,
            source: transport_error(error),
        }
    }

    /// The same for a body that broke while it was read.
    pub(crate) fn body_failure(&self, doing: &str, url: &Url, error: io::Error) -> RegistryError {
        self.failure(doing, url, None, ureq::Error::from(error))
    }

    pub(crate) fn interrupted(&self, doing: &str) -> RegistryError {
        RegistryError::Interrupted {
            doing: doing.to_owned(),
        }
    }

    /// Reads a body that is at most `limit` bytes long.
    pub(crate) fn read_body(
        &self,
        doing: &str,
        what: &'static str,
        answer: Answer,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let over = || RegistryError::Limit {
            doing: doing.to_owned(),
            what,
            limit,
        };
        if answer.content_length().is_some_and(|length| length > limit) {
            return Err(over());
        }
        let url = answer.url.clone();
        let mut reader = answer.reader();
        let mut pace = Pace::new(&self.options.timeouts);
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 32 << 10];
        loop {
            let count = reader
                .read(&mut buffer)
                .map_err(|error| self.body_failure(doing, &url, error))?;
            if count == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&buffer[..count]);
            if bytes.len() as u64 > limit {
                return Err(over());
            }
            pace.passed(count as u64)
                .map_err(|stalled| self.body_failure(doing, &url, stalled.into()))?;
        }
    }

    /// Makes an error of an answer that is not what was hoped for.
    pub(crate) fn refused(
        &self,
        doing: &str,
        answer: Answer,
        with_credentials: bool,
    ) -> RegistryError {
        let status = answer.status;
        let host = answer.url.origin.authority.clone();
        let retry_after = answer
            .header("retry-after")
            .and_then(|value| retry_after(value, SystemTime::now()));
        // What can be read of it is told; that it cannot be read is not worth another error.
        let mut body = Vec::new();
        let _ = answer.reader().take(ERROR_BODY).read_to_end(&mut body);
        let errors = server_errors(&body);
        let doing = doing.to_owned();
        match status {
            401 | 403 => RegistryError::Unauthorized {
                doing,
                host,
                with_credentials,
                errors,
            },
            404 => RegistryError::NotFound {
                doing,
                host,
                errors,
            },
            _ => RegistryError::Status {
                doing,
                host,
                status,
                errors,
                retry_after,
            },
        }
    }
}

impl Answer {
    /// A header's value, if it is there and text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// The body, without a limit: whoever reads it counts.
    pub(crate) fn reader(self) -> ureq::BodyReader<'static> {
        self.body.into_with_config().limit(u64::MAX).reader()
    }
}

impl<'p> Payload<'p> {
    fn digest(&self) -> Option<&'p Digest> {
        match self {
            Payload::Blob(part) => Some(part.digest),
            _ => None,
        }
    }
}

fn send(
    agent: &ureq::Agent,
    message: Result<ureq::http::Request<impl ureq::AsSendBody>, ureq::http::Error>,
    patience: Option<Duration>,
) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
    let message = message?;
    let Some(patience) = patience else {
        return agent.run(message);
    };
    let configured = agent
        .configure_request(message)
        .timeout_per_read(Some(patience))
        .build();
    agent.run(configured)
}

fn is_redirection(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Where a redirection leads, if it may be followed.
fn redirection(
    request: &Request<'_>,
    from: &Url,
    status: u16,
    headers: &HeaderMap,
) -> Result<Url, &'static str> {
    let location = headers
        .get(header::LOCATION)
        .ok_or("it has no location")?
        .to_str()
        .map_err(|_| "its location is not text")?;
    let next = from.join(location)?;
    if from.origin.scheme == Scheme::Https && next.origin.scheme == Scheme::Http {
        return Err("it leads from https to http");
    }
    match request.payload {
        Payload::None => {}
        Payload::Secret(_) => return Err("what was sent is secret"),
        // The others would turn the request into a GET.
        Payload::Bytes(_) | Payload::Blob(_) if !matches!(status, 307 | 308) => {
            return Err("an upload may only be redirected with status 307 or 308");
        }
        Payload::Bytes(_) | Payload::Blob(_) => {}
    }
    Ok(next)
}

/// Reads the `errors` of an answer; other texts are told as they are, if they are short.
fn server_errors(body: &[u8]) -> Vec<ServerError> {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    if let Ok(body) = serde_json::from_slice::<Body>(body) {
        return body
            .errors
            .into_iter()
            .take(MOST_ERRORS)
            .map(|error| ServerError {
                code: shown(&error.code),
                message: shown(&error.message),
            })
            .collect();
    }
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.is_empty() || text.starts_with('<') {
        // Nothing, or a web page of something in between.
        return Vec::new();
    }
    vec![ServerError {
        code: String::new(),
        message: shown(text),
    }]
}

/// Makes a text from outside fit to stand in a message.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars().take(MESSAGE_LENGTH) {
        if letter.is_control() {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    if text.chars().nth(MESSAGE_LENGTH).is_some() {
        shown.push('…');
    }
    shown
}

fn inner<E: std::error::Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref()?.downcast_ref()
}

/// Reading our own blob failed: not the fault of the network.
#[derive(Debug, thiserror::Error)]
#[error("{1}")]
struct BlobFailed(io::ErrorKind, String);

enum PartReader<'p> {
    Bytes(&'p [u8]),
    Blob(BlobReader<'p>),
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            PartReader::Bytes(bytes) => bytes.read(buffer),
            PartReader::Blob(blob) => blob.read(buffer),
        }
    }
}

/// Reads a part of a blob for sending, watching that the network keeps up.
struct BlobReader<'p> {
    part: BlobPart<'p>,
    done: u64,
    /// Bytes handed out last: they have left when more are asked for.
    last: u64,
    pace: Pace,
}

impl<'p> BlobReader<'p> {
    fn new(part: BlobPart<'p>, timeouts: &Timeouts) -> BlobReader<'p> {
        BlobReader {
            part,
            done: 0,
            last: 0,
            pace: Pace::new(timeouts),
        }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.part.length - self.done;
        let wanted = (buffer.len() as u64).min(left) as usize;
        let at = self.part.offset + self.done;
        (self.part.progress)(at);
        self.pace.passed(self.last)?;
        if wanted == 0 {
            return Ok(0);
        }
        let count = loop {
            match self.part.file.read_at(&mut buffer[..wanted], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let failed = BlobFailed(error.kind(), error.to_string());
                    return Err(io::Error::other(failed));
                }
                // An early end would leave the request hanging for the promised rest.
                Ok(0) => {
                    let failed = BlobFailed(
                        io::ErrorKind::UnexpectedEof,
                        "it is shorter than it should be".to_owned(),
                    );
                    return Err(io::Error::other(failed));
                }
                Ok(count) => break count,
            }
        };
        self.last = count as u64;
        self.done += self.last;
        Ok(count)
    }
}

/// Says that what broke off was the network, as when a body ends too early.
pub(crate) fn cut(doing: &str, url: &Url) -> RegistryError {
    RegistryError::Connection {
        doing: doing.to_owned(),
        host: url.origin.authority.clone(),
        source: TransportError::Io(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_registry_are_read() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#;
        assert_eq!(
            server_errors(body),
            [ServerError {
                code: "MANIFEST_UNKNOWN".to_owned(),
                message: "manifest unknown".to_owned()
            }]
        );
        assert_eq!(server_errors(b"<html>x"), []);
        assert_eq!(server_errors(b""), []);
        assert_eq!(
            server_errors(b" bad \x1b[31m gateway\n")[0].message,
            "bad \\u{1b}[31m gateway"
        );
        let many = format!(r#"{{"errors":[{}]}}"#, vec!["{}"; 99].join(","));
        assert_eq!(server_errors(many.as_bytes()).len(), MOST_ERRORS);
        assert!(
            server_errors("é".repeat(9999).as_bytes())[0]
                .message
                .chars()
                .count()
                <= 301
        );
    }
}
