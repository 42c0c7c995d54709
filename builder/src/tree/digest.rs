//! What a part of a tree *is*, as a digest: paths, types, modes, owners, links, contents.
//!
//! Not times, not hard-link structure (language reference, section 10). Fields are written with
//! their lengths in front, entries in byte order of their paths, so that no two trees encode alike.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rbuild_cache::{Digest, FileKind, Metadata, ViewEntry, ViewError};
use rbuild_parser::IgnoreMatcher;
use sha2::{Digest as _, Sha256};

use super::memo::{FileDigest, now};
use super::scan::Scan;
use super::{FileMemo, SourceTree};

/// Why a digest could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DigestError {
    /// The tree could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A file could not be read.
    #[error("could not read `{}`", path.display())]
    Read {
        /// The file, inside the tree.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<io::Error> for DigestError {
    fn from(source: io::Error) -> DigestError {
        DigestError::Read {
            path: PathBuf::new(),
            source,
        }
    }
}

impl DigestError {
    /// The same with the path that it is about.
    pub(super) fn at(self, path: &Path) -> DigestError {
        match self {
            DigestError::Read { source, .. } => DigestError::Read {
                path: path.to_path_buf(),
                source,
            },
            DigestError::View(error) => DigestError::View(error),
        }
    }
}

/// The entries of a copied source and the digest over all of them.
#[derive(Debug)]
pub(crate) struct Content {
    /// Over everything that a copy takes.
    pub(crate) digest: Digest,
    /// Each of it, in byte order of the paths.
    pub(crate) entries: Vec<Entry>,
    /// When the looking began: what changed later may differ.
    pub(crate) began: i128,
}

/// One file or directory of a source.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Path below the source; empty for a source that is no directory.
    pub(crate) path: Vec<u8>,
    /// What `lstat` said.
    pub(crate) metadata: Metadata,
    /// User and group that a copy gets unless it is told otherwise.
    pub(crate) owner: (u32, u32),
    /// Target of a symlink.
    pub(crate) link_target: Option<OsString>,
    /// Extended attributes of everything that is no regular file.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Layer that it comes from, in a tree that has some.
    pub(crate) source: usize,
    /// Of a regular file, attributes included.
    pub(super) content: Option<FileDigest>,
    /// Half of the SHA-256 over everything that a copy takes.
    pub(crate) digest: [u8; 16],
}

impl Entry {
    pub(super) fn new(path: Vec<u8>, metadata: Metadata, owner: (u32, u32)) -> Entry {
        Entry {
            path,
            metadata,
            owner,
            link_target: None,
            xattrs: Vec::new(),
            source: 0,
            content: None,
            digest: [0; 16],
        }
    }

    /// Whether it is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.metadata.kind == FileKind::Directory
    }

    /// The last component of its path.
    pub(crate) fn name(&self) -> &[u8] {
        let slash = self.path.iter().rposition(|byte| *byte == b'/');
        &self.path[slash.map_or(0, |slash| slash + 1)..]
    }

    /// As an entry of the tree, where the source is at `top`.
    pub(crate) fn at(&self, top: &Path) -> ViewEntry {
        ViewEntry {
            path: top.join(OsStr::from_bytes(&self.path)),
            metadata: self.metadata,
            link_target: self.link_target.clone(),
            source: self.source,
        }
    }

    fn whole_digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        let metadata = &self.metadata;
        field(&self.path);
        field(&[metadata.kind as u8]);
        if metadata.kind != FileKind::Symlink {
            field(&metadata.mode.to_le_bytes());
        }
        field(&self.owner.0.to_le_bytes());
        field(&self.owner.1.to_le_bytes());
        let target = self.link_target.as_ref();
        field(target.map_or(&[][..], |target| target.as_bytes()));
        field(&metadata.rdev.0.to_le_bytes());
        field(&metadata.rdev.1.to_le_bytes());
        field(self.content.as_ref().map_or(&[][..], |digest| &digest[..]));
        for (name, value) in &self.xattrs {
            field(name);
            field(value);
        }
        hasher.finalize().into()
    }
}

/// What copying `entry` would take.
///
/// For a directory that is its content without its own mode and owner, since a copy does not take
/// those (case C11); `exclude` is relative to it.
pub(crate) fn content(
    tree: &SourceTree,
    entry: &ViewEntry,
    exclude: Option<&IgnoreMatcher>,
    memo: &FileMemo,
) -> Result<Content, DigestError> {
    let began = now();
    let mut items = if entry.metadata.kind != FileKind::Directory {
        vec![item(tree, Vec::new(), entry, memo)?]
    } else if let Some(live) = tree.live() {
        let scan = Scan {
            tree: live?,
            ignore: tree.ignore(),
            memo,
        };
        scan.run(&entry.path)?
    } else {
        let mut entries = Vec::new();
        collect(tree, &entry.path, &mut entries)?;
        entries
            .into_par_iter()
            .map(|(path, entry)| item(tree, path, &entry, memo))
            .collect::<Result<_, _>>()?
    };
    if let Some(exclude) = exclude {
        items.retain(|item| {
            item.path.is_empty() || !exclude.ignored(&String::from_utf8_lossy(&item.path))
        });
    }
    items.par_sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let digests: Vec<[u8; 32]> = items.par_iter().map(Entry::whole_digest).collect();
    let mut hasher = Sha256::new();
    hasher.update((digests.len() as u64).to_le_bytes());
    for (item, digest) in items.iter_mut().zip(&digests) {
        hasher.update(digest);
        item.digest.copy_from_slice(&digest[..16]);
    }
    Ok(Content {
        entries: items,
        began,
        digest: Digest::from_bytes(hasher.finalize().into()),
    })
}

fn item(
    tree: &SourceTree,
    path: Vec<u8>,
    entry: &ViewEntry,
    memo: &FileMemo,
) -> Result<Entry, DigestError> {
    let mut item = Entry::new(path, entry.metadata, tree.owner(entry));
    item.source = entry.source;
    item.link_target.clone_from(&entry.link_target);
    match entry.metadata.kind {
        FileKind::File => {
            let open = || tree.view().open(entry).map_err(DigestError::from);
            let content = memo.digest(&entry.metadata, open);
            item.content = Some(content.map_err(|error| error.at(&entry.path))?);
        }
        FileKind::Symlink => {}
        _ => {
            let xattrs = tree.view().xattrs(entry)?.into_iter();
            item.xattrs = xattrs
                .map(|(name, value)| (name.as_bytes().to_vec(), value))
                .filter(|(name, _)| is_copied_xattr(name))
                .collect();
        }
    }
    Ok(item)
}

/// Everything below a directory of a root file system.
fn collect(
    tree: &SourceTree,
    top: &Path,
    entries: &mut Vec<(Vec<u8>, ViewEntry)>,
) -> Result<(), DigestError> {
    let mut open = vec![(top.to_path_buf(), PathBuf::new())];
    while let Some((directory, shown)) = open.pop() {
        for child in tree.children(&directory)? {
            let path = shown.join(child.name());
            if child.metadata.kind == FileKind::Directory {
                open.push((child.path.clone(), path.clone()));
            }
            entries.push((path.into_os_string().into_encoded_bytes(), child));
        }
    }
    Ok(())
}

/// Extended attributes that a copy keeps: the user's own, and file capabilities.
pub(crate) fn copied_xattr(name: &str) -> bool {
    is_copied_xattr(name.as_bytes())
}

/// The same for the bytes of a name; the empty name is none.
pub(super) fn is_copied_xattr(name: &[u8]) -> bool {
    let begins = |prefix: &[u8]| name.starts_with(prefix);
    name == b"security.capability"
        || !(name.is_empty()
            || begins(b"security.")
            || begins(b"system.")
            || begins(b"trusted.")
            || begins(b"user.overlay."))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Arc;

    use rbuild_cache::Follow;

    use super::*;

    fn of(directory: &Path, ignore: &str, path: &str) -> Content {
        let matcher = IgnoreMatcher::parse(ignore.as_bytes()).unwrap();
        let tree = SourceTree::directory(directory, Some(Arc::new(matcher)), "context");
        let entry = tree.view().lookup(path, Follow::Last).unwrap().unwrap();
        let memo = FileMemo::load(&directory.join("no memo"));
        content(&tree, &entry, None, &memo).unwrap()
    }

    fn paths(content: &Content) -> Vec<String> {
        let text = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
        content
            .entries
            .iter()
            .map(|entry| text(&entry.path))
            .collect()
    }

    fn tree() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/deep/er")).unwrap();
        for name in ["a/deep/er/kept", "a/deep/lost", "a/x", "b"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        symlink("x", directory.path().join("a/link")).unwrap();
        directory
    }

    #[test]
    fn ignored_entries_are_out_and_parents_of_what_is_taken_back_are_in() {
        let directory = tree();
        let all = of(directory.path(), "", "/");
        let every = [
            "a",
            "a/deep",
            "a/deep/er",
            "a/deep/er/kept",
            "a/deep/lost",
            "a/link",
            "a/x",
            "b",
        ];
        assert_eq!(paths(&all), every);
        let some = of(directory.path(), "a\n!a/deep/er/kept\n", "/");
        assert_eq!(
            paths(&some),
            ["a", "a/deep", "a/deep/er", "a/deep/er/kept", "b"]
        );
        let none = of(directory.path(), "a\n!a/no/such\n", "/");
        assert_eq!(paths(&none), ["b"]);
        let below = of(directory.path(), "a/deep\n", "/a");
        assert_eq!(paths(&below), ["link", "x"]);
    }

    #[test]
    fn what_a_copy_takes_changes_the_digest_and_nothing_else_does() {
        let directory = tree();
        let path = |name: &str| directory.path().join(name);
        let digest = || of(directory.path(), "ignored\n", "/a").digest;
        let before = digest();
        let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        let file = fs::File::options().write(true).open(path("a/x")).unwrap();
        file.set_times(old).unwrap();
        fs::write(path("a/ignored"), "").unwrap();
        fs::write(path("b"), "other").unwrap();
        // The top's own mode is not taken.
        fs::set_permissions(path("a"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_file(path("a/ignored")).unwrap();
        assert_eq!(digest(), before);
        let mut seen = vec![before];
        let changes: [&dyn Fn(); 5] = [
            &|| fs::write(path("a/x"), "changed").unwrap(),
            &|| fs::set_permissions(path("a/x"), fs::Permissions::from_mode(0o755)).unwrap(),
            &|| fs::create_dir(path("a/empty")).unwrap(),
            &|| fs::rename(path("a/x"), path("a/y")).unwrap(),
            &|| {
                fs::remove_file(path("a/link")).unwrap();
                symlink("elsewhere", path("a/link")).unwrap();
            },
        ];
        for change in changes {
            change();
            let now = digest();
            assert!(!seen.contains(&now));
            seen.push(now);
        }
    }
}
