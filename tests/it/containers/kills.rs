//! Kills at random moments, of whatever is at work: `ps` tells the truth afterwards, `rm` cleans up.
//!
//! `RBUILD_KILLS` sets how often (200 is the long form), `RBUILD_SEED` the first moment; a failure
//! names its seed.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::life::until;
use super::{SERVER, find_monitor, told, with_busybox};
use crate::support::TestEnv;
use crate::support::random::{Random, setting};

/// Kills of an ordinary test run.
const USUAL: u64 = 18;

/// What is at work, and what it needs: a container that runs, one that does not, or none.
const COMMANDS: [(&[&str], Before); 9] = [
    (
        &["run", "-d", "--name", "web", "busybox", "sh", "-c", SERVER],
        Before::Nothing,
    ),
    (
        &[
            "run",
            "--name",
            "web",
            "busybox",
            "sh",
            "-c",
            "echo x; sleep 0.2",
        ],
        Before::Nothing,
    ),
    (&["start", "web"], Before::Created),
    (&["stop", "-t", "1", "web"], Before::Running),
    (&["restart", "-t", "1", "web"], Before::Running),
    (&["kill", "web"], Before::Running),
    (&["exec", "web", "sleep", "1000"], Before::Running),
    (&["pause", "web"], Before::Running),
    (&["rm", "-f", "web"], Before::Running),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Created,
    Running,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Command,
    Monitor,
    FirstProcess,
}

#[test]
fn whoever_is_killed_at_whatever_moment_the_truth_is_told_and_nothing_is_left() {
    let first: u64 = setting("RBUILD_SEED", 1);
    let env = with_busybox();
    for seed in first..first + setting("RBUILD_KILLS", USUAL) {
        let mut random = Random::new(seed);
        // Every command in turn; most often it is itself what is killed.
        let (command, before) = COMMANDS[seed as usize % COMMANDS.len()];
        let victim = *random.of(&[
            Victim::Command,
            Victim::Command,
            Victim::Monitor,
            Victim::FirstProcess,
        ]);
        prepare(&env, before);
        let context = format!("seed {seed}: {victim:?} of {command:?}");
        println!("{context}");
        let mut running = env.rbuild(command).spawn();
        // The moment is what is random: this is no wait for anything.
        std::thread::sleep(Duration::from_micros(random.below(120_000) as u64));
        let state = env
            .rbuild(["inspect", "-f", "{{.Id}} {{.State.Pid}}", "web"])
            .run();
        let (id, pid) = match state.out().trim().split_once(' ') {
            Some((id, pid)) => (id.to_owned(), pid.parse().unwrap_or(0)),
            None => (String::new(), 0),
        };
        match victim {
            Victim::Monitor if !id.is_empty() => {
                if let Some(monitor) = find_monitor(&id) {
                    kill_if_there(monitor);
                }
            }
            Victim::FirstProcess if pid != 0 => kill_if_there(pid),
            _ => running.kill(),
        }
        if victim != Victim::Command && command[0] == "exec" {
            // It goes on as long as nobody ends it, if what was killed had not begun yet.
            running.kill();
        }
        running.wait();
        check(&env);
    }
    env.assert_sound_store();
}

/// Who has just ended by itself was killed late: such moments are among them.
fn kill_if_there(pid: i32) {
    let killed = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    assert!(matches!(killed, Ok(()) | Err(Errno::SRCH)), "{killed:?}");
}

fn prepare(env: &TestEnv, before: Before) {
    match before {
        Before::Nothing => {}
        Before::Created => {
            told(
                env,
                &["create", "--name", "web", "busybox", "sh", "-c", SERVER],
            );
        }
        Before::Running => {
            told(
                env,
                &["run", "-d", "--name", "web", "busybox", "sh", "-c", SERVER],
            );
        }
    }
}

/// Waits until what is told is what is; then removes everything, and looks for what is left.
fn check(env: &TestEnv) {
    until(|| lies(env), BTreeSet::is_empty);
    let all = told(env, &["ps", "-aq"]);
    for id in all.lines() {
        told(env, &["rm", "-f", id]);
    }
    // What a killed command has left half-made goes with the next one.
    told(env, &["create", "--name", "next", "busybox", "true"]);
    told(env, &["rm", "next"]);
    assert_eq!(told(env, &["ps", "-aq"]), "");
    let containers = env.store().join("containers");
    let left = |directory: &std::path::Path| -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    assert_eq!(left(&containers), ["names"]);
    assert_eq!(left(&containers.join("names")), Vec::<String>::new());
}

/// What is told and is not so: some of it may be about to be.
fn lies(env: &TestEnv) -> BTreeSet<String> {
    let format = "{{.ID}} {{.State}}";
    let listed = told(env, &["ps", "-a", "--no-trunc", "--format", format]);
    let mut lies = BTreeSet::new();
    for line in listed.lines() {
        let (id, state) = line.split_once(' ').unwrap();
        let pid = env
            .rbuild(["inspect", "-f", "{{.State.Pid}}", id])
            .run()
            .out();
        let pid: u32 = pid.trim().parse().unwrap_or(0);
        let alive = ["running", "paused"].contains(&state);
        if alive != find_monitor(id).is_some() {
            lies.insert(format!("{line}: its monitor"));
        }
        if alive != fs::exists(format!("/proc/{pid}")).unwrap() {
            lies.insert(format!("{line}: its process {pid}"));
        }
    }
    lies
}

#[test]
fn an_idle_monitor_costs_little_memory_and_no_processor() {
    let env = with_busybox();
    let options = ["run", "-d", "--name", "web", "--restart", "always"];
    let command = ["busybox", "sleep", "1000"];
    env.rbuild(options).args(command).run().ok();
    let id = told(&env, &["ps", "-q", "--no-trunc"]);
    let monitor = find_monitor(&id).expect("the container has no monitor");
    // The conversation about its start is over when it has told its end.
    let woken = || -> u64 {
        let tasks = fs::read_dir(format!("/proc/{monitor}/task")).unwrap();
        let count = |task: fs::DirEntry| -> u64 {
            let text = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let counts = text.lines().filter(|line| line.contains("_ctxt_switches:"));
            counts
                .map(|line| line.split('\t').nth(1).unwrap().parse::<u64>().unwrap())
                .sum()
        };
        tasks.map(|task| count(task.unwrap())).sum()
    };
    let mut before = woken();
    // A second without a single turn of the processor, however long the start takes to settle.
    until(
        || {
            std::thread::sleep(Duration::from_secs(1));
            let now = woken();
            std::mem::replace(&mut before, now) == now
        },
        |quiet| *quiet,
    );
    // What it shares with other processes, or could, is the program itself. Pages of that which were just
    // written count as private and dirty, until they are on the disk; they are not its memory either.
    let rollup = fs::read_to_string(format!("/proc/{monitor}/smaps_rollup")).unwrap();
    let private: u64 = rollup
        .lines()
        .filter(|line| line.starts_with("Anonymous:"))
        .map(|line| {
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum();
    assert!(private < 3 << 10, "{private} KiB of its own:\n{rollup}");
    told(&env, &["rm", "-f", "web"]);
}
