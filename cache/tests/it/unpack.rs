//! Layers from outside: what they are in the store, and that they come back as they were.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rbuild_cache::{
    CommitOptions, Compression, CompressionKind, DiffId, Digest, Follow, Layer, Limits, RootView,
    StoreError,
};
use rustix::fs::FileType;

use crate::archive::{Archive, directory, entry, file, hard_link, symlink};
use crate::support::{Overlay, TestStore, listing, make_node, need_root, open, set_mtime};

fn unpack(test: &TestStore, tar: &[u8]) -> Result<Layer, StoreError> {
    let blob = test.store.put_blob(tar).unwrap();
    test.store
        .unpack(&blob.digest, &DiffId::from_digest(Digest::of(tar)))
}

#[test]
fn needs_root_every_kind_of_file_survives_the_round_trip() {
    need_root();
    let test = TestStore::new();
    let long_name = "n".repeat(255);
    let layer = test.layer(&[], |root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/file"), b"content").unwrap();
        fs::hard_link(root.join("d/file"), root.join("d/link")).unwrap();
        fs::write(root.join(&long_name), b"").unwrap();
        fs::write(root.join("ünicode"), b"u").unwrap();
        let raw: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"not\xffutf8\n");
        fs::write(root.join(raw), b"r").unwrap();
        std::os::unix::fs::symlink("x".repeat(300), root.join("long-link")).unwrap();
        fs::write(root.join("suid"), b"s").unwrap();
        std::os::unix::fs::chown(root.join("suid"), Some(3_000_000), Some(70_000)).unwrap();
        fs::set_permissions(root.join("suid"), fs::Permissions::from_mode(0o6755)).unwrap();
        fs::create_dir(root.join("sticky")).unwrap();
        fs::set_permissions(root.join("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
        make_node(&root.join("char"), FileType::CharacterDevice, 0o666, (1, 5));
        make_node(&root.join("block"), FileType::BlockDevice, 0o660, (8, 1));
        make_node(&root.join("fifo"), FileType::Fifo, 0o600, (0, 0));
        fs::write(root.join("old"), b"o").unwrap();
        set_mtime(&root.join("old"), -1_000_000, 0);
        fs::write(root.join("future"), b"f").unwrap();
        // Beyond 2106 ext4 cannot keep times in old-format inodes; this one it can.
        set_mtime(&root.join("future"), 10_000_000_000, 0);
    });
    let other = TestStore::new();
    for kind in [
        CompressionKind::Uncompressed,
        CompressionKind::Gzip,
        CompressionKind::Zstd,
    ] {
        let compression = Compression {
            kind,
            level: None,
            force: true,
        };
        let blob = test
            .store
            .layer_blob(layer.diff_id(), &compression)
            .unwrap();
        assert_eq!(blob.kind, kind);
        let bytes = test.store.read_blob(&blob.blob.digest, 1 << 20).unwrap();
        let fresh = open(&other.directory.path().join(kind.name()));
        let copy = fresh.put_blob(&bytes).unwrap();
        let unpacked = fresh.unpack(&copy.digest, layer.diff_id()).unwrap();
        assert_eq!(unpacked.size(), layer.size());
        assert_eq!(unpacked.entries(), layer.entries());
        assert_eq!(unpacked.content_size(), layer.content_size());
        assert_eq!(
            shape(unpacked.path()),
            shape(layer.path()),
            "{}",
            kind.name()
        );
    }
}

/// What counts about each file, with times in seconds.
fn shape(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let entry = entry.unwrap();
        let found = entry.path().symlink_metadata().unwrap();
        let detail = if found.is_symlink() {
            format!("{:?}", fs::read_link(entry.path()).unwrap())
        } else if found.is_file() {
            format!(
                "{:?} links={}",
                Digest::of(&fs::read(entry.path()).unwrap()),
                found.nlink()
            )
        } else {
            format!("{}", found.rdev())
        };
        lines.push(format!(
            "{:?} {:o} {}:{} {} {detail}",
            entry.path().strip_prefix(root).unwrap(),
            found.mode(),
            found.uid(),
            found.gid(),
            found.mtime(),
        ));
    }
    lines
}

#[test]
fn needs_root_four_thousand_byte_path_survives_the_round_trip() {
    need_root();
    let test = TestStore::new();
    let draft = test.store.draft().unwrap();
    // 20 components of 199 bytes are 3,999 bytes; no single call takes the whole host path.
    let mut here = rustix::fs::openat(
        rustix::fs::CWD,
        draft.upper(),
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let name = "p".repeat(199);
    for _ in 0..19 {
        rustix::fs::mkdirat(&here, name.as_str(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        here = rustix::fs::openat(
            &here,
            name.as_str(),
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&here, name.as_str(), flags, rustix::fs::Mode::RUSR).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
    let layer = draft.commit(&[], &CommitOptions::default()).unwrap();
    let tar = test.tar(&layer);
    assert_eq!(listing(&tar).len(), 20);
    assert!(listing(&tar)[19].ends_with("=4"));
    let other = TestStore::new();
    let unpacked = unpack(&other, &tar).unwrap();
    assert_eq!(unpacked.entries(), 20);
    let path = format!("/{}", [name.as_str(); 20].join("/"));
    let view = RootView::new(&[unpacked]);
    assert_eq!(
        view.read_small(&path, 10).unwrap().as_deref(),
        Some(b"deep".as_slice())
    );
}

#[test]
fn needs_root_canonical_layer_is_the_same_after_unpacking() {
    let test = TestStore::new();
    let layer = test.layer(&[], |root| {
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/x"), b"x").unwrap();
    });
    let tar = test.tar(&layer);
    let other = TestStore::new();
    let unpacked = unpack(&other, &tar).unwrap();
    let mut again = Vec::new();
    other
        .store
        .layer_tar(unpacked.diff_id(), &mut again, None)
        .unwrap();
    assert_eq!(again, tar);
}

#[test]
fn layer_with_another_digest_is_refused_and_leaves_nothing() {
    let test = TestStore::new();
    let tar = Archive::of([file("a", "a")]);
    let blob = test.store.put_blob(&tar).unwrap();
    let wrong = DiffId::from_digest(Digest::of(b"wrong"));
    let error = test.store.unpack(&blob.digest, &wrong).unwrap_err();
    assert!(
        matches!(error, StoreError::Corrupt { what: "layer", .. }),
        "{error}"
    );
    assert!(test.store.layer(&wrong).unwrap().is_none());
    let right = DiffId::from_digest(Digest::of(&tar));
    assert!(test.store.layer(&right).unwrap().is_none());
    assert_eq!(
        fs::read_dir(test.store.root().join("tmp")).unwrap().count(),
        0
    );
    assert_eq!(
        fs::read_dir(test.store.root().join("trees"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn damaged_blob_is_refused() {
    let test = TestStore::new();
    let tar = Archive::of([file("a", "a")]);
    let blob = test.store.put_blob(&tar).unwrap();
    let hex = blob.digest.hex();
    let path = test
        .store
        .root()
        .join("blobs/sha256")
        .join(&hex[..2])
        .join(&hex);
    let mut bytes = fs::read(&path).unwrap();
    let at = 512;
    bytes[at] ^= 1;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, bytes).unwrap();
    let error = test
        .store
        .unpack(&blob.digest, &DiffId::from_digest(Digest::of(&tar)))
        .unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[test]
fn needs_root_whiteouts_and_opaque_marks_become_overlays_own() {
    need_root();
    let test = TestStore::new();
    let base = test.layer(&[], |root| {
        for path in ["a/gone", "a/kept", "b/x", "c/y"] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), path).unwrap();
        }
    });
    let tar = Archive::of([
        directory("a/"),
        file("a/.wh.gone", ""),
        directory("b/"),
        file("b/.wh..wh..opq", ""),
        file("b/new", "new"),
        file(".wh.c", ""),
        file("c/again", "again"),
    ]);
    let layer = unpack(&test, &tar).unwrap();
    let layers = [base, layer];
    let mounted = Overlay::mount(&layers, None);
    let names = |path: &str| {
        let mut names: Vec<String> = fs::read_dir(mounted.path().join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("."), ["a", "b", "c"]);
    assert_eq!(names("a"), ["kept"]);
    assert_eq!(names("b"), ["new"]);
    assert_eq!(
        names("c"),
        ["again"],
        "the directory hides what the whiteout deleted"
    );
    let view = RootView::new(&layers);
    let seen = |path: &str| -> Vec<String> {
        let entries = view.read_dir(path).unwrap();
        entries
            .iter()
            .map(|entry| entry.name().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(seen("/"), ["a", "b", "c"]);
    assert_eq!(seen("/a"), ["kept"]);
    assert_eq!(seen("/b"), ["new"]);
    assert_eq!(seen("/c"), ["again"]);
}

#[test]
fn needs_root_whiteout_spares_what_its_own_layer_made() {
    need_root();
    let test = TestStore::new();
    let tar = Archive::of([
        file("x", "x"),
        file(".wh.x", ""),
        file(".wh.y", ""),
        file("y", "y"),
    ]);
    let layer = unpack(&test, &tar).unwrap();
    assert_eq!(fs::read(layer.path().join("x")).unwrap(), b"x");
    assert_eq!(fs::read(layer.path().join("y")).unwrap(), b"y");
}

#[test]
fn needs_root_later_entry_replaces_an_earlier_one_of_any_kind() {
    need_root();
    let test = TestStore::new();
    let kinds = |name: &str| {
        vec![
            vec![file(name, "data")],
            vec![
                directory(format!("{name}/")),
                file(format!("{name}/inner"), "i"),
            ],
            vec![symlink(name, "elsewhere")],
            vec![entry(b'6', name)],
        ]
    };
    let mut number = 0;
    for first in 0..4 {
        for second in 0..4 {
            number += 1;
            let name = format!("x{number}");
            let mut entries = kinds(&name)[first].clone();
            entries.extend(kinds(&name)[second].clone());
            let layer = unpack(&test, &Archive::of(entries)).unwrap();
            let found = layer
                .path()
                .join(&name)
                .symlink_metadata()
                .unwrap()
                .file_type();
            let right = match second {
                0 => found.is_file(),
                1 => found.is_dir(),
                2 => found.is_symlink(),
                _ => found.is_fifo(),
            };
            assert!(right, "{first} then {second}");
        }
    }
}

#[test]
fn needs_root_implied_directories_take_their_metadata_from_the_parents() {
    need_root();
    let test = TestStore::new();
    let base = test.layer(&[], |root| {
        fs::create_dir(root.join("tmp")).unwrap();
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        std::os::unix::fs::chown(root.join("tmp"), Some(5), Some(6)).unwrap();
        fs::create_dir(root.join("run")).unwrap();
        fs::create_dir(root.join("var")).unwrap();
        fs::write(root.join("var/target"), b"lower").unwrap();
        std::os::unix::fs::symlink("/run", root.join("var/run")).unwrap();
    });
    let tar = Archive::of([
        file("tmp/f", "f"),
        file("var/run/pid", "1"),
        file("new/g", "g"),
        hard_link("linked", "var/target"),
    ]);
    let blob = test.store.put_blob(&tar).unwrap();
    let layer = test
        .store
        .unpack_over(
            &blob.digest,
            &DiffId::from_digest(Digest::of(&tar)),
            std::slice::from_ref(&base),
            &Limits::default(),
        )
        .unwrap();
    let view = RootView::new(&[base, layer]);
    let tmp = view.lookup("/tmp", Follow::None).unwrap().unwrap().metadata;
    assert_eq!((tmp.mode, tmp.uid, tmp.gid), (0o1777, 5, 6));
    let new = view.lookup("/new", Follow::None).unwrap().unwrap().metadata;
    assert_eq!((new.mode, new.uid, new.mtime.seconds), (0o755, 0, 0));
    assert_eq!(view.read_small("/run/pid", 10).unwrap().unwrap(), b"1");
    assert!(
        view.lookup("/var/run", Follow::None)
            .unwrap()
            .unwrap()
            .link_target
            .is_some()
    );
    assert_eq!(view.read_small("/linked", 10).unwrap().unwrap(), b"lower");
    assert_eq!(
        view.read_small("/var/target", 10).unwrap().unwrap(),
        b"lower"
    );
}

#[test]
fn needs_root_sparse_files_of_every_form_are_read() {
    need_root();
    let mut content = vec![0_u8; 3 << 20];
    content[1 << 20..(1 << 20) + 5].copy_from_slice(b"hello");
    content[(3 << 20) - 1] = b'z';
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("s");
    {
        use std::os::unix::fs::FileExt;
        let file = fs::File::create(&path).unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_at(b"hello", 1 << 20).unwrap();
        file.write_at(b"z", (3 << 20) - 1).unwrap();
    }
    for form in [
        ["--format=gnu", "--sparse-version=1.0"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ] {
        let output = std::process::Command::new("tar")
            .args(["-c", "-S"])
            .args(form)
            .args(["-C", &source.path().display().to_string(), "s"])
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(
            output.stdout.len() < 100_000,
            "tar made no sparse archive with {form:?}"
        );
        let test = TestStore::new();
        let layer = unpack(&test, &output.stdout).unwrap();
        let unpacked = layer.path().join("s");
        assert!(fs::read(&unpacked).unwrap() == content, "{form:?}");
        assert!(
            unpacked.metadata().unwrap().blocks() < 100,
            "{form:?} lost its holes"
        );
    }
}

#[test]
fn needs_root_archives_of_gnu_tar_and_python_are_read_alike() {
    need_root();
    let test = TestStore::new();
    let source = test.layer(&[], |root| {
        fs::create_dir_all(root.join("d").join("e".repeat(120))).unwrap();
        fs::write(
            root.join("d").join("e".repeat(120)).join("f".repeat(200)),
            b"1",
        )
        .unwrap();
        fs::write(root.join("d/a"), b"2").unwrap();
        fs::hard_link(root.join("d/a"), root.join("d/b")).unwrap();
        std::os::unix::fs::symlink("t".repeat(150), root.join("d/s")).unwrap();
        std::os::unix::fs::chown(root.join("d/a"), Some(4_000_000), Some(5)).unwrap();
        for path in ["d/a", "d/s", "d"] {
            set_mtime(&root.join(path), 1_234_567_890, 0);
        }
    });
    let expected = shape(source.path());
    for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
        let output = std::process::Command::new("tar")
            .args(["-c", &format!("--format={format}"), "-C"])
            .arg(source.path())
            .arg("d")
            .output()
            .unwrap();
        if !output.status.success() {
            assert!(
                ["v7", "ustar"].contains(&format),
                "{format} cannot hold these names"
            );
            continue;
        }
        let layer = unpack(&test, &output.stdout).unwrap();
        assert_eq!(shape(layer.path()), expected, "{format}");
    }
}
