//! Choosing the image for a platform among the manifests that an index leads to.

use rbuild_parser::Platform;

use super::base::{BaseImage, BaseLayer, Origin};
use super::config::ImageConfig;
use super::document::{Document, Documents, ReadManifest, checked};
use super::error::ImageError;
use super::manifest::{Descriptor, DescriptorPlatform};
use super::{limits, media, platform};

/// The image that was chosen for a platform.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// Descriptor of its manifest.
    pub(crate) descriptor: Descriptor,
    /// Its manifest.
    pub(crate) manifest: ReadManifest,
    /// Its config.
    pub(crate) config: ImageConfig,
}

/// Finds the image for `wanted` among `start` and the indexes below.
///
/// A single manifest that no index leads to is taken whatever its platform, as BuildKit does: the
/// build check `InvalidBaseImagePlatform` is for that.
pub(crate) fn choose(
    source: &dyn Documents,
    name: &str,
    start: &[Descriptor],
    wanted: &Platform,
) -> Result<Chosen, ImageError> {
    if let [only] = start
        && let Document::Manifest(manifest) = read_document(source, name, only)?
    {
        return complete(source, only.clone(), *manifest);
    }
    let mut candidates = Vec::new();
    for descriptor in start {
        collect(source, name, descriptor, 0, &mut candidates)?;
    }
    let mut ranked = Vec::new();
    let mut available = Vec::new();
    for candidate in &candidates {
        let platform = platform_of(source, name, candidate)?;
        ranked.extend(platform::rank(wanted, &platform).map(|rank| (rank, candidate)));
        available.push(platform.text());
    }
    // The first of the best.
    let Some((_, descriptor)) = ranked.into_iter().min_by_key(|(rank, _)| *rank) else {
        available.retain(|text| text != UNKNOWN);
        let (name, platform) = (name.to_owned(), wanted.to_string());
        return Err(ImageError::NoPlatform {
            name,
            platform,
            available,
        });
    };
    manifest_at(source, name, descriptor)
}

/// Like [`choose`] among what is there: manifests that are missing do not count, and without one for
/// `wanted` any other will do. For archives, which rarely hold all platforms of an index.
pub(crate) fn choose_present(
    source: &dyn Documents,
    name: &str,
    top: &Descriptor,
    wanted: &Platform,
) -> Result<Chosen, ImageError> {
    let mut candidates = Vec::new();
    collect(source, name, top, 0, &mut candidates)?;
    let mut first_error = None;
    let mut best: Option<(usize, Chosen)> = None;
    for candidate in &candidates {
        let chosen = match manifest_at(source, name, candidate) {
            Ok(chosen) => chosen,
            Err(error @ ImageError::Missing { .. }) => {
                first_error = first_error.or(Some(error));
                continue;
            }
            // An artifact beside the images.
            Err(ImageError::NotAnImage { .. }) if candidates.len() > 1 => continue,
            Err(error) => return Err(error),
        };
        let platform = DescriptorPlatform::of_config(&chosen.config);
        let platform = candidate.platform.as_ref().unwrap_or(&platform);
        if platform.text() == UNKNOWN {
            continue;
        }
        let rank = platform::rank(wanted, platform).unwrap_or(usize::MAX);
        if best.as_ref().is_none_or(|(least, _)| rank < *least) {
            best = Some((rank, chosen));
        }
    }
    let nothing = || ImageError::document(format!("index {} of {name}", top.digest), "it is empty");
    best.map(|(_, chosen)| chosen)
        .ok_or_else(|| first_error.unwrap_or_else(nothing))
}

/// Platform of what is no image for any machine, such as an attestation.
const UNKNOWN: &str = "unknown/unknown";

/// Reads the manifest that a descriptor promises, and its config.
pub(crate) fn manifest_at(
    source: &dyn Documents,
    name: &str,
    descriptor: &Descriptor,
) -> Result<Chosen, ImageError> {
    match read_document(source, name, descriptor)? {
        Document::Manifest(manifest) => complete(source, descriptor.clone(), *manifest),
        Document::Index(_) => Err(ImageError::document(
            format!("manifest {} of {name}", descriptor.digest),
            "it is an index, its descriptor says otherwise",
        )),
    }
}

/// Collects the manifests below a descriptor.
pub(crate) fn collect(
    source: &dyn Documents,
    name: &str,
    descriptor: &Descriptor,
    depth: usize,
    into: &mut Vec<Descriptor>,
) -> Result<(), ImageError> {
    if !media::is_index(&descriptor.media_type) {
        into.push(descriptor.clone());
        return Ok(());
    }
    limits::check(
        name,
        "nested indexes",
        depth as u64 + 1,
        limits::INDEX_DEPTH as u64,
    )?;
    let Document::Index(index) = read_document(source, name, descriptor)? else {
        return Err(ImageError::document(
            format!("index {} of {name}", descriptor.digest),
            "it is a manifest, its descriptor says otherwise",
        ));
    };
    for entry in &index.manifests {
        collect(source, name, entry, depth + 1, into)?;
        limits::check(
            name,
            "index entries",
            into.len() as u64,
            limits::INDEX_ENTRIES,
        )?;
    }
    Ok(())
}

fn read_document(
    source: &dyn Documents,
    name: &str,
    descriptor: &Descriptor,
) -> Result<Document, ImageError> {
    let bytes = checked(source, "manifest", descriptor)?;
    Document::parse(&format!("manifest {} of {name}", descriptor.digest), &bytes)
}

/// Platform of a manifest: from its descriptor, else from its config.
fn platform_of(
    source: &dyn Documents,
    name: &str,
    descriptor: &Descriptor,
) -> Result<DescriptorPlatform, ImageError> {
    if let Some(platform) = &descriptor.platform {
        return Ok(platform.clone());
    }
    match read_document(source, name, descriptor)? {
        Document::Manifest(manifest) if media::is_config(&manifest.config.media_type) => {
            let bytes = checked(source, "config", &manifest.config)?;
            Ok(DescriptorPlatform::of_config(&ImageConfig::from_bytes(
                &bytes,
            )?))
        }
        // An artifact beside the images: never fits.
        _ => Ok(DescriptorPlatform {
            architecture: "unknown".to_owned(),
            os: "unknown".to_owned(),
            os_version: None,
            os_features: Vec::new(),
            variant: None,
        }),
    }
}

fn complete(
    source: &dyn Documents,
    descriptor: Descriptor,
    manifest: ReadManifest,
) -> Result<Chosen, ImageError> {
    if !media::is_config(&manifest.config.media_type) {
        return Err(ImageError::document(
            format!("manifest {}", descriptor.digest),
            format!(
                "it is not an image: its config is `{}`",
                manifest.config.media_type
            ),
        ));
    }
    let config = ImageConfig::from_bytes(&checked(source, "config", &manifest.config)?)?;
    Ok(Chosen {
        descriptor,
        manifest,
        config,
    })
}

impl Chosen {
    /// Makes it a base image.
    pub(crate) fn into_base(self, name: String, origin: Origin) -> Result<BaseImage, ImageError> {
        let layers = self.base_layers(&name)?;
        Ok(BaseImage {
            name,
            manifest: self.descriptor.digest,
            config: self.config,
            layers,
            origin,
        })
    }

    /// Brings layers of the manifest and diff IDs of the config together.
    pub(crate) fn base_layers(&self, name: &str) -> Result<Vec<BaseLayer>, ImageError> {
        let diff_ids = &self.config.rootfs.diff_ids;
        if self.manifest.layers.len() != diff_ids.len() {
            return Err(ImageError::LayerCount {
                name: name.to_owned(),
                layers: self.manifest.layers.len(),
                diff_ids: diff_ids.len(),
            });
        }
        self.manifest
            .layers
            .iter()
            .zip(diff_ids)
            .map(|(layer, diff_id)| {
                if media::layer_kind(&layer.media_type).is_none() {
                    return Err(ImageError::document(
                        format!("layer {} of {name}", layer.digest),
                        format!("its media type `{}` is not supported", layer.media_type),
                    ));
                }
                Ok(BaseLayer {
                    diff_id: *diff_id,
                    blob: layer.digest,
                    size: layer.size,
                    media_type: layer.media_type.clone(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rbuild_cache::Digest;

    use super::*;

    /// Documents in memory.
    #[derive(Default)]
    struct Memory(HashMap<Digest, Vec<u8>>);

    impl Memory {
        fn put(&mut self, media_type: &str, text: &str) -> Descriptor {
            let digest = Digest::of(text.as_bytes());
            self.0.insert(digest, text.as_bytes().to_vec());
            Descriptor::new(media_type, digest, text.len() as u64)
        }

        fn image(&mut self, architecture: &str, layers: usize) -> Descriptor {
            let ids = vec![format!("\"{}\"", Digest::of(b"diff")); layers].join(",");
            let config = self.put(
                media::OCI_CONFIG,
                &format!(
                    r#"{{"architecture":"{architecture}","os":"linux","rootfs":{{"diff_ids":[{ids}]}}}}"#
                ),
            );
            let layer = Descriptor::new(
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Digest::of(b"blob"),
                4,
            );
            let manifest = format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
                json(&config),
                vec![json(&layer); layers].join(",")
            );
            self.put(media::OCI_MANIFEST, &manifest)
        }

        fn index(&mut self, entries: &[&Descriptor]) -> Descriptor {
            let list: Vec<_> = entries.iter().map(|entry| json(entry)).collect();
            let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, list.join(","));
            self.put(media::OCI_INDEX, &text)
        }
    }

    impl Documents for Memory {
        fn bytes(
            &self,
            what: &'static str,
            descriptor: &Descriptor,
        ) -> Result<Vec<u8>, ImageError> {
            self.0
                .get(&descriptor.digest)
                .cloned()
                .ok_or_else(|| ImageError::Missing {
                    what,
                    digest: descriptor.digest,
                    name: "memory".to_owned(),
                })
        }
    }

    fn json(descriptor: &Descriptor) -> String {
        serde_json::to_string(descriptor).unwrap()
    }

    fn wanted(architecture: &str) -> Platform {
        Platform {
            architecture: architecture.into(),
            ..linux()
        }
    }

    fn linux() -> Platform {
        Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
            ..Platform::host()
        }
    }

    fn on(mut descriptor: Descriptor, architecture: &str) -> Descriptor {
        descriptor.platform = Some(DescriptorPlatform {
            architecture: architecture.into(),
            os: if architecture == "unknown" {
                "unknown"
            } else {
                "linux"
            }
            .into(),
            os_version: None,
            os_features: Vec::new(),
            variant: None,
        });
        descriptor
    }

    #[test]
    fn a_lone_manifest_serves_every_platform() {
        let mut memory = Memory::default();
        let image = memory.image("arm64", 1);
        let chosen = choose(&memory, "x", &[image], &wanted("amd64")).unwrap();
        assert_eq!(chosen.config.architecture, "arm64");
        assert_eq!(chosen.base_layers("x").unwrap().len(), 1);
    }

    #[test]
    fn the_platform_chooses_in_nested_indexes() {
        let mut memory = Memory::default();
        let (arm, amd) = (memory.image("arm64", 0), memory.image("amd64", 2));
        let attestation = on(memory.image("unknown", 0), "unknown");
        // The second has no platform in its descriptor: its config tells.
        let inner = memory.index(&[&on(arm, "arm64"), &amd, &attestation]);
        let outer = memory.index(&[&inner]);
        let chosen = choose(&memory, "x", std::slice::from_ref(&outer), &wanted("amd64")).unwrap();
        assert_eq!(chosen.descriptor, amd);
        let error = choose(&memory, "x", &[outer], &wanted("s390x")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no match for platform in manifest: x has no image for linux/s390x"
        );
        assert_eq!(error.hints(), ["available: linux/arm64, linux/amd64"]);
    }

    #[test]
    fn indexes_nest_only_so_deep() {
        let mut memory = Memory::default();
        let mut top = on(memory.image("amd64", 0), "amd64");
        for _ in 0..3 {
            top = memory.index(&[&top]);
        }
        let error = choose(&memory, "x", &[top], &linux())
            .unwrap_err()
            .to_string();
        assert_eq!(error, "x is over the limit `nested indexes`: 3 > 2");
    }

    #[test]
    fn size_and_digest_are_checked() {
        let mut memory = Memory::default();
        let mut image = memory.image("amd64", 0);
        image.size += 1;
        let error = choose(&memory, "x", std::slice::from_ref(&image), &linux())
            .unwrap_err()
            .to_string();
        assert!(error.contains("its descriptor says"), "{error}");
        image.size -= 1;
        memory.0.insert(image.digest, b"{}".to_vec());
        let error = choose(&memory, "x", &[image], &linux())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("manifest is corrupt: expected sha256:"),
            "{error}"
        );
    }

    #[test]
    fn layers_and_diff_ids_must_match() {
        let mut memory = Memory::default();
        let config = memory.put(media::OCI_CONFIG, r#"{"rootfs":{"diff_ids":[]}}"#);
        let layer = Descriptor::new(
            "application/vnd.oci.image.layer.v1.tar",
            Digest::of(b"blob"),
            4,
        );
        let text = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
            json(&config),
            json(&layer)
        );
        let image = memory.put(media::OCI_MANIFEST, &text);
        let chosen = choose(&memory, "x", &[image], &linux()).unwrap();
        assert_eq!(
            chosen
                .into_base("x".into(), Origin::Store)
                .unwrap_err()
                .to_string(),
            "x: the manifest lists 1 layers, the config 0 diff IDs"
        );
    }

    #[test]
    fn artifacts_are_no_images() {
        let mut memory = Memory::default();
        let config = memory.put("application/vnd.cncf.helm.config.v1+json", "{}");
        let text = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":null}}"#,
            json(&config)
        );
        let chart = memory.put(media::OCI_MANIFEST, &text);
        let error = choose(&memory, "x", &[chart], &linux())
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("its config is `application/vnd.cncf.helm.config.v1+json`"));
    }
}
