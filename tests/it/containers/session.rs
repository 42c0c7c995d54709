//! One session of a user over a web server that was built here, as a shell script: by root, by a user
//! without privilege, and with podman by root. What all of them print has to be the same.
//!
//! Podman without privilege has neither `stats` nor `pause` on hosts with control groups of version 1.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::with_busybox;
use crate::args;
use crate::rootless::{OPEN_TUN, User};
use crate::support::process::Invocation;
use crate::support::{TestEnv, needs};

const DOCKERFILE: &str = "\
FROM busybox
RUN mkdir -p /www /data && echo hello >/www/index.html && echo first >/data/seed
COPY serve /serve
ENV GREETING=hi
LABEL tier=front
VOLUME /data
EXPOSE 80
CMD [\"/serve\"]
";

/// Serves files, says when it is ready, ends with 3 when it is asked to end.
const SERVE: &str = "#!/bin/sh
trap 'echo bye; exit 3' TERM
busybox httpd -p 80 -h /www || exit 9
echo ready
echo trouble >&2
while :; do sleep 1000 & wait $!; done
";

/// `$P` is the program with its options. Only what all programs print alike is printed.
const SCRIPT: &str = r#"
P="$*"
quiet() { "$@" >/dev/null 2>&1; }
ready() { n=0; until [ "$($P logs web 2>/dev/null | grep -c ready)" = "$1" ]; do
    n=$((n+1)); [ $n -lt 600 ] || { echo "never ready"; exit 1; }; sleep 0.1; done; }
becomes() { wanted=$1; shift; n=0; until [ "$("$@")" = "$wanted" ]; do
    n=$((n+1)); [ $n -lt 600 ] || { echo "never $wanted: $("$@")"; exit 1; }; sleep 0.1; done; echo "$wanted"; }
show() { $P inspect -f "$1" web; }
page() { curl -sS -m 60 "http://$($P port web 80)/$1"; }
mkdir -p here/dir/sub
echo "== run"
$P run -d -p 127.0.0.1::80 -m 64m --name web -v data:/data -e MORE=1 -l side=left app | tr -d '\n' | wc -c
ready 1
echo "== port"
page index.html
$P port web | sed 's/:[0-9]*$/:PORT/'; $P port web 80/tcp | sed 's/:[0-9]*$/:PORT/'
$P ps --format '{{.Ports}}' | sed 's/:[0-9]*->/:PORT->/'
show '{{if .NetworkSettings.IPAddress}}has an address{{end}} {{.HostConfig.NetworkMode}} {{.HostConfig.Memory}}'
$P logs -f web >here/followed 2>here/trouble & follower=$!
echo "== logs"; $P logs web 2>/dev/null; $P logs web 2>&1 >/dev/null
echo "== exec"
$P exec web wget -qO- http://127.0.0.1/
$P exec -w /www -e A=2 web sh -c 'pwd; echo $GREETING $MORE $A; cat /data/seed'
$P exec web sh -c 'exit 7'; echo $?
quiet $P exec web /nope; echo $?
echo piped | $P exec -i web cat
echo "== inspect"
show '{{.State.Status}} {{.State.Running}} {{.State.Paused}} {{.State.ExitCode}} {{.State.OOMKilled}}'
show '{{index .Config.Labels "tier"}} {{index .Config.Labels "side"}} {{.Config.Tty}}'
show '{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}}{{end}}'
show '{{.HostConfig.AutoRemove}} {{.HostConfig.Privileged}} {{.RestartCount}}'
show '{{join .Config.Cmd " "}}'
$P ps --format '{{.Names}}'
echo "== stats"
becomes "web 3" $P stats --no-stream --format '{{.Name}} {{.PIDs}}' web
$P stats --no-stream --format '{{.MemUsage}} {{.MemPerc}} {{.CPUPerc}} {{.NetIO}} {{.BlockIO}}' web |
    sed 's/[0-9.][0-9.]*/N/g; s/[kKMG]*i*B/B/g'
$P top web | wc -l
echo "== pause"
at=$($P port web 80); quiet $P pause web; show '{{.State.Status}} {{.State.Paused}}'
curl -s -m 1 "http://$at/"; echo $?; $P ps -a --format '{{.Status}}' | grep -c Paused
quiet $P unpause web; show '{{.State.Status}} {{.State.Paused}}'; page
echo "== cp"
echo page >here/page; echo deep >here/dir/sub/deep
$P cp here/page web:/www/page; page page
$P cp here/dir web:/www; $P cp here/dir/. web:/new; $P exec web cat /www/dir/sub/deep /new/sub/deep
$P cp web:/www/index.html here/out; cat here/out
$P cp web:/www here/site; ls here/site
$P cp web:/www - | tar -t | sed 's|/$||' | sort
quiet $P cp web:/nope here/x; [ $? -ne 0 ] && echo refused
echo "== diff"; $P exec web rm /www/dir/sub/deep; $P diff web | grep -E ' /(www|new)' | sort
echo "== stop"
$P stop -t 20 web; show '{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}'; $P wait web
$P logs --tail 1 web 2>/dev/null
wait $follower; echo $?; cat here/followed here/trouble
$P port web 2>/dev/null | wc -l
$P ps -q | wc -l; $P ps -a --format '{{.Names}}'; $P ps -aq -f status=exited | wc -l
$P cp web:/new/sub/deep here/stopped; cat here/stopped
echo "== start"
$P start web; ready 2; page page
echo "== restart"; $P restart -t 20 web; ready 3; page page; show '{{.State.Status}} {{.State.ExitCode}}'
echo "== rename"; $P rename web site; $P ps --format '{{.Names}}'; $P rename site web
echo "== commit"
quiet $P commit -c 'CMD ["cat", "/www/page"]' -c 'ENV NEW=yes' web changed
$P run --rm --network none changed
$P run --rm --network none changed sh -c 'echo $GREETING $MORE $NEW; ls /www'
$P inspect -f '{{join .Config.Cmd " "}} {{index .Config.Labels "side"}}' changed
echo "== volume"
$P volume ls -q -f name=data; $P volume inspect -f '{{.Name}} {{.Driver}}' data
quiet $P volume rm data; [ $? -ne 0 ] && echo in use
echo "== export"; $P export web | tar -t | grep -E '^(www|new)/' | sort
echo "== kill"; $P kill web; $P wait web; show '{{.State.Status}} {{.State.ExitCode}}'
echo "== rm"
$P start web; ready 4; quiet $P rm web; [ $? -ne 0 ] && echo refused
quiet $P rm -f web; quiet $P inspect web; [ $? -ne 0 ] && echo gone
$P create --network none --name web -v data:/data app >/dev/null; show '{{.State.Status}}'; quiet $P rm web; echo $?; $P ps -aq | wc -l; $P volume rm data
rm -r here
"#;

fn build(env: &TestEnv, rbuild: &dyn Fn(Vec<std::ffi::OsString>) -> Invocation) {
    let context = env.files("app", &[("Dockerfile", DOCKERFILE), ("serve", SERVE)]);
    fs::set_permissions(context.join("serve"), fs::Permissions::from_mode(0o755)).unwrap();
    rbuild(args!["build", "-t", "app", context].into())
        .run()
        .ok();
}

/// What the script prints.
fn session(shell: Invocation, directory: &Path) -> String {
    needs::program("curl", "curl");
    needs::program("pasta", "passt");
    let outcome = shell.current_dir(directory).timeout(600).run();
    let text = outcome.out();
    assert!(
        text.ends_with("created\n0\n0\ndata\n"),
        "{text}\n{}",
        outcome.stderr
    );
    text
}

fn of_root() -> String {
    let env = with_busybox();
    build(&env, &|args| env.rbuild(args));
    let shell = env
        .host("sh")
        .args(["-c", SCRIPT, "sh", env!("CARGO_BIN_EXE_rbuild")]);
    session(shell, env.path())
}

#[test]
fn a_session_is_the_same_with_and_without_privilege() {
    let root = of_root();
    let user = User::new("42424:300000:65536\n");
    user.import_busybox();
    build(&user.env, &|args| user.rbuild(args));
    let script = user.env.join("session");
    fs::write(&script, SCRIPT).unwrap();
    let shell = user.program_after(OPEN_TUN, "sh".as_ref());
    let shell = shell.arg(&script).arg(user.path());
    assert_eq!(session(shell, user.env.path()), root);
}

#[test]
fn a_session_is_the_same_with_podman() {
    needs::program("podman", "podman");
    needs::program("crun", "crun");
    needs::program("iptables", "iptables");
    needs::program("ip", "iproute2");
    let root = of_root();
    let env = with_busybox();
    build(&env, &|args| env.rbuild(args));
    let archive = env.join("app.tar");
    env.rbuild(args!["save", "-o", &archive, "app"]).run().ok();
    let at = |name: &str| env.join("podman").join(name).display().to_string();
    fs::create_dir(env.join("podman")).unwrap();
    fs::write(
        at("containers.conf"),
        "[engine]\nlock_type = \"file\"\nevents_logger = \"file\"\n[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n",
    )
    .unwrap();
    let podman = format!(
        "podman --storage-driver vfs --cgroup-manager cgroupfs --root {} --runroot {} --tmpdir {} ",
        at("root"),
        at("run"),
        at("tmp")
    );
    // As in `archives`: crun takes a host of both versions of control groups for none.
    let script = format!(
        "ip link set lo up
         if mountpoint -q /sys/fs/cgroup/unified; then umount -l /sys/fs/cgroup/unified; fi
         {podman} load -q -i {} >/dev/null || exit 1
         {SCRIPT}
         {podman} rmi -af >/dev/null 2>&1",
        archive.display()
    );
    // In a network namespace: the bridge and the rules that podman leaves go with it.
    let shell = env
        .host(needs::program("unshare", "util-linux"))
        .env("CONTAINERS_CONF", at("containers.conf"))
        .env("XDG_RUNTIME_DIR", at("run"))
        .args(["-m", "-n", "--propagation", "private"])
        .args(["sh", "-c", &script, "sh"])
        .args(podman.split_whitespace());
    let theirs = session(shell, env.path());
    assert_eq!(theirs, root);
}
