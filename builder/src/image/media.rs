//! Media types of images, in OCI's and in Docker's names.

use rbuild_cache::CompressionKind;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Which family of media types a document uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// The OCI image specification's.
    Oci,
    /// Docker's, "Image Manifest Version 2, Schema 2".
    Docker,
}

impl Family {
    /// Media type of a manifest.
    pub(crate) fn manifest(self) -> &'static str {
        match self {
            Family::Oci => OCI_MANIFEST,
            Family::Docker => DOCKER_MANIFEST,
        }
    }

    /// Media type of an index (Docker: manifest list).
    pub(crate) fn index(self) -> &'static str {
        match self {
            Family::Oci => OCI_INDEX,
            Family::Docker => DOCKER_INDEX,
        }
    }

    /// Media type of an image config.
    pub(crate) fn config(self) -> &'static str {
        match self {
            Family::Oci => OCI_CONFIG,
            Family::Docker => DOCKER_CONFIG,
        }
    }

    /// Media type of a layer.
    pub(crate) fn layer(self, kind: CompressionKind) -> String {
        match (self, kind) {
            (Family::Oci, CompressionKind::Uncompressed) => OCI_LAYER.to_owned(),
            (Family::Oci, CompressionKind::Gzip) => format!("{OCI_LAYER}+gzip"),
            (Family::Oci, CompressionKind::Zstd) => format!("{OCI_LAYER}+zstd"),
            (Family::Docker, CompressionKind::Uncompressed) => DOCKER_LAYER.to_owned(),
            (Family::Docker, CompressionKind::Gzip) => format!("{DOCKER_LAYER}.gzip"),
            (Family::Docker, CompressionKind::Zstd) => format!("{DOCKER_LAYER}.zstd"),
        }
    }
}

/// Tells whether a media type is that of an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Tells whether a media type is that of an image manifest.
pub(crate) fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Tells whether a manifest or index is one of Docker's.
pub(crate) fn is_docker(media_type: &str) -> bool {
    matches!(media_type, DOCKER_MANIFEST | DOCKER_INDEX)
}

/// Tells whether a media type is that of an image config.
pub(crate) fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// Returns how a layer of this media type is compressed; none if it is no layer that we can read.
///
/// Layers that must not be distributed ("foreign") hold the same bytes as others.
pub(crate) fn layer_kind(media_type: &str) -> Option<CompressionKind> {
    let oci = media_type
        .strip_prefix(OCI_LAYER)
        .or_else(|| {
            media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar")
        })
        .map(|rest| rest.strip_prefix('+').unwrap_or(rest));
    let docker = media_type
        .strip_prefix(DOCKER_LAYER)
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar"))
        .map(|rest| rest.strip_prefix('.').unwrap_or(rest));
    match oci.or(docker)? {
        "" => Some(CompressionKind::Uncompressed),
        "gzip" => Some(CompressionKind::Gzip),
        "zstd" => Some(CompressionKind::Zstd),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_types_are_read_back() {
        use CompressionKind::{Gzip, Uncompressed, Zstd};
        for family in [Family::Oci, Family::Docker] {
            for kind in [Uncompressed, Gzip, Zstd] {
                assert_eq!(layer_kind(&family.layer(kind)), Some(kind));
            }
        }
    }

    #[test]
    fn other_types_are_no_layers() {
        for text in [
            "",
            OCI_CONFIG,
            "application/vnd.in-toto+json",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.image.layer.v1.tarball",
            "application/vnd.wasm.content.layer.v1+wasm",
        ] {
            assert_eq!(layer_kind(text), None, "{text}");
        }
    }

    #[test]
    fn foreign_layers_are_layers() {
        assert_eq!(
            layer_kind("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
            Some(CompressionKind::Gzip)
        );
        assert_eq!(
            layer_kind("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"),
            Some(CompressionKind::Zstd)
        );
    }
}
