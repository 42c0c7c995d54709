//! Directories of a layer whose tree lies on that of another: shown as one, without a mount.
//!
//! The topmost tree that has a name decides what it is, and directories merge. There are no deletions
//! between the trees of one layer (see [`tree`](crate::tree)): a whiteout is an entry like any other.

use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::entry::Metadata;
use crate::sys;

/// A directory, open in each of the trees that have it, topmost first.
pub(crate) struct Parts(Vec<OwnedFd>);

/// A name in a directory.
pub(crate) struct Name {
    pub(crate) text: Vec<u8>,
    /// The topmost part that has it.
    part: usize,
}

impl Parts {
    /// Opens the directory at a path in the trees with these roots, topmost first.
    ///
    /// # Errors
    ///
    /// No tree has it, it is no directory in the topmost one that has something there, or the kernel's.
    pub(crate) fn open<R: Deref<Target = OwnedFd>>(roots: &[R], path: &[u8]) -> io::Result<Parts> {
        Parts::collect(
            roots
                .iter()
                .map(|root| sys::open_beneath(&**root, path, sys::LIST)),
        )
    }

    /// Opens the directory `name` in this one.
    pub(crate) fn enter(&self, name: &Name) -> io::Result<Parts> {
        let open = |part: &OwnedFd| {
            Ok(rustix::fs::openat(
                part,
                name.text.as_slice(),
                sys::LIST,
                Mode::empty(),
            )?)
        };
        Parts::collect(self.0[name.part..].iter().map(open))
    }

    fn collect(opened: impl Iterator<Item = io::Result<OwnedFd>>) -> io::Result<Parts> {
        let mut parts = Vec::with_capacity(1);
        for part in opened {
            match part {
                Ok(part) => parts.push(part),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NOENT) => {}
                    // What lies there is hidden by the directory above it.
                    Some(Errno::NOTDIR | Errno::LOOP) if !parts.is_empty() => break,
                    _ => return Err(error),
                },
            }
        }
        if parts.is_empty() {
            return Err(Errno::NOENT.into());
        }
        Ok(Parts(parts))
    }

    /// The directory in the topmost tree that has it, which decides its metadata.
    pub(crate) fn top(&self) -> &OwnedFd {
        &self.0[0]
    }

    /// The part that a name is in.
    pub(crate) fn part(&self, name: &Name) -> &OwnedFd {
        &self.0[name.part]
    }

    /// The names in it, in byte order.
    pub(crate) fn names(&self) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for (part, fd) in self.0.iter().enumerate() {
            let found = sys::names(fd)?.into_iter();
            names.extend(found.map(|text| Name { text, part }));
        }
        // Of one name the topmost part comes first, and that stays.
        names.sort_unstable_by(|a, b| a.text.cmp(&b.text).then(a.part.cmp(&b.part)));
        if self.0.len() > 1 {
            names.dedup_by(|later, first| later.text == first.text);
        }
        Ok(names)
    }

    /// Looks at a name: the part that it is in, and what it is; none if nothing is there.
    pub(crate) fn find(&self, name: &[u8]) -> io::Result<Option<(&OwnedFd, Metadata)>> {
        for part in &self.0 {
            if let Some(found) = sys::lstat(part, name)? {
                return Ok(Some((part, found)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::CWD;
    use std::fs;

    use super::*;

    #[test]
    fn two_trees_are_shown_as_one() {
        let directory = tempfile::tempdir().unwrap();
        let (top, below) = (directory.path().join("top"), directory.path().join("below"));
        fs::create_dir_all(top.join("both")).unwrap();
        fs::create_dir_all(below.join("both/deep")).unwrap();
        fs::create_dir_all(below.join("hidden/deep")).unwrap();
        fs::write(top.join("both/file"), "top").unwrap();
        fs::write(below.join("both/file"), "lower").unwrap();
        fs::write(below.join("both/a"), "a").unwrap();
        fs::write(top.join("hidden"), "a file").unwrap();
        fs::write(below.join("file"), "").unwrap();
        fs::create_dir(top.join("file")).unwrap();
        let roots: Vec<OwnedFd> = [&top, &below]
            .map(|path| rustix::fs::openat(CWD, path, sys::DIRECTORY, Mode::empty()).unwrap())
            .into();
        let roots: Vec<&OwnedFd> = roots.iter().collect();

        let root = Parts::open(&roots, b"").unwrap();
        let names = root.names().unwrap();
        let texts: Vec<_> = names.iter().map(|name| name.text.as_slice()).collect();
        assert_eq!(texts, [&b"both"[..], b"file", b"hidden"]);
        let both = root.enter(&names[0]).unwrap();
        let inside = both.names().unwrap();
        let texts: Vec<_> = inside.iter().map(|name| name.text.as_slice()).collect();
        assert_eq!(texts, [&b"a"[..], b"deep", b"file"]);
        assert_eq!(both.find(b"file").unwrap().unwrap().1.size, 3);
        assert_eq!(both.find(b"a").unwrap().unwrap().1.size, 1);
        assert!(both.find(b"none").unwrap().is_none());
        assert!(Parts::open(&roots, b"both/deep").is_ok());
        // A directory over a file, and a file over a directory.
        assert!(root.enter(&names[1]).unwrap().names().unwrap().is_empty());
        assert!(Parts::open(&roots, b"hidden").is_err());
        assert!(Parts::open(&roots, b"none").is_err());
    }
}
