//! ADD of local archives: found by content, unpacked into the destination (section 5.4).

use std::io::Read;

use rbuild_cache::{ExtractOptions, Limits, ViewEntry, detect_and_decompress, extract};

use super::copy::Rules;
use super::{FileRun, show, view_error};
use crate::error::BuildError;
use crate::tree::SourceTree;

/// A tar header is one block; less cannot be an archive.
const TAR_BLOCK: usize = 512;

impl FileRun<'_> {
    /// ADD of an archive: unpacked into the destination as a directory.
    pub(super) fn unpack(
        &mut self,
        tree: &SourceTree,
        entry: &ViewEntry,
        destination: &str,
        rules: &Rules<'_>,
    ) -> Result<(), BuildError> {
        // --chmod has no effect on archives, also not on the directories made for them (D10).
        let plain = Rules {
            chown: rules.chown,
            chmod: None,
            exclude: None,
            action: rules.action,
        };
        let target = self.destination_directory(destination, &plain)?;
        let file = tree
            .view()
            .open(entry)
            .map_err(|error| view_error(&error))?;
        let failed = |error: &(dyn std::error::Error + 'static)| {
            BuildError::io(format!("could not unpack `{}`", show(&entry.path)), error)
        };
        let (_, mut plain_tar) = detect_and_decompress(file).map_err(|error| failed(&error))?;
        let options = ExtractOptions {
            view: Some(self.upper.view()),
            upper: &self.upper_path,
            into: &target,
            chown: rules.chown.map(|owner| (owner.uid, owner.gid)),
            limits: Limits::default(),
        };
        extract(&mut plain_tar, &options).map_err(|error| failed(&error))?;
        Ok(())
    }
}

/// Whether a file is an archive: a tar header after optional decompression.
pub(super) fn is_archive(tree: &SourceTree, entry: &ViewEntry) -> Result<bool, BuildError> {
    let file = tree
        .view()
        .open(entry)
        .map_err(|error| view_error(&error))?;
    let Ok((_, mut reader)) = detect_and_decompress(file) else {
        return Ok(false);
    };
    let mut block = [0_u8; TAR_BLOCK];
    if reader.read_exact(&mut block).is_err() {
        return Ok(false);
    }
    Ok(is_tar_header(&block))
}

/// Whether a block has the checksum of a tar header.
fn is_tar_header(block: &[u8; TAR_BLOCK]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let stored = String::from_utf8_lossy(&block[CHECKSUM]);
    let digits = stored.trim_matches(|c: char| c == '\0' || c.is_ascii_whitespace());
    let Ok(stored) = u32::from_str_radix(digits, 8) else {
        return false;
    };
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(index, byte)| {
            if CHECKSUM.contains(&index) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    stored == sum && block.iter().any(|byte| *byte != 0)
}
