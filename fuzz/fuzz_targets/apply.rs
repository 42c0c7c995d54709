//! Any archive is unpacked or refused, as a layer and as `ADD` does it; what lies outside stays as it
//! was, what is published hashes to its name, and nothing unfinished is left.

#![no_main]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rbuild_cache::{
    DiffId, Digest, Durability, ExtractOptions, Limits, PruneOptions, Store, StoreOptions, extract,
};

struct World {
    directory: PathBuf,
    store: Store,
    canary: Vec<(u64, u32, i64, i64, u64)>,
}

/// One world for all inputs, in a directory that is told apart by the process.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let directory = std::env::temp_dir().join(format!("rbuild-fuzz-{}", std::process::id()));
        let outside = directory.join("outside");
        fs::create_dir_all(outside.join("canary_dir")).expect("a directory");
        fs::write(outside.join("canary"), "tweet").expect("a file");
        let options = StoreOptions {
            durability: Durability::None,
            ..StoreOptions::default()
        };
        let store = Store::open(&directory.join("store"), &options).expect("a store");
        let canary = look(&outside);
        World {
            directory,
            store,
            canary,
        }
    })
}

fn look(outside: &Path) -> Vec<(u64, u32, i64, i64, u64)> {
    ["", "canary", "canary_dir"]
        .iter()
        .map(|name| {
            let found = fs::symlink_metadata(outside.join(name)).expect("the canary lives");
            (
                found.ino(),
                found.mode(),
                found.mtime(),
                found.mtime_nsec(),
                found.nlink(),
            )
        })
        .collect()
}

/// Makes the checksum of every header right, so that inputs get beyond it.
fn with_checksums(input: &[u8]) -> Vec<u8> {
    let mut tar = input.to_vec();
    let mut at = 0;
    while let Some(header) = tar.get_mut(at..at + 512) {
        at += 512;
        if header.iter().all(|&byte| byte == 0) {
            continue;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        header[154] = 0;
        let size = header[124..136]
            .iter()
            .filter(|byte| (b'0'..=b'7').contains(byte))
            .fold(0_usize, |size, digit| {
                (size << 3 | usize::from(digit - b'0')) & 0xffff_ffff
            });
        at += size.next_multiple_of(512);
    }
    tar
}

fuzz_target!(|input: &[u8]| {
    let world = world();
    let tar = with_checksums(input);
    let limits = Limits {
        entries: 1000,
        unpacked_bytes: 1 << 20,
        ..Limits::default()
    };

    let plain = DiffId::from_digest(Digest::of(&tar));
    let blob = world.store.put_blob(&tar).expect("a blob");
    if world
        .store
        .unpack_over(&blob.digest, &plain, &[], &limits)
        .is_ok()
    {
        let report = world.store.fsck(false).expect("a check");
        assert_eq!(report.problems, Vec::<String>::new());
    }

    let upper = world.directory.join("upper");
    fs::create_dir_all(upper.join("etc")).expect("a directory");
    for (name, target) in [("link", "etc"), ("out", "/"), ("up", "../../outside")] {
        symlink(target, upper.join(name)).expect("a symlink");
    }
    let options = ExtractOptions {
        view: None,
        upper: &upper,
        into: Path::new("/link"),
        chown: None,
        limits,
    };
    // Refused or done: both are fine.
    let _ = extract(&mut tar.as_slice(), &options);
    fs::remove_dir_all(&upper).expect("what was unpacked can be removed");

    assert_eq!(look(&world.directory.join("outside")), world.canary);
    world.store.release_published();
    let all = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    world.store.prune(&all).expect("nothing is in the way");
    for name in ["tmp", "trees"] {
        let left = fs::read_dir(world.store.root().join(name)).expect("a directory");
        assert_eq!(left.count(), 0, "{name}");
    }
});
