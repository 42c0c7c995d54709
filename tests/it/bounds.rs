//! Bounds of the store: kept by builds without being asked, and by `prune` when asked.

use std::fs;
use std::path::PathBuf;

use crate::args;
use crate::support::disk::{Disk, Kind};
use crate::support::process::Invocation;
use crate::support::progress::ran_and_cached;
use crate::support::random::Random;
use crate::support::{TestEnv, base};

const MIB: u64 = 1 << 20;

/// A store on a disk of its own, of 64 MiB.
struct World {
    // Before the environment, which looks for what is left.
    disk: Disk,
    env: TestEnv,
}

impl World {
    fn new() -> World {
        let env = TestEnv::new();
        let disk = Disk::new(&env, Kind::Tmpfs, 64 * MIB);
        let world = World { disk, env };
        world
            .rbuild(args!["import", base::busybox_rootfs(), "busybox"])
            .run()
            .ok();
        world
    }

    fn rbuild<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        let invocation = self.disk.rbuild(&self.env, args);
        invocation.env("RBUILD_RESERVED_SPACE", "0")
    }

    /// A context whose build makes a layer of 3 MiB.
    fn context(&self, number: u64) -> PathBuf {
        let text =
            format!("FROM busybox\nCOPY data /\nRUN ls -l /data >/list && echo {number} >/n\n");
        let context = self.env.dockerfile(&format!("c{number}"), &text);
        fs::write(
            context.join("data"),
            Random::new(number).bytes(3 * MIB as usize),
        )
        .unwrap();
        context
    }

    fn build(&self, number: u64) -> Invocation {
        let flags = ["--progress", "plain", "-o", "type=cacheonly"];
        self.rbuild(flags).arg(self.context(number))
    }

    /// Bytes of the store, as `rbuild du` adds them up.
    fn used(&self) -> u64 {
        let out = self
            .rbuild(["du", "-v", "--format", "{{.Kind}}"])
            .run()
            .ok()
            .out();
        assert!(out.contains("layer"), "{out}");
        let directory = self.disk.seen("store");
        ["blobs", "trees", "mounts"]
            .iter()
            .flat_map(|name| walkdir::WalkDir::new(directory.join(name)))
            .map(|found| found.unwrap().metadata().unwrap())
            .filter(fs::Metadata::is_file)
            .map(|found| found.len())
            .sum()
    }

    fn is_cached(&self, number: u64) -> bool {
        // What is asked does not remove anything.
        let outcome = self
            .build(number)
            .env("RBUILD_MAX_USED_SPACE", "0")
            .run()
            .ok();
        ran_and_cached(&outcome.stderr).0.is_empty()
    }
}

#[test]
fn builds_keep_the_store_within_its_bounds() {
    let world = World::new();
    let kept = world.context(100);
    world.rbuild(args!["-t", "kept", kept]).run().ok();
    for number in 0..6 {
        let outcome = world
            .build(number)
            .env("RBUILD_MAX_USED_SPACE", "14MB")
            .run()
            .ok();
        assert!(
            !outcome.stderr.contains("over its bounds"),
            "{}",
            outcome.stderr
        );
        let used = world.used();
        assert!(used <= 14 * MIB, "after build {number}: {used}");
    }
    assert!(world.is_cached(5), "what was used last stays");
    assert!(world.is_cached(100), "what a tag needs stays");
    assert!(!world.is_cached(0), "what was used longest ago goes");
    let output = world.rbuild(["run", "--rm", "kept", "cat", "/list"]).run();
    assert!(output.ok().out().contains(&(3 * MIB).to_string()));
    world.rbuild(["fsck"]).run().ok();
}

#[test]
fn a_build_that_needs_more_is_told_and_goes_on() {
    let world = World::new();
    let outcome = world
        .build(1)
        .env("RBUILD_MAX_USED_SPACE", "3MB")
        .run()
        .ok();
    assert!(
        outcome.stderr.contains("over its bounds"),
        "{}",
        outcome.stderr
    );
    assert_eq!(ran_and_cached(&outcome.stderr).0.len(), 2);
    let outcome = world.build(2).env("RBUILD_MAX_USED_SPACE", "much").run();
    outcome.fails_with("RBUILD_MAX_USED_SPACE=much");
}

#[test]
fn builds_leave_space_for_others() {
    let world = World::new();
    for number in 0..4 {
        world.build(number).run().ok();
    }
    // Others take space, and want more.
    world.disk.leave(10 * MIB);
    world
        .build(4)
        .env("RBUILD_MIN_FREE_SPACE", "12MB")
        .run()
        .ok();
    assert!(world.disk.free() >= 12 * MIB, "{}", world.disk.free());
    world.disk.make_room();
    world.rbuild(["fsck"]).run().ok();
}

#[test]
fn prune_keeps_what_it_is_told_to_keep() {
    let world = World::new();
    for number in 0..6 {
        world.build(number).run().ok();
    }
    let before = world.used();
    for (flags, most) in [
        (["--max-used-space", "16MB", "--filter", "until=1h"], before),
        (
            ["--max-used-space", "16MB", "--reserved-space", "0"],
            16 * MIB,
        ),
        (
            ["--max-used-space", "1MB", "--reserved-space", "7MB"],
            12 * MIB,
        ),
    ] {
        world
            .rbuild(["builder", "prune", "-f"])
            .args(flags)
            .run()
            .ok();
        let used = world.used();
        assert!(used <= most && used + 4 * MIB > most, "{flags:?}: {used}");
    }
    let free = world.disk.free() + 2 * MIB;
    let flag = format!("--min-free-space={free}");
    world.rbuild(["prune", "-f", &flag]).run().ok();
    assert!(world.disk.free() >= free);
    assert!(world.is_cached(5));
    world
        .rbuild(["prune", "-f", "--keep-storage", "0"])
        .run()
        .ok();
    assert!(!world.is_cached(5));
}
