//! `--cache-from` and `--cache-to`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use std::time::Duration;

use rbuild_builder::request::{CacheForm, CachePlace, CacheSource, CacheTarget, SourcePlace};
use rbuild_parser::{ImageReference, closest, parse_duration, parse_size};

use super::outputs::{Reason, attributes, boolean, compression};
use crate::csv;
use crate::failure::Failure;

/// Attributes of `--cache-from`.
const FROM: &[&str] = &["type", "ref", "src", "tag", "digest", "max-age", "mounts"];
/// Attributes of `--cache-to`.
const TO: &[&str] = &[
    "type",
    "ref",
    "dest",
    "tag",
    "mode",
    "ignore-error",
    "compression",
    "compression-level",
    "force-compression",
    "image-manifest",
    "oci-mediatypes",
    "max-layer-size",
    "mounts",
];

/// Parses the values of `--cache-from`, and `--cache-ttl`, which is the age of those that say none.
pub(super) fn sources(values: &[String], ttl: Option<&str>) -> Result<Vec<CacheSource>, Failure> {
    let ttl = ttl.map(age).transpose();
    let ttl = ttl.map_err(|reason| Failure::new(format!("invalid --cache-ttl: {reason}")))?;
    let parse = |value: &String| {
        let mut given = given(value)?;
        let mut found = source(&mut given)?;
        found.max_age = found.max_age.or(ttl);
        rest(&given, FROM)?;
        Ok(found)
    };
    all("cache source", values, &parse)
}

/// A length of time, above zero.
fn age(text: &str) -> Result<Duration, String> {
    let nanoseconds = parse_duration(text)?;
    match u64::try_from(nanoseconds) {
        Ok(nanoseconds) if nanoseconds > 0 => Ok(Duration::from_nanos(nanoseconds)),
        _ => Err(format!("`{text}` is not above zero")),
    }
}

/// Parses the values of `--cache-to`.
pub(super) fn targets(values: &[String]) -> Result<Vec<CacheTarget>, Failure> {
    let parse = |value: &String| {
        let mut given = given(value)?;
        target(&mut given).and_then(|found| rest(&given, TO).map(|()| found))
    };
    all("cache target", values, &parse)
}

fn all<T>(
    what: &str,
    values: &[String],
    parse: &dyn Fn(&String) -> Result<T, Reason>,
) -> Result<Vec<T>, Failure> {
    let failed = |value: &str, reason| match reason {
        Reason::Invalid(reason) => Failure::new(format!("invalid {what} `{value}`: {reason}")),
        Reason::Failure(failure) => failure,
    };
    values
        .iter()
        .map(|value| parse(value).map_err(|reason| failed(value, reason)))
        .collect()
}

/// The fields; a bare name is one of a registry.
fn given(value: &str) -> Result<BTreeMap<String, String>, Reason> {
    let fields = csv::fields(value).map_err(|error| error.to_string())?;
    if let [name] = fields.as_slice()
        && !name.contains('=')
    {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        return Ok(BTreeMap::from([
            pair("type", "registry"),
            pair("ref", name),
        ]));
    }
    Ok(attributes(&fields)?)
}

fn source(given: &mut BTreeMap<String, String>) -> Result<CacheSource, Reason> {
    let place = match given.remove("type").as_deref() {
        None => return Err("type is required".to_owned().into()),
        Some("registry") => SourcePlace::Registry(reference(given)?),
        Some("records") => SourcePlace::Records(repository(given)?),
        Some("local") => {
            let path = given.remove("src").filter(|path| !path.is_empty());
            let path = path.ok_or_else(|| "local cache importer requires src".to_owned())?;
            let digest = given.remove("digest").map(|text| text.parse()).transpose();
            SourcePlace::Local {
                path: PathBuf::from(path),
                tag: given.remove("tag"),
                digest: digest.map_err(|error| format!("invalid digest: {error}"))?,
            }
        }
        Some(other) => return unknown(other),
    };
    let max_age = given.remove("max-age").map(|text| age(&text)).transpose();
    let mounts = mounts(given, matches!(place, SourcePlace::Records(_)))?;
    Ok(CacheSource {
        place,
        max_age: max_age.map_err(|reason| format!("max-age: {reason}"))?,
        mounts,
    })
}

/// `mounts=true`, where there is a place for them.
fn mounts(given: &mut BTreeMap<String, String>, records: bool) -> Result<bool, Reason> {
    let mounts = boolean(given, "mounts")?.unwrap_or(false);
    if mounts && !records {
        return Err("`mounts=true` goes with type=records only"
            .to_owned()
            .into());
    }
    Ok(mounts)
}

fn target(given: &mut BTreeMap<String, String>) -> Result<CacheTarget, Reason> {
    let place = match given.remove("type").as_deref() {
        None => return Err("type is required".to_owned().into()),
        Some("registry") => CachePlace::Registry(reference(given)?.with_default_tag()),
        Some("records") => CachePlace::Records(repository(given)?),
        Some("inline") => CachePlace::Inline,
        Some("local") => {
            let path = given.remove("dest").filter(|path| !path.is_empty());
            let path = path.ok_or_else(|| "local cache exporter requires dest".to_owned())?;
            CachePlace::Local {
                path: PathBuf::from(path),
                tag: given.remove("tag").unwrap_or_else(|| "latest".to_owned()),
            }
        }
        Some(other) => return unknown(other),
    };
    let all = match given.remove("mode").as_deref() {
        None | Some("min") => false,
        Some("max") if place == CachePlace::Inline => {
            let what = "`mode=max` of an inline cache";
            return Err(Reason::Failure(Failure::new(format!(
                "{what} is impossible: an image holds only its own layers"
            ))));
        }
        Some("max") => true,
        Some(other) => return Err(format!("unknown mode `{other}`; there is min and max").into()),
    };
    let ignore_error = boolean(given, "ignore-error")?.unwrap_or(false);
    let form = form(given)?;
    let has_form = matches!(place, CachePlace::Registry(_) | CachePlace::Local { .. });
    if form != CacheForm::default() && !has_form {
        let text = "an index goes with type=registry and type=local only";
        return Err(text.to_owned().into());
    }
    let max_layer = given.remove("max-layer-size").map(|text| parse_size(&text));
    let max_layer = max_layer.transpose();
    let mounts = mounts(given, matches!(place, CachePlace::Records(_)))?;
    Ok(CacheTarget {
        place,
        all,
        ignore_error,
        compression: compression(given)?,
        form,
        max_layer: max_layer.map_err(|reason| format!("max-layer-size: {reason}"))?,
        mounts,
    })
}

/// What lists the blobs. Docker's media types know no image manifest whose config is a cache.
fn form(given: &mut BTreeMap<String, String>) -> Result<CacheForm, Reason> {
    let oci = boolean(given, "oci-mediatypes")?.unwrap_or(true);
    match (boolean(given, "image-manifest")?.unwrap_or(oci), oci) {
        (true, true) => Ok(CacheForm::Manifest),
        (false, true) => Ok(CacheForm::Index),
        (false, false) => Ok(CacheForm::DockerIndex),
        (true, false) => Err("image-manifest=true needs oci-mediatypes=true"
            .to_owned()
            .into()),
    }
}

fn unknown<T>(kind: &str) -> Result<T, Reason> {
    match kind {
        "gha" | "s3" | "azblob" => {
            let what = format!("the cache type `{kind}`");
            Err(Reason::Failure(Failure::unsupported(&what)))
        }
        other => Err(format!(
            "unknown type `{other}`; there is registry, records, local and inline"
        )
        .into()),
    }
}

fn reference(given: &mut BTreeMap<String, String>) -> Result<ImageReference, Reason> {
    let name = given.remove("ref").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| "registry cache requires ref".to_owned())?;
    Ok(ImageReference::parse(&name)?)
}

/// A repository: the tags in it are ours.
fn repository(given: &mut BTreeMap<String, String>) -> Result<ImageReference, Reason> {
    let name = reference(given)?;
    if name.tag().is_some() || name.digest().is_some() {
        let text = "a cache of records is a repository: leave out tag and digest";
        return Err(text.to_owned().into());
    }
    Ok(name)
}

fn rest(given: &BTreeMap<String, String>, known: &[&str]) -> Result<(), Reason> {
    let Some(key) = given.keys().next() else {
        return Ok(());
    };
    if known.contains(&key.as_str()) {
        return Err(format!("`{key}` has no meaning for this type").into());
    }
    let near = closest(key, known.iter().copied());
    let near = near.map(|near| format!(" (did you mean `{near}`?)"));
    Err(format!("unknown attribute `{key}`{}", near.unwrap_or_default()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(value: &str) -> Result<CacheTarget, String> {
        let targets = targets(&[value.to_owned()]);
        let target = targets.map(|mut targets| targets.remove(0));
        target.map_err(|failure| failure.message.unwrap())
    }

    fn from(value: &str) -> Result<CacheSource, String> {
        let sources = sources(&[value.to_owned()], Some("1h"));
        let source = sources.map(|mut sources| sources.remove(0));
        source.map_err(|failure| failure.message.unwrap())
    }

    #[test]
    fn caches_have_types() {
        let target = to("type=registry,ref=r.example/c,mode=max,ignore-error=true").unwrap();
        assert_eq!(target.place.to_string(), "r.example/c:latest");
        assert!(target.all && target.ignore_error);
        assert_eq!(
            to("r.example/c:x").unwrap().place.to_string(),
            "r.example/c:x"
        );
        assert_eq!(to("type=inline").unwrap().place, CachePlace::Inline);
        let target = to("type=local,dest=d,compression=zstd").unwrap();
        assert!(matches!(target.place, CachePlace::Local { tag, .. } if tag == "latest"));
        assert!(target.compression.is_some());
        for (attributes, form) in [
            ("image-manifest=true", CacheForm::Manifest),
            ("image-manifest=false", CacheForm::Index),
            ("oci-mediatypes=false", CacheForm::DockerIndex),
        ] {
            let target = to(&format!("type=local,dest=d,{attributes}")).unwrap();
            assert_eq!(target.form, form, "{attributes}");
        }
        let found = from("r.example/c").unwrap();
        assert!(matches!(found.place, SourcePlace::Registry(_)));
        assert_eq!(found.max_age, Some(Duration::from_hours(1)));
        let local = from("type=local,src=d,tag=t").unwrap().place;
        assert!(matches!(local, SourcePlace::Local { tag: Some(tag), .. } if tag == "t"));
        let records = from("type=records,ref=r.example/c,max-age=2m").unwrap();
        assert_eq!(records.place.to_string(), "r.example/c");
        assert_eq!(records.max_age, Some(Duration::from_mins(2)));
        let target = to("type=records,ref=r.example/c,max-layer-size=1k").unwrap();
        assert_eq!((target.max_layer, target.mounts), (Some(1024), false));
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for (value, text) in [
            ("type=registry", "requires ref"),
            ("type=local", "requires dest"),
            ("type=inline,mode=max", "is impossible"),
            ("type=gha", "not supported yet"),
            ("type=nope", "unknown type `nope`"),
            ("type=inline,ref=x", "`ref` has no meaning"),
            ("type=inline,mod=max", "did you mean `mode`?"),
            (
                "type=local,dest=d,image-manifest=true,oci-mediatypes=false",
                "needs oci-mediatypes=true",
            ),
            ("type=inline,image-manifest=false", "an index goes with"),
            ("ref=x", "type is required"),
            ("type=records,ref=x:1", "leave out tag"),
            ("type=local,dest=d,mounts=true", "type=records only"),
        ] {
            let error = to(value).unwrap_err();
            assert!(error.contains(text), "{value}: {error}");
        }
        assert!(
            from("type=local,src=d,mode=max")
                .unwrap_err()
                .contains("unknown attribute")
        );
        assert!(
            from("type=records,ref=x,max-age=0s")
                .unwrap_err()
                .contains("not above zero")
        );
        assert!(from("type=local").unwrap_err().contains("requires src"));
    }
}
