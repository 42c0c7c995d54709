//! Whether a registry lets us in.

use ureq::http::Method;

use crate::answer::Answer;
use crate::auth::{Scope, basic_header, bearer_header};
use crate::challenge::{self, Challenge};
use crate::client::{Inner, Login};
use crate::credentials::Credential;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::session::Session;
use crate::transport::Request;

impl Inner {
    pub(crate) fn ping(&self, host: &str) -> Result<(), RegistryError> {
        let doing = format!("reach registry `{host}`");
        let session = Session::new(self, self.host_endpoint(host)?, Scope::default());
        session.patiently(&doing, || {
            let request = Request::new(&doing, Method::GET, session.endpoint.api(""));
            session.send(&request, &[200]).map(drop)
        })
    }

    pub(crate) fn login(
        &self,
        host: &str,
        credential: &Credential,
    ) -> Result<Login, RegistryError> {
        let doing = format!("log in to `{host}`");
        let session = Session::new(self, self.host_endpoint(host)?, Scope::default());
        session.patiently(&doing, || {
            self.log_in(&session.endpoint, credential, &doing)
        })
    }

    /// Asks what the registry wants, answers with these credentials, and asks again.
    fn log_in(
        &self,
        endpoint: &Endpoint,
        credential: &Credential,
        doing: &str,
    ) -> Result<Login, RegistryError> {
        let request = Request::new(doing, Method::GET, endpoint.api(""));
        let answer = self.exchange(&request, None)?;
        let kept = |credential: &Credential| Login {
            credential: credential.clone(),
        };
        if answer.status == 200 {
            // It lets everybody in here; what it thinks of the credentials, it does not say.
            return Ok(kept(credential));
        }
        let Some(challenge) = challenge_of(&answer) else {
            return Err(answer.refused(doing, true));
        };
        let refused = || RegistryError::Unauthorized {
            doing: doing.to_owned(),
            host: endpoint.host.clone(),
            status: 401,
            with_credentials: true,
            errors: Vec::new(),
        };
        let (header, login) = match (&challenge, credential) {
            (Challenge::Bearer { .. }, Credential::RegistryToken(token)) => {
                (bearer_header(token), kept(credential))
            }
            (Challenge::Basic, _) => {
                let header = basic_header(credential).ok_or_else(refused)?;
                (header, kept(credential))
            }
            (Challenge::Bearer { .. }, _) => {
                let granted = self.ask_token_server(
                    endpoint,
                    &challenge,
                    &[],
                    Some(credential),
                    doing,
                    true,
                )?;
                let login = granted
                    .refresh
                    .map(|refresh| kept(&Credential::IdentityToken(refresh)));
                (
                    bearer_header(&granted.token.text),
                    login.unwrap_or_else(|| kept(credential)),
                )
            }
        };
        let answer = self.exchange(&request, Some(&header))?;
        match answer.status {
            200 => Ok(login),
            _ => Err(answer.refused(doing, true)),
        }
    }
}

fn challenge_of(answer: &Answer) -> Option<Challenge> {
    if answer.status != 401 || !answer.from_origin {
        return None;
    }
    let values = answer.headers.get_all("www-authenticate").iter();
    challenge::best(values.filter_map(|value| value.to_str().ok()))
}
