//! Extended headers: PAX records and GNU's long names.

use super::sparse::{self, Extent, SparseMap};
use crate::entry::Timestamp;
use crate::error::StoreError;
use crate::limits::{Limits, check};
use crate::tar_write::XATTR_PREFIX;

/// What the extended headers before an entry say.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pax_path: Option<Vec<u8>>,
    pax_link: Option<Vec<u8>>,
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Sparse,
}

/// The keys `GNU.sparse.*`.
#[derive(Debug, Default)]
struct Sparse {
    name: Option<Vec<u8>>,
    major: Option<Vec<u8>>,
    minor: Option<Vec<u8>>,
    size: Option<u64>,
    real_size: Option<u64>,
    map: Option<Vec<u8>>,
    /// Offsets and lengths of the form 0.0, one record each.
    numbers: Vec<u64>,
}

/// Why an extended header is refused.
pub(super) enum PaxError {
    Wrong(&'static str),
    Limit(StoreError),
}

impl From<&'static str> for PaxError {
    fn from(reason: &'static str) -> PaxError {
        PaxError::Wrong(reason)
    }
}

impl Extensions {
    /// Takes the records of a PAX header; later ones win.
    pub(super) fn add_pax(&mut self, data: &[u8], limits: &Limits) -> Result<(), PaxError> {
        let mut rest = data;
        while !rest.is_empty() {
            let (key, value, after) = record(rest)?;
            rest = after;
            check("pax_value", value.len() as u64, limits.pax_value, || {
                format!(
                    "the record `{}`",
                    crate::error::escaped(&key[..key.len().min(64)])
                )
            })
            .map_err(PaxError::Limit)?;
            self.set(key, value)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), PaxError> {
        if value.is_empty() {
            // An empty value takes an earlier record back; the header's field counts again.
            return Ok(());
        }
        let text = |value: &[u8]| {
            if value.contains(&0) {
                Err("a name holds a NUL byte")
            } else {
                Ok(value.to_vec())
            }
        };
        match key {
            b"path" => self.pax_path = Some(text(value)?),
            b"linkpath" => self.pax_link = Some(text(value)?),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(id(value)?),
            b"gid" => self.gid = Some(id(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(text(value)?),
            b"GNU.sparse.major" => self.sparse.major = Some(value.to_vec()),
            b"GNU.sparse.minor" => self.sparse.minor = Some(value.to_vec()),
            b"GNU.sparse.size" => self.sparse.size = Some(decimal(value)?),
            b"GNU.sparse.realsize" => self.sparse.real_size = Some(decimal(value)?),
            b"GNU.sparse.map" => self.sparse.map = Some(value.to_vec()),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let is_offset = key.ends_with(b"offset");
                if is_offset != self.sparse.numbers.len().is_multiple_of(2) {
                    return Err("the pieces of a sparse file are out of order".into());
                }
                self.sparse.numbers.push(decimal(value)?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    pub(super) fn set_gnu_path(&mut self, data: &[u8]) {
        self.gnu_path = Some(until_nul(data));
    }

    pub(super) fn set_gnu_link(&mut self, data: &[u8]) {
        self.gnu_link = Some(until_nul(data));
    }

    /// The name, if any extended header says it.
    pub(super) fn path(&mut self) -> Option<Vec<u8>> {
        self.sparse
            .name
            .take()
            .or_else(|| self.pax_path.take())
            .or_else(|| self.gnu_path.take())
    }

    /// The link target, if any extended header says it.
    pub(super) fn link(&mut self) -> Option<Vec<u8>> {
        self.pax_link.take().or_else(|| self.gnu_link.take())
    }

    /// How the file's data is spread out, if the headers say that it is.
    pub(super) fn sparse_map(&mut self) -> Result<Option<SparseMap>, &'static str> {
        let sparse = std::mem::take(&mut self.sparse);
        if sparse.major.as_deref() == Some(b"1") && sparse.minor.as_deref() == Some(b"0") {
            let size = sparse.real_size.ok_or("a sparse file has no size")?;
            return Ok(Some(SparseMap {
                size,
                extents: None,
            }));
        }
        let Some(size) = sparse.size.or(sparse.real_size) else {
            return Ok(None);
        };
        let numbers = match sparse.map {
            Some(map) => map
                .split(|&byte| byte == b',')
                .map(decimal)
                .collect::<Result<Vec<_>, _>>()?,
            None => sparse.numbers,
        };
        let (pairs, []) = numbers.as_chunks::<2>() else {
            return Err("the pieces of a sparse file are incomplete");
        };
        let extents = pairs
            .iter()
            .map(|&[offset, length]| Extent { offset, length })
            .collect::<Vec<_>>();
        Ok(Some(SparseMap {
            size,
            extents: Some(extents),
        }))
    }
}

/// Key, value, and what follows.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Splits the first record off.
fn record(data: &[u8]) -> Result<Record<'_>, &'static str> {
    const WRONG: &str = "a PAX record is malformed";
    let blank = data
        .iter()
        .take(20)
        .position(|&byte| byte == b' ')
        .ok_or(WRONG)?;
    let length = usize::try_from(decimal(&data[..blank])?).map_err(|_| WRONG)?;
    if length <= blank + 1 || length > data.len() || data[length - 1] != b'\n' {
        return Err(WRONG);
    }
    let body = &data[blank + 1..length - 1];
    let equals = body.iter().position(|&byte| byte == b'=').ok_or(WRONG)?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(WRONG);
    }
    Ok((key, value, &data[length..]))
}

pub(super) fn decimal(text: &[u8]) -> Result<u64, &'static str> {
    sparse::decimal(text).ok_or("a number of a PAX record is not one")
}

fn id(text: &[u8]) -> Result<u32, &'static str> {
    u32::try_from(decimal(text)?).map_err(|_| "an owner is out of range")
}

/// Parses seconds with a fraction of any length; what is finer than a nanosecond is cut.
fn time(text: &[u8]) -> Result<Timestamp, &'static str> {
    const WRONG: &str = "a time of a PAX record is not one";
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = parts.next().unwrap_or_default();
    let seconds = i64::try_from(decimal(seconds)?).map_err(|_| WRONG)?;
    let mut nanoseconds = 0_u32;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return Err(WRONG);
        }
        for index in 0..9 {
            let digit = fraction.get(index).map_or(0, |digit| digit - b'0');
            nanoseconds = nanoseconds * 10 + u32::from(digit);
        }
    }
    Ok(match (negative, nanoseconds) {
        (false, _) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds: 0,
        },
        // Minus 1.25 seconds is 0.75 seconds after minus 2.
        (true, _) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

fn until_nul(data: &[u8]) -> Vec<u8> {
    data.split(|&byte| byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec()
}
