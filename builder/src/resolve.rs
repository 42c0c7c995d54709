//! Metadata of base images: from the store, or from a layout given on the command line.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rbuild_cache::Store;
use rbuild_parser::{ImageReference, Platform};

use crate::error::{BuildError, chain};
use crate::image::{BaseImage, resolve_layout, resolve_stored};
use crate::plan::BaseResolver;
use crate::request::NamedContext;

/// Looks images up in the store; each name once per build, so that all stages see the same.
pub(crate) struct StoreResolver<'a> {
    store: &'a Store,
    known: Mutex<HashMap<(String, String), BaseImage>>,
}

impl<'a> StoreResolver<'a> {
    /// A resolver over this store.
    pub(crate) fn new(store: &'a Store) -> StoreResolver<'a> {
        StoreResolver {
            store,
            known: Mutex::new(HashMap::new()),
        }
    }

    fn once(
        &self,
        name: String,
        platform: &Platform,
        find: impl FnOnce() -> Result<BaseImage, BuildError>,
    ) -> Result<BaseImage, BuildError> {
        let key = (name, platform.to_string());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = known.get(&key) {
            return Ok(image.clone());
        }
        let image = find()?;
        known.insert(key, image.clone());
        Ok(image)
    }
}

impl BaseResolver for StoreResolver<'_> {
    fn image(
        &self,
        reference: &ImageReference,
        platform: &Platform,
    ) -> Result<BaseImage, BuildError> {
        let canonical = reference.canonical();
        self.once(canonical.clone(), platform, || {
            let failed = format!(
                "{}: failed to resolve source metadata for {canonical}",
                reference.familiar()
            );
            match resolve_stored(self.store, reference, platform) {
                Ok(Some(image)) => Ok(image),
                Ok(None) => Err(BuildError::user(format!(
                    "{failed}: not in the image store, and pulling from registries is not supported yet"
                ))
                .with_help(format!(
                    "bring it in with `rbuild load` or `rbuild import`, or give a layout: \
                     --build-context {}=oci-layout://DIR",
                    reference.familiar()
                ))),
                Err(error) => {
                    let mut result = BuildError::user(failed);
                    result.causes = chain(&error);
                    Err(result)
                }
            }
        })
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
                            let mut result = BuildError::user(format!(
                                "failed to load the named context {name:?} from `{}`",
                                path.display()
                            ));
                            result.causes = chain(&error);
                            result
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
