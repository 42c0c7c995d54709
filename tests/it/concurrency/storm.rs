//! Many commands of all kinds on one store at once, pruning in between: nothing is lost.
//!
//! `RBUILD_STORM` sets for how many seconds (120 is the long form, with fifty commands at a time),
//! `RBUILD_SEED` which commands.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::args;
use crate::support::process::Invocation;
use crate::support::random::{Random, setting};
use crate::support::registry::Registry;
use crate::support::{Outcome, TestEnv};

/// Seconds of an ordinary test run.
const USUAL: u64 = 4;

/// Commands that run at the same time, in an ordinary run and in a long one.
const WORKERS: (usize, usize) = (12, 50);

/// What all workers share: a store, a registry, an image that nobody removes, and one that
/// everybody pulls and removes.
struct World {
    env: TestEnv,
    _registry: Registry,
    pulled: String,
    kept: String,
}

impl World {
    fn new() -> World {
        let (env, registry) = (TestEnv::new(), Registry::plain());
        env.import_busybox();
        let pulled = registry.name("pulled:1");
        let data = Random::new(7).bytes(1 << 20);
        for name in ["kept", &pulled] {
            let text = format!("FROM busybox\nCOPY data /\nRUN echo {name} >/name\n");
            let context = env.dockerfile("c", &text);
            fs::write(context.join("data"), &data).unwrap();
            env.build(name, &context);
        }
        env.rbuild(["push", "-q", &pulled]).run().ok();
        let kept = env.inspect("kept", "{{.Id}}");
        World {
            env,
            _registry: registry,
            pulled,
            kept,
        }
    }

    fn rbuild<const N: usize>(&self, args: [&str; N]) -> Outcome {
        patient(self.env.rbuild(args)).run().ok()
    }

    /// The image that nobody removes is whole.
    fn check_kept(&self) {
        assert_eq!(self.env.inspect("kept", "{{.Id}}"), self.kept);
        let output = self.rbuild(["run", "--rm", "kept", "sh", "-c", "wc -c </data; cat /name"]);
        assert_eq!(output.out(), format!("{}\nkept\n", 1 << 20));
    }
}

/// Fifty others may come first.
fn patient(invocation: Invocation) -> Invocation {
    invocation.timeout(300)
}

/// One user, with one image of his own.
struct Worker<'a> {
    world: &'a World,
    name: String,
    random: Random,
    context: PathBuf,
    /// What the own image says, while it is there.
    content: Option<usize>,
    done: BTreeMap<&'static str, u64>,
}

type Action<'a> = (&'static str, fn(&mut Worker<'a>));

impl<'a> Worker<'a> {
    const ACTIONS: [Action<'a>; 14] = [
        ("build", Worker::build),
        ("build without a name", Worker::build_unnamed),
        ("run", Worker::check),
        ("save, rmi, load", Worker::save_and_load),
        ("rmi", Worker::remove),
        ("tag", Worker::tag),
        ("pull", |worker| {
            drop(worker.rbuild(["pull", "-q", &worker.world.pulled]));
        }),
        ("rmi of what others pull", |worker| {
            drop(worker.rbuild(["rmi", "-f", &worker.world.pulled]));
        }),
        ("prune -a", |worker| drop(worker.rbuild(["prune", "-af"]))),
        ("prune", |worker| drop(worker.rbuild(["prune", "-f"]))),
        ("image prune", |worker| {
            drop(worker.rbuild(["image", "prune", "-f"]));
        }),
        ("images", |worker| {
            let images = worker
                .rbuild(["images", "--format", "{{.Repository}}"])
                .out();
            assert!(images.lines().any(|name| name == "kept"), "{images}");
        }),
        ("df, inspect, history", |worker| {
            worker.rbuild(["system", "df"]);
            worker.rbuild(["inspect", "kept"]);
            worker.rbuild(["history", "kept"]);
        }),
        ("fsck", |worker| drop(worker.rbuild(["fsck"]))),
    ];

    fn new(world: &'a World, number: usize, seed: u64) -> Worker<'a> {
        let name = format!("own-{number}");
        Worker {
            world,
            context: world.env.files(&name, &[]),
            name,
            random: Random::new(seed * 1000 + number as u64),
            content: None,
            done: BTreeMap::new(),
        }
    }

    fn rbuild<const N: usize>(&self, args: [&str; N]) -> Outcome {
        self.world.rbuild(args)
    }

    /// Does what comes until the time is over.
    fn work(&mut self, until: Instant) {
        while Instant::now() < until {
            let (what, action) = Self::ACTIONS[self.random.below(Self::ACTIONS.len())];
            action(self);
            *self.done.entry(what).or_default() += 1;
        }
    }

    fn write_context(&mut self) -> usize {
        let content = self.random.below(1_000_000);
        let text = format!(
            "FROM busybox AS first\nRUN echo shared >/shared\nRUN echo {content} >/first\n\
             FROM busybox\nCOPY --from=first /shared /first /\nCOPY data /\nRUN mv /first /own\n"
        );
        fs::write(self.context.join("Dockerfile"), text).unwrap();
        fs::write(self.context.join("data"), self.random.bytes(1 << 14)).unwrap();
        content
    }

    fn build(&mut self) {
        let content = self.write_context();
        let args = args!["build", "-q", "-t", self.name, self.context];
        patient(self.world.env.rbuild(args)).run().ok();
        self.content = Some(content);
    }

    fn build_unnamed(&mut self) {
        self.write_context();
        let args = args!["build", "-q", self.context];
        patient(self.world.env.rbuild(args)).run().ok();
    }

    fn check(&mut self) {
        if let Some(content) = self.content {
            let output = self.rbuild(["run", "--rm", &self.name, "cat", "/own", "/shared"]);
            assert_eq!(
                output.out(),
                format!("{content}\nshared\n"),
                "{}",
                self.name
            );
        }
    }

    fn save_and_load(&mut self) {
        if self.content.is_some() {
            let archive = self.world.env.join(&format!("{}.tar", self.name));
            let save = args!["save", "-o", archive, self.name];
            patient(self.world.env.rbuild(save)).run().ok();
            self.rbuild(["rmi", &self.name]);
            let load = args!["load", "-q", "-i", archive];
            patient(self.world.env.rbuild(load)).run().ok();
            self.check();
        }
    }

    fn tag(&mut self) {
        if self.content.is_some() {
            let other = format!("{}:other", self.name);
            self.rbuild(["tag", &self.name, &other]);
            self.rbuild(["rmi", &self.name]);
            self.rbuild(["tag", &other, &self.name]);
            self.rbuild(["rmi", &other]);
        }
    }

    fn remove(&mut self) {
        if self.content.take().is_some() {
            self.rbuild(["rmi", &self.name]);
        }
    }
}

#[test]
fn many_commands_at_once_with_pruning_in_between_lose_nothing() {
    let (seconds, seed) = (setting("RBUILD_STORM", USUAL), setting("RBUILD_SEED", 1));
    let count = if seconds > 60 { WORKERS.1 } else { WORKERS.0 };
    let world = World::new();
    let mut workers: Vec<_> = (0..count).map(|n| Worker::new(&world, n, seed)).collect();
    let until = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        for worker in &mut workers {
            scope.spawn(move || worker.work(until));
        }
    });
    let mut done = BTreeMap::new();
    for worker in &workers {
        for (what, count) in &worker.done {
            *done.entry(*what).or_insert(0) += count;
        }
    }
    eprintln!("seed {seed}, {count} at once for {seconds} s: {done:?}");
    world.env.assert_sound_store();
    for prune in [false, true] {
        if prune {
            world.rbuild(["prune", "-af"]);
            world.env.assert_sound_store();
        }
        world.check_kept();
        for worker in &mut workers {
            worker.check();
        }
    }
}
