//! Deflated blocks of an older blob, to be used again for a layer that is nearly the same.
//!
//! The list of a blob's blocks is a memo: nothing breaks without it. A block is found by the SHA-256 of
//! everything that its bytes depend on, and what is read from the blob is checked.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::gzip::WINDOW;
use crate::checkpoints::Checkpoint;

/// First bytes of a list.
const MAGIC: &[u8; 16] = b"rbuild blocks 2\n";

/// Bytes of one block in a list.
const RECORD: usize = 32 + 8 + 4 * 4;

/// What a deflated block is found by: level, dictionary and plain bytes.
pub(super) type BlockKey = [u8; 32];

/// A deflated block of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(super) key: BlockKey,
    /// Where it is in the blob.
    pub(super) offset: u64,
    /// Its length there.
    pub(super) deflated: u32,
    /// Length of the plain bytes.
    pub(super) plain: u32,
    /// Checksum of the plain bytes.
    pub(super) crc: u32,
    /// Checksum of the deflated bytes.
    pub(super) check: u32,
}

/// The blocks of an older blob.
#[derive(Debug)]
pub(crate) struct KnownBlocks {
    blob: File,
    blocks: HashMap<BlockKey, Block>,
    in_order: Vec<Block>,
}

/// The beginning of a tar that an older one has, too, and of whose blob the new one takes whole blocks
/// without a look at what is in them.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// Where the tar is gone on with: some way before the end of the blocks, to know what a block behind
    /// them may refer to.
    pub(crate) start: Checkpoint,
    /// The blocks, from the first one on.
    pub(super) blocks: Vec<Block>,
    /// Bytes of the tar from the start to the end of the blocks.
    pub(super) skip: u64,
}

impl KnownBlocks {
    /// Reads the list of a blob's blocks; none if it is damaged.
    pub(crate) fn new(list: &[u8], blob: File) -> Option<KnownBlocks> {
        let list = list.strip_prefix(MAGIC)?;
        let (list, check) = list.split_last_chunk::<4>()?;
        if crc32fast::hash(list).to_le_bytes() != *check || list.len() % RECORD != 0 {
            return None;
        }
        let in_order: Vec<Block> = list.chunks_exact(RECORD).filter_map(decode).collect();
        Some(KnownBlocks {
            blob,
            blocks: in_order.iter().map(|block| (block.key, *block)).collect(),
            in_order,
        })
    }

    /// What can be taken over for a tar that is the same up to the last of these checkpoints.
    pub(crate) fn shared(&self, points: &[Checkpoint]) -> Option<Shared> {
        let same = points.last()?.bytes;
        let mut blocks = Vec::new();
        let mut end = 0;
        for block in &self.in_order {
            let next = end + u64::from(block.plain);
            // Where a block ends is decided by the header behind it, which is before the checkpoint if
            // the block ends before that.
            if next >= same {
                break;
            }
            end = next;
            blocks.push(*block);
        }
        let near = |point: &&Checkpoint| point.bytes + WINDOW as u64 <= end;
        let start = points.iter().rev().find(near)?;
        Some(Shared {
            start: start.clone(),
            blocks,
            skip: end - start.bytes,
        })
    }

    /// The deflated bytes of a block of this blob.
    ///
    /// # Errors
    ///
    /// They cannot be read, or are damaged (`InvalidData`).
    pub(super) fn read(&self, block: &Block) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; block.deflated as usize];
        self.blob.read_exact_at(&mut bytes, block.offset)?;
        if crc32fast::hash(&bytes) == block.check {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// The deflated bytes of a block; none if there is no such block, or it is damaged.
    pub(super) fn get(&self, key: &BlockKey) -> Option<(Vec<u8>, Block)> {
        let block = self.blocks.get(key)?;
        Some((self.read(block).ok()?, *block))
    }
}

/// The list of a blob's blocks as bytes.
pub(crate) fn list(blocks: &[Block]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for block in blocks {
        bytes.extend_from_slice(&block.key);
        bytes.extend_from_slice(&block.offset.to_le_bytes());
        for number in [block.deflated, block.plain, block.crc, block.check] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    let check = crc32fast::hash(&bytes[MAGIC.len()..]);
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes
}

fn decode(record: &[u8]) -> Option<Block> {
    let (key, rest) = record.split_first_chunk::<32>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let number = |index: usize| {
        let bytes = rest.get(index * 4..index * 4 + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    Some(Block {
        key: *key,
        offset: u64::from_le_bytes(*offset),
        deflated: number(0)?,
        plain: number(1)?,
        crc: number(2)?,
        check: number(3)?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_block_is_found_again_and_a_damaged_one_is_not() {
        let mut blob = tempfile::tempfile().unwrap();
        blob.write_all(b"..deflated..").unwrap();
        let block = Block {
            key: [7; 32],
            offset: 2,
            deflated: 8,
            plain: 100,
            crc: 1,
            check: crc32fast::hash(b"deflated"),
        };
        let wrong = Block {
            key: [8; 32],
            offset: 3,
            ..block
        };
        let beyond = Block {
            key: [9; 32],
            offset: 1 << 40,
            ..block
        };
        let mut list = list(&[block, wrong, beyond]);
        let known = KnownBlocks::new(&list, blob.try_clone().unwrap()).unwrap();
        assert_eq!(known.get(&[7; 32]), Some((b"deflated".to_vec(), block)));
        for key in [[8; 32], [9; 32], [10; 32]] {
            assert_eq!(known.get(&key), None);
        }
        let place = list.len() / 2;
        list[place] ^= 1;
        assert!(KnownBlocks::new(&list, blob.try_clone().unwrap()).is_none());
        assert!(KnownBlocks::new(b"", blob).is_none());
    }
}
