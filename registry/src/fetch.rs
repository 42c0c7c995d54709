//! Downloading a blob: streamed into the store, hashed on the way, resumed where it broke off, also
//! where another process was killed.

use std::io::{Read, Write};

use rbuild_cache::{BlobWriter, Store, StoreError};
use ureq::http::{Method, header};

use crate::answer::Answer;
use crate::client::Inner;
use crate::error::RegistryError;
use crate::location::{Descriptor, Location};
use crate::pace::Pace;
use crate::session::Session;
use crate::transport::{Request, cut};

/// Bytes that are read at a time.
const BUFFER: usize = 128 << 10;

/// A blob on its way into the store; survives the tries, and even a change of the server.
struct Partial<'s> {
    store: &'s Store,
    descriptor: &'s Descriptor,
    progress: &'s dyn Fn(u64),
    tap: Option<&'s mut dyn BlobTap>,
    /// What came so far, in order and hashed.
    writer: Option<BlobWriter>,
}

/// Hears the bytes of a blob while they are downloaded, before anybody knows whether they are the
/// right ones.
pub trait BlobTap {
    /// The next bytes.
    fn bytes(&mut self, bytes: &[u8]);
    /// What came so far counts no more: the blob begins anew.
    fn restart(&mut self);
}

impl Inner {
    pub(crate) fn fetch_blob(
        &self,
        location: &Location,
        descriptor: &Descriptor,
        store: &Store,
        progress: &dyn Fn(u64),
        tap: Option<&mut dyn BlobTap>,
    ) -> Result<(), RegistryError> {
        let _flight = self.downloads.board(descriptor.digest);
        if store.blob_size(&descriptor.digest)? == Some(descriptor.size) {
            progress(descriptor.size);
            return Ok(());
        }
        let doing = format!(
            "download blob {} of {}/{}",
            descriptor.digest, location.host, location.repository
        );
        let mut partial = Partial {
            store,
            descriptor,
            progress,
            tap: tap.map(|tap| tap as &mut dyn BlobTap),
            writer: None,
        };
        partial.go_on()?;
        self.ask_sources(location, false, |session| {
            let result = session.fetch(location, &doing, &mut partial);
            if result.as_ref().is_err_and(RegistryError::is_mismatch) {
                // Some of what came is wrong, and nobody knows which part.
                partial.restart();
            }
            result
        })
    }
}

impl Partial<'_> {
    /// Bytes that are there.
    fn offset(&self) -> u64 {
        self.writer.as_ref().map_or(0, BlobWriter::bytes)
    }

    /// Begins with what a download that broke off has left in the store.
    fn go_on(&mut self) -> Result<(), StoreError> {
        let tap = &mut self.tap;
        let mut known = |bytes: &[u8]| {
            if let Some(tap) = tap {
                tap.bytes(bytes);
            }
        };
        let descriptor = self.descriptor;
        let writer = self
            .store
            .resume_blob(&descriptor.digest, descriptor.size, &mut known)?;
        if writer.bytes() > 0 {
            (self.progress)(writer.bytes());
        }
        self.writer = Some(writer);
        Ok(())
    }

    fn restart(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.discard();
        }
        (self.progress)(0);
        if let Some(tap) = &mut self.tap {
            tap.restart();
        }
    }

    fn writer(&mut self) -> Result<&mut BlobWriter, StoreError> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            none => Ok(none.insert(self.store.blob_writer()?)),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.writer()?
            .write_all(bytes)
            .map_err(|source| StoreError::Stream {
                action: "write a downloaded blob into the store",
                source,
            })?;
        if let Some(tap) = &mut self.tap {
            tap.bytes(bytes);
        }
        Ok(())
    }

    /// Publishes the blob if it is the right one.
    fn finish(&mut self, session: &Session<'_>) -> Result<(), RegistryError> {
        self.writer()?;
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        match writer.commit(Some(&self.descriptor.digest)) {
            Ok(_) => Ok(()),
            Err(StoreError::Corrupt {
                expected, actual, ..
            }) => session.check_digest("blob", expected, actual),
            Err(error) => Err(error.into()),
        }
    }
}

impl Session<'_> {
    /// Downloads what is missing, trying again as long as that is proper.
    fn fetch(
        &self,
        location: &Location,
        doing: &str,
        partial: &mut Partial<'_>,
    ) -> Result<(), RegistryError> {
        let mut attempts = self.attempts(doing);
        loop {
            let before = partial.offset();
            let result = self.fetch_once(location, doing, partial);
            attempts.advanced(partial.offset().saturating_sub(before));
            match result {
                Ok(()) => return Ok(()),
                Err(error) => attempts.again(error)?,
            }
        }
    }

    fn fetch_once(
        &self,
        location: &Location,
        doing: &str,
        partial: &mut Partial<'_>,
    ) -> Result<(), RegistryError> {
        let size = partial.descriptor.size;
        let offset = partial.offset();
        if offset < size || size == 0 {
            let answer = self.request_blob(location, doing, partial)?;
            let expected = size - partial.offset();
            if let Some(length) = answer.content_length()
                && length != expected
            {
                return Err(self.wrong_size(partial, partial.offset().saturating_add(length)));
            }
            self.stream(doing, answer, partial)?;
        }
        partial.finish(self)
    }

    /// Asks for what is missing. Where the server does not continue, all begins anew.
    fn request_blob(
        &self,
        location: &Location,
        doing: &str,
        partial: &mut Partial<'_>,
    ) -> Result<Answer, RegistryError> {
        let path = format!("blobs/{}", partial.descriptor.digest);
        let url = self.endpoint.repository(&location.repository, &path);
        let offset = partial.offset();
        if offset > 0 {
            let request = Request::new(doing, Method::GET, url.clone())
                .header(header::RANGE, format!("bytes={offset}-"));
            let answer = self.send(&request, &[200, 206, 416])?;
            match answer.status {
                206 if continues(&answer, offset, partial.descriptor.size) => return Ok(answer),
                200 => {
                    partial.restart();
                    return Ok(answer);
                }
                // Another range than asked for, or none: ask for the whole.
                _ => partial.restart(),
            }
        }
        let request = Request::new(doing, Method::GET, url);
        self.send(&request, &[200])
    }

    /// Copies the body into the store, watching size and pace.
    fn stream(
        &self,
        doing: &str,
        answer: Answer,
        partial: &mut Partial<'_>,
    ) -> Result<(), RegistryError> {
        let size = partial.descriptor.size;
        let url = answer.url.clone();
        let mut pace = Pace::new(&self.client.options.timeouts);
        let mut reader = answer.reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = reader
                .read(&mut buffer)
                .map_err(|error| self.client.body_failure(doing, &url, error))?;
            if count == 0 {
                break;
            }
            let total = partial.offset() + count as u64;
            if total > size {
                return Err(self.wrong_size(partial, total));
            }
            partial.append(&buffer[..count])?;
            (partial.progress)(total);
            if self.client.interrupt.is_set() {
                return Err(RegistryError::interrupted(doing));
            }
            pace.passed(count as u64)
                .map_err(|stalled| self.client.body_failure(doing, &url, stalled.into()))?;
        }
        if partial.offset() < size {
            // Without a length the end of the connection looks like the end of the blob.
            return Err(cut(doing, &url));
        }
        Ok(())
    }

    fn wrong_size(&self, partial: &Partial<'_>, actual: u64) -> RegistryError {
        RegistryError::SizeMismatch {
            what: format!("blob {}", partial.descriptor.digest),
            host: self.endpoint.origin.authority.clone(),
            expected: partial.descriptor.size,
            actual,
        }
    }
}

/// Whether a partial answer is the rest that was asked for: `bytes 5-9/10`.
fn continues(answer: &Answer, offset: u64, size: u64) -> bool {
    let Some(range) = answer.header("content-range") else {
        return false;
    };
    parse_content_range(range).is_some_and(|(first, last, total)| {
        first == offset && last + 1 == size && total.is_none_or(|total| total == size)
    })
}

/// First and last byte, and the total if it is known. RFC 9110, section 14.4.
fn parse_content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let last: u64 = last.parse().ok()?;
    // A last byte of u64::MAX has no length.
    last.checked_add(1)?;
    Some((first.parse().ok()?, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(parse_content_range("bytes 0-0/*"), Some((0, 0, None)));
        for bad in [
            "",
            "bytes */10",
            "bytes 5-/10",
            "items 1-2/3",
            "bytes 1-18446744073709551615/*",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
