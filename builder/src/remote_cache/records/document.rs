//! The artifact of a step.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rbuild_cache::{DiffId, Digest};

use crate::image::manifest::ANNOTATION_CREATED;
use crate::image::media;
use crate::image::{BaseLayer, ImageError};
use crate::remote_cache::artifact::{Artifact, Part, empty};
use crate::remote_cache::config::UNCOMPRESSED;

/// Type of the artifact.
const ARTIFACT: &str = "application/vnd.rbuild.step.v1+json";
/// Annotation with the keys, separated by commas.
const KEYS: &str = "dev.rbuild.step.keys";
/// Annotation with the step as the build showed it.
const NAME: &str = "org.opencontainers.image.title";
/// Most keys that a record may have.
const MOST_KEYS: usize = 16;

/// What a step gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StepRecord {
    /// The keys under which it is known.
    pub(super) keys: Vec<Digest>,
    /// When it was made, RFC 3339.
    pub(super) created: Option<String>,
    /// What the step was called.
    pub(super) name: String,
    /// Its layer.
    pub(super) layer: BaseLayer,
}

/// The tag of a key.
pub(super) fn tag(key: &Digest) -> String {
    format!("step-{}", key.hex())
}

impl StepRecord {
    /// The manifest.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        let mut layer = Part::from(self.layer.descriptor());
        let diff_id = (UNCOMPRESSED.to_owned(), self.layer.diff_id.to_string());
        layer.annotations.extend([diff_id]);
        let mut artifact = Artifact::new(ARTIFACT, empty(), vec![layer]);
        artifact.annotations.extend([
            (KEYS.to_owned(), keys.join(",")),
            (NAME.to_owned(), self.name.clone()),
        ]);
        if let Some(created) = &self.created {
            let created = (ANNOTATION_CREATED.to_owned(), created.clone());
            artifact.annotations.extend([created]);
        }
        artifact.to_bytes()
    }

    /// Reads a manifest that somebody wrote; `what` names it in errors.
    pub(super) fn parse(what: &str, bytes: &[u8]) -> Result<StepRecord, ImageError> {
        let refuse = |reason: &str| ImageError::document(what, reason);
        let mut read = Artifact::parse(what, ARTIFACT, bytes)?;
        let (Some(layer), None) = (read.layers.pop(), read.layers.pop()) else {
            return Err(refuse("it does not have one layer"));
        };
        if media::layer_kind(&layer.media_type).is_none() {
            return Err(refuse("its layer is of an unknown kind"));
        }
        let digest = |text: &str| -> Result<Digest, ImageError> {
            text.parse()
                .map_err(|error| ImageError::document(what, error))
        };
        let diff_id = layer.annotations.get(UNCOMPRESSED);
        let diff_id = digest(diff_id.ok_or_else(|| refuse("its layer has no diff ID"))?)?;
        let keys = read.annotations.get(KEYS);
        let keys = keys.ok_or_else(|| refuse("it has no keys"))?;
        let keys = keys.split(',').map(digest).collect::<Result<Vec<_>, _>>()?;
        if keys.len() > MOST_KEYS {
            return Err(refuse("it has too many keys"));
        }
        Ok(StepRecord {
            keys,
            created: read.annotations.get(ANNOTATION_CREATED).cloned(),
            name: read.annotations.get(NAME).cloned().unwrap_or_default(),
            layer: BaseLayer {
                diff_id: DiffId::from_digest(diff_id),
                blob: layer.digest,
                size: layer.size,
                media_type: layer.media_type,
            },
        })
    }
}

/// Whether something made at this time (RFC 3339) is too old. What has no time is.
pub(in crate::remote_cache) fn expired(created: Option<&str>, max_age: Option<Duration>) -> bool {
    let Some(max_age) = max_age else {
        return false;
    };
    let made = created.and_then(|text| text.parse::<Timestamp>().ok());
    let Some(made) = made.map(SystemTime::from) else {
        return true;
    };
    // What another clock puts into the future is young.
    made.elapsed().is_ok_and(|age| age > max_age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> StepRecord {
        StepRecord {
            keys: vec![Digest::of(b"key"), Digest::of(b"early")],
            created: Some("2026-01-02T03:04:05Z".to_owned()),
            name: "[2/3] RUN make".to_owned(),
            layer: BaseLayer {
                diff_id: DiffId::from_digest(Digest::of(b"plain")),
                blob: Digest::of(b"blob"),
                size: 4,
                media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            },
        }
    }

    #[test]
    fn records_are_read_back() {
        let record = record();
        let bytes = record.to_bytes();
        assert_eq!(StepRecord::parse("it", &bytes).unwrap(), record);
        assert_eq!(tag(&record.keys[0]).len(), 69);
    }

    #[test]
    fn other_documents_are_refused() {
        let text = String::from_utf8(record().to_bytes()).unwrap();
        for (from, to, reason) in [
            (
                "rbuild.step",
                "other",
                "it is no `application/vnd.rbuild.step",
            ),
            ("tar+gzip", "zip", "unknown kind"),
            (UNCOMPRESSED, "x", "no diff ID"),
            (KEYS, "x", "no keys"),
            ("\"sha256:", "\"sha512:", ""),
            ("\"size\":4", "\"size\":-4", "invalid value"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            let error = StepRecord::parse("it", changed.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(reason), "{to}: {error}");
        }
        let mut two: serde_json::Value = serde_json::from_str(&text).unwrap();
        let layer = two["layers"][0].clone();
        two["layers"].as_array_mut().unwrap().push(layer);
        assert!(StepRecord::parse("it", two.to_string().as_bytes()).is_err());
    }

    #[test]
    fn age_is_counted_from_the_time_of_making() {
        let day = Some(Duration::from_hours(24));
        let now = Timestamp::now().to_string();
        assert!(!expired(Some(&now), day));
        assert!(expired(Some("2020-01-01T00:00:00Z"), day));
        assert!(expired(None, day));
        assert!(expired(Some("yesterday"), day));
        assert!(!expired(None, None));
        assert!(!expired(Some("2999-01-01T00:00:00Z"), day));
    }
}
