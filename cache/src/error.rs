//! What can go wrong in the store and in looking at trees.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{DiffId, Digest};
use crate::view::absolute;

/// A failure of the store.
///
/// Texts do not repeat their source: print the whole chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The layers in the store were made where owners are kept in another way.
    #[error(
        "the layers in the store `{}` {}, and this user {}: use another store (`--root DIR`), or remove this one",
        root.display(),
        if *recorded { "have owners that are only recorded" } else { "have owners of their own" },
        if *recorded { "can set them" } else { "can set none" }
    )]
    OtherOwners {
        /// The store.
        root: PathBuf,
        /// The store's are recorded.
        recorded: bool,
    },
    /// A system call on a path failed.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A stream (network body, pipe, archive) could not be read or written.
    #[error("could not {action}")]
    Stream {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The store was written by an incompatible version.
    #[error("the store `{}` has format {found}, this program knows format {supported}", root.display())]
    Format {
        /// Root directory of the store.
        root: PathBuf,
        /// What its `format` file says.
        found: String,
        /// The version that this program reads and writes.
        supported: u32,
    },
    /// Streamed or stored bytes do not have the digest that they should have.
    #[error("{what} is corrupt: expected {expected}, its content hashes to {actual}")]
    Corrupt {
        /// What was checked, e.g. `blob` or `layer`.
        what: &'static str,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest that was found.
        actual: Digest,
    },
    /// No blob with this digest is in the store.
    #[error("blob {digest} is not in the store")]
    MissingBlob {
        /// The digest that was asked for.
        digest: Digest,
    },
    /// Neither a tree nor a blob of this layer is in the store.
    #[error("layer {diff_id} is not in the store")]
    MissingLayer {
        /// The layer that was asked for.
        diff_id: DiffId,
    },
    /// A limit was reached; nothing was published.
    #[error("{what} is over the limit `{limit}`: {seen} > {allowed}")]
    Limit {
        /// What was over the limit, e.g. an entry's escaped name.
        what: String,
        /// Name of the limit, as the field of [`Limits`](crate::Limits).
        limit: &'static str,
        /// The value that was seen.
        seen: u64,
        /// The value that is allowed.
        allowed: u64,
    },
    /// An archive cannot be read or would do something that is not allowed.
    #[error("archive entry `{entry}`: {reason}")]
    Archive {
        /// Escaped name of the entry, or where in the stream.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of a step cannot be represented in a layer.
    #[error("`{path}` cannot be stored in a layer: {reason}")]
    NotRepresentable {
        /// Escaped path in the root file system.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// The metadata database refused.
    #[error("could not {action} in the metadata database")]
    Database {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: rusqlite::Error,
    },
    /// A document of the store (seal, record, manifest) is not what it should be.
    #[error("could not read {what}: {reason}")]
    Document {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An image query matches more than one image.
    #[error("`{query}` is ambiguous: it matches {matches} images")]
    Ambiguous {
        /// The query.
        query: String,
        /// How many images it matches.
        matches: usize,
    },
    /// Looking at a tree failed.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl StoreError {
    /// Makes an [`Io`](StoreError::Io) error; for `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> StoreError {
        move |source| StoreError::Io {
            action,
            path: path.to_path_buf(),
            source: source.into(),
        }
    }

    /// The same for a path inside a root that has no leading slash.
    pub(crate) fn inside<E: Into<io::Error>>(
        action: &'static str,
        path: &[u8],
    ) -> impl FnOnce(E) -> StoreError {
        move |source| StoreError::Io {
            action,
            path: absolute(path),
            source: source.into(),
        }
    }

    /// Makes a [`Stream`](StoreError::Stream) error; for `map_err`.
    pub(crate) fn stream<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> StoreError {
        move |source| StoreError::Stream {
            action,
            source: source.into(),
        }
    }

    /// Makes a [`Database`](StoreError::Database) error; for `map_err`.
    pub(crate) fn database(action: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
        move |source| StoreError::Database { action, source }
    }
}

/// A failure of looking something up in a merged tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// Following symbolic links did not end.
    #[error("too many links in `{}`", path.display())]
    TooManyLinks {
        /// The path that was looked up.
        path: PathBuf,
    },
    /// A component that is not a directory was used as one.
    #[error("`{}` is not a directory", path.display())]
    NotADirectory {
        /// The path of that component, inside the root.
        path: PathBuf,
    },
    /// Nothing is there.
    #[error("`{}` does not exist", path.display())]
    NotFound {
        /// The path that was looked up, inside the root.
        path: PathBuf,
    },
    /// The path names something of another kind than asked for.
    #[error("`{}` is not a regular file", path.display())]
    NotAFile {
        /// The path that was looked up, inside the root.
        path: PathBuf,
    },
    /// A file is larger than the caller wants to read.
    #[error("`{}` has {size} bytes, more than the {limit} that are read", path.display())]
    TooLarge {
        /// The path inside the root.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The caller's limit in bytes.
        limit: u64,
    },
    /// A system call failed.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// Path inside the root, or of a layer on the host.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl ViewError {
    /// Makes an [`Io`](ViewError::Io) error; for `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> ViewError {
        move |source| ViewError::Io {
            action,
            path: path.to_path_buf(),
            source: source.into(),
        }
    }

    /// The same for a path inside a root that has no leading slash.
    pub(crate) fn inside<E: Into<io::Error>>(
        action: &'static str,
        path: &[u8],
    ) -> impl FnOnce(E) -> ViewError {
        move |source| ViewError::Io {
            action,
            path: absolute(path),
            source: source.into(),
        }
    }
}

/// Makes bytes from outside fit to stand in a message: control characters are escaped.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_control() {
                text.extend(letter.escape_default());
            } else {
                text.push(letter);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}
