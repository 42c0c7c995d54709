//! Bringing blobs into a repository: look, mount, or upload, resumed where it broke off.
//!
//! An upload is a session of the server: `POST` opens it, `PATCH` adds bytes, `PUT` names the
//! digest and closes it (OCI distribution specification, "Pushing blobs"). Small blobs travel with
//! the `PUT`. After a failure the server is asked how far it got; a session that it lost is begun
//! anew.

use std::fs::File;

use rbuild_cache::{Digest, Store};
use ureq::http::{Method, header};

use crate::answer::Answer;
use crate::auth::Scope;
use crate::client::{Inner, PushOutcome};
use crate::error::{Again, RegistryError};
use crate::location::{Descriptor, Location, check_repository};
use crate::payload::{BlobPart, Payload};
use crate::pull::told_digest;
use crate::retry::Attempts;
use crate::session::Session;
use crate::transport::Request;
use crate::url::{Scheme, Url};

/// Blobs up to this size are sent in one request, in bytes.
const SMALL: u64 = 1 << 20;

/// A blob that is being sent.
struct Outgoing<'p> {
    doing: String,
    repository: &'p str,
    descriptor: &'p Descriptor,
    file: File,
    progress: &'p dyn Fn(u64),
}

/// Where an upload stands.
struct Upload {
    url: Url,
    /// Bytes that the server has.
    offset: u64,
    /// The least that it takes at a time, but for the last piece.
    least_chunk: u64,
    /// How often in a row a piece was refused without any progress.
    stuck: u32,
    /// Ask before sending a piece: a server that refuses in the middle of one closes the
    /// connection, and what it said about it is lost.
    careful: bool,
}

/// What came of opening an upload.
enum Opened {
    Mounted,
    Upload(Upload),
}

/// Why an upload does not go on.
enum Trouble {
    /// The server does not know the session any more.
    Lost(RegistryError),
    /// Something else.
    Failed(RegistryError),
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Trouble {
        Trouble::Failed(error)
    }
}

impl Inner {
    pub(crate) fn push_blob(
        &self,
        location: &Location,
        store: &Store,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
        progress: &dyn Fn(u64),
    ) -> Result<PushOutcome, RegistryError> {
        location.check()?;
        let mount_from = mount_from.filter(|from| *from != location.repository);
        mount_from.map_or(Ok(()), check_repository)?;
        let doing = format!(
            "push blob {} to {}/{}",
            descriptor.digest, location.host, location.repository
        );
        let file = open(store, descriptor)?;
        // Registries may show a blob half-way while it is sent to them a second time: what refers to it
        // is then refused. So it is sent once, and who comes second finds it.
        let _flight = self.uploads.board(Digest::of(doing.as_bytes()));
        let endpoint = self.origin_endpoint(location)?;
        let mount_from = endpoint.mount_from(mount_from);
        let name = endpoint.repository_name(&location.repository);
        let session = Session::new(self, endpoint, Scope::push(&name, mount_from));
        let exists = session.patiently(&doing, || {
            session.blob_exists(&location.repository, descriptor, &doing)
        })?;
        if exists {
            progress(descriptor.size);
            return Ok(PushOutcome::Exists);
        }
        let blob = Outgoing {
            doing,
            repository: &location.repository,
            descriptor,
            file,
            progress,
        };
        session.push(&blob, mount_from)
    }
}

impl Inner {
    pub(crate) fn find_blob(
        &self,
        location: &Location,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
    ) -> Result<Option<PushOutcome>, RegistryError> {
        location.check()?;
        let mount_from = mount_from.filter(|from| *from != location.repository);
        mount_from.map_or(Ok(()), check_repository)?;
        let repository = &location.repository;
        let doing = format!(
            "find blob {} in {}/{repository}",
            descriptor.digest, location.host
        );
        let endpoint = self.origin_endpoint(location)?;
        let mount_from = endpoint.mount_from(mount_from);
        let name = endpoint.repository_name(repository);
        let session = Session::new(self, endpoint, Scope::push(&name, mount_from));
        let exists = session.patiently(&doing, || {
            session.blob_exists(repository, descriptor, &doing)
        })?;
        if exists {
            return Ok(Some(PushOutcome::Exists));
        }
        let Some(from) = mount_from else {
            return Ok(None);
        };
        let url = session
            .endpoint
            .repository(repository, "blobs/uploads/")
            .with_parameter("mount", &descriptor.digest.to_string())
            .with_parameter("from", from);
        let request = Request::new(&doing, Method::POST, url).payload(Payload::Bytes(&[]));
        match session.patiently(&doing, || session.send(&request, &[201, 202])) {
            Ok(answer) if answer.status == 201 => Ok(Some(PushOutcome::Mounted)),
            // The upload that it opened instead is left alone: registries clean such up.
            Ok(_) => Ok(None),
            // Who may not mount may still upload.
            Err(error) if error.again() == Again::Never => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Opens a blob, which must have the size that its descriptor says.
fn open(store: &Store, descriptor: &Descriptor) -> Result<File, RegistryError> {
    let file = store.open_blob(&descriptor.digest)?;
    let failed = |source| RegistryError::BlobRead {
        digest: descriptor.digest,
        source,
    };
    let actual = file.metadata().map_err(failed)?.len();
    if actual != descriptor.size {
        return Err(RegistryError::SizeMismatch {
            what: format!("blob {}", descriptor.digest),
            host: "the store".to_owned(),
            expected: descriptor.size,
            actual,
        });
    }
    Ok(file)
}

impl Session<'_> {
    fn push(
        &self,
        blob: &Outgoing<'_>,
        mount_from: Option<&str>,
    ) -> Result<PushOutcome, RegistryError> {
        let size = blob.descriptor.size;
        let mut attempts = self.attempts(&blob.doing);
        let mut mount_from = mount_from;
        loop {
            let mut upload = match self.open_upload(blob, mount_from.take(), &mut attempts)? {
                Opened::Mounted => {
                    (blob.progress)(size);
                    return Ok(PushOutcome::Mounted);
                }
                Opened::Upload(upload) => upload,
            };
            match self.upload(blob, &mut upload, &mut attempts) {
                Ok(()) => {
                    (blob.progress)(size);
                    return Ok(PushOutcome::Uploaded);
                }
                Err(Trouble::Failed(error)) => return Err(error),
                Err(Trouble::Lost(error)) => {
                    tracing::debug!(doing = %blob.doing, "the upload session was lost");
                    attempts.again_anyway(error)?;
                    (blob.progress)(0);
                }
            }
        }
    }

    /// Opens an upload, or has the blob mounted from another repository.
    ///
    /// A registry that cannot mount or must not opens a plain upload instead, or refuses: then one
    /// is asked for.
    fn open_upload(
        &self,
        blob: &Outgoing<'_>,
        mut mount_from: Option<&str>,
        attempts: &mut Attempts<'_>,
    ) -> Result<Opened, RegistryError> {
        let plain = self.endpoint.repository(blob.repository, "blobs/uploads/");
        loop {
            let url = match mount_from {
                Some(from) => plain
                    .clone()
                    .with_parameter("mount", &blob.descriptor.digest.to_string())
                    .with_parameter("from", from),
                None => plain.clone(),
            };
            let request = Request::new(&blob.doing, Method::POST, url).payload(Payload::Bytes(&[]));
            match self.send(&request, &[201, 202]) {
                Ok(answer) if answer.status == 201 && mount_from.is_some() => {
                    return Ok(Opened::Mounted);
                }
                Ok(answer) => {
                    return Ok(Opened::Upload(Upload {
                        url: self.upload_url(&blob.doing, &answer)?,
                        offset: 0,
                        least_chunk: answer
                            .header("oci-chunk-min-length")
                            .and_then(|value| value.trim().parse().ok())
                            .unwrap_or(0),
                        stuck: 0,
                        careful: false,
                    }));
                }
                Err(error) if mount_from.is_some() && error.again() == Again::Never => {
                    mount_from = None;
                }
                Err(error) => attempts.again(error)?,
            }
        }
    }

    /// Sends the blob and closes the upload.
    fn upload(
        &self,
        blob: &Outgoing<'_>,
        upload: &mut Upload,
        attempts: &mut Attempts<'_>,
    ) -> Result<(), Trouble> {
        let size = blob.descriptor.size;
        if size > SMALL {
            while upload.offset < size {
                self.send_piece(blob, upload, attempts)?;
            }
        }
        loop {
            let error = match self.close_upload(blob, upload) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                RegistryError::NotFound { .. } | RegistryError::Status { status: 416, .. } => {
                    return Err(Trouble::Lost(error));
                }
                // What arrived is not what was sent; worth another try, like a broken connection.
                RegistryError::Status {
                    status: 400,
                    errors,
                    ..
                } if errors.iter().any(|error| error.code == "DIGEST_INVALID") => {
                    return Err(Trouble::Lost(error));
                }
                _ => attempts.again(error)?,
            }
            // Perhaps only the answer was lost.
            if self.blob_exists(blob.repository, blob.descriptor, &blob.doing)? {
                return Ok(());
            }
            self.ask_offset(blob, upload)?;
            if size > SMALL && upload.offset < size {
                return Err(Trouble::Lost(
                    self.protocol(&blob.doing, "it lost bytes that it had acknowledged"),
                ));
            }
        }
    }

    /// Sends the next piece; after a failure, finds out how far it got.
    fn send_piece(
        &self,
        blob: &Outgoing<'_>,
        upload: &mut Upload,
        attempts: &mut Attempts<'_>,
    ) -> Result<(), Trouble> {
        let before = upload.offset;
        let error = match self.patch(blob, upload) {
            Ok(true) if upload.offset > before => {
                upload.stuck = 0;
                attempts.advanced(upload.offset - before);
                return Ok(());
            }
            Ok(true) => self.protocol(&blob.doing, "it took nothing of a piece"),
            Ok(false) => self.protocol(&blob.doing, "it refuses the new token, too"),
            Err(error @ RegistryError::NotFound { .. }) => return Err(Trouble::Lost(error)),
            Err(error) => error,
        };
        upload.careful = true;
        match &error {
            // Out of step, or with a new token now: the server tells where it is.
            RegistryError::Protocol { .. } | RegistryError::Status { status: 416, .. } => {
                upload.stuck += 1;
                if upload.stuck > 1 {
                    return Err(Trouble::Lost(error));
                }
            }
            _ => attempts.again(error)?,
        }
        self.ask_offset(blob, upload)?;
        if upload.offset > before {
            upload.stuck = 0;
            attempts.advanced(upload.offset - before);
        }
        Ok(())
    }

    /// Sends one piece. False if the token was refused and renewed: nobody knows then how much of
    /// the piece arrived.
    fn patch(&self, blob: &Outgoing<'_>, upload: &mut Upload) -> Result<bool, RegistryError> {
        let size = blob.descriptor.size;
        let start = upload.offset;
        let chunk = match self.client.options.limits.upload_chunk {
            0 => size,
            chunk => chunk.max(upload.least_chunk),
        };
        let length = (size - start).min(chunk);
        let mut request = Request::new(&blob.doing, Method::PATCH, upload.url.clone())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .payload(Payload::Blob(blob.part(start, length)))
            .patience(self.client.options.timeouts.commit);
        if length < size {
            let range = format!("{start}-{}", start + length - 1);
            request = request.header(header::CONTENT_RANGE, range);
        }
        if upload.careful {
            request = request.header(header::EXPECT, "100-continue");
        }
        let answer = match self.send_renewing(&request)? {
            None => return Ok(false),
            Some(answer) => self.expect(&blob.doing, answer, &[200, 201, 202, 204])?,
        };
        if answer.header("location").is_some() {
            upload.url = self.upload_url(&blob.doing, &answer)?;
        }
        upload.offset = match answer.header("range") {
            None => start + length,
            Some(range) => self.offset_after(&blob.doing, range, start, start + length)?,
        };
        Ok(true)
    }

    /// Closes the upload; a small blob travels with this request.
    fn close_upload(&self, blob: &Outgoing<'_>, upload: &Upload) -> Result<(), RegistryError> {
        let digest = blob.descriptor.digest;
        let url = upload
            .url
            .clone()
            .with_parameter("digest", &digest.to_string());
        let left = blob.descriptor.size - upload.offset;
        let payload = match left {
            0 => Payload::Bytes(&[]),
            _ => Payload::Blob(blob.part(upload.offset, left)),
        };
        let request = Request::new(&blob.doing, Method::PUT, url)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .payload(payload)
            .patience(self.client.options.timeouts.commit);
        let answer = self.send(&request, &[200, 201, 202, 204])?;
        match told_digest(&answer) {
            Some(told) => self.check_digest("the pushed blob", digest, told),
            None => Ok(()),
        }
    }

    /// Asks the server how much it has.
    fn ask_offset(&self, blob: &Outgoing<'_>, upload: &mut Upload) -> Result<(), Trouble> {
        let doing = &blob.doing;
        let result = self.patiently(doing, || {
            let request = Request::new(doing, Method::GET, upload.url.clone());
            let answer = self.send(&request, &[200, 202, 204])?;
            let range = answer.header("range").unwrap_or_default().to_owned();
            let url = match answer.header("location") {
                Some(_) => self.upload_url(doing, &answer)?,
                None => upload.url.clone(),
            };
            Ok((
                url,
                self.offset_after(doing, &range, 0, blob.descriptor.size)?,
            ))
        });
        match result {
            Ok((url, offset)) => {
                upload.url = url;
                upload.offset = offset;
                (blob.progress)(offset);
                Ok(())
            }
            Err(
                error @ (RegistryError::NotFound { .. }
                | RegistryError::Protocol { .. }
                | RegistryError::Status {
                    status: 400 | 405 | 410 | 416,
                    ..
                }),
            ) => Err(Trouble::Lost(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// The number of bytes that `0-499` stands for; it must lie between these.
    ///
    /// Registries say `0-0` when they have nothing, and for one byte: it is taken as nothing.
    fn offset_after(
        &self,
        doing: &str,
        range: &str,
        least: u64,
        most: u64,
    ) -> Result<u64, RegistryError> {
        let bad = || self.protocol(doing, format!("`{}` as its range", range.escape_default()));
        let range = range.trim();
        let (first, last) = range
            .strip_prefix("bytes=")
            .unwrap_or(range)
            .split_once('-')
            .ok_or_else(bad)?;
        let (Ok(0), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else {
            return Err(bad());
        };
        let offset = if last == 0 { 0 } else { last.saturating_add(1) };
        if offset < least || offset > most {
            return Err(bad());
        }
        Ok(offset)
    }

    /// Where an upload goes on.
    fn upload_url(&self, doing: &str, answer: &Answer) -> Result<Url, RegistryError> {
        let location = answer
            .header("location")
            .ok_or_else(|| self.protocol(doing, "it gives no location for the upload"))?;
        let mut url = answer
            .url
            .join(location)
            .map_err(|reason| self.protocol(doing, format!("bad upload location: {reason}")))?;
        let ours = &self.endpoint.origin;
        if ours.scheme == Scheme::Https && url.origin.scheme == Scheme::Http {
            // A registry behind a proxy that ends TLS often does not know that it is https.
            if url.origin.host() != ours.host() {
                return Err(self.protocol(doing, "its upload location leads from https to http"));
            }
            url.origin = ours.clone();
        }
        Ok(url)
    }
}

impl Outgoing<'_> {
    fn part(&self, offset: u64, length: u64) -> BlobPart<'_> {
        BlobPart {
            file: &self.file,
            digest: &self.descriptor.digest,
            offset,
            length,
            progress: self.progress,
        }
    }
}
