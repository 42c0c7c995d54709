//! A user without privilege: the same images, in a user namespace.
//!
//! The user is made for the test only: its entries in `/etc` are seen in a mount namespace of the
//! test's own.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::args;
use crate::support::process::{Invocation, with_path};
use crate::support::{TestEnv, base, layout, needs};

const UID: u32 = 42_424;
const NAME: &str = "rbuild-test";

/// Lets users open `/dev/net/tun`, as on most hosts; in a test's own mount namespace.
pub(crate) const OPEN_TUN: &str = "\
    mkdir -p dev && mount -t tmpfs none dev && mknod dev/tun c 10 200 && chmod 666 dev/tun && \
    mount --bind dev/tun /dev/net/tun";

/// A world that belongs to the user, with a copy of the binary that they may execute.
pub(crate) struct User {
    pub(crate) env: TestEnv,
    rbuild: PathBuf,
}

impl User {
    /// A user whose subordinate ids are `ranges`, lines of `/etc/subuid` without the name.
    pub(crate) fn new(ranges: &str) -> Self {
        let env = TestEnv::new();
        for name in ["newuidmap", "newgidmap"] {
            needs::program(name, "uidmap");
        }
        let rbuild = env.join("rbuild");
        fs::copy(env!("CARGO_BIN_EXE_rbuild"), &rbuild).unwrap();
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let home = env.join("home");
        let line = format!("{NAME}:x:{UID}:{UID}::{}:/bin/sh\n", home.display());
        fs::write(env.join("passwd"), passwd + &line).unwrap();
        for file in ["subuid", "subgid"] {
            fs::write(env.join(file), ranges).unwrap();
        }
        own(env.path());
        own(&home);
        own(&env.join("tmp"));
        Self { env, rbuild }
    }

    pub(crate) fn rbuild(&self, args: impl IntoIterator<Item = OsString>) -> Invocation {
        self.rbuild_after("true", args)
    }

    /// The same after a command of root in the command's mount namespace and the test's directory.
    pub(crate) fn rbuild_after(
        &self,
        set_up: &str,
        args: impl IntoIterator<Item = OsString>,
    ) -> Invocation {
        self.program_after(set_up, self.rbuild.as_os_str())
            .args(args)
    }

    /// The user's copy of the binary.
    pub(crate) fn path(&self) -> &Path {
        &self.rbuild
    }

    /// A program of the host, as the user, after a command of root.
    pub(crate) fn program_after(&self, set_up: &str, program: &std::ffi::OsStr) -> Invocation {
        let script = format!(
            "{set_up} && \
             mount --bind passwd /etc/passwd && mount --bind subuid /etc/subuid && \
             mount --bind subgid /etc/subgid && \
             exec setpriv --reuid=\"$1\" --regid=\"$1\" --clear-groups -- \"$0\" \"${{@:2}}\""
        );
        self.env
            .host(needs::program("unshare", "util-linux"))
            .current_dir(self.env.path())
            .args(["--mount", "--propagation", "private", "bash", "-c", &script])
            .arg(program)
            .arg(UID.to_string())
    }

    pub(crate) fn import_busybox(&self) {
        let archive = self.env.join("rootfs.tar");
        fs::copy(base::busybox_rootfs(), &archive).unwrap();
        fs::set_permissions(&archive, fs::Permissions::from_mode(0o644)).unwrap();
        self.rbuild(args!["import", archive, "busybox"]).run().ok();
    }
}

fn own(path: &Path) {
    std::os::unix::fs::chown(path, Some(UID), Some(UID)).unwrap();
}

/// Owners, modes, opaque directories, whiteouts, links, capabilities: whatever differs by privilege.
pub(crate) const DOCKERFILE: &str = "\
FROM busybox AS one
RUN mkdir -p /d/sub /e && echo x >/d/sub/x && echo y >/d/y && chown -R 5:6 /d && chmod 4711 /d/y
COPY --chown=70:71 --chmod=2750 Dockerfile /copied/
FROM one
RUN rm -rf /d/sub && mkdir /d/sub && touch /d/sub/new && rm /d/y && ln /copied/Dockerfile /e/hard
RUN rm -rf /e && mkdir -m 1777 /e && chown 9 /bin
COPY --from=one /d /from-one
USER 12:13
WORKDIR /made/here
RUN id -u >/tmp/id && test \"$(cat /tmp/id)\" = 12
";

pub(crate) fn build_args(context: &Path, output: &Path) -> [OsString; 7] {
    let flag = with_path("type=oci,tar=false,rewrite-timestamp=true,dest=", output);
    args![
        "--build-arg",
        "SOURCE_DATE_EPOCH=1700000000",
        "-t",
        "x",
        "-o",
        flag,
        context
    ]
}

#[test]
fn the_image_is_the_same_as_roots() {
    let user = User::new(&format!("{NAME}:300000:65536\n"));
    user.import_busybox();
    let context = user.env.dockerfile("context", DOCKERFILE);
    let theirs = user.env.join("theirs");
    user.rbuild(build_args(&context, &theirs)).run().ok();

    let root = TestEnv::new();
    root.import_busybox();
    let ours = root.join("ours");
    root.rbuild(build_args(&context, &ours)).run().ok();

    let layers = |path: &Path| layout::read(path).manifest["layers"].clone();
    assert_eq!(layers(&theirs), layers(&ours));
}

#[test]
fn images_run_and_the_store_can_be_cleaned() {
    let user = User::new(&format!("{UID}:300000:65536\n"));
    user.import_busybox();
    let context = user.env.dockerfile("context", DOCKERFILE);
    user.rbuild(args!["-t", "x", &context]).run().ok();
    let again = user
        .rbuild(args!["--progress", "plain", "-t", "x", &context])
        .run()
        .ok();
    assert!(!again.text().contains("miss:"), "{}", again.text());
    let ran = user
        .rbuild(args![
            "run",
            "--rm",
            "x",
            "sh",
            "-c",
            "id -u; ls -ln /d; exit 7"
        ])
        .run();
    assert_eq!(ran.code(), 7, "{}", ran.text());
    assert!(ran.out().starts_with("12\n"), "{}", ran.out());
    user.rbuild(args!["rmi", "x", "busybox"]).run().ok();
    user.rbuild(args!["prune", "-a", "-f"]).run().ok();
    let checked = user.rbuild(args!["fsck"]).run().ok();
    assert!(checked.out().contains("sound"), "{}", checked.out());
    let trees = fs::read_dir(user.env.store().join("trees")).unwrap();
    assert_eq!(trees.count(), 0, "trees of other owners stay behind");
}

#[test]
fn files_that_are_written_out_belong_to_the_user() {
    use std::os::unix::fs::MetadataExt as _;
    let user = User::new(&format!("{NAME}:300000:65536\n"));
    let context = user.env.files(
        "context",
        &[
            ("Dockerfile", "FROM scratch\nCOPY --chown=5:6 f /f\n"),
            ("f", "x"),
        ],
    );
    let out = user.env.join("out");
    user.rbuild(args!["-o", &out, &context]).run().ok();
    assert_eq!(fs::metadata(out.join("f")).unwrap().uid(), UID);
}

/// As in a pod without a seccomp profile: root, but without the right to mount, and with parts of
/// `/proc` hidden, which keeps every namespace below from a `/proc` of its own.
#[test]
fn root_of_a_container_builds_below_a_masked_proc() {
    let env = TestEnv::new();
    let capsh = needs::program("capsh", "libcap2-bin");
    let context = env.dockerfile(
        "context",
        "FROM busybox\nRUN chown 5:6 /etc && ls /proc/irq | wc -l >/seen && test -e /proc/self/fd\n",
    );
    let script = "mount -t tmpfs none /proc/irq && \
         exec \"$0\" --drop=cap_sys_admin -- -c 'exec \"$@\"' sh \"$@\"";
    let in_container = |args: Vec<OsString>| {
        env.host(needs::program("unshare", "util-linux"))
            .args(["--mount", "--propagation", "private", "bash", "-c", script])
            .arg(&capsh)
            .arg(env!("CARGO_BIN_EXE_rbuild"))
            .args(args)
    };
    in_container(args!["import", base::busybox_rootfs(), "busybox"].into())
        .run()
        .ok();
    in_container(args!["-t", "x", &context].into()).run().ok();
    let ran = in_container(args!["run", "--rm", "x", "sh", "-c", "cat /seen; ls -ldn /etc"].into())
        .run()
        .ok();
    let words: Vec<String> = ran.out().split_whitespace().map(str::to_owned).collect();
    assert_eq!(words[0], "0", "the outer mask is gone: {}", ran.text());
    assert_eq!(words[3..5], ["5", "6"], "{}", ran.text());
    let refused = env.dockerfile(
        "refused",
        "# syntax=docker/dockerfile:1-labs\nFROM busybox\nRUN --security=insecure true\n",
    );
    in_container(args!["--allow", "security.insecure", &refused].into())
        .run()
        .exits(1)
        .says("privileged steps are not possible");
}

#[test]
fn sources_from_outside_come_in_without_root() {
    use crate::support::git::{GitServer, Repository};
    use crate::support::web::{Answer, WebServer};
    let user = User::new("42424:1000000:65536\n");
    user.import_busybox();
    let path = user.env.join("git/r.git");
    let repository = Repository::new(&path);
    fs::write(path.join("f"), "from git").unwrap();
    repository.commit("a");
    let git = GitServer::start(&user.env.join("git"));
    let web = WebServer::start(|_| Answer::ok("from the web"));
    let socket = user.env.join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let text = format!(
        "FROM busybox\nADD {} /web\nADD --keep-git-dir=true {} /git\n\
         RUN --mount=type=ssh test -S $SSH_AUTH_SOCK\n\
         RUN stat -c '%n %u:%g %a' /web /git /git/f /git/.git/HEAD >/owners\n\
         FROM scratch\nCOPY --from=0 /owners /web /git/f /\n",
        web.url("/w"),
        git.url("r.git")
    );
    let context = user.env.dockerfile("c", &text);
    let output = user.env.join("home/out");
    let flag = with_path("default=", &socket);
    user.rbuild(args!["--ssh", flag, "-o", output, context])
        .run()
        .ok();
    let read = |name: &str| fs::read_to_string(output.join(name)).unwrap();
    assert_eq!(
        (read("web"), read("f")),
        ("from the web".into(), "from git".into())
    );
    assert_eq!(
        read("owners"),
        "/web 0:0 600\n/git 0:0 755\n/git/f 0:0 644\n/git/.git/HEAD 0:0 644\n"
    );
    fs::remove_dir_all(user.env.join("home")).unwrap();
    fs::create_dir(user.env.join("home")).unwrap();
}

#[test]
fn containers_live_on_without_root_as_well() {
    let user = User::new("rbuild-test:100000:65536\n");
    user.import_busybox();
    let told = |args: &[&str]| {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let outcome = user.rbuild(args).run().ok();
        outcome.out().trim_end().to_owned()
    };
    let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 1 & wait $!; done";
    told(&["run", "-d", "--name", "web", "busybox", "sh", "-c", script]);
    assert_eq!(
        told(&["exec", "web", "sh", "-c", "id -u; cat /proc/1/comm"]),
        "0\nsh"
    );
    assert_eq!(told(&["exec", "-u", "5:6", "web", "id", "-u"]), "5");
    assert_eq!(
        told(&["ps", "--format", "{{.Names}} {{.State}}"]),
        "web running"
    );
    assert_eq!(told(&["stop", "web"]), "web");
    assert_eq!(told(&["wait", "web"]), "3");
    assert_eq!(told(&["logs", "web"]), "ready");
    assert_eq!(told(&["start", "web"]), "web");
    assert_eq!(told(&["rm", "-f", "web"]), "web");
    assert_eq!(told(&["ps", "-aq"]), "");
}

#[test]
fn a_user_looks_into_builds() {
    let text = "FROM busybox\nRUN echo whole >/whole && chown 5:6 /whole\nUSER 12\n\
                RUN --mount=type=cache,target=/c,mode=777 echo said; echo half >/tmp/half; echo f >/c/f; exit 3\n";
    // With ranges of ids, and with one only.
    for ranges in [&format!("{NAME}:300000:65536\n"), ""] {
        let user = User::new(ranges);
        user.import_busybox();
        let context = user.env.dockerfile("context", text);
        let failed = user.rbuild(args!["-t", "x", &context]).run().exits(1);
        failed
            .says("ran as user 12:0 in /, with cache on /c")
            .says("full log: ");
        let script = "cat /tmp/half /c/f /whole; echo x >/tmp/x\n";
        let look = user.rbuild(args!["debug"]).stdin(script).run().ok();
        assert_eq!(look.out(), "half\nf\nwhole\n");
        let look = user
            .rbuild(args!["debug", "--step", "1", "--", "ls", "/whole"])
            .run()
            .ok();
        assert_eq!(look.out(), "/whole\n");
        let layers = user.rbuild(args!["layers", "busybox"]).run().ok();
        assert!(layers.out().contains("/bin/busybox"), "{}", layers.out());
        for command in ["timeline", "explain"] {
            user.rbuild(args![command]).run().ok();
        }
        let list = user.rbuild(args!["history", "builds", "-q"]).run().ok();
        assert_eq!(list.out().lines().count(), 1);
        user.rbuild(args!["prune", "-f"]).run().ok();
    }
}
