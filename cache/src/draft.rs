//! A step's upper directory, from its making to the sealed layer.

use std::fs::{DirBuilder, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{CWD, Mode, Timespec, Timestamps};

use self::own::Own;
use crate::checkpoints::{self, Checkpoint};
use crate::diff;
use crate::digest::{DiffId, Digest};
use crate::error::StoreError;
use crate::fixed_times;
use crate::hash_beside::HashBeside;
use crate::owners;
use crate::session::Scratch;
use crate::store::Store;
use crate::sys;
use crate::tar_write::PaxWriter;
use crate::tree::{Layer, Over, Seal};
use crate::tree_tar::{self, Position, Start, Totals};
use crate::view::RootView;

mod own;

/// A fresh upper and work directory of a step. Dropping it without [`commit`](Draft::commit)
/// discards it.
#[must_use = "a draft that is dropped is discarded"]
pub struct Draft {
    store: Store,
    upper: PathBuf,
    work: PathBuf,
    scratch: Scratch,
}

/// Options of [`Draft::commit`].
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Paths inside the root that the runtime had to create as mount targets: left out of the
    /// layer if they are still empty and not in the parents.
    pub stubs: Vec<PathBuf>,
    /// Nobody but this program wrote to the upper directory, and not through a mount, so that a
    /// directory that is new holds nothing but what is new.
    pub written_here: bool,
    /// The time of everything in the layer, in seconds since 1970; without it, as it was written.
    pub times: Option<i64>,
    /// Ends the work with an error when it is set.
    pub stop: Option<Arc<AtomicBool>>,
    /// The layer is likely to be made again with small changes: keep what makes that cheap.
    pub versions: bool,
    /// Owner of what the step made, where owners are [recorded](crate::owners) and it has no other.
    pub owner: Option<(u32, u32)>,
}

/// Makes an upper and a work directory in `place`.
fn make_directories(place: &Path) -> Result<(PathBuf, PathBuf), StoreError> {
    let (upper, work) = (place.join("upper"), place.join("work"));
    for path in [&upper, &work] {
        DirBuilder::new()
            .mode(0o755)
            .create(path)
            .map_err(StoreError::io("create the directory", path))?;
    }
    // The process's umask must not show in an image.
    rustix::fs::chmod(&upper, Mode::from_raw_mode(0o755))
        .map_err(StoreError::io("set the mode of", &upper))?;
    Ok((upper, work))
}

/// Makes an upper and a work directory over `parents` (bottom first) in a directory of the caller's,
/// for what outlives the process.
pub fn writable_over(place: &Path, parents: &[Layer]) -> Result<(PathBuf, PathBuf), StoreError> {
    let (upper, work) = make_directories(place)?;
    inherit_root(&upper, parents)?;
    Ok((upper, work))
}

/// Gives the upper directory the mode, owner and time that `/` has in `parents`.
///
/// Overlay shows the root of the topmost directory, and that is this one.
fn inherit_root(path: &Path, parents: &[Layer]) -> Result<(), StoreError> {
    let root = RootView::new(parents).root_entry()?.metadata;
    let upper = File::open(path).map_err(StoreError::io("open", path))?;
    owners::set(&upper, root.uid, root.gid, root.mode)
        .map_err(StoreError::io("set owner and mode of", path))?;
    let time = Timespec {
        tv_sec: root.mtime.seconds,
        tv_nsec: i64::from(root.mtime.nanoseconds),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(&upper, &times).map_err(StoreError::io("set the times of", path))
}

impl Draft {
    pub(crate) fn new(store: &Store) -> Result<Draft, StoreError> {
        store.check_owners()?;
        let scratch = store.scratch()?;
        let (upper, work) = make_directories(scratch.path())?;
        Ok(Draft {
            store: store.clone(),
            upper,
            work,
            scratch,
        })
    }

    /// Returns the upper directory of the overlay mount.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// Tells whether nothing was made in the upper directory; if that cannot be seen, something may be there.
    pub fn is_empty(&self) -> bool {
        std::fs::read_dir(&self.upper).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Returns the work directory of the overlay mount; empty at first, on the same file system.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Makes the upper directory an immutable layer over `parents` (bottom first).
    ///
    /// Nothing may write to it any more. If the same layer is in the store already, that one is
    /// returned and the draft is discarded.
    pub fn commit(self, parents: &[Layer], options: &CommitOptions) -> Result<Layer, StoreError> {
        let root = rustix::fs::openat(CWD, &self.upper, sys::DIRECTORY, Mode::empty())
            .map_err(StoreError::io("open", &self.upper))?;
        diff::normalise(&root, &RootView::new(parents), options)?;
        if let Some(seconds) = options.times {
            fixed_times::set_all(&root, seconds)?;
        }
        let hashed = hash(&[&root], options, None)?;
        let diff_id = DiffId::from_digest(hashed.digest);
        self.store.protect_published(&hashed.digest)?;
        if let Some(known) = self.store.layer(&diff_id)? {
            self.store.remove_beside(self.scratch);
            return Ok(known);
        }
        let totals = &hashed.totals;
        let mut seal = Seal::new(diff_id, hashed.bytes, totals.entries, totals.headers);
        seal.content = totals.content;
        seal.shares = totals.shares;
        self.publish(seal, None, &hashed)
    }

    /// Makes the upper directory and the tree of an older version of the layer an immutable layer: what
    /// is not in the upper directory shows through.
    ///
    /// `left` entries of the older version are not in the upper directory. None if the two trees are
    /// not exactly these and those in the upper directory: then a whole layer has to be made.
    pub fn commit_over(
        self,
        old: &Layer,
        left: u64,
        parents: &[Layer],
        options: &CommitOptions,
    ) -> Result<Option<Layer>, StoreError> {
        let under = old.under().unwrap_or(old);
        if !under.seal().canonical || under.may_be_opaque() || options.times.is_some() {
            return Ok(None);
        }
        let root = rustix::fs::openat(CWD, &self.upper, sys::DIRECTORY, Mode::empty())
            .map_err(StoreError::io("open", &self.upper))?;
        diff::normalise(&root, &RootView::new(parents), options)?;
        let own = Own::look(&root, old)?;
        let mut known = self.store.checkpoints(old.diff_id());
        let unchanged = known.partition_point(|point| own.is_unchanged_before(&point.path));
        known.truncate(unchanged);
        let below = under.root_fd()?;
        let trees = [&root, &*below];
        if !known.last().is_some_and(|point| point.is_in(&trees)) {
            known.clear();
        }
        let hashed = hash(&trees, options, known.last())?;
        let totals = &hashed.totals;
        if totals.entries != own.entries + left || totals.links {
            return Ok(None);
        }
        let diff_id = DiffId::from_digest(hashed.digest);
        self.store.protect_published(&hashed.digest)?;
        if let Some(known) = self.store.layer(&diff_id)? {
            return Ok(Some(known));
        }
        let mut seal = Seal::new(diff_id, hashed.bytes, totals.entries, totals.headers);
        seal.content = totals.content;
        seal.shares = own.shares;
        let seal = seal.over(Over {
            layer: *under.diff_id(),
            content: own.content,
        });
        known.extend_from_slice(&hashed.checkpoints);
        let hashed = Hashed {
            checkpoints: known,
            ..hashed
        };
        self.publish(seal, Some(under.clone()), &hashed).map(Some)
    }

    fn publish(
        self,
        seal: Seal,
        under: Option<Layer>,
        hashed: &Hashed,
    ) -> Result<Layer, StoreError> {
        let layer = self.store.publish_tree(&self.upper, seal, under)?;
        if !hashed.checkpoints.is_empty() && !hashed.totals.links {
            self.store
                .keep_checkpoints(layer.diff_id(), &hashed.checkpoints);
        }
        self.store.remove_beside(self.scratch);
        Ok(layer)
    }
}

/// What a tree hashed to.
struct Hashed {
    digest: Digest,
    /// Bytes of the tar.
    bytes: u64,
    totals: Totals,
    /// If they are wanted.
    checkpoints: Vec<Checkpoint>,
}

/// Hashes the tar of a tree, from a checkpoint on if there is one.
fn hash(
    roots: &[&OwnedFd],
    options: &CommitOptions,
    from: Option<&Checkpoint>,
) -> Result<Hashed, StoreError> {
    let mut beside = HashBeside::new(options.stop.clone());
    let mut start = None;
    if let Some(point) = from
        && let Some((tar, headers)) = point.hashers()
    {
        beside = beside.after(tar, point.bytes);
        start = Some(Start {
            path: point.path.clone(),
            entries: point.entries,
            content: point.content,
            headers,
        });
    }
    let mut last = beside.bytes();
    let mut out = PaxWriter::new(beside);
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    let mut watch = |at: &Position<'_>, out: &mut PaxWriter<HashBeside>| {
        if !options.versions {
            return Ok(());
        }
        let hash = out.between()?;
        if hash.bytes() - last < checkpoints::STEP {
            return Ok(());
        }
        last = hash.bytes();
        hash.mark()?;
        checkpoints.push(Checkpoint {
            path: at.path.to_vec(),
            bytes: last,
            entries: at.entries,
            content: at.content,
            tar: Vec::new(),
            headers: at.headers.state(),
        });
        Ok(())
    };
    let totals = tree_tar::write_from(roots, &mut out, start, &mut watch)?;
    let hashed = out
        .finish()
        .and_then(HashBeside::finish)
        .map_err(StoreError::stream("write the layer"))?;
    for (point, state) in checkpoints.iter_mut().zip(hashed.marks) {
        point.tar = state;
    }
    Ok(Hashed {
        digest: hashed.digest,
        bytes: hashed.bytes,
        totals,
        checkpoints,
    })
}

impl Store {
    /// Makes a fresh upper and work directory for a step, with an empty root of mode 0755.
    pub fn draft(&self) -> Result<Draft, StoreError> {
        Draft::new(self)
    }

    /// Makes a fresh upper and work directory whose root has the mode, owner and time that `/` has
    /// in `parents` (bottom first).
    pub fn draft_on(&self, parents: &[Layer]) -> Result<Draft, StoreError> {
        let draft = Draft::new(self)?;
        inherit_root(&draft.upper, parents)?;
        Ok(draft)
    }
}
