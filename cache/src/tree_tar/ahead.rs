//! Reading ahead: what comes next in a tar is looked at and read on all cores, a few names at a time.
//!
//! Opening and reading a small file costs many times what its hash costs. The order of the tar stays
//! what it is: only the reading is done before its turn.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rayon::prelude::*;
use rustix::fs::Mode;

use super::{CAPABILITY, Content};
use crate::entry::{FileKind, Metadata};
use crate::error::StoreError;
use crate::parts::{Name, Parts};
use crate::sys;
use crate::view::join;

/// Names of a directory that are read ahead at once.
const WINDOW: usize = 64;

/// Names that are only looked at at once.
const LOOKS: usize = 1024;

/// Largest file that is read ahead.
const SMALL: u64 = 16 << 10;

/// Nothing more is read ahead while so many bytes wait: a directory waits with what it holds until the
/// one that was entered from it is done.
const MOST: usize = 1 << 20;

/// What is known of a name before its turn.
pub(super) struct Ahead {
    /// What it is; none if it is gone.
    pub(super) found: Option<Metadata>,
    /// Its content, if it is small and was read whole.
    pub(super) small: Option<Small>,
}

/// A small file.
pub(super) struct Small {
    /// The attribute with its capabilities.
    pub(super) capability: Option<Vec<u8>>,
    /// All of it.
    pub(super) content: Vec<u8>,
}

/// Names of a directory for one [`look`].
pub(super) fn window(mode: Content) -> usize {
    match mode {
        Content::Full => WINDOW,
        Content::HeadersOnly | Content::PlainHeaders => LOOKS,
    }
}

/// Looks at names of a directory, and reads the small files among them; `held` bytes wait already.
pub(super) fn look(
    directory: &Parts,
    path: &[u8],
    names: &[Name],
    mode: Content,
    held: usize,
) -> Result<Vec<Ahead>, StoreError> {
    let read = mode == Content::Full && held < MOST;
    let one = |name: &Name| {
        let part = directory.part(name);
        let failed = |error| StoreError::inside("look at", &join(path, &name.text))(error);
        let found = sys::lstat(part, &name.text).map_err(failed)?;
        let small = found
            .filter(|found| read && found.kind == FileKind::File && found.size <= SMALL)
            .and_then(|found| small(part, &name.text, found.size));
        Ok(Ahead { found, small })
    };
    if names.len() < WINDOW / 8 {
        return names.iter().map(one).collect();
    }
    names
        .par_iter()
        .with_min_len(names.len() / 16)
        .map(one)
        .collect()
}

/// Reads a small file. Whatever is wrong with it is told when its turn comes.
fn small(directory: &OwnedFd, name: &[u8], size: u64) -> Option<Small> {
    let file = rustix::fs::openat(directory, name, sys::READ, Mode::empty()).ok()?;
    let capability = sys::fxattr(&file, CAPABILITY).ok()?;
    let mut content = vec![0; size as usize];
    File::from(file).read_exact(&mut content).ok()?;
    Some(Small {
        capability,
        content,
    })
}
