//! Containers that have a name and a life of their own: `run -d`, `create`, `start`, `stop`, `kill`,
//! `ps`, `logs`, `exec`, `wait`, `rename`, `rm`, and what is left when a part of them is killed.

mod copy;
mod events;
mod kills;
mod life;
mod logs;
mod oci;
mod options;
mod session;
mod terminals;
mod upkeep;
mod volumes;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::args;
use crate::support::random::setting;
use crate::support::{TestEnv, needs};

/// Ends with 3 when it is asked to end, at once.
const SERVER: &str = "trap 'echo bye; exit 3' TERM; echo ready; echo trouble >&2; \
                      while :; do sleep 1 & wait $!; done";

fn with_busybox() -> TestEnv {
    let env = TestEnv::new();
    env.import_busybox();
    env
}

/// What `rbuild ARGS…` prints.
fn told(env: &TestEnv, args: &[&str]) -> String {
    env.rbuild(args).run().ok().out().trim_end().to_owned()
}

/// Starts the server and waits until it is ready.
fn serve(env: &TestEnv, name: &str) {
    env.rbuild(["run", "-d", "--name", name, "busybox", "sh", "-c", SERVER])
        .run()
        .ok();
    // Its first line is there before the end of this command, or comes meanwhile.
    let logs = env.rbuild(["logs", "-f", name]).spawn();
    logs.wait_for_line("trouble");
    logs.signal(Signal::TERM);
    logs.wait();
}

fn states(env: &TestEnv) -> Vec<String> {
    let format = "{{.Names}} {{.State}} {{.Status}}";
    let listed = told(env, &["ps", "-a", "--format", format]);
    let mut lines: Vec<String> = listed
        .lines()
        .map(|line| {
            // The ages are not the same on every machine.
            let words: Vec<&str> = line.split(' ').collect();
            words[..words
                .len()
                .min(if ["running", "paused"].contains(&words[1]) {
                    3
                } else {
                    4
                })]
                .join(" ")
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn a_detached_container_lives_on_its_own_and_ends_when_it_is_asked_to() {
    let env = with_busybox();
    serve(&env, "web");
    assert_eq!(states(&env), ["web running Up"]);
    let id = told(&env, &["ps", "-q", "--no-trunc"]);
    assert_eq!(id.len(), 64);
    let log = env.rbuild(["logs", "web"]).run().ok();
    assert_eq!(
        (log.out().as_str(), log.stderr.as_str()),
        ("ready\n", "trouble\n")
    );
    let shown = "{{.State.Status}} {{.State.Running}} {{.Name}} {{.Config.Hostname}}";
    assert_eq!(
        told(&env, &["inspect", "-f", shown, &id[..12]]),
        format!("running true /web {}", &id[..12])
    );
    env.rbuild(["rm", "web"])
        .run()
        .fails_with("cannot remove container \"/web\": container is running");
    env.rbuild(["run", "-d", "--name", "web", "busybox"])
        .run()
        .exits(125)
        .says("The container name \"/web\" is already in use by container");
    assert_eq!(told(&env, &["stop", "web"]), "web");
    assert_eq!(states(&env), ["web exited Exited (3)"]);
    assert_eq!(told(&env, &["wait", "web"]), "3");
    assert_eq!(told(&env, &["stop", "web"]), "web");
    env.rbuild(["kill", "web"])
        .run()
        .fails_with("is not running");
    assert_eq!(told(&env, &["ps", "-q"]), "");
    assert!(told(&env, &["logs", "web"]).ends_with("bye"));
    assert_eq!(told(&env, &["rm", &id[..6]]), &id[..6]);
    assert!(states(&env).is_empty());
    env.rbuild(["inspect", "web"])
        .run()
        .exits(1)
        .says("No such object: web");
    env.rbuild(["start", "web"])
        .run()
        .fails_with("No such container: web");
}

#[test]
fn a_command_joins_a_container_that_runs() {
    let env = with_busybox();
    env.rbuild(args![
        "run",
        "-d",
        "--name",
        "box",
        "-e",
        "OWN=1",
        "-u",
        "1:2",
        "-w",
        "/tmp",
        "-m",
        "100m",
        "busybox",
        "sh",
        "-c",
        "echo mine > /tmp/file; sleep 100"
    ])
    .run()
    .ok();
    let exec = |options: &[&str], script: &str| {
        env.rbuild(["exec"])
            .args(options)
            .args(["box", "sh", "-c", script])
            .run()
    };
    let script = "id -u; id -g; pwd; echo $OWN $MORE; until cat file 2>/dev/null; do :; done; hostname; echo e >&2";
    let outcome = exec(&["-e", "MORE=2"], script).ok();
    let id = told(&env, &["ps", "-q"]);
    assert_eq!(outcome.out(), format!("1\n2\n/tmp\n1 2\nmine\n{id}\n"));
    assert_eq!(outcome.stderr, "e\n");
    // The same process numbers, control group, rights and name spaces as the container's own.
    let same = "for n in mnt pid net ipc uts cgroup; do [ \"$(readlink /proc/self/ns/$n)\" = \
                \"$(readlink /proc/1/ns/$n)\" ] || echo $n; done; cat /proc/1/cgroup > /tmp/1; \
                cmp /proc/self/cgroup /tmp/1; grep Cap /proc/1/status > /tmp/2; \
                grep Cap /proc/self/status | cmp - /tmp/2";
    assert_eq!(exec(&["-u", "1:2"], same).ok().out(), "");
    assert_eq!(
        exec(&["-u", "nosuch", "-w", "/"], "id -u; pwd; echo $HOME").code(),
        1
    );
    assert_eq!(
        exec(&["-u", "root"], "id -u; echo $HOME").ok().out(),
        "0\n/root\n"
    );
    exec(&[], "exit 7").exits(7);
    exec(&[], "kill -9 $$").exits(137);
    for (program, status) in [("nope", 127), ("/etc/passwd", 126)] {
        env.rbuild(["exec", "box", program])
            .run()
            .exits(status)
            .says(program);
    }
    let cat = env
        .rbuild(["exec", "-i", "box", "cat"])
        .stdin("through\n")
        .run();
    assert_eq!(cat.ok().out(), "through\n");
    let waits = env
        .rbuild(["exec", "box", "sh", "-c", "echo in >&2; sleep 100"])
        .spawn();
    waits.wait_for_line("in");
    told(&env, &["kill", "box"]);
    waits.wait().exits(137);
    exec(&[], "true").fails_with("is not running");
    told(&env, &["rm", "box"]);
}

#[test]
fn what_is_made_can_be_started_seen_and_started_again() {
    let env = with_busybox();
    let cid = env.join("cid");
    let script = "read line; echo \"got $line\"; echo x >> /count; wc -l < /count >&2; exit 5";
    let id = told_os(
        &env,
        args![
            "create",
            "-i",
            "--cidfile",
            &cid,
            "-l",
            "a=b",
            "--name",
            "one",
            "busybox",
            "sh",
            "-c",
            script
        ],
    );
    assert_eq!(fs::read_to_string(&cid).unwrap(), id);
    env.rbuild(args!["create", "--cidfile", &cid, "busybox"])
        .run()
        .exits(125)
        .says("could not make the file");
    assert_eq!(states(&env), ["one created Created"]);
    for count in 1..3 {
        let outcome = env
            .rbuild(["start", "-ai", "one"])
            .stdin("this\n")
            .run()
            .exits(5);
        assert_eq!(outcome.out(), "got this\n");
        assert_eq!(outcome.stderr.trim(), count.to_string());
    }
    assert_eq!(states(&env), ["one exited Exited (5)"]);
    let since = told(&env, &["logs", "-t", "-n", "2", "one"]);
    let (time, text) = since.split_once(' ').unwrap();
    assert!(time.ends_with('Z') && text == "got this", "{since}");
    assert_eq!(told(&env, &["logs", "--until", time, "one"]), "got this");
    assert_eq!(told(&env, &["logs", "--since", time, "one"]), "got this");
    assert_eq!(told(&env, &["ps", "-aq", "-f", "label=a=b"]), &id[..12]);
    assert_eq!(told(&env, &["ps", "-aq", "-f", "label=a=c"]), "");
    assert_eq!(
        told(&env, &["ps", "-aq", "-f", "exited=5", "-f", "name=on"]),
        &id[..12]
    );
    told(&env, &["rename", "one", "other"]);
    assert_eq!(states(&env), ["other exited Exited (5)"]);
    // In the foreground, without --rm: it stays.
    let outcome = env
        .rbuild([
            "run",
            "--name",
            "one",
            "busybox",
            "sh",
            "-c",
            "echo o; echo e >&2; exit 4",
        ])
        .run()
        .exits(4);
    assert_eq!(
        (outcome.out().as_str(), outcome.stderr.as_str()),
        ("o\n", "e\n")
    );
    env.rbuild(["run", "--name", "bad", "busybox", "/nope"])
        .run()
        .exits(127)
        .says("/nope");
    assert_eq!(
        states(&env),
        [
            "bad created Created",
            "one exited Exited (4)",
            "other exited Exited (5)"
        ]
    );
    env.rbuild(["rmi", "busybox"])
        .run()
        .fails_with("conflict: unable to remove repository reference \"busybox\" (must force)");
    let pruned = told(&env, &["container", "prune", "-f"]);
    assert!(pruned.contains(&id), "{pruned}");
    assert!(states(&env).is_empty());
    told(&env, &["run", "--rm", "--name", "one", "busybox", "true"]);
    told(
        &env,
        &["run", "--rm", "-d", "--name", "two", "busybox", "true"],
    );
    env.rbuild(["wait", "two"]).run();
    assert!(states(&env).is_empty());
    told(&env, &["rmi", "busybox"]);
}

fn told_os(env: &TestEnv, args: impl IntoIterator<Item = std::ffi::OsString>) -> String {
    env.rbuild(args).run().ok().out().trim_end().to_owned()
}

#[test]
fn a_log_is_followed_to_its_end() {
    let env = with_busybox();
    let script = "echo one; echo two >&2; read go; echo three; printf four";
    told_os(
        &env,
        args![
            "create", "-i", "--name", "talks", "busybox", "sh", "-c", script
        ],
    );
    let attached = env.rbuild(["start", "-ai", "talks"]).stdin("go\n").spawn();
    // Whether it has ended already or not: it is shown whole, and it ends.
    attached.wait_for_line("two");
    let log = env.rbuild(["logs", "-f", "talks"]).run().ok();
    assert_eq!(
        (log.out().as_str(), log.stderr.as_str()),
        ("one\nthree\nfour", "two\n")
    );
    attached.wait().ok();
    // The order of lines of two streams is not known.
    assert_eq!(
        told(&env, &["logs", "--tail", "4", "talks"]),
        "one\nthree\nfour"
    );
    assert_eq!(told(&env, &["logs", "--tail", "0", "talks"]), "");
    env.rbuild(["logs", "--since", "yesterday", "talks"])
        .run()
        .fails_with("invalid time \"yesterday\"");
    told(&env, &["rm", "talks"]);
}

#[test]
fn whatever_is_killed_the_truth_is_told_and_nothing_is_left() {
    let env = with_busybox();
    let pid = |template: &str| -> i32 {
        told(&env, &["inspect", "-f", template, "web"])
            .parse()
            .unwrap()
    };
    // The first process of the container.
    serve(&env, "web");
    kill_process(Pid::from_raw(pid("{{.State.Pid}}")).unwrap(), Signal::KILL).unwrap();
    assert_eq!(told(&env, &["wait", "web"]), "137");
    assert_eq!(states(&env), ["web exited Exited (137)"]);
    // Its monitor.
    told(&env, &["start", "web"]);
    let first = pid("{{.State.Pid}}");
    let monitor = monitor_of(&told(&env, &["ps", "-q", "--no-trunc"]));
    let follower = env.rbuild(["logs", "-f", "web"]).spawn();
    follower.wait_for_line("trouble");
    kill_process(Pid::from_raw(monitor).unwrap(), Signal::KILL).unwrap();
    follower.wait();
    assert_eq!(states(&env), ["web exited Exited (137)"]);
    assert_eq!(
        told(&env, &["inspect", "-f", "{{.State.Error}}", "web"]),
        "its monitor was killed"
    );
    env.rbuild(["exec", "web", "true"])
        .run()
        .fails_with("is not running");
    while fs::exists(format!("/proc/{first}")).unwrap() {
        thread::yield_now();
    }
    // It can be started again, and removed.
    told(&env, &["start", "web"]);
    assert_eq!(states(&env), ["web running Up"]);
    told(&env, &["rm", "-f", "web"]);
    assert!(states(&env).is_empty());
    let left: Vec<_> = fs::read_dir(env.store().join("containers"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["names"]);
    // Whoever shows it in the foreground.
    let mut shown = env
        .rbuild(["run", "--name", "web", "busybox", "sh", "-c", SERVER])
        .spawn();
    shown.wait_for_line("trouble");
    shown.kill();
    shown.wait();
    assert_eq!(states(&env), ["web running Up"]);
    told(&env, &["stop", "-t", "5", "web"]);
    assert_eq!(states(&env), ["web exited Exited (3)"]);
    told(&env, &["rm", "web"]);
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// The monitor of a container.
#[track_caller]
fn monitor_of(id: &str) -> i32 {
    find_monitor(id).expect("the container has no monitor")
}

/// The process whose command line names the container and its monitor.
fn find_monitor(id: &str) -> Option<i32> {
    let of = |entry: fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        (line.contains("container-monitor") && line.contains(id)).then_some(pid)
    };
    let mut found = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| of(entry.ok()?));
    found.next()
}

#[test]
fn many_containers_at_once_leave_nothing() {
    let all = setting("RBUILD_CONTAINERS", 16);
    let at_once = if all < 100 { 8 } else { 20 };
    let env = with_busybox();
    let before = traces();
    told(&env, &["network", "create", "back"]);
    thread::scope(|scope| {
        for worker in 0..at_once {
            let env = &env;
            scope.spawn(move || {
                for number in (worker..all).step_by(at_once) {
                    let name = format!("c{number}");
                    let start = ["run", "-d", "-m", "64m", "--name", &name];
                    // Every fourth shares a network of users, which comes and goes with them.
                    let more = match number % 4 {
                        0 => &["--network", "back", "-p", "127.0.0.1::80"][..],
                        1 => &["-p", "127.0.0.1::80/udp", "-v", "/data"],
                        _ => &[],
                    };
                    let start = env.rbuild(start).args(more).arg("busybox");
                    start.args(["sh", "-c", SERVER]).run().ok();
                    let out = told(env, &["exec", &name, "echo", &name]);
                    assert_eq!(out, name);
                    told(env, &["rm", "-f", "-v", &name]);
                }
            });
        }
    });
    assert!(states(&env).is_empty());
    assert_eq!(told(&env, &["volume", "ls", "-q"]), "");
    told(&env, &["network", "rm", "back"]);
    env.assert_sound_store();
    // Those of other tests come and go: what has been gone once is no leak of ours.
    let mut left: BTreeSet<String> = traces().difference(&before).cloned().collect();
    life::until(
        || {
            let now = traces();
            left.retain(|trace| now.contains(trace));
            left.clone()
        },
        BTreeSet::is_empty,
    );
}

/// What containers leave in the kernel while they are there: network interfaces, rules of the firewall,
/// control groups, mounts of namespaces.
fn traces() -> BTreeSet<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let interfaces = read("/proc/net/dev");
    let interfaces = interfaces
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'));
    // The bridge is there as long as anybody needs it, in other tests, too.
    let mut found: BTreeSet<String> = interfaces
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| name != "rbuild0")
        .collect();
    found.extend(rules());
    let mounts = read("/proc/self/mountinfo");
    for line in mounts.lines() {
        let point = line.split(' ').nth(4).unwrap();
        if line.contains(" - nsfs ") {
            found.insert(line.to_owned());
        } else if line.contains(" - cgroup") {
            let groups = walkdir::WalkDir::new(point)
                .max_depth(3)
                .into_iter()
                .flatten();
            let ours =
                groups.filter(|group| group.file_name().to_string_lossy().starts_with("rbuild-"));
            found.extend(ours.map(|group| group.path().display().to_string()));
        }
    }
    found
}

/// All rules without their counters, but those of the bridge that other tests have, too.
fn rules() -> Vec<String> {
    let nft = needs::program("nft", "nftables");
    let listed = Command::new(nft)
        .args(["-s", "list", "ruleset"])
        .output()
        .unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let mut table = String::new();
    let mut all = Vec::new();
    for line in String::from_utf8(listed.stdout).unwrap().lines() {
        if line.starts_with("table ") {
            line.clone_into(&mut table);
        }
        if !table.contains("rbuild0") {
            all.push(format!("{table} {}", line.trim()));
        }
    }
    all
}

#[test]
fn a_container_that_runs_can_be_attached_to_and_its_processes_seen() {
    let env = with_busybox();
    let script = "while read line; do echo \"got $line\"; done; echo end >&2; exit 6";
    told(
        &env,
        &[
            "run", "-d", "-i", "--name", "reads", "busybox", "sh", "-c", script,
        ],
    );
    let top = told(&env, &["top", "reads"]);
    let lines: Vec<&str> = top.lines().collect();
    assert_eq!(lines.len(), 2, "{top}");
    assert!(lines[0].starts_with("UID "), "{top}");
    let pid = told(&env, &["inspect", "-f", "{{.State.Pid}}", "reads"]);
    let words: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(
        (words[0], words[1], words[5]),
        ("0", pid.as_str(), "?"),
        "{top}"
    );
    assert!(lines[1].contains("sh -c while read line"), "{top}");
    // The end of the input is the end of the container's.
    let outcome = env
        .rbuild(["attach", "reads"])
        .stdin("one\ntwo\n")
        .run()
        .exits(6);
    assert_eq!(
        (outcome.out().as_str(), outcome.stderr.as_str()),
        ("got one\ngot two\n", "end\n")
    );
    env.rbuild(["attach", "reads"])
        .run()
        .fails_with("is not running");
    env.rbuild(["top", "reads"])
        .run()
        .fails_with("is not running");
    told(&env, &["container", "rm", "reads"]);
}

#[test]
fn what_a_killed_creation_has_left_goes_with_the_next_one() {
    let env = with_busybox();
    let containers = env.store().join("containers");
    told(&env, &["create", "--name", "kept", "busybox", "true"]);
    // As a kill in the middle leaves it: files, a name, a lock that nobody holds, no config.
    let id = "0".repeat(64);
    fs::create_dir_all(containers.join(&id).join("files-0/upper/etc")).unwrap();
    fs::write(containers.join(&id).join("change"), "").unwrap();
    fs::write(containers.join("names/half"), &id).unwrap();
    assert_eq!(states(&env), ["kept created Created"]);
    told(&env, &["create", "--name", "half", "busybox", "true"]);
    assert!(!containers.join(&id).exists());
    assert_eq!(
        states(&env),
        ["half created Created", "kept created Created"]
    );
    told(&env, &["rm", "half", "kept"]);
}
