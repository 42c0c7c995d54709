//! Round trips through a real store: what is written is read back by others' tools.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rbuild_cache::{CompressionKind, DiffId, Store};

use super::*;
use crate::image::{BaseImage, image_config, manifest_of, resolve_layout, resolve_stored};
use crate::output::fixture::{
    finished, inspect, layer, listing, platform, reference, request_for, run, set_times, silent,
    store, two_layers,
};
use crate::request::Destination;

fn write(store: &Store, kind: OutputKind, result: &Finished) -> Result<Written, OutputError> {
    let request = request_for(kind, OutputOptions::default());
    write_outputs(store, None, &request, std::slice::from_ref(result), &silent)
}

fn tar_kind(path: &Path) -> OutputKind {
    OutputKind::Oci(ArchiveTarget::Tar(Destination::File(path.to_path_buf())))
}

#[test]
fn a_stored_image_is_found_again() {
    let (_directory, store) = store();
    let layers = two_layers(&store);
    let mut request = request_for(
        OutputKind::Image {
            names: vec![reference("b:2")],
        },
        OutputOptions::default(),
    );
    request.tags = vec![reference("a"), reference("b:2")];
    let result = finished(&layers);
    let written = write_outputs(
        &store,
        None,
        &request,
        std::slice::from_ref(&result),
        &silent,
    )
    .unwrap();
    assert_eq!(written.names, ["a:latest", "b:2"]);
    assert_eq!(written.image_id, result.config.id());
    let record = store.image("docker.io/library/a:latest").unwrap().unwrap();
    assert_eq!(
        (record.manifest, record.config),
        (written.manifest, written.image_id)
    );
    assert_eq!(record.size, 8 + 1 + 100_000);
    assert_eq!(image_config(&store, &record).unwrap(), result.config);
    let manifest = manifest_of(&store, &record).unwrap();
    assert_eq!(manifest.descriptor.size, written.manifest_size);
    // The stored form names layers by their uncompressed tars.
    let digests: Vec<_> = manifest.layers.iter().map(|layer| layer.digest).collect();
    assert_eq!(
        digests,
        layers.iter().map(|id| *id.digest()).collect::<Vec<_>>()
    );
    let base = resolve_stored(&store, &reference("b:2"), &platform("amd64"))
        .unwrap()
        .unwrap();
    assert_eq!(base.config, result.config);
    assert_eq!(base.ensure_layers(&store, &|_, _| ()).unwrap().len(), 2);
    let by_digest = reference(&format!("a@{}", written.manifest));
    assert!(
        resolve_stored(&store, &by_digest, &platform("amd64"))
            .unwrap()
            .is_some()
    );
    assert!(
        resolve_stored(&store, &reference("c"), &platform("amd64"))
            .unwrap()
            .is_none()
    );
}

#[test]
fn an_image_without_name_is_dangling() {
    let (_directory, store) = store();
    let result = finished(&two_layers(&store));
    let written = write(&store, OutputKind::Image { names: vec![] }, &result).unwrap();
    let images = store.images().unwrap();
    assert_eq!(images.len(), 1);
    assert!(images[0].names.is_empty());
    assert_eq!(images[0].record.config, written.image_id);
}

#[test]
fn without_an_image_output_the_id_is_told_and_nothing_stored() {
    let (_directory, store) = store();
    let result = finished(&two_layers(&store));
    let written = write(&store, OutputKind::CacheOnly, &result).unwrap();
    assert_eq!(written.image_id, result.config.id());
    assert!(store.images().unwrap().is_empty());
    assert!(!store.has_blob(&written.manifest));
}

/// Needs root for owners and whiteouts.
#[test]
fn the_root_file_system_as_tar() {
    let (directory, store) = store();
    let result = finished(&two_layers(&store));
    let path = directory.path().join("root.tar");
    write(
        &store,
        OutputKind::Tar(Destination::File(path.clone())),
        &result,
    )
    .unwrap();
    assert_eq!(
        listing(&path),
        [
            "d0755 1000:1001 0 d",
            "-4750 0:0 8 d/file",
            "d0755 0:0 0 d/sub",
            "h4750 0:0 0 d/sub/again -> d/file",
            "l0777 0:0 0 link -> ../d/file",
            "-0644 0:0 100000 new",
        ]
    );
    let first = fs::read(&path).unwrap();
    write(
        &store,
        OutputKind::Tar(Destination::File(path.clone())),
        &result,
    )
    .unwrap();
    assert!(
        fs::read(&path).unwrap() == first,
        "the same result is the same tar"
    );
}

#[test]
fn several_platforms_get_directories_of_their_own() {
    let (directory, store) = store();
    let layers = two_layers(&store);
    let mut arm = finished(&layers[..1]);
    arm.platform = platform("arm");
    arm.platform.variant = Some("v7".into());
    arm.source_date_epoch = Some(1_600_000_000);
    let both = [finished(&layers), arm];
    let tar = directory.path().join("root.tar");
    let local = directory.path().join("tree");
    let mut request = request_for(
        OutputKind::Tar(Destination::File(tar.clone())),
        OutputOptions::default(),
    );
    request.outputs.push(crate::request::Output {
        kind: OutputKind::Local(local.clone()),
        options: OutputOptions::default(),
    });
    write_outputs(&store, None, &request, &both, &silent).unwrap();
    let names = listing(&tar);
    assert!(
        names.contains(&"d0755 0:0 0 linux_amd64".to_owned()),
        "{names:?}"
    );
    assert!(
        names.contains(&"-4750 0:0 8 linux_arm_v7/d/file".to_owned()),
        "{names:?}"
    );
    let file = local.join("linux_arm_v7/d/file");
    assert_eq!(fs::metadata(file).unwrap().mtime(), 1_600_000_000);
    assert_eq!(
        fs::metadata(local.join("linux_amd64/d/file"))
            .unwrap()
            .mtime(),
        1_500_000_000
    );
}

/// Needs root for owners and whiteouts.
#[test]
fn the_root_file_system_as_directory() {
    let (directory, store) = store();
    let result = finished(&two_layers(&store));
    let tree = directory.path().join("made/tree");
    write(&store, OutputKind::Local(tree.clone()), &result).unwrap();
    let file = fs::symlink_metadata(tree.join("d/file")).unwrap();
    assert_eq!(
        (file.mode() & 0o7777, file.nlink(), file.mtime()),
        (0o4750, 2, 1_500_000_000)
    );
    assert_eq!(
        fs::symlink_metadata(tree.join("d/sub/again"))
            .unwrap()
            .ino(),
        file.ino()
    );
    let here = fs::metadata(&tree).unwrap();
    let folder = fs::metadata(tree.join("d")).unwrap();
    assert_eq!(
        (folder.uid(), folder.gid()),
        (here.uid(), here.gid()),
        "owned by who exports"
    );
    assert_eq!(folder.mtime(), 1_500_000_000);
    assert_eq!(
        fs::read_link(tree.join("link")).unwrap(),
        Path::new("../d/file")
    );
    assert_eq!(
        fs::symlink_metadata(tree.join("link")).unwrap().mtime(),
        1_500_000_000
    );
    assert!(!tree.join("gone").exists());
}

#[test]
fn a_directory_is_never_left_through_symlinks() {
    let (directory, store) = store();
    let outside = directory.path().join("outside");
    let tree = directory.path().join("tree");
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::write(outside.join("file"), "mine").unwrap();
    fs::create_dir(&tree).unwrap();
    // Where the image has a directory, a file and a symlink.
    symlink(&outside, tree.join("d")).unwrap();
    symlink(outside.join("file"), tree.join("new")).unwrap();
    fs::create_dir_all(tree.join("link/full/deep")).unwrap();
    fs::write(tree.join("link/full/deep/file"), "x").unwrap();
    fs::set_permissions(tree.join("link/full"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(tree.join("kept"), "kept").unwrap();
    write(
        &store,
        OutputKind::Local(tree.clone()),
        &finished(&two_layers(&store)),
    )
    .unwrap();
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "mine");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 2);
    assert!(fs::symlink_metadata(tree.join("d")).unwrap().is_dir());
    assert_eq!(
        fs::symlink_metadata(tree.join("new")).unwrap().len(),
        100_000
    );
    assert!(tree.join("link").is_symlink());
    assert_eq!(fs::read_to_string(tree.join("kept")).unwrap(), "kept");
    // Once more over what is there now.
    write(
        &store,
        OutputKind::Local(tree.clone()),
        &finished(&two_layers(&store)),
    )
    .unwrap();
    assert_eq!(fs::metadata(tree.join("d/file")).unwrap().nlink(), 2);
}

#[test]
fn an_archive_has_compressed_layers_and_the_same_bytes_each_time() {
    let (directory, store) = store();
    let result = finished(&two_layers(&store));
    let path = directory.path().join("a.tar");
    let written = write(&store, tar_kind(&path), &result).unwrap();
    assert_eq!(
        written.media_type,
        "application/vnd.oci.image.manifest.v1+json"
    );
    let first = fs::read(&path).unwrap();
    assert_eq!(write(&store, tar_kind(&path), &result).unwrap(), written);
    assert!(fs::read(&path).unwrap() == first);
    let found = inspect(&format!("oci-archive:{}", path.display()));
    assert_eq!(found["Digest"], written.manifest.to_string());
    let raw = run(
        "skopeo",
        &[
            "inspect",
            "--raw",
            &format!("oci-archive:{}", path.display()),
        ],
    );
    assert_eq!(
        raw.matches("\"application/vnd.oci.image.layer.v1.tar+gzip\"")
            .count(),
        2,
        "{raw}"
    );
}

#[test]
fn a_docker_archive_has_docker_types_when_asked() {
    let (directory, store) = store();
    let path = directory.path().join("a.tar");
    let options = OutputOptions {
        docker_media_types: true,
        ..OutputOptions::default()
    };
    let target = ArchiveTarget::Tar(Destination::File(path.clone()));
    let mut request = request_for(OutputKind::Docker(target), options);
    request.tags = vec![reference("x/y:3")];
    let result = finished(&two_layers(&store));
    let written = write_outputs(&store, None, &request, &[result], &silent).unwrap();
    assert_eq!(
        written.media_type,
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(written.names, ["x/y:3"]);
    let found = inspect(&format!("docker-archive:{}:x/y:3", path.display()));
    assert_eq!(found["Layers"].as_array().unwrap().len(), 2);
}

#[test]
fn compression_is_as_asked() {
    let (directory, store) = store();
    let result = finished(&two_layers(&store));
    let mut digests = BTreeMap::new();
    // The first export makes the blobs; later ones take them as they are unless forced.
    for (kind, force, expected) in [
        (CompressionKind::Zstd, false, "tar+zstd"),
        (CompressionKind::Gzip, false, "tar+zstd"),
        (CompressionKind::Gzip, true, "tar+gzip"),
        (CompressionKind::Uncompressed, true, "tar"),
    ] {
        let path = directory.path().join("a.tar");
        let compression = rbuild_cache::Compression {
            kind,
            level: None,
            force,
        };
        let options = OutputOptions {
            compression: Some(compression),
            ..OutputOptions::default()
        };
        let request = request_for(tar_kind(&path), options);
        let written = write_outputs(
            &store,
            None,
            &request,
            std::slice::from_ref(&result),
            &silent,
        )
        .unwrap();
        let raw = run(
            "skopeo",
            &[
                "inspect",
                "--raw",
                &format!("oci-archive:{}", path.display()),
            ],
        );
        let suffix = format!(".{expected}\"");
        assert_eq!(raw.matches(&suffix).count(), 2, "{kind:?} {force}: {raw}");
        assert_eq!(written.image_id, result.config.id());
        digests.insert(written.manifest, expected);
    }
    assert_eq!(digests.len(), 3);
}

#[test]
fn a_layout_directory_is_extended() {
    let (directory, store) = store();
    let layers = two_layers(&store);
    let path = directory.path().join("layout");
    let export = |result: &Finished, tag: Option<&str>| {
        let target = ArchiveTarget::Directory(path.clone());
        let mut request = request_for(OutputKind::Oci(target), OutputOptions::default());
        request.tags = tag.map(reference).into_iter().collect();
        write_outputs(
            &store,
            None,
            &request,
            std::slice::from_ref(result),
            &silent,
        )
        .unwrap()
    };
    let one = export(&finished(&layers), Some("a:1"));
    let two = export(&finished(&layers[..1]), Some("a:2"));
    let none = export(&finished(&layers[..1]), None);
    assert_eq!(two.manifest, none.manifest);
    let find = |tag: Option<&str>| -> BaseImage {
        resolve_layout(&store, &path, tag, None, &platform("amd64")).unwrap()
    };
    assert_eq!(find(Some("1")).manifest, one.manifest);
    assert_eq!(find(Some("2")).manifest, two.manifest);
    assert_eq!(find(None).manifest, none.manifest);
    assert_eq!(
        inspect(&format!("oci:{}:1", path.display()))["Digest"],
        one.manifest.to_string()
    );
    let error = resolve_layout(&store, &path, Some("3"), None, &platform("amd64")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("no image tagged 3 in `{}`", path.display())
    );
    assert_eq!(error.hints(), ["available: 1, 2, latest"]);
    let by_digest =
        resolve_layout(&store, &path, None, Some(&one.manifest), &platform("amd64")).unwrap();
    assert_eq!(by_digest.config, finished(&layers).config);
    assert_eq!(names_in(&path), ["blobs", "index.json", "oci-layout"]);
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn layers_of_a_layout_come_into_another_store() {
    let (directory, from) = store();
    let layers = two_layers(&from);
    let path = directory.path().join("layout");
    let target = OutputKind::Oci(ArchiveTarget::Directory(path.clone()));
    write(&from, target, &finished(&layers)).unwrap();
    let (_other, to) = store();
    let base = resolve_layout(&to, &path, None, None, &platform("amd64")).unwrap();
    let total: u64 = base.layers.iter().map(|layer| layer.size).sum();
    let last = std::cell::Cell::new((0, 0));
    let brought = base
        .ensure_layers(&to, &|done, all| last.set((done, all)))
        .unwrap();
    assert_eq!(last.get(), (total, total));
    let ids: Vec<DiffId> = brought.iter().map(|layer| *layer.diff_id()).collect();
    assert_eq!(ids, layers);
    // An image on this base has the very blobs of the base, and its new layer on top.
    let new = layer(&to, &ids, &|root| fs::write(root.join("top"), "t").unwrap());
    let mut result = finished(&[ids[0], ids[1], new]);
    result.new_layers_from = 2;
    result.base_blobs.clone_from(&base.layers);
    let second = directory.path().join("second");
    let target = OutputKind::Oci(ArchiveTarget::Directory(second.clone()));
    write(&to, target, &result).unwrap();
    let built = resolve_layout(&to, &second, None, None, &platform("amd64")).unwrap();
    assert_eq!(built.layers[..2], base.layers);
    assert_eq!(built.layers[2].diff_id, new);
}

#[test]
fn a_damaged_layout_is_refused() {
    let (directory, from) = store();
    let layers = two_layers(&from);
    let path = directory.path().join("layout");
    let target = OutputKind::Oci(ArchiveTarget::Directory(path.clone()));
    write(&from, target, &finished(&layers)).unwrap();
    let (_other, to) = store();
    let base = resolve_layout(&to, &path, None, None, &platform("amd64")).unwrap();
    let blob = path.join("blobs/sha256").join(base.layers[1].blob.hex());
    let mut bytes = fs::read(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    let error = base.ensure_layers(&to, &|_, _| ()).unwrap_err().to_string();
    assert!(error.starts_with("could not open `"), "{error}");
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let error = base.ensure_layers(&to, &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("is corrupt: expected sha256:"), "{error}");
    bytes.push(0);
    fs::write(&blob, &bytes).unwrap();
    let error = base.ensure_layers(&to, &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("its descriptor says"), "{error}");
    fs::remove_file(&blob).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &blob,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let error = base.ensure_layers(&to, &|_, _| ()).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "it is not a regular file");
    assert!(to.layer(&layers[1]).unwrap().is_none());
}

/// Case T03: later times become the epoch, earlier ones stay, and the config follows.
#[test]
fn timestamps_are_rewritten_when_asked() {
    let (directory, store) = store();
    let below = two_layers(&store)[0];
    let new = layer(&store, &[below], &|root| {
        fs::create_dir_all(root.join("d/sub")).unwrap();
        for path in ["d/sub/again", "link", "gone"] {
            fs::write(root.join(path), path).unwrap();
        }
        set_times(root, 1_700_000_000);
        fs::write(root.join("old"), "").unwrap();
        fs::File::open(root.join("old"))
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_400_000_000))
            .unwrap();
    });
    let mut result = finished(&[below, new]);
    result.source_date_epoch = Some(1_600_000_000);
    let path = directory.path().join("layout");
    let options = OutputOptions {
        rewrite_timestamp: true,
        ..OutputOptions::default()
    };
    let target = ArchiveTarget::Directory(path.clone());
    let request = request_for(OutputKind::Oci(target), options);
    let write = || {
        write_outputs(
            &store,
            None,
            &request,
            std::slice::from_ref(&result),
            &silent,
        )
        .unwrap()
    };
    let written = write();
    let image = resolve_layout(&store, &path, None, None, &platform("amd64")).unwrap();
    // Nothing in the first layer is later than the epoch.
    assert_eq!(image.layers[0].diff_id, below);
    assert_ne!(image.layers[1].diff_id, new);
    assert!(
        image.layers[1].media_type.ends_with("+gzip"),
        "{}",
        image.layers[1].media_type
    );
    assert_ne!(written.image_id, result.config.id());
    let layers = image.ensure_layers(&store, &|_, _| ()).unwrap();
    let time = |name: &str| fs::metadata(layers[1].path().join(name)).unwrap().mtime();
    assert_eq!(
        (time("link"), time("d"), time("old")),
        (1_600_000_000, 1_600_000_000, 1_400_000_000)
    );
    assert_eq!(write(), written, "rewriting again gives the same image");
}

#[test]
fn several_platforms_make_an_index() {
    let (directory, store) = store();
    let layers = two_layers(&store);
    let mut arm = finished(&layers[..1]);
    arm.platform = platform("arm64");
    arm.config.architecture = "arm64".into();
    let both = [finished(&layers), arm];
    let options = OutputOptions {
        index_annotations: [("i".to_owned(), "1".to_owned())].into(),
        annotations: [("m".to_owned(), "2".to_owned())].into(),
        descriptor_annotations: [("d".to_owned(), "3".to_owned())].into(),
        ..OutputOptions::default()
    };
    let path = directory.path().join("layout");
    let target = ArchiveTarget::Directory(path.clone());
    let mut request = request_for(OutputKind::Oci(target), options.clone());
    request.outputs.push(crate::request::Output {
        kind: OutputKind::Image {
            names: vec![reference("many")],
        },
        options,
    });
    let written = write_outputs(&store, None, &request, &both, &silent).unwrap();
    assert_eq!(
        written.media_type,
        "application/vnd.oci.image.index.v1+json"
    );
    let index = fs::read(path.join("blobs/sha256").join(written.manifest.hex())).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["annotations"]["i"], "1");
    assert_eq!(index["manifests"][1]["annotations"]["d"], "3");
    assert_eq!(
        index["manifests"][1]["platform"],
        serde_json::json!({"architecture": "arm64", "os": "linux"})
    );
    for (architecture, count) in [("amd64", 2), ("arm64", 1)] {
        let platform = platform(architecture);
        let image = resolve_layout(&store, &path, None, None, &platform).unwrap();
        assert_eq!(
            (image.layers.len(), &*image.config.architecture),
            (count, architecture)
        );
        let stored = resolve_stored(&store, &reference("many"), &platform)
            .unwrap()
            .unwrap();
        assert_eq!(stored.layers.len(), count);
    }
    let record = store
        .image("docker.io/library/many:latest")
        .unwrap()
        .unwrap();
    assert_eq!(manifest_of(&store, &record).unwrap().layers.len(), 2);
}
