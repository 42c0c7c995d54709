//! Attacks that other engines have fallen for, each named by its number, against the real binary.
//!
//! The canary is a directory outside every root; it must be the same afterwards. What stands elsewhere:
//! CVE-2020-15157 (credentials for another host) and CVE-2024-23650 (malformed answers) in `registry`,
//! CVE-2026-33747 (names as paths) in the store's unit tests, bombs in `bad_input` and the store's,
//! CVE-2022-39253 and CVE-2026-33748 (git) in `remote`, log injection in the units of `src/ui`. CVE-2026-39822
//! (a slash at the end of a name) in the store's hostile layers. CVE-2018-15664, CVE-2019-10152, CVE-2023-0778,
//! CVE-2026-41568 and CVE-2026-42306 (`cp` and `export` while a container swaps links) in `containers::copy`.

mod archives;
mod hostile;
mod joining;
mod mounts;
mod starting;

use std::fs;
use std::path::{Path, PathBuf};

use crate::args;
use crate::support::progress::{parse, step};
use crate::support::{Outcome, TestEnv};

/// A world with something outside that nobody may touch.
struct Canary {
    env: TestEnv,
    outside: PathBuf,
    before: Vec<String>,
}

impl Canary {
    fn new() -> Self {
        let env = TestEnv::new();
        env.import_busybox();
        let outside = env.files("outside", &[("canary", "untouched"), ("inner/file", "x")]);
        let before = listing(&outside);
        Self {
            env,
            outside,
            before,
        }
    }

    /// Builds a context; the canary must be as before, whatever comes of it.
    #[track_caller]
    fn build(&self, context: &Path, flags: &[&str]) -> Outcome {
        let outcome = self
            .env
            .rbuild([
                "build",
                "--progress",
                "plain",
                "--no-cache",
                "-t",
                "hostile",
            ])
            .args(flags)
            .args(args![context])
            // Two thousand rounds of a race take a while.
            .timeout(900)
            .run();
        self.check(&outcome.text());
        outcome
    }

    /// Output lines of the last step of a Dockerfile that has to work.
    #[track_caller]
    fn lines(&self, dockerfile: &str, step_name: &str) -> Vec<String> {
        let context = self.env.dockerfile("lines", dockerfile);
        let outcome = self.build(&context, &[]).ok();
        step(&parse(&outcome.stderr), step_name).log.clone()
    }

    #[track_caller]
    fn check(&self, told: &str) {
        assert_eq!(listing(&self.outside), self.before, "{told}");
    }
}

/// Names, modes, owners, inodes and content of a directory.
fn listing(directory: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut lines: Vec<String> = walkdir::WalkDir::new(directory)
        .into_iter()
        .map(|found| {
            let found = found.unwrap();
            let meta = found.metadata().unwrap();
            let content = if meta.is_file() {
                fs::read_to_string(found.path()).unwrap()
            } else {
                String::new()
            };
            format!(
                "{} {:o} {}:{} {} {content}",
                found.path().display(),
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.ino()
            )
        })
        .collect();
    lines.sort();
    lines
}
