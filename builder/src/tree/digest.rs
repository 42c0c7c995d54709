//! What a part of a tree *is*, as a digest: paths, types, modes, owners, links, contents.
//!
//! Not times, not hard-link structure (language reference, section 10). Fields are written with
//! their lengths in front, children in byte order, so that no two trees encode alike.

use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rbuild_cache::{Digest, FileKind, ViewEntry, ViewError};
use rbuild_parser::IgnoreMatcher;
use sha2::{Digest as _, Sha256};

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

/// One line of the listing that the digest is taken over.
struct Item {
    path: PathBuf,
    entry: ViewEntry,
}

/// Digest of what copying `entry` would take.
///
/// For a directory that is its content without its own mode and owner, since a copy does not take
/// those (case C11); `exclude` is relative to it.
pub(crate) fn content_digest(
    tree: &SourceTree,
    entry: &ViewEntry,
    exclude: Option<&IgnoreMatcher>,
    memo: &FileMemo,
) -> Result<Digest, DigestError> {
    let mut items = Vec::new();
    if entry.metadata.kind == FileKind::Directory {
        collect(tree, &entry.path, exclude, &mut items)?;
    } else {
        items.push(Item {
            path: PathBuf::new(),
            entry: entry.clone(),
        });
    }
    // Files are read on all cores; the order of the digests is that of the listing.
    let contents: Vec<Option<[u8; 32]>> = items
        .par_iter()
        .map(|item| match item.entry.metadata.kind {
            FileKind::File => read(tree, &item.entry, memo).map(Some),
            _ => Ok(None),
        })
        .collect::<Result<_, _>>()?;
    let mut hasher = Sha256::new();
    for (item, content) in items.iter().zip(contents) {
        update(&mut hasher, tree, item, content)?;
    }
    Ok(Digest::from_bytes(hasher.finalize().into()))
}

fn read(tree: &SourceTree, entry: &ViewEntry, memo: &FileMemo) -> Result<[u8; 32], DigestError> {
    let mut file = tree.view().open(entry)?;
    memo.digest(&mut file).map_err(|source| DigestError::Read {
        path: entry.path.clone(),
        source,
    })
}

fn collect(
    tree: &SourceTree,
    top: &Path,
    exclude: Option<&IgnoreMatcher>,
    items: &mut Vec<Item>,
) -> Result<(), DigestError> {
    let mut open = vec![(top.to_path_buf(), PathBuf::new())];
    while let Some((directory, shown)) = open.pop() {
        for child in tree.children(&directory)? {
            let path = shown.join(child.name());
            let excluded = exclude.is_some_and(|matcher| matcher.ignored(&path.to_string_lossy()));
            if child.metadata.kind == FileKind::Directory {
                open.push((child.path.clone(), path.clone()));
            }
            if !excluded {
                items.push(Item { path, entry: child });
            }
        }
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(())
}

fn update(
    hasher: &mut Sha256,
    tree: &SourceTree,
    item: &Item,
    content: Option<[u8; 32]>,
) -> Result<(), DigestError> {
    use std::os::unix::ffi::OsStrExt;
    let mut field = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let metadata = &item.entry.metadata;
    let (uid, gid) = tree.owner(&item.entry);
    field(item.path.as_os_str().as_bytes());
    field(&[metadata.kind as u8]);
    if metadata.kind != FileKind::Symlink {
        field(&metadata.mode.to_le_bytes());
    }
    field(&uid.to_le_bytes());
    field(&gid.to_le_bytes());
    field(
        item.entry
            .link_target
            .as_ref()
            .map_or(&[][..], |target| target.as_bytes()),
    );
    field(&metadata.rdev.0.to_le_bytes());
    field(&metadata.rdev.1.to_le_bytes());
    field(content.as_ref().map_or(&[][..], |digest| &digest[..]));
    for (name, value) in tree.view().xattrs(&item.entry)? {
        if copied_xattr(&name.to_string_lossy()) {
            field(name.as_bytes());
            field(&value);
        }
    }
    Ok(())
}

/// Extended attributes that a copy keeps: the user's own, and file capabilities.
pub(crate) fn copied_xattr(name: &str) -> bool {
    name == "security.capability"
        || !(name.starts_with("security.")
            || name.starts_with("system.")
            || name.starts_with("trusted."))
}
