//! Trees that are hard to keep, all the way: imported, built on, saved, loaded elsewhere and
//! unpacked by a tool that nobody here wrote.
//!
//! `RBUILD_TEST_LARGE=1` makes the large ones as large as they get (8 GiB, 100,000 files); without
//! it they are smaller, and otherwise the same.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};

use crate::args;
use crate::support::process::with_path;
use crate::support::random::is_large;
use crate::support::tree::{Compare, assert_same, read_directory};
use crate::support::{TestEnv, debian, needs};

/// Takes `source` (a root file system) through everything and compares what comes out.
fn survives(what: &str, env: &TestEnv, source: &Path) {
    let archive = env.join("source.tar");
    env.host(needs::program("tar", "tar"))
        .args(args![
            "-C",
            source,
            "--format=gnu",
            "--sparse",
            "-cf",
            archive,
            "."
        ])
        .run()
        .ok();
    let import = env.rbuild(args!["import", archive, "source"]).timeout(600);
    import.run().ok();
    fs::remove_file(&archive).unwrap();
    let context = env.dockerfile("context", "FROM source\nLABEL built=yes\n");
    env.rbuild(args!["-t", "built", context])
        .timeout(600)
        .run()
        .ok();
    let saved = env.join("saved.tar");
    env.rbuild(args!["save", "-o", saved, "built"])
        .timeout(600)
        .run()
        .ok();

    let elsewhere = TestEnv::new();
    let load = elsewhere.rbuild(args!["load", "-i", saved]).timeout(600);
    load.run().ok();
    fs::remove_file(&saved).unwrap();
    let layout = elsewhere.join("layout");
    let flag = with_path("type=oci,tar=false,dest=", &layout);
    let context = elsewhere.dockerfile("context", "FROM built\n");
    elsewhere
        .rbuild(args!["-t", "again", "-o", flag, context])
        .timeout(600)
        .run()
        .ok();
    let bundle = elsewhere.join("bundle");
    let mut image = with_path("", &layout);
    image.push(":latest");
    elsewhere
        .host(needs::program("umoci", "umoci"))
        .args(args!["unpack", "--image", image, bundle])
        .timeout(600)
        .run()
        .ok();
    let rootfs = bundle.join("rootfs");
    assert_same(
        what,
        &read_directory(&rootfs),
        &read_directory(source),
        Compare::ALL,
    );
    assert_eq!(attributes(&rootfs), attributes(source), "{what}");
    env.assert_sound_store();
    elsewhere.assert_sound_store();
}

/// All extended attributes below a directory: path, name, value.
fn attributes(root: &Path) -> Vec<(PathBuf, OsString, Vec<u8>)> {
    let mut all = Vec::new();
    for found in walkdir::WalkDir::new(root).sort_by_file_name() {
        let path = found.unwrap().into_path();
        let mut list = vec![0; 4096];
        // Paths of over 4,095 bytes cannot be asked for by name, and have none.
        let Ok(length) = rustix::fs::llistxattr(&path, &mut list[..]) else {
            continue;
        };
        for name in list[..length].split(|&b| b == 0).filter(|n| !n.is_empty()) {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
            value.truncate(length);
            let relative = path.strip_prefix(root).unwrap().to_owned();
            all.push((relative, OsString::from_vec(name.to_vec()), value));
        }
    }
    all
}

/// `large` where the large trees were asked for, else `small`.
fn sized(small: u64, large: u64) -> u64 {
    if is_large() { large } else { small }
}

#[test]
fn every_type_of_file() {
    let env = TestEnv::new();
    let root = env.join("root");
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("dir/empty")).unwrap();
    fs::write(at("dir/file"), "content").unwrap();
    fs::hard_link(at("dir/file"), at("hard")).unwrap();
    symlink("dir/file", at("soft")).unwrap();
    symlink("/nowhere/at/all", at("dangling")).unwrap();
    let make = |name: &str, kind, device| {
        let mode = Mode::from_raw_mode(0o640);
        mknodat(CWD, at(name), kind, mode, device).unwrap();
    };
    make("fifo", FileType::Fifo, 0);
    make("character", FileType::CharacterDevice, makedev(1, 3));
    make("block", FileType::BlockDevice, makedev(7, 200));
    for (name, mode) in [
        ("suid", 0o4755),
        ("sgid", 0o2711),
        ("none", 0),
        ("odd", 0o1234),
    ] {
        fs::write(at(name), name).unwrap();
        // Changing the owner takes set-id bits away.
        chown(at(name), Some(1234), Some(65_533)).unwrap();
        rustix::fs::chmod(at(name), Mode::from_raw_mode(mode)).unwrap();
    }
    rustix::fs::chmod(at("dir"), Mode::from_raw_mode(0o3771)).unwrap();
    chown(at("dir/empty"), Some(4_000_000_000), Some(7)).unwrap();
    rustix::fs::lsetxattr(at("dir/file"), "user.of-mine", b"a\0b", XattrFlags::empty()).unwrap();
    // cap_net_raw=ep, version 2.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    rustix::fs::lsetxattr(
        at("odd"),
        "security.capability",
        capability,
        XattrFlags::empty(),
    )
    .unwrap();
    for name in ["etc", "proc"] {
        fs::create_dir(at(name)).unwrap();
    }
    // GNU tar keeps attributes with `--xattrs` only, in its other format.
    let archive = env.join("source.tar");
    env.host(needs::program("tar", "tar"))
        .args(args![
            "-C",
            root,
            "--xattrs",
            "--xattrs-include=*",
            "-cf",
            archive,
            "."
        ])
        .run()
        .ok();
    env.rbuild(args!["import", archive, "source"]).run().ok();
    let out = env.join("out");
    let context = env.dockerfile("context", "FROM source\n");
    let flag = with_path("type=local,dest=", &out);
    env.rbuild(args!["-o", flag, context]).run().ok();
    // As in BuildKit, what is written out belongs to who writes it.
    let by = Compare {
        owners: false,
        times: true,
    };
    assert_same("local", &read_directory(&out), &read_directory(&root), by);
    assert_eq!(attributes(&out), attributes(&root));
    rustix::fs::lremovexattr(at("dir/file"), "user.of-mine").unwrap();
    rustix::fs::lremovexattr(at("odd"), "security.capability").unwrap();
    survives("every type", &env, &root);
}

#[test]
fn odd_names_and_long_paths() {
    let env = TestEnv::new();
    let root = env.join("root");
    fs::create_dir(&root).unwrap();
    for name in [
        OsStr::from_bytes(b"latin-\xe9\xff\x80"),
        OsStr::new(" leading and trailing "),
        OsStr::new("new\nline\ttab"),
        OsStr::new("back\\slash*?[x]\"'"),
        OsStr::new("-dash"),
        OsStr::new(&"n".repeat(255)),
    ] {
        fs::write(root.join(name), name.as_bytes()).unwrap();
    }
    symlink("t".repeat(4000), root.join("long-link")).unwrap();
    // Longer than a system call takes: each directory is entered by itself.
    let mut directory = rustix::fs::open(
        &root,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    )
    .unwrap();
    let mut length = 0;
    while length < 3700 {
        let name = "d".repeat(200);
        rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(0o755)).unwrap();
        directory = rustix::fs::openat(
            &directory,
            &name,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        length += name.len() + 1;
    }
    survives("odd names", &env, &root);
}

#[test]
fn a_sparse_file_stays_a_file_of_its_size() {
    let env = TestEnv::new();
    let root = env.join("root");
    fs::create_dir(&root).unwrap();
    let size = sized(256 << 20, 8 << 30);
    let file = File::create(root.join("sparse")).unwrap();
    file.set_len(size).unwrap();
    file.write_at(b"begin", 0).unwrap();
    file.write_at(b"middle", size / 2 + 1).unwrap();
    file.write_at(b"end", size - 3).unwrap();
    survives("sparse", &env, &root);

    // It takes no space anywhere, nor does a copy of it in a build or in its output.
    let context = env.dockerfile("copied", "FROM scratch\nCOPY root /\n");
    fs::rename(&root, context.join("root")).unwrap();
    let (out, archive) = (env.join("out"), env.join("out.tar"));
    let local = with_path("type=local,dest=", &out);
    let tar = with_path("type=tar,dest=", &archive);
    env.rbuild(args![
        "-t",
        "copied",
        "-o",
        "type=image",
        "-o",
        local,
        "-o",
        tar,
        context
    ])
    .timeout(600)
    .run()
    .ok();
    assert_same(
        "copied",
        &read_directory(&out),
        &read_directory(&context.join("root")),
        Compare::ALL,
    );
    assert_eq!(fs::metadata(out.join("sparse")).unwrap().len(), size);
    assert!(fs::metadata(&archive).unwrap().len() > size);
    for place in [env.store(), out, archive] {
        let bytes = on_disk(&place);
        assert!(bytes < 32 << 20, "{}: {bytes}", place.display());
    }
}

/// Bytes that a tree takes on disk.
fn on_disk(path: &Path) -> u64 {
    let found = walkdir::WalkDir::new(path).into_iter();
    let blocks = found.map(|found| found.unwrap().metadata().unwrap().blocks());
    blocks.sum::<u64>() * 512
}

#[test]
fn many_small_files() {
    let env = TestEnv::new();
    let root = env.join("root");
    for directory in 0..sized(20, 100) {
        let directory = root.join(format!("d{directory}"));
        fs::create_dir_all(&directory).unwrap();
        for file in 0..1000 {
            fs::write(directory.join(format!("f{file}")), format!("{file}\n")).unwrap();
        }
    }
    survives("many files", &env, &root);
}

#[test]
fn a_debian() {
    let env = TestEnv::new();
    let root = env.join("root");
    fs::create_dir(&root).unwrap();
    env.host(needs::program("tar", "tar"))
        .args(args!["-C", root, "-xpf", debian::rootfs()])
        .run()
        .ok();
    survives("debian", &env, &root);
}
