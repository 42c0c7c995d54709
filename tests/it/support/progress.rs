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
        } else if rest.starts_with("DONE ") {
            self.done = true;
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

/// The line `N` that a step's own description says is in the log, joined.
pub(crate) fn log_of<'a>(steps: &'a [Step], title_part: &str) -> &'a [String] {
    let step = steps.iter().find(|step| step.title.contains(title_part));
    &step
        .unwrap_or_else(|| panic!("no step {title_part:?} in {steps:#?}"))
        .log
}
