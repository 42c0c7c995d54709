//! OCI layout directories: made, re-used and extended.
//!
//! Blobs are copied, never linked, into a directory that others may write to: a change there must
//! not reach the store. Blobs and index are flushed before the index is replaced, because a layout
//! may hold images of others, which a power cut shall not take away. An exclusive lock on the
//! directory keeps two writers from losing each other's entries.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rbuild_cache::{Digest, Store};
use serde_json::{Map, Value};

use super::OutputError;
use super::file::FileDraft;
use crate::image::bundle::{Bundle, Content, LAYOUT_MARK};
use crate::image::manifest::ANNOTATION_REF_NAME;
use crate::image::{Descriptor, layout as read};

/// Writes a bundle into a layout directory. Entries with the same tag are replaced, others kept.
pub(crate) fn write_directory(
    store: &Store,
    directory: &Path,
    bundle: &Bundle,
    progress: &dyn Fn(u64),
) -> Result<(), OutputError> {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(OutputError::io("create", &blobs))?;
    let lock = File::open(directory).map_err(OutputError::io("open", directory))?;
    lock.lock().map_err(OutputError::io("lock", directory))?;
    // Read first: a directory that is something else is refused before anything is added.
    let index = merged_index(directory, &bundle.entries)?;
    put_file(&directory.join("oci-layout"), LAYOUT_MARK)?;
    let mut done = 0;
    for (digest, content) in &bundle.blobs {
        put_blob(
            store,
            &blobs.join(digest.hex()),
            digest,
            content,
            &mut |bytes| {
                done += bytes;
                progress(done);
            },
        )?;
    }
    if let Some(bytes) = bundle.manifest_json() {
        put_file(&directory.join("manifest.json"), &bytes)?;
    }
    put_file(&directory.join("index.json"), &index)
}

/// The new `index.json`: what is there, with the new entries in place of those of the same tag.
///
/// Fields that we do not know are kept.
fn merged_index(directory: &Path, entries: &[Descriptor]) -> Result<Vec<u8>, OutputError> {
    let path = directory.join("index.json");
    let mut index = match read::read_document(&path) {
        Ok(bytes) => existing_index(&path, &bytes)?,
        Err(crate::image::ImageError::Io { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            let empty = Bundle::default().index_json();
            existing_index(&path, &empty)?
        }
        Err(error) => return Err(error.into()),
    };
    let new: Vec<Value> = entries.iter().map(to_value).collect();
    let list = index
        .entry("manifests")
        .or_insert_with(|| Value::Array(Vec::new()));
    if list.is_null() {
        *list = Value::Array(Vec::new());
    }
    let Value::Array(list) = list else {
        return Err(not_an_index(&path, "`manifests` is not a list"));
    };
    list.retain(|old| {
        !new.iter().any(|entry| match tag(entry) {
            Some(new_tag) => tag(old) == Some(new_tag),
            None => tag(old).is_none() && old["digest"] == entry["digest"],
        })
    });
    list.extend(new);
    Ok(crate::image::json::compact(&index))
}

fn existing_index(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>, OutputError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(index)) => Ok(index),
        Ok(_) => Err(not_an_index(path, "it is not an object")),
        Err(error) => Err(not_an_index(path, &error.to_string())),
    }
}

fn not_an_index(path: &Path, reason: &str) -> OutputError {
    let what = format!("`{}`", path.display());
    OutputError::Image(crate::image::ImageError::document(what, reason))
}

fn to_value(entry: &Descriptor) -> Value {
    // Text keys and plain values only.
    serde_json::to_value(entry).expect("a descriptor always serialises")
}

/// The tag of an entry.
fn tag(entry: &Value) -> Option<&str> {
    entry["annotations"][ANNOTATION_REF_NAME].as_str()
}

/// Writes a blob unless it is there already.
fn put_blob(
    store: &Store,
    path: &Path,
    digest: &Digest,
    content: &Content,
    copied: &mut dyn FnMut(u64),
) -> Result<(), OutputError> {
    let there = std::fs::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() == content.size());
    if there {
        copied(content.size());
        return Ok(());
    }
    let mut draft = FileDraft::new(path).map_err(OutputError::io("create", path))?;
    let failed = || OutputError::io("write", path);
    store.check_stop().map_err(failed())?;
    match content {
        Content::Blob { .. } => {
            // File to file, so that the kernel copies or shares the blocks.
            let mut blob = store.open_blob(digest)?;
            let bytes = io::copy(&mut blob, &mut draft.file).map_err(failed())?;
            copied(bytes);
        }
        _ => content.write(store, digest, &mut draft.file, copied)?,
    }
    publish(draft, path)
}

/// Writes a small file in place of what is there.
fn put_file(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let mut draft = FileDraft::new(path).map_err(OutputError::io("create", path))?;
    draft
        .file
        .write_all(bytes)
        .map_err(OutputError::io("write", path))?;
    publish(draft, path)
}

fn publish(draft: FileDraft, path: &Path) -> Result<(), OutputError> {
    draft
        .file
        .sync_data()
        .map_err(OutputError::io("flush", path))?;
    draft.publish().map_err(OutputError::io("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(content: &[u8], tag: Option<&str>) -> Descriptor {
        let mut entry = Descriptor::new("m", Digest::of(content), 1);
        if let Some(tag) = tag {
            entry
                .annotations
                .insert(ANNOTATION_REF_NAME.to_owned(), tag.to_owned());
        }
        entry
    }

    fn merge(directory: &Path, entries: &[Descriptor]) -> Vec<(String, Option<String>)> {
        let bytes = merged_index(directory, entries).unwrap();
        std::fs::write(directory.join("index.json"), &bytes).unwrap();
        let index: Value = serde_json::from_slice(&bytes).unwrap();
        let list = index["manifests"].as_array().unwrap();
        list.iter()
            .map(|entry| {
                (
                    entry["digest"].as_str().unwrap().to_owned(),
                    tag(entry).map(Into::into),
                )
            })
            .collect()
    }

    #[test]
    fn the_same_tag_is_replaced_and_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let digest = |content: &[u8]| Digest::of(content).to_string();
        let (a, b, c) = (digest(b"a"), digest(b"b"), digest(b"c"));
        let tag = |text: &str| Some(text.to_owned());
        assert_eq!(
            merge(directory.path(), &[entry(b"a", Some("v1"))]),
            [(a.clone(), tag("v1"))]
        );
        assert_eq!(
            merge(
                directory.path(),
                &[entry(b"b", Some("v2")), entry(b"b", Some("v3"))]
            ),
            [
                (a, tag("v1")),
                (b.clone(), tag("v2")),
                (b.clone(), tag("v3"))
            ]
        );
        assert_eq!(
            merge(
                directory.path(),
                &[entry(b"c", Some("v1")), entry(b"c", None)]
            ),
            [
                (b.clone(), tag("v2")),
                (b, tag("v3")),
                (c.clone(), tag("v1")),
                (c, None)
            ]
        );
    }

    #[test]
    fn unknown_fields_of_the_index_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let old = r#"{"annotations":{"k":"v"},"manifests":null,"schemaVersion":2,"x":[1]}"#;
        std::fs::write(directory.path().join("index.json"), old).unwrap();
        let bytes = merged_index(directory.path(), &[]).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"annotations":{"k":"v"},"manifests":[],"schemaVersion":2,"x":[1]}"#
        );
    }

    #[test]
    fn a_broken_index_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "[]", r#"{"manifests":3}"#, "{"] {
            std::fs::write(directory.path().join("index.json"), text).unwrap();
            let error = merged_index(directory.path(), &[]).unwrap_err().to_string();
            assert!(error.starts_with("could not read `"), "{text}: {error}");
        }
    }
}
