//! Kills in the middle of steps that have networks and limits of their own, with the parts of the next
//! sandbox made ahead: at whatever moment, and whoever is killed, nothing of it is on the machine when the
//! next build has ended.
//!
//! `RBUILD_KILLS` sets how often (200 is the long form), `RBUILD_SEED` the first moment.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::args;
use crate::rootless::{OPEN_TUN, User};
use crate::support::apart::{apart, sh};
use crate::support::process::Invocation;
use crate::support::random::{Random, setting};
use crate::support::{TestEnv, leftovers, needs};

/// Kills of an ordinary test run, of each of both worlds.
const USUAL: u64 = 12;

/// As long as anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long a build may take to clean up behind itself before another one is tried.
const AGAIN: Duration = Duration::from_secs(10);

/// Steps with a network each, one that leaves a process, one without a network.
const DOCKERFILE: &str = "FROM busybox\n\
    RUN ip addr show eth0 >/one && (sleep 1000 &)\n\
    RUN ip route >/two; sleep 0.05\n\
    RUN --network=none --mount=type=cache,target=/c --mount=type=tmpfs,target=/t touch /c/x /t/y\n\
    FROM busybox\nRUN ip addr show eth0 >/three\nCOPY --from=0 /one /two /\nRUN cat /one /two >/four\n";

/// Who is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Command,
    Spawner,
    /// Neither sees the end of the other.
    Both,
}

/// Where builds run, and where they note down what they have made of networks.
struct World<'a> {
    env: &'a TestEnv,
    rbuild: &'a dyn Fn(Vec<OsString>) -> Invocation,
    notes: PathBuf,
    /// Options for limits, where they can be had: what has none is half made ahead.
    limits: &'a [&'a str],
}

impl World<'_> {
    fn build(&self, options: &[&str]) -> Invocation {
        let context = self.env.dockerfile("context", DOCKERFILE);
        let mut all: Vec<OsString> = args!["build", "--no-cache", "-t", "x", "--jobs=2"].into();
        all.extend(options.iter().map(OsString::from));
        all.push(context.into());
        (self.rbuild)(all)
    }

    /// What there is of networks, groups and scratch: the same before and after.
    fn made(&self) -> BTreeSet<String> {
        let mut made = BTreeSet::new();
        let mut add = |what: &str, text: &str| {
            made.extend(text.lines().map(|line| format!("{what}: {line}")));
        };
        let links = printed("ip", "iproute2", &["-o", "link", "show"]);
        let names: Vec<&str> = links
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .collect();
        add("interface", &names.join("\n"));
        add("rule", &printed("nft", "nftables", &["list", "ruleset"]));
        add("route", &printed("ip", "iproute2", &["route"]));
        for name in ["tmp", "leases"] {
            add(name, &listing(&self.env.store().join(name)));
        }
        add("temporary", &listing(&self.env.join("tmp")));
        for name in ["lans", "users", "routers"] {
            add(name, &listing(&self.notes.join(name)));
        }
        made
    }

    /// Kills builds at random moments; each time the next build works and leaves what was there before.
    fn check(&self) {
        self.build(&[]).run().ok();
        let before = self.settled(None);
        let mut span = self.build(self.limits).run().ok().elapsed;
        let first: u64 = setting("RBUILD_SEED", 1);
        let mut early = 0;
        let kills = setting("RBUILD_KILLS", USUAL);
        for seed in first..first + kills {
            let mut random = Random::new(seed);
            let victim = *random.of(&[
                Victim::Command,
                Victim::Command,
                Victim::Spawner,
                Victim::Both,
            ]);
            let micros = random.below(span.as_micros() as usize) as u64;
            let options = *random.of(&[self.limits, &[]]);
            let mut running = self.build(options).spawn();
            // Not a wait for something: the moment of the kill is what this test varies.
            std::thread::sleep(Duration::from_micros(micros));
            let spawner = spawner_of(running.pid());
            match (victim, spawner) {
                (Victim::Spawner, Some(spawner)) => send(spawner, Signal::KILL),
                (Victim::Both, Some(spawner)) => {
                    // While it is stopped it does not see that the command has gone.
                    send(spawner, Signal::STOP);
                    running.kill();
                    send(spawner, Signal::KILL);
                }
                _ => running.kill(),
            }
            let ended = running.wait();
            if ended.code() == 0 {
                early += 1;
                // The machine is less busy than it was.
                span = span.min(ended.elapsed);
            }
            eprintln!(
                "seed {seed}: {victim:?} after {micros} µs: {}",
                ended.status
            );
            self.settled(Some((&before, seed)));
        }
        assert!(early < kills, "every build was through before");
    }

    /// Waits until nothing runs and is mounted and, after the next build, all is as `before`.
    fn settled(&self, before: Option<(&BTreeSet<String>, u64)>) -> BTreeSet<String> {
        let seed = before.map(|(_, seed)| seed);
        let left = leftovers::wait_until_gone(self.env.path());
        assert!(left.is_empty(), "{seed:?}: {left:#?}");
        let (deadline, mut built) = (Instant::now() + PATIENCE, None);
        loop {
            // Groups of other tests that died meanwhile go with the one after.
            let again = built.is_none_or(|built: Instant| built.elapsed() > AGAIN);
            if before.is_some() && again {
                self.build(self.limits).run().ok();
                built = Some(Instant::now());
            }
            // The spawner removes bridges, pairs of interfaces and groups some tenths of a second after its last sandbox.
            let left = leftovers::wait_until_gone(self.env.path());
            let made = self.made();
            let groups = if self.limits.is_empty() {
                String::new()
            } else {
                ownerless_groups()
            };
            let same = before.is_none_or(|(before, _)| made == *before);
            let is_quiet = !made.iter().any(|line| line.starts_with("interface: rb"));
            if left.is_empty() && groups.is_empty() && same && is_quiet {
                return made;
            }
            assert!(
                Instant::now() < deadline,
                "seed {seed:?}: left {left:#?}\ngroups {groups}\nnow {made:#?}\nbefore {before:#?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The names in a directory and below it.
fn listing(directory: &Path) -> String {
    let entries = walkdir::WalkDir::new(directory)
        .min_depth(1)
        .sort_by_file_name();
    let entries = entries.into_iter().flatten();
    let paths: Vec<String> = entries
        .map(|entry| entry.path().display().to_string())
        .collect();
    paths.join("\n")
}

/// What a program prints in this thread's network.
fn printed(program: &str, package: &str, args: &[&str]) -> String {
    let program = needs::program(program, package);
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Control groups of sandboxes whose maker is gone, named `rbuild-PID-START-N`.
fn ownerless_groups() -> String {
    let groups = walkdir::WalkDir::new("/sys/fs/cgroup")
        .into_iter()
        .flatten();
    let ownerless = groups.filter(|group| {
        let name = group.file_name().to_string_lossy();
        let pid = name
            .strip_prefix("rbuild-")
            .and_then(|rest| rest.split('-').next());
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        group.file_type().is_dir()
            && pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
    let paths: Vec<String> = ownerless
        .map(|group| group.path().display().to_string())
        .collect();
    paths.join("\n")
}

/// The process that makes the sandboxes of a command, if it has begun.
fn spawner_of(command: u32) -> Option<u32> {
    let children = fs::read_dir(format!("/proc/{command}/task"))
        .ok()?
        .flatten();
    let children =
        children.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    let is_spawner = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"rbuild-spawner")
    };
    children.into_iter().find(is_spawner)
}

/// Who has just ended by itself was killed late: such moments are among them.
fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let sent = kill_process(pid, signal);
    assert!(
        matches!(sent, Ok(()) | Err(rustix::io::Errno::SRCH)),
        "{sent:?}"
    );
}

#[test]
fn kill_9_leaves_nothing_of_the_networks_of_roots_steps() {
    apart(|| {
        let env = TestEnv::new();
        env.import_busybox();
        let world = World {
            env: &env,
            rbuild: &|args| env.rbuild(args),
            notes: PathBuf::from("/run/rbuild/network"),
            limits: &["--memory=64m", "--resource=pids=50"],
        };
        world.check();
        env.assert_sound_store();
    });
}

#[test]
fn kill_9_leaves_nothing_of_the_networks_of_a_users_steps() {
    apart(|| {
        needs::program("pasta", "passt");
        // A way out, which pasta asks for.
        sh(
            "ip link add out type veth peer name far && ip link set far up && \
            ip addr add 198.18.1.1/24 dev out && ip link set out up && \
            ip route add default via 198.18.1.254",
        );
        let user = User::new("rbuild-test:300000:65536\n");
        user.import_busybox();
        let world = World {
            env: &user.env,
            rbuild: &|args| user.rbuild_after(OPEN_TUN, args),
            notes: user.env.store().join("run/network"),
            limits: &[],
        };
        world.check();
    });
}
