//! What a step's layer holds: the cases that were observed on BuildKit.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rbuild_cache::{CommitOptions, Layer};
use rustix::fs::FileType;

use crate::support::{Overlay, TestStore, listing, make_node, need_root, pipe, set_mtime};

/// The part of a base image that the cases touch.
fn base(path: &Path) {
    for directory in ["bin", "etc", "home", "home/app", "dev", "proc", "sys"] {
        fs::create_dir(path.join(directory)).unwrap();
    }
    for (file, text) in [
        ("etc/hostname", "bb\n"),
        ("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
    ] {
        fs::write(path.join(file), text).unwrap();
        set_mtime(&path.join(file), 1_000_000_000, 0);
    }
    for directory in ["etc", "home/app", "home", "bin", "dev", "proc", "sys"] {
        set_mtime(&path.join(directory), 1_000_000_000, 0);
    }
}

/// Does something over the base and returns the lines of the layer.
fn case(act: impl FnOnce(&Path)) -> Vec<String> {
    let test = TestStore::new();
    let base = test.layer(&[], base);
    let layer = test.step(&[base], act);
    listing(&test.tar(&layer))
}

#[test]
fn needs_root_removed_file_is_a_whiteout_below_its_directory() {
    let lines = case(|root| fs::remove_file(root.join("etc/hostname")).unwrap());
    assert_eq!(lines, ["d0755 0:0 etc/", "-0000 0:0 etc/.wh.hostname =0"]);
}

#[test]
fn needs_root_removed_directory_is_one_whiteout() {
    let lines = case(|root| fs::remove_dir_all(root.join("home")).unwrap());
    assert_eq!(lines, ["-0000 0:0 .wh.home =0"]);
}

#[test]
fn needs_root_directory_made_again_has_a_whiteout_for_each_lost_entry() {
    let lines = case(|root| {
        fs::remove_dir_all(root.join("home")).unwrap();
        fs::create_dir(root.join("home")).unwrap();
        fs::write(root.join("home/new"), b"").unwrap();
    });
    assert_eq!(
        lines,
        [
            "d0755 0:0 home/",
            "-0000 0:0 home/.wh.app =0",
            "-0644 0:0 home/new =0"
        ]
    );
}

#[test]
fn needs_root_chmod_takes_the_whole_file() {
    let lines = case(|root| {
        fs::set_permissions(root.join("etc/passwd"), fs::Permissions::from_mode(0o600)).unwrap();
    });
    assert_eq!(lines, ["d0755 0:0 etc/", "-0600 0:0 etc/passwd =22"]);
}

#[test]
fn needs_root_touch_takes_the_file() {
    let lines = case(|root| set_mtime(&root.join("etc/passwd"), 1_500_000_000, 5));
    assert_eq!(lines, ["d0755 0:0 etc/", "-0644 0:0 etc/passwd =22"]);
}

#[test]
fn needs_root_time_that_differs_below_the_second_is_a_change() {
    // `touch -r` of busybox restores whole seconds only; the observed base had finer times.
    let lines = case(|root| {
        let text = fs::read(root.join("etc/passwd")).unwrap();
        fs::write(root.join("etc/passwd"), text).unwrap();
        set_mtime(&root.join("etc/passwd"), 1_000_000_000, 1);
    });
    assert_eq!(lines, ["d0755 0:0 etc/", "-0644 0:0 etc/passwd =22"]);
}

#[test]
fn needs_root_owner_set_to_what_it_was_is_no_change() {
    let lines = case(|root| {
        std::os::unix::fs::chown(root.join("etc/passwd"), Some(0), Some(0)).unwrap();
        std::os::unix::fs::chown(root.join("home"), Some(0), Some(0)).unwrap();
    });
    assert_eq!(lines, [""; 0]);
}

#[test]
fn needs_root_file_written_anew_with_the_same_content_is_a_change() {
    // Not through a mount, as COPY writes.
    let test = TestStore::new();
    let base = [test.layer(&[], base)];
    let draft = test.store.draft_on(&base).unwrap();
    fs::write(draft.upper().join("file"), b"A").unwrap();
    set_mtime(&draft.upper().join("file"), 1_000_000_000, 7);
    let first = draft.commit(&base, &CommitOptions::default()).unwrap();
    let parents = [base[0].clone(), first];
    let draft = test.store.draft_on(&parents).unwrap();
    fs::write(draft.upper().join("file"), b"A").unwrap();
    set_mtime(&draft.upper().join("file"), 1_000_000_000, 7);
    let second = draft.commit(&parents, &CommitOptions::default()).unwrap();
    assert_eq!(listing(&test.tar(&second)), ["-0644 0:0 file =1"]);
}

#[test]
fn needs_root_same_size_and_time_with_other_content_is_a_change() {
    let lines = case(|root| {
        let size = fs::read(root.join("etc/passwd")).unwrap().len();
        fs::write(root.join("etc/passwd"), vec![b'y'; size]).unwrap();
        set_mtime(&root.join("etc/passwd"), 1_000_000_000, 0);
    });
    assert_eq!(lines, ["d0755 0:0 etc/", "-0644 0:0 etc/passwd =22"]);
}

#[test]
fn needs_root_step_that_does_nothing_gives_the_empty_tar() {
    let test = TestStore::new();
    let base = test.layer(&[], base);
    let layer = test.step(&[base], |_| {});
    assert_eq!(test.tar(&layer), vec![0; 1024]);
    assert_eq!(
        layer.diff_id().to_string(),
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
    );
}

#[test]
fn needs_root_file_made_and_removed_leaves_nothing() {
    let lines = case(|root| {
        fs::write(root.join("etc/q"), b"").unwrap();
        fs::remove_file(root.join("etc/q")).unwrap();
        fs::create_dir(root.join("d")).unwrap();
        fs::remove_dir(root.join("d")).unwrap();
    });
    assert_eq!(lines, [""; 0]);
}

#[test]
fn needs_root_hard_link_in_the_layer_points_to_the_first_name() {
    let lines = case(|root| {
        fs::write(root.join("h2"), b"1\n").unwrap();
        fs::hard_link(root.join("h2"), root.join("h1")).unwrap();
    });
    assert_eq!(lines, ["-0644 0:0 h1 =2", "h0644 0:0 h2 -> h1"]);
}

#[test]
fn needs_root_hard_link_to_a_lower_file_is_a_file_of_its_own() {
    let lines = case(|root| fs::hard_link(root.join("etc/passwd"), root.join("pp")).unwrap());
    assert_eq!(lines, ["-0644 0:0 pp =22"]);
}

#[test]
fn needs_root_devices_and_fifos_are_kept_and_sockets_are_not() {
    let lines = case(|root| {
        make_node(&root.join("n"), FileType::CharacterDevice, 0o644, (1, 3));
        make_node(&root.join("b"), FileType::BlockDevice, 0o600, (7, 300));
        make_node(&root.join("f"), FileType::Fifo, 0o644, (0, 0));
        make_node(&root.join("s"), FileType::Socket, 0o644, (0, 0));
    });
    assert_eq!(
        lines,
        ["b0600 0:0 b 7,300", "p0644 0:0 f", "c0644 0:0 n 1,3"]
    );
}

#[test]
fn needs_root_sparse_file_has_its_full_size() {
    let lines = case(|root| {
        fs::File::create(root.join("z"))
            .unwrap()
            .set_len(4 << 20)
            .unwrap();
    });
    assert_eq!(lines, ["-0644 0:0 z =4194304"]);
}

#[test]
fn needs_root_renamed_directory_is_copied_and_the_old_one_deleted() {
    let lines = case(|root| {
        // Overlay answers EXDEV, so `mv` copies and removes.
        assert!(fs::rename(root.join("home"), root.join("h2")).is_err());
        fs::create_dir_all(root.join("h2/app")).unwrap();
        fs::remove_dir_all(root.join("home")).unwrap();
    });
    assert_eq!(
        lines,
        [
            "d0755 0:0 h2/",
            "d0755 0:0 h2/app/",
            "-0000 0:0 .wh.home =0"
        ]
    );
}

#[test]
fn needs_root_symlink_replaced_by_a_directory_needs_no_whiteout() {
    let test = TestStore::new();
    let base = test.layer(&[], base);
    let first = test.step(std::slice::from_ref(&base), |root| {
        symlink("/etc", root.join("l")).unwrap();
    });
    assert_eq!(listing(&test.tar(&first)), ["l0777 0:0 l -> /etc"]);
    let second = test.step(&[base, first], |root| {
        fs::remove_file(root.join("l")).unwrap();
        fs::create_dir(root.join("l")).unwrap();
        fs::write(root.join("l/f"), b"").unwrap();
    });
    assert_eq!(
        listing(&test.tar(&second)),
        ["d0755 0:0 l/", "-0644 0:0 l/f =0"]
    );
}

#[test]
fn needs_root_directory_replaced_by_a_file_needs_no_whiteout() {
    let lines = case(|root| {
        fs::remove_dir_all(root.join("home")).unwrap();
        fs::write(root.join("home"), b"f\n").unwrap();
    });
    assert_eq!(lines, ["-0644 0:0 home =2"]);
}

#[test]
fn needs_root_directory_made_again_with_the_same_content_is_no_change() {
    let lines = case(|root| {
        fs::remove_dir_all(root.join("home")).unwrap();
        fs::create_dir_all(root.join("home/app")).unwrap();
    });
    assert_eq!(lines, [""; 0]);
}

#[test]
fn needs_root_deep_losses_in_a_directory_made_again_are_whiteouts_too() {
    let test = TestStore::new();
    let base = test.layer(&[], |root| {
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::write(root.join("a/b/x"), b"x").unwrap();
        fs::write(root.join("a/b/c/y"), b"y").unwrap();
    });
    let layer = test.step(&[base], |root| {
        fs::remove_dir_all(root.join("a")).unwrap();
        fs::create_dir_all(root.join("a/b/c")).unwrap();
    });
    assert_eq!(
        listing(&test.tar(&layer)),
        [
            "d0755 0:0 a/",
            "d0755 0:0 a/b/",
            "d0755 0:0 a/b/c/",
            "-0000 0:0 a/b/c/.wh.y =0",
            "-0000 0:0 a/b/.wh.x =0",
        ]
    );
}

#[test]
fn needs_root_whiteouts_stand_where_the_removed_name_would() {
    let test = TestStore::new();
    let base = test.layer(&[], |root| {
        for name in ["a", "m", "z"] {
            fs::write(root.join(name), b"").unwrap();
        }
    });
    let layer = test.step(&[base], |root| {
        fs::remove_file(root.join("m")).unwrap();
        fs::write(root.join("a-new"), b"").unwrap();
        fs::write(root.join("n"), b"").unwrap();
    });
    assert_eq!(
        listing(&test.tar(&layer)),
        ["-0644 0:0 a-new =0", "-0000 0:0 .wh.m =0", "-0644 0:0 n =0"]
    );
}

#[test]
fn needs_root_capabilities_are_written_and_other_attributes_are_not() {
    let test = TestStore::new();
    let base = test.layer(&[], base);
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let layer = test.step(&[base], |root| {
        for name in ["a", "b"] {
            fs::write(root.join(name), b"x").unwrap();
        }
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(root.join("a"), "security.capability", &capability, flags).unwrap();
        rustix::fs::setxattr(root.join("b"), "user.note", b"n", flags).unwrap();
    });
    assert_eq!(
        listing(&test.tar(&layer)),
        [
            "-0644 0:0 a =1 SCHILY.xattr.security.capability",
            "-0644 0:0 b =1"
        ]
    );
}

#[test]
fn needs_root_name_that_looks_like_a_deletion_fails_the_step() {
    let test = TestStore::new();
    let draft = test.store.draft().unwrap();
    fs::write(draft.upper().join(".wh.x"), b"").unwrap();
    let error = draft.commit(&[], &CommitOptions::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`/.wh.x` cannot be stored in a layer"),
        "{error}"
    );
}

#[test]
fn needs_root_stubs_that_stayed_empty_are_left_out() {
    let test = TestStore::new();
    let base = test.layer(&[], base);
    let parents = [base];
    let draft = test.store.draft_on(&parents).unwrap();
    {
        let mounted = Overlay::of_draft(&parents, &draft);
        fs::create_dir_all(mounted.path().join("run/secrets")).unwrap();
        fs::write(mounted.path().join("run/secrets/one"), b"").unwrap();
        fs::write(mounted.path().join("etc/hosts"), b"").unwrap();
        fs::create_dir(mounted.path().join("used")).unwrap();
        fs::write(mounted.path().join("used/file"), b"x").unwrap();
    }
    let stubs = [
        "/run",
        "/run/secrets",
        "/run/secrets/one",
        "/etc/hosts",
        "/used",
    ];
    let options = CommitOptions {
        stubs: stubs.iter().map(Into::into).collect(),
        ..CommitOptions::default()
    };
    let layer = draft.commit(&parents, &options).unwrap();
    assert_eq!(
        listing(&test.tar(&layer)),
        ["d0755 0:0 used/", "-0644 0:0 used/file =1"]
    );
}

#[test]
fn needs_root_tree_shows_in_overlay_what_the_step_saw() {
    need_root();
    let test = TestStore::new();
    let mut layers: Vec<Layer> = vec![test.layer(&[], base)];
    layers.push(test.step(&layers, |root| {
        fs::remove_dir_all(root.join("home")).unwrap();
        fs::create_dir(root.join("home")).unwrap();
        fs::write(root.join("home/new"), b"1").unwrap();
        fs::remove_file(root.join("etc/hostname")).unwrap();
    }));
    layers.push(test.step(&layers, |root| {
        assert!(!root.join("home/app").exists());
        assert!(!root.join("etc/hostname").exists());
        fs::create_dir(root.join("home/app")).unwrap();
    }));
    let mounted = Overlay::mount(&layers, None);
    let mut names: Vec<_> = fs::read_dir(mounted.path().join("home"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["app", "new"]);
}

/// Small files are read ahead, a few names at a time: the tar is the same as that of one reader.
#[test]
fn files_of_all_sizes_between_directories_are_in_the_tar() {
    let test = TestStore::new();
    let sizes = [0, 1, 511, 512, 16_383, 16_384, 16_385, 300_000];
    let layer = test.layer(&[], |upper| {
        for number in 0..400_usize {
            // Between the files there are directories with more than is read ahead at once.
            let name = format!("n{number:03}");
            if number % 50 == 7 {
                fs::create_dir(upper.join(&name)).unwrap();
                for below in 0..100 {
                    fs::write(
                        upper.join(&name).join(format!("f{below:03}")),
                        name.repeat(below),
                    )
                    .unwrap();
                }
            } else {
                let content = vec![number as u8; sizes[number % sizes.len()]];
                fs::write(upper.join(&name), content).unwrap();
            }
        }
        fs::hard_link(upper.join("n001"), upper.join("n399x")).unwrap();
    });
    let tar = test.tar(&layer);
    let list = pipe(Command::new("tar").args(["-t"]), &tar);
    let list = String::from_utf8(list).unwrap();
    let names: Vec<&str> = list.lines().collect();
    assert_eq!(names.len(), 400 + 8 * 100 + 1);
    assert!(names.is_sorted());
    for number in [0, 1, 3, 5, 6, 8, 398] {
        let name = format!("n{number:03}");
        let content = pipe(Command::new("tar").args(["-xO", &name]), &tar);
        assert_eq!(
            content,
            vec![number as u8; sizes[number % sizes.len()]],
            "{name}"
        );
    }
    let content = pipe(Command::new("tar").args(["-xO", "n357/f099"]), &tar);
    assert_eq!(content, b"n357".repeat(99));
}
