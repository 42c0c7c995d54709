//! The merged tree in user space is the one that the kernel shows.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rbuild_cache::{
    Compression, CompressionKind, Digest, FileKind, Follow, Layer, RootView, ViewError, WalkAction,
};

use crate::support::{Overlay, TestStore, make_node, need_root, open};

/// What somebody does to a file tree.
#[derive(Debug, Clone)]
enum Act {
    File(usize, usize, u8),
    Directory(usize, usize),
    Symlink(usize, usize, usize),
    HardLink(usize, usize),
    Fifo(usize),
    Remove(usize),
    Chmod(usize, u32),
    Chown(usize, u32),
    Append(usize),
    Rename(usize, usize),
    Touch(usize, i64),
}

/// A small set of paths, so that acts meet each other.
fn path(number: usize) -> PathBuf {
    let names = ["a", "b", "c", "a-b"];
    let mut path = PathBuf::new();
    let mut rest = number % 84;
    loop {
        path.push(names[rest % 4]);
        rest /= 4;
        if rest == 0 {
            return path;
        }
        rest -= 1;
    }
}

fn act() -> impl Strategy<Value = Act> {
    let place = 0..84_usize;
    prop_oneof![
        4 => (place.clone(), 0..2000_usize, any::<u8>()).prop_map(|(p, n, b)| Act::File(p, n, b)),
        4 => (place.clone(), 0..3_usize).prop_map(|(p, m)| Act::Directory(p, m)),
        1 => (place.clone(), place.clone(), 0..3_usize).prop_map(|(p, t, k)| Act::Symlink(p, t, k)),
        1 => (place.clone(), place.clone()).prop_map(|(p, t)| Act::HardLink(p, t)),
        1 => place.clone().prop_map(Act::Fifo),
        3 => place.clone().prop_map(Act::Remove),
        1 => (place.clone(), 0..0o7777_u32).prop_map(|(p, m)| Act::Chmod(p, m)),
        1 => (place.clone(), 0..3_u32).prop_map(|(p, u)| Act::Chown(p, u)),
        1 => place.clone().prop_map(Act::Append),
        1 => (place.clone(), place.clone()).prop_map(|(p, t)| Act::Rename(p, t)),
        1 => (place, 0..2_000_000_000_i64).prop_map(|(p, t)| Act::Touch(p, t)),
    ]
}

/// Does it if it can be done; whether it can is not the question here.
fn perform(root: &Path, act: &Act) {
    // A path through a symlink could leave the tree.
    let at = |number: usize| -> Option<PathBuf> {
        let path = path(number);
        let mut here = root.to_path_buf();
        for part in path.parent().into_iter().flat_map(Path::iter) {
            here.push(part);
            if here.is_symlink() {
                return None;
            }
        }
        Some(root.join(path))
    };
    let real = |number: usize| at(number).filter(|path| !path.is_symlink());
    match act {
        Act::File(place, size, byte) => {
            if let Some(path) = real(*place).filter(|path| !is_fifo(path)) {
                let _ = fs::write(path, vec![*byte; *size]);
            }
        }
        Act::Directory(place, mode) => {
            if let Some(path) = real(*place)
                && fs::create_dir_all(&path).is_ok()
            {
                let mode = [0o755, 0o700, 0o1777][*mode];
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        Act::Symlink(place, target, kind) => {
            if let Some(link) = at(*place) {
                let target = match kind {
                    0 => path(*target),
                    1 => Path::new("/").join(path(*target)),
                    _ => Path::new("../..").join(path(*target)),
                };
                let _ = symlink(target, link);
            }
        }
        Act::HardLink(place, target) => {
            if let (Some(link), Some(target)) = (at(*place), real(*target)) {
                let _ = fs::hard_link(target, link);
            }
        }
        Act::Fifo(place) => {
            if let Some(path) = at(*place)
                && path.symlink_metadata().is_err()
                && path.parent().is_some_and(Path::is_dir)
            {
                make_node(&path, rustix::fs::FileType::Fifo, 0o640, (0, 0));
            }
        }
        Act::Remove(place) => {
            if let Some(path) = at(*place) {
                match path.symlink_metadata() {
                    Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
                    Ok(_) => fs::remove_file(path).unwrap(),
                    Err(_) => {}
                }
            }
        }
        Act::Chmod(place, mode) => {
            if let Some(path) = real(*place) {
                let _ = fs::set_permissions(path, fs::Permissions::from_mode(*mode));
            }
        }
        Act::Chown(place, uid) => {
            if let Some(path) = at(*place) {
                let _ = std::os::unix::fs::lchown(path, Some(*uid), None);
            }
        }
        Act::Append(place) => {
            if let Some(path) = real(*place).filter(|path| path.is_file()) {
                let mut content = fs::read(&path).unwrap();
                content.push(b'+');
                fs::write(path, content).unwrap();
            }
        }
        Act::Rename(from, to) => {
            if let (Some(from), Some(to)) = (at(*from), at(*to)) {
                // Directories of lower layers answer EXDEV.
                let _ = fs::rename(from, to);
            }
        }
        Act::Touch(place, time) => {
            if let Some(path) = at(*place).filter(|path| path.symlink_metadata().is_ok()) {
                crate::support::set_mtime(&path, *time, 0);
            }
        }
    }
}

fn is_fifo(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.symlink_metadata()
        .is_ok_and(|found| found.file_type().is_fifo())
}

/// Path to what counts about the file.
type Tree = BTreeMap<PathBuf, String>;

/// What the kernel shows.
fn seen_by_kernel(root: &Path, directory_times: bool) -> Tree {
    let mut tree = Tree::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = entry.unwrap();
        let found = entry.path().symlink_metadata().unwrap();
        let detail = if found.is_symlink() {
            format!("{:?}", fs::read_link(entry.path()).unwrap())
        } else if found.is_file() {
            format!("{:?}", Digest::of(&fs::read(entry.path()).unwrap()))
        } else {
            String::new()
        };
        let time = if found.is_dir() && !directory_times {
            0
        } else {
            found.mtime()
        };
        let line = format!(
            "{:o} {}:{} {time} {detail}",
            found.mode(),
            found.uid(),
            found.gid()
        );
        tree.insert(entry.path().strip_prefix(root).unwrap().to_path_buf(), line);
    }
    tree
}

/// What the view shows.
fn seen_by_view(view: &RootView, directory_times: bool) -> Tree {
    let mut tree = Tree::new();
    let mut order = Vec::new();
    view.walk::<ViewError>(Path::new("/"), &mut |path, entry| {
        order.push(path.to_path_buf());
        if path.as_os_str().is_empty() {
            return Ok(WalkAction::Continue);
        }
        assert_eq!(entry.path, Path::new("/").join(path));
        let found = &entry.metadata;
        let kind = match found.kind {
            FileKind::File => 0o100_000,
            FileKind::Directory => 0o40_000,
            FileKind::Symlink => 0o120_000,
            FileKind::CharDevice => 0o20_000,
            FileKind::BlockDevice => 0o60_000,
            FileKind::Fifo => 0o10_000,
            FileKind::Socket => 0o140_000,
        };
        let detail = match found.kind {
            FileKind::Symlink => format!("{:?}", entry.link_target.as_ref().unwrap()),
            FileKind::File => {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut view.open(entry).unwrap(), &mut content).unwrap();
                format!("{:?}", Digest::of(&content))
            }
            _ => String::new(),
        };
        let time = match found.kind {
            FileKind::Directory if !directory_times => 0,
            _ => found.mtime.seconds,
        };
        let line = format!(
            "{:o} {}:{} {time} {detail}",
            kind | found.mode,
            found.uid,
            found.gid
        );
        tree.insert(path.to_path_buf(), line);
        Ok(WalkAction::Continue)
    })
    .unwrap();
    let mut sorted = order.clone();
    sorted.sort_by(|a, b| {
        let names = |path: &Path| -> Vec<Vec<u8>> {
            path.iter().map(|name| name.as_bytes().to_vec()).collect()
        };
        names(a).cmp(&names(b))
    });
    assert_eq!(order, sorted, "the walk is in the order of the names");
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn needs_root_view_diff_and_unpack_agree_with_overlay(
        steps in prop::collection::vec(prop::collection::vec(act(), 1..25), 1..6)
    ) {
        need_root();
        let test = TestStore::new();
        let mut layers: Vec<Layer> = Vec::new();
        let mut expected = Tree::new();
        for acts in &steps {
            // The step sees one mount; the next one sees its layer. Nothing may differ.
            layers.push(test.step(&layers, |root| {
                let before = seen_by_kernel(root, false);
                assert_eq!(before, expected, "the layers show what the last step left");
                for act in acts {
                    perform(root, act);
                }
                expected = seen_by_kernel(root, false);
            }));
        }
        let mounted = Overlay::mount(&layers, None);
        prop_assert_eq!(&seen_by_kernel(mounted.path(), false), &expected);
        let view = RootView::new(&layers);
        prop_assert_eq!(&seen_by_view(&view, true), &seen_by_kernel(mounted.path(), true));

        // The same image somewhere else, from its blobs.
        let other = open(&test.directory.path().join("other"));
        let mut copies = Vec::new();
        for layer in &layers {
            let compression =
                Compression { kind: CompressionKind::Zstd, level: Some(1), force: true };
            let blob = test.store.layer_blob(layer.diff_id(), &compression).unwrap().blob;
            let bytes = test.store.read_blob(&blob.digest, 1 << 30).unwrap();
            other.put_blob(&bytes).unwrap();
            copies.push(other.unpack(&blob.digest, layer.diff_id()).unwrap());
        }
        prop_assert_eq!(&seen_by_view(&RootView::new(&copies), true), &seen_by_view(&view, true));
        let mounted = Overlay::mount(&copies, None);
        prop_assert_eq!(&seen_by_kernel(mounted.path(), false), &expected);
    }
}

/// A root with symlinks in every direction.
fn linked(test: &TestStore) -> RootView {
    let base = test.layer(&[], |root| {
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::create_dir_all(root.join("run")).unwrap();
        fs::create_dir_all(root.join("var")).unwrap();
        fs::write(root.join("usr/bin/tool"), b"tool").unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink("../../../../usr", root.join("up")).unwrap();
        symlink("/var/run/deep/file", root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("tool", root.join("usr/bin/alias")).unwrap();
    });
    RootView::new(&[base])
}

#[test]
fn symlinks_are_resolved_inside_the_root() {
    let test = TestStore::new();
    let view = linked(&test);
    let found = |path: &str, follow| {
        view.lookup(path, follow)
            .unwrap()
            .map(|entry| entry.path.display().to_string())
    };
    let last = |path: &str| found(path, Follow::Last);
    assert_eq!(last("/bin/tool").as_deref(), Some("/usr/bin/tool"));
    assert_eq!(last("bin/alias").as_deref(), Some("/usr/bin/tool"));
    assert_eq!(
        found("bin/alias", Follow::None).as_deref(),
        Some("/usr/bin/alias")
    );
    assert_eq!(found("/bin", Follow::None).as_deref(), Some("/bin"));
    assert_eq!(found("/bin/", Follow::None).as_deref(), Some("/usr/bin"));
    assert_eq!(last("/up/bin/tool").as_deref(), Some("/usr/bin/tool"));
    assert_eq!(last("/../../usr/../usr/bin").as_deref(), Some("/usr/bin"));
    assert_eq!(
        last("/bin/..").as_deref(),
        Some("/usr"),
        "`..` is that of the target"
    );
    assert_eq!(last("/").as_deref(), Some("/"));
    assert_eq!(last("/var/run/..").as_deref(), Some("/"));
    assert_eq!(last("/dangling"), None);
    assert_eq!(last("/usr/bin/tool/x"), None);
    assert!(matches!(
        view.lookup("/loop", Follow::Last),
        Err(ViewError::TooManyLinks { .. })
    ));
    assert!(matches!(
        view.lookup("/loop/x", Follow::None),
        Err(ViewError::TooManyLinks { .. })
    ));
    assert!(view.lookup("/loop", Follow::None).unwrap().is_some());
}

#[test]
fn resolving_tells_what_is_missing() {
    let test = TestStore::new();
    let view = linked(&test);
    let resolved = |path: &str| {
        let found = view.resolve(path).unwrap();
        let missing: Vec<_> = found
            .missing
            .iter()
            .map(|name| name.to_str().unwrap().to_owned())
            .collect();
        (
            found.path.display().to_string(),
            missing.join("/"),
            found.entry.is_some(),
        )
    };
    assert_eq!(
        resolved("/bin/new/dir"),
        ("/usr/bin".into(), "new/dir".into(), false)
    );
    assert_eq!(
        resolved("/dangling"),
        ("/run".into(), "deep/file".into(), false)
    );
    assert_eq!(
        resolved("/new/../other"),
        ("/".into(), "other".into(), false)
    );
    assert_eq!(
        resolved("/bin/tool"),
        ("/usr/bin/tool".into(), String::new(), true)
    );
    assert!(matches!(
        view.resolve("/bin/tool/x"),
        Err(ViewError::NotADirectory { path }) if path == Path::new("/usr/bin/tool")
    ));
}

type Make = Box<dyn Fn(&Path)>;

#[test]
fn needs_root_password_files_of_any_kind_are_harmless() {
    need_root();
    let test = TestStore::new();
    let outside = test.directory.path().join("secret");
    fs::write(&outside, b"secret").unwrap();
    let cases: Vec<(&str, Make)> = vec![
        (
            "link out",
            Box::new(move |at| symlink(&outside, at).unwrap()),
        ),
        (
            "link to a device",
            Box::new(|at| symlink("/dev/zero", at).unwrap()),
        ),
        (
            "device",
            Box::new(|at| {
                make_node(at, rustix::fs::FileType::CharacterDevice, 0o666, (1, 5));
            }),
        ),
        (
            "fifo",
            Box::new(|at| make_node(at, rustix::fs::FileType::Fifo, 0o666, (0, 0))),
        ),
        ("directory", Box::new(|at| fs::create_dir(at).unwrap())),
        (
            "sparse gigabyte",
            Box::new(|at| {
                fs::File::create(at).unwrap().set_len(1 << 30).unwrap();
            }),
        ),
    ];
    for (case, make) in cases {
        let layer = test.layer(&[], |root| {
            fs::create_dir(root.join("etc")).unwrap();
            make(&root.join("etc/passwd"));
        });
        let read = RootView::new(&[layer]).read_small("/etc/passwd", 10 << 20);
        assert!(!matches!(read, Ok(Some(_))), "{case} was read");
    }
}

#[test]
fn plain_directory_is_looked_at_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("d")).unwrap();
    fs::write(directory.path().join("d/f"), b"f").unwrap();
    symlink("/etc/passwd", directory.path().join("d/out")).unwrap();
    let view = RootView::of_directory(directory.path());
    assert_eq!(view.read_small("d/f", 9).unwrap().unwrap(), b"f");
    assert_eq!(view.read_small("d/out", 9).unwrap(), None);
    let names: Vec<_> = view
        .read_dir("/d")
        .unwrap()
        .into_iter()
        .map(|e| e.path)
        .collect();
    assert_eq!(names, [Path::new("/d/f"), Path::new("/d/out")]);
}

#[test]
fn directory_swapped_for_a_link_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("f"), b"outside").unwrap();
    fs::create_dir(directory.path().join("d")).unwrap();
    fs::write(directory.path().join("d/f"), b"inside").unwrap();
    let view = RootView::of_directory(directory.path());
    let entry = view.lookup("d/f", Follow::None).unwrap().unwrap();
    fs::remove_dir_all(directory.path().join("d")).unwrap();
    symlink(outside.path(), directory.path().join("d")).unwrap();
    assert!(view.open(&entry).is_err());
    assert!(view.lookup("d/f", Follow::None).unwrap().is_none());
}
