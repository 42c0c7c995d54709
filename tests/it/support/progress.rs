//! Reads the plain progress that a build prints.

/// One step as the plain progress tells it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Step {
    pub(crate) number: u32,
    /// For example `[build 2/7] RUN make`.
    pub(crate) title: String,
    /// Output lines of the command, without the time before them.
    pub(crate) log: Vec<String>,
    pub(crate) cached: bool,
    pub(crate) done: bool,
    /// Seconds it took, as its `DONE` line says.
    pub(crate) seconds: f64,
    /// Why it was not found in the cache.
    pub(crate) miss: Option<String>,
    pub(crate) error: Option<String>,
}

impl Step {
    /// Whether it is a step of the Dockerfile, as opposed to loading and exporting.
    pub(crate) fn is_instruction(&self) -> bool {
        self.title.starts_with('[')
            && !self.title.starts_with("[internal]")
            && !self.title.starts_with("[context ")
    }

    /// Whether it is a `FROM` line, which may be there or not.
    pub(crate) fn is_from(&self) -> bool {
        self.title
            .split_once("] ")
            .is_some_and(|(_, text)| text.starts_with("FROM "))
    }
}

/// All steps, by number.
pub(crate) fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' ')) else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        match steps.iter_mut().find(|step| step.number == number) {
            None => steps.push(Step {
                number,
                title: rest.to_owned(),
                ..Step::default()
            }),
            Some(step) => step.take(rest),
        }
    }
    steps.sort_by_key(|step| step.number);
    steps
}

impl Step {
    fn take(&mut self, rest: &str) {
        if rest == "CACHED" {
            self.cached = true;
        } else if let Some(seconds) = rest.strip_prefix("DONE ") {
            self.done = true;
            self.seconds = seconds.trim_end_matches('s').parse().unwrap();
        } else if let Some(reason) = rest.strip_prefix("miss: ") {
            let (_, reason) = reason
                .split_once(" — ")
                .expect("a miss names its instruction");
            self.miss = Some(reason.to_owned());
        } else if let Some(error) = rest.strip_prefix("ERROR: ") {
            self.error = Some(error.to_owned());
        } else if let Some(text) = output_line(rest) {
            self.log.push(text.to_owned());
        }
    }
}

/// `0.123 text` as `text`.
fn output_line(rest: &str) -> Option<&str> {
    let (seconds, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let (whole, fraction) = seconds.split_once('.')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    (digits(whole) && digits(fraction) && fraction.len() == 3).then_some(text)
}

/// The warnings listed after the build, as `Rule: message (line N)`.
pub(crate) fn warnings(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix(" - "))
        .map(str::to_owned)
        .collect()
}

/// The step whose title contains `part`.
#[track_caller]
pub(crate) fn step<'a>(steps: &'a [Step], part: &str) -> &'a Step {
    let mut found = steps.iter().filter(|step| step.title.contains(part));
    match (found.next(), found.next()) {
        (Some(step), None) => step,
        (None, _) => panic!("no step {part:?} in {steps:#?}"),
        (Some(_), Some(_)) => panic!("several steps {part:?} in {steps:#?}"),
    }
}

/// Titles of the instructions that ran, and of those that were taken from the cache; `FROM`
/// lines are in neither.
pub(crate) fn ran_and_cached(text: &str) -> (Vec<String>, Vec<String>) {
    let steps = parse(text);
    let instructions = steps
        .iter()
        .filter(|step| step.is_instruction() && !step.is_from());
    let (cached, ran): (Vec<_>, Vec<_>) = instructions.partition(|step| step.cached);
    let titles = |steps: Vec<&Step>| {
        let mut titles: Vec<_> = steps.iter().map(|step| step.title.clone()).collect();
        titles.sort();
        titles
    };
    (titles(ran), titles(cached))
}
