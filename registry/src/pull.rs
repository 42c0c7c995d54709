//! Reading from a registry: what a name points to, manifests, and whether a blob is there.

use rbuild_cache::Digest;
use ureq::http::{Method, header};

use crate::answer::Answer;
use crate::auth::Scope;
use crate::client::Inner;
use crate::document::{ACCEPT, Contents, Document, DocumentError, IndexEntry, essence, is_known};
use crate::error::{RegistryError, chain};
use crate::location::{Descriptor, Location, Reference, Resolved};
use crate::options::Notice;
use crate::session::Session;
use crate::transport::Request;

/// The header in which registries tell the digest of what they send.
pub(crate) const DIGEST_HEADER: &str = "docker-content-digest";

impl Inner {
    /// Asks the mirrors of a registry, then the registry itself, until one delivers.
    ///
    /// What the registry itself delivers wrong is asked for once more. Failures that have nothing
    /// to do with the server end it at once.
    pub(crate) fn ask_sources<T>(
        &self,
        location: &Location,
        tags: bool,
        mut action: impl FnMut(&Session<'_>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        location.check()?;
        let rule = self.rule(location);
        if let Some(rule) = rule.filter(|rule| rule.namespace.blocked) {
            return Err(RegistryError::Blocked {
                name: location.to_string(),
                prefix: rule.namespace.prefix.clone(),
            });
        }
        let mirrors = rule.map_or(&[][..], |rule| &rule.namespace.mirrors);
        for mirror in mirrors.iter().filter(|mirror| mirror.resolve || !tags) {
            let result = self
                .mirror_endpoint(mirror, rule, location)
                .and_then(|endpoint| {
                    let name = endpoint.repository_name(&location.repository);
                    action(&Session::new(self, endpoint, Scope::pull(&name)))
                });
            match result {
                Err(error) if of_the_server(&error) => {
                    if let Some(notify) = &self.options.notify {
                        notify.0(&Notice::MirrorFailed {
                            mirror: mirror.host.clone(),
                            cause: chain(&error),
                        });
                    }
                }
                result => return result,
            }
        }
        let endpoint = self.origin_endpoint(location)?;
        let name = endpoint.repository_name(&location.repository);
        let session = Session::new(self, endpoint, Scope::pull(&name));
        match action(&session) {
            Err(error) if error.is_mismatch() => {
                tracing::debug!(cause = %chain(&error), "asking once more");
                action(&session)
            }
            result => result,
        }
    }

    pub(crate) fn resolve(&self, location: &Location) -> Result<Resolved, RegistryError> {
        let doing = format!("resolve {location}");
        let tags = matches!(location.reference, Reference::Tag(_));
        let descriptor = self.ask_sources(location, tags, |session| {
            session.patiently(&doing, || session.head_manifest(location, &doing))
        })?;
        Ok(Resolved { descriptor })
    }

    pub(crate) fn manifest(
        &self,
        location: &Location,
        digest: Digest,
    ) -> Result<Document, RegistryError> {
        let location = location.with_digest(digest);
        let doing = format!("download manifest {location}");
        self.ask_sources(&location, false, |session| {
            session.patiently(&doing, || session.get_manifest(&location, &doing))
        })
    }

    pub(crate) fn manifest_of(&self, location: &Location) -> Result<Document, RegistryError> {
        let doing = format!("download manifest {location}");
        let tags = matches!(location.reference, Reference::Tag(_));
        self.ask_sources(location, tags, |session| {
            session.patiently(&doing, || session.get_manifest(location, &doing))
        })
    }

    pub(crate) fn manifest_chain(
        &self,
        location: &Location,
        digest: Digest,
        choose: &mut dyn FnMut(&[IndexEntry]) -> Option<usize>,
    ) -> Result<Vec<Document>, RegistryError> {
        // An index cannot contain itself, for it would have to hold its own digest: a limit of the
        // depth is all that is needed.
        let mut chain = vec![self.manifest(location, digest)?];
        while let Some(Contents::Index(entries)) = chain.last().map(|document| &document.contents) {
            let refuse = |source| RegistryError::Document {
                what: location.with_digest(digest).to_string(),
                source,
            };
            let allowed = self.options.limits.index_depth;
            if chain.len() > allowed {
                return Err(refuse(DocumentError::Limit {
                    limit: "index_depth",
                    seen: chain.len() as u64,
                    allowed: allowed as u64,
                }));
            }
            let entry = choose(entries)
                .and_then(|position| entries.get(position))
                .ok_or_else(|| refuse(DocumentError::NoMatch))?;
            let wanted = entry.descriptor.clone();
            let document = self.manifest(location, wanted.digest)?;
            check_against(&document, &wanted, location)?;
            chain.push(document);
        }
        Ok(chain)
    }

    pub(crate) fn has_blob(
        &self,
        location: &Location,
        descriptor: &Descriptor,
    ) -> Result<bool, RegistryError> {
        location.check()?;
        let doing = format!("look for blob {} in {}", descriptor.digest, location.host);
        let endpoint = self.origin_endpoint(location)?;
        let name = endpoint.repository_name(&location.repository);
        let session = Session::new(self, endpoint, Scope::pull(&name));
        session.patiently(&doing, || {
            session.blob_exists(&location.repository, descriptor, &doing)
        })
    }
}

/// Whether another server may do better.
fn of_the_server(error: &RegistryError) -> bool {
    !matches!(
        error,
        RegistryError::Store(_) | RegistryError::Interrupted { .. } | RegistryError::Name(_)
    )
}

/// Checks a document against the descriptor that led to it.
fn check_against(
    document: &Document,
    wanted: &Descriptor,
    location: &Location,
) -> Result<(), RegistryError> {
    let what = || format!("manifest {}", wanted.digest);
    if document.bytes.len() as u64 != wanted.size {
        return Err(RegistryError::SizeMismatch {
            what: what(),
            host: location.host.clone(),
            expected: wanted.size,
            actual: document.bytes.len() as u64,
        });
    }
    if is_known(&wanted.media_type) && wanted.media_type != document.media_type {
        return Err(RegistryError::Document {
            what: what(),
            source: DocumentError::Ambiguous(format!(
                "it is `{}`, the index says `{}`",
                document.media_type, wanted.media_type
            )),
        });
    }
    Ok(())
}

impl Session<'_> {
    /// Asks what a reference points to, by `HEAD` if the registry answers that fully.
    fn head_manifest(&self, location: &Location, doing: &str) -> Result<Descriptor, RegistryError> {
        let path = format!("manifests/{}", location.reference);
        let url = self.endpoint.repository(&location.repository, &path);
        let request = Request::new(doing, Method::HEAD, url).header(header::ACCEPT, ACCEPT);
        let answer = self.send(&request, &[200, 400, 405, 501])?;
        if answer.status == 200
            && let Some(descriptor) = described(&answer)
        {
            if let Reference::Digest(expected) = location.reference {
                self.check_digest("manifest", expected, descriptor.digest)?;
            }
            return Ok(descriptor);
        }
        Ok(self.get_manifest(location, doing)?.descriptor())
    }

    /// Downloads and checks a manifest.
    fn get_manifest(&self, location: &Location, doing: &str) -> Result<Document, RegistryError> {
        let limits = &self.client.options.limits;
        let answer = self.get_manifest_answer(location, doing)?;
        let content_type = answer.header("content-type").unwrap_or_default().to_owned();
        let told = told_digest(&answer);
        let refused = |source| RegistryError::Document {
            what: location.to_string(),
            source,
        };
        if let Some(length) = answer.content_length()
            && length > limits.manifest_bytes
        {
            return Err(refused(DocumentError::Limit {
                limit: "manifest_bytes",
                seen: length,
                allowed: limits.manifest_bytes,
            }));
        }
        let bytes =
            match self
                .client
                .read_body(doing, "the manifest", answer, limits.manifest_bytes)
            {
                Err(RegistryError::Limit { limit, .. }) => {
                    return Err(refused(DocumentError::Limit {
                        limit: "manifest_bytes",
                        seen: limit + 1,
                        allowed: limit,
                    }));
                }
                bytes => bytes?,
            };
        let actual = Digest::of(&bytes);
        let expected = match location.reference {
            Reference::Digest(digest) => Some(digest),
            Reference::Tag(_) => told,
        };
        if let Some(expected) = expected {
            self.check_digest("manifest", expected, actual)?;
        }
        Document::read(bytes, &content_type, limits).map_err(refused)
    }

    pub(crate) fn get_manifest_answer(
        &self,
        location: &Location,
        doing: &str,
    ) -> Result<Answer, RegistryError> {
        let path = format!("manifests/{}", location.reference);
        let url = self.endpoint.repository(&location.repository, &path);
        let request = Request::new(doing, Method::GET, url).header(header::ACCEPT, ACCEPT);
        self.send(&request, &[200])
    }

    pub(crate) fn check_digest(
        &self,
        what: &str,
        expected: Digest,
        actual: Digest,
    ) -> Result<(), RegistryError> {
        if expected == actual {
            return Ok(());
        }
        Err(RegistryError::DigestMismatch {
            what: what.to_owned(),
            host: self.endpoint.origin.authority.clone(),
            expected,
            actual,
        })
    }

    /// Whether a blob is in a repository.
    pub(crate) fn blob_exists(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        doing: &str,
    ) -> Result<bool, RegistryError> {
        let path = format!("blobs/{}", descriptor.digest);
        let url = self.endpoint.repository(repository, &path);
        let request = Request::new(doing, Method::HEAD, url);
        Ok(self.send(&request, &[200, 404])?.status == 200)
    }
}

/// The digest that an answer claims to have.
pub(crate) fn told_digest(answer: &Answer) -> Option<Digest> {
    answer.header(DIGEST_HEADER)?.parse().ok()
}

/// The descriptor in the headers of an answer, if it is all there.
fn described(answer: &Answer) -> Option<Descriptor> {
    let media_type = essence(answer.header("content-type")?);
    if !is_known(media_type) {
        return None;
    }
    Some(Descriptor {
        media_type: media_type.to_owned(),
        digest: told_digest(answer)?,
        size: answer.content_length()?,
    })
}
