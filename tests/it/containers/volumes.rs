//! Volumes: named and unnamed, filled from the image, shared, in use, removed; other kinds of mounts.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::{told, with_busybox};
use crate::args;
use crate::rootless::User;
use crate::support::process::Invocation;
use crate::support::{Outcome, TestEnv, wait_until};

/// An image with files of several owners where its volume lies.
const DOCKERFILE: &str = "\
FROM busybox
RUN mkdir -p /data/sub && echo one >/data/sub/file && chown -R 5:6 /data/sub && \
    chmod 4711 /data/sub/file && ln -s sub/file /data/link && chmod 1770 /data && chown 7:8 /data
VOLUME /data
";

fn with_image() -> TestEnv {
    let env = with_busybox();
    env.build("app", &env.dockerfile("c", DOCKERFILE));
    env
}

fn sh(env: &TestEnv, options: &[&str], script: &str) -> Outcome {
    env.rbuild(["run", "--rm"])
        .args(options)
        .args(["app", "sh", "-c", script])
        .run()
}

/// The directory of a volume on this machine.
fn mountpoint(env: &TestEnv, name: &str) -> PathBuf {
    told(env, &["volume", "inspect", "-f", "{{.Mountpoint}}", name]).into()
}

#[test]
fn a_named_volume_is_filled_from_the_image_and_outlives_its_containers() {
    let env = with_image();
    let look = "stat -c '%n %a %u:%g' /data /data/sub /data/sub/file /data/link; cat /data/link";
    let first = sh(&env, &["-v", "store:/data"], look).ok().out();
    assert_eq!(
        first,
        "/data 1770 7:8\n/data/sub 755 5:6\n/data/sub/file 4711 5:6\n/data/link 777 0:0\none\n"
    );
    sh(
        &env,
        &["-v", "store:/data"],
        "echo two >/data/sub/file; rm /data/link",
    )
    .ok();
    let second = sh(
        &env,
        &["-v", "store:/data:ro"],
        "cat /data/sub/file; ls /data; >/data/x",
    );
    assert_eq!(second.out(), "two\nsub\n");
    second.exits(1).says("Read-only file system");
    let path = mountpoint(&env, "store");
    let file = path.join("sub/file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "two\n");
    assert_eq!(
        (
            fs::metadata(&file).unwrap().uid(),
            fs::metadata(&path).unwrap().gid()
        ),
        (5, 8)
    );
    // What is elsewhere in another image, and nothing at all.
    sh(
        &env,
        &["-v", "store:/data:nocopy", "-v", "other:/new"],
        "ls -A /new",
    )
    .ok()
    .prints("");
    let mount = "type=volume,src=store,dst=/in,volume-subpath=sub,readonly";
    sh(&env, &["--mount", mount], "cat /in/file")
        .ok()
        .prints("two\n");
    let single = "type=volume,src=store,dst=/in,volume-subpath=sub/file";
    sh(&env, &["--mount", single], "cat /in")
        .ok()
        .prints("two\n");
    let out = "type=volume,src=store,dst=/in,volume-subpath=../volume.json";
    sh(&env, &["--mount", out], "cat /in")
        .exits(125)
        .says("could not mount the volume store");
    assert_eq!(
        told(&env, &["volume", "ls"]),
        "DRIVER    VOLUME NAME\nlocal     other\nlocal     store"
    );
    told(&env, &["volume", "rm", "other", "store"]);
    assert!(!path.exists());
    env.assert_sound_store();
}

#[test]
fn a_volume_in_use_is_not_removed() {
    let env = with_image();
    told(
        &env,
        &[
            "create",
            "--name",
            "made",
            "-v",
            "store:/data",
            "app",
            "true",
        ],
    );
    let id = told(&env, &["ps", "-aq", "--no-trunc"]);
    env.rbuild(["volume", "rm", "store"])
        .run()
        .fails_with(&format!(
            "could not remove volume store: volume is in use - [{id}]"
        ));
    // In the foreground and not listed.
    let runs = env
        .rbuild([
            "run",
            "--rm",
            "-v",
            "held:/h",
            "app",
            "sh",
            "-c",
            "echo in >&2; sleep 100",
        ])
        .spawn();
    runs.wait_for_line("in");
    env.rbuild(["volume", "rm", "held"])
        .run()
        .fails_with("it is in use by a container that is not listed");
    env.rbuild(["volume", "prune", "-af"])
        .run()
        .ok()
        .prints("Total reclaimed space: 0B\n");
    runs.signal(rustix::process::Signal::KILL);
    runs.wait();
    told(&env, &["rm", "made"]);
    wait_until("the killed one has let go", || {
        env.rbuild(["volume", "rm", "held"]).run().code() == 0
    });
    told(&env, &["volume", "create", "held"]);
    for name in ["store", "held"] {
        assert_eq!(told(&env, &["volume", "rm", name]), name);
    }
    env.rbuild(["volume", "rm", "store"])
        .run()
        .fails_with("No such volume: store");
    env.rbuild(["volume", "rm", "-f", "store"]).run().ok();
    env.rbuild(["volume", "rm", "../trees"])
        .run()
        .fails_with("No such volume");
}

#[test]
fn unnamed_volumes_belong_to_their_container() {
    let env = with_image();
    told(
        &env,
        &[
            "create",
            "--name",
            "one",
            "-v",
            "/own",
            "app",
            "sh",
            "-c",
            "echo x >/own/f",
        ],
    );
    told(&env, &["start", "-a", "one"]);
    let format =
        "{{range .Mounts}}{{.Type}} {{.Destination}} {{len .Name}} {{.Driver}} {{.RW}}\n{{end}}";
    assert_eq!(
        told(&env, &["inspect", "-f", format, "one"]),
        "volume /data 64 local true\nvolume /own 64 local true"
    );
    let name = told(
        &env,
        &["inspect", "-f", "{{(index .Mounts 1).Name}}", "one"],
    );
    assert_eq!(
        fs::read_to_string(mountpoint(&env, &name).join("f")).unwrap(),
        "x\n"
    );
    // Another container uses both of them, and hides nothing that it has itself.
    let mine = env.files("mine", &[("sub/file", "mine\n")]);
    let from = env
        .rbuild(["run", "--rm", "--volumes-from", "one:ro", "-v"])
        .arg(format!("{}:/data", mine.display()))
        .args(["app", "sh", "-c", "cat /own/f /data/sub/file; >/own/g"])
        .run();
    assert_eq!(from.out(), "x\nmine\n");
    from.exits(1).says("Read-only file system");
    assert_eq!(
        told(&env, &["volume", "ls", "-q", "-f", "dangling=false"])
            .lines()
            .count(),
        2
    );
    told(&env, &["rm", "one"]);
    assert_eq!(
        told(&env, &["volume", "ls", "-qf", "dangling=true"])
            .lines()
            .count(),
        2
    );
    told(&env, &["volume", "create", "named"]);
    let pruned = told(&env, &["volume", "prune", "-f"]);
    assert!(pruned.starts_with("Deleted Volumes:\n"), "{pruned}");
    assert!(
        pruned.contains(&name) && pruned.ends_with("Total reclaimed space: 6B"),
        "{pruned}"
    );
    assert_eq!(told(&env, &["volume", "ls", "-q"]), "named");
    // Gone with their container.
    told(&env, &["create", "--name", "two", "app", "true"]);
    told(&env, &["rm", "-v", "two"]);
    env.rbuild(["run", "--rm", "--name", "three", "-v", "/v", "app", "true"])
        .run()
        .ok();
    wait_until("only the named volume is left", || {
        told(&env, &["volume", "ls", "-q"]) == "named"
    });
    // A read-only container can write to its volume.
    env.rbuild([
        "run",
        "--rm",
        "--read-only",
        "app",
        "sh",
        "-c",
        "cat /data/sub/file; >/data/x",
    ])
    .run()
    .ok()
    .prints("one\n");
}

#[test]
fn volumes_have_labels_options_filters_and_formats() {
    let env = with_image();
    assert_eq!(
        told(
            &env,
            &[
                "volume", "create", "--label", "a=b", "--label", "c", "first"
            ]
        ),
        "first"
    );
    assert_eq!(told(&env, &["volume", "create", "first"]), "first");
    assert_eq!(told(&env, &["volume", "create"]).len(), 64);
    let shown = told(&env, &["volume", "inspect", "first"]);
    let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let object = &json[0];
    assert_eq!(
        (
            &object["Name"],
            &object["Driver"],
            &object["Scope"],
            &object["Labels"]["a"]
        ),
        (
            &"first".into(),
            &"local".into(),
            &"local".into(),
            &"b".into()
        )
    );
    assert!(
        object["Options"].is_null() && object["CreatedAt"].is_string(),
        "{shown}"
    );
    let list = |filter: &str| told(&env, &["volume", "ls", "-q", "-f", filter]);
    for (filter, want) in [
        ("label=a=b", "first"),
        ("label=c", "first"),
        ("label=a=x", ""),
        ("name=irs", "first"),
    ] {
        assert_eq!(list(filter), want, "{filter}");
    }
    assert_eq!(
        told(
            &env,
            &[
                "volume",
                "ls",
                "-f",
                "label=c",
                "--format",
                "{{.Name}} {{.Labels}} {{.Links}}"
            ]
        ),
        "first a=b,c= 0"
    );
    env.rbuild(["volume", "ls", "-f", "x=y"])
        .run()
        .fails_with("invalid filter \"x\"")
        .says("known filters: name, label, driver, dangling");
    env.rbuild(["volume", "inspect", "first", "no"])
        .run()
        .exits(1)
        .says("No such volume: no");
    env.rbuild(["volume", "create", "-d", "nfs", "x1"])
        .run()
        .fails_with("no volume driver \"nfs\"");
    env.rbuild(["volume", "create", "a/b"])
        .run()
        .fails_with("is no name for a volume");
    env.rbuild(["volume", "create", "-o", "type=nfs", "x1"])
        .run()
        .fails_with("file system `nfs`");
    let device = env.files("device", &[("f", "device\n")]);
    let device = format!("device={}", device.display());
    told(
        &env,
        &[
            "volume",
            "create",
            "-o",
            "type=none",
            "-o",
            "o=bind,ro",
            "-o",
            &device,
            "shown",
        ],
    );
    sh(&env, &["-v", "shown:/s"], "cat /s/f; >/s/g")
        .exits(1)
        .says("Read-only")
        .prints("device\n");
    told(
        &env,
        &[
            "volume",
            "create",
            "-o",
            "type=tmpfs",
            "-o",
            "o=size=1m,uid=3,mode=700",
            "mem",
        ],
    );
    sh(
        &env,
        &["-v", "mem:/m"],
        "stat -c '%u %a' /m; df -k /m | tail -1 | awk '{print $2}'",
    )
    .ok()
    .prints("3 700\n1024\n");
    told(
        &env,
        &["volume", "prune", "-a", "-f", "--filter", "label!=a"],
    );
    assert_eq!(told(&env, &["volume", "ls", "-q"]), "first");
}

#[test]
fn images_memory_and_directories_are_mounted_as_asked() {
    let env = with_image();
    let image = "type=image,src=app,dst=/i";
    sh(&env, &["--mount", image], "cat /i/data/sub/file; >/i/x")
        .exits(1)
        .says("Read-only")
        .prints("one\n");
    let inside = "type=image,src=app,dst=/i,image-subpath=data/sub";
    sh(&env, &["--mount", inside], "cat /i/file")
        .ok()
        .prints("one\n");
    let none = "type=image,src=app,dst=/i,image-subpath=nope";
    sh(&env, &["--mount", none], "")
        .exits(125)
        .says("there is no `nope` in it");
    sh(&env, &["--mount", "type=image,src=nosuch,dst=/i"], "")
        .exits(125)
        .says("No such image: nosuch");
    // The image is needed as long as the container is there.
    env.build(
        "other",
        &env.dockerfile("o", "FROM scratch\nCOPY Dockerfile /f\n"),
    );
    told(
        &env,
        &[
            "create",
            "--name",
            "im",
            "--mount",
            "type=image,src=other,dst=/i",
            "app",
            "cat",
            "/i/f",
        ],
    );
    told(&env, &["rmi", "-f", "other"]);
    told(&env, &["prune", "-f"]);
    assert!(told(&env, &["start", "-a", "im"]).starts_with("FROM scratch"));
    told(&env, &["rm", "im"]);

    let script = "cp /bin/busybox /t/true; /t/true; stat -c '%u %g %a' /t";
    sh(&env, &["--tmpfs", "/t:uid=1,gid=2,mode=750"], script)
        .says("Permission denied")
        .prints("1 2 750\n");
    sh(&env, &["--tmpfs", "/t:exec,size=4m"], script)
        .ok()
        .prints("0 0 1777\n");
    sh(&env, &["--tmpfs", "/t:fast"], "")
        .exits(125)
        .says("tmpfs option `fast`");

    let below = env.files("below", &[("sub/f", "x"), ("g", "y")]);
    let tmpfs = below.join("sub");
    rustix::mount::mount(
        "tmpfs",
        &tmpfs,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None,
    )
    .unwrap();
    fs::write(tmpfs.join("mounted"), "z").unwrap();
    let bind = |more: &str| format!("type=bind,src={},dst=/b{more}", below.display());
    let (all, alone) = (
        sh(&env, &["--mount", &bind("")], "ls /b/sub"),
        sh(
            &env,
            &["--mount", &bind(",bind-nonrecursive,ro")],
            "ls /b/sub; >/b/x",
        ),
    );
    rustix::mount::unmount(&tmpfs, rustix::mount::UnmountFlags::DETACH).unwrap();
    all.ok().prints("mounted\n");
    alone.exits(1).says("Read-only").prints("f\n");
    let missing = env.join("missing");
    let bind = format!("type=bind,src={},dst=/b", missing.display());
    sh(&env, &["--mount", &bind], "")
        .exits(125)
        .says("bind source path does not exist");
    sh(
        &env,
        &["--mount", &format!("{bind},bind-create-src")],
        "ls /b",
    )
    .ok();
    assert!(missing.is_dir());
    sh(&env, &["-v", "a:/b:rshared"], "")
        .exits(125)
        .says("mount propagation `rshared`");
    sh(&env, &["--volume-driver", "x", "-v", "ab:/b"], "")
        .exits(125)
        .says("no volume driver");
}

#[test]
fn volumes_of_a_user_without_privilege() {
    for ranges in ["42424:300000:65536\n", ""] {
        let user = User::new(ranges);
        user.import_busybox();
        let context = user.env.dockerfile("c", DOCKERFILE);
        user.rbuild(args!["build", "-t", "app", context]).run().ok();
        let run = |script: &str| -> Invocation {
            user.rbuild(args![
                "run",
                "--rm",
                "-v",
                "store:/data",
                "app",
                "sh",
                "-c",
                script
            ])
        };
        // With a single id a file's owner is recorded, and shown as root's.
        let single = ranges.is_empty();
        let look = "stat -c '%n %a %u:%g' /data /data/sub/file; cat /data/link";
        let owners = if single {
            ["0:0", "0:0"]
        } else {
            ["7:8", "5:6"]
        };
        run(look).run().ok().prints(&format!(
            "/data 1770 {}\n/data/sub/file 4711 {}\none\n",
            owners[0], owners[1]
        ));
        let script = "echo two >/data/sub/file; chown 9:9 /data/sub; mkdir -m 700 /data/closed; \
                      chown 5 /data/closed";
        run(script).run().ok();
        let owners = if single { "0\n0" } else { "9\n5" };
        run("cat /data/link; stat -c %u /data/sub /data/closed")
            .run()
            .ok()
            .prints(&format!("two\n{owners}\n"));
        user.rbuild(args!["volume", "rm", "store"]).run().ok();
        user.rbuild(args!["volume", "ls", "-q"])
            .run()
            .ok()
            .prints("");
    }
}
