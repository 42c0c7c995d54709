//! Files at plain web addresses: `ADD https://…` and contexts.
//!
//! Shares connections, proxies, certificates, time limits and retries with the registry client, but
//! none of its credentials: only what the address itself carries (`https://user:password@…`) is
//! sent, and only to the server it stands for.

use std::io::Read;

use base64::Engine as _;
use ureq::http::{Method, header};

use crate::answer::Answer;
use crate::client::{Client, Inner};
use crate::error::RegistryError;
use crate::pace::Pace;
use crate::retry::Attempts;
use crate::transport::{Request, cut};
use crate::url::Url;

/// Bytes that are read at a time.
const BUFFER: usize = 128 << 10;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct WebRequest {
    /// The address, `http://` or `https://`.
    pub url: String,
    /// Entity tags of what is known of it, most recent first.
    pub known: Vec<String>,
    /// Most bytes that are taken.
    pub limit: u64,
}

/// What a server says of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WebAnswer {
    /// It is what one of the known entity tags stands for; nothing was sent.
    pub unchanged: bool,
    /// Its entity tag.
    pub etag: Option<String>,
    /// When it was changed last, in seconds since 1970.
    pub last_modified: Option<i64>,
}

/// Where a downloaded file goes.
pub trait WebSink {
    /// Forgets what came so far: the transfer begins anew.
    fn restart(&mut self) -> std::io::Result<()>;
    /// Takes the next bytes. `total` is the size of the whole, if it is known.
    fn take(&mut self, bytes: &[u8], total: Option<u64>) -> std::io::Result<()>;
}

impl Client {
    /// Asks whether a file has changed, without its content (`HEAD`).
    pub fn web_head(&self, request: &WebRequest) -> Result<WebAnswer, RegistryError> {
        let target = Target::new(request)?;
        let inner = &self.inner;
        let doing = format!("ask for `{}`", target.url);
        let mut attempts = inner.web_attempts(&doing);
        loop {
            let asked = target.request(&doing, Method::HEAD, &request.known);
            let result = inner
                .exchange(&asked, target.authorization.as_deref())
                .and_then(|answer| match answer.status {
                    200..=299 | 304 => Ok(said(&answer, &request.known)),
                    _ => Err(answer.refused(&doing, target.authorization.is_some())),
                });
            match result {
                Ok(said) => return Ok(said),
                Err(error) => attempts.again(error)?,
            }
        }
    }

    /// Downloads a file, unless it is one that is known (`GET` with `If-None-Match`).
    ///
    /// A transfer that breaks off is continued where the server allows that, else begun anew.
    pub fn web_get(
        &self,
        request: &WebRequest,
        sink: &mut dyn WebSink,
    ) -> Result<WebAnswer, RegistryError> {
        let target = Target::new(request)?;
        let doing = format!("download `{}`", target.url);
        let mut attempts = self.inner.web_attempts(&doing);
        let mut transfer = Transfer {
            client: &self.inner,
            target: &target,
            request,
            doing: &doing,
            sink,
            taken: 0,
            answer: None,
        };
        loop {
            let before = transfer.taken;
            match transfer.go_on() {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    attempts.advanced(transfer.taken.saturating_sub(before));
                    attempts.again(error)?;
                }
            }
        }
    }
}

impl Inner {
    fn web_attempts(&self, doing: &str) -> Attempts<'_> {
        let options = &self.options;
        Attempts::new(
            options.retry,
            &self.interrupt,
            options.notify.as_ref(),
            doing,
        )
    }
}

/// An address with its credentials apart.
struct Target {
    url: Url,
    authorization: Option<String>,
}

impl Target {
    fn new(request: &WebRequest) -> Result<Target, RegistryError> {
        let (plain, user) = without_user(&request.url);
        let url = Url::parse(&plain).map_err(|reason| RegistryError::Address {
            // What stands before the host may be a password.
            address: plain.clone(),
            reason,
        })?;
        let authorization = user.map(|user| {
            let text = percent_decoded(&user);
            format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(text)
            )
        });
        Ok(Target { url, authorization })
    }

    fn request<'p>(&self, doing: &'p str, method: Method, known: &[String]) -> Request<'p> {
        let request = Request::new(doing, method, self.url.clone());
        if known.is_empty() {
            return request;
        }
        request.header(header::IF_NONE_MATCH, known.join(", "))
    }
}

/// Takes `user:password@` out of an address.
fn without_user(url: &str) -> (String, Option<String>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((user, host)) => (
            format!("{scheme}://{host}{}", &rest[end..]),
            Some(user.to_owned()),
        ),
        None => (url.to_owned(), None),
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = text
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(pair.unwrap_or(bytes[at]));
        at += if pair.is_some() { 3 } else { 1 };
    }
    decoded
}

/// A download on its way; survives the tries.
struct Transfer<'t> {
    client: &'t Inner,
    target: &'t Target,
    request: &'t WebRequest,
    doing: &'t str,
    sink: &'t mut dyn WebSink,
    taken: u64,
    /// What the server said of the file when its transfer began.
    answer: Option<WebAnswer>,
}

impl Transfer<'_> {
    fn go_on(&mut self) -> Result<WebAnswer, RegistryError> {
        let answer = match self.resume()? {
            Some(answer) => answer,
            None => match self.begin()? {
                Begun::Unchanged(said) => return Ok(said),
                Begun::Body(answer) => answer,
            },
        };
        self.stream(answer)?;
        Ok(self.answer.clone().unwrap_or_default())
    }

    /// Asks for what is missing; nothing where the server does not continue.
    fn resume(&mut self) -> Result<Option<Answer>, RegistryError> {
        let etag = self.answer.as_ref().and_then(|said| said.etag.clone());
        // Only a strong tag promises the same bytes.
        let Some(etag) = etag.filter(|tag| self.taken > 0 && !tag.starts_with("W/")) else {
            return Ok(None);
        };
        let request = Request::new(self.doing, Method::GET, self.target.url.clone())
            .header(header::RANGE, format!("bytes={}-", self.taken))
            .header(header::IF_RANGE, etag);
        let answer = self.exchange(&request)?;
        let begins = format!("bytes {}-", self.taken);
        let continues = answer.status == 206
            && answer
                .header("content-range")
                .is_some_and(|range| range.starts_with(&begins));
        if continues {
            return Ok(Some(answer));
        }
        if answer.status == 200 {
            self.restart(said(&answer, &[]))?;
            return Ok(Some(answer));
        }
        answer.drain();
        Ok(None)
    }

    fn begin(&mut self) -> Result<Begun, RegistryError> {
        let request = self
            .target
            .request(self.doing, Method::GET, &self.request.known);
        let answer = self.exchange(&request)?;
        match answer.status {
            304 => {
                let said = said(&answer, &self.request.known);
                Ok(Begun::Unchanged(said))
            }
            200..=299 => {
                let mut new = said(&answer, &[]);
                new.unchanged = false;
                self.restart(new)?;
                Ok(Begun::Body(answer))
            }
            _ => Err(answer.refused(self.doing, self.target.authorization.is_some())),
        }
    }

    fn exchange(&self, request: &Request<'_>) -> Result<Answer, RegistryError> {
        let authorization = self.target.authorization.as_deref();
        self.client.exchange(request, authorization)
    }

    fn restart(&mut self, said: WebAnswer) -> Result<(), RegistryError> {
        self.taken = 0;
        self.answer = Some(said);
        self.sink.restart().map_err(|error| self.not_taken(error))
    }

    fn not_taken(&self, source: std::io::Error) -> RegistryError {
        RegistryError::Sink {
            doing: self.doing.to_owned(),
            source,
        }
    }

    fn stream(&mut self, answer: Answer) -> Result<(), RegistryError> {
        let url = answer.url.clone();
        let whole = answer.content_length().map(|length| length + self.taken);
        let over = |seen: u64| RegistryError::TooLarge {
            doing: self.doing.to_owned(),
            limit: self.request.limit,
            seen,
        };
        if let Some(whole) = whole.filter(|whole| *whole > self.request.limit) {
            return Err(over(whole));
        }
        let mut pace = Pace::new(&self.client.options.timeouts);
        let mut reader = answer.reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = reader
                .read(&mut buffer)
                .map_err(|error| self.client.body_failure(self.doing, &url, error))?;
            if self.client.interrupt.is_set() {
                return Err(RegistryError::interrupted(self.doing));
            }
            if count == 0 {
                break;
            }
            self.taken += count as u64;
            if self.taken > self.request.limit {
                return Err(RegistryError::TooLarge {
                    doing: self.doing.to_owned(),
                    limit: self.request.limit,
                    seen: self.taken,
                });
            }
            self.sink
                .take(&buffer[..count], whole)
                .map_err(|error| self.not_taken(error))?;
            pace.passed(count as u64)
                .map_err(|stalled| self.client.body_failure(self.doing, &url, stalled.into()))?;
        }
        if whole.is_some_and(|whole| self.taken < whole) {
            return Err(cut(self.doing, &url));
        }
        Ok(())
    }
}

enum Begun {
    Unchanged(WebAnswer),
    Body(Answer),
}

fn said(answer: &Answer, known: &[String]) -> WebAnswer {
    let etag = answer.header("etag").map(str::to_owned);
    let matches = |tag: &String| known.iter().any(|known| weak(known) == weak(tag));
    // An answer that does not say which of them it is can only mean the one that there is.
    let unchanged = match &etag {
        Some(tag) => matches(tag),
        None => answer.status == 304 && known.len() == 1,
    };
    let last_modified = answer
        .header("last-modified")
        .and_then(|text| {
            jiff::fmt::rfc2822::DateTimeParser::new()
                .parse_timestamp(text)
                .ok()
        })
        .map(jiff::Timestamp::as_second);
    WebAnswer {
        unchanged,
        etag: etag.or_else(|| unchanged.then(|| known[0].clone())),
        last_modified,
    }
}

/// The tag without its mark of weakness. RFC 9110, section 13.1.2.
fn weak(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out_of_addresses() {
        assert_eq!(
            without_user("https://u:p%40@h:1/x@y?z"),
            ("https://h:1/x@y?z".to_owned(), Some("u:p%40".to_owned()))
        );
        assert_eq!(without_user("http://h/a@b").1, None);
        assert_eq!(percent_decoded("u:p%40%"), b"u:p@%");
    }

    #[test]
    fn an_address_that_cannot_be_used_is_shown_without_its_password() {
        let request = WebRequest {
            url: "http://u:secret@h y/".to_owned(),
            ..WebRequest::default()
        };
        let error = Target::new(&request).err().unwrap().to_string();
        assert!(
            !error.contains("secret") && error.contains("h y"),
            "{error}"
        );
    }
}
