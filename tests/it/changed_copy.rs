//! A copy that is made again after a change: as if it were made for the first time, whatever changed,
//! and with the files that stayed taken from the layer before.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::args;
use crate::support::TestEnv;
use crate::support::layout::Image;
use crate::support::random::{Random, setting};

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

/// A context with so many files that a new version of the copy lies over the old one.
fn large_context(env: &TestEnv) -> PathBuf {
    let context = env.files("large", &[("Dockerfile", "FROM busybox\nCOPY large /\n")]);
    for number in 0..400 {
        let directory = context.join(format!("large/src/d{}/in", number / 20));
        fs::create_dir_all(&directory).unwrap();
        let text = format!("file {number}\n").repeat(500);
        fs::write(directory.join(format!("f{number}")), text).unwrap();
    }
    symlink("d1/in", context.join("large/src/link")).unwrap();
    context
}

/// Trees of the store that have a file.
fn trees_with(env: &TestEnv, path: &str) -> usize {
    let trees = fs::read_dir(env.store().join("trees")).unwrap();
    let has = |tree: &fs::DirEntry| tree.path().join(path).symlink_metadata().is_ok();
    trees.filter(|tree| has(tree.as_ref().unwrap())).count()
}

#[test]
fn a_large_copy_keeps_only_what_changed_and_reads_as_a_whole() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = large_context(&env);
    env.build("first", &context);
    fs::write(context.join("large/src/d7/in/f140"), "changed\n").unwrap();
    env.build("second", &context);
    assert_eq!(trees_with(&env, "src/d7/in/f140"), 2);
    assert_eq!(trees_with(&env, "src/d7/in/f141"), 1);
    assert_eq!(trees_with(&env, "src/d6"), 1);
    env.assert_sound_store();

    // A step sees all of it, a copy takes all of it, and so does every output.
    let uses = "FROM second AS one\n\
        RUN test $(find /src -type f | wc -l) = 400 && cat /src/d7/in/f140 /src/link/f21 >/seen \\\n\
        && rm /src/d7/in/f140 && test ! -e /src/d7/in/f140 && rm -r /src/d8\n\
        FROM scratch\nCOPY --from=second /src /all\nCOPY --from=one /seen /src/d9 /\n";
    let uses = env.files("uses", &[("Dockerfile", uses)]);
    let out = env.join("out");
    let flag = crate::support::process::with_path("type=local,dest=", &out);
    env.rbuild(args!["build", "-o", flag, uses]).run().ok();
    assert_eq!(
        fs::read_to_string(out.join("all/d7/in/f140")).unwrap(),
        "changed\n"
    );
    assert_eq!(
        fs::read_to_string(out.join("all/d0/in/f3")).unwrap(),
        "file 3\n".repeat(500)
    );
    assert!(
        fs::read_to_string(out.join("seen"))
            .unwrap()
            .starts_with("changed\nfile 21\n")
    );
    assert_eq!(fs::read_dir(out.join("in")).unwrap().count(), 20);

    // The old image goes, and with it everything but what the new one lies over.
    env.rbuild(["rmi", "first"]).run().ok();
    env.rbuild(["prune", "--all", "--force"]).run().ok();
    assert_eq!(trees_with(&env, "src/d7/in/f141"), 1);
    env.assert_sound_store();
    let archive = env.join("second.tar");
    env.rbuild(args!["save", "-o", archive, "second"])
        .run()
        .ok();
    let other = TestEnv::new();
    other.rbuild(args!["load", "-i", archive]).run().ok();
    let layers = "{{json .RootFS.Layers}}";
    assert_eq!(
        other.inspect("second", layers),
        env.inspect("second", layers)
    );
    env.rbuild(["rmi", "second"]).run().ok();
    env.rbuild(["prune", "--all", "--force"]).run().ok();
    assert_eq!(trees_with(&env, "src/d7/in/f141"), 0);
}

#[test]
fn any_changes_of_a_large_copy_give_the_layer_of_a_first_build() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = large_context(&env);
    let seed = setting("RBUILD_SEED", 1);
    let mut random = Random::new(seed);
    env.build_layout("large", &context);
    let mut over = 0;
    for round in 0..setting("RBUILD_CHANGES", 12) {
        let mut said = Vec::new();
        for _ in 0..=random.below(3) {
            said.push(change(&context, &mut random));
        }
        // A time alone is no change: the step would be cached.
        let new = context.join(format!("large/src/d{}", random.below(20)));
        fs::write(new.join("round"), format!("{round}")).unwrap();
        eprintln!("seed {seed}, round {round}: {said:?}, {}", new.display());
        let (here, fresh) = both(&env, &context, "large");
        assert_eq!(here, fresh, "seed {seed}, round {round}: {said:?}");
        over += layers_over_others(&env);
        if random.below(4) == 0 {
            env.rbuild(["prune", "--force"]).run().ok();
        }
    }
    env.assert_sound_store();
    assert!(over > 0, "seed {seed}: every version was made whole");
}

/// Layers of the store whose tree lies over that of another.
fn layers_over_others(env: &TestEnv) -> usize {
    let trees = fs::read_dir(env.store().join("trees")).unwrap();
    let paths = trees.map(|entry| entry.unwrap().path());
    let seals = paths.filter_map(|path| fs::read_to_string(path).ok());
    seals.filter(|seal| seal.contains("\"over\"")).count()
}

/// Changes something at random, and says what.
fn change(context: &Path, random: &mut Random) -> String {
    let number = random.below(400);
    let directory = context.join(format!("large/src/d{}/in", number / 20));
    let path = directory.join(format!("f{number}"));
    let text = format!("changed {}\n", random.below(1000));
    let kind = random.below(10);
    match kind {
        0 => fs::write(directory.join(format!("new{number}")), &text).unwrap(),
        1 => {
            let _ = fs::remove_file(&path);
        }
        2 => {
            let mode = fs::Permissions::from_mode(0o700 + random.below(64) as u32);
            fs::set_permissions(&directory, mode).unwrap();
        }
        3 => {
            // Another time, the same content: no other key, but another tar.
            let file = fs::File::options()
                .append(true)
                .create(true)
                .open(&path)
                .unwrap();
            file.set_modified(UNIX_EPOCH).unwrap();
        }
        4 => {
            let _ = fs::remove_file(&path);
            symlink(&text, &path).unwrap();
        }
        // While there is one, every version is made whole.
        5 if random.below(4) == 0 => {
            let _ = fs::hard_link(&path, directory.join(format!("linked{number}")));
        }
        _ => {
            let _ = fs::remove_file(&path);
            fs::write(&path, text.repeat(random.below(9000))).unwrap();
        }
    }
    format!("{kind} {}", path.display())
}

#[test]
fn versions_are_right_whatever_is_killed_and_pruned_between_them() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = large_context(&env);
    env.build("x", &context);
    let mut random = Random::new(setting("RBUILD_SEED", 1));
    for round in 0..setting("RBUILD_KILLS", 6) {
        fs::write(context.join("large/src/d3/in/f70"), format!("{round}\n")).unwrap();
        let mut build = env.rbuild(args!["build", "-t", "x", context]).spawn();
        // Not a wait for something: the moment of the kill is what this test varies.
        std::thread::sleep(Duration::from_micros(random.below(60_000) as u64));
        build.kill();
        build.wait();
        if random.below(2) == 0 {
            env.rbuild(["prune", "--force", "--keep-storage", "1000"])
                .run()
                .ok();
        }
        env.assert_sound_store();
        let (here, fresh) = both(&env, &context, "x");
        assert_eq!(here, fresh, "round {round}");
    }
}

#[test]
fn a_directory_that_a_large_copy_made_keeps_its_time() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = large_context(&env);
    fs::write(
        context.join("Dockerfile"),
        "FROM busybox\nCOPY large /a/b\n",
    )
    .unwrap();
    let times = || {
        let image = env.build_layout("x", &context);
        let tar = image.layer_tars.last().unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut times = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            if ["a/", "a/b/"].contains(&path.as_str()) {
                times.push((path, entry.header().mtime().unwrap()));
            }
        }
        times
    };
    let first = times();
    assert_eq!(first.len(), 2);
    // Made now, it would have another time.
    let second = || UNIX_EPOCH.elapsed().unwrap().as_secs();
    while second() <= first[1].1 {
        std::thread::sleep(Duration::from_millis(10));
    }
    fs::write(context.join("large/src/d7/in/f140"), "changed\n").unwrap();
    assert_eq!(times(), first);
    env.assert_sound_store();
}
