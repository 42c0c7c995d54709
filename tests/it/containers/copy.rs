//! `cp`, `export`, `diff CONTAINER`, `commit`: files of containers that run and that do not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use rustix::process::Signal;

use super::{told, with_busybox};
use crate::args;
use crate::rootless::User;
use crate::support::random::setting;
use crate::support::{Outcome, TestEnv};

/// Makes what the tests copy, and goes on running.
const SCRIPT: &str = "mkdir -p /d/sub /dst/d/sub && echo one >/d/file && echo two >/d/sub/two && \
                      chown 5:6 /d/file && chmod 4750 /d/file && ln -s file /d/link && \
                      ln -s /d /to-d && ln -s /etc/passwd /out && echo v >/vol/v && \
                      echo ready >&2 && exec sleep 1000";

fn started() -> TestEnv {
    let env = with_busybox();
    let run = [
        "run",
        "-d",
        "--name",
        "box",
        "-v",
        "store:/vol",
        "busybox",
        "sh",
        "-c",
        SCRIPT,
    ];
    env.rbuild(run).run().ok();
    let logs = env.rbuild(["logs", "-f", "box"]).spawn();
    logs.wait_for_line("ready");
    logs.signal(Signal::TERM);
    logs.wait();
    env
}

fn cp(env: &TestEnv, from: &str, to: &str) -> Outcome {
    env.rbuild(["cp", from, to]).current_dir(env.path()).run()
}

/// Paths below a directory of this machine, with the content of files.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = entry.unwrap();
        let path = entry
            .path()
            .strip_prefix(root)
            .unwrap()
            .display()
            .to_string();
        let text = match entry.file_type() {
            kind if kind.is_symlink() => {
                format!("-> {}", fs::read_link(entry.path()).unwrap().display())
            }
            kind if kind.is_dir() => "/".to_owned(),
            _ => fs::read_to_string(entry.path()).unwrap(),
        };
        found.insert(path, text);
    }
    found
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect()
}

#[test]
fn files_are_copied_out_by_docker_s_rules() {
    let env = started();
    for stopped in [false, true] {
        if stopped {
            told(&env, &["kill", "box"]);
        }
        let out = env.files("out", &[("there/file", "old\n")]);
        let whole = [
            ("d", "/"),
            ("d/file", "one\n"),
            ("d/link", "-> file"),
            ("d/sub", "/"),
            ("d/sub/two", "two\n"),
        ];
        let inside = [
            ("file", "one\n"),
            ("link", "-> file"),
            ("sub", "/"),
            ("sub/two", "two\n"),
        ];
        // A directory: into one that is there, or as one that is not; its content with `/.`.
        cp(&env, "box:/d", "out/there").ok();
        assert_eq!(tree(&out.join("there/d")), pairs(&inside));
        cp(&env, "box:/d/.", "out/there").ok();
        assert_eq!(fs::read_to_string(out.join("there/file")).unwrap(), "one\n");
        cp(&env, "box:d", "out/new").ok();
        assert_eq!(tree(&out.join("new")), pairs(&inside));
        // A file: under its name, under a new one, over another one.
        cp(&env, "box:/d/file", "out/").ok();
        cp(&env, "box:/d/file", "out/other").ok();
        let metadata = fs::metadata(out.join("other")).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o4750));
        cp(&env, "box:/d/sub/two", "out/other").ok();
        assert_eq!(fs::read_to_string(out.join("other")).unwrap(), "two\n");
        env.rbuild(args!["cp", "-a", "box:/d/file", out.join("kept")])
            .run()
            .ok();
        let kept = fs::metadata(out.join("kept")).unwrap();
        assert_eq!((kept.uid(), kept.gid()), (5, 6));
        // Links are copied, and followed where that is asked for; never out of the container.
        cp(&env, "box:/d/link", "out/link").ok();
        assert_eq!(fs::read_link(out.join("link")).unwrap(), Path::new("file"));
        cp(&env, "box:/to-d/", "out/followed").ok();
        assert_eq!(tree(&out.join("followed")), pairs(&inside));
        env.rbuild(args!["cp", "-L", "box:/out", out.join("passwd")])
            .run()
            .ok();
        let passwd = fs::read_to_string(out.join("passwd")).unwrap();
        assert!(passwd.starts_with("root") && passwd != fs::read_to_string("/etc/passwd").unwrap());
        // What is mounted is seen.
        cp(&env, "box:/vol/v", "out/v").ok();
        assert_eq!(fs::read_to_string(out.join("v")).unwrap(), "v\n");
        let tar = env.rbuild(["cp", "box:/d", "-"]).run().ok();
        fs::create_dir(out.join("tar")).unwrap();
        tar::Archive::new(&tar.stdout[..])
            .unpack(out.join("tar"))
            .unwrap();
        assert_eq!(tree(&out.join("tar")), pairs(&whole));
        for (from, to, want) in [
            (
                "box:/nope",
                "out",
                "Could not find the file /nope in container box",
            ),
            ("box:/d/file/.", "out", "not a directory"),
            ("box:/d", "out/other", "cannot copy directory"),
            ("box:/d/file", "out/no/x", "does not exist"),
            ("box:/d/file", "out/no/", "no such directory"),
            (
                "box:/d",
                "box:/e",
                "copying between containers is not supported",
            ),
            ("out", "there", "must specify at least one container source"),
            ("nobox:/d", "out", "No such container: nobox"),
        ] {
            cp(&env, from, to).fails_with(want);
        }
        fs::remove_dir_all(&out).unwrap();
    }
    told(&env, &["rm", "box"]);
}

#[test]
fn files_are_copied_in_by_docker_s_rules() {
    let env = started();
    let source = env.files(
        "src",
        &[("file", "in\n"), ("d/sub/deep", "deep\n"), ("d/x", "x\n")],
    );
    symlink("x", source.join("d/link")).unwrap();
    std::os::unix::fs::chown(source.join("file"), Some(7), Some(8)).unwrap();
    fs::set_permissions(source.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
    for stopped in [false, true] {
        if stopped {
            told(&env, &["kill", "box"]);
        }
        let read = |path: &str| -> String {
            env.rbuild(["cp", "-L", path, "-"]).run().ok();
            let copy = env.join("copy");
            env.rbuild(args!["cp", "-L", path, &copy]).run().ok();
            let text = fs::read_to_string(&copy).unwrap();
            fs::remove_file(copy).unwrap();
            text
        };
        cp(&env, "src/file", "box:/").ok();
        cp(&env, "src/file", "box:/dst/name").ok();
        assert_eq!(
            (read("box:/file"), read("box:/dst/name")),
            ("in\n".into(), "in\n".into())
        );
        let tar = env.rbuild(["cp", "box:/file", "-"]).run().ok();
        let mut archive = tar::Archive::new(&tar.stdout[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        let header = entry.header();
        assert_eq!(
            (
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.mode().unwrap()
            ),
            (7, 8, 0o640)
        );
        cp(&env, "src/d", "box:/dst").ok();
        assert_eq!(read("box:/dst/d/sub/deep"), "deep\n");
        cp(&env, "src/d/.", "box:/made").ok();
        assert_eq!(read("box:/made/link"), "x\n");
        cp(&env, "src/d/.", "box:/made/sub/").ok();
        assert_eq!(read("box:/made/sub/sub/deep"), "deep\n");
        // Through a link in the container, and into a volume.
        cp(&env, "src/file", "box:/to-d/in").ok();
        assert_eq!(read("box:/d/in"), "in\n");
        cp(&env, "src/file", "box:/vol").ok();
        let volume = told(
            &env,
            &["volume", "inspect", "-f", "{{.Mountpoint}}", "store"],
        );
        assert_eq!(
            fs::read_to_string(Path::new(&volume).join("file")).unwrap(),
            "in\n"
        );
        // A tar.
        let tar = env.rbuild(["cp", "box:/d", "-"]).run().ok().stdout;
        env.rbuild(["cp", "-", "box:/vol"])
            .stdin(tar.clone())
            .run()
            .ok();
        assert_eq!(read("box:/vol/d/sub/two"), "two\n");
        env.rbuild(["cp", "-", "box:/d/file"])
            .stdin(tar)
            .run()
            .fails_with("must be a directory");
        for (from, to, want) in [
            ("src/nope", "box:/", "no such file or directory"),
            (
                "src/file",
                "box:/no/file",
                "Could not find the file /no in container box",
            ),
            ("src/file", "box:/no/", "no such directory"),
            ("src/d", "box:/d/file", "cannot copy directory"),
        ] {
            cp(&env, from, to).fails_with(want);
        }
        // What is a directory stays one, deep inside as well.
        env.files("other", &[("d/sub", "no directory")]);
        cp(&env, "other/d", "box:/dst").fails_with("cannot overwrite directory");
        assert_eq!(read("box:/dst/d/sub/deep"), "deep\n");
    }
    told(&env, &["start", "box"]);
    // It may have ended by itself: its files are there already.
    told(&env, &["rm", "-f", "box"]);
    env.rbuild([
        "create",
        "--name",
        "fixed",
        "--read-only",
        "busybox",
        "true",
    ])
    .run()
    .ok();
    cp(&env, "src/file", "box:/").fails_with("No such container");
    cp(&env, "src/file", "fixed:/")
        .fails_with("could not create")
        .says("read-only file system");
    told(&env, &["rm", "fixed"]);
}

/// At most so many rounds of an ordinary test run.
const USUAL_ROUNDS: u64 = 60;

/// CVE-2018-15664 and its kin; `RBUILD_RACES=2000` races as long as the advisories did.
#[test]
fn a_container_that_swaps_links_never_leads_out() {
    let env = with_busybox();
    let outside = env.files("outside", &[("secret", "secret\n")]);
    // In the container the same path is nothing but a link's text.
    let target = outside.display();
    let script = format!(
        "mkdir -p /real/swap; echo inside >/real/swap/secret; cp -r /real/swap /swap; echo ready >&2; \
         while :; do mv /swap /away; ln -s {target} /swap; rm /swap; ln -s /proc/1/root{target} /swap; \
         rm /swap; mv /away /swap; done"
    );
    env.rbuild([
        "run", "-d", "--name", "evil", "busybox", "sh", "-c", &script,
    ])
    .run()
    .ok();
    let logs = env.rbuild(["logs", "-f", "evil"]).spawn();
    logs.wait_for_line("ready");
    logs.signal(Signal::TERM);
    logs.wait();
    let file = env.files("in", &[("new", "new\n")]).join("new");
    let mut worked = 0;
    let rounds = setting("RBUILD_RACES", USUAL_ROUNDS);
    for round in 0..rounds {
        let copy = env.join(&format!("copy-{round}"));
        let out = env.rbuild(args!["cp", "evil:/swap/secret", &copy]).run();
        if out.code() == 0 {
            worked += 1;
            // What was copied in may be there still: the copy back meets a link now and then.
            assert_ne!(fs::read_to_string(&copy).unwrap(), "secret\n");
        }
        let into = env.rbuild(args!["cp", &file, "evil:/swap/secret"]).run();
        worked += u32::from(into.code() == 0);
        let back = env.files("back", &[("secret", "inside\n")]);
        env.rbuild(args!["cp", back.join("secret"), "evil:/swap/secret"])
            .run();
        let directory = env.join(&format!("dir-{round}"));
        env.rbuild(args!["cp", "-L", "evil:/swap", &directory])
            .run();
        // A link that is copied as such leads nowhere that matters here.
        let copied = if directory.is_dir() {
            tree(&directory)
        } else {
            BTreeMap::new()
        };
        for (path, text) in copied {
            assert!(text != "secret\n", "{path}");
        }
        assert_eq!(tree(&outside), pairs(&[("secret", "secret\n")]));
        if rounds == USUAL_ROUNDS && round > 8 && worked > 6 {
            break;
        }
    }
    assert!(worked > 0, "no copy has worked at all");
    told(&env, &["rm", "-f", "evil"]);
}

#[test]
fn export_and_diff_show_a_container_without_its_mounts() {
    let env = with_busybox();
    let script = "echo new >/new; mkdir /dir; echo x >/dir/x; rm /etc/group; echo >>/etc/passwd; \
                  rm -r /old; mkdir /old; echo v >/vol/v; chmod 700 /kept/mode; echo same >/kept/in/file";
    let context = env.dockerfile(
        "c",
        "FROM busybox\nRUN mkdir -p /old/deep /kept/in /kept/mode && touch /kept/in/file\n",
    );
    env.build("app", &context);
    env.rbuild([
        "run", "--name", "box", "-v", "/vol", "app", "sh", "-c", script,
    ])
    .run()
    .ok();
    let want = "C /etc\nD /etc/group\nC /etc/passwd\nC /kept\nC /kept/in\nC /kept/in/file\nC /kept/mode\n\
                A /dir\nA /dir/x\nA /new\nC /old\nD /old/deep";
    let mut want: Vec<&str> = want.lines().collect();
    want.sort_by_key(|line| &line[2..]);
    assert_eq!(told(&env, &["diff", "box"]), want.join("\n"));
    let tar = env.rbuild(["export", "box"]).run().ok();
    let mut entries = BTreeMap::new();
    for entry in tar::Archive::new(&tar.stdout[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        if entry.size() < 100 {
            std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        }
        entries.insert(path, text);
    }
    assert_eq!(entries["new"], "new\n");
    assert!(entries.contains_key("vol/") && !entries.contains_key("vol/v"));
    assert!(!entries.contains_key("etc/group") && !entries.contains_key("old/deep/"));
    let file = env.join("box.tar");
    env.rbuild(args!["export", "-o", &file, "box"]).run().ok();
    assert_eq!(fs::read(&file).unwrap(), tar.stdout);
    env.rbuild(args!["import", &file, "flat"]).run().ok();
    env.rbuild(["run", "--rm", "flat", "cat", "/dir/x"])
        .run()
        .ok()
        .prints("x\n");
    env.rbuild(["export", "nobox"])
        .run()
        .fails_with("No such container: nobox");
    told(&env, &["rm", "-v", "box"]);
}

#[test]
fn files_of_a_user_without_privilege() {
    for ranges in ["42424:300000:65536\n", ""] {
        let user = User::new(ranges);
        user.import_busybox();
        let run = args![
            "run",
            "-d",
            "--name",
            "box",
            "-v",
            "store:/vol",
            "busybox",
            "sh",
            "-c",
            "mkdir /d && echo one >/d/f && chown 5:6 /d/f && echo v >/vol/v && echo ready >&2 && exec sleep 1000"
        ];
        user.rbuild(run).run().ok();
        let logs = user.rbuild(args!["logs", "-f", "box"]).spawn();
        logs.wait_for_line("ready");
        // The one that follows is a child of `unshare`.
        for stopped in [false, true] {
            if stopped {
                user.rbuild(args!["kill", "box"]).run().ok();
            }
            let copy = user.env.join("home/copy");
            user.rbuild(args!["cp", "box:/d/f", &copy]).run().ok();
            assert_eq!(fs::read_to_string(&copy).unwrap(), "one\n");
            assert_eq!(fs::metadata(&copy).unwrap().uid(), 42_424);
            user.rbuild(args!["cp", &copy, "box:/vol/copied"])
                .run()
                .ok();
            fs::remove_file(&copy).unwrap();
            user.rbuild(args!["cp", "box:/vol/copied", "-"]).run().ok();
            let diff = user.rbuild(args!["diff", "box"]).run().ok().out();
            assert_eq!(diff, "A /d\nA /d/f\n");
            let tar = user.rbuild(args!["export", "box"]).run().ok();
            let owner = tar::Archive::new(&tar.stdout[..])
                .entries()
                .unwrap()
                .map(Result::unwrap)
                .find(|entry| entry.path().unwrap() == Path::new("d/f"))
                .map(|entry| (entry.header().uid().unwrap(), entry.header().gid().unwrap()));
            assert_eq!(owner, Some((5, 6)));
        }
        logs.wait();
        user.rbuild(args!["rm", "box"]).run().ok();
    }
}
