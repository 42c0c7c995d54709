//! The root file system as one tar.
//!
//! Entries are as in BuildKit's `tar` exporter: names without leading slash, the root itself left
//! out, one directory per platform when there are several, and every time equal to
//! `SOURCE_DATE_EPOCH` if the build has one.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rbuild_cache::tar_write::{PaxWriter, TarHeader, TarKind};
use rbuild_cache::{FileKind, HoleReader, RootView, Store, ViewEntry, WalkAction};

use super::destination::write_to;
use super::{Finished, OutputError};
use crate::image::ImageError;
use crate::request::Destination;

/// Writes the file trees of all platforms as one tar.
pub(crate) fn write_rootfs(
    store: &Store,
    finished: &[Finished],
    destination: &Destination,
    progress: &dyn Fn(&str, u64, Option<u64>),
) -> Result<(), OutputError> {
    write_to(destination, store.stop_flag(), &mut |out| {
        let mut tar = TreeTar::new(out, progress);
        for one in finished {
            let view = view_of(store, one)?;
            let prefix = sub_directory(finished, one);
            tar.tree(&view, prefix.as_deref(), one.source_date_epoch)?;
        }
        tar.writer.finish().map_err(failed())?;
        Ok(())
    })
}

/// Writes what lies at `from` in a tree as a tar: under the name `name`, or only what is in it if that
/// is empty.
///
/// # Errors
///
/// Something cannot be read, or changed while it was read; or the archive cannot be written.
pub fn write_tree(
    view: &RootView,
    from: &ViewEntry,
    name: &Path,
    out: &mut dyn Write,
) -> Result<u64, OutputError> {
    let mut tar = TreeTar::new(out, &|_, _, _| {});
    let mut links = HardLinks::default();
    let mut one = |path: &Path, entry: &ViewEntry| {
        let here = if path.as_os_str().is_empty() {
            name.to_path_buf()
        } else {
            name.join(path)
        };
        if !here.as_os_str().is_empty() {
            let first = links.first(&here, entry);
            tar.entry(view, &here, entry, first, None)?;
        }
        Ok::<_, OutputError>(WalkAction::Continue)
    };
    if from.is_directory() {
        view.walk(&from.path, &mut one)?;
    } else {
        one(Path::new(""), from)?;
    }
    tar.writer.finish().map_err(failed())?;
    Ok(tar.bytes)
}

/// The merged tree of a result.
pub(crate) fn view_of(store: &Store, finished: &Finished) -> Result<RootView, OutputError> {
    let mut layers = Vec::with_capacity(finished.layers.len());
    for diff_id in &finished.layers {
        let missing = || ImageError::Missing {
            what: "layer",
            digest: *diff_id.digest(),
            name: format!("the result for {}", finished.platform),
        };
        layers.push(store.layer(diff_id)?.ok_or_else(missing)?);
    }
    Ok(RootView::new(&layers))
}

/// Directory of one platform among several: `linux_arm_v7`.
pub(crate) fn sub_directory(all: &[Finished], one: &Finished) -> Option<String> {
    (all.len() > 1).then(|| one.platform.to_string().replace('/', "_"))
}

fn failed() -> impl FnOnce(io::Error) -> OutputError {
    |source| {
        OutputError::Image(ImageError::Stream {
            action: "write the archive",
            source,
        })
    }
}

/// A tar of trees being written.
struct TreeTar<'a> {
    writer: PaxWriter<&'a mut dyn Write>,
    progress: &'a dyn Fn(&str, u64, Option<u64>),
    bytes: u64,
    /// For file data, used again and again: most files are small.
    buffer: Vec<u8>,
}

impl<'a> TreeTar<'a> {
    fn new(out: &'a mut dyn Write, progress: &'a dyn Fn(&str, u64, Option<u64>)) -> TreeTar<'a> {
        TreeTar {
            writer: PaxWriter::new(out),
            progress,
            bytes: 0,
            buffer: vec![0; 256 << 10],
        }
    }

    /// Writes one tree, below `prefix` if there is one.
    fn tree(
        &mut self,
        view: &RootView,
        prefix: Option<&str>,
        epoch: Option<i64>,
    ) -> Result<(), OutputError> {
        let base = Path::new(prefix.unwrap_or_default());
        if let Some(prefix) = prefix {
            let mut header = TarHeader::new(TarKind::Directory, format!("{prefix}/"));
            header.mode = 0o755;
            header.mtime = epoch.unwrap_or(0);
            self.writer.entry(&header).map_err(failed())?;
        }
        let mut links = HardLinks::default();
        view.walk(Path::new("/"), &mut |path, entry| {
            if !path.as_os_str().is_empty() {
                let first = links.first(path, entry);
                self.entry(
                    view,
                    &base.join(path),
                    entry,
                    first.map(|path| base.join(path)),
                    epoch,
                )?;
            }
            Ok(WalkAction::Continue)
        })
    }

    /// Writes one entry; `first` is the name under which a hard-linked file was written before.
    fn entry(
        &mut self,
        view: &RootView,
        path: &Path,
        entry: &ViewEntry,
        first: Option<PathBuf>,
        epoch: Option<i64>,
    ) -> Result<(), OutputError> {
        let Some(mut header) = header(path, entry) else {
            return Ok(());
        };
        header.mtime = epoch.unwrap_or(entry.metadata.mtime.seconds);
        if let Some(first) = first {
            header.kind = TarKind::HardLink;
            header.link = first.as_os_str().as_bytes().to_vec();
            header.size = 0;
            return self.writer.entry(&header).map_err(failed());
        }
        if entry.metadata.kind != FileKind::Symlink {
            header.xattrs = view
                .xattrs(entry)?
                .into_iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), value))
                .collect();
        }
        self.writer.entry(&header).map_err(failed())?;
        if header.kind == TarKind::File && header.size > 0 {
            self.data(HoleReader::new(view.open(entry)?))?;
            (self.progress)("sending tarball", self.bytes, None);
        }
        Ok(())
    }

    /// Writes the data of a file; the tar refuses more or fewer bytes than its header says.
    fn data(&mut self, mut file: HoleReader) -> Result<(), OutputError> {
        loop {
            let count = match file.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed()(error)),
            };
            self.writer
                .write_all(&self.buffer[..count])
                .map_err(failed())?;
            self.bytes += count as u64;
        }
    }
}

/// The header of an entry, without time and attributes; none for sockets, which no tar can hold.
fn header(path: &Path, entry: &ViewEntry) -> Option<TarHeader> {
    let metadata = &entry.metadata;
    let mut name = path.as_os_str().as_bytes().to_vec();
    let kind = match metadata.kind {
        FileKind::File => TarKind::File,
        FileKind::Directory => {
            name.push(b'/');
            TarKind::Directory
        }
        FileKind::Symlink => TarKind::Symlink,
        FileKind::CharDevice => TarKind::CharDevice,
        FileKind::BlockDevice => TarKind::BlockDevice,
        FileKind::Fifo => TarKind::Fifo,
        FileKind::Socket => return None,
    };
    let mut header = TarHeader::new(kind, name);
    header.mode = metadata.mode;
    header.uid = metadata.uid;
    header.gid = metadata.gid;
    match kind {
        TarKind::File => header.size = metadata.size,
        TarKind::CharDevice | TarKind::BlockDevice => header.device = metadata.rdev,
        _ => {}
    }
    if let Some(target) = &entry.link_target {
        header.link = target.as_bytes().to_vec();
    }
    Some(header)
}

/// Remembers under which path each file with several names was met first.
#[derive(Default)]
pub(crate) struct HardLinks(HashMap<(usize, (u64, u64)), PathBuf>);

impl HardLinks {
    /// Returns the earlier path of the same file; none if this is the first.
    pub(crate) fn first(&mut self, path: &Path, entry: &ViewEntry) -> Option<PathBuf> {
        if entry.metadata.kind != FileKind::File || entry.metadata.nlink < 2 {
            return None;
        }
        match self.0.entry((entry.source, entry.metadata.inode)) {
            std::collections::hash_map::Entry::Occupied(first) => Some(first.get().clone()),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(path.to_path_buf());
                None
            }
        }
    }
}
