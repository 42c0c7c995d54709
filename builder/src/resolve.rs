//! Metadata of base images: from the store, from a registry, or from a layout given on the command
//! line.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rbuild_cache::{DiffId, Store};
use rbuild_parser::{ImageReference, Platform};
use rbuild_registry::{Client, RegistryError};

use crate::error::{BuildError, BuildErrorKind};
use crate::event::{Event, EventSink, VertexId};
use crate::image::{
    BaseImage, ImageError, Origin, RemoteImage, keep_remote, resolve_layout, resolve_remote,
    resolve_stored,
};
use crate::plan::BaseResolver;
use crate::request::{NamedContext, PullPolicy};

/// A registry to ask, and whom to tell about it.
pub(crate) struct Outside<'a> {
    /// The client.
    pub(crate) client: &'a Client,
    /// When to ask it.
    pub(crate) pull: PullPolicy,
    /// Hears what is being looked up.
    pub(crate) events: &'a dyn EventSink,
}

/// Looks images up; each name once per build, so that all stages see the same.
pub(crate) struct ImageResolver<'a> {
    store: &'a Store,
    outside: Option<Outside<'a>>,
    known: Mutex<HashMap<Key, Result<BaseImage, BuildError>>>,
    /// What came from registries, by canonical name.
    found: Mutex<Vec<(ImageReference, RemoteImage)>>,
    /// Look-ups that were told about.
    told: AtomicU32,
}

/// Name and platform.
type Key = (String, String);

impl<'a> ImageResolver<'a> {
    /// A resolver over this store and, if there is one, the outside.
    pub(crate) fn new(store: &'a Store, outside: Option<Outside<'a>>) -> ImageResolver<'a> {
        ImageResolver {
            store,
            outside,
            known: Mutex::default(),
            found: Mutex::default(),
            told: AtomicU32::new(0),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Result<BaseImage, BuildError>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn once(
        &self,
        name: String,
        platform: &Platform,
        find: impl FnOnce() -> Result<BaseImage, BuildError>,
    ) -> Result<BaseImage, BuildError> {
        let key = (name, platform.to_string());
        if let Some(known) = self.known().get(&key) {
            return known.clone();
        }
        // Not under the lock: others may look for something else meanwhile.
        let found = find();
        self.known().entry(key).or_insert(found).clone()
    }

    /// Gives names to the images from registries whose layers have all come in, so that the next
    /// build finds them in the store.
    pub(crate) fn keep_complete(&self) {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for (reference, image) in found.iter() {
            if let Err(error) = keep_remote(self.store, reference, image) {
                let name = reference.familiar();
                tracing::warn!(%error, name, "a base image was not kept under its name");
            }
        }
    }

    /// Finds an image in the store or in its registry.
    fn find(
        &self,
        reference: &ImageReference,
        platform: &Platform,
    ) -> Result<BaseImage, BuildError> {
        let stored = resolve_stored(self.store, reference, platform);
        if let Ok(Some(image)) = &stored {
            // Whoever removes the image now leaves its layers to this build.
            let layers: Vec<DiffId> = image.layers.iter().map(|layer| layer.diff_id).collect();
            let kept = self.store.protect_layers(&layers);
            kept.map_err(|error| {
                BuildError::io("could not keep the base image from being pruned", &error)
            })?;
        }
        let stored =
            stored.and_then(|found| found.map_or(Ok(None), |image| complete(self.store, image)));
        let asks = self
            .outside
            .as_ref()
            .filter(|outside| outside.pull != PullPolicy::Never);
        let Some(outside) = asks else {
            return match stored {
                Ok(Some(image)) => Ok(image),
                Ok(None) => Err(not_stored(reference)),
                Err(error) => Err(failed(reference, &error)),
            };
        };
        match (outside.pull, stored) {
            (PullPolicy::Missing | PullPolicy::Never, Ok(Some(image))) => Ok(image),
            // What is wrong with the image in the store is mended by pulling it.
            (PullPolicy::Newer, Ok(Some(image))) => {
                self.ask(outside, reference, platform).or(Ok(image))
            }
            _ => self.ask(outside, reference, platform),
        }
    }

    /// Asks the registry.
    fn ask(
        &self,
        outside: &Outside<'_>,
        reference: &ImageReference,
        platform: &Platform,
    ) -> Result<BaseImage, BuildError> {
        let vertex = VertexId(u32::MAX - self.told.fetch_add(1, Ordering::Relaxed));
        let name = format!("[internal] load metadata for {}", reference.canonical());
        outside.events.event(Event::Started { vertex, name });
        let start = Instant::now();
        match resolve_remote(self.store, outside.client, reference, platform) {
            Ok(found) => {
                outside.events.event(Event::Finished {
                    vertex,
                    elapsed: start.elapsed(),
                    layer: None,
                });
                let image = found.image.clone();
                let mut list = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                list.push((reference.clone(), found));
                Ok(image)
            }
            Err(error) => {
                let error = failed(reference, &error);
                outside.events.event(Event::Failed {
                    vertex,
                    message: error.message.clone(),
                });
                Err(error)
            }
        }
    }
}

/// The image if all of its layers can be had from the store.
fn complete(store: &Store, image: BaseImage) -> Result<Option<BaseImage>, ImageError> {
    if !matches!(image.origin, Origin::Store) {
        return Ok(Some(image));
    }
    for layer in &image.layers {
        if store.layer(&layer.diff_id)?.is_none() && !store.has_blob(&layer.blob) {
            return Err(ImageError::Missing {
                what: "layer",
                digest: layer.blob,
                name: image.name,
            });
        }
    }
    Ok(Some(image))
}

fn not_stored(reference: &ImageReference) -> BuildError {
    let familiar = reference.familiar();
    BuildError::user(format!(
        "{familiar}: failed to resolve source metadata for {}: not in the image store, and registries \
         are not asked",
        reference.canonical()
    ))
    .with_help(format!(
        "bring it in with `rbuild pull`, `rbuild load` or `rbuild import`, or give a layout: \
         --build-context {familiar}=oci-layout://DIR"
    ))
}

/// The failure of finding an image, in `BuildKit`'s words.
fn failed(reference: &ImageReference, error: &ImageError) -> BuildError {
    let canonical = reference.canonical();
    let mut message = format!(
        "{}: failed to resolve source metadata for {canonical}",
        reference.familiar()
    );
    let mut kind = BuildErrorKind::User;
    match error {
        ImageError::Registry(error) if error.is_not_found() => {
            message.push_str(&format!(": {canonical}: not found"));
        }
        ImageError::Registry(RegistryError::Unauthorized { .. }) => message.push_str(
            ": pull access denied, repository does not exist or may require authorization",
        ),
        ImageError::Registry(RegistryError::Interrupted { .. }) => {
            return BuildError::cancelled();
        }
        ImageError::Registry(_) => kind = BuildErrorKind::Io,
        _ => {}
    }
    let mut result = BuildError::new(kind, message).because(error);
    result.help = error.hints();
    result
}

impl BaseResolver for ImageResolver<'_> {
    fn image(
        &self,
        reference: &ImageReference,
        platform: &Platform,
    ) -> Result<BaseImage, BuildError> {
        self.once(reference.canonical(), platform, || {
            self.find(reference, platform)
        })
    }

    fn prefetch(&self, wanted: &[(ImageReference, Platform)]) {
        if self.outside.is_none() || wanted.len() < 2 {
            return;
        }
        let mut different: Vec<&(ImageReference, Platform)> = Vec::new();
        for one in wanted {
            if !different.contains(&one) {
                different.push(one);
            }
        }
        thread::scope(|scope| {
            for (reference, platform) in different {
                // What came of it is kept; whoever needs it asks again.
                scope.spawn(move || self.image(reference, platform));
            }
        });
    }

    fn context(
        &self,
        name: &str,
        context: &NamedContext,
        platform: &Platform,
    ) -> Result<BaseImage, BuildError> {
        match context {
            NamedContext::Image(reference) => self.image(reference, platform),
            NamedContext::OciLayout { path, tag, digest } => {
                self.once(format!("context {name}"), platform, || {
                    resolve_layout(self.store, path, tag.as_deref(), digest.as_ref(), platform)
                        .map_err(|error| {
                            BuildError::user(format!(
                                "failed to load the named context {name:?} from `{}`",
                                path.display()
                            ))
                            .because(&error)
                        })
                })
            }
            NamedContext::Git(_) | NamedContext::Http(_) => Err(BuildError::user(format!(
                "named context {name:?} is a tree of files, not an image"
            ))),
            NamedContext::Directory(path) => Err(BuildError::user(format!(
                "named context {name:?} is the directory `{}`, not an image",
                path.display()
            ))),
        }
    }
}
