//! Manifests into a registry, and the names that are there.

use std::collections::HashSet;

use rbuild_cache::Digest;
use serde::Deserialize;
use ureq::http::{Method, header};

use crate::answer::Answer;
use crate::auth::Scope;
use crate::client::Inner;
use crate::document::DocumentError;
use crate::error::RegistryError;
use crate::location::{Location, Reference, check_tag};
use crate::payload::Payload;
use crate::pull::told_digest;
use crate::session::Session;
use crate::transport::Request;
use crate::url::Url;

/// Tags that are asked for at a time.
const PAGE: &str = "1000";

/// Bytes of one page of tags.
const LARGEST_PAGE: u64 = 16 << 20;

#[derive(Deserialize)]
struct TagPage {
    // Go registries write `null` for none.
    tags: Option<Vec<String>>,
}

impl Inner {
    pub(crate) fn push_manifest(
        &self,
        location: &Location,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<Digest, RegistryError> {
        location.check()?;
        let doing = format!("push manifest {location}");
        let allowed = self.options.limits.manifest_bytes;
        if bytes.len() as u64 > allowed {
            return Err(RegistryError::Document {
                what: location.to_string(),
                source: DocumentError::Limit {
                    limit: "manifest_bytes",
                    seen: bytes.len() as u64,
                    allowed,
                },
            });
        }
        let digest = Digest::of(bytes);
        let endpoint = self.origin_endpoint(location)?;
        let name = endpoint.repository_name(&location.repository);
        let session = Session::new(self, endpoint, Scope::push(&name, None));
        if let Reference::Digest(expected) = location.reference {
            session.check_digest("the manifest to push", expected, digest)?;
        }
        let path = format!("manifests/{}", location.reference);
        let url = session.endpoint.repository(&location.repository, &path);
        let told = session.patiently(&doing, || {
            let request = Request::new(&doing, Method::PUT, url.clone())
                .header(header::CONTENT_TYPE, media_type)
                .payload(Payload::Bytes(bytes));
            let answer = session.send(&request, &[200, 201, 202, 204])?;
            Ok(told_digest(&answer))
        })?;
        if let Some(told) = told {
            session.check_digest("the pushed manifest", digest, told)?;
        }
        // By digest: under the tag may be somebody else's by now, which is then rightly the last.
        session.patiently(&doing, || {
            let location = location.with_digest(digest);
            let answer = session.get_pushed_manifest(&location, media_type, &doing)?;
            let stored = self.read_body(&doing, "the manifest", answer, allowed)?;
            session.check_digest("the pushed manifest", digest, Digest::of(&stored))
        })?;
        Ok(digest)
    }

    pub(crate) fn tags(&self, location: &Location) -> Result<Vec<String>, RegistryError> {
        location.check()?;
        let doing = format!("list tags of {}/{}", location.host, location.repository);
        let endpoint = self.origin_endpoint(location)?;
        let name = endpoint.repository_name(&location.repository);
        let session = Session::new(self, endpoint, Scope::pull(&name));
        let first = session
            .endpoint
            .repository(&location.repository, "tags/list")
            .with_parameter("n", PAGE);
        let mut asked = HashSet::new();
        let mut tags = Vec::new();
        let mut next = Some(first);
        while let Some(url) = next.take() {
            if !asked.insert(url.request()) {
                return Err(session.protocol(&doing, "its pages of tags lead in a circle"));
            }
            let (page, following) = session.patiently(&doing, || session.tag_page(&doing, &url))?;
            tags.extend(page.into_iter().filter(|tag| check_tag(tag).is_ok()));
            let limit = self.options.limits.tags;
            // Empty pages without end are as bad as full ones.
            if tags.len() > limit || asked.len() > limit {
                return Err(RegistryError::Limit {
                    doing,
                    what: "the number of tags",
                    limit: limit as u64,
                });
            }
            next = following;
        }
        Ok(tags)
    }
}

impl Session<'_> {
    fn get_pushed_manifest(
        &self,
        location: &Location,
        media_type: &str,
        doing: &str,
    ) -> Result<Answer, RegistryError> {
        let path = format!("manifests/{}", location.reference);
        let url = self.endpoint.repository(&location.repository, &path);
        // Registries convert manifests for clients that do not accept them as they are.
        let request = Request::new(doing, Method::GET, url).header(header::ACCEPT, media_type);
        self.send(&request, &[200])
    }

    /// One page of tags, and where the next one is.
    fn tag_page(
        &self,
        doing: &str,
        url: &Url,
    ) -> Result<(Vec<String>, Option<Url>), RegistryError> {
        let answer = self.send(&Request::new(doing, Method::GET, url.clone()), &[200])?;
        let next = match answer.header("link").and_then(next_link) {
            None => None,
            Some(link) => {
                let next = url
                    .join(link)
                    .map_err(|reason| self.protocol(doing, format!("bad link: {reason}")))?;
                if next.origin != url.origin {
                    return Err(self.protocol(doing, "its next page is on another server"));
                }
                Some(next)
            }
        };
        let body = self
            .client
            .read_body(doing, "a page of tags", answer, LARGEST_PAGE)?;
        let page: TagPage = serde_json::from_slice(&body)
            .map_err(|_| self.protocol(doing, "its list of tags cannot be read"))?;
        Ok((page.tags.unwrap_or_default(), next))
    }
}

/// The target of `<…>; rel="next"`. RFC 8288.
pub(crate) fn next_link(value: &str) -> Option<&str> {
    value.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters
            .split(';')
            .any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
        is_next.then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_is_found() {
        assert_eq!(
            next_link("</v2/a/tags/list?n=1&last=x>; rel=\"next\""),
            Some("/v2/a/tags/list?n=1&last=x")
        );
        assert_eq!(next_link("</a>; rel=prev, </b>; rel=next"), Some("/b"));
        assert_eq!(next_link("</a>; rel=prev"), None);
        assert_eq!(next_link("garbage"), None);
    }
}
