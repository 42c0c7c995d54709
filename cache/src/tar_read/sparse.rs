//! Files with holes: where their stored bytes belong.

use super::BLOCK;
use crate::error::StoreError;
use crate::limits::Limits;

/// A stored piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where in the file it begins.
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What PAX records say about a sparse file.
#[derive(Debug)]
pub(super) struct SparseMap {
    /// Size of the file.
    pub(super) size: u64,
    /// Its pieces; none if they stand before the data.
    pub(super) extents: Option<Vec<Extent>>,
}

/// Parses a decimal number of at most 19 digits.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        text.iter()
            .fold(0, |value, digit| value * 10 + u64::from(digit - b'0')),
    )
}

/// Pieces in order, without overlap, inside the file, and exactly the stored bytes.
pub(super) fn validate(extents: &[Extent], size: u64, stored: u64) -> Result<(), &'static str> {
    const WRONG: &str = "the pieces of a sparse file are wrong";
    let mut end = 0;
    let mut sum = 0_u64;
    for extent in extents {
        if extent.offset < end {
            return Err(WRONG);
        }
        end = extent.offset.checked_add(extent.length).ok_or(WRONG)?;
        sum = sum.checked_add(extent.length).ok_or(WRONG)?;
    }
    if end > size || sum > stored {
        return Err(WRONG);
    }
    Ok(())
}

/// Refuses a list of pieces that would take more memory than headers may.
pub(super) fn check_count(count: usize, limits: &Limits) -> Result<(), StoreError> {
    let bytes = (count * size_of::<Extent>()) as u64;
    crate::limits::check("header_bytes", bytes, limits.header_bytes, || {
        "the map of a sparse file".to_owned()
    })
}

/// The map of the PAX 1.0 form: decimal lines, a count and then offset and length of each piece,
/// padded to whole blocks.
#[derive(Debug, Default)]
pub(super) struct MapText {
    line: Vec<u8>,
    numbers: Vec<u64>,
}

impl MapText {
    /// How many pieces have been read.
    pub(super) fn count(&self) -> usize {
        self.numbers.len() / 2
    }

    /// Adds a block; the pieces once all are there.
    pub(super) fn add(&mut self, block: &[u8; BLOCK]) -> Result<Option<Vec<Extent>>, &'static str> {
        const WRONG: &str = "the map of a sparse file is malformed";
        for &byte in block {
            if byte != b'\n' {
                self.line.push(byte);
                if self.line.len() > 19 {
                    return Err(WRONG);
                }
                continue;
            }
            self.numbers.push(decimal(&self.line).ok_or(WRONG)?);
            self.line.clear();
            let Some((&count, numbers)) = self.numbers.split_first() else {
                continue;
            };
            if numbers.len() as u64 == count.checked_mul(2).ok_or(WRONG)? {
                let (pairs, _) = numbers.as_chunks::<2>();
                let extent = |&[offset, length]: &[u64; 2]| Extent { offset, length };
                return Ok(Some(pairs.iter().map(extent).collect()));
            }
        }
        Ok(None)
    }
}
