//! Builds of random Dockerfiles: what must hold for all of them.
//!
//! A seeded generator makes Dockerfiles of several stages and tells for each step which files of the
//! context it can see. `RBUILD_GENERATED` sets how many are built, `RBUILD_GENERATED_SEED` which
//! ones; a failure names its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::args;
use crate::support::TestEnv;
use crate::support::process::with_path;
use crate::support::progress::ran_and_cached;
use crate::support::random::{Random, setting};

/// Dockerfiles of an ordinary test run.
const USUAL: u64 = 6;

const FILES: [&str; 6] = ["f0", "f1", "f2", "d0/a", "d0/b", "d1/a"];

/// Names of context files.
type Seen = BTreeSet<&'static str>;

/// A path in a stage that later steps may read, and the files that its content comes from.
type Paths = BTreeMap<String, Seen>;

#[derive(Clone, Default)]
struct Step {
    text: String,
    /// In the title of no other step.
    mark: String,
    /// Files whose change makes it run again.
    sees: Seen,
}

#[derive(Clone, Default)]
struct Stage {
    name: String,
    base: Option<usize>,
    /// Other stages that it copies from.
    from: BTreeSet<usize>,
    steps: Vec<Step>,
    paths: Paths,
    /// Everything that its root file system depends on.
    root: Seen,
}

struct Generated {
    stages: Vec<Stage>,
}

impl Generated {
    fn new(random: &mut Random, seed: u64) -> Generated {
        let count = 2 + random.below(3);
        let mut stages: Vec<Stage> = Vec::new();
        for index in 0..count {
            let mut stage = Stage {
                name: format!("stage{index}"),
                ..Stage::default()
            };
            if index > 0 && random.below(3) == 0 {
                let base = random.below(index);
                stage.base = Some(base);
                stage.root.clone_from(&stages[base].root);
                stage.paths.clone_from(&stages[base].paths);
            }
            for number in 0..2 + random.below(4) {
                // The seed keeps it from being a step of another Dockerfile, which would be a hit.
                let mark = format!("/g{seed}s{index}/n{number}");
                stage.add(random, &stages, &mark);
            }
            stages.push(stage);
        }
        Generated { stages }
    }

    /// Stages that the last one needs.
    fn needed(&self) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        let mut open = vec![self.stages.len() - 1];
        while let Some(index) = open.pop() {
            if needed.insert(index) {
                let stage = &self.stages[index];
                open.extend(stage.base.iter().chain(&stage.from));
            }
        }
        needed
    }

    fn text(&self, order: &[usize]) -> String {
        let mut text = String::new();
        for index in order {
            let stage = &self.stages[*index];
            let base = stage.base.map_or("busybox", |base| &self.stages[base].name);
            writeln!(text, "FROM {base} AS {}", stage.name).unwrap();
            for step in &stage.steps {
                text.push_str(&step.text);
                text.push('\n');
            }
        }
        text
    }

    /// Another order in which every stage still comes after what it needs, and the last one last.
    fn other_order(&self, random: &mut Random) -> Vec<usize> {
        let last = self.stages.len() - 1;
        let mut order: Vec<usize> = Vec::new();
        let mut left: Vec<usize> = (0..last).collect();
        while !left.is_empty() {
            let ready: Vec<usize> = left
                .iter()
                .copied()
                .filter(|index| {
                    let stage = &self.stages[*index];
                    let mut needs = stage.base.iter().chain(&stage.from);
                    needs.all(|needed| order.contains(needed))
                })
                .collect();
            let next = *random.of(&ready);
            order.push(next);
            left.retain(|index| *index != next);
        }
        order.push(last);
        order
    }
}

impl Stage {
    fn add(&mut self, random: &mut Random, others: &[Stage], mark: &str) {
        match random.below(7) {
            0 => self.copy(FILES[random.below(FILES.len())], mark),
            1 => {
                let directory = *random.of(&["d0", "d1"]);
                let below = FILES.iter().filter(|file| file.starts_with(directory));
                let seen: Seen = below.copied().collect();
                self.layer(format!("COPY {directory} {mark}"), mark, &seen);
                for file in &seen {
                    let name = file.rsplit('/').next().unwrap();
                    let path = format!("{mark}/{name}");
                    self.paths.insert(path, Seen::from([*file]));
                }
            }
            2 if !others.is_empty() => {
                let other = random.below(others.len());
                let paths: Vec<_> = others[other].paths.iter().collect();
                if paths.is_empty() {
                    return self.run(random, mark);
                }
                let (path, seen) = *random.of(&paths);
                let text = format!("COPY --from={} {path} {mark}", others[other].name);
                self.from.insert(other);
                self.layer(text, mark, seen);
                self.paths.insert(mark.to_owned(), seen.clone());
            }
            3 => {
                let name = mark.replace('/', "_");
                let text = format!("ENV v{name}=value\nARG a{name}=default");
                self.steps.push(Step {
                    text,
                    ..Step::default()
                });
                self.run(random, mark);
            }
            4 => self.layer(format!("WORKDIR {mark}"), mark, &Seen::new()),
            _ => self.run(random, mark),
        }
    }

    fn copy(&mut self, file: &'static str, mark: &str) {
        let seen = Seen::from([file]);
        self.layer(format!("COPY {file} {mark}"), mark, &seen);
        self.paths.insert(mark.to_owned(), seen);
    }

    /// A command that writes something fixed, or what it reads from an earlier step.
    fn run(&mut self, random: &mut Random, mark: &str) {
        let directory = mark.rsplit_once('/').unwrap().0;
        let paths: Vec<_> = self.paths.iter().collect();
        let (input, seen) = if paths.is_empty() || random.below(2) == 0 {
            (format!("echo {mark}"), Seen::new())
        } else {
            let (path, seen) = *random.of(&paths);
            (format!("sed s/^/x/ {path}"), seen.clone())
        };
        let text = format!("RUN mkdir -p {directory} && {input} >{mark}");
        self.layer(text, mark, &Seen::new());
        self.paths.insert(mark.to_owned(), seen);
    }

    /// A step with a layer: it stands on all before it.
    fn layer(&mut self, text: String, mark: &str, reads: &Seen) {
        self.root.extend(reads);
        self.steps.push(Step {
            text,
            mark: mark.to_owned(),
            sees: self.root.clone(),
        });
    }
}

struct Case<'a> {
    env: &'a TestEnv,
    seed: u64,
    context: PathBuf,
}

/// ID of the image, and the marks of the steps that ran.
struct Built {
    id: String,
    ran: BTreeSet<String>,
}

impl Case<'_> {
    /// Builds with all times set to one, so that equal results have equal IDs.
    fn build(&self, generated: &Generated, order: &[usize], options: &[&str]) -> Built {
        let dockerfile = generated.text(order);
        fs::write(self.context.join("Dockerfile"), &dockerfile).unwrap();
        let ids = self.env.join(&format!("id-{}", self.seed));
        let archive = self.env.join(&format!("out-{}.tar", self.seed));
        let output = with_path("type=oci,rewrite-timestamp=true,dest=", &archive);
        let fixed = args![
            "--progress",
            "plain",
            "--build-arg",
            "SOURCE_DATE_EPOCH=1",
            "--iidfile",
            &ids,
            "-o",
            output,
            &self.context
        ];
        let outcome = self.env.rbuild(options).args(fixed).run();
        assert_eq!(
            outcome.code(),
            0,
            "seed {}: {}\n{dockerfile}",
            self.seed,
            outcome.stderr
        );
        let (titles, _) = ran_and_cached(&outcome.stderr);
        let marks = generated.stages.iter().flat_map(|stage| &stage.steps);
        let ran = marks
            .filter(|step| !step.mark.is_empty())
            .filter(|step| titles.iter().any(|title| title.ends_with(&step.text)))
            .map(|step| step.mark.clone());
        let ran: BTreeSet<String> = ran.collect();
        assert_eq!(ran.len(), titles.len(), "seed {}: {titles:#?}", self.seed);
        fs::remove_file(&archive).unwrap();
        Built {
            id: fs::read_to_string(ids).unwrap(),
            ran,
        }
    }
}

fn write_file(context: &Path, name: &str, text: &str) {
    let path = context.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn check(env: &TestEnv, seed: u64) {
    let mut random = Random::new(seed);
    let generated = Generated::new(&mut random, seed);
    let case = Case {
        env,
        seed,
        context: env.files(&format!("c{seed}"), &[]),
    };
    for file in FILES {
        write_file(&case.context, file, &format!("{file} of {seed}\n"));
    }
    let order: Vec<usize> = (0..generated.stages.len()).collect();
    let text = generated.text(&order);
    let needed = generated.needed();
    let steps = || {
        needed
            .iter()
            .flat_map(|index| &generated.stages[*index].steps)
    };
    let wanted = |sees: &dyn Fn(&Step) -> bool| -> BTreeSet<String> {
        let made = steps().filter(|step| !step.mark.is_empty() && sees(step));
        made.map(|step| step.mark.clone()).collect()
    };

    let first = case.build(&generated, &order, &[]);
    assert_eq!(first.ran, wanted(&|_| true), "seed {seed}\n{text}");
    let again = case.build(&generated, &order, &[]);
    assert_eq!(again.ran, BTreeSet::new(), "seed {seed}\n{text}");
    assert_eq!(
        again.id, first.id,
        "cached is not the same, seed {seed}\n{text}"
    );
    let one_by_one = case.build(&generated, &order, &["--no-cache", "--jobs", "1"]);
    assert_eq!(one_by_one.ran, first.ran, "seed {seed}\n{text}");
    assert_eq!(
        one_by_one.id, first.id,
        "one job gives another image, seed {seed}\n{text}"
    );
    let order = generated.other_order(&mut random);
    let moved = case.build(&generated, &order, &[]);
    assert_eq!(moved.ran, BTreeSet::new(), "seed {seed}\n{text}");
    assert_eq!(
        moved.id, first.id,
        "order {order:?} gives another image, seed {seed}\n{text}"
    );

    let file = *random.of(&FILES);
    write_file(&case.context, file, "changed\n");
    let changed = case.build(&generated, &order, &[]);
    let sees = wanted(&|step| step.sees.contains(file));
    assert_eq!(changed.ran, sees, "{file} changed, seed {seed}\n{text}");
    let uncached = case.build(&generated, &order, &["--no-cache"]);
    assert_eq!(
        uncached.id, changed.id,
        "a partly cached build gives another image, seed {seed}\n{text}"
    );
}

#[test]
fn what_holds_for_every_dockerfile_holds_for_random_ones() {
    let env = TestEnv::new();
    env.import_busybox();
    let first = setting("RBUILD_GENERATED_SEED", 1);
    for seed in first..first + setting("RBUILD_GENERATED", USUAL) {
        check(&env, seed);
    }
}
