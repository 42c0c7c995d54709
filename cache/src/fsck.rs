//! Checking the whole store against its invariants.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::fs::{CWD, Mode};

use crate::digest::{DiffId, Digest};
use crate::error::StoreError;
use crate::lease;
use crate::lock::Hold;
use crate::prune::references;
use crate::recover::{
    hash_file, hash_tree, lies_on_something, list, list_blobs, lowest_first, remove_layer,
};
use crate::stack::keep::stacks;
use crate::store::{Store, message};
use crate::sys;
use crate::tar_write::PaxWriter;
use crate::tree::{Layer, Seal};
use crate::tree_tar::{self, Content};

mod content;

/// What [`Store::fsck`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FsckReport {
    /// How many blobs were checked.
    pub blobs: u64,
    /// How many layers were checked.
    pub layers: u64,
    /// What is wrong, in words.
    pub problems: Vec<String>,
    /// How many of the problems were repaired.
    pub repaired: u64,
}

struct Check<'a> {
    store: &'a Store,
    repair: bool,
    report: FsckReport,
    bad_blobs: BTreeSet<Digest>,
}

impl Store {
    /// Checks every blob, layer, record and name; with `repair`, removes what is damaged.
    ///
    /// Damaged blobs and layers are removed and made or fetched again when they are needed. An
    /// image that has lost something keeps its name, and the report says what is missing.
    pub fn fsck(&self, repair: bool) -> Result<FsckReport, StoreError> {
        let _hold = lease::hold(self.layout(), Hold::Exclusive)?;
        let report = FsckReport::default();
        let mut check = Check {
            store: self,
            repair,
            report,
            bad_blobs: BTreeSet::new(),
        };
        check.database()?;
        check.blobs()?;
        check.layers()?;
        check.stacks()?;
        check.records()?;
        check.images()?;
        check.volumes()?;
        check.leftovers()?;
        Ok(check.report)
    }
}

impl Check<'_> {
    /// Notes a problem; true if it is to be repaired.
    fn problem(&mut self, text: String) -> bool {
        self.report.problems.push(text);
        self.report.repaired += u64::from(self.repair);
        self.repair
    }

    /// Notes a problem that cannot be repaired here.
    fn loss(&mut self, text: String) {
        self.report.problems.push(text);
    }

    fn database(&mut self) -> Result<(), StoreError> {
        let problems = self.store.meta().check()?;
        if problems.is_empty() {
            return Ok(());
        }
        let text = format!("the metadata database is damaged: {}", problems.join("; "));
        if self.problem(text) {
            self.store.meta().replace()?;
        }
        Ok(())
    }

    /// Every file below `blobs/` has the digest of its name.
    fn blobs(&mut self) -> Result<(), StoreError> {
        for (digest, path) in list_blobs(self.store.layout())? {
            self.report.blobs += 1;
            let wrong = match hash_file(&path) {
                Ok(actual) if actual == digest => {
                    let right_place = path == self.store.layout().blob(&digest);
                    (!right_place).then(|| "is in the wrong directory".to_owned())
                }
                Ok(actual) => Some(format!("hashes to {actual}")),
                Err(error) => Some(format!("cannot be read: {}", message(&error))),
            };
            if let Some(wrong) = wrong {
                self.bad_blobs.insert(digest);
                if self.problem(format!("blob {digest} {wrong}")) {
                    crate::remove::remove_tree(&path)?;
                    self.store.meta().forget_layer_blobs(&[digest])?;
                }
            }
        }
        for directory in list(&self.store.layout().blobs())? {
            for path in if directory.is_dir() {
                list(&directory)?
            } else {
                vec![directory]
            } {
                // By its name alone: others publish blobs meanwhile.
                let named = path.file_name().and_then(|name| name.to_str());
                if named.is_none_or(|name| Digest::from_hex(name).is_err())
                    && self.problem(format!("`{}` is no blob", path.display()))
                {
                    crate::remove::remove_tree(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Every tree with a seal is what its seal says; every other one is garbage.
    fn layers(&mut self) -> Result<(), StoreError> {
        for (diff_id, _) in lowest_first(self.store.layout())? {
            self.report.layers += 1;
            // One that is just being published has its lock held until the seal is there.
            let Some(_lock) = crate::lock::StoreLock::try_now(
                &self.store.layout().named_lock(&format!("tree:{diff_id}")),
                Hold::Exclusive,
            )?
            else {
                continue;
            };
            if !self.store.layout().seal(&diff_id).exists() {
                // What a process left that was killed just before the end is no damage.
                crate::remove::remove_tree(&self.store.layout().tree(&diff_id))?;
                continue;
            }
            let wrong = match Seal::read(self.store.layout(), &diff_id)? {
                None => Some("has no valid seal".to_owned()),
                Some(seal) => self.wrong_with(&diff_id, &seal),
            };
            if let Some(wrong) = wrong
                && self.problem(format!("layer {diff_id} {wrong}"))
            {
                remove_layer(self.store.layout(), &diff_id)?;
            }
        }
        Ok(())
    }

    /// What is wrong with a sealed tree.
    fn wrong_with(&self, diff_id: &DiffId, seal: &Seal) -> Option<String> {
        let layout = self.store.layout();
        let path = layout.tree(diff_id);
        if !lies_on_something(layout, seal).unwrap_or(false) {
            return Some("has lost the layer that its tree lies over".to_owned());
        }
        if seal.canonical {
            return match hash_tree(layout, seal) {
                Ok(actual) if actual == *diff_id => None,
                Ok(actual) => Some(format!("hashes to {actual}")),
                Err(error) => Some(format!("cannot be read: {}", message(&error))),
            };
        }
        match hash_headers(&path) {
            Ok(actual) if actual == seal.headers => {
                let layer = Layer::new(seal.clone(), path, None);
                match content::difference(self.store, &layer) {
                    Ok(difference) => difference,
                    Err(error) => Some(format!("cannot be compared: {}", message(&error))),
                }
            }
            Ok(_) => Some("has other files or metadata than its seal says".to_owned()),
            Err(error) => Some(format!("cannot be read: {}", message(&error))),
        }
    }

    /// Every stack has the files that it was made with.
    fn stacks(&mut self) -> Result<(), StoreError> {
        for stack in stacks(self.store.layout())? {
            if !stack.is_sound()
                && self.problem(format!(
                    "stack {} is not what it was made as",
                    stack.id.hex()
                ))
            {
                crate::remove::remove_tree(&stack.path)?;
            }
        }
        Ok(())
    }

    /// Every output of a record is there.
    fn records(&mut self) -> Result<(), StoreError> {
        let mut lost = Vec::new();
        for record in self.store.meta().all_records()? {
            for layer in &record.layers {
                if !self.store.has_layer(layer)? {
                    lost.push(record.key);
                    self.problem(format!(
                        "build record {} has lost layer {layer}",
                        record.key
                    ));
                    break;
                }
            }
        }
        if self.repair {
            self.store.meta().remove_records(&lost)?;
        }
        Ok(())
    }

    /// Every name leads to a whole image.
    fn images(&mut self) -> Result<(), StoreError> {
        let mut without_image = self.store.meta().names_without_image()?;
        for name in &without_image {
            self.problem(format!("name `{name}` has no image"));
        }
        if self.repair {
            for name in without_image.drain(..) {
                self.store.meta().untag(&name)?;
            }
        }
        for entry in self.store.images()? {
            let what = match entry.names.first() {
                Some(name) => format!("image `{name}`"),
                None => format!("image {}", entry.record.config),
            };
            for digest in [entry.record.manifest, entry.record.config] {
                if !self.store.has_blob(&digest) || self.bad_blobs.contains(&digest) {
                    self.loss(format!("{what} has lost blob {digest}"));
                }
            }
            for layer in &entry.record.layers {
                if !self.store.has_layer(layer)? {
                    self.loss(format!("{what} has lost layer {layer}"));
                }
            }
            // An index may name images of other platforms, which need not be here.
            references(self.store, &entry.record)?;
        }
        Ok(())
    }

    /// Everything below `tmp/` and `leases/` belongs to a living process.
    /// Every volume can be read. What is in it belongs to its user: nothing is repaired here.
    fn volumes(&mut self) -> Result<(), StoreError> {
        for error in self.store.volumes()?.1 {
            self.loss(message(&error));
        }
        Ok(())
    }

    fn leftovers(&mut self) -> Result<(), StoreError> {
        for directory in [self.store.layout().tmp(), self.store.layout().leases()] {
            let mut errors = Vec::new();
            let removed =
                crate::session::collect_dead(self.store.layout(), &directory, &mut |error| {
                    errors.push(message(&error));
                })?;
            if removed > 0 {
                tracing::debug!(removed, "collected what dead processes left");
            }
            for error in errors {
                self.loss(error);
            }
        }
        Ok(())
    }
}

/// Digest of the headers of a tar of a tree.
pub(crate) fn hash_headers(path: &Path) -> Result<Digest, StoreError> {
    let root = rustix::fs::openat(CWD, path, sys::DIRECTORY, Mode::empty())
        .map_err(StoreError::io("open", path))?;
    let mut nowhere = PaxWriter::new(std::io::sink());
    Ok(tree_tar::write_tree(&[&root], &mut nowhere, Content::HeadersOnly, None)?.headers)
}
