//! The store: where it is, damage and repair, freeing space.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::args;
use crate::support::progress::ran_and_cached;
use crate::support::random::Random;
use crate::support::tree::{Compare, assert_same};
use crate::support::{TestEnv, layout};

const DOCKERFILE: &str = "FROM busybox\nRUN mkdir /made && echo content >/made/by-run\nCOPY a /a\n";

/// A store in which `x` was built and exported, and its context.
fn built() -> (TestEnv, PathBuf, layout::Image) {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.files("c", &[("Dockerfile", DOCKERFILE), ("a", "A")]);
    env.build("x", &context);
    let image = env.build_layout("x", &context);
    (env, context, image)
}

/// Regular files of the store below `directory`.
fn files(store: &Path, directory: &str) -> Vec<PathBuf> {
    let found = walkdir::WalkDir::new(store.join(directory)).sort_by_file_name();
    let files = found
        .into_iter()
        .map(Result::unwrap)
        .filter(|f| f.file_type().is_file());
    files.map(walkdir::DirEntry::into_path).collect()
}

fn flip_a_byte(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// After damage: `fsck` finds it, repairs it, and the same build gives the same files.
fn is_found_and_repaired(what: &str, damage: fn(&Path)) {
    let (env, context, image) = built();
    env.assert_sound_store();
    damage(&env.store());
    let found = env.rbuild(["fsck"]).run().exits(1);
    assert!(found.out().contains("problem: "), "{what}: {}", found.out());
    env.rbuild(["fsck", "--repair"]).run();
    env.import_busybox();
    let again = env.build_layout("y", &context);
    assert_same(what, &again.tree, &image.tree, Compare::NO_TIMES);
    env.rbuild(["image", "prune", "-f"]).run().ok();
    env.rbuild(["rmi", "x"]).run();
    env.rbuild(["fsck", "--repair"]).run();
    env.assert_sound_store();
}

#[test]
fn a_changed_file_of_a_layer_is_found_and_repaired() {
    is_found_and_repaired("changed file", |store| {
        let made = files(store, "trees")
            .into_iter()
            .find(|path| path.ends_with("made/by-run"));
        flip_a_byte(&made.unwrap());
    });
}

#[test]
fn a_lost_file_of_a_layer_is_found_and_repaired() {
    is_found_and_repaired("lost file", |store| {
        let made = files(store, "trees")
            .into_iter()
            .find(|path| path.ends_with("made/by-run"));
        fs::remove_file(made.unwrap()).unwrap();
    });
}

#[test]
fn a_changed_blob_is_found_and_repaired() {
    is_found_and_repaired("changed blob", |store| {
        for path in files(store, "blobs") {
            flip_a_byte(&path);
        }
    });
}

#[test]
fn a_damaged_database_never_stops_a_build() {
    let (env, context, image) = built();
    for name in ["meta.db", "meta.db-wal", "meta.db-shm"] {
        let path = env.store().join(name);
        if path.exists() {
            fs::write(&path, "this is no database at all".repeat(200)).unwrap();
        }
    }
    env.import_busybox();
    let again = env.build_layout("y", &context);
    assert_same(
        "damaged database",
        &again.tree,
        &image.tree,
        Compare::NO_TIMES,
    );
    env.assert_sound_store();
}

#[test]
fn a_store_of_a_later_version_is_refused() {
    let (env, context, _) = built();
    fs::write(env.store().join("format"), "99\n").unwrap();
    let outcome = env
        .rbuild(args!["-t", "x", context])
        .run()
        .fails_with("could not open the store");
    assert!(outcome.stderr.contains("format 99"), "{}", outcome.stderr);
}

#[test]
fn the_place_of_the_store() {
    let env = TestEnv::new();
    let context = env.dockerfile("c", "FROM scratch\nENV a=b\n");
    let (flag, variable, xdg) = (env.join("flag"), env.join("variable"), env.join("xdg"));
    let build = || {
        env.rbuild(args!["-t", "x", context])
            .env("RBUILD_ROOT", &variable)
    };
    build().args(args!["--root", flag]).run().ok();
    assert!(
        flag.join("format").exists() && !variable.exists(),
        "--root wins"
    );
    build().env("XDG_DATA_HOME", &xdg).run().ok();
    assert!(
        variable.join("format").exists() && !xdg.exists(),
        "$RBUILD_ROOT is next"
    );
    // Nobody else may look into it: it holds what secrets were used for.
    let mode = fs::metadata(&variable).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn pruning_keeps_images_and_frees_the_rest() {
    let (env, context, image) = built();
    env.build(
        "other",
        &env.dockerfile(
            "other",
            "FROM busybox\nRUN dd if=/dev/zero of=/z bs=1M count=20\n",
        ),
    );
    env.rbuild(["rmi", "other"]).run().ok();
    let before = size_of(&env.store());
    env.rbuild(["prune", "-a", "-f"]).run().ok();
    let after = size_of(&env.store());
    assert!(
        before - after >= 20 << 20,
        "freed only {} bytes",
        before - after
    );
    let output = env
        .rbuild(["run", "--rm", "x", "cat", "/made/by-run"])
        .run()
        .ok();
    assert_eq!(output.out(), "content\n");
    env.assert_sound_store();
    let again = env.build_layout("y", &context);
    assert_same("after pruning", &again.tree, &image.tree, Compare::NO_TIMES);
}

#[test]
fn pruning_beside_builds_takes_nothing_from_them() {
    let env = TestEnv::new();
    env.import_busybox();
    let contexts: Vec<_> = (0..4)
        .map(|i| {
            let text =
                format!("FROM busybox\nRUN echo {i} >/a; sleep 0.3\nRUN cat /a >/b; sleep 0.3\n");
            env.dockerfile(&format!("c{i}"), &text)
        })
        .collect();
    let builds: Vec<_> = contexts
        .iter()
        .enumerate()
        .map(|(i, context)| env.rbuild(args!["-t", format!("p{i}"), context]).spawn())
        .collect();
    for _ in 0..10 {
        env.rbuild(["prune", "-a", "-f"]).run().ok();
    }
    for build in builds {
        build.wait().ok();
    }
    for i in 0..4 {
        let output = env
            .rbuild(["run", "--rm", &format!("p{i}"), "cat", "/b"])
            .run()
            .ok();
        assert_eq!(output.out(), format!("{i}\n"));
    }
    env.assert_sound_store();
}

fn size_of(directory: &Path) -> u64 {
    let found = walkdir::WalkDir::new(directory)
        .into_iter()
        .map(Result::unwrap);
    found
        .map(|entry| entry.path().symlink_metadata().unwrap().len())
        .sum()
}

#[test]
fn a_step_is_run_again_when_its_layer_is_gone() {
    let (env, context, _) = built();
    let trees = env.store().join("trees");
    let made = files(&env.store(), "trees")
        .into_iter()
        .find(|p| p.ends_with("made/by-run"))
        .unwrap();
    let tree = trees.join(made.strip_prefix(&trees).unwrap().iter().next().unwrap());
    fs::remove_dir_all(&tree).unwrap();
    let _ = fs::remove_file(tree.with_extension("seal"));
    let outcome = env.build("z", &context);
    let (ran, _) = ran_and_cached(&outcome.stderr);
    assert!(
        ran.iter().any(|title| title.contains("RUN mkdir")),
        "{}",
        outcome.stderr
    );
    let output = env
        .rbuild(["run", "--rm", "z", "cat", "/made/by-run"])
        .run()
        .ok();
    assert_eq!(output.out(), "content\n");
}

#[test]
fn files_that_layers_share_count_once() {
    const SIZE: usize = 3 << 20;
    let env = TestEnv::new();
    let context = env.dockerfile("context", "FROM scratch\nCOPY . /\n");
    std::fs::write(context.join("large"), Random::new(3).bytes(SIZE)).unwrap();
    let total = || {
        let format = "{{if eq .Kind \"layer\"}}{{.Size}}{{end}}";
        let out = env
            .rbuild(["du", "-v", "--format", format])
            .run()
            .ok()
            .out();
        let sizes = out.lines().filter(|line| !line.is_empty());
        sizes.map(str::to_owned).collect::<Vec<_>>()
    };
    for number in 0..3 {
        std::fs::write(context.join("small"), number.to_string()).unwrap();
        env.build("x", &context);
    }
    // What stayed is linked from the layer before, not written again.
    let sizes = total();
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    let large = sizes.iter().filter(|size| size.ends_with("MB")).count();
    assert_eq!(large, 1, "{sizes:?}");
    // The image keeps the file, so removing the cache frees next to nothing.
    let freed = env.rbuild(["prune", "-a", "-f"]).run().ok().out();
    assert!(freed.contains("Total reclaimed space:"), "{freed}");
    assert!(!freed.contains("MB"), "{freed}");
    env.assert_sound_store();
}
