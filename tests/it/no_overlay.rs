//! A store where overlay cannot write, as in the file system of an ordinary container: everything works,
//! in copies.

use std::path::Path;

use serde_json::json;

use crate::args;
use crate::support::disk::{Disk, Kind};
use crate::support::process::with_path;
use crate::support::{TestEnv, base, layout, tree, write_layout};

/// Every way to change what is below, and every kind of mount.
const DOCKERFILE: &str = "\
FROM lower AS one
RUN rm /etc/hostname && rm -r /home/app && echo new >/home/new && : >/empty && chown 5:6 /empty
RUN rm -r /root && mkdir /root && echo again >/root/x && ln -s x /root/y && ln /root/x /root/z
RUN rm /home/new && mkdir /home/new && echo inside >/home/new/file && chmod 700 /tmp
RUN true
FROM one
RUN --mount=from=one,target=/below --mount=type=cache,target=/cache --mount=type=tmpfs,target=/t \
    --mount=type=secret,id=s,target=/secret --mount=from=one,source=/root,target=/part,rw \
    cat /below/root/x /secret /part/z >/seen && echo c >/cache/c && echo t >/t/t && rm /part/x \
    && ls -a /below/etc /below/home >>/seen && ls /proc/1/status >>/seen
COPY --from=one /root /copied
COPY <<end /empty
now with text
end
RUN ls -a / /etc /home /copied >/list && rm -r /copied && mknod /device c 1 3
";

/// Brings the base, whose second layer has deletions and an opaque directory of its own.
fn bring_base(env: &TestEnv, rbuild: &dyn Fn() -> crate::support::process::Invocation) {
    let rootfs = std::fs::read(base::busybox_rootfs()).unwrap();
    let mut upper = tar::Builder::new(Vec::new());
    for name in ["etc/.wh.passwd", "usr/.wh..wh..opq", "usr/new"] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        upper
            .append_data(&mut header, name, std::io::empty())
            .unwrap();
    }
    let layout = env.join("base");
    let config = json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    let layers = [rootfs, upper.into_inner().unwrap()];
    write_layout::write(&layout, &layers, &config, &json!([]));
    let context = env.dockerfile("bring", "FROM lower\n");
    let from = format!("lower=oci-layout://{}:latest", layout.display());
    rbuild()
        .args(args!["-t", "lower", "--build-context", from, context])
        .run()
        .ok();
}

/// Builds and returns the image's layout and what the build said.
fn build(
    env: &TestEnv,
    context: &Path,
    rbuild: &dyn Fn() -> crate::support::process::Invocation,
) -> (layout::Image, String) {
    let output = env.join("out");
    let secret = env.files("secrets", &[("s", "hush\n")]).join("s");
    let flag = with_path("type=oci,tar=false,dest=", &output);
    let told = rbuild()
        .args(args![
            "--progress=plain",
            "--network=host",
            "--reproducible",
            "-t",
            "x",
            "-o",
            flag
        ])
        .args(args![
            "-o",
            "type=image",
            "--secret",
            with_path("id=s,src=", &secret),
            context
        ])
        .run()
        .ok();
    (layout::read(&output), told.text())
}

#[test]
fn roots_are_copied_and_images_are_the_same() {
    let usual = TestEnv::new();
    bring_base(&usual, &|| usual.rbuild::<&str>([]));
    let context = usual.dockerfile("context", DOCKERFILE);
    let (expected, told) = build(&usual, &context, &|| usual.rbuild::<&str>([]));
    assert!(!told.contains("roots are copied"), "{told}");

    let env = TestEnv::new();
    let disk = Disk::new(&env, Kind::Overlay, 256 << 20);
    let rbuild = || disk.rbuild::<&str>(&env, []);
    bring_base(&env, &rbuild);
    let context = env.dockerfile("context", DOCKERFILE);
    let (found, told) = build(&env, &context, &rbuild);
    assert!(told.contains("roots are copied for every step"), "{told}");
    assert_eq!(found.layers.len(), expected.layers.len());
    for (number, (ours, theirs)) in found.layers.iter().zip(&expected.layers).enumerate() {
        assert_eq!(ours, theirs, "layer {number}");
    }

    // What is built runs, without a trace.
    let script = "ls -d /etc/passwd /usr/* /device; cat /seen /list; rm -r /usr; ls -d /usr";
    let run = |rbuild: crate::support::process::Invocation| {
        let outcome = rbuild
            .args(["run", "--rm", "--network=host", "x", "sh", "-c", script])
            .run();
        (outcome.code(), outcome.out())
    };
    assert_eq!(run(rbuild()), run(usual.rbuild::<&str>([])));
    // What is exported is the merged tree, deletions applied.
    let exported = |rbuild: crate::support::process::Invocation| {
        let context = env.dockerfile("export", "FROM x\n");
        let outcome = rbuild.args(args!["-o", "-", context]).run().ok();
        tree::read_tar(outcome.stdout.as_slice())
    };
    assert_eq!(exported(rbuild()), exported(usual.rbuild::<&str>([])));
    rbuild()
        .args(["run", "-d", "x", "true"])
        .run()
        .exits(125)
        .says("the store cannot hold a container that lives on its own");
    rbuild()
        .args(["doctor"])
        .run()
        .ok()
        .out()
        .lines()
        .find(|line| line.starts_with("Roots:") && line.contains("copied for every step"))
        .unwrap();
    let driver = rbuild().args(["info", "-f", "{{.Driver}}"]).run().ok();
    assert!(driver.out().starts_with("copy ("), "{}", driver.out());
    rbuild().args(["fsck"]).run().ok();
    // Nothing runs again, and nothing is lost by removing.
    let again = build(&env, &context, &rbuild).1;
    assert!(!again.contains("miss:"), "{again}");
    rbuild().args(["prune", "-a", "-f"]).run().ok();
    rbuild().args(["fsck"]).run().ok();
}

#[test]
fn the_other_rungs_build_on_it_too() {
    for rung in ["single-id", "chroot"] {
        builds_on(rung);
    }
}

/// Builds on a rung, once with overlay at hand and once without; the layers are the same.
fn builds_on(rung: &str) {
    // A container that mounts nothing shows no processes.
    let text = DOCKERFILE.replace(" && ls /proc/1/status >>/seen", "");
    let env = TestEnv::new();
    let disk = Disk::new(&env, Kind::Overlay, 256 << 20);
    let rbuild = || disk.rbuild::<&str>(&env, []).env("RBUILD_ISOLATION", rung);
    bring_base(&env, &rbuild);
    let context = env.dockerfile("context", &text);
    let found = build(&env, &context, &rbuild).0;
    let usual = TestEnv::new();
    let usually = || usual.rbuild::<&str>([]).env("RBUILD_ISOLATION", rung);
    bring_base(&usual, &usually);
    let context = usual.dockerfile("context", &text);
    let expected = build(&usual, &context, &usually).0;
    for (number, (ours, theirs)) in found.layers.iter().zip(&expected.layers).enumerate() {
        assert_eq!(ours, theirs, "{rung}: layer {number}");
    }
    rbuild().args(["fsck"]).run().ok();
}
