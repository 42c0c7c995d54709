//! Round trips: what is saved is read by others' tools, and what they write is loaded.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use rbuild_cache::Digest;
use rbuild_parser::Platform;

use super::*;
use crate::output::fixture::{
    finished, inspect, listing, platform, reference, request_for, run, silent, store, two_layers,
};
use crate::output::write_outputs;
use crate::request::{OutputKind, OutputOptions};

#[test]
fn a_saved_archive_is_read_by_others() {
    let (directory, store) = store();
    let mut request = request_for(
        OutputKind::Image { names: vec![] },
        OutputOptions::default(),
    );
    request.tags = vec![reference("a:1")];
    let result = finished(&two_layers(&store));
    write_outputs(
        &store,
        None,
        &request,
        std::slice::from_ref(&result),
        &silent,
    )
    .unwrap();
    let record = store.image("docker.io/library/a:1").unwrap().unwrap();
    let item = |name: &str| SaveItem {
        name: Some(reference(name)),
        record: record.clone(),
    };
    let path = directory.path().join("saved.tar");
    let mut file = fs::File::create(&path).unwrap();
    save_archive(&store, &[item("a:1"), item("a:2")], &mut file).unwrap();
    let names: Vec<String> = listing(&path)
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(names[..2], ["blobs", "blobs/sha256"]);
    assert_eq!(
        names[names.len() - 3..],
        ["index.json", "manifest.json", "oci-layout"]
    );
    // Two layers, config, manifest.
    assert_eq!(names.len(), 2 + 4 + 3);
    let path = path.to_str().unwrap();
    let oci = inspect(&format!("oci-archive:{path}:1"));
    assert_eq!(oci["Digest"], record.manifest.to_string());
    let docker = inspect(&format!("docker-archive:{path}:a:2"));
    assert_eq!(docker["RepoTags"], serde_json::json!([]));
    assert_eq!(docker["Layers"].as_array().unwrap().len(), 2);
    let raw = run(
        "skopeo",
        &[
            "inspect",
            "--config",
            "--raw",
            &format!("docker-archive:{path}:a:1"),
        ],
    );
    assert_eq!(raw.as_bytes(), result.config.to_bytes());
}

/// Saves an image, loads it into a fresh store, and expects the same image there.
fn save_and_load(pack: &dyn Fn(&Path) -> Vec<u8>) {
    let (directory, from) = store();
    let mut request = request_for(
        OutputKind::Image { names: vec![] },
        OutputOptions::default(),
    );
    request.tags = vec![reference("a:1")];
    let result = finished(&two_layers(&from));
    let written = write_outputs(
        &from,
        None,
        &request,
        std::slice::from_ref(&result),
        &silent,
    )
    .unwrap();
    let record = from.image("docker.io/library/a:1").unwrap().unwrap();
    let path = directory.path().join("saved.tar");
    let mut file = fs::File::create(&path).unwrap();
    let item = SaveItem {
        name: Some(reference("a:1")),
        record: record.clone(),
    };
    save_archive(&from, &[item], &mut file).unwrap();
    file.flush().unwrap();
    let (_other, to) = store();
    let loaded = load_archive(&to, &mut pack(&path).as_slice(), None).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].names, ["docker.io/library/a:1"]);
    assert_eq!(loaded[0].id, written.image_id);
    let there = to.image("docker.io/library/a:1").unwrap().unwrap();
    assert_eq!(there.layers, record.layers);
    assert_eq!(
        (there.size, there.created.clone()),
        (record.size, record.created.clone())
    );
    assert_eq!(image_config(&to, &there).unwrap(), result.config);
    let base = resolve_stored(&to, &reference("a:1"), &platform("amd64"))
        .unwrap()
        .unwrap();
    assert_eq!(base.ensure_layers(&to, &|_, _| ()).unwrap().len(), 2);
}

#[test]
fn what_is_saved_can_be_loaded() {
    save_and_load(&|path| fs::read(path).unwrap());
}

#[test]
fn compressed_archives_can_be_loaded() {
    for program in ["gzip", "xz", "bzip2", "zstd"] {
        save_and_load(&|path| pack(program, path));
    }
}

/// Compresses a file with a program that has to be installed.
fn pack(program: &str, path: &Path) -> Vec<u8> {
    let output = Command::new(program).arg("-c").arg(path).output();
    output
        .unwrap_or_else(|error| panic!("this test needs `{program}` installed: {error}"))
        .stdout
}

/// An archive as Docker wrote it before version 25 and as `skopeo copy` writes it.
#[test]
fn docker_archives_without_a_layout_can_be_loaded() {
    save_and_load(&|path| {
        let old = path.with_extension("old.tar");
        let from = format!("oci-archive:{}:1", path.display());
        run(
            "skopeo",
            &[
                "copy",
                &from,
                &format!("docker-archive:{}:a:1", old.display()),
            ],
        );
        fs::read(old).unwrap()
    });
}

#[test]
fn what_is_no_image_archive_is_refused() {
    let (_directory, store) = store();
    let mut empty = tar::Builder::new(Vec::new());
    empty.finish().unwrap();
    let mut hostile = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.as_mut_bytes()[..9].copy_from_slice(b"../escape");
    header.set_cksum();
    hostile.append(&header, b"x".as_slice()).unwrap();
    let mut wrong = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    let name = format!("blobs/sha256/{}", Digest::of(b"y").hex());
    wrong
        .append_data(&mut header, name, b"x".as_slice())
        .unwrap();
    for (bytes, expected) in [
        (b"no tar".repeat(500), "it is not a tar"),
        (empty.into_inner().unwrap(), "it holds no image"),
        (hostile.into_inner().unwrap(), "leads out of it"),
        (wrong.into_inner().unwrap(), "is corrupt: expected"),
    ] {
        let error = load_archive(&store, &mut bytes.as_slice(), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(store.images().unwrap().is_empty());
}

/// A small root file system as tar.
fn rootfs() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |path: &str, kind: tar::EntryType, mode: u32, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_500_000_000);
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, path, data).unwrap();
    };
    put("./", tar::EntryType::Directory, 0o755, b"");
    put("./etc/", tar::EntryType::Directory, 0o750, b"");
    put(
        "./etc/passwd",
        tar::EntryType::Regular,
        0o644,
        b"root:x:0:0::/:/bin/sh\n",
    );
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    builder
        .append_link(&mut header, "./bin", "usr/bin")
        .unwrap();
    builder.into_inner().unwrap()
}

/// Needs root for owners.
#[test]
fn an_imported_root_file_system_is_an_image() {
    let (directory, store) = store();
    let changes = ["CMD [\"sh\"]".to_owned(), "ENV A=1".to_owned()];
    let arm = platform("arm64");
    let record = import_rootfs(
        &store,
        &mut rootfs().as_slice(),
        &changes,
        Some("mine"),
        &arm,
    )
    .unwrap();
    let config = image_config(&store, &record).unwrap();
    assert_eq!((&*config.architecture, &*config.os), ("arm64", "linux"));
    assert_eq!(config.config.cmd, Some(vec!["sh".to_owned()]));
    assert_eq!(config.config.env, ["A=1"]);
    assert_eq!(config.history.len(), 1);
    assert_eq!(config.history[0].comment.as_deref(), Some("mine"));
    assert_eq!(config.created, config.history[0].created);
    assert_eq!(config.rootfs.diff_ids, record.layers);
    assert_eq!(record.size, 22);
    let listed = store.images().unwrap();
    assert_eq!((listed.len(), listed[0].names.len()), (1, 0));
    store.tag("docker.io/library/base:latest", &record).unwrap();
    let base = resolve_stored(&store, &reference("base"), &arm)
        .unwrap()
        .unwrap();
    let layers = base.ensure_layers(&store, &|_, _| ()).unwrap();
    let etc = fs::metadata(layers[0].path().join("etc")).unwrap();
    assert_eq!((etc.mode() & 0o7777, etc.uid(), etc.gid()), (0o750, 7, 8));
    let path = directory.path().join("base.tar");
    let item = SaveItem {
        name: Some(reference("base")),
        record,
    };
    save_archive(&store, &[item], &mut fs::File::create(&path).unwrap()).unwrap();
    let found = inspect(&format!("docker-archive:{}:base:latest", path.display()));
    assert_eq!(found["Architecture"], "arm64");
}

#[test]
fn a_compressed_root_file_system_gives_the_same_layer() {
    let (directory, store) = store();
    let path = directory.path().join("root.tar");
    fs::write(&path, rootfs()).unwrap();
    let host = Platform::host();
    let plain = import_rootfs(&store, &mut rootfs().as_slice(), &[], None, &host).unwrap();
    for program in ["gzip", "zstd", "xz", "bzip2"] {
        let packed = pack(program, &path);
        let record = import_rootfs(&store, &mut packed.as_slice(), &[], None, &host).unwrap();
        assert_eq!(record.layers, plain.layers, "{program}");
    }
}

#[test]
fn what_cannot_be_imported_leaves_no_image() {
    let (_directory, store) = store();
    let host = Platform::host();
    let wrong = ["RUN true".to_owned()];
    let error = import_rootfs(&store, &mut rootfs().as_slice(), &wrong, None, &host).unwrap_err();
    assert_eq!(
        error.to_string(),
        "change `RUN true`: RUN is not a valid change command"
    );
    let cut = &rootfs()[..1200];
    assert!(import_rootfs(&store, &mut &cut[..], &[], None, &host).is_err());
    let noise = b"no tar at all".repeat(100);
    assert!(import_rootfs(&store, &mut noise.as_slice(), &[], None, &host).is_err());
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn an_image_for_several_platforms_is_saved_and_loaded_whole() {
    let (_directory, from) = store();
    let layers = two_layers(&from);
    let host = Platform::host();
    let other = platform(if host.architecture == "arm64" {
        "s390x"
    } else {
        "arm64"
    });
    let on = |platform: &Platform, layers: &[rbuild_cache::DiffId]| {
        let mut result = finished(layers);
        result.platform = platform.clone();
        result
            .config
            .architecture
            .clone_from(&platform.architecture);
        result
    };
    let mut request = request_for(
        OutputKind::Image { names: vec![] },
        OutputOptions::default(),
    );
    request.tags = vec![reference("many")];
    let both = [on(&other, &layers[..1]), on(&host, &layers)];
    let written = write_outputs(&from, None, &request, &both, &silent).unwrap();
    let record = from
        .image("docker.io/library/many:latest")
        .unwrap()
        .unwrap();
    assert_eq!(
        record.config,
        both[1].config.id(),
        "this machine's image is the main one"
    );
    let item = SaveItem {
        name: Some(reference("many")),
        record,
    };
    let mut archive = Vec::new();
    save_archive(&from, &[item], &mut archive).unwrap();
    let (_other, to) = store();
    let loaded = load_archive(&to, &mut archive.as_slice(), None).unwrap();
    assert_eq!(loaded[0].id, both[1].config.id());
    let record = to.image("docker.io/library/many:latest").unwrap().unwrap();
    assert_eq!(
        record.manifest, written.manifest,
        "the index is kept byte for byte"
    );
    for (platform, count) in [(&host, 2), (&other, 1)] {
        let image = resolve_stored(&to, &reference("many"), platform)
            .unwrap()
            .unwrap();
        assert_eq!(image.config.architecture, platform.architecture);
        assert_eq!(image.ensure_layers(&to, &|_, _| ()).unwrap().len(), count);
    }
}

/// What `docker save` gives of one platform of an image that has several.
#[test]
fn an_archive_with_a_part_of_an_index_can_be_loaded() {
    let (_directory, store) = store();
    let layers = two_layers(&store);
    let platform = platform("amd64");
    let mut request = request_for(
        OutputKind::Image { names: vec![] },
        OutputOptions::default(),
    );
    request.tags = vec![reference("part")];
    let mut missing = finished(&layers[..1]);
    missing.platform.architecture = "riscv64".into();
    missing.config.architecture = "riscv64".into();
    write_outputs(
        &store,
        None,
        &request,
        &[missing.clone(), finished(&layers)],
        &silent,
    )
    .unwrap();
    let record = store
        .image("docker.io/library/part:latest")
        .unwrap()
        .unwrap();
    let item = SaveItem {
        name: Some(reference("part")),
        record: record.clone(),
    };
    let mut whole = Vec::new();
    save_archive(&store, &[item], &mut whole).unwrap();
    // Leave out config and manifest of the other platform.
    let config = missing.config.id().hex();
    let mut partial = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(whole.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        // Only the manifest names the config; the index names the manifest.
        let text = String::from_utf8_lossy(&data);
        let of_other = path.starts_with("blobs/") && text.contains(&config);
        if !of_other && !path.ends_with(&config) {
            partial.append(&header, data.as_slice()).unwrap();
        }
    }
    let (_other, to) = crate::output::fixture::store();
    let partial = partial.into_inner().unwrap();
    assert!(partial.len() < whole.len());
    let loaded = load_archive(&to, &mut partial.as_slice(), None).unwrap();
    assert_eq!(loaded[0].id, finished(&layers).config.id());
    let image = resolve_stored(&to, &reference("part"), &platform)
        .unwrap()
        .unwrap();
    assert_eq!(image.layers.len(), 2);
    // Saving it again gives what is there.
    let record = to.image("docker.io/library/part:latest").unwrap().unwrap();
    let mut again = Vec::new();
    save_archive(&to, &[SaveItem { name: None, record }], &mut again).unwrap();
    assert!(!again.is_empty());
}
