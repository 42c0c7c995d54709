//! The canonical tar writer: the bytes that Go's `archive/tar` would write for the same headers.
//!
//! Layer digests are digests of these bytes, so nothing here may depend on anything but the header:
//! ustar as long as every field fits, else one extended (PAX) header with sorted records before it.
//! Symbolic user and group names, access and change times are never written.

use std::io::{self, Write};

const BLOCK: usize = 512;
const NAME_FIELD: usize = 100;
const PREFIX_FIELD: usize = 155;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// PAX key under which an extended attribute is written, before its name.
pub const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Type of a tar entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TarKind {
    /// A regular file with data.
    File,
    /// A hard link to an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

impl TarKind {
    /// The type flag byte of POSIX.1-1988.
    fn flag(self) -> u8 {
        match self {
            TarKind::File => b'0',
            TarKind::HardLink => b'1',
            TarKind::Symlink => b'2',
            TarKind::CharDevice => b'3',
            TarKind::BlockDevice => b'4',
            TarKind::Directory => b'5',
            TarKind::Fifo => b'6',
        }
    }
}

/// A tar header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarHeader {
    /// Name without leading slash; a directory's ends in `/`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: TarKind,
    /// Permission bits (0o7777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of data; only regular files have some.
    pub size: u64,
    /// Whole seconds since 1970.
    pub mtime: i64,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Device number (major, minor) of a device.
    pub device: (u32, u32),
    /// Extended attributes to write: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl TarHeader {
    /// Makes a header with mode 0, owner 0, no data and time 0.
    pub fn new(kind: TarKind, path: impl Into<Vec<u8>>) -> TarHeader {
        TarHeader {
            path: path.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }
}

/// Writes a tar archive.
///
/// After [`entry`](PaxWriter::entry) for a file with data, exactly `size` bytes have to be written;
/// the padding follows by itself.
pub struct PaxWriter<W: Write> {
    inner: W,
    /// Data bytes of the current entry that are still to come.
    remaining: u64,
    /// Padding after them.
    padding: usize,
}

impl<W: Write> PaxWriter<W> {
    /// Starts an archive.
    pub fn new(inner: W) -> PaxWriter<W> {
        PaxWriter {
            inner,
            remaining: 0,
            padding: 0,
        }
    }

    /// Returns the writer below, for its counters.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    /// Ends the last entry and returns the writer below, which is then between two entries.
    pub(crate) fn between(&mut self) -> io::Result<&mut W> {
        self.end_entry()?;
        Ok(&mut self.inner)
    }

    /// Writes a header; its data is written next.
    pub fn entry(&mut self, header: &TarHeader) -> io::Result<()> {
        self.end_entry()?;
        let records = pax_records(header)?;
        if records.is_empty() {
            self.write_ustar(header)?;
        } else {
            self.write_extended(&header.path, &records)?;
            let mut block = Block::of(header, &|text| to_ascii(text));
            block.put_string(0, NAME_FIELD, &to_ascii(&header.path));
            self.inner.write_all(&block.sealed())?;
        }
        self.remaining = if header.kind == TarKind::File {
            header.size
        } else {
            0
        };
        self.padding = padding(self.remaining);
        Ok(())
    }

    /// Ends the archive with two zero blocks and returns the writer below.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_entry()?;
        self.inner.write_all(&ZEROS)?;
        self.inner.write_all(&ZEROS)?;
        Ok(self.inner)
    }

    fn end_entry(&mut self) -> io::Result<()> {
        if self.remaining > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} bytes of a tar entry were not written", self.remaining),
            ));
        }
        let padding = std::mem::take(&mut self.padding);
        self.inner.write_all(&ZEROS[..padding])
    }

    fn write_ustar(&mut self, header: &TarHeader) -> io::Result<()> {
        let mut block = Block::of(header, &|text| text.to_vec());
        if let Some((prefix, name)) = split_ustar(&header.path) {
            block.put_string(0, NAME_FIELD, name);
            block.put_string(345, PREFIX_FIELD, prefix);
        } else {
            block.put_string(0, NAME_FIELD, &header.path);
        }
        self.inner.write_all(&block.sealed())
    }

    /// Writes the extended header that precedes an entry named `path`.
    fn write_extended(&mut self, path: &[u8], records: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
        let mut data = Vec::new();
        for (key, value) in records {
            push_record(&mut data, key, value);
        }
        let mut name = to_ascii(&extended_name(path));
        name.truncate(NAME_FIELD);
        while name.last() == Some(&b'/') {
            name.pop();
        }
        let mut block = Block([0; BLOCK]);
        block.put_string(0, NAME_FIELD, &name);
        block.put_octal(100, 8, Some(0));
        block.put_octal(108, 8, Some(0));
        block.put_octal(116, 8, Some(0));
        block.put_octal(124, 12, Some(data.len() as u64));
        block.put_octal(136, 12, Some(0));
        block.0[156] = b'x';
        self.inner.write_all(&block.sealed())?;
        self.inner.write_all(&data)?;
        self.inner.write_all(&ZEROS[..padding(data.len() as u64)])
    }
}

impl<W: Write> Write for PaxWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.remaining {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "more bytes written to a tar entry than its header says",
            ));
        }
        let taken = self.inner.write(bytes)?;
        self.remaining -= taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// One header block being filled.
struct Block([u8; BLOCK]);

impl Block {
    /// Fills the fields that all entries have, but not the name.
    fn of(header: &TarHeader, text: &dyn Fn(&[u8]) -> Vec<u8>) -> Block {
        let mut block = Block([0; BLOCK]);
        block.put_octal(100, 8, Some(u64::from(header.mode)));
        block.put_octal(108, 8, Some(u64::from(header.uid)));
        block.put_octal(116, 8, Some(u64::from(header.gid)));
        block.put_octal(124, 12, Some(header.size));
        block.put_octal(136, 12, u64::try_from(header.mtime).ok());
        block.0[156] = header.kind.flag();
        block.put_string(157, NAME_FIELD, &text(&header.link));
        block.put_octal(329, 8, Some(u64::from(header.device.0)));
        block.put_octal(337, 8, Some(u64::from(header.device.1)));
        block
    }

    fn put_string(&mut self, at: usize, length: usize, text: &[u8]) {
        let taken = text.len().min(length);
        self.0[at..at + taken].copy_from_slice(&text[..taken]);
        // A name cut right behind a slash would look like a directory to old readers.
        if text.len() > length && text[length - 1] == b'/' {
            let end = text[..length - 1]
                .iter()
                .rposition(|&byte| byte != b'/')
                .map_or(0, |i| i + 1);
            self.0[at + end] = 0;
        }
    }

    /// Writes zero-padded octal digits and a NUL; a number that does not fit becomes 0, since then
    /// an extended record carries it.
    fn put_octal(&mut self, at: usize, length: usize, number: Option<u64>) {
        let digits = length - 1;
        let number = number
            .filter(|&number| fits_octal(length, number))
            .unwrap_or(0);
        for i in 0..digits {
            let shift = 3 * (digits - 1 - i);
            self.0[at + i] = b'0' + ((number >> shift) & 7) as u8;
        }
        self.0[at + digits] = 0;
    }

    /// Adds magic and checksum.
    fn sealed(mut self) -> [u8; BLOCK] {
        self.0[257..263].copy_from_slice(b"ustar\0");
        self.0[263..265].copy_from_slice(b"00");
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|&byte| u64::from(byte)).sum();
        self.put_octal(148, 7, Some(sum));
        self.0[155] = b' ';
        self.0
    }
}

fn fits_octal(field: usize, number: u64) -> bool {
    let bits = 3 * (field - 1);
    bits >= 64 || number < 1 << bits
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// Drops what is not ASCII, as a best effort for readers that know no extended headers.
fn to_ascii(text: &[u8]) -> Vec<u8> {
    text.iter()
        .copied()
        .filter(|&byte| byte.is_ascii() && byte != 0)
        .collect()
}

fn is_ascii(text: &[u8]) -> bool {
    text.iter().all(|&byte| byte.is_ascii() && byte != 0)
}

/// Splits a long name at a slash into ustar's prefix and name fields, if it can be.
fn split_ustar(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = path.len();
    if length <= NAME_FIELD || !is_ascii(path) {
        return None;
    }
    if length > PREFIX_FIELD + 1 {
        length = PREFIX_FIELD + 1;
    } else if path[length - 1] == b'/' {
        length -= 1;
    }
    let slash = path[..length].iter().rposition(|&byte| byte == b'/')?;
    let name = path.len() - slash - 1;
    if slash == 0 || name == 0 || name > NAME_FIELD || slash > PREFIX_FIELD {
        return None;
    }
    Some((&path[..slash], &path[slash + 1..]))
}

/// Collects the records that the header needs beyond ustar, sorted by key.
fn pax_records(header: &TarHeader) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let number = |key: &[u8], number: i128| (key.to_vec(), number.to_string().into_bytes());
    let needs_path = (!is_ascii(&header.path) || header.path.len() > NAME_FIELD)
        && split_ustar(&header.path).is_none();
    // A path that ustar could split is still repeated when other records are needed: readers take
    // the record, and so does Go's writer.
    let long_path = !is_ascii(&header.path) || header.path.len() > NAME_FIELD;
    for text in [&header.path, &header.link] {
        if text.contains(&0) {
            return Err(invalid("a path holds a NUL byte"));
        }
    }
    if !is_ascii(&header.link) || header.link.len() > NAME_FIELD {
        records.push((b"linkpath".to_vec(), header.link.clone()));
    }
    for (key, field, value) in [
        (b"uid".as_slice(), 8, u64::from(header.uid)),
        (b"gid", 8, u64::from(header.gid)),
        (b"size", 12, header.size),
    ] {
        if !fits_octal(field, value) {
            records.push(number(key, i128::from(value)));
        }
    }
    if !u64::try_from(header.mtime).is_ok_and(|mtime| fits_octal(12, mtime)) {
        records.push(number(b"mtime", i128::from(header.mtime)));
    }
    if !fits_octal(8, u64::from(header.device.0)) || !fits_octal(8, u64::from(header.device.1)) {
        return Err(invalid("a device number is too large"));
    }
    for (name, value) in &header.xattrs {
        if name.contains(&0) || name.contains(&b'=') {
            return Err(invalid("an extended attribute's name cannot be written"));
        }
        records.push(([XATTR_PREFIX, name].concat(), value.clone()));
    }
    if needs_path || long_path && !records.is_empty() {
        records.push((b"path".to_vec(), header.path.clone()));
    }
    records.sort();
    Ok(records)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

/// Appends `<length> <key>=<value>\n`, where the length counts itself.
fn push_record(data: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + body.to_string().len();
    if length.to_string().len() != length.saturating_sub(body) {
        length = body + length.to_string().len();
    }
    data.extend_from_slice(length.to_string().as_bytes());
    data.push(b' ');
    data.extend_from_slice(key);
    data.push(b'=');
    data.extend_from_slice(value);
    data.push(b'\n');
}

/// Name of the extended header of an entry: `PaxHeaders.0` put before the last component.
fn extended_name(path: &[u8]) -> Vec<u8> {
    let split = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    let (directory, file) = path.split_at(split);
    let mut name = Vec::with_capacity(path.len() + 13);
    for part in directory
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
    {
        name.extend_from_slice(part);
        name.push(b'/');
    }
    name.extend_from_slice(b"PaxHeaders.0");
    if !file.is_empty() {
        name.push(b'/');
        name.extend_from_slice(file);
    }
    name
}
