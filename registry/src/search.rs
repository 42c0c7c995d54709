//! Finding repositories by a word.
//!
//! Docker Hub and some others answer `/v1/search`; everybody else can only be asked for all names
//! (`/v2/_catalog`), among which we look ourselves.

use serde::Deserialize;
use ureq::http::Method;

use crate::auth::Scope;
use crate::client::Inner;
use crate::error::RegistryError;
use crate::publish::next_link;
use crate::session::Session;
use crate::transport::Request;
use crate::url::{Origin, Scheme};

/// Bytes of one answer.
const LARGEST_PAGE: u64 = 16 << 20;

/// Pages of names that are looked through.
const MOST_PAGES: usize = 100;

/// The server of Docker Hub that can be searched.
const HUB_INDEX: &str = "index.docker.io";

/// A repository that was found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SearchResult {
    /// Its name, without the registry.
    pub name: String,
    /// What it is said to be.
    #[serde(default)]
    pub description: String,
    /// How many people like it.
    #[serde(default)]
    pub star_count: u64,
    /// Whether it is one of Docker's official images.
    #[serde(default)]
    pub is_official: bool,
}

#[derive(Deserialize)]
struct Found {
    results: Option<Vec<SearchResult>>,
}

#[derive(Deserialize)]
struct Catalog {
    repositories: Option<Vec<String>>,
}

impl Inner {
    pub(crate) fn search(
        &self,
        host: &str,
        term: &str,
        limit: usize,
    ) -> Result<Vec<SearchResult>, RegistryError> {
        let doing = format!("search `{host}`");
        let mut session = Session::new(self, self.host_endpoint(host)?, Scope::default());
        if host == "docker.io" {
            session.endpoint.origin = Origin::new(Scheme::Https, HUB_INDEX);
        }
        let url = session
            .endpoint
            .origin
            .url("/v1/search")
            .with_parameter("q", term)
            .with_parameter("n", &limit.to_string());
        let asked = session.patiently(&doing, || {
            let request = Request::new(&doing, Method::GET, url.clone());
            let answer = session.send(&request, &[200, 401, 403, 404, 405])?;
            if answer.status != 200 {
                return Ok(None);
            }
            self.read_body(&doing, "the list of repositories", answer, LARGEST_PAGE)
                .map(Some)
        })?;
        let found = asked.and_then(|body| serde_json::from_slice::<Found>(&body).ok());
        if let Some(found) = found {
            let mut results = found.results.unwrap_or_default();
            results.truncate(limit);
            return Ok(results);
        }
        session.scope = Scope::catalog();
        session.catalog(&doing, term, limit)
    }
}

impl Session<'_> {
    /// The names with the term in them, of all that the registry has.
    fn catalog(
        &self,
        doing: &str,
        term: &str,
        limit: usize,
    ) -> Result<Vec<SearchResult>, RegistryError> {
        let mut found = Vec::new();
        let mut next = Some(self.endpoint.api("_catalog").with_parameter("n", "1000"));
        let mut pages = 0;
        while let Some(url) = next.take() {
            pages += 1;
            let (body, link) = self.patiently(doing, || {
                let answer = self.send(&Request::new(doing, Method::GET, url.clone()), &[200])?;
                let link = answer.header("link").and_then(next_link).map(str::to_owned);
                let body = self
                    .client
                    .read_body(doing, "the catalog", answer, LARGEST_PAGE)?;
                Ok((body, link))
            })?;
            let page: Catalog = serde_json::from_slice(&body)
                .map_err(|_| self.protocol(doing, "its catalog cannot be read"))?;
            let names = page.repositories.unwrap_or_default();
            found.extend(names.into_iter().filter(|name| name.contains(term)));
            if found.len() >= limit || pages == MOST_PAGES {
                break;
            }
            if let Some(link) = link {
                let following = url
                    .join(&link)
                    .map_err(|reason| self.protocol(doing, format!("bad link: {reason}")))?;
                if following.origin != url.origin {
                    return Err(self.protocol(doing, "its next page is on another server"));
                }
                next = Some(following);
            }
        }
        found.truncate(limit);
        Ok(found
            .into_iter()
            .map(|name| SearchResult {
                name,
                description: String::new(),
                star_count: 0,
                is_official: false,
            })
            .collect())
    }
}
