//! The ladder of isolation: the same image on every rung, and what each says of itself.

mod container;
mod debian;
mod names;

use std::path::Path;

use crate::args;
use crate::rootless::{DOCKERFILE, User, build_args};
use crate::support::{TestEnv, base, layout};
use container::Container;

/// Steps that need no command.
const NO_COMMANDS: &str = "\
FROM busybox AS one
COPY --chown=70:71 --chmod=2750 Dockerfile /copied/
COPY --chmod=0000 Dockerfile /unreadable
FROM one
COPY --from=one /copied /from-one
COPY --from=one --chown=5 /unreadable /again
WORKDIR /made/here
";

/// The layers that root makes of a Dockerfile.
fn layers_of_root(dockerfile: &str) -> Vec<Vec<(String, crate::support::tree::Entry)>> {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile("context", dockerfile);
    let output = env.join("layout");
    env.rbuild(build_args(&context, &output)).run().ok();
    layout::read(&output).layers
}

/// Compares entry by entry, so that a difference can be read.
#[track_caller]
fn assert_layers(output: &Path, dockerfile: &str) {
    let ours = layout::read(output).layers;
    let roots = layers_of_root(dockerfile);
    assert_eq!(ours.len(), roots.len(), "number of layers");
    for (number, (ours, roots)) in ours.iter().zip(&roots).enumerate() {
        for (our, root) in ours.iter().zip(roots) {
            assert_eq!(our, root, "layer {number}");
        }
        assert_eq!(ours.len(), roots.len(), "entries of layer {number}");
    }
}

#[test]
fn a_user_with_one_id_makes_the_same_image_as_root() {
    let user = User::new("somebody:1000:10\n");
    user.import_busybox();
    let context = user.env.dockerfile("context", DOCKERFILE);
    let output = user.env.join("out");
    let told = user.rbuild(build_args(&context, &output)).run().ok();
    assert!(
        told.text().contains("isolation single-id:"),
        "{}",
        told.text()
    );
    assert_layers(&output, DOCKERFILE);
}

#[test]
fn a_process_with_one_id_believes_to_have_others() {
    let user = User::new("somebody:1000:10\n");
    user.import_busybox();
    let text = "FROM busybox\n\
         RUN touch /tmp/x; su app -s /bin/sh -c 'id -u; id -g; chown 0 /tmp/x || echo refused' >/seen 2>&1; \
             mknod /disk b 8 1 && mkfifo /pipe && ln -s a /link && chown -h 7:8 /link && \
             touch /f && chmod 4755 /f && chown 9:9 /f && stat -c %a /f >>/seen\n\
         USER app\nRUN id -u >/home/app/id; id -g >>/home/app/id; chown 0 /home/app/id || true\n";
    let context = user.env.dockerfile("c", text);
    let output = user.env.join("out");
    let home = "FROM busybox\nRUN chown app /home/app\n";
    let prepared = user.env.dockerfile("p", home);
    user.rbuild(args!["-t", "busybox", prepared]).run().ok();
    user.rbuild(build_args(&context, &output)).run().ok();
    let tree = layout::read(&output).tree;
    let entry = |path: &str| {
        tree.get(path)
            .unwrap_or_else(|| panic!("no {path}: {tree:#?}"))
    };
    assert_eq!((entry("link").uid, entry("link").gid), (7, 8));
    assert_eq!((entry("f").uid, entry("f").mode & 0o7777), (9, 0o755));
    assert_eq!(
        (entry("home/app/id").uid, entry("home/app/id").gid),
        (1001, 1002)
    );
    let content = |path: &str| {
        let content = entry(path).content.clone().unwrap();
        String::from_utf8(content.bytes.unwrap()).unwrap()
    };
    assert_eq!(content("home/app/id"), "1001\n1002\n");
    let seen = content("seen");
    assert!(
        seen.starts_with("1001\n1002\n") && seen.contains("refused"),
        "{seen}"
    );
    assert!(seen.ends_with("755\n"), "{seen}");
    assert_eq!(entry("disk").device, Some((8, 1)));
}

#[test]
fn root_of_a_container_without_a_filter_makes_the_same_image() {
    let container = Container::new(&["--security-opt=seccomp=unconfined"]);
    let output = container.env.join("out");
    container.import_busybox();
    let context = container.env.dockerfile("context", DOCKERFILE);
    let told = container
        .rbuild(build_args(&context, &output).into())
        .run()
        .ok();
    assert!(told.text().contains("isolation nested:"), "{}", told.text());
    assert_layers(&output, DOCKERFILE);
}

#[test]
fn root_of_an_ordinary_container_makes_the_same_image_by_chroot() {
    // Docker leaves this right to its containers, podman does not.
    let container = Container::like_docker(&["--cap-add=MKNOD"]);
    let output = container.env.join("out");
    container.import_busybox();
    let context = container.env.dockerfile("context", DOCKERFILE);
    let told = container
        .rbuild(build_args(&context, &output).into())
        .run()
        .ok();
    assert!(told.text().contains("isolation chroot:"), "{}", told.text());
    assert_layers(&output, DOCKERFILE);

    let mounts = "FROM busybox\n\
         RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t \
             --mount=type=secret,id=s,target=/run/secret --mount=type=bind,target=/ctx,rw \
             echo x >>/c/kept && wc -l </c/kept && touch /t/x /ctx/new && cat /run/secret | wc -c && \
             echo >/dev/null && (sleep 1000 >/dev/null 2>&1 &)\n";
    let context = container.env.dockerfile("mounts", mounts);
    let secret = container.env.files("s", &[("s", "SECRET")]).join("s");
    let flag = crate::support::process::with_path("id=s,src=", &secret);
    for round in ["1", "2"] {
        let again = args![
            "--no-cache",
            "--progress",
            "plain",
            "--secret",
            flag,
            &context
        ];
        let told = container.rbuild(again.into()).run().ok();
        let lines: Vec<&str> = told
            .stderr
            .lines()
            .filter_map(|line| line.split_whitespace().nth(2))
            .collect();
        assert!(
            lines.windows(2).any(|pair| pair == [round, "6"]),
            "{}",
            told.text()
        );
    }
    assert!(!context.join("new").exists(), "the context was written to");
    let ran = container.rbuild(args!["run", "--rm", "busybox", "sh", "-c", "id -u; exit 7"].into());
    let ran = ran.run();
    assert_eq!(ran.code(), 7, "{}", ran.text());
    let refused = "FROM busybox\nRUN --network=none true\n";
    let refused = container.env.dockerfile("refused", refused);
    container
        .rbuild(args![&refused].into())
        .run()
        .exits(1)
        .says("isolation `chroot`");
}

#[test]
fn without_any_right_images_are_built_of_files() {
    let container = Container::like_docker(&["--cap-drop=all", "--user=12345:12345"]);
    container.give_to(12345);
    let output = container.env.join("out");
    container.import_busybox();
    let context = container.env.dockerfile("context", NO_COMMANDS);
    container
        .rbuild(build_args(&context, &output).into())
        .run()
        .ok();
    assert_layers(&output, NO_COMMANDS);

    let context = container.env.dockerfile("run", "FROM busybox\nRUN true\n");
    let refused = container.rbuild(args![&context].into()).run();
    let refused = refused
        .exits(1)
        .says("commands cannot be run here")
        .says("seccomp=unconfined");
    assert!(
        !refused.text().contains("#2"),
        "work was begun: {}",
        refused.text()
    );
    container
        .rbuild(args!["run", "busybox", "true"].into())
        .run()
        .exits(125)
        .says("seccomp=unconfined");
    let doctor = container
        .rbuild(args!["doctor", "--format", "json"].into())
        .run();
    let told: serde_json::Value = serde_json::from_str(&doctor.exits(1).out()).unwrap();
    assert_eq!(told["Isolation"], "none");
    assert_eq!(told["Better"][1]["Isolation"], "rootless");
}

#[test]
fn a_rung_can_be_asked_for() {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile(
        "context",
        "FROM busybox\nRUN chown 5:6 /tmp && touch /tmp/x\n",
    );
    for rung in ["root", "rootless", "nested", "chroot"] {
        let output = env.join(rung);
        let told = env
            .rbuild(["build", "--no-cache", "--isolation", rung])
            .args(build_args(&context, &output))
            .run()
            .ok();
        let named = told.text().contains(&format!("isolation {rung}:"));
        assert_eq!(named, rung != "root", "{}", told.text());
        let tree = layout::read(&output).tree;
        assert_eq!((tree["tmp"].uid, tree["tmp"].gid), (5, 6), "{rung}");
    }
    env.rbuild(args!["build", "--isolation", "none", &context])
        .run()
        .exits(1)
        .says("commands cannot be run here");
    env.rbuild(args!["build", "--isolation", "best", &context])
        .run()
        .exits(2)
        .says("single-id");
    // The layers of this store belong to many users.
    env.rbuild(args![
        "build",
        "--no-cache",
        "--isolation",
        "single-id",
        &context
    ])
    .run()
    .exits(1)
    .says("--root");
}

#[test]
fn the_doctor_tells_what_would_help() {
    let user = User::new("somebody:1000:10\n");
    let told = user.rbuild(args!["doctor"]).run().ok();
    for text in [
        "single-id",
        "To get `rootless`",
        "usermod --add-subuids",
        "To get `root`",
    ] {
        assert!(told.out().contains(text), "{}", told.out());
    }
    let env = TestEnv::new();
    let told = env.rbuild(["doctor"]).run().ok();
    assert!(
        told.out().contains("root, with namespaces"),
        "{}",
        told.out()
    );
    assert!(!told.out().contains("To get"), "{}", told.out());
    let info = user
        .rbuild(args!["info", "--format", "{{.Isolation}}"])
        .run()
        .ok();
    assert!(info.out().starts_with("single-id"), "{}", info.out());
}

/// The archive of the base image, for who may not read the original.
fn archive(env: &TestEnv) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let archive = env.join("rootfs.tar");
    std::fs::copy(base::busybox_rootfs(), &archive).unwrap();
    std::fs::set_permissions(&archive, std::fs::Permissions::from_mode(0o644)).unwrap();
    archive
}
