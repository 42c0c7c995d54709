//! The same Dockerfile over the same base gives the same file tree with buildah.

use std::fmt::Write as _;
use std::path::Path;

use crate::args;
use crate::support::process::{Outcome, with_path};
use crate::support::tree::{Compare, Tree, differences};
use crate::support::{TestEnv, base, layout, needs};

/// Dockerfiles in the common language of both tools, over `localhost/bb`.
const DOCKERFILES: [(&str, &str); 6] = [
    (
        "files and owners",
        "FROM localhost/bb\nCOPY a b dir/ /x/\nCOPY --chown=app:staff dir /y\n\
         COPY --chown=12:34 --chmod=640 a /z\nCOPY dir/* /wild/\n",
    ),
    (
        "commands",
        "FROM localhost/bb\nWORKDIR /work/deep\nRUN echo hi >f && chmod 2755 . && ln f g \
         && ln -s f h && mkfifo p\nRUN rm g; mkdir -m 1777 t; chown app t\n",
    ),
    (
        "removed and made anew",
        "FROM localhost/bb\nRUN mkdir -p /d/e && touch /d/e/f /d/g\n\
         RUN rm -r /d && mkdir /d && touch /d/new && rm /etc/group && rm -r /home\n\
         RUN rm /bin/vi && ln -s busybox /bin/vi2 && rm -r /var && echo file >/var\n",
    ),
    (
        "stages",
        "FROM localhost/bb AS one\nRUN mkdir -p /out/sub && echo 1 >/out/sub/f && chown -R 7:8 /out\n\
         FROM localhost/bb\nCOPY --from=one /out /got\nCOPY --from=one /out/sub/f /got/again\n",
    ),
    (
        "users and environment",
        "FROM localhost/bb\nENV WHERE=/home/app/data\nUSER app\nWORKDIR $WHERE\n\
         RUN touch mine && umask 077 && mkdir private && id -u >private/uid\n\
         USER 0\nRUN touch /root/theirs\n",
    ),
    (
        "archives",
        "FROM localhost/bb\nADD t.tar /t/\nADD t.tar.gz /tz\nADD a /added/\n",
    ),
];

/// Mount points that buildah leaves in the image.
const STUBS: [&str; 3] = ["etc/hosts", "etc/resolv.conf", "run"];

#[test]
fn buildah_makes_the_same_tree() {
    let env = TestEnv::new();
    needs::program("buildah", "buildah");
    let bb = base::bb_layout();
    let source = format!("oci:{}:latest", bb.display());
    buildah(&env, &args!["pull", "-q", source]);
    let id = buildah(&env, &args!["images", "-q", "--no-trunc"]).out();
    buildah(&env, &args!["tag", id.trim(), "localhost/bb:latest"]);
    let mut report = String::new();
    for (name, dockerfile) in DOCKERFILES {
        let context = context(&env, dockerfile);
        let ours = with_rbuild(&env, &bb, &context);
        let mut theirs = with_buildah(&env, &context);
        theirs.retain(|name, _| ours.contains_key(name) || !STUBS.contains(&name.as_str()));
        for line in differences(&ours, &theirs, Compare::NO_TIMES) {
            let _ = write!(report, "\n{name}: {line}");
        }
        std::fs::remove_dir_all(&context).unwrap();
    }
    buildah(&env, &args!["rmi", "-a", "-f"]);
    assert!(report.is_empty(), "rbuild ≠ buildah:{report}");
}

fn context(env: &TestEnv, dockerfile: &str) -> std::path::PathBuf {
    let context = env.files(
        "peer",
        &[
            ("Dockerfile", dockerfile),
            ("a", "A"),
            ("b", "B"),
            ("dir/x", "X"),
            ("dir/y/z", "Z"),
        ],
    );
    std::os::unix::fs::symlink("x", context.join("dir/link")).unwrap();
    for (name, flag) in [("t.tar", "-cf"), ("t.tar.gz", "-czf")] {
        let archive = context.join(name);
        let tar = needs::program("tar", "tar");
        env.host(tar)
            .args(args![flag, archive, "-C", context, "dir", "a"])
            .run()
            .ok();
    }
    context
}

fn with_rbuild(env: &TestEnv, bb: &Path, context: &Path) -> Tree {
    let output = env.join("ours");
    let base = with_path("localhost/bb=oci-layout://", bb);
    let flag = with_path("type=oci,tar=false,dest=", &output);
    env.rbuild(args!["--build-context", base, "-o", flag, context])
        .run()
        .ok();
    let tree = layout::read(&output).tree;
    std::fs::remove_dir_all(&output).unwrap();
    tree
}

fn with_buildah(env: &TestEnv, context: &Path) -> Tree {
    let output = env.join("theirs");
    buildah(
        env,
        &args![
            "bud",
            "--isolation",
            "chroot",
            "--layers",
            "--pull-never",
            "-q",
            "-t",
            "out",
            context
        ],
    );
    let target = format!("oci:{}:latest", output.display());
    buildah(env, &args!["push", "-q", "out", target]);
    let tree = layout::read(&output).tree;
    std::fs::remove_dir_all(&output).unwrap();
    tree
}

#[track_caller]
fn buildah(env: &TestEnv, args: &[std::ffi::OsString]) -> Outcome {
    env.host("buildah")
        .args(args![
            "--root",
            env.join("buildah"),
            "--runroot",
            env.join("buildah-run")
        ])
        .args(["--storage-driver", "vfs"])
        .args(args)
        .run()
        .ok()
}
