//! System calls that fail as on a bad or full disk, or with a used-up quota: the command ends with
//! an error or does its work, and the store is sound afterwards.
//!
//! `strace` makes the nth call of a kind fail in the shipped binary. `RBUILD_FAULTS` sets how many
//! faults are tried (300 is the long form), `RBUILD_SEED` the first one; a failure names its seed.

use std::fs;

use crate::args;
use crate::support::disk::{Disk, Kind};
use crate::support::process::with_path;
use crate::support::random::{Random, setting};
use crate::support::registry::Registry;
use crate::support::{TestEnv, base, needs};

/// Faults of an ordinary test run.
const USUAL: u64 = 24;

/// Calls that write, in the names of `strace`.
const CALLS: [&str; 15] = [
    "write",
    "pwrite64",
    "writev",
    "ftruncate",
    "fsync,fdatasync",
    "syncfs",
    "sync_file_range",
    "rename,renameat,renameat2",
    "linkat",
    "mkdir,mkdirat",
    "openat",
    "unlink,unlinkat",
    "fchmod,fchmodat",
    "fchown,fchownat",
    "flock",
];

/// What they fail with, and a part of what the user is told.
const ERRORS: [(&str, &str); 3] = [
    ("ENOSPC", "no space left on device"),
    ("EIO", "input/output error"),
    ("EDQUOT", "quota exceeded"),
];

struct World {
    env: TestEnv,
    _registry: Registry,
    image: String,
}

impl World {
    fn new() -> World {
        let (env, registry) = (TestEnv::new(), Registry::plain());
        env.import_busybox();
        let image = registry.name("image:1");
        let context = env.dockerfile("image", "FROM busybox\nCOPY data /\nRUN echo x >/x\n");
        fs::write(context.join("data"), Random::new(3).bytes(1 << 18)).unwrap();
        env.build(&image, &context);
        env.rbuild(["push", "-q", &image]).run().ok();
        let archive = env.join("image.tar");
        env.rbuild(args!["save", "-o", archive, image]).run().ok();
        World {
            env,
            _registry: registry,
            image,
        }
    }

    /// The arguments of each command that is tried.
    fn commands(&self, round: u64) -> [Vec<std::ffi::OsString>; 5] {
        let env = &self.env;
        let text = format!("FROM busybox\nCOPY data /\nRUN echo {round} >/r; rm /data\n");
        let context = env.dockerfile("c", &text);
        fs::write(context.join("data"), Random::new(round).bytes(1 << 17)).unwrap();
        let out = with_path("type=oci,dest=", &env.join("out.tar"));
        [
            args![
                "build",
                "-t",
                "built",
                "-o",
                "type=image",
                "-o",
                out,
                context
            ]
            .to_vec(),
            args!["pull", self.image].to_vec(),
            args!["load", "-i", env.join("image.tar")].to_vec(),
            args!["prune", "-af"].to_vec(),
            args!["save", "-o", env.join("saved.tar"), "busybox"].to_vec(),
        ]
    }

    /// Tries one fault; says what came of it.
    fn try_fault(&self, round: u64) -> &'static str {
        let env = &self.env;
        let mut random = Random::new(round);
        env.rbuild(["rmi", "-f", &self.image, "built"]).run().ok();
        env.rbuild(["prune", "-af"]).run().ok();
        let command = &self.commands(round)[random.below(5)];
        let (calls, (error, words)) = (*random.of(&CALLS), *random.of(&ERRORS));
        // Early calls more often than late ones, of which there may be few.
        let most = *random.of(&[1, 2, 5, 12]);
        let which = 1 + random.below(most);
        let what = format!("seed {round}: {command:?}, {calls} number {which} fails with {error}");
        let inject = format!("inject={calls}:error={error}:when={which}");
        let log = env.join("strace.log");
        let outcome = env
            .host(needs::program("strace", "strace"))
            .args(["-f", "-qq", "-e", &format!("trace={calls}"), "-e", &inject])
            .arg("-o")
            .arg(&log)
            .arg(env!("CARGO_BIN_EXE_rbuild"))
            .args(command)
            .run();
        let log = fs::read_to_string(&log).unwrap();
        // What the kernel tells about itself lies on no disk.
        let of_disk = |line: &&str| !line.contains("\"/proc/") && !line.contains("\"/sys/");
        let mut failed = log.lines().filter(|line| line.contains("(INJECTED)"));
        let injected = failed.clone().next().is_some();
        let only_kernel = injected && !failed.any(|line| of_disk(&line));
        // It may be the message itself that cannot be written.
        let silenced = |line: &str| line.contains("write(2, ") && line.contains("(INJECTED)");
        let text = outcome.stderr.to_lowercase();
        assert!(!text.contains("this is a bug"), "{what}\n{text}");
        if outcome.code() != 0 {
            assert!(injected, "{what}\n{text}");
            let told = text.contains(words)
                || log.lines().any(silenced)
                || text.contains("disk i/o error");
            let told = told || text.contains("database or disk is full");
            assert!(told || only_kernel, "{what}\n{text}");
        }
        let after = env.rbuild(["fsck"]).run();
        assert_eq!(after.code(), 0, "{what}\n{}", after.text());
        let again = env.rbuild(command).run();
        assert_eq!(again.code(), 0, "{what}\n{}", again.text());
        match (outcome.code(), injected) {
            (0, false) => "not met",
            (0, true) => "did its work all the same",
            _ => "failed",
        }
    }
}

#[test]
fn whatever_call_fails_the_store_stays_sound() {
    let world = World::new();
    let first = setting("RBUILD_SEED", 1);
    let mut results = std::collections::BTreeMap::new();
    for round in first..first + setting("RBUILD_FAULTS", USUAL) {
        *results.entry(world.try_fault(round)).or_insert(0) += 1;
    }
    eprintln!("{results:?}");
    assert!(results.contains_key("failed"), "{results:?}");
}

#[test]
fn a_disk_that_fails_while_steps_are_flushed_ahead_gives_no_name() {
    let env = TestEnv::new();
    // Nobody else writes to it, so that every step is seen to have written much.
    let disk = Disk::new(&env, Kind::Tmpfs, 256 << 20);
    let import = args!["import", base::busybox_rootfs(), "busybox"];
    disk.rbuild(&env, import).run().ok();
    let step = "RUN dd if=/dev/zero of=/big bs=1M count=24\n";
    let context = env.dockerfile("c", &format!("FROM busybox\n{}", step.repeat(4)));
    let log = env.join("strace.log");
    let strace = needs::program("strace", "strace");
    // Calls are counted in each thread: the flush at the end is the first of its own.
    let outcome = disk
        .run(&env, &[strace.to_str().unwrap()])
        .args(["-f", "-qq", "-e", "trace=syncfs"])
        .args(["-e", "inject=syncfs:error=EIO:when=2", "-o"])
        .arg(&log)
        .arg(env!("CARGO_BIN_EXE_rbuild"))
        .args(args!["build", "-t", "built", context])
        .run();
    let log = fs::read_to_string(&log).unwrap();
    let flushes: Vec<bool> = log.lines().map(|line| line.contains("INJECTED")).collect();
    let failed = flushes.iter().filter(|injected| **injected).count();
    assert_eq!(
        (failed, flushes.get(..2)),
        (1, Some(&[false, true][..])),
        "{log}"
    );
    // What an earlier flush met is remembered, for the kernel tells it once.
    assert_ne!(outcome.code(), 0, "{}", outcome.text());
    let told = outcome.stderr.to_lowercase();
    assert!(
        told.contains("could not flush the file system of"),
        "{told}"
    );
    assert!(told.contains("input/output error"), "{told}");
    let images = disk.rbuild(&env, ["images", "-q", "built"]).run();
    assert!(images.stdout.is_empty(), "{}", images.text());
    disk.rbuild(&env, ["fsck"]).run().ok();
    let again = args!["build", "-t", "built", context];
    disk.rbuild(&env, again).run().ok();
}
