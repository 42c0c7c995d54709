//! The store: one directory that many processes share. How the parts of it lie on disk is drawn in
//! `layout.rs`; this file opens it, keeps track of what is not flushed yet, and flushes.
//!
//! Order of writing, so that nothing that can be found is ever half there: bytes below `tmp/`,
//! renamed into `blobs/` or `trees/` when complete, then the seal of a tree, then a build record,
//! then, after one flush of the file system, a name. Records are not preceded by a flush: it would
//! cost more than most steps. After a power cut they may refer to a tree or blob that was lost; the
//! first command in the new boot removes what is not whole (see `recover.rs`), and a record whose
//! outputs are not all there is a miss.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::digest::{DiffId, Digest};
use crate::disk;
use crate::error::StoreError;
use crate::flush::{self, Unflushed};
use crate::flush_ahead::FlushAhead;
use crate::held::Held;
use crate::layout::Layout;
use crate::lease::Published;
use crate::lock::{Hold, StoreLock};
use crate::marks;
use crate::meta::Meta;
use crate::owners;
use crate::recover;
use crate::session::{self, Scratch};
use crate::sweep::Sweeper;
use crate::tree::Seal;

/// Version of the store's layout.
const FORMAT: u32 = 1;

/// What the `format` file begins with.
const FORMAT_NAME: &str = "rbuild-store";

/// How much of a power cut the store survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A named image is on disk when the command that named it ends.
    #[default]
    Full,
    /// Nothing is flushed: for throw-away disks.
    None,
}

/// Options of [`Store::open`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreOptions {
    /// How much of a power cut the store survives.
    pub durability: Durability,
}

/// A store; cheap to clone, usable from all threads.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    /// First, so that what it removes has gone before the store is left to others.
    sweeper: Sweeper,
    layout: Layout,
    meta: Meta,
    durability: Durability,
    /// Written by this process and not flushed yet.
    pending: Mutex<Pending>,
    ahead: FlushAhead,
    held: Held,
    published: Published,
    warnings: Mutex<Vec<String>>,
    /// Ends long writing.
    stop: Mutex<Option<Arc<AtomicBool>>>,
    /// Keeps others from changing the layout while we use it.
    open: StoreLock,
}

#[derive(Default)]
struct Pending {
    blobs: BTreeSet<Digest>,
    /// With how many entries each has.
    trees: BTreeMap<DiffId, u64>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.trees.is_empty()
    }

    fn unflushed(&self) -> Unflushed {
        Unflushed {
            blobs: self.blobs.iter().copied().collect(),
            trees: self.trees.keys().copied().collect(),
            entries: self.trees.values().sum(),
        }
    }
}

/// A persistent directory of `RUN --mount=type=cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// The directory.
    pub path: PathBuf,
    /// Whether this call made it; then the caller fills it and sets its owner and mode.
    pub created: bool,
}

impl Store {
    /// Opens the store, creating it (0700) if it is not there.
    ///
    /// Checks the format, makes the store sound after another boot, and collects what dead
    /// processes left behind.
    pub fn open(root: &Path, options: &StoreOptions) -> Result<Store, StoreError> {
        // Paths handed out must stay right when the process changes its directory.
        let root = std::path::absolute(root).map_err(StoreError::io("find", root))?;
        let layout = Layout::new(&root);
        create(&layout)?;
        let open = StoreLock::wait(&layout.lock(), Hold::Shared)?;
        check_format(&layout)?;
        let mut warnings = Vec::new();
        let mut complain = |error: StoreError| warnings.push(message(&error));
        for directory in [layout.tmp(), layout.leases()] {
            session::collect_dead(&layout, &directory, &mut complain)?;
        }
        marks::settle(&layout.tmp())?;
        recover::after_boot(&layout, options.durability, &mut warnings)?;
        let meta = Meta::open(&layout)?;
        disk::keep_reserve(&layout);
        Ok(Store(Arc::new(Inner {
            sweeper: Sweeper::default(),
            layout,
            meta,
            durability: options.durability,
            pending: Mutex::default(),
            ahead: FlushAhead::default(),
            held: Held::default(),
            published: Published::default(),
            warnings: Mutex::new(warnings),
            stop: Mutex::default(),
            open,
        })))
    }

    /// Has blobs that are written, and whoever asks [`check_stop`](Store::check_stop), end with an
    /// error once the flag is set. A later flag takes the place of an earlier one.
    pub fn stop_with(&self, flag: Arc<AtomicBool>) {
        *self.0.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(flag);
    }

    /// The flag that ends long writing, if there is one.
    pub fn stop_flag(&self) -> Option<Arc<AtomicBool>> {
        let stop = self.0.stop.lock();
        stop.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An error once the flag is set.
    pub fn check_stop(&self) -> std::io::Result<()> {
        check_stop(self.stop_flag().as_deref())
    }

    /// Does something while no other process has the store open, if that is so now; says whether.
    pub(crate) fn while_alone<T>(
        &self,
        action: impl FnOnce(bool) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let path = self.0.layout.lock();
        let alone = self.0.open.try_alone(&path)?;
        let result = action(alone);
        if alone {
            self.0.open.share(&path)?;
        }
        result
    }

    /// Returns what was found damaged and set aside or left behind, in words.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self
            .0
            .warnings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        warnings.append(&mut self.0.meta.warnings());
        warnings
    }

    /// Fails if the trees of this store have owners of another kind than this process makes.
    ///
    /// # Errors
    ///
    /// [`StoreError::OtherOwners`], or a file that cannot be read or written.
    pub(crate) fn check_owners(&self) -> Result<(), StoreError> {
        let layout = &self.0.layout;
        let recorded = owners::are_recorded();
        let mark = layout.recorded_owners();
        let marked = mark.exists();
        if recorded == marked {
            return Ok(());
        }
        let trees = layout.trees();
        let empty = std::fs::read_dir(&trees)
            .map_err(StoreError::io("list", &trees))?
            .next()
            .is_none();
        if !empty {
            return Err(StoreError::OtherOwners {
                root: layout.root().to_path_buf(),
                recorded: marked,
            });
        }
        if recorded {
            std::fs::write(&mark, b"").map_err(StoreError::io("write", &mark))
        } else {
            std::fs::remove_file(&mark).map_err(StoreError::io("remove", &mark))
        }
    }

    /// Whether the trees of this store have marks that overlay does not know, so that nobody may mount
    /// them.
    pub fn has_recorded_marks(&self) -> bool {
        marks::are_recorded()
    }

    /// Returns the root directory.
    pub fn root(&self) -> &Path {
        self.0.layout.root()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    pub(crate) fn ahead(&self) -> &FlushAhead {
        &self.0.ahead
    }

    pub(crate) fn durability(&self) -> Durability {
        self.0.durability
    }

    pub(crate) fn sweeper(&self) -> &Sweeper {
        &self.0.sweeper
    }

    pub(crate) fn held(&self) -> &Held {
        &self.0.held
    }

    pub(crate) fn published(&self) -> &Published {
        &self.0.published
    }

    /// Keeps a blob or layer from being pruned by others, from before it is published or read for a new
    /// image until [`release_published`](Store::release_published) or the end.
    pub fn protect_published(&self, digest: &Digest) -> Result<(), StoreError> {
        self.0.published.protect(&self.0.layout, &[*digest])
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.0.meta
    }

    /// Makes a directory below `tmp/` that is removed on drop.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Scratch::new(&self.0.layout)
    }

    /// Takes a named lock, waiting for it.
    pub fn lock(&self, name: &str) -> Result<StoreLock, StoreError> {
        StoreLock::wait(
            &self.0.layout.named_lock(&format!("user:{name}")),
            Hold::Exclusive,
        )
    }

    /// Takes a named lock if it is free.
    pub fn try_lock(&self, name: &str) -> Result<Option<StoreLock>, StoreError> {
        StoreLock::try_now(
            &self.0.layout.named_lock(&format!("user:{name}")),
            Hold::Exclusive,
        )
    }

    /// Returns the directory of a cache mount, empty on first use.
    ///
    /// The ID is hashed: it never becomes a path.
    pub fn cache_mount(&self, id: &str) -> Result<CacheMount, StoreError> {
        cache_mount_at(self.0.layout.mounts().join(Digest::of(id.as_bytes()).hex()))
    }

    /// Returns the directory of a cache mount that is thrown away with a scratch directory.
    pub fn cache_mount_in(&self, scratch: &Scratch, id: &str) -> Result<CacheMount, StoreError> {
        cache_mount_at(scratch.path().join(Digest::of(id.as_bytes()).hex()))
    }

    /// Returns the place of a flat memo file; its directory exists, the file maybe not.
    pub fn memo_path(&self, name: &str) -> PathBuf {
        self.0.layout.memo().join(Digest::of(name.as_bytes()).hex())
    }

    /// Writes a memo file, whole or not at all.
    pub fn write_memo(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.memo_path(name);
        let (mut file, temporary) = session::temporary_file(&self.0.layout)?;
        let written = file
            .write_all(bytes)
            .and_then(|()| std::fs::rename(&temporary, &path));
        written.map_err(|error| {
            // What stays is collected by the next command.
            let _ = std::fs::remove_file(&temporary);
            StoreError::io("write", &path)(error)
        })
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        let pending = self.0.pending.lock();
        pending.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pending_blob(&self, digest: Digest) {
        self.pending().blobs.insert(digest);
    }

    pub(crate) fn pending_tree(&self, seal: &Seal) {
        self.pending().trees.insert(seal.diff_id, seal.entries);
    }

    /// Flushes everything that this process wrote or used, so that it survives a power cut.
    ///
    /// [`tag`](Store::tag) does this by itself. It costs one flush, of what is to be flushed where that is
    /// little, else of the file system; and nothing if there is nothing to flush.
    pub fn sync(&self) -> Result<(), StoreError> {
        if self.0.durability == Durability::None {
            return Ok(());
        }
        let pending = std::mem::take(&mut *self.pending());
        if pending.is_empty() {
            return Ok(());
        }
        let layout = &self.0.layout;
        self.0.ahead.finish();
        let early = self.0.ahead.failure();
        let early = early.map_err(StoreError::io("flush the file system of", self.root()));
        let flushed = early.and_then(|()| flush::only(layout, &pending.unflushed()));
        if let Err(error) = flushed {
            // Whoever asks again must not be told that there was nothing to flush.
            let mut now = self.pending();
            now.blobs.extend(pending.blobs);
            now.trees.extend(pending.trees);
            return Err(error);
        }
        let blobs = pending.blobs.iter().map(|digest| layout.blob(digest));
        let seals = pending.trees.keys().map(|diff_id| layout.seal(diff_id));
        for path in blobs.chain(seals) {
            match flush::mark(&path) {
                Ok(()) => {}
                // Removed in the meantime, or somebody else's: he marks it.
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
                    ) => {}
                Err(error) => return Err(StoreError::io("set the mode of", &path)(error)),
            }
        }
        Ok(())
    }
}

/// An error once the flag is set.
pub fn check_stop(flag: Option<&AtomicBool>) -> std::io::Result<()> {
    match flag {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(std::io::Error::other("cancelled")),
        _ => Ok(()),
    }
}

/// Makes the directories and, last, the `format` file.
fn create(layout: &Layout) -> Result<(), StoreError> {
    let format = layout.format();
    if format.exists() {
        return make_directories(layout);
    }
    let root = layout.root();
    if let Some(parent) = root.parent() {
        std::fs::create_dir_all(parent).map_err(StoreError::io("create the directory", parent))?;
    }
    make_directory(root, 0o700)?;
    refuse_foreign(layout)?;
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700))
        .map_err(StoreError::io("set the mode of", root))?;
    make_directories(layout)?;
    // Not through `tmp/`: several processes may do this at the same time with the same bytes.
    let temporary = root.join(format!("format.{}", session::unique_name()));
    std::fs::write(&temporary, format!("{FORMAT_NAME} {FORMAT}\n"))
        .map_err(StoreError::io("write", &temporary))?;
    std::fs::rename(&temporary, &format).map_err(StoreError::io("write", &format))
}

fn make_directories(layout: &Layout) -> Result<(), StoreError> {
    for path in layout.directories() {
        if let Some(parent) = path.parent().filter(|parent| *parent != layout.root()) {
            make_directory(parent, 0o700)?;
        }
        make_directory(&path, 0o700)?;
    }
    Ok(())
}

fn make_directory(path: &Path, mode: u32) -> Result<(), StoreError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(StoreError::io("create the directory", path)),
    }
}

/// A directory with somebody else's files must not become a store, and its mode must not change.
fn refuse_foreign(layout: &Layout) -> Result<(), StoreError> {
    let root = layout.root();
    let directories = layout.directories();
    // The first name below the root: whoever makes the store at the same time has made it.
    let ours = directories
        .iter()
        .filter_map(|path| path.strip_prefix(root).ok()?.components().next());
    let ours: Vec<_> = ours.map(|name| name.as_os_str().to_owned()).collect();
    let files = [
        "lock",
        "boot",
        "reserve",
        "meta.db",
        "meta.db-wal",
        "meta.db-shm",
        "meta.db-journal",
    ];
    let entries = std::fs::read_dir(root).map_err(StoreError::io("list the directory", root))?;
    for entry in entries {
        let name = entry
            .map_err(StoreError::io("list the directory", root))?
            .file_name();
        let text = name.to_string_lossy();
        let known = ours.contains(&name) || files.contains(&text.as_ref());
        if !known && !text.starts_with("format") && text != "lost+found" {
            return Err(StoreError::Format {
                root: root.to_path_buf(),
                found: format!("none, but it holds `{}`", name.display()),
                supported: FORMAT,
            });
        }
    }
    Ok(())
}

fn check_format(layout: &Layout) -> Result<(), StoreError> {
    let path = layout.format();
    let text = std::fs::read_to_string(&path).map_err(StoreError::io("read", &path))?;
    let version = text.trim_end().strip_prefix(FORMAT_NAME).map(str::trim);
    if version == Some(FORMAT.to_string().as_str()) {
        return Ok(());
    }
    Err(StoreError::Format {
        root: layout.root().to_path_buf(),
        found: crate::error::escaped(version.unwrap_or(text.trim_end()).as_bytes()),
        supported: FORMAT,
    })
}

/// Seconds since 1970.
pub(crate) fn now_unix() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs() as i64,
        Err(before) => -(before.duration().as_secs() as i64),
    }
}

/// Makes the directory of a cache mount, unless it is there.
fn cache_mount_at(path: PathBuf) -> Result<CacheMount, StoreError> {
    let created = match DirBuilder::new().mode(0o755).create(&path) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(StoreError::io("create the cache mount", &path)(error)),
    };
    if created {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .map_err(StoreError::io("set the mode of", &path))?;
    }
    Ok(CacheMount { path, created })
}

/// An error and its causes in one line.
pub(crate) fn message(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
