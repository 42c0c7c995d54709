//! A plain directory as a tar, the counterpart of [`extract`](crate::extract).

use std::io::Write;
use std::path::Path;

use rustix::fs::{CWD, Mode};

use crate::error::StoreError;
use crate::sys;
use crate::tar_write::PaxWriter;
use crate::tree_tar::{self, Content};

/// Writes what is in a directory as a plain tar: the same tree gives the same bytes.
///
/// File times are cut to seconds, sockets are left out, and the directory itself has no entry.
pub fn pack(directory: &Path, out: &mut dyn Write) -> Result<(), StoreError> {
    let root = rustix::fs::openat(CWD, directory, sys::DIRECTORY, Mode::empty())
        .map_err(StoreError::io("open", directory))?;
    let mut tar = PaxWriter::new(out);
    tree_tar::write_tree(&[&root], &mut tar, Content::Full, None)?;
    tar.finish()
        .map_err(StoreError::stream("write the archive"))?;
    Ok(())
}
