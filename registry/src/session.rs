//! Requests to one server of a registry, with whatever authorization it asks for.

use crate::answer::Answer;
use crate::auth::{Rejected, Scope};
use crate::challenge;
use crate::client::Inner;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::retry::Attempts;
use crate::transport::Request;

/// A server, and what we want to do there.
pub(crate) struct Session<'c> {
    pub(crate) client: &'c Inner,
    pub(crate) endpoint: Endpoint,
    pub(crate) scope: Scope,
}

impl<'c> Session<'c> {
    pub(crate) fn new(client: &'c Inner, endpoint: Endpoint, scope: Scope) -> Session<'c> {
        Session {
            client,
            endpoint,
            scope,
        }
    }

    pub(crate) fn attempts(&self, doing: &str) -> Attempts<'c> {
        let options = &self.client.options;
        Attempts::new(
            self.endpoint.policy(options.retry),
            &self.client.interrupt,
            options.notify.as_ref(),
            doing,
        )
    }

    /// Does something until it works or trying again makes no sense.
    pub(crate) fn patiently<T>(
        &self,
        doing: &str,
        mut action: impl FnMut() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut attempts = self.attempts(doing);
        loop {
            match action() {
                Ok(value) => return Ok(value),
                Err(error) => attempts.again(error)?,
            }
        }
    }

    /// Sends a request. A refused token is renewed once, then the request is sent again.
    ///
    /// Statuses other than those in `expected` are errors.
    pub(crate) fn send(
        &self,
        request: &Request<'_>,
        expected: &[u16],
    ) -> Result<Answer, RegistryError> {
        let answer = if let Some(answer) = self.send_renewing(request)? {
            answer
        } else {
            let authorization = self.authorization(request)?;
            self.client.exchange(request, authorization.as_deref())?
        };
        self.expect(request.doing, answer, expected)
    }

    /// Sends a request once. None if the token was refused and a new one is there now: what became
    /// of the request's body nobody knows.
    pub(crate) fn send_renewing(
        &self,
        request: &Request<'_>,
    ) -> Result<Option<Answer>, RegistryError> {
        let authorization = self.authorization(request)?;
        let answer = self.client.exchange(request, authorization.as_deref())?;
        // Only the server that our credentials are for may ask for them (CVE-2020-15157).
        let ours = answer.from_origin && request.url.origin == self.endpoint.origin;
        if answer.status != 401 || !ours {
            return Ok(Some(answer));
        }
        let values = answer
            .headers
            .get_all("www-authenticate")
            .iter()
            .filter_map(|value| value.to_str().ok());
        let Some(challenge) = challenge::best(values) else {
            return Ok(Some(answer));
        };
        let rejected = Rejected {
            challenge: &challenge,
            authorization: authorization.as_deref(),
        };
        if self
            .client
            .renew_authorization(&self.endpoint, &self.scope, &rejected, request.doing)?
        {
            answer.drain();
            return Ok(None);
        }
        Ok(Some(answer))
    }

    pub(crate) fn expect(
        &self,
        doing: &str,
        answer: Answer,
        expected: &[u16],
    ) -> Result<Answer, RegistryError> {
        if expected.contains(&answer.status) {
            return Ok(answer);
        }
        Err(self.refused(doing, answer))
    }

    pub(crate) fn refused(&self, doing: &str, answer: Answer) -> RegistryError {
        let with_credentials = self.client.has_credential(&self.endpoint, &self.scope);
        answer.refused(doing, with_credentials)
    }

    pub(crate) fn protocol(&self, doing: &str, reason: impl Into<String>) -> RegistryError {
        RegistryError::Protocol {
            doing: doing.to_owned(),
            host: self.endpoint.origin.authority.clone(),
            reason: reason.into(),
        }
    }

    fn authorization(&self, request: &Request<'_>) -> Result<Option<String>, RegistryError> {
        if request.url.origin != self.endpoint.origin {
            return Ok(None);
        }
        self.client
            .authorization(&self.endpoint, &self.scope, request.doing)
    }
}
