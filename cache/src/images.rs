//! Images, their names, and what stopped containers keep.

use crate::digest::{DiffId, Digest};
use crate::error::StoreError;
use crate::lease;
use crate::lock::Hold;
use crate::records::{ImageEntry, ImageRecord};
use crate::store::Store;

impl Store {
    /// Gives an image a name; returns the image that had it before, if it is another one.
    ///
    /// `name` is canonical, e.g. `docker.io/library/hello:latest`. When this returns, the image is
    /// complete on disk (unless durability is off). The image must be: its manifest has to be in
    /// the store.
    pub fn tag(&self, name: &str, image: &ImageRecord) -> Result<Option<ImageRecord>, StoreError> {
        self.sync()?;
        // Nothing is taken away between the look at it and the name.
        let _hold = lease::hold(self.layout(), Hold::Shared)?;
        self.require_blob(&image.manifest)?;
        if self.meta().image(name)?.as_ref() == Some(image) {
            return Ok(None);
        }
        let previous = self.meta().tag(name, image)?;
        Ok(previous.filter(|previous| previous.manifest != image.manifest))
    }

    /// Takes a name away from its image, which stays; tells whether the name was there.
    pub fn untag(&self, name: &str) -> Result<bool, StoreError> {
        self.meta().untag(name)
    }

    /// Returns the image of a name.
    pub fn image(&self, name: &str) -> Result<Option<ImageRecord>, StoreError> {
        self.meta().image(name)
    }

    /// Returns the image that has this manifest or index, with all its names.
    pub fn image_with_manifest(&self, manifest: &Digest) -> Result<Option<ImageEntry>, StoreError> {
        self.meta().image_entry(manifest)
    }

    /// Adds an image without a name; it stays listed until it is removed.
    pub fn put_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        self.sync()?;
        let _hold = lease::hold(self.layout(), Hold::Shared)?;
        self.require_blob(&image.manifest)?;
        if self.meta().image_by_manifest(&image.manifest)?.as_ref() == Some(image) {
            return Ok(());
        }
        self.meta().put_image(image)
    }

    /// Returns all images, last added first.
    pub fn images(&self) -> Result<Vec<ImageEntry>, StoreError> {
        self.meta().images()
    }

    /// Removes an image and all its names; tells whether it was there.
    ///
    /// Its blobs and layers stay until [`release`](Store::release) or [`prune`](Store::prune).
    pub fn remove_image(&self, manifest: &Digest) -> Result<bool, StoreError> {
        self.meta().remove_image(manifest)
    }

    /// Takes the image of one platform, known by its manifest, out of an image for several.
    ///
    /// `rest` is what the image's record says from then on. Manifests that an index names and that
    /// are not in the store are of platforms that are not here; what only this one needs goes with the
    /// next [`prune`](Store::prune).
    pub fn remove_variant(&self, rest: &ImageRecord, manifest: &Digest) -> Result<(), StoreError> {
        self.meta().put_image(rest)?;
        let path = self.layout().blob(manifest);
        let scratch = self.scratch()?;
        let place = scratch.path().join("manifest");
        match std::fs::rename(&path, &place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::io("remove the blob", &path)(error))
            }
            _ => scratch.close(),
        }
    }

    /// Finds an image by a prefix of its ID or manifest digest (hex, with or without `sha256:`).
    ///
    /// Several manifests with the same ID are the same image to a user: the last added is taken.
    pub fn find_image(&self, query: &str) -> Result<Option<ImageEntry>, StoreError> {
        let hex = query.strip_prefix("sha256:").unwrap_or(query);
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.is_empty() || hex.len() > 64 || !hex.bytes().all(is_hex) {
            return Ok(None);
        }
        let found = self.meta().images_by_prefix(hex)?;
        let Some(first) = found.first() else {
            return Ok(None);
        };
        let other = |entry: &ImageEntry| entry.record.config != first.record.config;
        if found.iter().any(other) {
            let mut ids: Vec<Digest> = found.iter().map(|entry| entry.record.config).collect();
            ids.sort_unstable();
            ids.dedup();
            return Err(StoreError::Ambiguous {
                query: query.to_owned(),
                matches: ids.len(),
            });
        }
        Ok(found.into_iter().next())
    }

    /// Keeps layers from [`prune`](Store::prune) until the same owner pins others, or none.
    ///
    /// For what outlives a process, such as a stopped container. A running process takes a
    /// [`lease`](Store::lease).
    pub fn pin(&self, owner: &str, layers: &[DiffId]) -> Result<(), StoreError> {
        let digests: Vec<Digest> = layers.iter().map(|layer| *layer.digest()).collect();
        self.meta().pin(owner, &digests)
    }

    fn require_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        if self.has_blob(digest) {
            return Ok(());
        }
        Err(StoreError::MissingBlob { digest: *digest })
    }
}
