//! Comparing an unpacked layer with the blob that it came from.

use std::collections::BTreeMap;
use std::io::Read;

use crate::compress::detect_and_decompress_within;
use crate::digest::{Digest, DigestWriter};
use crate::error::{StoreError, escaped};
use crate::limits::Limits;
use crate::store::Store;
use crate::sys;
use crate::tar_read::{EntryKind, TarReader};
use crate::tree::Layer;

/// Compares the content of every file that can be found under its own name.
///
/// Returns what differs; nothing if the blob is not there to compare with.
pub(super) fn difference(store: &Store, layer: &Layer) -> Result<Option<String>, StoreError> {
    let Some(source) = layer.source_blob() else {
        return Ok(None);
    };
    let file = match store.open_blob(&source.blob.digest) {
        Ok(file) => file,
        Err(StoreError::MissingBlob { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    // It was unpacked within some limits once; they are not asked again.
    let limits = Limits {
        entries: 0,
        unpacked_bytes: 0,
        ratio: 0,
        ..Limits::default()
    };
    let (_, plain) = detect_and_decompress_within(file, &limits)
        .map_err(StoreError::stream("read the layer"))?;
    let expected = contents(&mut TarReader::new(plain, limits))?;
    for (path, digest) in expected {
        // Names that lead through links or were replaced are left to the check of the headers.
        let Ok(file) = sys::open_beneath(&*layer.root_fd()?, &path, sys::READ) else {
            continue;
        };
        let mut writer = DigestWriter::new(std::io::sink());
        std::io::copy(&mut std::fs::File::from(file), &mut writer)
            .map_err(StoreError::inside("read", &path))?;
        if writer.finish().1 != digest {
            return Ok(Some(format!(
                "has another content in `/{}`",
                escaped(&path)
            )));
        }
    }
    Ok(None)
}

/// Digests of the files of an archive under their last names.
fn contents<R: Read>(archive: &mut TarReader<R>) -> Result<BTreeMap<Vec<u8>, Digest>, StoreError> {
    let mut files = BTreeMap::new();
    let mut buffer = vec![0; 128 << 10];
    while let Some(entry) = archive.next()? {
        let path = crate::apply::clean(&entry.path)?.join(&b'/');
        // A sparse file's holes would have to be hashed, too.
        if entry.kind != EntryKind::File || entry.sparse {
            files.remove(&path);
            continue;
        }
        let mut writer = DigestWriter::new(std::io::sink());
        while let Some((_, count)) = archive.data(&mut buffer)? {
            std::io::Write::write_all(&mut writer, &buffer[..count])
                .map_err(StoreError::stream("hash a file"))?;
        }
        files.insert(path, writer.finish().1);
    }
    Ok(files)
}
