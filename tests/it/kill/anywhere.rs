//! Kills at random moments of whatever writes to a store: nothing half-made is ever seen, nothing
//! stays, and the same command then does its work.
//!
//! `RBUILD_KILLS` sets how often (200 is the long form), `RBUILD_SEED` the first moment; a failure
//! names its seed.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::args;
use crate::support::process::{Invocation, with_path};
use crate::support::random::{Random, setting};
use crate::support::registry::Registry;
use crate::support::{Outcome, TestEnv, leftovers};

/// Kills of an ordinary test run.
const USUAL: u64 = 30;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Build,
    Pull,
    Load,
    Save,
    Prune,
}

const COMMANDS: [Command; 5] = [
    Command::Build,
    Command::Pull,
    Command::Load,
    Command::Save,
    Command::Prune,
];

/// A store, a registry and an archive with the same image.
struct World {
    env: TestEnv,
    _registry: Registry,
    /// Name of the image in the registry and in the archive.
    name: String,
    id: String,
    /// Directory that outputs are written into.
    out: std::path::PathBuf,
}

impl World {
    fn new() -> World {
        let (env, registry) = (TestEnv::new(), Registry::plain());
        env.import_busybox();
        let name = registry.name("victim:1");
        let mut random = Random::new(1);
        let text = "FROM busybox\nCOPY . /data\nRUN rm /data/1 && ln /data/2 /data/3\n";
        let context = env.dockerfile("victim", text);
        for file in 1..=2 {
            fs::write(context.join(file.to_string()), random.bytes(1 << 20)).unwrap();
        }
        env.build(&name, &context);
        env.rbuild(["push", "-q", &name]).run().ok();
        let archive = env.join("victim.tar");
        env.rbuild(args!["save", "-o", archive, name]).run().ok();
        let id = env.inspect(&name, "{{.Id}}");
        let out = env.join("out");
        fs::create_dir(&out).unwrap();
        World {
            env,
            _registry: registry,
            name,
            id,
            out,
        }
    }

    /// Takes away what the command shall make.
    fn prepare(&self, command: Command, round: u64) {
        match command {
            Command::Build => {
                let text = format!(
                    "FROM busybox AS first\nCOPY . /data\nRUN echo {round} >/r && cat /data/* >/all\n\
                     FROM busybox\nCOPY --from=first /all /r /\nRUN mkdir /made && touch /made/{round}\n"
                );
                let context = self.env.dockerfile("c", &text);
                let bytes = Random::new(round).bytes(1 << 20);
                fs::write(context.join("random"), bytes).unwrap();
            }
            Command::Pull | Command::Load => {
                self.env.rbuild(["rmi", "-f", &self.name]).run().ok();
                self.env.rbuild(["prune", "-af"]).run().ok();
            }
            Command::Save => {
                let _ = fs::remove_file(self.out.join("saved.tar"));
            }
            Command::Prune => {}
        }
    }

    fn command(&self, command: Command) -> Invocation {
        let env = &self.env;
        match command {
            Command::Build => {
                let archive = with_path("type=oci,dest=", &self.out.join("built.tar"));
                let context = env.join("c");
                env.rbuild(args![
                    "-t",
                    "built",
                    "-o",
                    "type=image",
                    "-o",
                    archive,
                    context
                ])
            }
            Command::Pull => env.rbuild(["pull", &self.name]),
            Command::Load => env.rbuild(args!["load", "-i", env.join("victim.tar")]),
            Command::Save => env.rbuild(args!["save", "-o", self.out.join("saved.tar"), "busybox"]),
            Command::Prune => env.rbuild(["prune", "-af"]),
        }
    }

    /// The command has done its work.
    fn check(&self, command: Command, round: u64, outcome: &Outcome) {
        match command {
            Command::Build => {
                let script = format!("cat /r && wc -c </all && ls /made/{round}");
                let run = ["run", "--rm", "built", "sh", "-c", &script];
                let output = self.env.rbuild(run).run().ok().out();
                let size = (1 << 20) + fs::read(self.env.join("c/Dockerfile")).unwrap().len();
                assert_eq!(output, format!("{round}\n{size}\n/made/{round}\n"));
                assert_eq!(names(&self.out, "built.tar"), 1);
            }
            Command::Pull | Command::Load => {
                assert_eq!(self.env.inspect(&self.name, "{{.Id}}"), self.id);
                let run = ["run", "--rm", &self.name, "wc", "-c", "/data/3"];
                let output = self.env.rbuild(run).run().ok().out();
                assert_eq!(output, format!("{} /data/3\n", 1 << 20));
            }
            Command::Save => {
                let found = self
                    .env
                    .host("tar")
                    .args(args!["-tf", self.out.join("saved.tar")]);
                assert!(found.run().ok().out().contains("manifest.json"));
            }
            Command::Prune => {
                assert!(outcome.out().contains("Total reclaimed space"));
            }
        }
    }

    /// Nothing of what was killed is left, and what is there is sound.
    fn assert_nothing_left(&self) {
        let left = leftovers::wait_until_gone(self.env.path());
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
        self.env.assert_sound_store();
        let store = self.env.store();
        for directory in ["tmp", "leases"] {
            assert_eq!(names(&store.join(directory), ""), 0, "in {directory}");
        }
        for entry in fs::read_dir(store.join("memo")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert_eq!(name.len(), 64, "`{name}` is no memo");
        }
        for entry in fs::read_dir(store.join("locks")).unwrap() {
            let path = entry.unwrap().path();
            let lock = File::open(&path).unwrap().try_lock();
            assert!(
                !matches!(lock, Err(TryLockError::WouldBlock)),
                "{} is still locked",
                path.display()
            );
        }
        let unfinished = fs::read_dir(&self.out).unwrap();
        let unfinished: Vec<_> = unfinished
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "built.tar" && name != "saved.tar")
            .collect();
        assert!(unfinished.is_empty(), "{unfinished:?}");
    }
}

/// How many entries a directory has whose names begin with `prefix`.
fn names(directory: &Path, prefix: &str) -> usize {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with(prefix))
        .count()
}

#[test]
fn kill_9_at_random_moments_of_every_command_that_writes() {
    let world = World::new();
    let seed = setting("RBUILD_SEED", 1);
    // How long each command takes here when nobody disturbs it.
    let mut spans = COMMANDS.map(|command| {
        world.prepare(command, seed);
        world.command(command).run().ok().elapsed
    });
    let mut ended_before = 0;
    let kills = setting("RBUILD_KILLS", USUAL);
    for round in seed..seed + kills {
        let mut random = Random::new(round);
        let number = round as usize % COMMANDS.len();
        let command = COMMANDS[number];
        world.prepare(command, round);
        let micros = random.below(spans[number].as_micros() as usize);
        let mut running = world.command(command).spawn();
        // Not a wait for something: the moment of the kill is what this test varies.
        std::thread::sleep(Duration::from_micros(micros as u64));
        running.kill();
        let killed = running.wait();
        if killed.code() != 137 {
            ended_before += 1;
            // The machine was busier when the time was taken.
            spans[number] = spans[number].min(killed.elapsed);
        }
        eprintln!(
            "seed {round}: {command:?} after {micros} µs: {}",
            killed.status
        );
        world.assert_nothing_left();
        let outcome = world.command(command).run().ok();
        world.check(command, round, &outcome);
    }
    assert!(
        ended_before < kills.div_ceil(2),
        "{ended_before} of {kills} commands ended before they were killed"
    );
    world.assert_nothing_left();
}
