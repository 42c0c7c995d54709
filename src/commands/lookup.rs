//! Finds the image that a user means: by name, by name and digest, or by the beginning of its ID.

use rbuild_builder::image::{Variant, variants};
use rbuild_cache::{Digest, ImageEntry, ImageRecord, Store};
use rbuild_parser::{ImageReference, Platform};

use crate::failure::Failure;

/// An image and how it was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The image with all its names.
    pub(crate) entry: ImageEntry,
    /// The name it was found by; none if it was found by its ID.
    pub(crate) name: Option<ImageReference>,
}

/// Finds an image; none if there is no such one.
pub(crate) fn find(store: &Store, query: &str) -> Result<Option<Found>, Failure> {
    if let Ok(reference) = ImageReference::parse(query) {
        if let Some(digest) = reference.digest() {
            return by_digest(store, &reference, digest);
        }
        let reference = reference.with_default_tag();
        if let Some(record) = store.image(&reference.canonical())? {
            let entry = store.image_with_manifest(&record.manifest)?;
            let entry = entry.unwrap_or_else(|| ImageEntry {
                names: vec![reference.canonical()],
                record,
            });
            return Ok(Some(Found {
                entry,
                name: Some(reference),
            }));
        }
    }
    Ok(store
        .find_image(query)?
        .map(|entry| Found { entry, name: None }))
}

/// `NAME@sha256:…`: the image with this manifest, if it is known in that repository.
fn by_digest(
    store: &Store,
    reference: &ImageReference,
    digest: &str,
) -> Result<Option<Found>, Failure> {
    let Ok(digest) = digest.parse::<Digest>() else {
        return Ok(None);
    };
    let repository = repository(reference);
    let entry = store.image_with_manifest(&digest)?.filter(|entry| {
        entry
            .names
            .iter()
            .filter_map(|name| ImageReference::parse(name).ok())
            .any(|name| self::repository(&name) == repository)
    });
    Ok(entry.map(|entry| Found { entry, name: None }))
}

/// Finds an image or says that it is not there.
pub(crate) fn require(store: &Store, query: &str) -> Result<Found, Failure> {
    find(store, query)?.ok_or_else(|| Failure::new(format!("No such image: {query}")))
}

/// Finds an image and, with `--platform`, the one for that platform among those behind the name.
pub(crate) fn require_for(
    store: &Store,
    query: &str,
    platform: Option<&Platform>,
) -> Result<Found, Failure> {
    let mut found = require(store, query)?;
    if let Some(platform) = platform {
        let variant = variant(store, query, &found, platform)?;
        found.entry.record = variant.1;
    }
    Ok(found)
}

/// The image for a platform among those behind a name, which must be here as a whole.
pub(crate) fn variant(
    store: &Store,
    query: &str,
    found: &Found,
    platform: &Platform,
) -> Result<(Variant, ImageRecord), Failure> {
    let mut there = Vec::new();
    for variant in variants(store, &found.entry.record)? {
        if let Some(record) = variant.record.clone() {
            if variant.is_for(platform) {
                return Ok((variant, record));
            }
            there.push(variant.platform.text());
        }
    }
    Err(Failure::new(format!(
        "image with reference {query} was found but does not provide the specified platform ({platform})"
    ))
    .hint(format!("it is here for: {}", there.join(", "))))
}

/// Parses the value of `--platform`.
pub(crate) fn platform(text: Option<&str>) -> Result<Option<Platform>, Failure> {
    text.map(|text| {
        Platform::parse(text)
            .map_err(|reason| Failure::new(format!("invalid platform {text:?}: {reason}")))
    })
    .transpose()
}

/// All names of a repository.
pub(crate) fn all_tags(
    store: &Store,
    repository: &ImageReference,
) -> Result<Vec<(ImageReference, Found)>, Failure> {
    let mut found = Vec::new();
    for entry in store.images()? {
        for name in &entry.names {
            let Ok(name) = ImageReference::parse(name) else {
                continue;
            };
            if self::repository(&name) == self::repository(repository) {
                let name = name.with_default_tag();
                found.push((
                    name.clone(),
                    Found {
                        entry: entry.clone(),
                        name: Some(name),
                    },
                ));
            }
        }
    }
    found.sort_by_key(|(name, _)| name.canonical());
    Ok(found)
}

/// Registry and path of a reference.
pub(crate) fn repository(reference: &ImageReference) -> String {
    format!("{}/{}", reference.domain(), reference.path())
}

/// The short form of a canonical name, split into repository and tag.
pub(crate) fn familiar_parts(name: &str) -> (String, String) {
    match ImageReference::parse(name) {
        Ok(reference) => {
            let tag = reference.tag().unwrap_or("<none>").to_owned();
            let familiar = reference.familiar();
            let suffix = format!(":{tag}");
            let repository = familiar.split('@').next().unwrap_or(&familiar);
            let repository = repository.strip_suffix(&suffix).unwrap_or(repository);
            (repository.to_owned(), tag)
        }
        Err(_) => (name.to_owned(), "<none>".to_owned()),
    }
}

/// The short form of a canonical name.
pub(crate) fn familiar(name: &str) -> String {
    ImageReference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// The first twelve digits of an ID.
pub(crate) fn short_id(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}
