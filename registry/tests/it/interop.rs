//! What we push others pull, and the reverse. Needs `skopeo`.

use std::path::Path;
use std::process::Command;

use rbuild_cache::Digest;
use rbuild_registry::Contents;

use crate::support::{TestRegistry, TestStore, client, image, no_progress, push};

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo")
        .args(arguments)
        .output()
        .expect("skopeo is needed for this test");
    assert!(
        output.status.success(),
        "skopeo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// An OCI layout, written by skopeo.
fn blobs(layout: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(layout.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn skopeo_reads_what_we_push() {
    let registry = TestRegistry::plain();
    let store = TestStore::new();
    let image = image(&store, &[10, 2 << 20]);
    let digest = push(&client(), &store, &image, &registry.location("app", "x"));
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    let source = format!("docker://{}/app:x", registry.host());
    let target = format!("oci:{}:x", layout.display());
    skopeo(&[
        "copy",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--preserve-digests",
        &source,
        &target,
    ]);
    let mut expected: Vec<String> = image
        .layers
        .iter()
        .chain([&image.config])
        .map(|blob| blob.digest.hex())
        .chain([digest.hex()])
        .collect();
    expected.sort();
    assert_eq!(blobs(&layout), expected);
}

#[test]
fn we_read_what_skopeo_pushes() {
    let registry = TestRegistry::plain();
    let source = TestStore::new();
    let image = image(&source, &[10, 3 << 20]);
    // Through a layout, so that skopeo itself writes all of it, compressed as it likes.
    let scratch = TestRegistry::plain();
    push(&client(), &source, &image, &scratch.location("app", "x"));
    let from = format!("docker://{}/app:x", scratch.host());
    let to = format!("docker://{}/copied/app:y", registry.host());
    skopeo(&[
        "copy",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--format",
        "v2s2",
        "--dest-compress",
        &from,
        &to,
    ]);
    let told = skopeo(&[
        "inspect",
        "--tls-verify=false",
        "--format",
        "{{.Digest}}",
        &to,
    ]);

    let client = client();
    let location = registry.location("copied/app", "y");
    let resolved = client.resolve(&location).unwrap().descriptor;
    assert_eq!(resolved.digest.to_string(), told.trim());
    let document = client.manifest(&location, resolved.digest).unwrap();
    assert_eq!(
        document.media_type,
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    let Contents::Manifest { config, layers } = document.contents else {
        panic!("not a manifest");
    };
    let target = TestStore::new();
    for blob in layers.iter().chain([&config]) {
        client
            .fetch_blob(&location, blob, &target.store, &no_progress)
            .unwrap();
        let bytes = target.get(&blob.digest).unwrap();
        assert_eq!(Digest::of(&bytes), blob.digest);
    }
    assert_eq!(client.tags(&location).unwrap(), ["y"]);
}
