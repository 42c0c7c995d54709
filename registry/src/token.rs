//! Fetching tokens. Docker registry token authentication: `GET` with name and password, or, with a
//! refresh token, the OAuth 2 form by `POST`.

use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{Method, header};

use crate::answer::Answer;
use crate::auth::{Token, basic_header};
use crate::challenge::Challenge;
use crate::client::Inner;
use crate::credentials::Credential;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::payload::Payload;
use crate::retry::Attempts;
use crate::transport::Request;
use crate::url::{Scheme, Url, push_encoded};

/// Bytes of a token server's answer.
const LARGEST_ANSWER: u64 = 1 << 20;

/// Longest token that is sent on.
const LONGEST_TOKEN: usize = 32 << 10;

/// Lifetime where the server gives none, or a shorter one.
const SHORTEST_LIFE: Duration = Duration::from_mins(1);

/// No token is used longer, whatever the server says.
const LONGEST_LIFE: Duration = Duration::from_hours(1);

/// How we call ourselves to a token server.
const CLIENT_ID: &str = "rbuild";

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    refresh_token: String,
    // Signed: servers with a wrong clock send negative numbers.
    expires_in: Option<i64>,
}

/// What a token server gave.
pub(crate) struct Granted {
    pub(crate) token: Token,
    /// A refresh token, if one was asked for and given.
    pub(crate) refresh: Option<String>,
}

impl Inner {
    /// Fetches a token for some scopes.
    pub(crate) fn fetch_token(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        scopes: &[String],
        credential: Option<&Credential>,
        doing: &str,
    ) -> Result<Token, RegistryError> {
        if let Some(Credential::RegistryToken(text)) = credential {
            return Ok(Token {
                text: text.clone(),
                expires: Instant::now() + LONGEST_LIFE,
            });
        }
        let granted =
            self.ask_token_server(endpoint, challenge, scopes, credential, doing, false)?;
        Ok(granted.token)
    }

    /// Asks the token server that a challenge names.
    pub(crate) fn ask_token_server(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        scopes: &[String],
        credential: Option<&Credential>,
        doing: &str,
        offline: bool,
    ) -> Result<Granted, RegistryError> {
        let Challenge::Bearer { realm, service, .. } = challenge else {
            return Err(bad_realm(endpoint, doing, "none is named"));
        };
        let realm = Url::parse(realm).map_err(|reason| bad_realm(endpoint, doing, reason))?;
        if endpoint.origin.scheme == Scheme::Https && realm.origin.scheme == Scheme::Http {
            return Err(bad_realm(
                endpoint,
                doing,
                "it is not https, as the registry is",
            ));
        }
        let mut attempts = Attempts::new(
            endpoint.policy(self.options.retry),
            &self.interrupt,
            self.options.notify.as_ref(),
            doing,
        );
        loop {
            let granted = match credential {
                Some(Credential::IdentityToken(refresh)) => {
                    self.post_refresh(&realm, service.as_deref(), scopes, refresh, doing)
                }
                _ => self.get_token(
                    &realm,
                    service.as_deref(),
                    scopes,
                    credential,
                    doing,
                    offline,
                ),
            };
            match granted {
                Ok(granted) => return Ok(granted),
                Err(error) => attempts.again(error)?,
            }
        }
    }

    fn get_token(
        &self,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
        credential: Option<&Credential>,
        doing: &str,
        offline: bool,
    ) -> Result<Granted, RegistryError> {
        let mut url = realm.clone();
        if let Some(service) = service {
            url = url.with_parameter("service", service);
        }
        for scope in scopes {
            url = url.with_parameter("scope", scope);
        }
        if let Some(Credential::Password { username, .. }) = credential {
            url = url.with_parameter("account", username);
            url = url.with_parameter("client_id", CLIENT_ID);
            if offline {
                url = url.with_parameter("offline_token", "true");
            }
        }
        let header = credential.and_then(basic_header);
        let answer = self.exchange(&Request::new(doing, Method::GET, url), header.as_deref())?;
        self.granted(answer, doing, credential.is_some())
    }

    fn post_refresh(
        &self,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
        refresh: &str,
        doing: &str,
    ) -> Result<Granted, RegistryError> {
        let scopes = scopes.join(" ");
        let fields = [
            ("grant_type", "refresh_token"),
            ("service", service.unwrap_or_default()),
            ("client_id", CLIENT_ID),
            ("scope", &scopes),
            ("refresh_token", refresh),
        ];
        let mut form = String::new();
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
            if !form.is_empty() {
                form.push('&');
            }
            form.push_str(name);
            form.push('=');
            push_encoded(&mut form, value);
        }
        let request = Request::new(doing, Method::POST, realm.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .payload(Payload::Secret(form.as_bytes()));
        let answer = self.exchange(&request, None)?;
        self.granted(answer, doing, true)
    }

    fn granted(
        &self,
        answer: Answer,
        doing: &str,
        with_credentials: bool,
    ) -> Result<Granted, RegistryError> {
        let host = answer.url.origin.authority.clone();
        if answer.status != 200 {
            return Err(match answer.refused(doing, with_credentials) {
                // OAuth 2 says 400 where it means "no".
                RegistryError::Status {
                    doing,
                    host,
                    status: 400,
                    errors,
                    ..
                } => RegistryError::Unauthorized {
                    doing,
                    host,
                    status: 400,
                    with_credentials,
                    errors,
                },
                error => error,
            });
        }
        let bad = |reason: &str| RegistryError::Protocol {
            doing: doing.to_owned(),
            host: host.clone(),
            reason: reason.to_owned(),
        };
        let body = self.read_body(
            doing,
            "the answer of the token server",
            answer,
            LARGEST_ANSWER,
        )?;
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| bad("it gave no readable token"))?;
        let text = if answer.token.is_empty() {
            answer.access_token
        } else {
            answer.token
        };
        // It becomes a header value.
        let legal = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > LONGEST_TOKEN || !legal {
            return Err(bad("it gave no usable token"));
        }
        let life =
            Duration::from_secs(answer.expires_in.unwrap_or_default().max(0).cast_unsigned());
        Ok(Granted {
            token: Token {
                text,
                expires: Instant::now() + life.clamp(SHORTEST_LIFE, LONGEST_LIFE),
            },
            refresh: Some(answer.refresh_token).filter(|refresh| !refresh.is_empty()),
        })
    }
}

fn bad_realm(endpoint: &Endpoint, doing: &str, reason: &str) -> RegistryError {
    RegistryError::Protocol {
        doing: doing.to_owned(),
        host: endpoint.origin.authority.clone(),
        reason: format!("its token server cannot be used: {reason}"),
    }
}
