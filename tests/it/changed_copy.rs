//! A copy that is made again after a change: as if it were made for the first time, whatever changed,
//! and with the files that stayed taken from the layer before.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::args;
use crate::support::TestEnv;
use crate::support::layout::Image;

const DOCKERFILE: &str = "FROM busybox\nCOPY . /\n";

/// The layers of a build in this store, and of one in an empty one: digests of the gzipped blobs.
fn both(env: &TestEnv, context: &Path, name: &str) -> (String, String) {
    let here = env.build_layout(name, context);
    let other = TestEnv::new();
    other.import_busybox();
    let fresh = other.build_layout(name, context);
    let layers = |image: &Image| image.manifest["layers"].to_string();
    assert_eq!(here.config["rootfs"], fresh.config["rootfs"]);
    (layers(&here), layers(&fresh))
}

fn touch(path: &Path, like: &fs::Metadata) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let times = fs::FileTimes::new().set_modified(like.modified().unwrap());
    file.set_times(times).unwrap();
}

fn context(env: &TestEnv) -> PathBuf {
    let context = env.files(
        "c",
        &[
            ("Dockerfile", DOCKERFILE),
            (".dockerignore", "*.log\n"),
            ("a/one", "1"),
            ("a/two", "2"),
            ("a/deep/three", "3"),
            ("b/four", "4"),
            ("five", "5"),
            ("noise.log", "x"),
        ],
    );
    // Enough for several compressed blocks.
    fs::create_dir(context.join("many")).unwrap();
    for number in 0..60 {
        let lines: Vec<String> = (0..8000).map(|line| (line * number).to_string()).collect();
        let text = lines.join("\n");
        fs::write(context.join(format!("many/{number}")), text).unwrap();
    }
    symlink("one", context.join("a/link")).unwrap();
    fs::hard_link(context.join("a/two"), context.join("b/two")).unwrap();
    fs::set_permissions(context.join("b"), fs::Permissions::from_mode(0o750)).unwrap();
    context
}

#[test]
fn whatever_changed_the_layer_is_that_of_a_first_build() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = context(&env);
    let path = |name: &str| context.join(name);
    let changes: [(&str, &dyn Fn()); 13] = [
        ("nothing yet", &|| {}),
        ("a file's content", &|| {
            fs::write(path("five"), "55").unwrap();
        }),
        ("content, with size and time kept", &|| {
            let before = fs::metadata(path("a/one")).unwrap();
            fs::write(path("a/one"), "I").unwrap();
            touch(&path("a/one"), &before);
        }),
        ("a time, and content elsewhere", &|| {
            fs::write(path("a/two"), "22").unwrap();
            touch(&path("b/four"), &fs::metadata("/").unwrap());
        }),
        ("one of many files, which has grown", &|| {
            fs::write(path("many/30"), vec![b'x'; 100_000]).unwrap();
        }),
        ("a mode", &|| {
            fs::set_permissions(path("b/four"), fs::Permissions::from_mode(0o4755)).unwrap();
        }),
        ("a new file, one gone", &|| {
            fs::write(path("a/new"), "n").unwrap();
            fs::remove_file(path("a/deep/three")).unwrap();
        }),
        (
            "hard links that are none any more, with the same content",
            &|| {
                let before = fs::metadata(path("b/two")).unwrap();
                fs::remove_file(path("b/two")).unwrap();
                fs::write(path("b/two"), "22").unwrap();
                fs::write(path("five"), "555").unwrap();
                touch(&path("b/two"), &before);
            },
        ),
        ("files that became one", &|| {
            fs::remove_file(path("b/four")).unwrap();
            fs::hard_link(path("a/one"), path("b/four")).unwrap();
        }),
        ("two that changed names", &|| {
            fs::rename(path("five"), path("x")).unwrap();
            fs::rename(path("a/new"), path("five")).unwrap();
            fs::rename(path("x"), path("a/new")).unwrap();
        }),
        ("a file in place of a directory, and the reverse", &|| {
            fs::remove_dir_all(path("a/deep")).unwrap();
            fs::write(path("a/deep"), "d").unwrap();
            fs::remove_file(path("five")).unwrap();
            fs::create_dir(path("five")).unwrap();
            fs::write(path("five/in"), "i").unwrap();
        }),
        ("the way of copying", &|| {
            let text = DOCKERFILE.replace("COPY .", "COPY --chown=7:8 --chmod=600 .");
            fs::write(path("Dockerfile"), text).unwrap();
        }),
        ("the place", &|| {
            let text = DOCKERFILE.replace("COPY . /", "COPY . /tmp/");
            fs::write(path("Dockerfile"), text).unwrap();
        }),
    ];
    for (what, change) in changes {
        change();
        let (here, fresh) = both(&env, &context, "x");
        assert_eq!(here, fresh, "after changing {what}");
    }
    env.assert_sound_store();
}

#[test]
fn files_that_stayed_are_not_written_again() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.files(
        "c",
        &[
            ("Dockerfile", "FROM busybox\nCOPY src /src\n"),
            ("src/kept", "k"),
            ("src/other", "o"),
        ],
    );
    env.build("x", &context);
    fs::write(context.join("src/other"), "changed").unwrap();
    env.build("x", &context);
    let mut kept = Vec::new();
    for tree in fs::read_dir(env.store().join("trees")).unwrap() {
        let path = tree.unwrap().path().join("src/kept");
        kept.extend(fs::symlink_metadata(path).map(|found| found.ino()));
    }
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[0], kept[1]);
    // Without the cache nothing of it is used.
    env.rbuild(args!["build", "--no-cache", "-t", "x", context])
        .run()
        .ok();
}
