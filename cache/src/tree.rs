//! Unpacked layers: `trees/<diff ID>/` and the seal beside each.
//!
//! A tree is the layer in overlay form: whiteouts are character devices 0:0, opaque directories
//! carry overlay's attribute. It is written below `tmp/`, renamed into `trees/`, and counts only
//! once `trees/<diff ID>.seal` is there, which is written last. From then on it never changes.
//!
//! A new version of a large layer may *lie over* the tree of an older one: then its own tree holds only
//! what was added or changed, with the directories that this is in, and the older tree shows through.
//! Nothing can be gone from the older one, and that is whole: no more than two trees make a layer.
//! Whoever removes trees keeps the lower one as long as there is one over it; a layer whose lower tree
//! is missing does not count.
//!
//! A seal tells the boot in which it was written. As long as that boot lasts, the page cache vouches for
//! the tree. [`Store::sync`](crate::Store::sync) flushes seal and tree and then sets the seal's mode to 0444;
//! after another boot, those with another mode are checked or dropped before anyone may use the store.

use std::collections::HashSet;
use std::fs::{File, Metadata as FileMetadata};
use std::io::{Read as _, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::blob::BlobInfo;
use crate::compress::CompressionKind;
use crate::digest::{DiffId, Digest};
use crate::error::{StoreError, ViewError};
use crate::flush;
use crate::layout::Layout;
use crate::live::LiveDirectory;
use crate::lock::{Hold, StoreLock};
use crate::meta::KnownBlob;
use crate::open_root::{OpenRoot, RootFd};
use crate::remove::remove_tree;
use crate::store::Store;
use crate::sys;

/// Version of the seal's form.
const SEAL_VERSION: u32 = 1;

/// Version of the seal of a tree that lies over another: who does not know of that must not read it.
const OVER_VERSION: u32 = 2;

/// What is written beside a complete tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seal {
    pub(crate) version: u32,
    pub(crate) diff_id: DiffId,
    /// Bytes of the uncompressed tar.
    pub(crate) size: u64,
    /// Entries of the tar.
    pub(crate) entries: u64,
    /// Bytes of file content.
    pub(crate) content: u64,
    /// The tar can be made again from the tree, byte for byte.
    pub(crate) canonical: bool,
    /// Some file is also one of another layer's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) shares: bool,
    /// Some directory is opaque.
    pub(crate) opaque: bool,
    /// The tar had an entry for `/`.
    pub(crate) root_entry: bool,
    /// The blob that it was unpacked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<SourceBlob>,
    /// The tree that it lies over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) over: Option<Over>,
    /// Digest of the tar headers that the tree gives, without content.
    pub(crate) headers: Digest,
    /// Boot in which it was written.
    pub(crate) boot: String,
    /// Whether tree and seal have been flushed. The file's mode says so; what is written in it is of stores
    /// where the seal was written anew.
    #[serde(default)]
    pub(crate) durable: bool,
}

/// What a tree lies over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Over {
    /// The layer whose tree shows through.
    pub(crate) layer: DiffId,
    /// Bytes of file content in the tree above it.
    pub(crate) content: u64,
}

/// The blob of a layer that came from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceBlob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) kind: String,
}

/// Room for a seal, so that one call reads it.
const USUAL_SIZE: usize = 1024;
/// Far more than any seal has.
const LARGEST: u64 = 1 << 20;

impl Seal {
    /// Makes a seal of this boot that is not durable yet.
    pub(crate) fn new(diff_id: DiffId, size: u64, entries: u64, headers: Digest) -> Seal {
        Seal {
            version: SEAL_VERSION,
            diff_id,
            size,
            entries,
            content: 0,
            canonical: true,
            shares: false,
            opaque: false,
            root_entry: false,
            source: None,
            over: None,
            headers,
            boot: crate::session::boot_id().to_owned(),
            durable: false,
        }
    }

    /// The same of a tree that lies over another.
    pub(crate) fn over(self, over: Over) -> Seal {
        Seal {
            version: OVER_VERSION,
            over: Some(over),
            ..self
        }
    }

    /// Bytes of file content in the tree itself.
    pub(crate) fn own_content(&self) -> u64 {
        self.over.map_or(self.content, |over| over.content)
    }

    fn is_known(&self) -> bool {
        match self.over {
            None => self.version == SEAL_VERSION,
            Some(_) => self.version == OVER_VERSION,
        }
    }

    /// Reads a seal; none if it is missing, torn, of another version or of another tree.
    pub(crate) fn read(layout: &Layout, diff_id: &DiffId) -> Result<Option<Seal>, StoreError> {
        Seal::read_file(layout, diff_id).map(|read| read.map(|(seal, ..)| seal))
    }

    /// Reads a seal; returns it with its file and what is known of that.
    fn read_file(
        layout: &Layout,
        diff_id: &DiffId,
    ) -> Result<Option<(Seal, File, FileMetadata)>, StoreError> {
        let path = layout.seal(diff_id);
        let mut bytes = Vec::with_capacity(USUAL_SIZE);
        let file = File::open(&path).and_then(|file| {
            // As much as there is: no second call to learn that there is no more.
            let found = file.metadata()?;
            (&file)
                .take(found.len().min(LARGEST))
                .read_to_end(&mut bytes)?;
            Ok((file, found))
        });
        let (file, found) = match file {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read the seal", &path)(error)),
        };
        let seal = serde_json::from_slice::<Seal>(&bytes).ok();
        let seal = seal.filter(|seal| seal.is_known() && seal.diff_id == *diff_id);
        Ok(seal.map(|mut seal| {
            seal.durable |= flush::is_marked(&found);
            (seal, file, found)
        }))
    }

    /// Writes the seal so that it is there whole or not at all, and does something when all that is left to
    /// do is to give it its name.
    fn write_with(
        &self,
        layout: &Layout,
        before: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let path = layout.seal(&self.diff_id);
        let bytes = serde_json::to_vec(self).map_err(|error| StoreError::Document {
            what: "a seal".to_owned(),
            reason: error.to_string(),
        })?;
        let (mut file, temporary) = crate::session::temporary_file(layout)?;
        let written = file
            .write_all(&bytes)
            .map_err(StoreError::io("write", &temporary))
            .and_then(|()| before())
            .and_then(|()| {
                std::fs::rename(&temporary, &path)
                    .map_err(StoreError::io("publish the seal", &path))
            });
        if written.is_err() {
            // What stays is collected by the next command.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}

/// An unpacked, sealed layer; cheap to clone.
#[derive(Clone)]
pub struct Layer(Arc<LayerInner>);

struct LayerInner {
    seal: Seal,
    root: OpenRoot,
    /// The layer whose tree shows through.
    under: Option<Layer>,
    /// The names at the top of its own tree, listed when they are first asked for; none if there are many.
    top: OnceLock<Option<HashSet<Vec<u8>>>>,
}

/// Layers with more entries do not remember the names at their top.
const REMEMBERED_NAMES: u64 = 10_000;

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Layer").field(self.diff_id()).finish()
    }
}

impl Layer {
    /// The layer with its tree at `path`, which lies over that of `under` if its seal says so.
    pub(crate) fn new(seal: Seal, path: PathBuf, under: Option<Layer>) -> Layer {
        Layer(Arc::new(LayerInner {
            seal,
            root: OpenRoot::new(path, sys::DIRECTORY),
            under,
            top: OnceLock::new(),
        }))
    }

    /// Returns the digest of its tar.
    pub fn diff_id(&self) -> &DiffId {
        &self.0.seal.diff_id
    }

    /// Returns the directories that serve as overlay lower directories, topmost first.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.trees().map(|tree| tree.0.root.path())
    }

    /// The layers whose own trees make this one, topmost first: itself, and the one that it lies over.
    pub(crate) fn trees(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(self).chain(self.under())
    }

    /// The layer that this one lies over: its tree holds everything that is not in this one's own.
    pub fn under(&self) -> Option<&Layer> {
        self.0.under.as_ref()
    }

    /// Returns the directory of its own tree, without what it lies over.
    pub fn path(&self) -> &Path {
        self.0.root.path()
    }

    /// Returns the size of its tar in bytes.
    pub fn size(&self) -> u64 {
        self.0.seal.size
    }

    /// Returns the number of tar entries.
    pub fn entries(&self) -> u64 {
        self.0.seal.entries
    }

    /// Returns the bytes of file content, each hard-linked file once.
    pub fn content_size(&self) -> u64 {
        self.0.seal.content
    }

    /// Opens a directory of this layer's own tree; none if there is none. Nothing is followed.
    pub fn own_directory(&self, path: &Path) -> Result<Option<LiveDirectory>, ViewError> {
        let path = path.as_os_str().as_bytes();
        LiveDirectory::below(&*self.root_fd()?, path.strip_prefix(b"/").unwrap_or(path))
    }

    /// Whether it says nothing about any path.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries() == 0 && !self.may_be_opaque()
    }

    /// Whether its own tree has nothing at the top of a path (without leading slash), as far as that is known.
    pub(crate) fn lacks(&self, path: &[u8]) -> Result<bool, ViewError> {
        let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        if top.is_empty() {
            return Ok(false);
        }
        if let Some(names) = self.0.top.get() {
            return Ok(names.as_ref().is_some_and(|names| !names.contains(top)));
        }
        let names = if self.entries() > REMEMBERED_NAMES {
            None
        } else {
            let root = sys::open_beneath(&*self.root_fd()?, b"", sys::LIST)
                .and_then(sys::names)
                .map_err(ViewError::io("list the directory", self.path()))?;
            Some(root.into_iter().collect::<HashSet<_>>())
        };
        let names = self.0.top.get_or_init(|| names);
        Ok(names.as_ref().is_some_and(|names| !names.contains(top)))
    }

    pub(crate) fn may_be_opaque(&self) -> bool {
        self.0.seal.opaque
    }

    pub(crate) fn has_root_entry(&self) -> bool {
        self.0.seal.root_entry
    }

    /// The blob that it was unpacked from, if it came from outside.
    pub(crate) fn source_blob(&self) -> Option<KnownBlob> {
        let source = self.0.seal.source.as_ref()?;
        let kind = CompressionKind::from_name(&source.kind)?;
        let blob = BlobInfo {
            digest: source.digest,
            size: source.size,
        };
        Some(KnownBlob {
            blob,
            kind,
            level: None,
        })
    }

    pub(crate) fn seal(&self) -> &Seal {
        &self.0.seal
    }

    /// Descriptors of the roots of its trees, topmost first.
    pub(crate) fn roots(&self) -> Result<Vec<RootFd<'_>>, ViewError> {
        self.trees().map(Layer::root_fd).collect()
    }

    /// Descriptor of its own tree's root.
    pub(crate) fn root_fd(&self) -> Result<RootFd<'_>, ViewError> {
        let root = &self.0.root;
        root.fd()
            .map_err(ViewError::io("open the layer", root.path()))
    }
}

/// Returns the lower directories of an overlay mount of `layers` (bottom first), top first.
///
/// Each tree is named once: two steps may have made the same layer (two that change nothing, for
/// one), and overlay refuses a directory that is given twice with `ELOOP`. The upper occurrence
/// says all that the lower one does, so that one is left out; and so are layers without entries,
/// unless there is nothing else.
pub fn overlay_lowers(layers: &[Layer]) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let mut lowers: Vec<PathBuf> = layers
        .iter()
        .rev()
        .filter(|layer| layer.entries() > 0)
        .flat_map(Layer::directories)
        .filter(|path| seen.insert(*path))
        .map(Path::to_path_buf)
        .collect();
    if lowers.is_empty() {
        lowers.extend(layers.last().map(|layer| layer.path().to_path_buf()));
    }
    lowers
}

/// A seal's time is renewed by use when it is older than this, so that most uses write nothing.
const USE_RESOLUTION: Duration = Duration::from_mins(1);

impl Store {
    /// Returns the layer if its sealed tree is there.
    pub fn layer(&self, diff_id: &DiffId) -> Result<Option<Layer>, StoreError> {
        if let Some(layer) = self.held().layer(diff_id) {
            return Ok(Some(layer));
        }
        let held = self.held().is_held(diff_id);
        let Some((seal, file, found)) = Seal::read_file(self.layout(), diff_id)? else {
            return Ok(None);
        };
        let path = self.layout().tree(diff_id);
        if !path.is_dir() {
            return Ok(None);
        }
        let under = match &seal.over {
            None => None,
            Some(over) => match self.layer(&over.layer)? {
                Some(under) if under.under().is_none() => Some(under),
                // Nobody makes such a layer; it is made again where it is needed.
                _ => return Ok(None),
            },
        };
        if !seal.durable {
            self.pending_tree(&seal);
        }
        note_use_of(&file, &found);
        let layer = Layer::new(seal, path, under);
        self.held().found(&layer, held);
        Ok(Some(layer))
    }

    /// Makes a complete tree below `tmp/` a layer, over that of `under` if the seal says so.
    ///
    /// If another process was faster, its tree is returned and ours stays where it is.
    pub(crate) fn publish_tree(
        &self,
        tree: &Path,
        seal: Seal,
        under: Option<Layer>,
    ) -> Result<Layer, StoreError> {
        self.check_owners()?;
        let diff_id = seal.diff_id;
        let _lock = StoreLock::wait(
            &self.layout().named_lock(&format!("tree:{diff_id}")),
            Hold::Exclusive,
        )?;
        if let Some(known) = self.layer(&diff_id)? {
            return Ok(known);
        }
        let path = self.layout().tree(&diff_id);
        // Without a seal it is what a killed process left.
        remove_tree(&path)?;
        seal.write_with(self.layout(), || {
            std::fs::rename(tree, &path).map_err(StoreError::io("publish the layer", &path))
        })
        .inspect_err(|_| {
            // If this fails as well, it is garbage like that of a killed process.
            let _ = remove_tree(&path);
        })?;
        self.pending_tree(&seal);
        Ok(Layer::new(seal, path, under))
    }
}

/// Notes in a file's time that it was used.
pub(crate) fn note_use(path: &Path) {
    if let Ok(file) = File::open(path)
        && let Ok(found) = file.metadata()
    {
        note_use_of(&file, &found);
    }
}

fn note_use_of(file: &File, found: &FileMetadata) {
    let now = SystemTime::now();
    let recent = found.modified().is_ok_and(|then| {
        now.duration_since(then)
            .is_ok_and(|age| age < USE_RESOLUTION)
    });
    if !recent {
        // Only decides what is pruned first; a read-only store works all the same.
        let _ = file.set_modified(now);
    }
}
