//! What a change does to a step's place in the cache, rule by rule.
//!
//! The rules are the cache cases observed on BuildKit (`cache_cases` in
//! `fixtures/cases/dockerfile-cases.json`, which has their titles and results). Each builds twice
//! with one change between and looks whether a step was taken from the cache. Where rbuild knows a
//! step by content it may hit where BuildKit runs it again; those rules say so.

mod rules;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::args;
use crate::support::TestEnv;
use crate::support::progress::parse;

/// Two builds that differ in one thing.
struct Rule {
    /// Number of the observed case.
    id: &'static str,
    /// Dockerfile of the first build, and of the second unless [`then`](Self::then) is set. `ID`
    /// stands for the case's number, so that no case finds the steps of another.
    dockerfile: &'static str,
    then: Option<&'static str>,
    files: &'static [(&'static str, &'static str)],
    /// Changes the context between the builds.
    change: Option<fn(&Path)>,
    /// Options of the first and of the second build.
    options: [&'static [&'static str]; 2],
    /// Why rbuild hits where BuildKit misses.
    better: Option<&'static str>,
}

impl Rule {
    const fn new(id: &'static str, dockerfile: &'static str) -> Self {
        Self {
            id,
            dockerfile,
            then: None,
            files: FILES,
            change: None,
            options: [&[], &[]],
            better: None,
        }
    }

    const fn then(mut self, dockerfile: &'static str) -> Self {
        self.then = Some(dockerfile);
        self
    }

    const fn files(mut self, files: &'static [(&'static str, &'static str)]) -> Self {
        self.files = files;
        self
    }

    const fn change(mut self, change: fn(&Path)) -> Self {
        self.change = Some(change);
        self
    }

    const fn options(
        mut self,
        first: &'static [&'static str],
        second: &'static [&'static str],
    ) -> Self {
        self.options = [first, second];
        self
    }

    const fn better(mut self, why: &'static str) -> Self {
        self.better = Some(why);
        self
    }
}

const FILES: &[(&str, &str)] = &[
    ("a", "A"),
    ("b", "B"),
    ("d/x", "X"),
    ("d/y/z", "Z"),
    (".dockerignore", "ignored\n"),
];

#[test]
fn changes_hit_and_miss_as_observed() {
    let env = TestEnv::new();
    env.import_busybox();
    let rules = rules::rules();
    let observed = observed();
    let ids: Vec<_> = rules.iter().map(|rule| rule.id).collect();
    assert_eq!(
        ids,
        observed.keys().collect::<Vec<_>>(),
        "one rule a case, in order"
    );
    let next = AtomicUsize::new(0);
    let report = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(rule) = rules.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let case = &observed[rule.id];
                    if let Err(difference) = judge(&env, rule, case) {
                        let title = &case["title"];
                        report
                            .lock()
                            .unwrap()
                            .push(format!("{} {title}: {difference}", rule.id));
                    }
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap();
    report.sort();
    assert!(
        report.is_empty(),
        "{} of {}:\n{}",
        report.len(),
        rules.len(),
        report.join("\n")
    );
}

fn observed() -> BTreeMap<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases/dockerfile-cases.json");
    let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = document["cache_cases"].as_object().unwrap();
    cases
        .iter()
        .map(|(id, case)| (id.clone(), case.clone()))
        .collect()
}

fn judge(env: &TestEnv, rule: &Rule, case: &Value) -> Result<(), String> {
    let context = env.files(rule.id, &[]);
    for (name, text) in rule.files {
        let path = context.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Content of its own, too: no rule takes part in the copies of another.
        let own = if *name == ".dockerignore" {
            ""
        } else {
            rule.id
        };
        std::fs::write(path, format!("{text}{own}")).unwrap();
    }
    let build = |dockerfile: &str, options: &[&str]| {
        let text = dockerfile.replace("ID", rule.id);
        std::fs::write(context.join("Dockerfile"), text).unwrap();
        let options = options
            .iter()
            .map(|o| o.replace("CONTEXT", context.to_str().unwrap()));
        let outcome = env
            .rbuild(["build", "--progress", "plain"])
            .args(options)
            .args(args![&context])
            .run();
        if outcome.code() == 0 {
            Ok(parse(&outcome.stderr))
        } else {
            Err(outcome.stderr)
        }
    };
    build(rule.dockerfile, rule.options[0])?;
    if let Some(change) = rule.change {
        change(&context);
    }
    let steps = build(rule.then.unwrap_or(rule.dockerfile), rule.options[1])?;
    // The record's step begins as the title's text behind `[…] `; numbers in it are its own.
    let wanted = case["step"].as_str().unwrap();
    let wanted = wanted
        .split_once(" 17")
        .map_or(wanted, |(before, _)| before);
    let texts = |step: &&crate::support::progress::Step| {
        step.title
            .split_once("] ")
            .is_some_and(|(_, text)| text.starts_with(wanted))
    };
    let step = steps
        .iter()
        .rfind(texts)
        .ok_or_else(|| format!("no step {wanted:?}: {steps:#?}"))?;
    let observed = case["cached"].as_bool().unwrap();
    let want = observed || rule.better.is_some();
    if rule.better.is_some() && observed {
        return Err("is a hit with BuildKit, too".to_owned());
    }
    let told = |cached: bool| if cached { "hit" } else { "miss" };
    if step.cached == want {
        Ok(())
    } else {
        Err(format!(
            "want a {}, got a {} ({:?})",
            told(want),
            told(step.cached),
            step.miss
        ))
    }
}
