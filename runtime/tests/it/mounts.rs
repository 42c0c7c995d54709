//! The root overlay and the caller's mounts.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use rbuild_runtime::{ExitStatus, Mount, MountSource, TmpfsOptions, UpperDir};

use crate::support::Host;

fn bind(source: PathBuf, target: &str, readonly: bool) -> Mount {
    let source = MountSource::Bind {
        source,
        subpath: None,
    };
    Mount {
        target: target.into(),
        source,
        readonly,
    }
}

fn file(content: &str, target: &str) -> Mount {
    let content = content.as_bytes().to_vec();
    let source = MountSource::File {
        content,
        mode: 0o640,
        uid: 3,
        gid: 4,
    };
    Mount {
        target: target.into(),
        source,
        readonly: true,
    }
}

fn tmpfs(target: &str) -> Mount {
    let source = MountSource::Tmpfs {
        size: Some(1 << 20),
        mode: Some(0o750),
        options: TmpfsOptions::default(),
    };
    Mount {
        target: target.into(),
        source,
        readonly: false,
    }
}

#[test]
fn root_changes_land_in_the_upper_directory() {
    let host = Host::new();
    host.sh("echo new > /new; rm /file; mkdir /tmp/d; rm -r '/work dir'; mkdir '/work dir'");
    let upper = host.path("upper");
    assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "new\n");
    let whiteout = fs::symlink_metadata(upper.join("file")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert!(upper.join("tmp/d").is_dir());
    assert!(
        host.path("layer/file").exists(),
        "the layer stays as it was"
    );
    let names: Vec<_> = fs::read_dir(&upper)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 4, "nothing of the set-up shows: {names:?}");
}

#[test]
fn root_layers_lie_over_each_other_in_order() {
    let host = Host::new();
    let mut sandbox = host.shell("cat /file /only");
    for (name, content) in [("a", "top"), ("b", "middle")] {
        fs::create_dir(host.path(name)).unwrap();
        fs::write(host.path(name).join("file"), format!("{content}\n")).unwrap();
    }
    fs::write(host.path("b/only"), "b\n").unwrap();
    sandbox.root.lowers = vec![host.path("a"), host.path("b"), host.path("layer")];
    assert_eq!(host.run(&sandbox).text(), "top\nb");
}

#[test]
fn root_many_layers_with_long_names_work() {
    let host = Host::new();
    let long = "x".repeat(200);
    let mut sandbox = host.shell("cat /n0 /n127");
    sandbox.root.lowers.clear();
    for number in 0..128 {
        let layer = host.path(&long).join(number.to_string());
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join(format!("n{number}")), format!("{number}\n")).unwrap();
        sandbox.root.lowers.push(layer);
    }
    sandbox.root.lowers.push(host.path("layer"));
    assert_eq!(host.run(&sandbox).text(), "0\n127");
}

#[test]
fn root_a_root_without_upper_directory_is_read_only() {
    let host = Host::new();
    let mut sandbox = host.shell("touch /x");
    sandbox.root.upper = None;
    let single = host.run(&sandbox);
    fs::create_dir(host.path("second")).unwrap();
    sandbox.root.lowers.push(host.path("second"));
    for outcome in [single, host.run(&sandbox)] {
        assert!(outcome.stderr.contains("Read-only"), "{outcome:?}");
    }
    let mut sandbox = host.shell("touch /x");
    sandbox.root.readonly = true;
    assert!(host.run(&sandbox).stderr.contains("Read-only"));
}

#[test]
fn root_a_work_directory_can_be_used_again() {
    let host = Host::new();
    host.sh("echo 1 > /one");
    assert_eq!(host.sh("cat /one"), "1");
}

#[test]
fn root_binds_are_read_only_or_not_as_asked() {
    let host = Host::new();
    let shared = host.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("a"), "a\n").unwrap();
    let mut sandbox = host.shell("cat /mnt/a; touch /mnt/b");
    sandbox.mounts = vec![bind(shared.clone(), "/mnt", true)];
    let outcome = host.run(&sandbox);
    assert_eq!(outcome.stdout, "a\n");
    assert!(outcome.stderr.contains("Read-only"), "{outcome:?}");
    sandbox.mounts[0].readonly = false;
    host.run(&sandbox).text();
    assert!(shared.join("b").exists());
    sandbox = host.shell("mknod /mnt/null c 1 3; cat /mnt/null");
    sandbox.mounts = vec![bind(shared, "/mnt", false)];
    assert!(host.run(&sandbox).stderr.contains("Permission denied"));
}

#[test]
fn root_a_single_file_can_be_bound() {
    let host = Host::new();
    fs::write(host.path("f"), "content").unwrap();
    let mut sandbox = host.shell("cat /file");
    sandbox.mounts = vec![bind(host.path("f"), "/file", true)];
    assert_eq!(host.run(&sandbox).text(), "content");
    sandbox.mounts = vec![bind(host.path("f"), "/mnt", true)];
    assert!(host.refused(&sandbox).contains("/mnt"));
}

#[test]
fn root_a_subpath_does_not_leave_its_source() {
    let host = Host::new();
    fs::create_dir_all(host.path("stage/inner/etc")).unwrap();
    fs::write(host.path("stage/inner/etc/who"), "stage\n").unwrap();
    symlink("/", host.path("stage/rootdir")).unwrap();
    symlink("/inner", host.path("stage/link")).unwrap();
    let run = |subpath: &str, script: &str| {
        let mut sandbox = host.shell(script);
        let subpath = Some(PathBuf::from(subpath));
        let source = MountSource::Bind {
            source: host.path("stage"),
            subpath,
        };
        sandbox.mounts = vec![Mount {
            target: "/mnt".into(),
            source,
            readonly: false,
        }];
        host.run(&sandbox).text().to_owned()
    };
    // CVE-2024-1753: a link to `/` in the stage is the root of the stage.
    assert_eq!(run("rootdir", "ls /mnt"), "inner\nlink\nrootdir");
    assert_eq!(run("../../..", "ls /mnt"), "inner\nlink\nrootdir");
    assert_eq!(run("link/etc", "cat /mnt/who"), "stage");
}

#[test]
fn root_an_overlay_takes_writes_and_drops_them() {
    let host = Host::new();
    for name in ["context/sub", "u", "w"] {
        fs::create_dir_all(host.path(name)).unwrap();
    }
    fs::write(host.path("context/sub/a"), "a\n").unwrap();
    let upper = UpperDir {
        upper: host.path("u"),
        work: host.path("w"),
    };
    let run = |upper: Option<UpperDir>, subpath: Option<&str>, script: &str| {
        let source = MountSource::Overlay {
            lowers: vec![host.path("context")],
            upper,
            subpath: subpath.map(PathBuf::from),
        };
        let mut sandbox = host.shell(script);
        sandbox.mounts = vec![Mount {
            target: "/mnt".into(),
            source,
            readonly: false,
        }];
        host.run(&sandbox)
    };
    assert_eq!(
        run(Some(upper.clone()), None, "echo b > /mnt/b; ls /mnt").text(),
        "b\nsub"
    );
    assert!(!host.path("context/b").exists());
    assert!(host.path("u/b").exists());
    assert_eq!(
        run(Some(upper), Some("sub"), "rm /mnt/a; ls /mnt | wc -l").text(),
        "0"
    );
    assert!(host.path("context/sub/a").exists());
    assert!(
        run(None, Some("sub"), "touch /mnt/b")
            .stderr
            .contains("Read-only")
    );
}

#[test]
fn root_files_exist_in_memory_only_and_are_read_only() {
    let host = Host::new();
    let mut sandbox =
        host.shell("cat /etc/hosts; stat -c '%a %u %g' /etc/hosts; echo x > /etc/hosts");
    sandbox.mounts = vec![file("127.0.0.1 localhost\n", "/etc/hosts")];
    let outcome = host.run(&sandbox);
    assert_eq!(outcome.stdout, "127.0.0.1 localhost\n640 3 4\n");
    assert!(outcome.stderr.contains("Read-only"), "{outcome:?}");
    assert_eq!(fs::read_dir(host.path("upper")).unwrap().count(), 0);
}

#[test]
fn root_a_large_file_mount_arrives_whole() {
    let host = Host::new();
    let mut sandbox = host.shell("wc -c < /file");
    sandbox.mounts = vec![file(&"0123456789".repeat(100_000), "/file")];
    assert_eq!(host.run(&sandbox).text(), "1000000");
}

#[test]
fn root_targets_in_our_mounts_are_made_others_must_exist() {
    let host = Host::new();
    let mut sandbox = host.shell("cat /dev/secret /mnt/a/b/c; stat -c %a /mnt; ls -d /mnt/x/y");
    sandbox.mounts = vec![
        file("s\n", "/dev/secret"),
        tmpfs("/mnt"),
        file("c\n", "/mnt/a/b/c"),
        tmpfs("/mnt/x/y"),
    ];
    assert_eq!(host.run(&sandbox).text(), "s\nc\n750\n/mnt/x/y");
    sandbox.mounts = vec![file("s", "/etc/none/secret")];
    let error = host.refused(&sandbox);
    assert!(
        error.contains("does not exist in the root file system"),
        "{error}"
    );
    assert!(error.contains("/etc/none/secret"), "{error}");
    assert!(!host.path("upper/etc").exists());
}

#[test]
fn root_the_last_of_two_mounts_on_one_target_wins() {
    let host = Host::new();
    let mut sandbox = host.shell("cat /file");
    sandbox.mounts = vec![file("first", "/file"), file("second", "/file")];
    assert_eq!(host.run(&sandbox).text(), "second");
}

#[test]
fn root_mounts_on_proc_and_on_the_root_are_refused() {
    let host = Host::new();
    symlink("/proc/sys", host.path("layer/to-proc")).unwrap();
    for target in [
        "/proc",
        "/proc/self",
        "/proc/sys/new",
        "/to-proc",
        "/mnt/../proc",
        "/",
        "/..",
    ] {
        let mut sandbox = host.shell("true");
        sandbox.mounts = vec![tmpfs(target)];
        let error = host.refused(&sandbox);
        assert!(error.contains("not allowed"), "{target}: {error}");
    }
    let mut sandbox = host.shell("true");
    sandbox.mounts = vec![tmpfs("relative")];
    assert!(host.refused(&sandbox).contains("absolute"));
}

#[test]
fn root_targets_are_resolved_inside_the_root() {
    let host = Host::new();
    fs::create_dir(host.path("outside")).unwrap();
    symlink(host.path("outside"), host.path("layer/out")).unwrap();
    symlink("../../../../mnt", host.path("layer/in")).unwrap();
    let mut sandbox = host.shell("touch /mnt/here");
    sandbox.mounts = vec![tmpfs("/in")];
    host.run(&sandbox).text();
    assert!(!host.path("upper/mnt/here").exists());
    sandbox.mounts = vec![tmpfs("/out")];
    host.refused(&sandbox);
    assert_eq!(fs::read_dir(host.path("outside")).unwrap().count(), 0);
}

#[test]
fn root_no_mount_of_the_host_is_visible_and_none_is_left() {
    let host = Host::new();
    let mut sandbox = host.shell("cat /proc/mounts");
    sandbox.mounts = vec![file("x", "/file"), tmpfs("/mnt")];
    let inside = host.run(&sandbox);
    for line in inside.text().lines() {
        let place = line.split(' ').nth(1).unwrap();
        let known = ["/", "/file", "/mnt"].contains(&place)
            || ["/proc", "/dev", "/sys"]
                .iter()
                .any(|top| Path::new(place).starts_with(top));
        assert!(known, "{line}");
    }
    // Others mount on this machine, too: only what mentions our directory is ours.
    let left = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !left.contains(host.directory.path().to_str().unwrap()),
        "{left}"
    );
}

#[test]
fn root_a_missing_layer_is_named() {
    let host = Host::new();
    let mut sandbox = host.shell("true");
    sandbox.root.lowers.push(host.path("nowhere"));
    let error = host.refused(&sandbox);
    assert!(
        error.contains("nowhere") && error.contains("layer"),
        "{error}"
    );
    sandbox.root.lowers.clear();
    sandbox.root.upper = None;
    assert!(host.refused(&sandbox).contains("without any layer"));
}

#[test]
fn root_a_root_of_an_upper_directory_alone_is_writable() {
    let host = Host::new();
    crate::support::make_root(&host.path("upper"));
    let mut sandbox = host.shell("echo x > /x; cat /x");
    sandbox.root.lowers.clear();
    let outcome = host.run(&sandbox);
    assert_eq!((outcome.text(), outcome.status), ("x", ExitStatus::Code(0)));
    assert!(host.path("upper/x").exists());
}

#[test]
fn root_a_directory_that_turns_into_a_link_leads_nowhere() {
    // CVE-2021-30465, CVE-2024-23651: another step swaps a checked path for a link to the host.
    let host = Host::new();
    let (shared, outside) = (host.path("shared"), host.path("outside"));
    fs::create_dir_all(shared.join("sub")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("canary"), "canary").unwrap();
    symlink(&outside, shared.join("link")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            let directory = fs::File::open(&shared).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                rustix::fs::renameat_with(&directory, "sub", &directory, "link", flags).unwrap();
            }
        });
        let mut ran = 0;
        for _ in 0..60 {
            let mut sandbox = host.shell("ls /mnt/sub/ /tmp; touch /mnt/sub/a; true");
            let subpath = Some(PathBuf::from("sub"));
            let narrowed = MountSource::Bind {
                source: shared.clone(),
                subpath,
            };
            sandbox.mounts = vec![
                bind(shared.clone(), "/mnt", false),
                file("x", "/mnt/sub/new"),
                Mount {
                    target: "/tmp".into(),
                    source: narrowed,
                    readonly: false,
                },
            ];
            // Refusing is right whenever the link is found; leaving the shared directory never is.
            if let Ok(outcome) = host.try_run(&sandbox) {
                assert!(!outcome.stdout.contains("canary"), "{outcome:?}");
                ran += 1;
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(ran > 0, "the directory was never found as a directory");
    });
    let left: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["canary"]);
}
