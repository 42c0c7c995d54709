//! Full disks: at whatever stage the space ends, the error says what is full and how to go on, the
//! store stays sound, and what was taken is given back.
//!
//! `RBUILD_TEST_LARGE=1` tries more sizes.

use std::fs;

use crate::args;
use crate::support::disk::{Disk, Kind};
use crate::support::process::{Invocation, with_path};
use crate::support::random::{Random, is_large};
use crate::support::registry::Registry;
use crate::support::{TestEnv, base};

/// Space that is left for a command, in KiB: some of what an ordinary run tries, and the rest.
const USUAL: [u64; 7] = [0, 200, 900, 2_200, 3_500, 5_000, 7_000];
const MORE: [u64; 12] = [
    16, 64, 500, 1_200, 1_800, 2_600, 3_000, 4_200, 5_600, 6_300, 7_800, 9_000,
];

/// Bytes that the database and its log may grow by.
const BOOKKEEPING: u64 = 300 << 10;

/// A store on a small disk with one image of about 4 MiB, which a registry and an archive have too.
struct World {
    // Before the environment, which looks for what is left.
    disk: Disk,
    env: TestEnv,
    registry: Registry,
    image: String,
}

impl World {
    fn new(kind: Kind) -> World {
        let (env, registry) = (TestEnv::new(), Registry::plain());
        let disk = Disk::new(&env, kind, 40 << 20);
        let image = registry.name("image:1");
        let world = World {
            disk,
            env,
            registry,
            image,
        };
        world
            .rbuild(args!["import", base::busybox_rootfs(), "busybox"])
            .run()
            .ok();
        let context = world.context("image", "FROM busybox\nCOPY one two /\n");
        let archive = world.env.join("image.tar");
        for args in [
            args!["build", "-t", world.image, context].to_vec(),
            args!["push", "-q", world.image].to_vec(),
            args!["save", "-o", archive, world.image].to_vec(),
        ] {
            world.rbuild(args).run().ok();
        }
        world.clean();
        world
    }

    fn context(&self, name: &str, text: &str) -> std::path::PathBuf {
        let context = self.env.dockerfile(name, text);
        for (seed, file) in ["one", "two"].into_iter().enumerate() {
            let bytes = Random::new(seed as u64).bytes(1 << 20);
            fs::write(context.join(file), bytes).unwrap();
        }
        context
    }

    fn rbuild<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        self.disk.rbuild(&self.env, args)
    }

    /// Leaves nothing but the base image.
    fn clean(&self) {
        self.rbuild(["rmi", "-f", &self.image, "built", "rootfs"])
            .run()
            .ok();
        self.rbuild(["image", "prune", "-f"]).run().ok();
        self.rbuild(["prune", "-af"]).run().ok();
    }

    fn is_empty(&self, directory: &str) -> bool {
        let directory = self.disk.seen("store").join(directory);
        fs::read_dir(directory).unwrap().next().is_none()
    }

    /// Tries a command with ever more space until it succeeds: each time before, it fails well.
    fn run_out_of_space(&self, what: &str, command: &dyn Fn() -> Invocation) {
        let mut sizes = USUAL.to_vec();
        if is_large() {
            sizes.extend(MORE);
            sizes.sort_unstable();
        }
        let mut failed = 0;
        for kib in sizes {
            self.clean();
            let before = self.disk.free();
            self.disk.leave(kib << 10);
            let outcome = command().run();
            eprintln!("{what} with {kib} KiB: {}", outcome.status);
            if outcome.code() == 0 {
                self.disk.make_room();
                break;
            }
            failed += 1;
            let text = outcome.stderr.to_lowercase();
            assert_eq!(outcome.code(), 1, "{what}, {kib} KiB: {text}");
            assert!(
                text.contains("no space left on device") || text.contains("disk is full"),
                "{what}, {kib} KiB: {text}"
            );
            assert!(text.contains("rbuild prune"), "{what}, {kib} KiB: {text}");
            assert!(!text.contains("this is a bug"), "{what}, {kib} KiB: {text}");
            self.disk.make_room();
            assert!(self.is_empty("leases"), "{what}, {kib} KiB: a lease stays");
            assert!(self.is_empty("tmp"), "{what}, {kib} KiB: a draft stays");
            self.rbuild(["fsck"]).run().ok();
            self.clean();
            let lost = before.saturating_sub(self.disk.free());
            assert!(lost <= BOOKKEEPING, "{what}, {kib} KiB: {lost} bytes stay");
        }
        assert!(failed > 1, "{what} never ran out of space");
        self.clean();
        command().run().ok();
        self.rbuild(["fsck"]).run().ok();
    }
}

#[test]
fn builds_and_their_outputs() {
    for kind in [Kind::Tmpfs, Kind::Ext4] {
        let world = World::new(kind);
        let text = "FROM busybox\nCOPY one /\nRUN cat /one /one >/more\nCOPY two /\n";
        let context = world.context("built", text);
        let tar = with_path("type=oci,dest=", &world.disk.path("out.tar"));
        world.run_out_of_space(&format!("build on {kind:?}"), &|| {
            let flags = ["-t", "built", "-o", "type=image", "-o"];
            world
                .rbuild(flags)
                .arg(&tar)
                .args(args!["--progress", "plain", context])
        });
        let output = world.rbuild(["run", "--rm", "built", "wc", "-c", "/more"]);
        assert_eq!(output.run().ok().out(), format!("{} /more\n", 2 << 20));
    }
}

#[test]
fn pulls() {
    let world = World::new(Kind::Tmpfs);
    world.run_out_of_space("pull", &|| world.rbuild(["pull", &world.image]));
    let output = world.rbuild(["run", "--rm", &world.image, "wc", "-c", "/two"]);
    assert_eq!(output.run().ok().out(), format!("{} /two\n", 1 << 20));
}

#[test]
fn loads_and_imports() {
    let world = World::new(Kind::Tmpfs);
    let archive = world.env.join("image.tar");
    world.run_out_of_space("load", &|| world.rbuild(args!["load", "-i", archive]));
    world.run_out_of_space("import", &|| {
        world.rbuild(args!["import", base::busybox_rootfs(), "rootfs"])
    });
}

#[test]
fn saves_and_pushes() {
    let world = World::new(Kind::Tmpfs);
    let context = world.context("built", "FROM busybox\nCOPY one two /\n");
    let saved = world.disk.path("saved.tar");
    for (what, command) in [
        ("save", args!["save", "-o", saved, "busybox"].to_vec()),
        (
            "push",
            args![
                "build",
                "-t",
                world.registry.name("pushed:1"),
                "--push",
                context
            ]
            .to_vec(),
        ),
    ] {
        world.run_out_of_space(what, &|| world.rbuild(&command));
        // It is written whole or not at all.
        let _ = fs::remove_file(world.disk.seen("saved.tar"));
    }
}

#[test]
fn a_disk_without_a_byte_left_is_cleaned_up() {
    for kind in [Kind::Tmpfs, Kind::Ext4] {
        let world = World::new(kind);
        let context = world.context("cached", "FROM busybox\nCOPY one two /\n");
        world
            .rbuild(args!["-o", "type=cacheonly", context])
            .run()
            .ok();
        world.disk.leave(0);
        // Whatever small rest a file system keeps for small files.
        let rest = "while echo x >>\"$0\"; do :; done";
        let fill = ["sh", "-c", rest];
        let path = world.disk.path("rest");
        world.disk.run(&world.env, &fill).arg(path).run();
        assert_eq!(world.disk.free(), 0, "{kind:?}");
        let outcome = world.rbuild(["prune", "-af"]).run().ok();
        assert!(outcome.out().contains("removed layers: 1"), "{kind:?}");
        let free = world.disk.free();
        assert!(free > 2 << 20, "{kind:?}: {free}");
        world.disk.make_room();
        world.rbuild(["fsck"]).run().ok();
    }
}
