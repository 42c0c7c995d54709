//! One exchange with a server: a request, redirections, an answer. Knows nothing of registries but
//! the rule that matters most: an `Authorization` header goes to the origin that it is for.

use std::io;
use std::time::Duration;

use rbuild_cache::Digest;
use ureq::SendBody;
use ureq::http::{HeaderMap, Method, header};

use crate::answer::Answer;
use crate::client::Inner;
use crate::connections::transport_error;
use crate::error::{RegistryError, TransportError};
use crate::pace::Stalled;
use crate::payload::{BlobFailed, BlobReader, PartReader, Payload};
use crate::url::{Scheme, Url};

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
            return Err(RegistryError::interrupted(request.doing));
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
            return RegistryError::interrupted(doing);
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
        Payload::Secret(_) => Err("what was sent is secret"),
        // The other statuses would turn the request into a GET.
        Payload::Bytes(_) | Payload::Blob(_) if !matches!(status, 307 | 308) => {
            Err("an upload may only be redirected with status 307 or 308")
        }
        Payload::None | Payload::Bytes(_) | Payload::Blob(_) => Ok(next),
    }
}

fn inner<E: std::error::Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref()?.downcast_ref()
}

/// Says that what broke off was the network, as when a body ends too early.
pub(crate) fn cut(doing: &str, url: &Url) -> RegistryError {
    RegistryError::Connection {
        doing: doing.to_owned(),
        host: url.origin.authority.clone(),
        source: TransportError::Io(io::ErrorKind::UnexpectedEof.into()),
    }
}
