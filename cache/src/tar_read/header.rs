//! The 512 bytes of a tar header.

use super::BLOCK;
use super::sparse::Extent;

/// Which fields a header has beyond those of Version 7 Unix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    V7,
    /// POSIX.1-1988 and PAX.
    Ustar,
    /// GNU's own, with access times where ustar has a prefix.
    Gnu,
}

/// A header block.
pub(super) struct RawHeader<'a>(pub(super) &'a [u8; BLOCK]);

type Field<T> = Result<T, &'static str>;

impl RawHeader<'_> {
    /// Compares the checksum, which some old writers computed with signed bytes.
    pub(super) fn has_valid_checksum(&self) -> bool {
        let Ok(stored) = number(&self.0[148..156]) else {
            return false;
        };
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, &byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&index) {
                b' '
            } else {
                byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        stored == unsigned || stored == signed
    }

    pub(super) fn form(&self) -> Form {
        match &self.0[257..265] {
            b"ustar  \0" => Form::Gnu,
            magic if magic.starts_with(b"ustar\0") => Form::Ustar,
            _ => Form::V7,
        }
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn path(&self, form: Form) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = match form {
            Form::Ustar => text(&self.0[345..500]),
            Form::V7 | Form::Gnu => b"",
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, name].join(&b'/')
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Field<u32> {
        Ok((number(&self.0[100..108]).map_err(|()| "its mode is no number")? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Field<u32> {
        id(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Field<u32> {
        id(&self.0[116..124])
    }

    pub(super) fn size(&self) -> Field<u64> {
        size(&self.0[124..136])
    }

    pub(super) fn mtime(&self) -> Field<i64> {
        number(&self.0[136..148]).map_err(|()| "its time is no number")
    }

    pub(super) fn device(&self) -> Field<(u32, u32)> {
        let half = |field| {
            number(field)
                .ok()
                .and_then(|number| u32::try_from(number).ok())
                .ok_or("its device number is not one")
        };
        Ok((half(&self.0[329..337])?, half(&self.0[337..345])?))
    }

    /// Size of a file of GNU's old sparse form.
    pub(super) fn real_size(&self) -> Field<u64> {
        size(&self.0[483..495])
    }

    /// The first pieces of GNU's old sparse form; tells whether a block with more follows.
    pub(super) fn old_sparse(&self, extents: &mut Vec<Extent>) -> Field<bool> {
        pieces(&self.0[386..482], extents)?;
        Ok(self.0[482] != 0)
    }
}

/// Further pieces of GNU's old sparse form; tells whether another block follows.
pub(super) fn more_sparse(block: &[u8; BLOCK], extents: &mut Vec<Extent>) -> Field<bool> {
    pieces(&block[..504], extents)?;
    Ok(block[504] != 0)
}

fn pieces(fields: &[u8], extents: &mut Vec<Extent>) -> Field<()> {
    for piece in fields.chunks_exact(24) {
        if piece[0] == 0 {
            break;
        }
        extents.push(Extent {
            offset: size(&piece[..12])?,
            length: size(&piece[12..])?,
        });
    }
    Ok(())
}

/// A field up to its NUL, or all of it.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn size(field: &[u8]) -> Field<u64> {
    let number = number(field).map_err(|()| "its size is no number")?;
    u64::try_from(number).map_err(|_| "its size is negative")
}

fn id(field: &[u8]) -> Field<u32> {
    let number = number(field).map_err(|()| "its owner is no number")?;
    u32::try_from(number).map_err(|_| "its owner is out of range")
}

/// Reads octal digits, or GNU's binary form with the highest bit set.
fn number(field: &[u8]) -> Result<i64, ()> {
    let Some(&first) = field.first() else {
        return Err(());
    };
    if first & 0x80 != 0 {
        return binary(field);
    }
    let is_blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field
        .iter()
        .position(|byte| !is_blank(byte))
        .unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    let mut value = 0_i64;
    for &digit in &digits[..end] {
        if !(b'0'..=b'7').contains(&digit) {
            return Err(());
        }
        value = value.checked_mul(8).ok_or(())? + i64::from(digit - b'0');
    }
    Ok(value)
}

/// Two's complement, big-endian, of which the highest bit only says that it is binary.
fn binary(field: &[u8]) -> Result<i64, ()> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (index, &byte) in field.iter().enumerate() {
        let byte = if index == 0 {
            if negative { byte | 0x80 } else { byte & 0x7f }
        } else {
            byte
        };
        value = value << 8 | i128::from(byte);
    }
    i64::try_from(value).map_err(|_| ())
}
