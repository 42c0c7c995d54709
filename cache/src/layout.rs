//! Where things are in the store's directory.
//!
//! ```text
//! format            version, read first
//! boot              boot in which the store was last found or made sound
//! recorded-owners   there if the owners in trees are recorded and not those of the files
//! lock              flock: shared while the store is open, exclusive to upgrade the format
//! reserve           space that pruning gives up when the disk is full
//! tmp/<boot>-<pid>-<start>-<n>   everything unfinished; locked by its owner
//! blobs/sha256/ab/<hex>          immutable; mode 0400 until flushed, then 0444
//! trees/<hex>/, trees/<hex>.seal unpacked layers by diff ID; without its seal a tree is garbage; one may
//!                                lie over another, see `tree.rs`
//! stacks/<hex>/   the lowest layers of deep images on each other, see `stack.rs`; removed after a boot
//! partial/<hex>                  downloads that broke off, to go on with; locked while written
//! meta.db           SQLite: images, names, build records, blobs of layers
//! leases/<name>     what a living process uses, one digest a line; locked by its owner
//! builds/<name>/    what is kept of past builds, see `builds.rs`
//! volumes/<name>/   volumes of containers, see `volumes.rs`
//! locks/<hex>       named locks;  memo/<hex>  flat files of others;  mounts/<hex>/  cache mounts
//! ```
//!
//! Every name below is made of digests, of this process's identity or of a hash of a caller's text:
//! nothing from outside becomes a path, but the names of volumes, which are letters, digits and `_.-`.
//! `containers/` belongs to the runtime, `events` and `events.1` to the command.

use std::path::{Path, PathBuf};

use crate::digest::{DiffId, Digest};

/// The paths of one store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Layout {
        Layout {
            root: root.to_path_buf(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    pub(crate) fn recorded_owners(&self) -> PathBuf {
        self.root.join("recorded-owners")
    }

    pub(crate) fn boot(&self) -> PathBuf {
        self.root.join("boot")
    }

    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let mut path = self.blobs();
        path.push(&hex[..2]);
        path.push(hex);
        path
    }

    pub(crate) fn trees(&self) -> PathBuf {
        self.root.join("trees")
    }

    pub(crate) fn tree(&self, diff_id: &DiffId) -> PathBuf {
        self.trees().join(diff_id.hex())
    }

    pub(crate) fn seal(&self, diff_id: &DiffId) -> PathBuf {
        self.trees().join(format!("{}.seal", diff_id.hex()))
    }

    pub(crate) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.partials().join(digest.hex())
    }

    pub(crate) fn stacks(&self) -> PathBuf {
        self.root.join("stacks")
    }

    pub(crate) fn stack(&self, id: &Digest) -> PathBuf {
        self.stacks().join(id.hex())
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("meta.db")
    }

    /// What was written to the database and is not in it yet.
    pub(crate) fn database_wal(&self) -> PathBuf {
        self.root.join("meta.db-wal")
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// File of the lock with a name of any form.
    pub(crate) fn named_lock(&self, name: &str) -> PathBuf {
        self.locks().join(Digest::of(name.as_bytes()).hex())
    }

    pub(crate) fn memo(&self) -> PathBuf {
        self.root.join("memo")
    }

    pub(crate) fn mounts(&self) -> PathBuf {
        self.root.join("mounts")
    }

    pub(crate) fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Directories that every store has.
    pub(crate) fn directories(&self) -> [PathBuf; 10] {
        [
            self.tmp(),
            self.blobs(),
            self.trees(),
            self.stacks(),
            self.partials(),
            self.leases(),
            self.locks(),
            self.memo(),
            self.mounts(),
            self.builds(),
        ]
    }
}
