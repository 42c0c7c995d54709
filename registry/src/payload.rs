//! What is sent with a request, in a form that can be sent again.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rbuild_cache::Digest;

use crate::options::Timeouts;
use crate::pace::Pace;

/// The body of a request; can be sent again.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'p> {
    /// No body, and no `Content-Length` either.
    None,
    /// These bytes, perhaps none.
    Bytes(&'p [u8]),
    /// A secret: never sent anywhere else than asked.
    Secret(&'p [u8]),
    /// A part of a blob.
    Blob(BlobPart<'p>),
}

/// Some bytes of a file.
#[derive(Clone, Copy)]
pub(crate) struct BlobPart<'p> {
    pub(crate) file: &'p File,
    pub(crate) digest: &'p Digest,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Called with the offset in the blob that was reached.
    pub(crate) progress: &'p dyn Fn(u64),
}

impl<'p> Payload<'p> {
    pub(crate) fn digest(&self) -> Option<&'p Digest> {
        match self {
            Payload::Blob(part) => Some(part.digest),
            _ => None,
        }
    }
}

/// Reading our own blob failed: not the fault of the network.
#[derive(Debug, thiserror::Error)]
#[error("{1}")]
pub(crate) struct BlobFailed(pub(crate) io::ErrorKind, pub(crate) String);

pub(crate) enum PartReader<'p> {
    Bytes(&'p [u8]),
    Blob(BlobReader<'p>),
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            PartReader::Bytes(bytes) => bytes.read(buffer),
            PartReader::Blob(blob) => blob.read(buffer),
        }
    }
}

/// Reads a part of a blob for sending, watching that the network keeps up.
pub(crate) struct BlobReader<'p> {
    part: BlobPart<'p>,
    done: u64,
    /// Bytes handed out last: they have left when more are asked for.
    last: u64,
    pace: Pace,
}

impl<'p> BlobReader<'p> {
    pub(crate) fn new(part: BlobPart<'p>, timeouts: &Timeouts) -> BlobReader<'p> {
        BlobReader {
            part,
            done: 0,
            last: 0,
            pace: Pace::new(timeouts),
        }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.part.length - self.done;
        let wanted = (buffer.len() as u64).min(left) as usize;
        let at = self.part.offset + self.done;
        (self.part.progress)(at);
        self.pace.passed(self.last)?;
        if wanted == 0 {
            return Ok(0);
        }
        let count = loop {
            match self.part.file.read_at(&mut buffer[..wanted], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let failed = BlobFailed(error.kind(), error.to_string());
                    return Err(io::Error::other(failed));
                }
                // An early end would leave the request hanging for the promised rest.
                Ok(0) => {
                    let failed = BlobFailed(
                        io::ErrorKind::UnexpectedEof,
                        "it is shorter than it should be".to_owned(),
                    );
                    return Err(io::Error::other(failed));
                }
                Ok(count) => break count,
            }
        };
        self.last = count as u64;
        self.done += self.last;
        Ok(count)
    }
}
