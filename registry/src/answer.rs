//! What a server answered, and what it says when it refuses.

use std::io::Read;
use std::time::SystemTime;

use ureq::http::HeaderMap;

use crate::client::Inner;
use crate::error::{RegistryError, ServerError};
use crate::pace::Pace;
use crate::retry::retry_after;
use crate::url::Url;

/// Bytes of an error body that are read.
const ERROR_BODY: u64 = 64 << 10;

/// Errors of one answer that are told.
const MOST_ERRORS: usize = 4;

/// Letters of a server's message that are told.
const MESSAGE_LENGTH: usize = 300;

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

impl Inner {
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
}

impl Answer {
    /// Makes an error of it, when it is not what was hoped for.
    pub(crate) fn refused(self, doing: &str, with_credentials: bool) -> RegistryError {
        let status = self.status;
        let host = self.url.origin.authority.clone();
        let retry_after = self
            .header("retry-after")
            .and_then(|value| retry_after(value, SystemTime::now()));
        // What can be read of it is told; that it cannot be read is not worth another error.
        let mut body = Vec::new();
        let _ = self.reader().take(ERROR_BODY).read_to_end(&mut body);
        let errors = server_errors(&body);
        let doing = doing.to_owned();
        match status {
            401 | 403 => RegistryError::Unauthorized {
                doing,
                host,
                status,
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

    /// A header's value, if it is there and text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// Reads what is left of a short body, so that the connection can be used again.
    pub(crate) fn drain(self) {
        // If that fails the connection is closed, as it would be without.
        let _ = std::io::copy(&mut self.reader().take(ERROR_BODY), &mut std::io::sink());
    }

    /// The body, without a limit: whoever reads it counts.
    pub(crate) fn reader(self) -> ureq::BodyReader<'static> {
        self.body.into_with_config().limit(u64::MAX).reader()
    }
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
