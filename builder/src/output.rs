//! Writing the result of a build: image store, archives, layouts, file trees.

mod assemble;
mod destination;
mod error;
mod file;
mod layout;
mod local;
mod registry;
mod rootfs_tar;
mod validate;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rbuild_cache::{DiffId, Digest, Store};
use rbuild_parser::{ImageReference, Platform};
use rbuild_registry::Client;

use self::assemble::{Assembled, Form, assemble};
use crate::image::bundle::{Bundle, Content, named_entry};
use crate::image::manifest::ANNOTATION_REF_NAME;
use crate::image::{BaseLayer, ImageConfig, Place};
use crate::request::{ArchiveTarget, BuildRequest, OutputKind, OutputOptions};

pub use error::OutputError;
pub use file::OutFile;
pub(crate) use layout::write_directory as write_layout;
pub use rootfs_tar::write_tree;
pub use validate::validate_outputs;

/// The result of a build for one platform.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The platform.
    pub platform: Platform,
    /// The config, with `rootfs.diff_ids` filled.
    pub config: ImageConfig,
    /// The layers, bottom first.
    pub layers: Vec<DiffId>,
    /// Index of the first layer that does not come from the base image.
    pub new_layers_from: usize,
    /// Blobs of the base image's layers, bottom first; used as they are unless compression is
    /// forced.
    pub base_blobs: Vec<BaseLayer>,
    /// Layers that registries have, and where; the store may lack them.
    pub elsewhere: BTreeMap<DiffId, (BaseLayer, Place)>,
    /// Registry host and repository of the base image.
    pub base_repository: Option<(String, String)>,
    /// `SOURCE_DATE_EPOCH`, if the build has one; seconds since 1970.
    pub source_date_epoch: Option<i64>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The image ID: digest of the config (of the first platform).
    pub image_id: Digest,
    /// Digest of the manifest, or of the index of several platforms.
    pub manifest: Digest,
    /// Size of that document in bytes.
    pub manifest_size: u64,
    /// Media type of that document.
    pub media_type: String,
    /// Familiar names under which the image was stored or archived.
    pub names: Vec<String>,
}

/// Writes the result to all outputs of the request, in order.
///
/// `finished` holds one result per platform. `progress` gets what is being done, how far it is, and
/// how far it goes if that is known. What is returned describes the image as the first output that
/// holds one has it; without such an output, as the image store would have it.
pub fn write_outputs(
    store: &Store,
    client: Option<&Client>,
    request: &BuildRequest,
    finished: &[Finished],
    progress: &dyn Fn(&str, u64, Option<u64>),
) -> Result<Written, OutputError> {
    let mut names = Vec::new();
    let mut first: Option<Assembled> = None;
    for output in &request.outputs {
        let assembled = match &output.kind {
            OutputKind::Image { names: more } => {
                let wanted = names_of(request, more);
                let image = assemble(store, finished, &output.options, Form::Stored, progress)?;
                store_image(store, finished, &image, &wanted)?;
                names.extend(wanted);
                Some(image)
            }
            OutputKind::Registry {
                names: more,
                by_digest,
            } => {
                let wanted = names_of(request, more);
                let (options, form) = (&output.options, Form::Distributed);
                let image = assemble(store, finished, options, form, progress)?;
                registry::push(
                    store, client, finished, &image, &wanted, *by_digest, progress,
                )?;
                names.extend(wanted);
                Some(image)
            }
            OutputKind::Oci(target) | OutputKind::Docker(target) => {
                let wanted = names_of(request, &[]);
                let docker = matches!(output.kind, OutputKind::Docker(_));
                let mut image = assemble(
                    store,
                    finished,
                    &output.options,
                    Form::Distributed,
                    progress,
                )?;
                image.name(
                    &wanted,
                    matches!(target, ArchiveTarget::Directory(_)),
                    docker,
                );
                write_archive(store, target, &image.bundle, progress)?;
                names.extend(wanted);
                Some(image)
            }
            OutputKind::Tar(destination) => {
                rootfs_tar::write_rootfs(store, finished, destination, progress)?;
                None
            }
            OutputKind::Local(directory) => {
                local::write_tree(store, finished, directory, progress)?;
                None
            }
            OutputKind::CacheOnly => None,
        };
        first = first.or(assembled);
    }
    let image = match first {
        Some(image) => image,
        None => assemble(
            store,
            finished,
            &OutputOptions::default(),
            Form::Stored,
            progress,
        )?,
    };
    Ok(image.written(&names))
}

impl Assembled {
    /// Fills the entries of `index.json` and, for Docker, of `manifest.json`.
    ///
    /// In a layout directory an image without a name is `latest`, as BuildKit's client has it.
    fn name(&mut self, names: &[ImageReference], directory: bool, docker: bool) {
        let entry = self.entry();
        self.bundle.entries = names.iter().map(|name| named_entry(&entry, name)).collect();
        if names.is_empty() {
            let mut entry = entry;
            if directory {
                let tag = (ANNOTATION_REF_NAME.to_owned(), "latest".to_owned());
                entry.annotations.extend([tag]);
            }
            self.bundle.entries.push(entry);
        }
        if docker {
            let names: Vec<String> = names.iter().map(familiar).collect();
            self.bundle.docker = Some(self.docker_images(&names));
        }
    }

    fn written(&self, names: &[ImageReference]) -> Written {
        let mut familiar: Vec<String> = Vec::new();
        for name in names.iter().map(self::familiar) {
            if !familiar.contains(&name) {
                familiar.push(name);
            }
        }
        Written {
            // There is one image per platform, and at least one platform.
            image_id: self.images[0].config,
            manifest: self.top.digest,
            manifest_size: self.top.size,
            media_type: self.top.media_type.clone(),
            names: familiar,
        }
    }
}

/// The names of an output, each once.
pub(crate) fn names_of(request: &BuildRequest, more: &[ImageReference]) -> Vec<ImageReference> {
    let mut names: Vec<ImageReference> = Vec::new();
    for name in request.tags.iter().chain(more) {
        let name = name.clone().with_default_tag();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The short form with tag, as `docker images` shows it.
fn familiar(name: &ImageReference) -> String {
    name.clone().with_default_tag().familiar()
}

/// Puts the documents into the store, then the record or names that lead to them.
fn store_image(
    store: &Store,
    finished: &[Finished],
    image: &Assembled,
    names: &[ImageReference],
) -> Result<(), OutputError> {
    for content in image.bundle.blobs.values() {
        if let Content::Document(bytes) = content {
            store.put_blob(bytes)?;
        }
    }
    let host = Platform::host();
    let main = finished
        .iter()
        .position(|one| one.platform == host)
        .unwrap_or(0);
    let record = image.record(store, main)?;
    if names.is_empty() {
        store.put_image(&record)?;
    }
    for name in names {
        store.tag(&name.canonical(), &record)?;
    }
    Ok(())
}

/// Writes an archive or layout directory.
fn write_archive(
    store: &Store,
    target: &ArchiveTarget,
    bundle: &Bundle,
    progress: &dyn Fn(&str, u64, Option<u64>),
) -> Result<(), OutputError> {
    let total = bundle.size();
    match target {
        ArchiveTarget::Tar(destination) => {
            destination::write_to(destination, store.stop_flag(), &mut |out| {
                let written = |bytes| progress("sending tarball", bytes, Some(total));
                Ok(bundle.write_tar(store, out, &written)?)
            })
        }
        ArchiveTarget::Directory(path) => {
            let written = |bytes| progress("copying files", bytes, Some(total));
            layout::write_directory(store, path, bundle, &written)
        }
    }
}
