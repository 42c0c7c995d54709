//! The base images of the tests, made once from the host's static busybox.
//!
//! They lie below `target/tmp`, named by their content's recipe, published by rename under a lock,
//! so that parallel test processes and later runs share them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::{needs, write_layout};

/// Users of the base image of the build cases (`12345` is a user *name*).
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    app:x:1001:1002:app:/home/app:/bin/sh\n\
    12345:x:777:778:numeric name:/:/bin/sh\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\napp:x:1002:\nstaff:x:50:app\n";

/// The OCI layout of `bb`, the base image of the build cases.
pub(crate) fn bb_layout() -> PathBuf {
    made_once("busybox-layout", |directory| {
        let history = json!([
            {"created": "2024-01-01T00:00:00Z", "created_by": "COPY rootfs/ / # buildkit",
             "comment": "buildkit.dockerfile.v0"},
            {"created": "2024-01-01T00:00:00Z", "created_by": "ENV PATH=/usr/local/bin:/bin",
             "comment": "buildkit.dockerfile.v0", "empty_layer": true},
            {"created": "2024-01-01T00:00:00Z", "created_by": "CMD [\"sh\"]",
             "comment": "buildkit.dockerfile.v0", "empty_layer": true},
        ]);
        let config = json!({
            "ArgsEscaped": true, "Cmd": ["sh"], "Env": ["PATH=/usr/local/bin:/bin"], "WorkingDir": "/",
        });
        write_layout::write(directory, &[rootfs_tar()], &config, &history);
    })
}

/// A tar of the same root file system, for `rbuild import`.
pub(crate) fn busybox_rootfs() -> PathBuf {
    let directory = made_once("busybox-rootfs", |directory| {
        fs::write(directory.join("rootfs.tar"), rootfs_tar()).unwrap();
    });
    directory.join("rootfs.tar")
}

/// Directory for things that are made once and shared by all tests and later runs.
pub(crate) fn cache_directory() -> PathBuf {
    let directory = std::env::var_os("RBUILD_TEST_CACHE")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Returns the directory `name` of the cache, after `make` filled it the first time.
pub(crate) fn made_once(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let cache = cache_directory();
    let lock = File::create(cache.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let finished = cache.join(name);
    if !finished.exists() {
        let draft = tempfile::tempdir_in(&cache).unwrap();
        make(draft.path());
        fs::rename(draft.path(), &finished).unwrap();
        // Nothing is left for the draft's own removal; forget where it was.
        let _ = draft.keep();
    }
    finished
}

/// busybox in `/bin` with a link for each applet, users, `/tmp`, `/root`, `/home/app`.
fn rootfs_tar() -> Vec<u8> {
    let busybox = needs::static_busybox();
    let list = Command::new(&busybox).arg("--list").output().unwrap();
    assert!(list.status.success(), "busybox --list: {}", list.status);
    let mut applets: Vec<_> = String::from_utf8(list.stdout)
        .unwrap()
        .lines()
        .filter(|applet| *applet != "busybox")
        .map(str::to_owned)
        .collect();
    applets.sort();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("home/app", 0o755),
    ] {
        directory(&mut tar, name, mode);
    }
    for (name, mode) in [
        ("root", 0o700),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/local", 0o755),
    ] {
        directory(&mut tar, name, mode);
    }
    directory(&mut tar, "usr/local/bin", 0o755);
    directory(&mut tar, "var", 0o755);
    file(&mut tar, "bin/busybox", 0o755, &fs::read(&busybox).unwrap());
    for applet in applets {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    for (name, text) in [
        ("passwd", PASSWD),
        ("group", GROUP),
        ("hostname", "busybox\n"),
    ] {
        file(&mut tar, &format!("etc/{name}"), 0o644, text.as_bytes());
    }
    tar.into_inner().unwrap()
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header
}

fn directory(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32) {
    let mut header = header(tar::EntryType::Directory, mode, 0);
    tar.append_data(&mut header, format!("{name}/"), std::io::empty())
        .unwrap();
}

fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, bytes: &[u8]) {
    let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
    tar.append_data(&mut header, name, bytes).unwrap();
}
