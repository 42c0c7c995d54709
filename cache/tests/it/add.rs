//! Archives of `ADD`, and mount targets: what is written into the directory on top.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rbuild_cache::{
    CommitOptions, ExtractOptions, Follow, Layer, Limits, RootView, ScaffoldTarget, StoreError,
    TargetKind, ViewError, extract, looks_like_tar, scaffold,
};

use crate::archive::{Archive, Entry, directory, file, hard_link, symlink as link};
use crate::support::{Overlay, TestStore, listing, need_root, set_mtime, tree_of};

/// The archive of the cases: a directory, a file in it of 7:8 and mode 0640, a file, a link.
fn observed() -> Vec<u8> {
    Archive::of([
        Entry {
            mtime: 1000,
            ..directory("p")
        },
        Entry {
            uid: 7,
            gid: 8,
            mode: 0o640,
            mtime: 1000,
            ..file("p/f", "PF")
        },
        Entry {
            mtime: 1000,
            ..file("top", "T")
        },
        Entry {
            mtime: 1000,
            ..link("ln", "top")
        },
    ])
}

/// Adds an archive on top of layers; the layer that comes out.
fn add(
    test: &TestStore,
    parents: &[Layer],
    tar: &[u8],
    into: &str,
    chown: Option<(u32, u32)>,
) -> Result<Layer, StoreError> {
    let view = RootView::new(parents);
    let draft = test.store.draft_on(parents)?;
    let options = ExtractOptions {
        view: Some(&view),
        upper: draft.upper(),
        into: Path::new(into),
        chown,
        limits: Limits::default(),
    };
    extract(&mut &*tar, &options)?;
    draft.commit(parents, &CommitOptions::default())
}

#[test]
fn needs_root_archive_is_unpacked_with_its_owners_modes_and_times() {
    need_root();
    let test = TestStore::new();
    let layer = add(&test, &[], &observed(), "/x/", None).unwrap();
    assert_eq!(
        listing(&test.tar(&layer)),
        [
            "d0755 0:0 x/",
            "l0777 0:0 x/ln -> top",
            "d0755 0:0 x/p/",
            "-0640 7:8 x/p/f =2",
            "-0644 0:0 x/top =1",
        ]
    );
    let view = RootView::new(&[layer]);
    for path in ["/x/ln", "/x/p", "/x/p/f", "/x/top"] {
        let found = view.lookup(path, Follow::None).unwrap().unwrap();
        assert_eq!(found.metadata.mtime.seconds, 1000, "{path}");
    }
}

#[test]
fn needs_root_chown_covers_all_entries_and_the_new_destination() {
    need_root();
    let test = TestStore::new();
    let layer = add(&test, &[], &observed(), "/x/y", Some((5, 6))).unwrap();
    let lines = listing(&test.tar(&layer));
    assert_eq!(lines.len(), 6);
    assert!(lines.iter().all(|line| line.contains(" 5:6 ")), "{lines:?}");
}

#[test]
fn needs_root_archive_is_merged_into_what_is_there() {
    need_root();
    let test = TestStore::new();
    let base = test.layer(&[], |root| {
        fs::create_dir_all(root.join("x/p")).unwrap();
        fs::set_permissions(root.join("x"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(root.join("x/top"), b"old").unwrap();
        fs::write(root.join("x/p/keep"), b"k").unwrap();
    });
    let before = tree_of(base.path());
    let layers = [
        base.clone(),
        add(&test, &[base], &observed(), "/x/", None).unwrap(),
    ];
    let view = RootView::new(&layers);
    assert_eq!(view.read_small("/x/top", 9).unwrap().unwrap(), b"T");
    assert_eq!(view.read_small("/x/p/keep", 9).unwrap().unwrap(), b"k");
    assert_eq!(
        view.lookup("/x", Follow::None)
            .unwrap()
            .unwrap()
            .metadata
            .mode,
        0o700
    );
    assert_eq!(
        tree_of(layers[0].path()),
        before,
        "the lower layer is untouched"
    );
    assert_eq!(
        listing(&test.tar(&layers[1])),
        [
            "d0700 0:0 x/",
            "l0777 0:0 x/ln -> top",
            "d0755 0:0 x/p/",
            "-0640 7:8 x/p/f =2",
            "-0644 0:0 x/top =1",
        ]
    );
}

#[test]
fn needs_root_links_of_the_image_are_followed_inside_the_root() {
    need_root();
    let test = TestStore::new();
    let base = test.layer(&[], |root| {
        fs::create_dir(root.join("run")).unwrap();
        fs::create_dir(root.join("var")).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink("../../../run", root.join("here")).unwrap();
        fs::write(root.join("run/lower"), b"lower").unwrap();
        set_mtime(&root.join("run/lower"), 77, 0);
    });
    let tar = Archive::of([
        file("var/run/a", "a"),
        file("here/b", "b"),
        hard_link("c", "var/run/lower"),
    ]);
    let layers = [base.clone(), add(&test, &[base], &tar, "/", None).unwrap()];
    assert_eq!(
        listing(&test.tar(&layers[1])),
        [
            "-0644 0:0 c =5",
            "d0755 0:0 run/",
            "-0644 0:0 run/a =1",
            "-0644 0:0 run/b =1",
            "h0644 0:0 run/lower -> c"
        ]
    );
    let view = RootView::new(&layers);
    assert!(
        view.lookup("/var/run", Follow::None)
            .unwrap()
            .unwrap()
            .link_target
            .is_some()
    );
    assert_eq!(
        view.lookup("/c", Follow::None)
            .unwrap()
            .unwrap()
            .metadata
            .mtime
            .seconds,
        77
    );
}

#[test]
fn needs_root_directory_and_file_take_each_others_place() {
    need_root();
    let test = TestStore::new();
    let base = test.layer(&[], |root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/inner"), b"i").unwrap();
        fs::write(root.join("f"), b"f").unwrap();
        fs::create_dir(root.join("again")).unwrap();
        fs::write(root.join("again/lost"), b"l").unwrap();
    });
    let tar = Archive::of([
        file("d", "now a file"),
        directory("f/"),
        file("f/inner", "i"),
        file("again", "first a file"),
        directory("again/"),
        file("again/new", "n"),
    ]);
    let layers = [base.clone(), add(&test, &[base], &tar, "/", None).unwrap()];
    let view = RootView::new(&layers);
    let mounted = Overlay::mount(&layers, None);
    assert_eq!(view.read_small("/d", 99).unwrap().unwrap(), b"now a file");
    assert_eq!(view.read_small("/f/inner", 99).unwrap().unwrap(), b"i");
    assert!(view.lookup("/again/lost", Follow::None).unwrap().is_none());
    assert!(!mounted.path().join("again/lost").exists());
    assert!(mounted.path().join("again/new").exists());
}

#[test]
fn needs_root_destination_that_is_a_file_is_an_error() {
    need_root();
    let test = TestStore::new();
    let base = test.layer(&[], |root| fs::write(root.join("f"), b"f").unwrap());
    let error = add(&test, &[base], &observed(), "/f", None).unwrap_err();
    assert!(
        matches!(error, StoreError::View(ViewError::NotADirectory { .. })),
        "{error}"
    );
}

#[test]
fn needs_root_plain_directory_can_be_the_destination() {
    need_root();
    let target = tempfile::tempdir().unwrap();
    let options = ExtractOptions {
        view: None,
        upper: target.path(),
        into: Path::new("/"),
        chown: None,
        limits: Limits::default(),
    };
    let tar = Archive::of([file("x", "x"), directory("x/"), file("../y", "y")]);
    let done = extract(&mut tar.as_slice(), &options).unwrap();
    assert_eq!((done.entries, done.bytes), (3, 2));
    assert!(target.path().join("x").is_dir());
    assert_eq!(fs::read(target.path().join("y")).unwrap(), b"y");
    let names = rustix::fs::listxattr(target.path().join("x"), &mut [0_u8; 256]).unwrap();
    assert_eq!(names, 0, "no overlay mark in a plain directory");
}

#[test]
fn first_block_tells_whether_it_is_a_tar() {
    assert!(looks_like_tar(&observed()));
    assert!(!looks_like_tar(&[0; 1024]));
    assert!(!looks_like_tar(b"short"));
    assert!(!looks_like_tar(&[b'x'; 512]));
}

#[test]
fn needs_root_missing_mount_targets_are_made_beside_the_layers() {
    need_root();
    let test = TestStore::new();
    let base = test.layer(&[], |root| {
        for path in ["run", "etc", "var", "proc"] {
            fs::create_dir(root.join(path)).unwrap();
        }
        fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o2771)).unwrap();
        std::os::unix::fs::chown(root.join("run"), Some(3), Some(4)).unwrap();
        fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o2771)).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        fs::write(root.join("etc/hosts"), b"h").unwrap();
        for path in ["run", "etc", "var", "proc"] {
            set_mtime(&root.join(path), 1_000_000, 5);
        }
    });
    let target = |path: &str, kind| ScaffoldTarget {
        path: path.into(),
        kind,
    };
    let targets = [
        target("/proc", TargetKind::Directory),
        target("/var/run/secrets/one", TargetKind::File),
        target("/run/secrets/two", TargetKind::File),
        target("/etc/hosts", TargetKind::File),
        target("/etc/resolv.conf", TargetKind::File),
        target("/new/deep/dir", TargetKind::Directory),
    ];
    let layers = [base];
    let view = RootView::new(&layers);
    let scratch = test.store.scratch().unwrap();
    let resolved = scaffold(&view, &targets, scratch.path()).unwrap();
    let resolved: Vec<_> = resolved.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(
        resolved,
        [
            "/proc",
            "/run/secrets/one",
            "/run/secrets/two",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/new/deep/dir"
        ]
    );
    let made: Vec<_> = tree_of(scratch.path())
        .iter()
        .skip(1)
        .map(|path| {
            path.strip_prefix(scratch.path())
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    assert_eq!(
        made,
        [
            "etc",
            "etc/resolv.conf",
            "new",
            "new/deep",
            "new/deep/dir",
            "run",
            "run/secrets",
            "run/secrets/one",
            "run/secrets/two"
        ]
    );
    let run = scratch.path().join("run").metadata().unwrap();
    assert_eq!((run.mode() & 0o7777, run.uid(), run.gid()), (0o2771, 3, 4));
    assert_eq!((run.mtime(), run.mtime_nsec()), (1_000_000, 5));
    let etc = scratch.path().join("etc").metadata().unwrap();
    assert_eq!(etc.mtime(), 1_000_000);
    assert_eq!(
        scratch
            .path()
            .join("etc/resolv.conf")
            .metadata()
            .unwrap()
            .len(),
        0
    );
    let wrong = [target("/etc/hosts", TargetKind::Directory)];
    assert!(scaffold(&view, &wrong, scratch.path()).is_err());
}
