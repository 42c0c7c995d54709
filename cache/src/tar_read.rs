//! Reading tar archives that anybody may have written.
//!
//! Old (V7), ustar, GNU and PAX archives, GNU's three and PAX's sparse forms. Extended headers are
//! bounded before they are read, a PAX size always wins over the header's (else the data could be
//! read as headers: CVE-2026-33055), and every number is checked.

use std::io::{self, Read};

use crate::entry::Timestamp;
use crate::error::{StoreError, escaped};
use crate::limits::{Limits, check};

mod header;
mod pax;
mod sparse;

use header::{Form, RawHeader};
use pax::Extensions;
use sparse::Extent;

const BLOCK: usize = 512;

/// What an entry of an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// An entry of an archive, as it says itself: nothing here is checked for what it may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArchiveEntry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of the file, holes counted.
    pub(crate) size: u64,
    pub(crate) mtime: Timestamp,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The file has holes.
    pub(crate) sparse: bool,
}

/// Reads an archive entry by entry.
pub(crate) struct TarReader<R> {
    inner: R,
    limits: Limits,
    /// Bytes read so far, to say where an error is.
    position: u64,
    /// Data bytes of the current entry that are still in the archive.
    remaining: u64,
    padding: u64,
    /// Where the remaining data belongs in the file, first piece last.
    extents: Vec<Extent>,
    entries: u64,
    unpacked: u64,
    ended: bool,
}

/// Tells whether a block can be the first header of a tar archive.
///
/// BuildKit's test for `ADD`: the archive's first header has to be readable; an empty archive of
/// zero blocks is none.
pub fn looks_like_tar(block: &[u8]) -> bool {
    let Some(block) = block.first_chunk::<BLOCK>() else {
        return false;
    };
    RawHeader(block).has_valid_checksum() && block.iter().any(|&byte| byte != 0)
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(inner: R, limits: Limits) -> TarReader<R> {
        TarReader {
            inner,
            limits,
            position: 0,
            remaining: 0,
            padding: 0,
            extents: Vec::new(),
            entries: 0,
            unpacked: 0,
            ended: false,
        }
    }

    /// Entries read so far.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes of the files so far, holes counted.
    pub(crate) fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Goes on to the next entry; none at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<ArchiveEntry>, StoreError> {
        self.skip_data()?;
        if self.ended {
            return Ok(None);
        }
        let mut extensions = Extensions::default();
        let mut extended_bytes = 0;
        loop {
            let mut block = [0; BLOCK];
            if !self.header_block(&mut block)? {
                if extended_bytes > 0 {
                    return Err(self.broken("it ends after an extended header"));
                }
                self.ended = true;
                return Ok(None);
            }
            let raw = RawHeader(&block);
            if !raw.has_valid_checksum() {
                return Err(self.broken("a header's checksum is wrong"));
            }
            let form = raw.form();
            let size = raw.size().map_err(|reason| self.broken(reason))?;
            let flag = raw.type_flag();
            if matches!(flag, b'x' | b'g' | b'L' | b'K') {
                extended_bytes += size;
                let seen = extended_bytes;
                check("header_bytes", seen, self.limits.header_bytes, || {
                    self.place()
                })?;
                let data = self.extended_data(size)?;
                match flag {
                    b'x' => extensions
                        .add_pax(&data, &self.limits)
                        .map_err(|error| self.extension_error(error))?,
                    b'L' => extensions.set_gnu_path(&data),
                    b'K' => extensions.set_gnu_link(&data),
                    // Global headers: no key of theirs is of use in a file tree.
                    _ => {}
                }
                continue;
            }
            return self.entry(&raw, form, size, extensions).map(Some);
        }
    }

    /// Reads the next piece of the current file: where in the file, and how many bytes of `buffer`.
    ///
    /// Holes are not returned. None at the end of the file.
    pub(crate) fn data(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>, StoreError> {
        while self.extents.last().is_some_and(|extent| extent.length == 0) {
            self.extents.pop();
        }
        let Some(extent) = self.extents.last().copied() else {
            return Ok(None);
        };
        let want = extent.length.min(buffer.len() as u64) as usize;
        let got = self.inner.read(&mut buffer[..want]).map_err(unreadable)?;
        if got == 0 {
            return Err(self.broken("it ends in the middle of a file"));
        }
        self.position += got as u64;
        self.remaining -= got as u64;
        if let Some(last) = self.extents.last_mut() {
            last.offset += got as u64;
            last.length -= got as u64;
        }
        Ok(Some((extent.offset, got)))
    }

    /// Reads what follows the end of the archive, so that a digest covers all of the stream.
    pub(crate) fn drain(mut self) -> Result<R, StoreError> {
        self.skip_data()?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.inner.read(&mut buffer) {
                Ok(0) => return Ok(self.inner),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
    }

    fn entry(
        &mut self,
        raw: &RawHeader<'_>,
        form: Form,
        size: u64,
        mut extensions: Extensions,
    ) -> Result<ArchiveEntry, StoreError> {
        self.entries += 1;
        check("entries", self.entries, self.limits.entries, || {
            "the archive".to_owned()
        })?;
        let path = extensions.path().unwrap_or_else(|| raw.path(form));
        let kind = match raw.type_flag() {
            b'0' | 0 | b'7' | b'S' if path.last() == Some(&b'/') => EntryKind::Directory,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(entry_error(
                    &path,
                    format!("its type `{}` is not known", escaped(&[other])),
                ));
            }
        };
        let wrong = |reason: &str| entry_error(&path, reason.to_owned());
        let stored = extensions.size.unwrap_or(size);
        // Only files have data, whatever the header says.
        let stored = if kind == EntryKind::File { stored } else { 0 };
        self.remaining = stored;
        self.padding = (BLOCK as u64 - stored % BLOCK as u64) % BLOCK as u64;
        let (logical, extents) = self.extents_of(raw, stored, &mut extensions, &path)?;
        self.extents = extents;
        self.unpacked = self.unpacked.saturating_add(logical);
        check(
            "unpacked_bytes",
            self.unpacked,
            self.limits.unpacked_bytes,
            || escaped(&path),
        )?;
        check("path", path.len() as u64, self.limits.path, || {
            format!("the name `{}…`", escaped(&path[..64]))
        })?;
        let xattr_bytes: usize = extensions
            .xattrs
            .iter()
            .map(|(k, v)| k.len() + v.len())
            .sum();
        check(
            "xattr_bytes",
            xattr_bytes as u64,
            self.limits.xattr_bytes,
            || escaped(&path),
        )?;
        let id = |pax: Option<u32>, field: Result<u32, &'static str>| match pax {
            Some(id) => Ok(id),
            None => field.map_err(wrong),
        };
        Ok(ArchiveEntry {
            kind,
            mode: raw.mode().map_err(wrong)?,
            uid: id(extensions.uid, raw.uid())?,
            gid: id(extensions.gid, raw.gid())?,
            size: logical,
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => Timestamp {
                    seconds: raw.mtime().map_err(wrong)?,
                    nanoseconds: 0,
                },
            },
            link: extensions.link().unwrap_or_else(|| raw.link()),
            device: match kind {
                EntryKind::CharDevice | EntryKind::BlockDevice => raw.device().map_err(wrong)?,
                _ => (0, 0),
            },
            xattrs: std::mem::take(&mut extensions.xattrs),
            sparse: self.extents.len() != 1 || logical != stored,
            path,
        })
    }

    /// Size of the file and where its stored bytes belong, first piece last.
    fn extents_of(
        &mut self,
        raw: &RawHeader<'_>,
        stored: u64,
        extensions: &mut Extensions,
        path: &[u8],
    ) -> Result<(u64, Vec<Extent>), StoreError> {
        let wrong = |reason: &str| entry_error(path, reason.to_owned());
        let (size, mut extents) = if raw.type_flag() == b'S' {
            let mut extents = Vec::new();
            let size = raw.real_size().map_err(wrong)?;
            let mut more = raw.old_sparse(&mut extents).map_err(wrong)?;
            while more {
                let mut block = [0; BLOCK];
                self.exactly(&mut block)?;
                more = header::more_sparse(&block, &mut extents).map_err(wrong)?;
                sparse::check_count(extents.len(), &self.limits)?;
            }
            (size, extents)
        } else if let Some(map) = extensions.sparse_map().map_err(wrong)? {
            let extents = match map.extents {
                Some(extents) => extents,
                None => self.map_in_data()?,
            };
            (map.size, extents)
        } else {
            return Ok((
                stored,
                vec![Extent {
                    offset: 0,
                    length: stored,
                }],
            ));
        };
        sparse::validate(&extents, size, self.remaining).map_err(wrong)?;
        extents.reverse();
        Ok((size, extents))
    }

    /// Reads the map of the PAX 1.0 sparse form, which stands before the data.
    fn map_in_data(&mut self) -> Result<Vec<Extent>, StoreError> {
        let mut text = sparse::MapText::default();
        loop {
            if self.remaining < BLOCK as u64 {
                return Err(self.broken("a sparse file's map is longer than the file"));
            }
            let mut block = [0; BLOCK];
            self.exactly(&mut block)?;
            self.remaining -= BLOCK as u64;
            sparse::check_count(text.count(), &self.limits)?;
            if let Some(extents) = text.add(&block).map_err(|reason| self.broken(reason))? {
                return Ok(extents);
            }
        }
    }

    fn extended_data(&mut self, size: u64) -> Result<Vec<u8>, StoreError> {
        let padded = size.div_ceil(BLOCK as u64) * BLOCK as u64;
        let mut data = vec![0; padded as usize];
        self.exactly(&mut data)?;
        data.truncate(size as usize);
        Ok(data)
    }

    /// Reads a header block; false at the end of the archive.
    ///
    /// The end is two zero blocks; one alone, or nothing at all, is accepted as in other readers.
    fn header_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, StoreError> {
        if !self.block_or_end(block)? {
            return Ok(false);
        }
        if block.iter().any(|&byte| byte != 0) {
            return Ok(true);
        }
        if self.block_or_end(block)? && block.iter().any(|&byte| byte != 0) {
            return Err(self.broken("a header follows a zero block"));
        }
        Ok(false)
    }

    /// Reads a whole block; false if the stream ends right before it.
    fn block_or_end(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, StoreError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.broken("it ends in the middle of a block")),
                Ok(count) => {
                    filled += count;
                    self.position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(true)
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), StoreError> {
        match self.inner.read_exact(buffer) {
            Ok(()) => {
                self.position += buffer.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.broken("it ends in the middle of an entry"))
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    fn skip_data(&mut self) -> Result<(), StoreError> {
        let mut left = self.remaining + self.padding;
        let mut buffer = [0; 8 << 10];
        while left > 0 {
            let want = left.min(buffer.len() as u64) as usize;
            self.exactly(&mut buffer[..want])?;
            left -= want as u64;
        }
        self.remaining = 0;
        self.padding = 0;
        self.extents.clear();
        Ok(())
    }

    fn place(&self) -> String {
        format!("the archive at byte {}", self.position)
    }

    fn broken(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Archive {
            entry: format!("at byte {}", self.position),
            reason: reason.into(),
        }
    }

    fn extension_error(&self, error: pax::PaxError) -> StoreError {
        match error {
            pax::PaxError::Wrong(reason) => self.broken(reason),
            pax::PaxError::Limit(error) => error,
        }
    }
}

fn unreadable(error: io::Error) -> StoreError {
    StoreError::stream("read the archive")(error)
}

/// An error about one entry.
pub(crate) fn entry_error(path: &[u8], reason: String) -> StoreError {
    let shown = &path[..path.len().min(256)];
    StoreError::Archive {
        entry: escaped(shown),
        reason,
    }
}
