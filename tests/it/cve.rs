//! Attacks that other engines have fallen for, each named by its number, against the real binary.
//!
//! The canary is a directory outside every root; it must be the same afterwards. The table in
//! `docs/manual/security.md` names the tests of all attacks, also of those that stand elsewhere. Beside it:
//! bombs in `bad_input` and the store's hostile layers, log injection in the units of `src/ui`,
//! CVE-2026-39822 (a slash at the end of a name) in the store's hostile layers.

mod archives;
mod hostile;
mod joining;
mod mounts;
mod starting;

use std::collections::BTreeSet;
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

/// The manual's table of attacks names every test of them, and no test that is not there.
#[test]
fn the_manual_names_the_test_of_every_attack() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = fs::read_to_string(root.join("docs/manual/security.md")).unwrap();
    let rows: Vec<&str> = manual
        .lines()
        .filter(|line| line.starts_with("| CVE-"))
        .collect();
    let named: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| {
            row.rsplit('|')
                .nth(1)
                .unwrap()
                .split('`')
                .skip(1)
                .step_by(2)
        })
        .collect();
    let mut there = BTreeSet::new();
    for place in ["tests", "cache", "registry"] {
        let files = walkdir::WalkDir::new(root.join(place)).into_iter();
        let files = files.map(Result::unwrap);
        for file in files.filter(|file| file.path().extension().is_some_and(|end| end == "rs")) {
            let text = fs::read_to_string(file.path()).unwrap();
            let functions = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("fn "));
            there.extend(functions.map(|line| line.split('(').next().unwrap().to_owned()));
        }
    }
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !there.contains(**name))
        .collect();
    assert!(missing.is_empty(), "not there: {missing:#?}");
    let attacks = there.iter().filter(|name| name.starts_with("cve_"));
    for attack in attacks {
        assert!(
            named.contains(attack.as_str()),
            "{attack} is not in the manual"
        );
        // `cve_2022_2989_cve_2022_2990_words` is about both.
        for number in attack.split("cve_").skip(1) {
            let mut words = number.split('_');
            let advisory = format!("CVE-{}-{}", words.next().unwrap(), words.next().unwrap());
            let row = rows
                .iter()
                .find(|row| row.contains(attack.as_str()))
                .unwrap();
            assert!(
                row.contains(&advisory),
                "{advisory} is not in the row of {attack}"
            );
        }
    }
}
