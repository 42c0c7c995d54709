//! The commands on images do and print what Docker's do: one script, run with both.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::args;
use crate::support::process::Invocation;
use crate::support::{TestEnv, needs};

const DOCKERFILE: &str = "\
FROM busybox
LABEL tier=front
ENV A=b
RUN echo one >/one
EXPOSE 80
VOLUME /data
USER 12
WORKDIR /srv
ENTRYPOINT [\"/bin/echo\"]
HEALTHCHECK --interval=5s CMD true
STOPSIGNAL SIGINT
";

/// `$P` is the program with its options. Times and places are not printed; of errors what both say.
const SCRIPT: &str = r#"
P="$*"
fails() { "$@" >out 2>err && echo fine || echo failed; cat out
    sed -E -n 's/.*(No such (image|object)|invalid reference format|conflict: .*|not a valid change command|requires.*argument).*/\1/p' err |
        sed -E "s/container [0-9a-f]{12}/container X/; s/image [0-9a-f]{12}/image X/; s/delete [0-9a-f]{12}/delete X/"
    rm -f out err; }
list() { $P images --format '{{.Repository}}:{{.Tag}}' "$@" | sort; }
id() { $P images -q --no-trunc "$1"; }
show() { $P inspect --format "$1" app:1; }
echo "== load"; $P load -i all.tar; $P load -q <all.tar
fails $P load -i nothing.tar
echo "== images"; list; $P images --format 'table {{.Repository}}\t{{.Tag}}\t{{.ID}}' app
$P images --format '{{.ID}} {{.Tag}} {{.Digest}}' --no-trunc app | cut -d' ' -f1,2
$P images -q app:1; $P image ls -q --no-trunc busybox; list nothere; list app:2; list 'a*'
$P images nothere; $P images --format '{{json .}}' busybox | grep -o '"Repository":"busybox"'
fails $P images --format '{{.Nope}}'
fails $P images --format '{{.ID'
echo "== filters"
list --filter dangling=false; list --filter dangling=true; list --filter label=tier; list --filter label=tier=front
list --filter label=tier=back; list --filter before=app:1; list --filter since=busybox; list --filter reference='b*'
list --filter reference='*:1' --filter label=tier
fails $P images --filter nope=1
fails $P images --filter dangling=maybe
fails $P images --filter since=nothere
echo "== tag"; $P tag app:1 other; $P tag $(id app:1) other:2; list other
fails $P tag nothere x
fails $P tag app:1 UPPER
fails $P tag app:1 'x:bad tag'
echo "== inspect"
show '{{.Id}} {{.RepoTags}} {{.Os}}/{{.Architecture}} {{.Author}} {{.Comment}}'
show '{{.Config.User}} {{.Config.WorkingDir}} {{.Config.StopSignal}} {{.Config.Env}} {{.Config.Labels}}'
show '{{json .Config.Entrypoint}} {{json .Config.Volumes}} {{json .Config.ExposedPorts}} {{json .RootFS}}'
show '{{len .RootFS.Layers}} {{.RootFS.Type}} {{index .Config.Healthcheck.Test 0}} {{json .Config.Labels}}'
show '{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}} {{index .Config.Labels "tier"}} {{.Metadata.LastTagTime | len | lt 0}}'
$P inspect --format '{{len .RootFS.Layers}}' app:1 busybox
fails $P inspect nothere
fails $P image inspect --format '{{.Id}}' app:1 nothere
fails $P inspect --format '{{.Nope}}' app:1
echo "== history"
$P history --format '{{.CreatedBy}}|{{.Size}}|{{.Comment}}|{{.ID}}' app:1 | grep -v 'MB|'
$P history --no-trunc --format '{{.ID}} {{.CreatedBy}}' app:1; $P history -q app:1
$P history -H=false --format '{{.CreatedBy}}|{{.Size}}|{{.CreatedAt}}' app:1 | grep RUN | cut -d'|' -f1,2
fails $P history nothere
echo "== save"
repos() { tar -xO manifest.json | grep -o '"RepoTags":\[[^]]*\]' | sort; }
$P save app:1 | repos; $P save other | repos; $P save app:1 other:2 | repos; $P save $(id app:1) | grep -c '"RepoTags":null'
$P save -o saved.tar app:1 && repos <saved.tar; rm saved.tar
fails $P save nothere
fails $P save -o nowhere/x app:1
echo "== import"
mkdir root; echo content >root/file; tar -C root -cf rootfs.tar file; rm -r root
$P import rootfs.tar imp:1 | tr -d '\n' | wc -c
$P import -c 'CMD ["sh"]' -c 'ENV X=y' -m hello - imp:2 <rootfs.tar | tr -d '\n' | wc -c
$P inspect --format '{{json .Config.Cmd}} {{.Config.Env}} {{.Comment}}' imp:2
$P history --format '{{.CreatedBy}}|{{.Comment}}' imp:2
fails $P import -c 'RUN x' rootfs.tar imp:3
fails $P import nothing.tar imp:4
echo "== rmi"
$P rmi other:latest; fails $P rmi nothere; fails $P rmi -f nothere
fails $P rmi other:2 nothere; list
$P tag imp:1 reg.example/x/imp; $P tag imp:1 reg.example/y/imp
fails $P rmi $(id imp:1); list imp
$P rmi -f $(id imp:1) | grep Untagged; list
$P create --name c1 --network none imp:2 >/dev/null
fails $P rmi imp:2
$P tag imp:2 imp:3; $P rmi imp:2; fails $P image rm imp:3
$P tag app:1 last; $P rmi app:1; $P rmi last busybox | sed -E 's/sha256:.*/ID/'
echo "== prune"
$P load -q -i all.tar; $P image prune -f; $P image prune -af | grep -v '^deleted: ' | sed 's/: [0-9.]*MB$/: some/' | sort; list
$P rm c1; $P image prune -af | grep untagged
fails $P image prune -f --filter nope=1
list
"#;

/// A daemon of Docker's own, with its files in the test's directory.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(env: &TestEnv) -> Daemon {
        let program = needs::program("dockerd", "docker.io");
        let directory = env.join("docker");
        fs::create_dir(&directory).unwrap();
        let socket = directory.join("socket");
        let child = Command::new(program)
            .args(["--iptables=false", "--bridge=none", "--storage-driver=vfs"])
            .args(["--data-root", directory.join("root").to_str().unwrap()])
            .args(["--exec-root", directory.join("exec").to_str().unwrap()])
            .args(["--pidfile", directory.join("pid").to_str().unwrap()])
            .args(["-H", &format!("unix://{}", socket.display())])
            .env_clear()
            .env("PATH", needs::PROGRAM_PATH)
            .env("HOME", &directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("log")).unwrap())
            .spawn()
            .unwrap();
        let daemon = Daemon { child, socket };
        let end = Instant::now() + Duration::from_mins(1);
        while UnixStream::connect(&daemon.socket).is_err() {
            assert!(Instant::now() < end, "{}", daemon.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon
    }

    fn log(&self) -> String {
        let mut text = String::new();
        let log = fs::File::open(self.socket.with_file_name("log"));
        log.unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Daemon {
    /// It ends its own helpers when it is asked to end.
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// What the script prints.
fn session(shell: Invocation, directory: &Path) -> String {
    let outcome = shell.current_dir(directory).timeout(600).run();
    let text = outcome.out();
    assert!(text.contains("== prune\n"), "{text}\n{}", outcome.stderr);
    text
}

#[test]
fn commands_on_images_do_what_docker_s_do() {
    let (env, other) = (TestEnv::new(), TestEnv::new());
    other.import_busybox();
    let context = other.dockerfile("app", DOCKERFILE);
    other
        .rbuild(args!["build", "--format", "docker", "-t", "app:1", context])
        .run()
        .ok();
    let archive = env.join("all.tar");
    other
        .rbuild(args!["save", "-o", archive, "app:1", "busybox"])
        .run()
        .ok();
    let script = |program: &str| env.host("sh").args(["-c", SCRIPT, "sh", program]);
    let ours = session(script(env!("CARGO_BIN_EXE_rbuild")), env.path());
    let docker = needs::program("docker", "docker.io");
    let daemon = Daemon::start(&env);
    let host = format!("unix://{}", daemon.socket.display());
    let theirs = session(
        script(docker.to_str().unwrap()).env("DOCKER_HOST", host),
        env.path(),
    );
    drop(daemon);
    assert_eq!(ours, theirs, "rbuild ≠ docker");
}
