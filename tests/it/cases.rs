//! The build cases that were observed on BuildKit, over the real binary.
//!
//! `fixtures/cases/dockerfile-cases.json` holds inputs and results. A case fails if anything
//! differs: config, history, file trees, layers, error texts and their place, warnings, step
//! names, output of commands, times. Known failures stand in
//! `fixtures/cases/expected-failures.txt`, each with its reason; the list must be exact.

mod compare;
mod data;
mod matching;
mod remote;
mod setup;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::TestEnv;
use data::Case;

/// Fewest cases that must pass in everything compared. Raise it when more do; never lower it.
const FLOOR: usize = 572;
/// Fewest cases that must pass when texts for people and times are not compared.
const LOOSE_FLOOR: usize = 586;

/// What differed in one case; empty lists mean that it passed.
struct Verdict {
    loose: Vec<String>,
    strict: Vec<String>,
}

#[test]
fn build_cases_give_what_buildkit_gives() {
    let env = TestEnv::new();
    let all = data::load();
    // For work on one of them: RBUILD_TEST_CASES="K07 M" runs K07 and the group M.
    let only = std::env::var("RBUILD_TEST_CASES").ok();
    let selected = |case: &&Case| only.as_ref().is_none_or(|only| is_selected(only, &case.id));
    let cases: Vec<_> = all.iter().filter(selected).collect();
    let verdicts = judge_all(&env, &cases);
    let passed = verdicts
        .values()
        .filter(|v| v.loose.is_empty() && v.strict.is_empty())
        .count();
    let loose = verdicts.values().filter(|v| v.loose.is_empty()).count();
    let expected = expectations("expected-failures.txt");
    let mut report = String::new();
    for case in &cases {
        let verdict = &verdicts[&case.id];
        let failed = !verdict.loose.is_empty() || !verdict.strict.is_empty();
        if failed != expected.contains_key(&case.id) {
            report.push_str(&complaint(case, verdict, failed));
        }
    }
    // Not through `print!`: the counts are to be seen when the test passes, too.
    let counts = format!(
        "build cases: {passed} of {} pass, {loose} without texts and times, {} are known to fail\n",
        cases.len(),
        expected.len()
    );
    std::io::stderr().write_all(counts.as_bytes()).unwrap();
    assert!(report.is_empty(), "{counts}{report}");
    if only.is_none() {
        assert!(
            passed >= FLOOR && loose >= LOOSE_FLOOR,
            "{counts}fewer than ever before"
        );
        for id in expected.keys() {
            assert!(
                verdicts.contains_key(id),
                "expected-failures.txt names {id}: no such case"
            );
        }
    }
}

fn is_selected(only: &str, id: &str) -> bool {
    only.split_whitespace().any(|word| {
        word == id || (word.bytes().all(|b| b.is_ascii_alphabetic()) && id.starts_with(word))
    })
}

fn complaint(case: &Case, verdict: &Verdict, failed: bool) -> String {
    if !failed {
        return format!(
            "\n{} passes now: remove it from expected-failures.txt\n",
            case.id
        );
    }
    let mut text = format!("\n{} {}\n", case.id, case.title);
    for difference in verdict.loose.iter().chain(&verdict.strict) {
        let _ = writeln!(text, "    {difference}");
    }
    text
}

/// Runs the cases on all processors.
fn judge_all(env: &TestEnv, cases: &[&Case]) -> BTreeMap<String, Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = judge(env, case);
                    verdicts.lock().unwrap().insert(case.id.clone(), verdict);
                }
            });
        }
    });
    verdicts.into_inner().unwrap()
}

fn judge(env: &TestEnv, case: &Case) -> Verdict {
    // A panic is one case's failure, not the end of all: a reader found a malformed image, say.
    let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let run = setup::run(env, case, true);
        let mut strict = compare::strict(case, &run);
        let asks_attestation = case.opt.keys().any(|key| key.starts_with("attest:"));
        let loose_run = if asks_attestation {
            // The reference runner leaves this wish out.
            strict.extend(compare::loose(case, &run));
            setup::run(env, case, false)
        } else {
            run
        };
        Verdict {
            loose: compare::loose(case, &loose_run),
            strict,
        }
    }));
    judged.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        let text = if text.is_empty() {
            "panicked (see above)".to_owned()
        } else {
            text
        };
        Verdict {
            loose: vec![text],
            strict: Vec::new(),
        }
    })
}

/// Ids and reasons of a list of known failures.
fn expectations(file: &str) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/cases")
        .join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (id, reason) = line
                .split_once('\t')
                .unwrap_or_else(|| panic!("{file}: want `ID<tab>REASON`, got {line:?}"));
            assert!(!reason.trim().is_empty(), "{file}: {id} has no reason");
            (id.to_owned(), reason.to_owned())
        })
        .collect()
}
