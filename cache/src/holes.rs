//! Files with holes: read without the disk's help where there is nothing, copied with their holes,
//! and written with holes where only zeros come.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, ftruncate, seek};
use rustix::io::Errno;

/// Bytes copied at once: a fraction of a second.
const CHUNK: u64 = 64 << 20;

/// Zeros shorter than this are written: a hole costs a place in the file system's books.
pub(crate) const SHORTEST_HOLE: usize = 4 << 10;

/// Reads a file from its beginning; holes are zeros that are not read.
#[derive(Debug)]
pub struct HoleReader {
    file: File,
    position: u64,
    /// Up to here there is data.
    data_end: u64,
    /// From the position up to here there is none.
    hole_end: u64,
}

impl HoleReader {
    /// Starts at the beginning of a regular file.
    pub fn new(file: File) -> HoleReader {
        HoleReader {
            file,
            position: 0,
            data_end: 0,
            hole_end: 0,
        }
    }

    /// Looks what comes at the position; false at the end of the file.
    fn look_ahead(&mut self) -> io::Result<bool> {
        match extent(&self.file, self.position)? {
            Extent::Data(end) => self.data_end = end,
            Extent::Hole(end) => self.hole_end = end,
            Extent::End => return Ok(false),
        }
        Ok(true)
    }
}

impl Read for HoleReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.position >= self.hole_end.max(self.data_end) && !self.look_ahead()? {
            return Ok(0);
        }
        let count = if self.position < self.hole_end {
            let count = part(buffer.len(), self.hole_end - self.position);
            buffer[..count].fill(0);
            count
        } else {
            let count = part(buffer.len(), self.data_end - self.position);
            rustix::io::pread(&self.file, &mut buffer[..count], self.position)?
        };
        self.position += count as u64;
        Ok(count)
    }
}

fn part(buffer: usize, left: u64) -> usize {
    usize::try_from(left).map_or(buffer, |left| left.min(buffer))
}

/// What is at a place in a file, and where it ends.
enum Extent {
    Data(u64),
    Hole(u64),
    End,
}

fn extent(file: &File, position: u64) -> io::Result<Extent> {
    let data = match seek(file, SeekFrom::Data(position)) {
        Ok(data) => data,
        // Nothing but a hole, or nothing at all, up to the end.
        Err(Errno::NXIO) => {
            let size = file.metadata()?.len();
            return Ok(if position < size {
                Extent::Hole(size)
            } else {
                Extent::End
            });
        }
        // A file system that does not know: everything is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Extent::Data(u64::MAX)),
        Err(error) => return Err(error.into()),
    };
    if data > position {
        return Ok(Extent::Hole(data));
    }
    match seek(file, SeekFrom::Hole(position)) {
        Ok(end) if end > position => Ok(Extent::Data(end)),
        // It has become shorter.
        Ok(_) | Err(Errno::NXIO) => Ok(Extent::End),
        Err(error) => Err(error.into()),
    }
}

/// Writes a file from its beginning; whole blocks of zeros become holes.
#[derive(Debug)]
pub struct HoleWriter {
    file: File,
    position: u64,
    /// A hole is at the end, which nobody has written.
    ends_in_hole: bool,
}

impl HoleWriter {
    /// Starts at the beginning of an empty regular file.
    pub fn new(file: File) -> HoleWriter {
        HoleWriter {
            file,
            position: 0,
            ends_in_hole: false,
        }
    }

    /// Goes on at the end of a file of this many bytes.
    pub(crate) fn at(file: File, position: u64) -> HoleWriter {
        HoleWriter {
            position,
            ..HoleWriter::new(file)
        }
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes the file as long as what was written.
    pub fn end(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.ends_in_hole) {
            ftruncate(&self.file, self.position)?;
        }
        Ok(())
    }

    /// Makes the file as long as what was written, and returns it.
    pub fn finish(mut self) -> io::Result<File> {
        self.end()?;
        Ok(self.file)
    }
}

impl Write for HoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (data, zeros) = split_hole(bytes, self.position, self.ends_in_hole);
        if data > 0 {
            let count = rustix::io::pwrite(&self.file, &bytes[..data], self.position)?;
            self.position += count as u64;
            self.ends_in_hole = false;
            if count < data {
                return Ok(count);
            }
        }
        self.position += zeros as u64;
        self.ends_in_hole |= zeros > 0;
        Ok(data + zeros)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies the content of a file into an empty one, with its holes; returns its size in bytes.
///
/// File systems that can share the content do so. It ends with an error soon after `stop` says so.
pub fn copy_content(source: &File, target: &File, stop: &dyn Fn() -> bool) -> io::Result<u64> {
    let size = source.metadata()?.len();
    if size >= SHORTEST_HOLE as u64 && rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(size);
    }
    let mut position = 0;
    loop {
        match extent(source, position)? {
            Extent::Hole(end) => position = end,
            Extent::Data(end) => {
                let copied = copy_range(source, target, position, end, stop)?;
                position += copied;
                if position < end {
                    break;
                }
            }
            Extent::End => break,
        }
    }
    // A hole at the end is not written by anybody.
    if target.metadata()?.len() < position {
        ftruncate(target, position)?;
    }
    Ok(position)
}

/// Copies from `start` to `end`, or to the end of the file; returns the number of bytes.
fn copy_range(
    source: &File,
    target: &File,
    start: u64,
    end: u64,
    stop: &dyn Fn() -> bool,
) -> io::Result<u64> {
    let (mut from, mut to) = (start, start);
    while from < end {
        if stop() {
            return Err(io::Error::other("cancelled"));
        }
        let want = part(usize::MAX, (end - from).min(CHUNK));
        let copied = rustix::fs::copy_file_range(
            source.as_fd(),
            Some(&mut from),
            target.as_fd(),
            Some(&mut to),
            want,
        );
        match copied {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            // Not between these file systems, not in this sandbox: byte by byte.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                seek(source, SeekFrom::Start(from))?;
                seek(target, SeekFrom::Start(to))?;
                let (mut source, mut target) = (source, target);
                let left = (end - from).min(CHUNK);
                let copied = io::copy(&mut Read::by_ref(&mut source).take(left), &mut target)?;
                from += copied;
                to += copied;
                if copied < left {
                    break;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(from - start)
}

/// The beginning of `bytes` that is to be written as it is, and the zeros behind it that are not.
///
/// `offset` is where in the file the bytes belong: a hole begins with a whole block. `in_hole`: the
/// bytes before were not written; then zeros go on with that hole wherever it ended.
pub(crate) fn split_hole(bytes: &[u8], offset: u64, in_hole: bool) -> (usize, usize) {
    let first = part(
        bytes.len(),
        offset.next_multiple_of(SHORTEST_HOLE as u64) - offset,
    );
    let (begin, rest) = bytes.split_at(first);
    let goes_on = in_hole && is_zero(begin);
    let blocks = || rest.chunks(SHORTEST_HOLE);
    let data: usize = if goes_on && blocks().next().is_none_or(is_zero) {
        0
    } else {
        let before = blocks().take_while(|block| block.len() < SHORTEST_HOLE || !is_zero(block));
        first + before.map(<[u8]>::len).sum::<usize>()
    };
    let mut zeros = if data == 0 { first } else { 0 };
    for block in bytes[data + zeros..].chunks(SHORTEST_HOLE) {
        if !is_zero(block) {
            break;
        }
        zeros += block.len();
    }
    (data, zeros)
}

fn is_zero(bytes: &[u8]) -> bool {
    // The first byte tells most blocks; the rest is compared word by word.
    bytes
        .split_first()
        .is_none_or(|(first, rest)| *first == 0 && rest == &bytes[..rest.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    /// 16 MiB with three pieces of data, the last one at the end or before a hole.
    fn sparse(hole_at_end: bool) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(&[7; 5000], (8 << 20) + 1).unwrap();
        if hole_at_end {
            file.set_len(16 << 20).unwrap();
        } else {
            file.write_all_at(b"end", (16 << 20) - 3).unwrap();
        }
        file
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn holes_are_read_as_zeros() {
        for hole_at_end in [false, true] {
            let file = sparse(hole_at_end);
            let mut bytes = Vec::new();
            HoleReader::new(file.try_clone().unwrap())
                .read_to_end(&mut bytes)
                .unwrap();
            assert!(bytes == content(&file));
        }
        let mut empty = HoleReader::new(tempfile::tempfile().unwrap());
        assert_eq!(empty.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn a_copy_has_the_same_content_and_the_same_holes() {
        for hole_at_end in [false, true] {
            let (file, copy) = (sparse(hole_at_end), tempfile::tempfile().unwrap());
            assert_eq!(copy_content(&file, &copy, &|| false).unwrap(), 16 << 20);
            assert!(content(&copy) == content(&file));
            assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20);
        }
        let (mut file, copy) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        assert_eq!(copy_content(&file, &copy, &|| false).unwrap(), 0);
        file.write_all(&vec![3; 100_000]).unwrap();
        assert_eq!(copy_content(&file, &copy, &|| false).unwrap(), 100_000);
        assert!(content(&copy) == content(&file));
    }

    #[test]
    fn zeros_are_not_written() {
        for hole_at_end in [false, true] {
            let wanted = content(&sparse(hole_at_end));
            for piece in [1 << 20, 100_000, 9 << 20] {
                let mut writer = HoleWriter::new(tempfile::tempfile().unwrap());
                for bytes in wanted.chunks(piece) {
                    writer.write_all(bytes).unwrap();
                }
                let file = writer.finish().unwrap();
                assert!(content(&file) == wanted);
                assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
            }
        }
    }

    #[test]
    fn a_hole_begins_with_a_whole_block_of_zeros() {
        let block = SHORTEST_HOLE;
        let zeros = vec![0; 4 * block];
        assert_eq!(split_hole(&zeros, 0, false), (0, 4 * block));
        assert_eq!(split_hole(&zeros[..block - 1], 0, false), (block - 1, 0));
        // Up to the next block of the file it is data, unless a hole goes on.
        assert_eq!(split_hole(&zeros, 10, false), (block - 10, 3 * block + 10));
        assert_eq!(split_hole(&zeros, 10, true), (0, 4 * block));
        assert_eq!(split_hole(&zeros[..5], 10, true), (0, 5));
        let mut bytes = zeros.clone();
        bytes[block + 5] = 1;
        assert_eq!(split_hole(&bytes, 0, true), (0, block));
        assert_eq!(
            split_hole(&bytes[block..], block as u64, true),
            (block, 2 * block)
        );
        assert_eq!(split_hole(&bytes[block..][..9], block as u64, true), (9, 0));
        let mut last = zeros;
        last[4 * block - 1] = 1;
        assert_eq!(split_hole(&last, 0, false), (0, 3 * block));
        assert_eq!(split_hole(&last[3 * block..], 0, true), (block, 0));
        assert_eq!(split_hole(&[], 0, false), (0, 0));
        assert_eq!(split_hole(&[], 10, true), (0, 0));
        assert_eq!(split_hole(&[1], 10, true), (1, 0));
    }

    #[test]
    fn pieces_that_end_anywhere_do_not_fill_holes() {
        let wanted = content(&sparse(true));
        let mut writer = HoleWriter::new(tempfile::tempfile().unwrap());
        writer.write_all(&[9; 512]).unwrap();
        for bytes in wanted.chunks(33_333) {
            writer.write_all(bytes).unwrap();
        }
        let file = writer.finish().unwrap();
        assert!(content(&file)[512..] == wanted);
        assert!(file.metadata().unwrap().blocks() * 512 < 64 << 10);
    }
}
