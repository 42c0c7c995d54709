//! Reading the tar of an image archive as a stream.
//!
//! Only names, links and data matter here: the files become blobs, never files on disk. Extended
//! headers are understood as far as they change these, and bounded; sparse files are refused, since
//! no tool puts any into an image archive.

use std::io::{self, Read};

use tar::Header;

use super::error::ImageError;
use super::limits;

const BLOCK: u64 = 512;

/// Bytes of an extended header.
const EXTENDED_BYTES: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A file; its data is read from the reader next.
    File,
    /// A symbolic link.
    Symlink(String),
    /// A hard link to an earlier entry.
    HardLink(String),
    /// A directory or something else without use.
    Other,
}

/// One entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Name as it stands there.
    pub(crate) path: String,
    /// What it is.
    pub(crate) kind: EntryKind,
    /// Bytes of data.
    pub(crate) size: u64,
}

/// Reads entries one after the other; as a reader it yields the data of the current one.
pub(crate) struct ArchiveReader<R> {
    inner: R,
    /// Data of the current entry still to come.
    remaining: u64,
    /// Padding behind it.
    padding: u64,
    entries: u64,
}

/// What extended headers say about the entry that follows.
#[derive(Default)]
struct Extended {
    path: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl<R: Read> ArchiveReader<R> {
    /// Starts at the first header.
    pub(crate) fn new(inner: R) -> ArchiveReader<R> {
        ArchiveReader {
            inner,
            remaining: 0,
            padding: 0,
            entries: 0,
        }
    }

    /// Goes to the next entry, skipping what is left of the current one; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ImageError> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            self.entries += 1;
            limits::check("archive", "entries", self.entries, limits::ARCHIVE_ENTRIES)?;
            let size = header.entry_size().map_err(broken)?;
            self.set_size(size);
            match header.as_bytes()[156] {
                b'x' => extended.read_pax(&self.small()?)?,
                b'L' => extended.path = Some(text(&self.small()?)?),
                b'K' => extended.link = Some(text(&self.small()?)?),
                b'g' | b'V' => {}
                _ => return self.entry(&header, size, extended).map(Some),
            }
        }
    }

    /// Ends the archive: reads what is behind it, so that the writer of a pipe is not cut off and
    /// the checksum of a compressed stream is looked at.
    pub(crate) fn finish(mut self) -> Result<(), ImageError> {
        io::copy(&mut self.inner, &mut io::sink())
            .map_err(ImageError::stream("read the archive"))?;
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        extended: Extended,
    ) -> Result<Entry, ImageError> {
        let path = match extended.path {
            Some(path) => path,
            None => text(&header.path_bytes())?,
        };
        let link = match extended.link {
            Some(link) => link,
            None => text(&header.link_name_bytes().unwrap_or_default())?,
        };
        let kind = match header.as_bytes()[156] {
            // Old writers mark a directory by its slash alone.
            0 | b'0' | b'7' if !path.ends_with('/') => EntryKind::File,
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'S' => return Err(ImageError::document(quoted(&path), "it is a sparse file")),
            _ => EntryKind::Other,
        };
        let size = match kind {
            EntryKind::File => extended.size.unwrap_or(size),
            EntryKind::Symlink(_) | EntryKind::HardLink(_) => 0,
            EntryKind::Other => size,
        };
        self.set_size(size);
        Ok(Entry { path, kind, size })
    }

    fn set_size(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK;
    }

    /// Skips to the next header.
    fn skip(&mut self) -> Result<(), ImageError> {
        let wanted = self.remaining.saturating_add(self.padding);
        (self.remaining, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.inner).take(wanted), &mut io::sink())
            .map_err(ImageError::stream("read the archive"))?;
        if skipped < wanted { Err(cut()) } else { Ok(()) }
    }

    /// Reads a header; none at the end of the archive, which is a block of zeros or of nothing.
    fn header(&mut self) -> Result<Option<Header>, ImageError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(cut()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ImageError::stream("read the archive")(error)),
            }
        }
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block[..148]
            .iter()
            .chain(&block[156..])
            .map(|&byte| u32::from(byte))
            .sum();
        if header.cksum().ok() != Some(sum + 8 * u32::from(b' ')) {
            let reason = if self.entries == 0 {
                "it is not a tar"
            } else {
                "a header is damaged"
            };
            return Err(ImageError::document("archive", reason));
        }
        Ok(Some(header))
    }

    /// Reads the whole data of an extended header.
    fn small(&mut self) -> Result<Vec<u8>, ImageError> {
        limits::check("archive", "extended header", self.remaining, EXTENDED_BYTES)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)
            .map_err(ImageError::stream("read the archive"))?;
        Ok(bytes)
    }
}

impl<R: Read> Read for ArchiveReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive is cut off",
            ));
        }
        self.remaining -= count as u64;
        Ok(count)
    }
}

impl Extended {
    /// Takes over the records `<length> <key>=<value>\n` that matter.
    fn read_pax(&mut self, mut records: &[u8]) -> Result<(), ImageError> {
        let damaged = || ImageError::document("archive", "an extended header is damaged");
        while !records.is_empty() {
            let blank = records
                .iter()
                .position(|&byte| byte == b' ')
                .ok_or_else(damaged)?;
            let length: usize = std::str::from_utf8(&records[..blank])
                .ok()
                .and_then(|digits| digits.parse().ok())
                .filter(|&length| length > blank + 1 && length <= records.len())
                .ok_or_else(damaged)?;
            let (record, rest) = records.split_at(length);
            records = rest;
            let record = record[blank + 1..]
                .strip_suffix(b"\n")
                .ok_or_else(damaged)?;
            let equals = record
                .iter()
                .position(|&byte| byte == b'=')
                .ok_or_else(damaged)?;
            let value = &record[equals + 1..];
            match &record[..equals] {
                b"path" => self.path = Some(text(value)?),
                b"linkpath" => self.link = Some(text(value)?),
                b"size" => self.size = Some(text(value)?.parse().map_err(|_| damaged())?),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(ImageError::document("archive", "it holds a sparse file"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A name as text, without the NULs that GNU tar ends long names with.
fn text(bytes: &[u8]) -> Result<String, ImageError> {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec())
        .map_err(|_| ImageError::document("archive", "a name in it is not UTF-8"))
}

fn quoted(path: &str) -> String {
    format!("`{}` of the archive", path.escape_debug())
}

fn broken(error: io::Error) -> ImageError {
    ImageError::document("archive", error)
}

fn cut() -> ImageError {
    ImageError::document("archive", "it is cut off")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        builder.into_inner().unwrap()
    }

    fn put(builder: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, data).unwrap();
    }

    fn all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ImageError> {
        let mut reader = ArchiveReader::new(bytes);
        let mut list = Vec::new();
        while let Some(entry) = reader.next()? {
            let mut data = Vec::new();
            if entry.kind == EntryKind::File {
                reader
                    .read_to_end(&mut data)
                    .map_err(ImageError::stream("read"))?;
            }
            list.push((entry, data));
        }
        reader.finish()?;
        Ok(list)
    }

    #[test]
    fn files_links_and_long_names_are_read() {
        let long = format!("{}/layer.tar", "x".repeat(200));
        let bytes = archive(|builder| {
            put(builder, "a", b"A");
            put(builder, &long, &[7; 1000]);
            let mut header = Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder
                .append_link(&mut header, "b/layer.tar", "../a")
                .unwrap();
            builder
                .append_pax_extensions([("path", b"pax name".as_slice())])
                .unwrap();
            put(builder, "short", b"P");
        });
        let found = all(&bytes).unwrap();
        let names: Vec<&str> = found.iter().map(|(entry, _)| entry.path.as_str()).collect();
        assert_eq!(names, ["a", long.as_str(), "b/layer.tar", "pax name"]);
        assert_eq!(found[1].1, [7; 1000]);
        assert_eq!(found[2].0.kind, EntryKind::Symlink("../a".to_owned()));
        assert_eq!(found[3].1, b"P");
    }

    #[test]
    fn data_may_be_skipped() {
        let bytes = archive(|builder| {
            put(builder, "a", &[1; 5000]);
            put(builder, "b", b"B");
        });
        let mut reader = ArchiveReader::new(bytes.as_slice());
        reader.next().unwrap();
        assert_eq!(reader.next().unwrap().unwrap().path, "b");
    }

    #[test]
    fn damage_is_told() {
        let bytes = archive(|builder| put(builder, "a", &[1; 5000]));
        assert!(all(&[]).unwrap().is_empty());
        for (input, expected) in [
            (
                b"hello".repeat(200),
                "could not read archive: it is not a tar",
            ),
            (
                bytes[..100].to_vec(),
                "could not read archive: it is cut off",
            ),
            (bytes[..1000].to_vec(), "could not read"),
        ] {
            assert_eq!(all(&input).unwrap_err().to_string(), expected);
        }
        let mut damaged = bytes.clone();
        damaged.truncate(512 + 5120);
        damaged.extend([b'!'; 1024]);
        assert_eq!(
            all(&damaged).unwrap_err().to_string(),
            "could not read archive: a header is damaged"
        );
    }

    #[test]
    fn sparse_files_and_bad_records_are_refused() {
        let sparse = archive(|builder| {
            builder
                .append_pax_extensions([("GNU.sparse.major", b"1".as_slice())])
                .unwrap();
            put(builder, "s", b"");
        });
        assert!(all(&sparse).unwrap_err().to_string().contains("sparse"));
        for records in [
            "5 a",
            "x",
            "0 a=b\n",
            "99999999999999999999 a=b\n",
            "6 a=b",
            "6 abb\n",
        ] {
            let error = Extended::default().read_pax(records.as_bytes());
            assert!(error.is_err(), "{records:?}");
        }
        let mut extended = Extended::default();
        extended.read_pax(b"8 size=7\n").unwrap_err();
        extended.read_pax(b"9 size=7\n12 path=a=b\n").unwrap();
        assert_eq!(
            (extended.size, extended.path.as_deref()),
            (Some(7), Some("a=b"))
        );
    }

    #[test]
    fn huge_extended_headers_are_not_read() {
        let mut header = Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(1 << 40);
        header.set_cksum();
        let error = all(header.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            error,
            "archive is over the limit `extended header`: 1099511627776 > 1048576"
        );
    }
}
