//! Power cuts: a command that has ended has left its image on the disk, whatever else waits to be written.

use std::fs;

use crate::args;
use crate::support::disk::{Disk, Kind};
use crate::support::{TestEnv, base, needs};

/// A store on a disk of its own, with busybox.
fn world() -> (TestEnv, Disk) {
    let env = TestEnv::new();
    let disk = Disk::new(&env, Kind::Ext4, 96 << 20);
    let rootfs = base::busybox_rootfs();
    disk.rbuild(&env, args!["import", rootfs, "busybox"])
        .run()
        .ok();
    (env, disk)
}

/// Builds, cuts the power, boots, and looks whether everything is there.
fn survives(text: &str, files: usize) {
    // The disk goes first: the environment looks for what is left.
    let (env, disk) = world();
    let context = env.dockerfile("c", text);
    fs::create_dir(context.join("files")).unwrap();
    for number in 0..files {
        fs::write(context.join(format!("files/{number}")), [b'x'; 3000]).unwrap();
    }
    // Somebody else's, which is not to be waited for, and that nobody misses.
    fs::write(disk.seen("foreign"), vec![7; 16 << 20]).unwrap();
    let built = disk.rbuild(&env, args!["build", "-t", "built", context]);
    built.run().ok();
    let after = disk.after_power_cut(&env);
    fs::write(after.seen("store/boot"), "another").unwrap();
    let checked = after.rbuild(&env, ["fsck"]).run();
    assert_eq!(checked.code(), 0, "{}", checked.text());
    let saved = after.rbuild(&env, ["save", "-o", "/dev/null", "built"]);
    saved.run().ok();
    let command = [
        "run",
        "--rm",
        "--network",
        "none",
        "built",
        "cat",
        "/result",
    ];
    let ran = after.rbuild(&env, command).run();
    assert_eq!(ran.ok().stdout, b"made here\n");
    let again = after.rbuild(&env, args!["build", "-t", "again", context]);
    let again = again.run().ok().stderr;
    assert!(!again.contains("DONE"), "a layer was lost: {again}");
    drop(after);
}

#[test]
fn an_image_of_few_files_survives() {
    survives(
        "FROM busybox\nRUN mkdir -p /a/b && echo made here >/a/b/file && ln -s a/b/file /result\nRUN true\n",
        0,
    );
}

#[test]
fn an_image_of_many_files_survives() {
    survives(
        "FROM busybox\nCOPY files /files\nRUN echo made here >/result\n",
        300,
    );
}

#[test]
fn a_small_build_does_not_wait_for_what_others_have_written() {
    let (env, disk) = world();
    let context = env.dockerfile("c", "FROM busybox\nRUN echo 1 >/result\n");
    let log = env.join("strace.log");
    let traced = disk
        .run(
            &env,
            &[needs::program("strace", "strace").to_str().unwrap()],
        )
        .args(["-f", "-qq", "-e", "trace=syncfs,fsync,fdatasync", "-o"])
        .arg(&log)
        .arg(env!("CARGO_BIN_EXE_rbuild"))
        .args(args!["build", "-t", "built", context]);
    traced.run().ok();
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("fsync("), "nothing is flushed: {log}");
    assert!(!log.contains("syncfs("), "everything is flushed: {log}");
}

#[test]
fn what_cannot_be_flushed_gets_no_name() {
    let (env, disk) = world();
    let context = env.dockerfile("c", "FROM busybox\nRUN echo 1 >/result\n");
    let build = |inject: &str| {
        disk.run(
            &env,
            &[needs::program("strace", "strace").to_str().unwrap()],
        )
        .args(["-f", "-qq", "-e", "trace=sync_file_range,fsync", "-e"])
        .arg(format!("inject={inject}"))
        .arg("-o")
        .arg(env.join("strace.log"))
        .arg(env!("CARGO_BIN_EXE_rbuild"))
        .args(args!["build", "-t", "built", context])
        .run()
    };
    for call in ["sync_file_range", "fsync"] {
        let outcome = build(&format!("{call}:error=EIO"));
        let text = outcome.text().to_lowercase();
        assert_eq!(outcome.code(), 1, "{call}: {text}");
        assert!(text.contains("input/output error"), "{call}: {text}");
        let named = disk.rbuild(&env, ["images", "-q", "built"]).run().ok();
        assert_eq!(named.stdout, b"", "{call}");
    }
    // Where the call is not there the file system is flushed as a whole.
    build("sync_file_range:error=ENOSYS").ok();
    disk.rbuild(&env, ["fsck"]).run().ok();
}
